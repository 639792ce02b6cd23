"""Among the answers to one problem, shorter is better: the length reward of Kimi k1.5.

Source: Kimi k1.5 (arXiv:2501.12599, section 2.3.3). Range: -0.5 to 0.5. With lengths from `shortest` to `longest` in
the group, lambda = 0.5 - (length - shortest) / (longest - shortest); a right answer earns lambda, a wrong one min(0,
lambda).

Choices: the statistics are those of the problem's own group, never of the batch. Lengths are in tokens. When all are
equally long, everyone earns 0. A completion that the length limit cut off is wrong. Members for whom the grader has
no verdict have none here, and do not count for the lengths either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score, grader


@dataclass(frozen=True)
class Params:
    grader: str = "math_answer"


def score_group(completions: Sequence[Completion], problem: Problem, params: Params) -> list[Score]:
    verdicts = grader(params.grader).score_group(completions, problem)
    lengths = [
        completion.tokens
        for completion, verdict in zip(completions, verdicts, strict=True)
        if verdict.value is not None
    ]
    if not lengths:
        return verdicts
    shortest, longest = min(lengths), max(lengths)
    return [
        verdict if verdict.value is None else _score(completion, verdict.value == 1.0, shortest, longest)
        for completion, verdict in zip(completions, verdicts, strict=True)
    ]


def _score(completion: Completion, right: bool, shortest: int, longest: int) -> Score:
    if shortest == longest:
        return Score(0.0, "all equally long")
    value = 0.5 - (completion.tokens - shortest) / (longest - shortest)
    right = right and not completion.truncated
    return Score(value if right else min(0.0, value), f"{'right' if right else 'wrong'}, {completion.tokens} tokens")


def warm_up(params: Params) -> None:
    grader(params.grader).warm_up()
