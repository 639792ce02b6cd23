"""From completions to verdicts: all rewards of a recipe, over groups, in killable processes.

A verdict without a value never becomes a score. A completion for which a reward that carries weight has no value has
no total, and so leaves its group's baseline. A reward may count `only_if` another one gave full marks. A reward that *fails* (time-out, dead worker, exception, nonsense) beyond
its budget ends the run with its name: training on what is left would be training on a biased sample.
"""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aha.errors import RewardError
from aha.metrics import short_names
from aha.rewards.contract import Failure, Score
from aha.rewards.load import check_params, describe, read_entry
from aha.rewards.pool import Outcome, Pool, Task, Unit
from aha.rewards.worker import Payload
from aha.types import Completion, Problem

TEXT_LIMIT = 1 << 18
"""Characters of a completion that rewards see. Twice what 32k tokens of honest reasoning come to; of more, the end."""
DEADLINE = 5.0
"""Seconds for a completion where nobody says otherwise; evaluations always take it."""
BUDGET_SAMPLE = 20
"""Completions that must have been judged before the failure budget is held against a reward."""


@dataclass(frozen=True)
class Verdict:
    """What one reward said about one completion."""

    value: float | None
    reason: str
    seconds: float = 0.0
    failed: bool = False
    """The reward or the machine failed; False for a reward that looked and declined to judge."""


@dataclass(frozen=True)
class Judged:
    """All verdicts on one completion, by the rewards' short names, and what they come to."""

    verdicts: dict[str, Verdict]
    counted: dict[str, float | None]
    """What each reward counts: its value, or 0 where its `only_if` is shut; None where one of the two has no value."""
    total: float | None
    """The weighted sum of what is counted: None when something that carries weight has no value."""


class Scorer:
    """Judges groups of completions with the rewards of a recipe.

    `rewards` is the recipe's own block: name → weight, or name → {weight, only_if, arguments}. `deadline` is in seconds
    per completion. Results stand in the order of the inputs and do not depend on the number of workers.
    """

    def __init__(
        self,
        rewards: Mapping[str, float | Mapping[str, Any]],
        deadline: float = DEADLINE,
        workers: int = 2,
        failure_budget: float = 0.05,
        where: str = "rewards",
    ):
        entries = {name: read_entry(entry) for name, entry in rewards.items()}
        for name, entry in entries.items():
            check_params(name, entry.params, f"{where}.{name}", deadline)
        short = short_names(entries)
        self.weights = {short[name]: entry.weight for name, entry in entries.items()}
        self._gates = {short[name]: short[entry.only_if] for name, entry in entries.items() if entry.only_if}
        self._budget = {short[name]: _Budget(name, failure_budget) for name in entries}
        self._pool = Pool([(name, entry.params) for name, entry in entries.items()], workers, deadline)
        self._lock = threading.Lock()

    @property
    def notes(self) -> list[str]:
        """What the rewards said when they warmed up, for the person who watches."""
        return self._pool.notes

    @property
    def decisive(self) -> list[str]:
        """The rewards without whose verdict a completion has no total: those with a weight, and their gates."""
        gates = [gate for name, gate in self._gates.items() if self.weights[name]]
        return [name for name, weight in self.weights.items() if weight or name in gates]

    def score(
        self,
        completions: Sequence[Completion],
        problems: Sequence[Problem],
        group_size: int,
        on_trial: bool = False,
    ) -> list[Judged]:
        """Verdicts for flat, aligned lists in which each `group_size` neighbours answer the same problem.

        What fails `on_trial` does not count against the failure budget. Raises RewardError when a reward is beyond it.
        """
        assert len(completions) == len(problems) and len(completions) % group_size == 0
        starts = range(0, len(completions), group_size)
        groups = [(completions[start : start + group_size], problems[start]) for start in starts]
        with self._lock:
            tasks = [self._task(*group) for group in groups]
            outcomes = self._pool.run(tasks)
            judged = [
                self._judged(scored, completion)
                for (members, _), task, found in zip(groups, tasks, outcomes, strict=True)
                for completion, scored in zip(members, _by_member(task, found, group_size), strict=True)
            ]
            if not on_trial:
                self._hold_to_budget(judged, completions, problems)
        return judged

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _task(self, completions: Sequence[Completion], problem: Problem) -> Task:
        units: list[Unit] = []
        for reward, whole_group in enumerate(self._pool.whole_group):
            everyone = range(len(completions))
            units += (
                [Unit(reward, tuple(everyone))] if whole_group else [Unit(reward, (member,)) for member in everyone]
            )
        return Task(tuple(units), _payload(completions, problem))

    def _judged(self, scored: Sequence[tuple[Score, float]], completion: Completion) -> Judged:
        cut = f" (of the last {TEXT_LIMIT} characters)" if len(completion.text) > TEXT_LIMIT else ""
        verdicts = {
            name: Verdict(score.value, score.reason + cut, seconds, isinstance(score, Failure))
            for name, (score, seconds) in zip(self.weights, scored, strict=True)
        }
        counted = {name: self._counted(name, verdicts) for name in verdicts}
        return Judged(verdicts, counted, self._total(counted))

    def _counted(self, name: str, verdicts: Mapping[str, Verdict]) -> float | None:
        """The gate's own verdict decides, not what the gate itself counts: two rewards may look at each other."""
        gate = self._gates.get(name)
        opened = 1.0 if gate is None else verdicts[gate].value
        return verdicts[name].value if opened == 1.0 else None if opened is None else 0.0

    def _total(self, counted: Mapping[str, float | None]) -> float | None:
        total = 0.0
        for name, weight in self.weights.items():
            value = counted[name]
            if weight and value is None:
                return None
            total += weight * (value or 0.0)
        return total

    def _hold_to_budget(
        self, judged: Sequence[Judged], completions: Sequence[Completion], problems: Sequence[Problem]
    ) -> None:
        for name, budget in self._budget.items():
            for each, completion, problem in zip(judged, completions, problems, strict=True):
                budget.note(each.verdicts[name], completion, problem)
            budget.check()


