"""A stage's measurements, one JSON line per logged step.

A stage that resumes from step 50 writes the steps after it again; what an interrupted process had written of them is
dropped first, so that every step stands in the file once.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from aha.rundir import append_jsonl, read_jsonl, write_jsonl


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
