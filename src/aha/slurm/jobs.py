"""From a plan to jobs and their scripts: what waits for what, which resources, and the templates of slurm/ filled in.

Nothing here talks to Slurm. A script runs the ordinary command line for one part of the run, so it locks, checks and
resumes as `aha run` does; the shell around it knows about signals and attempts, and nothing about recipes.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aha.errors import SlurmError
from aha.recipe import Plan
from aha.recipe.batch import processes_per_node
from aha.recipe.engines import engines_per_node, server_nodes
from aha.recipe.plan import BASE
from aha.recipe.site import Site

TEMPLATES = Path(__file__).resolve().parents[3] / "slurm"
FOLDER = "slurm"
"""Where a run directory keeps its scripts, their logs and the ids of its jobs."""


@dataclass(frozen=True)
class Job:
    """One job: a stage (`2-distill`) or the evaluation after one (`eval-2-distill`).

    `waits_for` has the parts that must end well before it starts; `follows` those that must only be over.
    """

    part: str
    command: tuple[str, ...]
    nodes: int
    """That do the work."""
    processes: int
    """On each node; more than one process in all is torchrun's."""
    gpus: int
    """On each node."""
    waits_for: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    servers: int = 0
    """Further nodes, which serve its rollouts."""

    @property
    def is_eval(self) -> bool:
        return self.part.startswith("eval-")


def jobs_of(plan: Plan) -> list[Job]:
    """What is missing of a run, in an order in which each job comes after those it waits for.

    A stage waits for the stage before it, and not for that stage's evaluation: evaluations run beside the next stage,
    one at a time. The evaluation of the base waits for the first stage, which is what writes the base down.
    """
    jobs: list[Job] = []
    missing = [stage for stage in plan.stages if stage.state != "skip"]
    for before, stage in zip([None, *missing], missing, strict=False):
        processes = processes_per_node(plan.recipe.hardware) if stage.world_size > 1 else 1
        jobs.append(
            Job(
                stage.directory,
                ("run", "--only", stage.name),
                stage.world_size // processes,
                processes,
                processes if plan.device == "cuda" else 0,
                waits_for=(before.directory,) if before else (),
                servers=server_nodes(plan.recipe.grpo, plan.recipe.hardware) if stage.name == "grpo" else 0,
            )
        )
    return jobs + _evaluations(plan, [job.part for job in jobs])


def _evaluations(plan: Plan, stages: list[str]) -> list[Job]:
    jobs: list[Job] = []
    for evaluation in plan.evals:
        if evaluation.state == "skip":
            continue
        after = stages[:1] if evaluation.after == BASE else [part for part in stages if part == evaluation.after]
        jobs.append(
            Job(
                f"eval-{evaluation.after}",
                ("eval", "--only", evaluation.after.partition("-")[2] or BASE),
                nodes=1,
                processes=1,
                gpus=1 if plan.device == "cuda" else 0,
                waits_for=tuple(after),
                follows=(jobs[-1].part,) if jobs else (),
            )
        )
    return jobs


# --- scripts -------------------------------------------------------------------------------------------------------


def script_of(plan: Plan, job: Job, site: Site) -> str:
    """The script that `sbatch` is given. Raises SlurmError for a folder that it cannot be told."""
    several = job.nodes * job.processes > 1
    parts = bool(job.servers and site.serving)
    options = _options(plan, site, 0 if parts else None) + (' --nodelist="$training"' if job.servers else "")
    facts = {"nodes": job.nodes, "processes": job.processes, "options": options}
    command = _command(plan, job, site, *job.command)
    work = _filled("torchrun.sh" if several else "one-process.sh", **facts, command=command)
    return _filled(
        "job.sh",
        title=_title(plan, job),
        directives="\n".join(f"#SBATCH {line}" for line in _directives(plan, job, site)),
        attempts=site.restarts + 1,
        part=f"{plan.name} {job.part}",
        site="\n".join(_prepare(site, parts)) or ": # nothing to prepare",
        servers=_servers(plan, job, site),
        work=work.rstrip("\n"),
    )


def _title(plan: Plan, job: Job) -> str:
    waits = f", when {' and '.join(job.waits_for)} has ended well" if job.waits_for else ""
    follows = f", after {' and '.join(job.follows)}" if job.follows else ""
    serve = f"; of its {job.nodes + job.servers} nodes {job.servers} (the last) for rollouts" if job.servers else ""
    return f"{plan.name}: {job.part}{waits}{follows}{serve}."


def _servers(plan: Plan, job: Job, site: Site) -> str:
    """What starts the rollout servers of a job; nothing where no node of it serves."""
    if not job.servers:
        return ""
    return _filled(
        "servers.sh",
        nodes=job.nodes,
        servers=job.servers,
        engines=engines_per_node(plan.recipe),
        wide=plan.recipe.grpo.rollout.tensor_parallel if plan.recipe.grpo else 1,
        gpus=job.gpus,
        options=_options(plan, site, 1 if site.serving else None),
        serve=_command(plan, job, site, "serve"),
    )


