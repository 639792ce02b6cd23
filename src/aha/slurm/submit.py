"""Submitting a run: all of its jobs or none, once, with their ids kept in the run directory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha import launch, pipeline
from aha.errors import SlurmError
from aha.recipe import Plan
from aha.recipe.site import Site
from aha.rundir import read_object, write_json, write_text
from aha.slurm import client
from aha.slurm.jobs import FOLDER, Job, jobs_of, log_of, script_of

RECORD = "jobs.json"


@dataclass(frozen=True)
class Submitted:
    """A job that Slurm has taken."""

    part: str
    id: str
    log: str


def record_of(run_dir: str | Path) -> Path:
    """The file with the ids of a run's jobs."""
    return Path(run_dir) / FOLDER / RECORD


def recorded(run_dir: str | Path) -> list[Submitted]:
    """The jobs of the last submission of a run; none when it was never submitted."""
    jobs = (read_object(record_of(run_dir)) or {}).get("jobs", [])
    return [Submitted(**job) for job in jobs]


def submit(plan: Plan, site: Site) -> list[Submitted]:
    """Submit what is missing of a run. The first job is held until Slurm has taken the last.

    Raises SlurmError when jobs of this run are still in the queue, or when Slurm refuses one: then the others are
    taken back. Raises RunDirError when somebody works in the run directory.
    """
    launch.require_supported(plan)
    jobs = jobs_of(plan)
    if not jobs:
        return []
    _refuse_twice(Path(plan.run_dir))  # before the lock: a job of this run that starts now would find it taken
    with pipeline.opened(plan) as run:
        _refuse_twice(run.root)
        scripts = {job.part: _write(run.root, plan, job, site) for job in jobs}
        submitted: dict[str, Submitted] = {}
        try:
            for job in jobs:
                number = client.sbatch(str(scripts[job.part]), _when(job, submitted))
                submitted[job.part] = Submitted(job.part, number, str(log_of(run.root.resolve(), job.part, number)))
                _record(run.root, plan, submitted)
        except BaseException:
            if submitted:
                client.scancel(one.id for one in submitted.values())
            raise
    for job in jobs:
        if not job.waits_for and not job.follows:
            client.call("scontrol", "release", submitted[job.part].id)
    return list(submitted.values())


def cancel(run_dir: str | Path) -> list[Submitted]:
    """End what is left of a run in the queue, last job first; returns those jobs.

    Raises SlurmError when the run was never submitted.
    """
    jobs = recorded(run_dir)
    if not jobs:
        raise SlurmError(f"{run_dir} was not submitted: there is no {record_of(run_dir)}")
    left = _in_queue(jobs)
    if left:
        client.scancel(one.id for one in reversed(left))
    return left


def _in_queue(jobs: list[Submitted]) -> list[Submitted]:
    known = client.queue(job.id for job in jobs)
    return [job for job in jobs if job.id in known and not known[job.id].over]


def _refuse_twice(root: Path) -> None:
    left = _in_queue(recorded(root))
    if left:
        names = ", ".join(f"{job.part} (job {job.id})" for job in left)
        raise SlurmError(
            f"{root} is submitted already: {names}. `aha status {root}` shows them, `aha cancel {root}` ends them"
        )


def _write(root: Path, plan: Plan, job: Job, site: Site) -> Path:
    path = root / FOLDER / f"{job.part}.sh"
    write_text(path, script_of(plan, job, site))
    return path


def _when(job: Job, submitted: dict[str, Submitted]) -> list[str]:
    """When a job may start. One that waits for nothing is held for the moment, so that a refused chain never starts."""
    conditions = [f"afterok:{submitted[part].id}" for part in job.waits_for]
    conditions += [f"afterany:{submitted[part].id}" for part in job.follows]
    return [f"--dependency={','.join(conditions)}"] if conditions else ["--hold"]


def _record(root: Path, plan: Plan, submitted: dict[str, Submitted]) -> None:
    facts: dict[str, Any] = {"run": plan.name, "submitted": time.time()}
    write_json(record_of(root), facts | {"jobs": [vars(one) for one in submitted.values()]})
