"""Marks for thinking in visible steps: "Step 1:", "First, …", numbered and bulleted lines, up to `steps` of them.

Source: Open R1's reasoning_steps_reward (github.com/huggingface/open-r1), with its three steps for full marks. Range: 0
to 1, in parts of 1 / `steps`.

Choices: steps count where the thinking is, before the last `</think>` (without one, before the answer's tag), and never
in the answer. A marker stands at the start of a line, "Step 1:" and "First," at the start of a sentence too; "3." inside
a sentence is a number. A step is what follows a marker up to the next one: it needs `min_chars` letters, digits and
signs, and saying it again, in other spacing, case or punctuation, earns nothing. The number of a step is not looked at.
Whether steps make sense is another reward's question: give this one a small weight, or `only_if` of a grader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score, thought

_MARKER = re.compile(
    r"(?:^|(?<=[.!?;] ))[ \t>#*_]{0,12}"
    r"(?:step \d{1,4} ?[:.)-]|(?:first|second|third|fourth|fifth|last)(?:ly)?,|(?:next|then|finally),)"
    r"|^[ \t>]{0,12}(?:\d{1,4}[.)]|[-*+•])(?=\s)",
    re.IGNORECASE | re.MULTILINE,
)
_SAID = re.compile(r"[^\W_]|[-+*/=<>^]")


@dataclass(frozen=True)
class Params:
    steps: int = 3
    """Steps that earn full marks."""
    min_chars: int = 5
    """Letters, digits and signs of calculation in the shortest step that counts."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.min_chars < 1:
            raise ValueError("steps of at least 1, and min_chars of at least 1")


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    text = thought(completion)
    markers = list(_MARKER.finditer(text))
    ends = [*(marker.start() for marker in markers[1:]), len(text)]
    said = {_said(text[marker.end() : end]) for marker, end in zip(markers, ends, strict=False)}
    found = sum(len(step) >= params.min_chars for step in said)
    return Score(min(found / params.steps, 1.0), f"{found} different steps behind {len(markers)} markers")


def _said(step: str) -> str:
    """What two spellings of the same step have in common."""
    return "".join(_SAID.findall(step.casefold()))
