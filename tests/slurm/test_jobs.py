"""Runs as their users would submit them, on a real Slurm: to the end, and through everything that may stop them.

Steps, signals and node failures are real; only GPUs are not, and where many of them are asked for, the payload is a
stub, because what is tested there is the script.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from nano import ROOT
from safetensors.torch import load_file
from slurm.cluster import Cluster
from slurm.desk import SMALL, THEN, Desk, last_step, wait_until

pytestmark = pytest.mark.long
GPU_RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.yaml")) if "device: cuda" in path.read_text()]
ELSEWHERE = ("n3", "n4")
"""The nodes of two jobs that wait for Slurm: their power stays on."""
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def program(path: Path, text: str) -> str:
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
    return str(path)


def fingerprint(stage: Path) -> str:
    return json.loads((stage / "done.json").read_text())["checkpoint"]["fingerprint"]


def log_of(desk: Desk, job: str) -> str:
    log = Path(desk.cluster.facts(job)["StdOut"])
    return log.read_text() if log.exists() else ""


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, dict[str, str]]:
    """A run of three jobs, submitted, and submitted once more while it was in the queue."""
    desk = Desk(cluster, tmp_path_factory.mktemp("whole"))
    desk.recipe("whole", SMALL + THEN)
    jobs = desk.submit("whole")
    again = desk.aha("submit", "whole.yaml", check=False)
    assert again.returncode == 1 and "is submitted already: 1-cpt (job" in again.stderr, again.stdout + again.stderr
    return desk, jobs


def waiting(desk: Desk, name: str, site: str, stub: str) -> str:
    """Submit one script whose payload is a stub; returns the job's id."""
    desk.site(f"command: {program(desk.folder / f'{name}.sh', stub)}\n{site}")
    run = desk.recipe(name, SMALL)
    (run / "slurm").mkdir(parents=True)
    return desk.sbatch(desk.scripts(f"{name}.yaml")[0])


TIRELESS = "echo listening; for ((i = 0; i < 1200; i++)); do sleep 0.1; done; exit 3\n"


@pytest.fixture(scope="module")
def early(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, str, str]:
    """Two jobs that are started early and looked at late, because Slurm takes its time: it looks at time limits twice a
    minute, and brings a job back after ten seconds. One reaches its limit, the other is preempted."""
    desk = Desk(cluster, tmp_path_factory.mktemp("early"))
    stub = """[[ -z ${SLURM_RESTART_COUNT:-} ]] || exit 75\ntrap 'echo told; exit 75' USR1\n""" + TIRELESS
    limited = waiting(desk, "limited", f"directives: [--nodelist={ELSEWHERE[0]}, --time=1, --signal=B:USR1@55]\n", stub)
    stub = """case ${SLURM_RESTART_COUNT:-0} in 1) kill -USR1 $$ ;; 2) exit 0 ;; esac\n"""
    stub += "trap 'echo told; sleep 1; exit 130' TERM\n" + TIRELESS
    preempted = waiting(desk, "preempted", f"directives: [--nodelist={ELSEWHERE[1]}]\n", stub)
    cluster.wait_for(preempted, "RUNNING")
    urgent = ["--partition=urgent", "--exclusive", f"--nodelist={ELSEWHERE[1]}", "--output=/dev/null"]
    wait_until("the stub listens", lambda: "listening" in log_of(desk, preempted))
    cluster.run("sbatch", *urgent, "--wrap=sleep 1")
    return desk, limited, preempted


