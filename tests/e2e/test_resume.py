"""kill -9 at any step of any stage, then the same command: the final weights are bitwise those of an undisturbed run.

One process, CPU, one seed. In GRPO this holds because every completion is drawn with a seed made of run, step and
position, not from a stream whose position is lost with the process.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nano import NANO, ROOT, aha

STAGES = {"1-cpt": 8, "2-distill": 8, "3-grpo": 6}


def last_step(folder: Path) -> int:
    try:
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, json.JSONDecodeError):
        return 0


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli", "run", "nano.yaml"],
        cwd=folder,
        env=dict(os.environ, AHA_REWARD_FNS=str(ROOT / "reward_fns")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until(process: subprocess.Popen, stage: Path, step: int) -> None:
    deadline = time.time() + 300
    while last_step(stage) < step:
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
        assert time.time() < deadline, f"{stage.name} did not reach step {step}"
        time.sleep(0.02)


def stage_processes(run: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "aha.stages" in command and str(run.name) in command:
            found.append(int(entry.parent.name))
    return found


def test_killed_in_every_stage_and_resumed_is_bitwise_the_same(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").write_text(NANO.replace("name: nano", "name: killed"))
    run = tmp_path / "runs" / "killed"
    rng = random.Random()
    for stage, steps in STAGES.items():
        step = rng.randint(2, steps - 1)
        process = start(tmp_path)
        wait_until(process, run / stage, step)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.5)
        assert not stage_processes(run), f"the stage outlived its parent, killed in {stage} at step {step}"
        assert not (run / stage / "done.json").exists() or last_step(run / stage) == steps
    end = aha("run", "nano.yaml", cwd=tmp_path)
    assert end.returncode == 0, end.stdout + end.stderr
    assert "resuming from step-" in end.stdout
    for stage in STAGES:
        fingerprints = [json.loads((root / stage / "done.json").read_text())["checkpoint"] for root in (finished, run)]
        assert fingerprints[0]["fingerprint"] == fingerprints[1]["fingerprint"], stage
        steps_seen = [json.loads(line)["step"] for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
        assert steps_seen == list(range(1, STAGES[stage] + 1))


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
