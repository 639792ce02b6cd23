"""The end of a stage's or an evaluation's process: it says what went wrong, and exits 0 only when its work is done.

Of several processes each says it for itself; `first_cause` finds the one whose end the others only miss.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from aha.errors import AhaError
from aha.rundir import read_object, write_json

PR_SET_PDEATHSIG = 1
FAILURES = "failure*.json"
MISSES_ANOTHER = re.compile(r"\bgloo\b|nccl|TCPStore|closed by peer|connection reset|broken pipe", re.IGNORECASE)
"""What a process says when another one is gone."""
KILLED = re.compile(r"rank +: (\d+) \(local_rank: \d+\)\s+exitcode +: -(\d+)")
"""What torchrun says of a process that was killed."""


def failure_file(rank: int | None) -> str:
    """The name of the file in which a process says what went wrong; one of several has one of its own."""
    return "failure.json" if rank is None else f"failure-rank{rank}.json"


def end_with(parent: int) -> None:
    """This process ends with the one that started it, however that ends: `parent` is that one's number (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was too late to ask
            os._exit(1)


def end_with_parent() -> None:
    """One of several processes: it ends when the launcher ends, however that ends, and hears SIGTERM, which that ignores."""
    if (parent := os.getppid()) == 1:
        os._exit(1)
    end_with(parent)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def finish(work: Callable[[], None], failure: Path) -> NoReturn:
    """Do the work and end this process. What goes wrong is in `failure`, for the process that watches."""
    code = _attempt(work, failure)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # native libraries would take seconds to leave, and print about their leaks


def _attempt(work: Callable[[], None], failure: Path) -> int:
    failure.unlink(missing_ok=True)
    try:
        work()
    except AhaError as error:
        write_json(failure, _told(error, error.exit_code))
        return error.exit_code
    except BaseException as error:
        write_json(failure, _told(error, 1) | {"traceback": traceback.format_exc()})
        traceback.print_exc()
        return 1
    return 0


def _told(error: BaseException, code: int) -> dict[str, Any]:
    return {"kind": type(error).__name__, "message": str(error), "exit_code": code, "time": time.time()}


def first_cause(folder: Path, said: list[str]) -> dict[str, Any] | None:
    """What went wrong first, of all that a stage's processes told in `folder`.

    A process that was killed tells nothing: torchrun does, in the lines it has `said`. None when nobody told anything.
    """
    found = [(path.name, told) for path in folder.glob(FAILURES) if (told := read_object(path))]
    found.sort()  # what all of them say alike is the first one's to tell
    found.sort(key=lambda one: (one[1]["exit_code"] == 75, one[1].get("time", 0.0) if "traceback" in one[1] else 0.0))
    spoke = {name for name, _ in found}
    killed = [
        {"message": f"process {rank} was killed by signal {number}{OFTEN.get(number, '')}", "exit_code": 1}
        for rank, number in KILLED.findall("\n".join(said))
        if failure_file(int(rank)) not in spoke
    ]
    own = [told for _, told in found if not MISSES_ANOTHER.search(told["message"])]
    return next(iter([*own, *killed, *(told for _, told in found)]), None)


OFTEN = {"9": ", which is often the system's, out of memory"}