def stage_process(run: Path) -> int:
    """The process of a run's stage, as this side of the namespaces numbers it."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes().decode(errors="replace").split("\0")
            if "aha.stages" in words and str(run) in words:
                return int(entry.parent.name)
    raise AssertionError(f"no stage of {run} is running")


def stop_in_a_save(process: int, stage: Path) -> None:
    """Freeze a stage while it writes a checkpoint that has not got its name yet."""
    half = stage / "checkpoints" / ".partial"
    while True:
        wait_until("it saves", lambda: any(half.glob("checkpoint-*")))
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.1)
        if any(half.glob("checkpoint-*")):
            return
        os.kill(process, signal.SIGCONT)


def test_stopped_and_a_power_cut_during_a_save_end_with_the_same_weights(
    early: tuple[Desk, str, str], whole: tuple[Desk, dict[str, str]], desk: Desk
) -> None:
    """SIGUSR1 (what Slurm sends before the end, and scancel for anybody), then a node that is lost while it saves."""
    cluster = desk.cluster
    desk.site(f'directives: ["--exclude={",".join(ELSEWHERE)}"]\n')
    run = desk.recipe("stops", SMALL)
    (job,) = desk.submit("stops").values()
    stage = run / "1-cpt"
    wait_until("the third step", lambda: last_step(stage) >= 3)
    cluster.run("scancel", "--signal=USR1", job)
    cluster.run("scancel", "--signal=USR1", "--full", job, check=False)  # whoever asks twice means it once
    wait_until("the job is back in the queue", lambda: cluster.facts(job)["Restarts"] == "1")
    waiting = desk.aha("status", "runs/stops").stdout
    assert "comes back after its requeue" in waiting or "running" in waiting, waiting
    saved = last_step(stage)
    assert 3 <= saved < 40 and (stage / "checkpoints" / f"step-{saved:06d}" / "manifest.json").exists()

    node = cluster.wait_for(job, "RUNNING")["NodeList"]
    wait_until("a new step", lambda: last_step(stage) > saved)
    stop_in_a_save(stage_process(run), stage)
    newest = max(path.name for path in (stage / "checkpoints").glob("step-*"))
    cluster.cut_power(node)
    assert cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED"
    cluster.restore_power(node)
    told = (run / "slurm" / f"1-cpt-{job}.log").read_text()
    assert f"resuming from step-{saved:06d}" in told.partition("attempt 2 of at most 3")[2]
    assert f"resuming from {newest}" in told.partition("attempt 3 of at most 3")[2]
    assert f"attempt 3 of at most 3, on {node}" not in told, "that node is dark"
    assert [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 41)
    )
    reference, jobs = whole
    cluster.wait_for(jobs["1-cpt"], *ENDS)
    assert fingerprint(stage) == fingerprint(reference.folder / "runs" / "whole" / "1-cpt")


def test_a_run_goes_through_its_chain(whole: tuple[Desk, dict[str, str]]) -> None:
    desk, jobs = whole
    assert list(jobs) == ["1-cpt", "2-distill", "eval-2-distill"]
    first, second, third = (desk.cluster.wait_for(job, *ENDS) for job in jobs.values())
    assert [facts["JobState"] for facts in (first, second, third)] == ["COMPLETED"] * 3, desk.aha(
        "logs", "runs/whole"
    ).stdout
    assert first["EndTime"] <= second["StartTime"] and second["EndTime"] <= third["StartTime"]
    run = desk.folder / "runs" / "whole"
    assert set(json.loads((run / "results.json").read_text())) == {"1-cpt", "2-distill"}
    assert "<svg" in (run / "report.html").read_text()


def test_status_logs_and_cancel_of_a_run_that_is_over(whole: tuple[Desk, dict[str, str]]) -> None:
    desk, jobs = whole
    desk.cluster.wait_for(jobs["eval-2-distill"], *ENDS)
    rows = {line.split()[0]: line.split() for line in desk.aha("status", "--all").stdout.splitlines() if line.split()}
    assert rows["1-cpt"][:5] == ["1-cpt", jobs["1-cpt"], "1", "finished", "40/40"]
    assert rows["eval-2-distill"][1:4] == [jobs["eval-2-distill"], "1", "finished"]
    told = desk.aha("logs", "runs/whole", "1-cpt").stdout
    assert f"job {jobs['1-cpt']}, attempt 1 of at most 3, on n" in told and "step 40/40" in told
    assert "nothing of it is in the queue" in desk.aha("cancel", "runs/whole").stdout
    assert "nothing is missing" in desk.aha("submit", "whole.yaml").stdout


def test_a_stage_that_fails_stops_the_chain_and_says_so(desk: Desk) -> None:
    desk.recipe("fails", (SMALL + THEN).replace("{builtin: arithmetic/texts}", "{path: nothing-here/*.txt}"))
    jobs = desk.submit("fails")
    states = [desk.cluster.wait_for(job, *ENDS)["JobState"] for job in jobs.values()]
    assert states == ["FAILED", "CANCELLED", "CANCELLED"]
    told = desk.aha("logs", "runs/fails").stdout
    assert "nothing-here" in told and "what waits for it does not start" in told
    rows = {line.split()[0]: line for line in desk.aha("status", "runs/fails").stdout.splitlines() if line.split()}
    assert "failed" in rows["1-cpt"] and "nothing-here" in rows["1-cpt"]
    assert "not started" in rows["2-distill"] and "did not end well" in rows["2-distill"]
    assert not (desk.folder / "runs" / "fails" / "2-distill").exists()


def test_a_run_is_cancelled_and_goes_on_when_it_is_submitted_again(desk: Desk) -> None:
    desk.site("directives: [--begin=now+1hour]\n")
    desk.recipe("later", SMALL + THEN)
    jobs = desk.submit("later")
    assert desk.aha("cancel", "runs/later").stdout.count("cancelled") == len(jobs)
    assert {desk.cluster.state(job) for job in jobs.values()} == {"CANCELLED"}
    again = desk.submit("later")
    assert set(again) == set(jobs) and not set(again.values()) & set(jobs.values())
    desk.aha("cancel", "runs/later")


def test_a_chain_of_which_slurm_refuses_one_job_is_taken_back(desk: Desk) -> None:
    desk.site("eval_time: 10\ndirectives: [--nodelist=n9]\n")
    desk.recipe("refused", SMALL + THEN)
    before = desk.cluster.run("squeue", "--noheader").stdout
    refused = desk.aha("submit", "refused.yaml", check=False)
    assert refused.returncode == 1 and "sbatch refuses" in refused.stderr and "Traceback" not in refused.stderr
    assert desk.cluster.run("squeue", "--noheader").stdout == before


# --- slurm/README.md, word for word -------------------------------------------------------------------------------


def test_the_readme_takes_a_stranger_to_a_first_run(desk: Desk) -> None:
    """Its commands as they stand there, one after the other, in a folder that looks like a fresh checkout."""
    if Path(sys.prefix).resolve() != (ROOT / ".venv").resolve():
        pytest.skip("make would set up .venv first: run the tests with .venv/bin/python")
    for name in ("Makefile", "recipes", "reward_fns", "slurm", "src"):
        (desk.folder / name).symlink_to(ROOT / name)
    (desk.folder / ".venv").symlink_to(Path(sys.prefix))
    (desk.folder / "site.yaml").unlink()
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "slurm" / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert "make submit RECIPE=recipes/tiny.yaml CLUSTER=site.yaml" in lines
    said: dict[str, str] = {}
    for line in lines:
        if line.startswith("make logs"):
            wait_until("a job has begun", lambda: any((desk.folder / "runs/tiny/slurm").glob("*.log")))
        said[line] = desk.cluster.run("sh", "-c", line, cwd=desk.folder, COLUMNS="120").stdout
    assert "1-cpt" in said["make submit RECIPE=recipes/tiny.yaml CLUSTER=site.yaml"]
    assert "waits for what comes before it" in said["make status"]
    assert "attempt 1 of at most 21" in said["make logs RUN=runs/tiny"]
    assert "cancelled" in said["make cancel RUN=runs/tiny"]


# --- the recipes for GPUs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", GPU_RECIPES, ids=lambda path: path.stem)
def test_the_scripts_of_a_gpu_recipe_run(recipe: Path, desk: Desk) -> None:
    """Accepted by `sbatch --test-only`, and for real; each node is started once, with the options it was planned for."""
    stub = 'echo "STUB $SLURM_NODEID $(hostname) $(echo "$CUDA_VISIBLE_DEVICES" | tr , "\\n" | wc -l) $*"\n'
    desk.site(f"command: {program(desk.folder / 'stub.sh', stub)}\n")
    (desk.folder / "runs" / recipe.stem / "slurm").mkdir(parents=True)
    for script in desk.scripts(recipe, "--run-dir", f"runs/{recipe.stem}"):
        nodes, gpus = (int(script.partition(f"#SBATCH --{what}=")[2].split()[0]) for what in ("nodes", "gpus-per-node"))
        desk.sbatch(script, "--test-only")
        job = desk.sbatch(script)
        assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED"
        calls = [line.split() for line in log_of(desk, job).splitlines() if line.startswith("STUB")]
        assert sorted(int(call[1]) for call in calls) == list(range(nodes))
        assert len({call[2] for call in calls}) == nodes and {int(call[3]) for call in calls} == {gpus}
        if nodes * gpus > 1:
            head = next(call[2] for call in calls if call[1] == "0")
            assert all(f"--rdzv-endpoint={head}:" in " ".join(call) for call in calls), "not localhost"
            assert all(f"--nnodes={nodes} --nproc-per-node={gpus}" in " ".join(call) for call in calls)


ALL_REDUCE = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("SUM", int(total), "of", dist.get_world_size(), flush=True)
dist.destroy_process_group()  # gloo's threads, left running at exit, abort the process now and then
"""


