"""kill -9 at any moment of any stage, then the same command: the final weights are bitwise those of an undisturbed run.

One process, CPU, one seed. In GRPO this holds because every completion is drawn with a seed made of run, step and
position, not from a stream whose position is lost with the process. Three kills by default, the first inside a save;
`AHA_KILLS=20` for twenty, over as many runs as it takes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from nano import NANO, aha
from running import descendants, kill, last_step, start, wait_until

from aha import launch
from aha.errors import StageError
from aha.pipeline import execute, prepare
from aha.recipe import load_recipe
from aha.train.checkpoints import newest_good

STAGES = {"1-cpt": 8, "2-distill": 8, "3-grpo": 6}
KILLS = int(os.environ.get("AHA_KILLS", "3"))
OF_THE_CLOCK = ("time", "tokens_per_second", "seconds")
"""What two runs of one seed may differ in: metrics whose names hold one of these."""
OF_THE_PROCESS = ("arrived", "mismatch_probes")
"""And in these: each process takes its probes of the engine from its own first rollouts (train/probes.py)."""


def kill_in(process: subprocess.Popen, stage: Path, inside_a_save: bool, rng: random.Random) -> str | None:
    """Kill a run in this stage: in its next save, or up to a third of a second after a step. None if the stage ended."""
    partial, metrics = stage / "checkpoints" / ".partial", stage / "metrics.jsonl"
    began, looked, below = time.time(), 0.0, dict[int, str]()
    while not (stage / "done.json").exists():
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
        assert time.time() < began + 300, f"{stage.name} came to nothing"
        if inside_a_save and any(partial.glob("checkpoint-*/*")):
            kill(process, below)  # at once: the save takes a few hundredths of a second
            return "inside a save" if any(partial.glob("checkpoint-*")) else "after a save"
        if not inside_a_save and metrics.exists() and metrics.stat().st_mtime > began:
            time.sleep(rng.random() / 3)
            below = descendants(process.pid)
            kill(process, below)
            return "after a step"
        if time.time() - looked > 0.5:
            looked, below = time.time(), descendants(process.pid)
        time.sleep(0.001 if inside_a_save else 0.02)
    kill(process, descendants(process.pid))
    return None


def story(run: Path, stage: str) -> list[dict]:
    """The metrics of a stage, without what depends on the clock or on where a process began."""
    rows = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
    left_out = (*OF_THE_CLOCK, *OF_THE_PROCESS)
    return [{key: row[key] for key in row if not any(word in key for word in left_out)} for row in rows]


def require_same(run: Path, undisturbed: Path) -> None:
    """Bitwise: the weights of each stage, and every metric of every step."""
    for stage, steps in STAGES.items():
        done = [json.loads((root / stage / "done.json").read_text()) for root in (undisturbed, run)]
        assert done[0]["checkpoint"]["fingerprint"] == done[1]["checkpoint"]["fingerprint"], stage
        assert story(run, stage) == story(undisturbed, stage), stage
        assert [row["step"] for row in story(run, stage)] == list(range(1, steps + 1))


def test_killed_in_every_stage_and_resumed_is_bitwise_the_same(finished: Path, tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    rng, happened, runs = random.Random(seed), Counter[str](), 0
    while happened.total() < KILLS:
        folder = tmp_path / str(runs)
        runs += 1
        folder.mkdir()
        (folder / "nano.yaml").write_text(NANO.partition("eval:")[0].replace("name: nano", "name: killed"))
        run = folder / "runs" / "killed"
        for stage in STAGES:
            for _ in range(-(-KILLS // 3)):
                if happened.total() == KILLS or (run / stage / "done.json").exists():
                    break
                if how := kill_in(start(folder), run / stage, inside_a_save=happened.total() % 3 == 0, rng=rng):
                    happened[how] += 1
        end = aha("run", "nano.yaml", cwd=folder)
        assert end.returncode == 0, end.stdout + end.stderr
        require_same(run, finished)
    print(f"{happened.total()} kills in {runs} runs, seed {seed}: {dict(happened)}")
    assert happened["inside a save"] or KILLS < 20, happened  # one try may come a hundredth of a second late


def test_a_stage_that_is_killed_alone_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").write_text(NANO.replace("tokens: 4096", "tokens: 409600"))
    process = start(tmp_path)
    wait_until(process, tmp_path / "runs" / "nano" / "1-cpt", 2)
    (stage,) = (pid for pid, command in descendants(process.pid).items() if "aha.stages" in command)
    os.kill(stage, signal.SIGKILL)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 1, output
    assert "1-cpt was killed by signal 9" in output


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's")
def test_a_save_that_the_disk_refuses_ends_the_run_and_keeps_the_one_before(tmp_path: Path) -> None:
    """No file of the stage may grow beyond 50 kB any more: its metrics fit, the weights of a checkpoint do not."""
    (tmp_path / "nano.yaml").write_text(NANO.replace("tokens: 4096", "tokens: 409600"))
    folder = tmp_path / "runs" / "nano" / "1-cpt"
    process = start(tmp_path)
    wait_until(process, folder, 4)
    (stage,) = (pid for pid, command in descendants(process.pid).items() if "aha.stages" in command)
    resource.prlimit(stage, resource.RLIMIT_FSIZE, (50_000, 50_000))
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode not in (0, None), output
    newest, remarks = newest_good(folder / "checkpoints")
    assert newest is not None and not remarks
    assert "could not be saved" in output and f"the newest good one is {newest.name}" in output, output
    assert not (folder / "checkpoints" / ".partial").exists(), "what could not be finished takes room"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit(0)", "ended without finishing"),
        (
            "import pathlib, sys; from aha import child; child.finish(lambda: sys.exit(0), pathlib.Path('f.json'))",
            "ended with exit code 1",
        ),
    ],
)
def test_a_stage_that_only_says_it_has_finished_fails_the_run(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0 is not believed: done.json is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "stage_command", lambda *_: [sys.executable, "-c", code])
    Path("nano.yaml").write_text(NANO.partition("distill:")[0])
    with pytest.raises(StageError, match=told):
        list(execute(prepare(load_recipe("nano.yaml"), Path("runs/nano"), "nano.yaml")))


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped with Ctrl-C in its first stage."""
    (tmp_path / "nano.yaml").write_text(NANO.replace("tokens: 4096", "tokens: 409600"))
    process = start(tmp_path)
    wait_until(process, tmp_path / "runs" / "nano" / "1-cpt", 3)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output.decode()
    assert "the same command goes on from there" in output.decode()
    return tmp_path / "runs" / "nano"


def test_ctrl_c_saves_where_it_is_and_a_damaged_save_falls_back(stopped: Path) -> None:
    newest = sorted((stopped / "1-cpt" / "checkpoints").glob("step-*"))
    assert int(newest[-1].name[5:]) == last_step(stopped / "1-cpt")
    weights = newest[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    process = start(stopped.parents[1])
    wait_until(process, stopped / "1-cpt", int(newest[-1].name[5:]) + 2)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0].decode()
    assert f"{newest[-1].name} is damaged: model.safetensors has changed" in output
    assert f"resuming from {newest[-2].name}" in output


def test_a_run_in_use_is_refused(stopped: Path) -> None:
    process = start(stopped.parents[1])
    wait_until(process, stopped / "1-cpt", last_step(stopped / "1-cpt") + 1)
    second = aha("run", "nano.yaml", "cpt.tokens=409600", cwd=stopped.parents[1])
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert second.returncode == 1 and f"is in use by process {process.pid}" in second.stderr
