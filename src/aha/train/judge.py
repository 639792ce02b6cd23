"""Between TRL and the rewards: completions go to the scorer, totals come back, and every verdict is kept for the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from aha.recipe.schema import Chat
from aha.rewards.scorer import Judged, Scorer
from aha.types import Completion, Problem

Judgement = tuple[Problem, Completion, Judged]


class Judge:
    """What TRL calls for rewards: the weighted total of the recipe's rewards, None where there is no verdict."""

    __name__ = "total"

    def __init__(self, scorer: Scorer, problems: Sequence[Problem], group_size: int, end_ids: set[int], chat: Chat):
        self._scorer = scorer
        self.problems = problems
        self.group_size = group_size
        self._end_ids = end_ids
        self._chat = chat
        self.last: list[Judgement] = []
        self.known: list[Judgement] | None = None
        """Set by who has asked already: what TRL is answered, in the order of its batch."""
        self.seconds = 0.0

    def __call__(
        self, completions: list[Any], completion_ids: list[list[int]], problem_index: list[int], **_: Any
    ) -> list[float | None]:
        if self.known is not None:
            self.last = self.known
            return [judged.total for _, _, judged in self.last]
        began = time.perf_counter()
        problems = [self.problems[index] for index in problem_index]
        answers = [
            Completion(
                messages[0]["content"],
                len(ids),
                truncated=ids[-1] not in self._end_ids,
                think=self._chat.think,
                answer=self._chat.answer,
            )
            for messages, ids in zip(completions, completion_ids, strict=True)
        ]
        judged = self._scorer.score(answers, problems, self.group_size)
        self.last = list(zip(problems, answers, judged, strict=True))
        self.seconds = time.perf_counter() - began
        return [one.total for one in judged]

    def each(self) -> dict[str, Callable[..., list[float | None]]]:
        """One function per reward that carries weight. The first one asks the scorer, the others read what it said.

        A completion without a total has no value in any of them: TRL leaves out only what no function judged.
        """
        names = [name for name, weight in self._scorer.weights.items() if weight]
        return {name: self._reader(name, asks=name == names[0]) for name in names}

    def _reader(self, name: str, asks: bool) -> Callable[..., list[float | None]]:
        def read(**batch: Any) -> list[float | None]:
            if asks:
                self(**batch)
            return [None if judged.total is None else judged.counted[name] for _, _, judged in self.last]

        read.__name__ = name
        return read


def without_signal(judged: Sequence[Judged], names: Sequence[str], group_size: int) -> float:
    """The share of groups in which no reward tells one judged completion from another."""
    groups = [judged[start : start + group_size] for start in range(0, len(judged), group_size)]
    kinds = [{tuple(one.counted[name] for name in names) for one in group if one.total is not None} for group in groups]
    return sum(len(kind) < 2 for kind in kinds) / len(groups)


def rollout_line(
    step: int, problem: Problem, completion: Completion, judged: Judged, advantage: float, in_loss: bool
) -> dict[str, Any]:
    """One line of `rollouts/step-….jsonl`; `in_loss` says whether its tokens are trained on."""
    return {
        "step": step,
        "problem_id": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "completion": completion.text,
        "tokens": completion.tokens,
        "truncated": completion.truncated,
        "rewards": {
            name: {"value": verdict.value, "reason": verdict.reason, "seconds": round(verdict.seconds, 6)}
            for name, verdict in judged.verdicts.items()
        },
        "reward": judged.total,
        "advantage": round(advantage, 6),
        "in_loss": in_loss,
    }
