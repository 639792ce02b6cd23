"""A penalty that grows over the last stretch before the length limit.

Source: DAPO, soft overlong punishment (arXiv:2503.14476, section 3.4). Range: -1 to 0. With L = `max_tokens` and C =
`cache`, it is 0 up to L - C tokens, falls linearly to -1 at L, and stays there.

Choices: the length is the policy's own tokens, as the trainer counted them. The paper's values are 20480 and 4096.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score


@dataclass(frozen=True)
class Params:
    max_tokens: int
    cache: int
    """Length of the stretch before `max_tokens` over which the penalty grows."""

    def __post_init__(self) -> None:
        if not 0 < self.cache <= self.max_tokens:
            raise ValueError("0 < cache <= max_tokens")


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    excess = completion.tokens - (params.max_tokens - params.cache)
    if excess <= 0:
        return Score(0.0, "short enough")
    return Score(-min(excess / params.cache, 1.0), f"{excess} tokens into the last stretch")
