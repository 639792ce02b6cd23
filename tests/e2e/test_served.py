"""GRPO with its rollouts from a real second process, which is killed on the way: the weights of the colocated run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nano import NANO, ROOT, aha
from running import descendants, kill, start, wait_until
from safetensors.torch import load_file

pytestmark = pytest.mark.long


def grpo_alone(finished: Path, rollout: str) -> str:
    """The nano recipe's GRPO stage from the finished run's distillation, with more said of its rollouts."""
    block = NANO[NANO.index("grpo:") : NANO.index("eval:")].replace("rollout: {", f"rollout: {{{rollout}, ")
    model = NANO[NANO.index("model:") : NANO.index("cpt:")].replace(
        "from_scratch: {", f"path: {finished}/2-distill/model #"
    )
    return f"{model}{block}"


def test_an_asynchronous_run_that_is_killed_as_a_whole_ends_with_the_same_weights(
    finished: Path, tmp_path: Path
) -> None:
    """What was being drawn is in the checkpoint, with the version that drew it."""
    for name in ("whole", "killed"):
        (tmp_path / f"{name}.yaml").write_text(
            grpo_alone(finished, "mode: server, overlap: async, engine: transformers")
        )
    whole = aha("run", "whole.yaml", cwd=tmp_path)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    stage = tmp_path / "runs" / "killed" / "3-grpo"
    process = start(tmp_path, "killed.yaml")
    wait_until(process, stage, 3)
    below = descendants(process.pid)
    assert any("aha.rollout.server" in command for command in below.values()), below
    kill(process, below)  # and its server is gone too
    again = aha("run", "killed.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "resuming from step-" in again.stdout, again.stdout
    expected, got = (
        load_file(tmp_path / "runs" / name / "3-grpo" / "model" / "model.safetensors") for name in ("whole", "killed")
    )
    assert all(got[name].equal(weight) for name, weight in expected.items())


def test_a_served_run_is_the_colocated_one_although_its_server_is_killed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "served.yaml").write_text(grpo_alone(finished, "mode: server"))
    run = tmp_path / "runs" / "served" / "3-grpo"
    process = subprocess.Popen(
        [sys.executable, "-m", "aha.cli", "run", "served.yaml"],
        cwd=tmp_path,
        env=dict(os.environ, COLUMNS="200", AHA_REWARD_FNS=str(ROOT / "reward_fns")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.time() + 300
    while not (run / "rollouts" / "step-000001.jsonl").exists():
        assert process.poll() is None and time.time() < deadline, process.stdout and process.stdout.read()
        time.sleep(0.02)
    server = json.loads((run / "servers" / "0.json").read_text())
    os.kill(server["pid"], signal.SIGKILL)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    for line in (
        "rollouts from 1 server of the stage's own, synchronous",  # the plan
        "vLLM is installed; 1 server of the stage's own, synchronous",
        "server 0 was killed by signal 9; it is started again",
        "server 0 is back, with the current weights",
    ):
        assert line in output, output
    expected, got = (load_file(folder / "model" / "model.safetensors") for folder in (finished / "3-grpo", run))
    assert all(got[name].equal(weight) for name, weight in expected.items())
    last = json.loads((run / "servers" / "0.json").read_text())["pid"]
    assert last != server["pid"] and not Path(f"/proc/{last}").exists(), "a server outlived its stage"
    assert "GRPO drew its completions in mode server, overlap none" in (run.parent / "report.md").read_text()
