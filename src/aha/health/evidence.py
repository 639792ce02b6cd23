"""What a diagnosis is made from: the logged steps, the newest completions, and the recipe they came from.

A metric that is missing or was not finite (null in the file) is no value, and a rule that lacks its values is silent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from aha.metrics import short_names
from aha.recipe.algorithms import algorithm_of, outcome_of
from aha.recipe.document import Keys
from aha.recipe.schema import Grpo, Recipe

Row = Mapping[str, Any]

LATELY = 5
"""Logged steps that "lately" means, for metrics and for completions: one odd batch is no diagnosis, and five steps are
soon enough to save the rest of the run."""
THIRD = 4
"""Points that the first and the last third of a curve need before they are compared: a spread of fewer says little."""
CLEAR = 3.0
"""Standard errors by which two means differ before a curve has moved. Steps next to each other are alike, so this is
stricter than it looks for independent draws."""


@dataclass(frozen=True)
class Diagnosis:
    """One thing that is wrong with a run."""

    name: str
    severity: Literal["severe", "warn"]
    """`severe`: further steps teach nothing, or the wrong thing. `grpo.health: stop` ends the stage on these."""
    evidence: str
    """The numbers, and the steps they are of."""
    keys: Keys
    """Where in the recipe the remedy stands."""
    advice: str


class Point(NamedTuple):
    """One logged value."""

    step: int
    value: float


@dataclass(frozen=True)
class Trend:
    """The first and the last third of a curve."""

    before: float
    after: float
    errors: float
    """How many standard errors the last third lies above the first."""
    first: str
    last: str
    """The steps of the two, in words."""

    @property
    def rises(self) -> bool:
        return self.errors > CLEAR

    @property
    def falls(self) -> bool:
        return self.errors < -CLEAR


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def span(steps: list[int]) -> str:
    """
    >>> span([6, 7, 8]), span([6])
    ('steps 6-8', 'step 6')
    """
    return f"steps {steps[0]}-{steps[-1]}" if steps[-1] > steps[0] else f"step {steps[0]}"


def mean(points: list[Point]) -> float:
    return statistics.fmean(point.value for point in points)


def trend(points: list[Point]) -> Trend | None:
    """How a curve has moved; None when it is too short to say."""
    size = len(points) // 3
    if size < THIRD:
        return None
    early, late = points[:size], points[-size:]
    spread = math.sqrt(sum(statistics.variance(value for _, value in part) / size for part in (early, late)))
    change = mean(late) - mean(early)
    errors = change / spread if spread else math.copysign(math.inf, change) if change else 0.0
    return Trend(mean(early), mean(late), errors, *(span([step for step, _ in part]) for part in (early, late)))


@dataclass(frozen=True)
class Evidence:
    """The rows of metrics.jsonl so far, and the rollout lines of the newest steps, in their order."""

    recipe: Recipe
    metrics: list[Row]
    rollouts: list[Row]

    @property
    def grpo(self) -> Grpo:
        assert self.recipe.grpo is not None
        return self.recipe.grpo

    @cached_property
    def weights(self) -> dict[str, float]:
        """The rewards that count, by name."""
        entries = self.grpo.rewards.items()
        found = {name: entry.get("weight", 1.0) if isinstance(entry, dict) else entry for name, entry in entries}
        return {name: float(weight) for name, weight in found.items() if weight}

    @cached_property
    def outcome(self) -> str:
        """The reward that says "correct"."""
        return outcome_of(self.recipe)

    @property
    def chosen(self) -> bool:
        """Whether dynamic sampling chose the completions by their outcome. The metrics are of what it chose from."""
        return algorithm_of(self.grpo).dynamic_sampling.enabled

    @cached_property
    def short(self) -> dict[str, str]:
        """What metrics and rollouts call each reward of the recipe."""
        return short_names(self.grpo.rewards)

    def curve(self, key: str) -> list[Point]:
        """A metric over the steps that have a value; a reward's goes by the recipe's name of it."""
        kind, _, reward = key.partition("/")
        if kind == "reward" and reward in self.short:
            key = f"reward/{self.short[reward]}"
        found = [(number(row.get("step")), number(row.get(key))) for row in self.metrics]
        return [Point(int(step), value) for step, value in found if step is not None and value is not None]

    def lately(self, key: str) -> list[Point]:
        """Its newest `LATELY` values; none while there are fewer."""
        points = self.curve(key)[-LATELY:]
        return points if len(points) == LATELY else []

    def trends(self, *keys: str) -> list[list[Trend]]:
        """The trends of several metrics over the whole run, and over its latter half: what begins late shows there."""
        curves = [self.curve(key) for key in keys]
        windows = (curves, [points[len(points) // 2 :] for points in curves])
        found = [[trend(points) for points in window] for window in windows]
        return [[one for one in window if one is not None] for window in found if None not in window]

    # --- completions ---

    @cached_property
    def steps(self) -> list[int]:
        """The steps whose completions were read."""
        return sorted({int(step) for row in self.rollouts if (step := number(row.get("step"))) is not None})

    def values(self, reward: str) -> list[float | None]:
        """One reward's value for each completion; None where it gave no verdict."""
        return [number(_verdict(row, self.short.get(reward, reward)).get("value")) for row in self.rollouts]

    def reasons(self, reward: str, judged: bool) -> str:
        """The reason it gave most often, for verdicts with or without a value."""
        verdicts = [_verdict(row, self.short.get(reward, reward)) for row in self.rollouts]
        texts = [str(one.get("reason", "")) for one in verdicts if (number(one.get("value")) is not None) == judged]
        most = statistics.mode(texts)[:120] if texts else ""
        return "".join(sign if sign.isprintable() else "·" for sign in most)  # it may quote a hostile completion

    @cached_property
    def groups(self) -> list[list[Row]]:
        """The completions of one problem at one step."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rollouts:
            found.setdefault((str(row.get("step")), str(row.get("problem_id"))), []).append(row)
        return list(found.values())

    @cached_property
    def correct(self) -> float | None:
        """The outcome's mean over the completions that were read; where they are none, or were chosen for it, over the
        newest steps.
        """
        known = [value for value in self.values(self.outcome) if value is not None]
        if known and not self.chosen:
            return statistics.fmean(known)
        points = self.lately(f"reward/{self.outcome}")
        return mean(points) if points else None


def _verdict(row: Row, reward: str) -> Row:
    rewards = row.get("rewards")
    found = rewards.get(reward) if isinstance(rewards, Mapping) else None
    return found if isinstance(found, Mapping) else {}
