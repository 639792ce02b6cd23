"""Only one layout earns anything, and what the code does is not asked."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem, Score
from aha.rewards.load import load_reward

BLOCK = "```python\nprint(7)\n```"
GOOD = f"<think>add them</think>\n{BLOCK}"
TAGGED = f"<think>add them</think><answer>\n{BLOCK}\n</answer>"


def judge(text: str, tail: str = "", **params: object) -> Score:
    return load_reward("code_format", params).score_group([Completion(text, prompt_tail=tail)], Problem("?", "", "p"))[
        0
    ]


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n{GOOD}\r\n",
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("```", "~~~~"),
        GOOD.replace("python", "Python"),
        f"<think></think>Here it is:\n{BLOCK}\nIt prints 7.",
        f"<think>first try:\n{BLOCK}\n{BLOCK}</think>\n{BLOCK}",
        TAGGED,
    ],
)
def test_full_marks(text: str) -> None:
    assert judge(text) == Score(1.0, "one thought, one block of python")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 times <think>"),
        (BLOCK, "0 times <think>"),
        (GOOD * 2, "2 times <think>"),
        (GOOD * 1000, "1000 times <think>"),
        (f"<think>{BLOCK}", "0 times </think>"),
        (f"</think>{BLOCK}<think>", "out of order"),
        (f"Sure! {GOOD}", "outside"),
        ("<think>a</think>print(7)", "0 code blocks"),
        (f"<think>{BLOCK}</think>print(7)", "0 code blocks"),
        (f"{GOOD}\n{BLOCK}", "2 code blocks"),
        (f"{GOOD}\n```text\n7\n```", "2 code blocks"),
        ("<think>a</think>\n```python\nprint(7)", "0 code blocks"),
        (GOOD.replace("python", ""), "no language"),
        (GOOD.replace("python", "cpp"), "a block of cpp"),
        (GOOD.replace("print(7)", " "), "empty code block"),
        (GOOD.replace("<think>", "＜think＞"), "0 times <think>"),
    ],
)
def test_no_marks(text: str, reason: str) -> None:
    score = judge(text)
    assert score.value == 0.0 and reason in score.reason


def test_the_template_may_have_opened_the_block() -> None:
    assert judge(GOOD.removeprefix("<think>"), tail="<think>\n").value == 1.0
    assert judge(GOOD, tail="<think>\n").value == 0.0


def test_answer_tags_can_be_asked_for() -> None:
    assert judge(TAGGED, answer_tags=True).value == 1.0
    assert judge(GOOD, answer_tags=True) == Score(0.0, "0 times <answer>")
    assert judge(f"{TAGGED} Done.", answer_tags=True).reason == "text outside of the tags"
    assert judge(f"<think>a</think>So<answer>{BLOCK}</answer>", answer_tags=True).reason == "text outside of the tags"
    assert judge(f"<answer><think>a</think>{BLOCK}</answer>", answer_tags=True).value == 0.0
    assert judge(f"<think>a</think></answer>{BLOCK}<answer>", answer_tags=True).value == 0.0


def test_the_language_is_an_argument() -> None:
    assert judge(GOOD.replace("python", "cpp"), language="cpp").value == 1.0
    assert judge(GOOD, language="cpp").value == 0.0
