"""When trainer and servers worked, step by step, from a stage's timeline.jsonl; and how much of it was at the same time."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.report.read import number, read_lines

Span = tuple[str, str, float, float]
"""Who, what, from, to (seconds since 1970)."""
BUSY = ("train", "score", "reward")
"""What the trainer does while it is of use; the rest is waiting and moving weights."""


@dataclass(frozen=True)
class Step:
    """One optimiser step and what was done in it."""

    step: int
    policy_step: int
    spans: list[Span]


def read_timeline(folder: Path) -> list[Step]:
    """The steps of a stage, in order; of a step that was repeated after a stop, the last time."""
    rows, _ = read_lines(folder / "timeline.jsonl")
    steps = {}
    for row in rows:
        spans = [span for span in row.get("spans", []) if _is_span(span)]
        at, policy = number(row.get("step")), number(row.get("policy_step"))
        if at is not None and policy is not None:
            steps[int(at)] = Step(int(at), int(policy), [(one[0], one[1], one[2], one[3]) for one in spans])
    return [steps[at] for at in sorted(steps)]


def _is_span(span: Any) -> bool:
    return isinstance(span, list) and len(span) == 4 and all(number(at) is not None for at in span[2:])


def summary(steps: Sequence[Step], skip: int = 1) -> dict[str, float]:
    """Median seconds of a step, and where they went; `skip` steps at the start are warm-up.

    `overlap` is the share of the servers' time during which the trainer trained, judged or scored.
    """
    kept = steps[skip:]
    trained = [[span[3] for span in step.spans if span[1] == "train"] for step in steps[max(0, skip - 1) :]]
    ends = [max(times) for times in trained if times]
    lasted = [after - before for before, after in itertools.pairwise(ends)]
    if not lasted:
        return {}
    spans = [span for step in kept for span in step.spans]
    drawn = _merged(span[2:] for span in spans if span[1] == "draw")
    busy = _merged(span[2:] for span in spans if span[0] == "trainer" and span[1] in BUSY)
    drawing = sum(end - start for start, end in drawn)
    found = {"seconds_per_step": statistics.median(lasted)}
    for phase in ("wait", "sync", "score", "reward", "train"):
        found[f"seconds/{phase}"] = sum(end - start for _, what, start, end in spans if what == phase) / len(kept)
    found["seconds/draw"] = drawing / len(kept)
    found["overlap"] = _shared(drawn, busy) / drawing if drawing else 0.0
    return found


Stretch = tuple[float, float]


def _merged(stretches: Iterable[Stretch]) -> list[Stretch]:
    """The same time, without counting any of it twice.

    >>> _merged([(3, 4), (0, 2), (1, 2.5)])
    [(0, 2.5), (3, 4)]
    """
    found: list[Stretch] = []
    for start, end in sorted(stretches):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def _shared(some: Sequence[Stretch], others: Sequence[Stretch]) -> float:
    """How long both were at work.

    >>> _shared([(0, 2), (3, 4)], [(1, 3.5)])
    1.5
    """
    return sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in some for b in others)
