"""What a reward is tried on: problems of a file, of a recipe, or the few that come with the house."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aha.data.sources import read_problems
from aha.errors import DataError
from aha.recipe import load_recipe
from aha.recipe.schema import DATA_SUFFIXES, Source
from aha.types import Problem


def problems_of(data: str) -> list[Problem]:
    """The problems of a file of rows (prompt, answer, …), or of the `grpo.data` of a recipe (`tiny`, or its path).

    Raises RecipeError for a recipe that is not there, DataError for data that cannot be read.
    """
    if data.endswith(DATA_SUFFIXES):
        return read_problems([Source(path=data)], 0)[0]
    recipe = load_recipe(data if data.endswith((".yaml", ".yml")) else Path("recipes") / f"{data}.yaml")
    if recipe.grpo is None:
        raise DataError(f"{data} has no grpo block, and so no problems for a reward; name a recipe that has one")
    return read_problems(recipe.grpo.data, recipe.seed)[0]


def _problem(kind: str, number: int, prompt: str, answer: str, **meta: Any) -> Problem:
    return Problem(prompt, answer, f"{kind}-{number}", meta)


_SUMS = [(17, 25), (8, 9), (120, 35), (61, 7), (33, 66), (250, 19), (5, 6), (74, 12)]
_CHOICES = [
    ("Which of these is a prime number?", ["21", "29", "33", "39"], "B"),
    ("Which of these melts first when it is heated?", ["iron", "granite", "glass", "butter"], "D"),
    ("Which shape has three sides?", ["a triangle", "a square", "a circle", "a cube"], "A"),
    ("What is half of one hundred?", ["two hundred", "forty", "fifty", "sixty"], "C"),
    ("Which of these can fly?", ["a stone", "a swallow", "a spade", "a snail"], "B"),
    ("Which number is even?", ["7", "11", "19", "34"], "D"),
]
_COUNTDOWN = [
    ([3, 5, 2], 16, "(3 + 5) * 2"),
    ([7, 4, 6], 34, "7 * 4 + 6"),
    ([9, 8, 1], 72, "9 * 8 * 1"),
    ([20, 4, 3], 15, "20 / 4 * 3"),
    ([50, 6, 2], 38, "50 - 6 * 2"),
    ([11, 12, 13], 36, "11 + 12 + 13"),
]

BUILTIN: dict[str, list[Problem]] = {
    "sums": [_problem("sum", n, f"What is {a} + {b}?", str(a + b)) for n, (a, b) in enumerate(_SUMS)],
    "choices": [
        _problem(
            "choice",
            n,
            f"{question}\n" + "\n".join(f"{letter}) {text}" for letter, text in zip("ABCD", options, strict=True)),
            right,
            choices=options,
        )
        for n, (question, options, right) in enumerate(_CHOICES)
    ],
    "countdown": [
        _problem(
            "countdown",
            n,
            f"Make {target} out of {', '.join(map(str, numbers))}.",
            str(target),
            nums=numbers,
            target=target,
            completion=f"<think>\nI try {expression} = {target}.\n</think>\n<answer>{expression}</answer>",
        )
        for n, (numbers, target, expression) in enumerate(_COUNTDOWN)
    ],
}
"""Problems for a reward whose data are not given. The first kind that a reward can tell right from wrong on is taken."""
