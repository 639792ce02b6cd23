"""What hangs is ended at its phase's deadline, with the stack of every thread in the log, and the run says which it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nano import NANO

from aha import launch
from aha.errors import StageError
from aha.pipeline import execute
from aha.recipe import load_recipe, make_plan
from aha.recipe.load import recipe_hash
from aha.rundir import read_json, write_json
from aha.slurm import run_rows
from aha.train import heartbeat

HANGS = {
    "asleep": "threading.Event().wait()",
    "holding the interpreter's lock": "ctypes.PyDLL(None).sleep(60)",
}
IN_A_PHASE = """
import ctypes, sys, threading
from pathlib import Path
from aha.recipe.schema import Deadlines
from aha.train import heartbeat

def never_ends():
    {hang}

heartbeat.start(Path(sys.argv[1]), Deadlines(rollout=0.3))
heartbeat.begin_step(7)
with heartbeat.phase("sync"):
    pass
threading.Thread(target=threading.Event().wait, daemon=True).start()
with heartbeat.phase("rollout"):
    never_ends()
"""


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_hang_ends_with_every_stack_in_the_log(tmp_path: Path, hang: str) -> None:
    code = IN_A_PHASE.replace("{hang}", hang)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=50)
    assert done.returncode == 1
    log = (tmp_path / "log.txt").read_text()
    assert "in never_ends" in log and log.count("(most recent call first)") == 2
    told = read_json(tmp_path / "heartbeat.json")
    assert (told["phase"], told["step"], told["seconds"]) == ("rollout", 7, 0.3)


ASLEEP = """
import sys, time, types
from aha.stages.__main__ import main
from aha.train import heartbeat

def never_generates(context):
    heartbeat.begin_step(1)
    with heartbeat.phase("rollout"):
        time.sleep(3600)

for name, content in {"grpo": {"run": never_generates}, "context": {"Context": lambda *_: None}}.items():
    sys.modules[f"aha.stages.{name}"] = types.SimpleNamespace(**content)  # no torch: this is about what ends it
main(sys.argv[1], sys.argv[2])
"""


def test_a_run_whose_engine_hangs_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nano.yaml").write_text(NANO)
    keys = ["cpt=null", "distill=null", "eval=null"]
    recipe = load_recipe(tmp_path / "nano.yaml", [*keys, "hardware.deadlines.rollout=1"])
    plan = make_plan(recipe, tmp_path / "run", "nano.yaml")
    planted = [sys.executable, "-c", ASLEEP, plan.run_dir, "grpo"]
    monkeypatch.setattr(launch, "stage_command", lambda *_: planted)
    with pytest.raises(StageError) as caught:
        list(execute(plan))
    log = tmp_path / "run" / "3-grpo" / "log.txt"
    said = str(caught.value)
    assert said.startswith("3-grpo: rollout of step 1 was still at work after 1 s, its deadline, and was ended")
    assert str(log) in said and "raise hardware.deadlines.rollout" in said
    assert "in never_generates" in log.read_text()
    row = run_rows(tmp_path / "run")[-1]
    assert row.state == "failed" and "rollout of step 1" in row.why


def test_status_shows_the_phase_of_a_process_that_lives(tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").write_text(NANO)
    plan = make_plan(load_recipe(tmp_path / "nano.yaml"), tmp_path / "run", "nano.yaml")
    write_json(tmp_path / "run" / "plan.json", json.loads(plan.model_dump_json()))
    facts = {"phase": "reward", "step": 3, "since": time.time() - 2, "seconds": 60, "host": os.uname().nodename}
    beat = tmp_path / "run" / "3-grpo" / "heartbeat.json"
    write_json(beat, facts | {"process": os.getpid()})
    row = run_rows(tmp_path / "run")[2]
    assert row.state == "running" and row.why.startswith("reward of step 3, for 2.")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for dead in (facts | {"process": ended.pid}, facts | {"process": os.getpid(), "seconds": 1}):
        write_json(beat, dead)
        row = run_rows(tmp_path / "run")[2]
        assert row.state == "not run" and row.why == ""


def test_deadlines_do_not_change_what_is_computed(tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").write_text(NANO)
    once, again = (load_recipe(tmp_path / "nano.yaml", [f"hardware.deadlines.save={it}"]) for it in (10, 20))
    assert recipe_hash(once) == recipe_hash(again)
    hashes = [make_plan(one, tmp_path / "run", "nano.yaml").stages[0].inputs_hash for one in (once, again)]
    assert hashes[0] == hashes[1]


def test_outside_a_stage_a_phase_is_nothing() -> None:
    with heartbeat.phase("rollout"):
        pass
    heartbeat.begin_step(1)
