"""Zero, a straight line, minus one."""

from __future__ import annotations

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward


@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (100, -1.0), (101, -1.0), (10**9, -1.0)]
)
def test_the_line(tokens: int, value: float) -> None:
    reward = load_reward("soft_overlong", {"max_tokens": 100, "cache": 20})
    found = reward.score_group([Completion("x", tokens)], Problem("?", "5", "p"))[0]
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    "params", [{"max_tokens": 100, "cache": 0}, {"max_tokens": 10, "cache": 20}, {"max_tokens": 10}]
)
def test_arguments_are_checked(params: dict[str, int]) -> None:
    with pytest.raises(RecipeError, match="cache"):
        load_reward("soft_overlong", params)
