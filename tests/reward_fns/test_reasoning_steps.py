"""Visible steps earn, up to three of them; empty ones, repeated ones and those of the answer do not."""

from __future__ import annotations

import pytest

from aha.errors import RecipeError
from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward


def judge(text: str, **params: object) -> float | None:
    return load_reward("reasoning_steps", params).score_group([Completion(text)], Problem("?", "5", "p"))[0].value


@pytest.mark.parametrize(
    "thought",
    [
        "Step 1: add 2 and 3\nStep 2: double it\nStep 3: take one away",
        "step 1.\nadd 2 and 3\nstep 2.\ndouble it\nstep 3.\ntake one away",
        "First, I add 2 and 3. Then, I double it. Finally, I take one away.",
        "1. add 2 and 3\n2. double it\n3) take one away",
        "- 2+3=5\n- 5*2=10\n- 10-1=9",
        "* **First**: add\n* second thoughts\n• third thoughts\r\n+ and more",
        "**Step 1:** add 2 and 3\r\n**Step 2:** double it\r\n**Step 3:** take one away",
    ],
)
def test_three_steps_are_full_marks(thought: str) -> None:
    assert judge(f"<think>{thought}</think><answer>9</answer>") == 1.0
    assert judge(f"{thought}</think><answer>9</answer>") == 1.0
    assert judge(thought) == 1.0


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", 0),
        ("<think>2 + 3 is 5</think><answer>5</answer>", 0),
        ("<think>Step 1: add 2 and 3</think>", 1),
        ("<think>Step 1: add them\nStep 2: double it</think>", 2),
        ("<think>Step 1:\nStep 2:\nStep 3:</think>", 0),
        ("<think>- \n- \n- \n</think>", 0),
        ("<think>1. ok\n2. so\n3. no\n</think>", 0),
        ("<think>" + "Step 1: add them\n" * 50 + "</think>", 1),
        ("<think>Step 1: add them\nStep 2:  ADD them!\n3. add, them</think>", 1),
        ("<think>" + "First,\nSecond,\nNext,\nFinally,\n" * 20 + "</think>", 0),
        ("<think>" + "First, Second, Next, Finally, " * 20 + "</think>", 1),
        ("<think>the price is 3. 4. 5. and no more\nx = 1.5 - 2</think>", 0),
        ("<think></think><answer>Step 1: add them\nStep 2: double it\nStep 3: stop here</answer>", 0),
        ("so</think>Step 1: add them\nStep 2: double it\nStep 3: stop here", 0),
        ("it is\n<answer>\n1. add them\n2. double it\n3. stop here</answer>", 0),
    ],
)
def test_what_counts_as_a_step(text: str, steps: int) -> None:
    assert judge(text) == pytest.approx(steps / 3)


def test_more_steps_earn_no_more_than_full_marks() -> None:
    thought = "".join(f"{number}. the number {number}\n" for number in range(1, 500))
    assert judge(thought) == 1.0
    assert judge(thought, steps=1000) == pytest.approx(0.499)


def test_the_shortest_step_is_the_recipes() -> None:
    assert judge("1. a\n2. b\n3. c", min_chars=1) == 1.0
    assert judge("1. add them\n2. double it", min_chars=9) == pytest.approx(0.0)


@pytest.mark.parametrize(
    "piece", ["- ", "Step 1: ", "\n" * 7 + " ", "\t", "1. ", "First,", ". ", "# *_>", "\ud800\x00"]
)
def test_a_megabyte_of_markers_is_read(piece: str) -> None:
    assert judge(piece * (1_000_000 // len(piece))) == pytest.approx(0.0, abs=0.34)


def test_arguments() -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        load_reward("reasoning_steps", {"steps": 0})
