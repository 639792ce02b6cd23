"""When each phase of a step ran, in the trainer and in its servers: `timeline.jsonl`, one line for each optimiser step.

    {"step": 3, "policy_step": 1, "spans": [["trainer", "sync", 1764.1, 1764.2], ["server 0", "draw", 1764.2, 1769.8], …]}

Times are seconds since 1970 by the clock of whoever worked. What a server drew for the next step stands in the line of
the step during which it was finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aha.rundir import append_jsonl

Span = tuple[str, str, float, float]
"""Who, what, from, to."""
Drawn = tuple[str, float, float, int]
"""Which server drew, from when to when, and how many tokens."""


class Timeline:
    """The spans of the step at work. `drawn` hands over the servers' spans that are new."""

    def __init__(self, path: Path, drawn: Callable[[], list[Drawn]] = list):
        self._path = path
        self._drawn = drawn
        self._spans: list[Span] = []
        self._mark = time.time()

    @contextmanager
    def span(self, phase: str) -> Iterator[None]:
        began = time.time()
        try:
            yield
        finally:
            self._spans.append(("trainer", phase, began, time.time()))

    def mark(self) -> None:
        """A phase without a block of its own begins here."""
        self._mark = time.time()

    def since_mark(self, phase: str) -> None:
        self._spans.append(("trainer", phase, self._mark, time.time()))

    def write(self, step: int, policy_step: int) -> float | None:
        """The step is over. Returns how many tokens a second the servers have drawn; None when there are none."""
        drawn = self._drawn()
        spans = [*self._spans, *((who, "draw", began, ended) for who, began, ended, _ in drawn)]
        line = {"step": step, "policy_step": policy_step, "spans": sorted(spans, key=lambda span: span[2])}
        append_jsonl(self._path, line)
        self._spans.clear()
        return sum(_speed([one for one in drawn if one[0] == who]) for who in {one[0] for one in drawn}) or None


def _speed(drawn: list[Drawn]) -> float:
    return sum(tokens for *_, tokens in drawn) / max(1e-6, sum(ended - began for _, began, ended, _ in drawn))
