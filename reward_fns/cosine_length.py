"""Right answers earn more when they are short, wrong ones lose less when they are long: a cosine over the length.

Source: "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, section 4.1), with its defaults in Open R1.
Range: `wrong_short` to `right_short`, by default -1 to 1; None when the grader gives no verdict.

Choices: right and wrong are the `grader`'s word (full marks are right). The length is in tokens and clamped to
`max_tokens`: beyond its half period the cosine would turn round and pay for a wrong answer that is longer still. A
completion that the length limit cut off is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score, grader


@dataclass(frozen=True)
class Params:
    max_tokens: int
    """Length at which the cosine has reached its end."""
    right_short: float = 1.0
    right_long: float = 0.5
    wrong_short: float = -1.0
    wrong_long: float = -0.5
    grader: str = "math_answer"

    def __post_init__(self) -> None:
        if self.max_tokens <= 0:
            raise ValueError("max_tokens greater than 0")


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    verdict = grader(params.grader).score_group([completion], problem)[0]
    if verdict.value is None:
        return verdict
    right = verdict.value == 1.0 and not completion.truncated
    share = min(completion.tokens / params.max_tokens, 1.0)
    short, long = (params.right_short, params.right_long) if right else (params.wrong_short, params.wrong_long)
    value = long + (short - long) * (1.0 + math.cos(share * math.pi)) / 2.0
    return Score(value, f"{'right' if right else 'wrong'}, at {share:.0%} of the length")


def warm_up(params: Params) -> None:
    grader(params.grader).warm_up()
