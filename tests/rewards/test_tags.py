"""The tags of the recipe's `chat:` block reach every reward, with the completion."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem, after_thinking, final_answer, thought
from aha.rewards.load import load_reward

TAGS = {"think": ("[[", "]]"), "answer": ("{{", "}}")}
OURS = Completion("[[7 + 5, or <answer>13</answer>]]{{12}}", **TAGS)
THEIRS = Completion("<think>7 + 5</think><answer>12</answer>", **TAGS)


@pytest.mark.parametrize("name", ["think_format", "tag_count", "math_answer"])
def test_marks_are_for_the_tags_of_the_recipe(name: str) -> None:
    problem = Problem("7 + 5?", "12", "p")
    reward = load_reward(name, {"require": "answer_tag"} if name == "math_answer" else {})
    assert [score.value for score in reward.score_group([OURS, THEIRS], problem)] == [1.0, 0.0]


def test_what_was_said_where() -> None:
    assert thought(OURS) == "7 + 5, or <answer>13</answer>"
    assert after_thinking(OURS) == "{{12}}"
    assert final_answer(OURS) == "12"
    assert final_answer(THEIRS, "answer_tag") is None


def test_thoughts() -> None:
    assert thought(Completion("a</think>b</think>c")) == "a</think>b"
    assert thought(Completion("before <think>in</think>after")) == "before in"
    assert thought(Completion("still <think>thinking", prompt_tail="<think>")) == "still thinking"
    assert thought(Completion("plain<answer>5</answer>")) == "plain"