def test_the_processes_of_two_nodes_find_each_other(desk: Desk) -> None:
    """The torchrun options of a script, given to torchrun: one process on each of two nodes, over gloo."""
    (desk.folder / "sum.py").write_text(ALL_REDUCE)
    text = f"GLOO_SOCKET_IFNAME=eth0 exec {sys.executable} -m torch.distributed.run ${{*: -1}} {desk.folder}/sum.py\n"
    desk.site(f"command: {program(desk.folder / 'stub.sh', text)}\n")
    two = SMALL.replace("device: cpu,", "device: cpu, nodes: 2, parallel: ddp,")
    run = desk.recipe("two", two)
    (run / "slurm").mkdir(parents=True)
    job = desk.sbatch(desk.scripts("two.yaml")[0])
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED", log_of(desk, job)
    assert log_of(desk, job).count("SUM 3 of 2") == 2


# --- stages on two nodes -------------------------------------------------------------------------------------------

TWO_NODES = 'environment: {GLOO_SOCKET_IFNAME: eth0}\ndirectives: ["--exclude=' + ",".join(ELSEWHERE) + '"]\n'


@pytest.fixture(scope="module")
def on_two_nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, Desk]]:
    """Continued pretraining on two nodes of one process: with ddp, told to stop on its way, and with ZeRO-3."""
    desk = Desk(cluster, tmp_path_factory.mktemp("nodes"))
    desk.site(TWO_NODES)
    found = {}
    for way in ("ddp", "zero3"):
        run = desk.recipe(way, SMALL.replace("device: cpu,", f"device: cpu, nodes: 2, parallel: {way},"))
        (job,) = desk.submit(way).values()
        found[way] = (run, job, desk)
        if way == "ddp":
            wait_until("the third step", lambda: last_step(run / "1-cpt") >= 3)  # noqa: B023
            cluster.run("scancel", "--signal=USR1", "--batch", job)
    return found


