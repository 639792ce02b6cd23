"""An expression of the given numbers that makes the target; anything else is nothing."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward

PROBLEM = Problem("?", "24", "p", {"nums": [3, 3, 8, 8], "target": 24})


def judge(answer: str, problem: Problem = PROBLEM, **params: object) -> Score:
    return load_reward("countdown", params).score_group([Completion(f"<answer>{answer}</answer>")], problem)[0]


@pytest.mark.parametrize(
    "answer",
    ["8/(3-8/3)", "8 ÷ (3 − 8 ÷ 3)", "\\frac{8}{3-\\frac{8}{3}}", "8/(3-8/3) = 24", "\\boxed{8/(3-8/3)}", "+8/(3-8/3)"],
)
def test_makes_the_target(answer: str) -> None:
    assert judge(answer) == Score(1.0, "makes the target")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("24", "not the given numbers"),
        ("8*3", "not the given numbers"),
        ("3+3+8+8", "makes 22"),
        ("8/(3-3)+8", "division by zero"),
        ("8/(3-8/3) = 25", "not an expression"),
        ("24 = 24 = 8/(3-8/3)", "not an expression"),
        ("8^3^8^3", "no sign of the game"),
        ("9**9**9**9", "no sign of the game"),
        ("38+38", "not the given numbers"),
        ("3!*8-8-3", "no sign of the game"),
        ("__import__('os')", "not an expression"),
        ("x+3+8+8", "not an expression"),
        ("(" * 400 + "8", "not an expression"),
        ("8+" * 1000, "not an expression"),
        ("", "not an expression"),
    ],
)
def test_does_not(answer: str, reason: str) -> None:
    score = judge(answer)
    assert score.value == 0.0 and reason in score.reason


def test_numbers_may_be_left_over_when_the_recipe_says_so() -> None:
    assert judge("8*3", use_all=False).value == 1.0
    assert judge("8*3*3/3", use_all=False).value == 0.0


def test_the_right_numbers_can_earn_something() -> None:
    assert judge("3+3+8+8", format_score=0.1).value == 0.1


def test_without_numbers_there_is_no_verdict() -> None:
    assert judge("8*3", Problem("?", "24", "p")).value is None
