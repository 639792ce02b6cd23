"""What went wrong first, of several processes that all ended badly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.child import first_cause

GLOO = {
    "kind": "RuntimeError",
    "message": "[gloo/pair.cc:538] Connection closed by peer [127.0.0.1]:41",
    "exit_code": 1,
}
BUG = {"kind": "KeyError", "message": "'labels'", "exit_code": 1, "traceback": "…"}
WORDS = {"kind": "DataError", "message": "cpt: no text", "exit_code": 1, "time": 9.0}
# As torchrun of torch 2.13 says it, in either order; process 0 ended a moment after process 1 was killed.
TORCHRUN = """\
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
aha.stages FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-26_17:12:34
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 23185)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 23185
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_17:12:34
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 23184)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
""".splitlines()


def told(folder: Path, *failures: dict, said: list[str] | None = None) -> str:
    for rank, failure in enumerate(failures):
        if failure:
            (folder / f"failure-rank{rank}.json").write_text(json.dumps(failure))
    cause = first_cause(folder, said or [])
    assert cause is not None and cause["exit_code"] == 1
    return cause["message"]


def test_words_before_what_the_others_miss(tmp_path: Path) -> None:
    assert told(tmp_path, GLOO | {"traceback": "…", "time": 1.0}, WORDS) == "cpt: no text"


def test_a_bug_before_what_the_others_miss_of_it(tmp_path: Path) -> None:
    assert told(tmp_path, GLOO | {"traceback": "…", "time": 1.0}, BUG | {"time": 2.0}) == "'labels'"


@pytest.mark.parametrize("order", ["killed first", "killed last"])
def test_a_killed_process_is_named(order: str, tmp_path: Path) -> None:
    killed, cause, ended = TORCHRUN[5:12], TORCHRUN[12:14], TORCHRUN[14:21]
    said = [*killed, *cause, *ended] if order == "killed first" else [*ended, *cause, *killed]
    assert any("Signal 9" in line for line in killed) and any("exitcode  : 1" in line for line in ended)
    message = told(tmp_path, GLOO | {"traceback": "…", "time": 1.0}, {}, said=said)
    assert message == "process 1 was killed by signal 9, which is often the system's, out of memory"


def test_one_that_hung_and_was_ended_is_not_the_cause(tmp_path: Path) -> None:
    hung = [line.replace("exitcode  : 1", "exitcode  : -9") for line in TORCHRUN]
    assert told(tmp_path, {}, BUG | {"time": 2.0}, said=hung) == "'labels'"


def test_a_save_that_failed_before_one_that_did_not(tmp_path: Path) -> None:
    saved = {"kind": "Interrupted", "message": "stopped at step 3 of 9, checkpoint saved", "exit_code": 75}
    assert told(tmp_path, saved, WORDS) == "cpt: no text"


def test_nothing_told(tmp_path: Path) -> None:
    assert first_cause(tmp_path, ["bus error"]) is None
