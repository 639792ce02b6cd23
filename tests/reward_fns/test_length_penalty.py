"""Lengths count within the group, and being short never makes a wrong answer good."""

from __future__ import annotations

from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward

RIGHT, WRONG = "<answer>5</answer>", "<answer>6</answer>"


def judge(*completions: tuple[str, int], answer: str = "5") -> list[Score]:
    group = [Completion(text, tokens) for text, tokens in completions]
    return load_reward("length_penalty", {}).score_group(group, Problem("?", answer, "p"))


def values(scores: list[Score]) -> list[float | None]:
    return [score.value for score in scores]


def test_the_formula_of_the_paper() -> None:
    assert values(judge((RIGHT, 10), (RIGHT, 20), (RIGHT, 30))) == [0.5, 0.0, -0.5]
    assert values(judge((WRONG, 10), (RIGHT, 20), (WRONG, 30))) == [0.0, 0.0, -0.5]


def test_equal_lengths_earn_nothing() -> None:
    assert values(judge((RIGHT, 10), (WRONG, 10))) == [0.0, 0.0]
    assert values(judge((RIGHT, 10))) == [0.0]


def test_a_truncated_completion_is_wrong() -> None:
    group = [Completion(RIGHT, 10, truncated=True), Completion(RIGHT, 20)]
    assert values(load_reward("length_penalty", {}).score_group(group, Problem("?", "5", "p"))) == [0.0, -0.5]


def test_without_verdicts_there_are_no_rewards() -> None:
    scores = judge((RIGHT, 10), (RIGHT, 20), answer="")
    assert values(scores) == [None, None] and "reference" in scores[0].reason