@pytest.mark.parametrize("way", ["ddp", "zero3"])
def test_two_nodes_train_what_one_process_trains(
    way: str, on_two_nodes: dict[str, tuple[Path, str, Desk]], whole: tuple[Desk, dict[str, str]]
) -> None:
    run, job, desk = on_two_nodes[way]
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED", log_of(desk, job)
    stage = run / "1-cpt"
    facts = json.loads((stage / "processes.json").read_text())
    assert facts["world_size"] == 2 and len({rank["host"] for rank in facts["ranks"]}) == 2
    assert [json.loads(line)["step"] for line in (stage / "metrics.jsonl").read_text().splitlines()] == list(
        range(1, 41)
    )
    told = log_of(desk, job)
    assert "node 2 of 2" in told and ("resuming from step-" in told) == (way == "ddp")
    assert ("attempt 2 of at most 3" in told) == (way == "ddp"), told
    reference, jobs = whole
    desk.cluster.wait_for(jobs["1-cpt"], *ENDS)
    weights = [load_file(root / "1-cpt/model/model.safetensors") for root in (reference.folder / "runs/whole", run)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-3, rtol=0)


# --- last, because they wait for Slurm's clock ---------------------------------------------------------------------


def attempts(told: str) -> list[str]:
    """What a log says of each attempt."""
    return re.split(r"attempt \d+ of at most \d+", told)[1:]


def test_at_the_time_limit_a_job_is_told_comes_back_and_keeps_to_its_budget(early: tuple[Desk, str, str]) -> None:
    desk, job, _ = early
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "FAILED"
    said = attempts(log_of(desk, job))
    assert "told" in said[0] and all("saved; back into the queue" in one for one in said[:2]) and len(said) == 3
    assert "saved, but this was attempt 3 of 3" in said[2]


def test_a_preempted_job_saves_and_comes_back(early: tuple[Desk, str, str]) -> None:
    """And one that is told to stop before it can listen comes back too."""
    desk, _, job = early
    assert desk.cluster.wait_for(job, *ENDS)["JobState"] == "COMPLETED"
    said = attempts(log_of(desk, job))
    assert "told" in said[0] and len(said) == 3
    assert all("saved; back into the queue" in one for one in said[:2])


def test_a_cancelled_job_saves_and_does_not_come_back(desk: Desk) -> None:
    job = waiting(desk, "cancelled", "", "trap 'echo told; sleep 1; exit 130' TERM\n" + TIRELESS)
    wait_until("the stub listens", lambda: "listening" in log_of(desk, job))
    desk.cluster.run("scancel", job)
    facts = desk.cluster.wait_for(job, *ENDS)
    wait_until("its script has ended", lambda: "ended with exit code 130" in log_of(desk, job))
    assert "told" in log_of(desk, job) and (facts["JobState"], desk.cluster.facts(job)["Restarts"]) == (
        "CANCELLED",
        "0",
    )
