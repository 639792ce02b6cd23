"""Full marks for an arithmetic expression that makes the target out of the given numbers.

Source: the Countdown task of TinyZero (github.com/Jiayi-Pan/TinyZero). Range: 0, `format_score` or 1; None when the
problem carries no numbers. The numbers are `meta["nums"]` (or "numbers"), the target is `meta["target"]` or the
problem's answer.

Choices: every number is used exactly once (`use_all: false`: at most once), with + - * / and parentheses; `×` and `÷`
are the same signs. Division is exact, so 8/3*3 is 8. The expression is parsed and computed with rationals, never
`eval`ed, and a power or a factorial is no Countdown sign. `= target` after the expression is allowed when it is the
target.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from aha.rewards.answers.alphabet import clean
from aha.rewards.answers.errors import TooLarge, Undefined, Unreadable
from aha.rewards.answers.exact import exact
from aha.rewards.answers.grammar import Node, Tree, parse, walk
from aha.rewards.contract import Completion, Problem, Score, final_answer

SIGNS = frozenset(["+", "-", "*", "/", "neg"])
LIMIT = 500
"""Characters of an expression."""


@dataclass(frozen=True)
class Params:
    require: Literal["answer_tag", "boxed", "either", "any"] = "any"
    use_all: bool = True
    format_score: float = 0.0
    """For an expression of the right numbers with the wrong value."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    numbers = problem.meta.get("nums", problem.meta.get("numbers"))
    if not numbers:
        return Score(None, "the problem carries no numbers")
    target = Fraction(str(problem.meta.get("target", problem.answer)))
    answer = final_answer(completion, params.require)
    if answer is None:
        return Score(0.0, "no answer given")
    try:
        tree = read_expression(answer, target)
    except (Unreadable, TooLarge) as error:
        return Score(0.0, f"not an expression: {error}")
    used, given = (
        Counter(part for part in walk(tree) if isinstance(part, Fraction)),
        Counter(Fraction(str(number)) for number in numbers),
    )
    if used != given if params.use_all else not used <= given:
        return Score(0.0, "not the given numbers")
    try:
        value = exact(tree)
    except Undefined:
        return Score(0.0, "division by zero")
    if value != target:
        return Score(params.format_score, f"makes {value}, not {target}")
    return Score(1.0, "makes the target")


def read_expression(answer: str, target: Fraction) -> Tree:
    """The tree of an answer that is an expression of Countdown's signs, perhaps with `= target` behind it."""
    if len(answer) > LIMIT:
        raise TooLarge(f"{len(answer)} characters")
    expression, *claims = clean(answer).split("=")
    if len(claims) > 1 or any(claim.strip() != str(target) for claim in claims):
        raise Unreadable("an equation with something else than the target")
    tree = parse(expression)
    for part in walk(tree):
        if isinstance(part, str):
            raise Unreadable(f"{part} is no number")
        if isinstance(part, Node) and part.op not in SIGNS:
            raise Unreadable(f"{part.op} is no sign of the game")
    return tree