class _Budget:
    """How many of a reward's completions may fail, counted over at least BUDGET_SAMPLE of them."""

    def __init__(self, name: str, share: float):
        self._name, self._share = name, share
        self._seen, self._failed, self._example = 0, 0, ""

    def note(self, verdict: Verdict, completion: Completion, problem: Problem) -> None:
        self._seen += 1
        if verdict.failed:
            self._failed += 1
            self._example = (
                self._example or f"problem {problem.id}: {verdict.reason}; completion …{completion.text[-200:]!r}"
            )

    def check(self) -> None:
        if self._seen < BUDGET_SAMPLE:
            return
        seen, failed, example = self._seen, self._failed, self._example
        self._seen, self._failed, self._example = 0, 0, ""
        if failed > self._share * seen:
            raise RewardError(
                f"reward {self._name} failed on {failed} of {seen} completions; its budget is {self._share:.0%}.\n"
                f"The first was {example}"
            )


def _payload(completions: Sequence[Completion], problem: Problem) -> Payload:
    """A group as bytes; of a problem that cannot be pickled, the reason why."""
    shortened = [
        dataclasses.replace(each, text=each.text[-TEXT_LIMIT:]) if len(each.text) > TEXT_LIMIT else each
        for each in completions
    ]
    try:
        asked = pickle.dumps(dataclasses.replace(problem, meta=dict(problem.meta)))
        return asked, [pickle.dumps(each) for each in shortened]
    except Exception as error:
        return describe(error)


def _by_member(task: Task, outcomes: Sequence[Outcome], group_size: int) -> list[list[tuple[Score, float]]]:
    """Outcomes, which stand by unit, as one list of scores per member of the group, in the order of the rewards."""
    scored: list[list[tuple[Score, float]]] = [[] for _ in range(group_size)]
    for unit, outcome in zip(task.units, outcomes, strict=True):
        for member, score in zip(unit.members, outcome.scores, strict=True):
            scored[member].append((score, outcome.seconds / len(unit.members)))
    return scored
