"""first_number: is the first whole number of the completion the answer?

For models that complete text and know no answer format yet: after continued pretraining, "7 + 5 =" is a question.
Range: 0 or 1. Anything may follow the number; anything but white space before it is wrong.
"""

from __future__ import annotations

import re

from aha.rewards.contract import Completion, Problem, Score


def score(completion: Completion, problem: Problem) -> Score:
    found = re.match(r"\s{0,20}(-?\d{1,20})(?![\d.])", completion.text)
    if found is None:
        return Score(0.0, "does not begin with a number")
    right = int(found.group(1)) == int(problem.answer)
    return Score(float(right), "right" if right else f"{found.group(1)} is not {problem.answer}")
