"""Which problems a step asks, where TRL's order over the data is not enough: further rounds of a step, and a curriculum.

A draw is a function of the run's seed, the step, the round, and the pass rates measured before the step. Those are in
`pass_rates.jsonl`, so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from pathlib import Path

from aha.rundir import append_jsonl, read_jsonl, write_jsonl
from aha.seeds import seed_of

FLOOR = 0.05
"""What a problem that all completions solve, or none, still weighs against the most telling one: the policy changes."""


class Draws:
    """Problems of a data set of `count`, drawn without replacement within a step.

    Without a file all weigh the same. With one it is a curriculum by pass rate: a problem weighs what its outcomes differed
    by when it was last asked. That is their deviation: for right and wrong the root of p (1 - p), the most at a pass rate
    of one half (what can be learned from a prompt is bounded by that variance: arXiv:2504.03380, section 3). A problem
    that was not asked yet weighs as much as the most telling one.
    """

    def __init__(self, count: int, seed: int, path: Path | None = None, resume_step: int = 0):
        self._count, self._seed, self._path = count, seed, path
        self.spread: dict[int, float] = {}
        if path is None:
            return
        rows = read_jsonl(path)
        kept = [row for row in rows if row["step"] <= resume_step]
        if len(kept) < len(rows):
            write_jsonl(path, kept)
        for row in kept:
            self.spread |= {int(problem): spread for problem, spread in row["spread"].items()}

    @property
    def curriculum(self) -> bool:
        """Whether pass rates are kept, and decide."""
        return self._path is not None

    def draw(self, step: int, round_: int, number: int, asked: Collection[int] = ()) -> list[int]:
        """Indices for one round of a step: at most `number`, and none that the step has asked already."""
        rng = random.Random(seed_of(self._seed, "draw", step, round_))
        chances = [rng.random() for _ in range(self._count)]
        left = set(range(self._count)).difference(asked)
        top = max(self.spread.values(), default=0.0) or 1.0

        def key(problem: int) -> float:
            weight = max(FLOOR, self.spread.get(problem, top) / top) if self.curriculum else 1.0
            return chances[problem] ** (1 / weight)

        # Weighted sampling without replacement: the largest u^(1/w) (Efraimidis and Spirakis 2006).
        return sorted(left, key=key, reverse=True)[:number]

    def note(self, step: int, spread: Mapping[int, float], write: bool) -> None:
        """The deviation of each problem's outcomes; one process writes it down. Nothing without a curriculum."""
        if self.curriculum:
            self.spread |= spread
        if write and self._path is not None:
            append_jsonl(
                self._path, {"step": step, "spread": {str(problem): value for problem, value in spread.items()}}
            )
