"""A quarter for each tag in its place."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward

PROBLEM = Problem("?", "5", "p")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think>a</think><answer>5</answer>", 1.0),
        ("<think>\r\na\r\n</think>\r\n<answer>\r\n5\r\n</answer>", 1.0),
        ("<think>a</think>", 0.5),
        ("<think>a", 0.25),
        ("", 0.0),
        ("<think>a</think><answer>5</answer>" * 2, 0.0),
        ("<think><think>a</think><answer>5</answer>", 0.75),
        ("</answer><answer></think><think>", 0.25),
    ],
)
def test_marks(text: str, value: float) -> None:
    assert load_reward("tag_count", {}).score_group([Completion(text)], PROBLEM)[0].value == value


def test_tags_of_the_template_count() -> None:
    completion = Completion("a</think><answer>5</answer>", prompt_tail="<think>\n")
    assert load_reward("tag_count", {}).score_group([completion], PROBLEM)[0].value == 1.0
