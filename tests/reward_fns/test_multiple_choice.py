"""One letter, however it is dressed; two letters are no answer."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward

PROBLEM = Problem("?", "C", "p", {"choices": ["red", "green", "blue", "a shade"]})


def judge(answer: str, problem: Problem = PROBLEM) -> float | None:
    completion = Completion(f"<think>A? B?</think><answer>{answer}</answer>")
    return load_reward("multiple_choice", {}).score_group([completion], problem)[0].value


@pytest.mark.parametrize(
    "answer",
    [
        "C",
        " c ",
        "(C)",
        "C.",
        "Option C",
        "\\boxed{C}",
        "\\text{(C)}",
        "$C$",
        "C) blue",
        "(C) blue",
        "blue",
        "Answer: C",
    ],
)
def test_right(answer: str) -> None:
    assert judge(answer) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "A",
        "",
        "A or C",
        "C or A",
        "C, D",
        "(A) (C)",
        "CD",
        "not C",
        "red",
        "C) blue or D) a shade",
        "any",
        "C" * 100_000,
    ],
)
def test_wrong(answer: str) -> None:
    assert judge(answer) == 0.0


def test_nothing_is_read_inside_the_thoughts() -> None:
    found = load_reward("multiple_choice", {}).score_group([Completion("<think>The answer is C</think>")], PROBLEM)
    assert found[0].value == 0.0


def test_a_problem_without_a_letter_is_not_judged() -> None:
    assert judge("C", Problem("?", "blue", "p")) is None
