"""Full marks for the right letter of a multiple-choice question.

Source: the usual grading of GPQA (arXiv:2311.12022) and MMLU. Range: 0 or 1; None when the problem's answer is no
letter.

Choices: the letter stands in the answer tag, the last box, or an explicit "The answer is C"; `(C)`, `C.`, `Option C`
and `C) with its text` are the letter C, "A or C" is no answer, and neither is "not C". Case does not matter. When the
problem carries its options (`meta["choices"]`, in order), the exact text of the right option counts too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from aha.rewards.contract import Completion, Problem, Score, final_answer

_LETTER = re.compile(r"(?:option|choice|answer)?:?\s*[(\[]?\s*([A-Z])\s*[)\].:,]*\s*", re.IGNORECASE)
_LABELLED = re.compile(r"[(\[]?([A-Z])\s*[)\].:]\s*(\S.*)", re.IGNORECASE | re.DOTALL)
_MACRO = re.compile(r"\\(?:text[a-z]*|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")


@dataclass(frozen=True)
class Params:
    require: Literal["answer_tag", "boxed", "either", "any"] = "any"
    """Where the answer must stand."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    expected = problem.answer.strip().strip("()[].").upper()
    if not re.fullmatch("[A-Z]", expected):
        return Score(None, f"the problem's answer is no letter: {problem.answer[:40]!r}")
    answer = final_answer(completion, params.require)
    if answer is None:
        return Score(0.0, "no answer given")
    options = [str(option) for option in problem.meta.get("choices", ())]
    chosen = chosen_letter(answer[:1000], options)
    if chosen is None:
        return Score(0.0, "the answer is not one option")
    return Score(float(chosen == expected), f"chose {chosen}")


def chosen_letter(answer: str, options: list[str]) -> str | None:
    """The one option an answer names, by its letter or by its text."""
    answer = _MACRO.sub(r"\1", answer).replace("$", "").strip()
    if match := _LETTER.fullmatch(answer):
        return match[1].upper()
    folded = [option.strip().casefold() for option in options]
    if folded.count(answer.casefold()) == 1:
        return chr(ord("A") + folded.index(answer.casefold()))
    match = _LABELLED.fullmatch(answer)
    if match is None or re.search(r"(?<!\w)[B-HJ-Z](?!\w)|(?<!\w)[A-Z][).]", match[2]):
        return None  # a second letter that could be an option
    return match[1].upper()
