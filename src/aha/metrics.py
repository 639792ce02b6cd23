"""A stage's measurements, one JSON line per logged step.

A stage that resumes from step 50 writes the steps after it again; what an interrupted process had written of them is
dropped first, so that every step stands in the file once.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from aha.rundir import append_jsonl, read_jsonl, write_jsonl


def short_names(rewards: Iterable[str]) -> dict[str, str]:
    """What each reward of a recipe is called in metrics, rollouts and report: its own name, each name once.

    >>> short_names(["math_answer", "ideas/digits.py", "more/digits.py", "my.rewards:polite", "fn.py:score"])
    {'math_answer': 'math_answer', 'ideas/digits.py': 'digits', 'more/digits.py': 'digits-2', 'my.rewards:polite': 'polite', 'fn.py:score': 'fn'}
    """
    names = sorted(rewards, key=lambda name: name != _short_name(name))  # a reward of the library is called by its name
    found: dict[str, str] = {}
    for name in names:
        short, number = _short_name(name), 1
        taken = set(found.values())
        while (unique := short if number == 1 else f"{short}-{number}") in taken:
            number += 1
        found[name] = unique
    return found


def _short_name(reward: str) -> str:
    """The function of `module:function`, the stem of `path/to/file.py` and `path/to/file.py:score`."""
    source, colon, function = reward.rpartition(":") if ":" in reward else (reward, "", "")
    if colon and function not in ("score", "score_group"):
        return function
    stem = source.removesuffix(".py")
    return Path(stem).name if source.endswith(".py") else stem.rpartition(".")[2]


class MetricsWriter:
    """Appends steps to a metrics file. What it has written survives the process.

    with MetricsWriter(stage / "metrics.jsonl", resume_step=50) as metrics:
        metrics.write(51, loss=0.7, **{"reward/math_answer": 0.4})
    """

    def __init__(self, path: str | Path, resume_step: int = 0) -> None:
        self.path = Path(path)
        rows = read_metrics(self.path)
        kept = [row for row in rows if row["step"] <= resume_step]
        if len(kept) < len(rows):
            write_jsonl(self.path, kept)

    def write(self, step: int, **values: Any) -> None:
        """Add one step. NaN and infinities become null; scalars of NumPy and torch become numbers."""
        plain = {name: _plain(value) for name, value in values.items()}
        append_jsonl(self.path, {"step": step, "time": time.time(), **plain})

    def close(self) -> None:
        """Nothing is held between two writes; here so that a writer can be used like a file."""

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All logged steps of a stage, in order; none when it has not logged yet. A torn last line is left out."""
    return read_jsonl(path)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