def log_of(run_dir: Path, part: str, job_id: str) -> Path:
    """Where a job writes what it says; all its attempts go into the same file."""
    return run_dir / FOLDER / f"{part}-{job_id}.log"


def _filled(template: str, **values: object) -> str:
    """A template with each `@{name}` replaced. A name without a value is our mistake, and a KeyError."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return re.sub(r"@\{(\w+)\}", lambda found: str(values[found[1]]), text)


def _root(plan: Plan) -> Path:
    return Path(plan.run_dir).resolve()


def _directives(plan: Plan, job: Job, site: Site) -> Iterator[str]:
    """The lines for sbatch. Nodes that serve and are of another kind are the second part of a heterogeneous job."""
    root = _root(plan)
    yield f"--job-name={shlex.quote(f'{plan.name}/{job.part}')}"
    yield f"--output={_sbatch_path(log_of(root, job.part, '%j'))}"
    yield "--open-mode=append"
    yield f"--chdir={_sbatch_path(Path.cwd())}"
    yield "--requeue"
    yield f"--signal=B:USR1@{site.notice}"
    if not (job.servers and site.serving):
        yield from _nodes(job, site, job.nodes + job.servers)
    else:
        yield from _nodes(job, site, job.nodes)
        yield "hetjob"
        yield "--requeue"
        yield from _nodes(job, site.of_servers, job.servers)


def _nodes(job: Job, site: Site, nodes: int) -> Iterator[str]:
    """What a job asks for, the site's own lines last: there, the last word counts."""
    yield f"--nodes={nodes}"
    yield "--ntasks-per-node=1"
    yield f"--cpus-per-task={site.cpus * max(1, job.gpus)}"
    if job.gpus:
        yield f"--gpus-per-node={f'{site.gpu_type}:' if site.gpu_type else ''}{job.gpus}"
    time = (site.eval_time or site.time) if job.is_eval else site.time
    for option, value in (
        ("partition", site.partition),
        ("account", site.account),
        ("qos", site.qos),
        ("time", time),
        ("mem", site.memory),
    ):
        if value is not None:
            yield f"--{option}={value}"
    yield from site.directives


def _sbatch_path(path: Path) -> str:
    text = str(path)
    if '"' in text or "\n" in text:
        raise SlurmError(f"{text!r} has a quote or a line break in it, which sbatch cannot be told")
    return f'"{text}"' if re.search(r"\s", text) else text


def _prepare(site: Site, parts: bool) -> Iterator[str]:
    """What comes before the work; `parts` of a heterogeneous job each have nodes, and a scratch folder on them."""
    if site.modules:
        yield "module purge"
        yield f"module load {' '.join(site.modules)}"
    yield "export PYTHONUNBUFFERED=1"
    for name, value in site.environment.items():
        yield f'export {name}="{value}"'
    if site.scratch:
        yield f'export TMPDIR="{site.scratch}/aha-$SLURM_JOB_ID"'
        where = "--het-group=0,1" if parts else '--nodes="$SLURM_JOB_NUM_NODES"'
        yield f'srun {where} --ntasks-per-node=1 mkdir -p "$TMPDIR"'
        for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT"):
            yield f'export {name}="$TMPDIR/{name.partition("_")[0].lower()}"'
    yield from site.setup


def _options(plan: Plan, site: Site, part: int | None) -> str:
    """What srun must hear again: since Slurm 22.05 it does not take --cpus-per-task from the job, or from its `part`."""
    if part is None:
        options = '--cpus-per-task="$SLURM_CPUS_PER_TASK"'
    else:
        options = f'--het-group={part} --cpus-per-task="$SLURM_CPUS_PER_TASK_HET_GROUP_{part}"'
    if site.container and site.container.runtime == "pyxis":
        mounts = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in _mounts(plan, site))
        options += f' --container-image="{site.container.image}" --container-mounts="{mounts}"'
        options += f" --container-workdir={shlex.quote(os.getcwd())}"
    return options


def _mounts(plan: Plan, site: Site) -> list[str]:
    """The folders that the work needs inside its container, and those of the site file."""
    assert site.container is not None
    own = [os.getcwd(), str(_root(plan)), *([site.scratch] if site.scratch else [])]
    return list(dict.fromkeys([*own, *site.container.mounts]))


def _command(plan: Plan, job: Job, site: Site, verb: str, *options: str) -> str:
    """`aha run RUN/recipe.yaml --only cpt`: the recipe as it was when it was submitted, whatever becomes of the file."""
    root = _root(plan)
    words = [verb, str(root / "recipe.yaml"), "--run-dir", str(root), *options]
    aha = site.command or ("aha" if site.container else str(Path(sys.executable).with_name("aha")))
    inside = ""
    if site.container and site.container.runtime == "apptainer":
        binds = " ".join(f'--bind "{mount}"' for mount in _mounts(plan, site))
        inside = f'apptainer exec {"--nv " if job.gpus else ""}{binds} --pwd {shlex.quote(os.getcwd())} "{site.container.image}" '
    return f'{inside}"{aha}" {shlex.join(words)}'
