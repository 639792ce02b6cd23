"""first_number: is the first whole number of the completion the answer?

For models that complete text and know no answer format yet: after continued pretraining, "7 + 5 =" is a question.
Range: 0 or 1. Text may follow the number; anything but white space before it is wrong, and so is a list of numbers
on one line, of which the first would be one guess among many.
"""

from __future__ import annotations

import re

from aha.rewards.contract import Completion, Problem, Score

_FIRST = re.compile(r"\s{0,20}(-?\d{1,20})(?![\d.])(?P<listed>[ \t]{0,20}(?:[,;/|]|or\b|and\b)?[ \t]{0,20}-?\d)?")


def score(completion: Completion, problem: Problem) -> Score:
    found = _FIRST.match(completion.text)
    if found is None:
        return Score(0.0, "does not begin with a number")
    if found["listed"]:
        return Score(0.0, "begins with a list of numbers")
    right = int(found[1]) == int(problem.answer)
    return Score(float(right), "right" if right else f"{found[1]} is not {problem.answer}")
