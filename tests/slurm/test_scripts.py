"""From a plan and a site file to scripts: what waits for what, what a cluster is told, and what a shell makes of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from nano import ROOT
from slurm.desk import SMALL, THEN

from aha.errors import RecipeError, SlurmError
from aha.recipe import Plan, load_recipe, make_plan
from aha.recipe.site import Site, load_site
from aha.slurm import Job, jobs_of, script_of

SITES = sorted((ROOT / "slurm").glob("*.yaml"))
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def plan_of(folder: Path, text: str = SMALL + THEN, *overrides: str) -> Plan:
    path = folder / "small.yaml"
    path.write_text(text)
    return make_plan(load_recipe(path, overrides), folder / "runs" / "small", str(path))


def checked(script: str, folder: Path) -> None:
    """bash can read it, and shellcheck, where there is one, has nothing to say."""
    path = folder / "script.sh"
    path.write_text(script)
    quoted_on_purpose = "--exclude=SC2016"  # a folder may be called $HOME
    tools = [["bash", "-n"], ["shellcheck", "--shell=bash", quoted_on_purpose]]
    for tool in tools[: 1 + bool(shutil.which("shellcheck"))]:
        done = subprocess.run([*tool, str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr + script


# --- what waits for what -------------------------------------------------------------------------------------------


def chain(plan: Plan) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    return {job.part: (job.waits_for, job.follows) for job in jobs_of(plan)}


def test_evaluations_wait_for_their_stage_and_for_each_other(tmp_path: Path) -> None:
    assert chain(plan_of(tmp_path, SMALL + THEN, "eval.when=stage")) == {
        "1-cpt": ((), ()),
        "2-distill": (("1-cpt",), ()),
        "eval-1-cpt": (("1-cpt",), ()),
        "eval-2-distill": (("2-distill",), ("eval-1-cpt",)),
    }


def test_the_base_is_evaluated_once_it_is_written_down() -> None:
    plan = make_plan(load_recipe(ROOT / "recipes" / "qwen2.5-1.5b-1gpu.yaml", ["eval.when=stage"]), "runs/x", "x.yaml")
    first = plan.stages[0].directory
    assert chain(plan)["eval-base"] == ((first,), ())
    assert chain(plan)[f"eval-{first}"] == ((first,), ("eval-base",))


def test_what_is_finished_is_not_submitted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finished = plan.model_copy(update={"stages": [plan.stages[0].model_copy(update={"state": "skip"}), plan.stages[1]]})
    assert chain(finished) == {"2-distill": ((), ()), "eval-2-distill": (("2-distill",), ())}


# --- scripts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES, ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_on_every_example_site(recipe: Path, site: Path, tmp_path: Path) -> None:
    plan = make_plan(load_recipe(recipe), tmp_path / "a run", str(recipe))
    kinds = {(job.is_eval, job.nodes * job.processes > 1): job for job in jobs_of(plan)}
    for job in kinds.values():
        script = script_of(plan, job, load_site(site))
        assert "@{" not in script
        checked(script, tmp_path)


def directives(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")}


def test_a_site_says_its_part(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    site = Site.model_validate(
        {
            "account": "nlp",
            "qos": "high",
            "time": "1-00:00:00",
            "eval_time": "30",
            "memory": "64G",
            "cpus": 2,
            "notice": 120,
            "restarts": 4,
            "modules": ["gcc/12", "cuda"],
            "environment": {"HF_HOME": "/scratch/$USER/hf"},
            "setup": ["ulimit -n 4096"],
            "directives": ["--constraint=fast"],
        }
    )
    stage, evaluation = (script_of(plan, job, site) for job in (jobs_of(plan)[0], jobs_of(plan)[-1]))
    assert {"--account=nlp", "--qos=high", "--mem=64G", "--constraint=fast", "--signal=B:USR1@120"} <= directives(stage)
    assert "--time=1-00:00:00" in directives(stage) and "--time=30" in directives(evaluation)
    assert "--cpus-per-task=2" in directives(stage)
    assert not any(line.startswith("--gpus") for line in directives(stage)), "a run on CPUs asks for no GPU"
    lines = stage.splitlines()
    for line in ("attempts=5", "module load gcc/12 cuda", 'export HF_HOME="/scratch/$USER/hf"', "ulimit -n 4096"):
        assert line in lines
    assert lines.index("ulimit -n 4096") < lines.index("set -u"), "module files are not written for set -u"


def test_gpus_come_with_their_type_and_their_cpus() -> None:
    plan = make_plan(load_recipe(ROOT / "recipes" / "qwen2.5-7b-4node.yaml"), "runs/x", "x.yaml")
    stage, *_, evaluation = jobs_of(plan)
    site = Site(gpu_type="h100", cpus=10)
    assert {"--nodes=4", "--gpus-per-node=h100:8", "--cpus-per-task=80"} <= directives(script_of(plan, stage, site))
    assert {"--nodes=1", "--gpus-per-node=h100:1"} <= directives(script_of(plan, evaluation, site))


def test_containers(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    job: Job = jobs_of(plan)[0]
    pyxis = script_of(plan, job, Site.model_validate({"container": {"image": "/i.sqsh", "mounts": ["/data:/d"]}}))
    assert '--container-image="/i.sqsh"' in pyxis and "/data:/d" in pyxis
    assert f"{tmp_path}/runs/small:{tmp_path}/runs/small" in pyxis, "the run directory is there under its own name"
    apptainer = Site.model_validate({"container": {"image": "/i.sif", "runtime": "apptainer", "mounts": ["/data"]}})
    assert '--bind "/data"' in script_of(plan, job, apptainer) and "--nv" not in script_of(plan, job, apptainer)


def test_odd_names_reach_the_shell_whole(tmp_path: Path) -> None:
    folder = tmp_path / "it's $HOME; `rm`"
    folder.mkdir()
    plan = plan_of(folder)
    script = script_of(plan, jobs_of(plan)[0], Site(command="/bin/echo"))
    checked(script, tmp_path)
    called = script[script.index("srun ") : script.index(" &\nwork=")].replace("srun", "echo srun")
    done = subprocess.run(["bash", "-c", called], env={"SLURM_CPUS_PER_TASK": "1"}, capture_output=True, text=True)
    assert f"run {folder}/runs/small/recipe.yaml --run-dir {folder}/runs/small --only cpt" in done.stdout


def test_a_folder_that_sbatch_cannot_be_told(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" run'
    folder.mkdir()
    plan = plan_of(folder)
    with pytest.raises(SlurmError, match="has a quote or a line break in it"):
        script_of(plan, jobs_of(plan)[0], Site())


def test_nodes_that_serve_rollouts(tmp_path: Path) -> None:
    serving = ["grpo.rollout.mode=server", "grpo.prompts_per_step=120"]
    plan = make_plan(load_recipe(ROOT / "recipes" / "qwen2.5-7b-4node.yaml", serving), "runs/x", "x.yaml")
    *before, job = (job for job in jobs_of(plan) if not job.is_eval)
    assert (job.nodes, job.servers) == (3, 1) and all((one.nodes, one.servers) == (4, 0) for one in before)
    script = script_of(plan, job, Site())
    checked(script, tmp_path)
    assert "--nodes=4" in directives(script) and "servers" not in script_of(plan, before[0], Site())
    assert 'srun --overlap --nodelist="$serving" --nodes=1 --ntasks=1 ' in script
    assert "srun --nodes=3 --ntasks=3 --ntasks-per-node=1 " in script and '--nodelist="$training"' in script


def test_nodes_of_another_kind_serve_as_the_second_part_of_a_heterogeneous_job(tmp_path: Path) -> None:
    serving = ["grpo.rollout.mode=server", "grpo.prompts_per_step=120"]
    plan = make_plan(load_recipe(ROOT / "recipes" / "qwen2.5-7b-4node.yaml", serving), "runs/x", "x.yaml")
    *before, job = (job for job in jobs_of(plan) if not job.is_eval)
    other = {"partition": "inference", "gpu_type": "l40s", "cpus": 4}
    site = Site.model_validate(
        {"partition": "train", "account": "nlp", "gpu_type": "h100", "scratch": "/tmp", "serving": other}
    )
    script = script_of(plan, job, site)
    checked(script, tmp_path)
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    train, serve = lines[: lines.index("hetjob")], lines[lines.index("hetjob") :]
    assert {"--nodes=3", "--gpus-per-node=h100:8", "--partition=train", "--cpus-per-task=64"} <= set(train)
    assert {"--nodes=1", "--gpus-per-node=l40s:8", "--partition=inference", "--cpus-per-task=32"} <= set(serve)
    assert {"--account=nlp", "--requeue"} <= set(train) & set(serve), "what is not said is the site's"
    assert "srun --het-group=0,1 " in script, "each node has its scratch folder"
    assert all("hetjob" not in script_of(plan, one, site) for one in before), "they use nodes of one kind"


def test_servers_that_are_given_take_no_node() -> None:
    given = ["grpo.rollout.mode=server", "grpo.rollout.servers=[n9:8000]"]
    plan = make_plan(load_recipe(ROOT / "recipes" / "qwen2.5-7b-4node.yaml", given), "runs/x", "x.yaml")
    assert {(job.nodes, job.servers) for job in jobs_of(plan) if not job.is_eval} == {(4, 0)}


# --- the site file -------------------------------------------------------------------------------------------------

WRONG = {
    "partion: gpu": ("site.yaml:1  partion", "nearest   partition"),
    "time: tomorrow": ("site.yaml:1  time", "given     tomorrow"),
    "cpus: 0": ("site.yaml:1  cpus", "a number above 0"),
    "restarts: -1": ("site.yaml:1  restarts", "a number of at least 0"),
    "directives: [exclusive]": ("site.yaml:1  directives.0", "an option of sbatch"),
    'scratch: /s/"x"': ("site.yaml:1  scratch", 'without "'),
    "environment: {A B: x}": ("site.yaml:1  environment.A B", "given"),
    "container: {mounts: [/d]}": ("container", "image: a file or a name that the runtime knows"),
    "serving: {time: 10}": ("site.yaml:1  serving.time", "given"),
    "- gpu": ("site.yaml:1", "a site file: partition, account, time"),
    "account: a; rm -rf x": ("site.yaml:1  account", "given     a; rm -rf x"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_site_file_is_refused_with_its_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("site.yaml").write_text(text + "\n")
    with pytest.raises(RecipeError) as refused:
        load_site("site.yaml")
    for words in WRONG[text]:
        assert words in str(refused.value)


def test_a_missing_site_file_names_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(RecipeError) as refused:
        load_site("example-module.yaml")
    assert "a site file (.yaml)" in str(refused.value) and "slurm/example-modules.yaml" in str(refused.value)


def test_three_examples_are_shipped() -> None:
    assert [path.stem for path in SITES] == ["example-container", "example-modules", "example-plain"]
    for path in SITES:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("#") and text.count("#") >= 5, f"{path.name} says what each line is for"
