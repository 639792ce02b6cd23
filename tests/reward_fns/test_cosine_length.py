"""The four corners of the cosine, and that nothing lies beyond them."""

from __future__ import annotations

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward

PROBLEM = Problem("?", "5", "p")
RIGHT, WRONG = "<answer>5</answer>", "<answer>6</answer>"


def judge(text: str, tokens: int, truncated: bool = False) -> float | None:
    completion = Completion(text, tokens, truncated=truncated)
    return load_reward("cosine_length", {"max_tokens": 100}).score_group([completion], PROBLEM)[0].value


@pytest.mark.parametrize(
    ("text", "tokens", "value"),
    [
        (RIGHT, 0, 1.0),
        (RIGHT, 50, 0.75),
        (RIGHT, 100, 0.5),
        (RIGHT, 10_000, 0.5),
        (WRONG, 0, -1.0),
        (WRONG, 50, -0.75),
        (WRONG, 100, -0.5),
        (WRONG, 200, -0.5),
        ("", 0, -1.0),
    ],
)
def test_corners(text: str, tokens: int, value: float) -> None:
    assert judge(text, tokens) == pytest.approx(value)


def test_a_truncated_completion_is_wrong() -> None:
    assert judge(RIGHT, 100, truncated=True) == pytest.approx(-0.5)


def test_without_a_verdict_there_is_no_reward() -> None:
    reward = load_reward("cosine_length", {"max_tokens": 100})
    assert reward.score_group([Completion(RIGHT, 5)], Problem("?", "", "p"))[0].value is None


def test_the_length_must_be_given() -> None:
    with pytest.raises(RecipeError, match="max_tokens"):
        load_reward("cosine_length", {})
    with pytest.raises(RecipeError, match="greater than 0"):
        load_reward("cosine_length", {"max_tokens": 0})
