"""What an honest completion looks like: a problem's answer, or a wrong one, after some thinking, in each usual form.

Rewards differ in what they read. Before a run the problems' own answers are tried in these forms (`golds.py`), and so is
a reward that somebody has just written (`reward_kit/check.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aha.types import Problem

SHORT, LONG = 40, 400
"""Tokens that an honest completion claims to have: rewards may look at the length."""
OPTIONS = ("0", "1", "2", "3", "A", "B", "yes", "no")
"""Wrong answers for a problem whose data hold no other answer than its own."""
WORKING = "First step: 3 + 4 = 7.\nThen I take away two, 7 - 2 = 5, and go on from there.\nSo it should be {answer}."


class Tags(NamedTuple):
    """How a chat marks its thinking and its answer."""

    think: tuple[str, str] = ("<think>", "</think>")
    answer: tuple[str, str] = ("<answer>", "</answer>")


USUAL = Tags()


def _own(problem: Problem, tags: Tags) -> str:
    return str(problem.meta.get("completion", ""))


def _thought(problem: Problem, tags: Tags) -> str:
    return f"{tags.think[0]}\n{WORKING.replace('{answer}', problem.answer)}\n{tags.think[1]}\n"


def _tagged(answer: str, tags: Tags) -> str:
    return f"{tags.answer[0]}{answer}{tags.answer[1]}"


def _boxed(problem: Problem) -> str:
    return f"\\boxed{{{problem.answer}}}"


AS_ITS_ROW = "as its row's completion"
FORMS: dict[str, Callable[[Problem, Tags], str]] = {
    AS_ITS_ROW: _own,
    "in an answer tag": lambda problem, tags: _thought(problem, tags) + _tagged(problem.answer, tags),
    "in a box in an answer tag": lambda problem, tags: _thought(problem, tags) + _tagged(_boxed(problem), tags),
    "in a box": lambda problem, tags: f"{_thought(problem, tags)}The answer is {_boxed(problem)}.",
    "in words": lambda problem, tags: f"{_thought(problem, tags)}The answer is {problem.answer}.",
    "alone": lambda problem, tags: f" {problem.answer}",
}
"""How a completion gives its answer."""
