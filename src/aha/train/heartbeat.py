"""Heartbeats: which phase of which step is at work, and an end to what never ends.

A stage is always in one phase, and each phase has a deadline (`hardware.deadlines`). When it passes, the stack of every
thread goes to the stage's log.txt and the process ends. That is done by a thread of the interpreter's own
(`faulthandler.dump_traceback_later`), which runs no Python: it also ends what holds the interpreter lock for ever.

The phase stands in heartbeat.json for `aha status`, and for the parent process, which says what was overdue.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from aha.recipe.schema import Deadlines
from aha.rundir import write_json

Phase = Literal["startup", "rollout", "reward", "train", "sync", "save"]


class _Pulse:
    """This process's phases, the outermost first, and the step they are of."""

    def __init__(self, folder: Path, deadlines: Deadlines):
        folder.mkdir(parents=True, exist_ok=True)
        rank = os.environ.get("RANK", "0")
        self._file = folder / ("heartbeat.json" if rank == "0" else f"heartbeat-rank{rank}.json")
        self._log = (folder / "log.txt").open("ab")
        self._deadlines = deadlines
        self.phases: list[Phase] = ["startup"]
        self.step = 0

    def beat(self) -> None:
        """The innermost phase begins, or goes on: its time counts from now."""
        phase = self.phases[-1]
        seconds = getattr(self._deadlines, phase)
        faulthandler.dump_traceback_later(seconds, file=self._log, exit=True)
        facts = {"phase": phase, "step": self.step, "since": time.time(), "seconds": seconds}
        write_json(self._file, facts | {"host": socket.gethostname(), "process": os.getpid()}, lasting=False)


_pulse: _Pulse | None = None
"""One, as the interpreter has one such timer. None outside a stage's process."""


def start(folder: Path, deadlines: Deadlines) -> None:
    """From here on this process is a stage's, and starting up."""
    global _pulse
    _pulse = _Pulse(folder, deadlines)
    _pulse.beat()


def begin_step(step: int) -> None:
    """The trainer begins a step; what is in no phase of its own is `train`."""
    if _pulse is not None:
        _pulse.phases, _pulse.step = ["train"], step
        _pulse.beat()


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """What is inside has its own deadline; the phase around it begins anew afterwards."""
    if _pulse is None:
        yield
        return
    pulse = _pulse
    pulse.phases.append(name)
    pulse.beat()
    try:
        yield
    finally:
        pulse.phases.pop()
        pulse.beat()
