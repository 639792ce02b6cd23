"""Only one layout earns anything."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward

GOOD = "<think>2+3=5</think><answer>5</answer>"


def judge(text: str, tail: str = "", **params: object) -> Score:
    return load_reward("think_format", params).score_group(
        [Completion(text, prompt_tail=tail)], Problem("?", "5", "p")
    )[0]


@pytest.mark.parametrize(
    "text", [GOOD, "<think></think><answer>5</answer>", f"\n{GOOD}\r\n", GOOD.replace("><", ">\r\n<")]
)
def test_full_marks(text: str) -> None:
    assert judge(text) == Score(1.0, "one thought, one answer")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 times <think>"),
        ("5", "0 times <think>"),
        (GOOD * 2, "2 times <think>"),
        (GOOD * 1000, "1000 times <think>"),
        ("<think>a</think><answer>5</answer><answer>6</answer>", "2 times <answer>"),
        ("<think>a</think>", "0 times <answer>"),
        ("<answer>5</answer><think>a</think>", "out of order"),
        ("</think>a<think><answer>5</answer>", "out of order"),
        (f"Sure! {GOOD}", "outside"),
        (f"{GOOD} Done.", "outside"),
        ("<think>a</think>So<answer>5</answer>", "outside"),
        ("<think>a<answer>5</answer></think>", "out of order"),
        ("<think>a</think><answer> \n</answer>", "blank answer"),
        (GOOD.replace("<think>", "<think type='x'>"), "0 times <think>"),
        (GOOD.replace("<think>", "<thi\u200bnk>"), "0 times <think>"),
        (GOOD.replace("<", "＜"), "0 times <think>"),
    ],
)
def test_no_marks(text: str, reason: str) -> None:
    score = judge(text)
    assert score.value == 0.0 and reason in score.reason


def test_the_template_may_have_opened_the_block() -> None:
    assert judge("2+3=5</think><answer>5</answer>", tail="<think>\n").value == 1.0
    assert judge(GOOD, tail="<think>\n").value == 0.0


def test_a_thought_can_be_asked_for() -> None:
    assert judge("<think> \n</think><answer>5</answer>", min_think_chars=1).value == 0.0
    assert judge(GOOD, min_think_chars=5).value == 1.0


def test_the_tags_are_arguments() -> None:
    assert judge("[a]b[/a]{5}", think=["[a]", "[/a]"], answer=["{", "}"]).value == 1.0
