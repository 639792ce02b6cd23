"""Exact values of formulas of rational numbers, with the size of a result looked at *before* it is computed.

`9^{9^{9}}` is `TooLarge` here, and not a frozen process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from aha.rewards.answers.errors import Irrational, TooLarge, Undefined
from aha.rewards.answers.grammar import Node, Tree

MAX_BITS = 20_000
"""Size of an integer, numerator or denominator; about 6,000 digits."""
MAX_TERMS = 2_000
"""Terms of a sum or product that is written out, those of the sums within it included."""


def exact(tree: Tree) -> Fraction:
    r"""The value of a tree of rational numbers. Irrational, Undefined or TooLarge otherwise.

    >>> exact(Node("/", (Node("!", (Fraction(6),)), Fraction(8))))
    Fraction(90, 1)
    """
    if isinstance(tree, Fraction):
        return tree
    if isinstance(tree, str):
        raise Irrational(tree)
    if tree.op in ("sum", "prod"):
        return _bounded(_exact_series(tree))
    if tree.op == "det":
        return _determinant([[exact(entry) for entry in row.args] for row in tree.args if isinstance(row, Node)])
    if tree.op not in _EXACT:
        raise Irrational(tree.op)
    return _bounded(_EXACT[tree.op](*(exact(argument) for argument in tree.args)))


def substitute(tree: Tree, name: str, value: Tree) -> Tree:
    """The tree with a name replaced, but not the index of a sum, which is a name in it alone."""
    if tree == name:
        return value
    if isinstance(tree, Node):
        if tree.op in ("sum", "prod") and tree.args[0] == name:
            bounds = (substitute(bound, name, value) for bound in tree.args[1:3])
            return Node(tree.op, (name, *bounds, tree.args[3]))
        return Node(tree.op, tuple(substitute(argument, name, value) for argument in tree.args))
    return tree


def series_terms(tree: Node) -> list[Tree]:
    """The terms of a sum or product with integer bounds, written out."""
    index, low, high, body = tree.args
    assert isinstance(index, str)
    first, last = exact(low), exact(high)
    if first.denominator != 1 or last.denominator != 1:
        raise Undefined("bounds that are no integers")
    if last - first > MAX_TERMS ** (1 / _nesting(tree)):
        raise TooLarge(f"{last - first} terms")
    return [substitute(body, index, Fraction(k)) for k in range(int(first), int(last) + 1)]


def _nesting(tree: Tree) -> int:
    """How many sums and products stand within each other."""
    if not isinstance(tree, Node):
        return 0
    return (tree.op in ("sum", "prod")) + max(map(_nesting, tree.args), default=0)


def _exact_series(tree: Node) -> Fraction:
    values = [exact(term) for term in series_terms(tree)]
    total = Fraction(tree.op == "prod")
    for value in values:
        total = _bounded(total + value if tree.op == "sum" else total * value)
    return total


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge("a value of thousands of digits")
    return value


def _divide(a: Fraction, b: Fraction) -> Fraction:
    if b == 0:
        raise Undefined("division by zero")
    return a / b


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    if base == 0 and exponent <= 0:
        raise Undefined("zero to a power that is not positive")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and bits * abs(exponent) > 2 * MAX_BITS:
        raise TooLarge("a power of thousands of digits")
    return base ** int(exponent % 2 if abs(base) == 1 else exponent)


def _root(value: Fraction, degree: Fraction) -> Fraction:
    """The real root when it is rational."""
    if degree.denominator != 1 or not 1 <= degree <= 64 or (value < 0 and degree % 2 == 0):
        raise Irrational("root")
    above, below = _integer_root(abs(value.numerator), int(degree)), _integer_root(value.denominator, int(degree))
    return Fraction(above if value >= 0 else -above, below)


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    if low**degree != value:
        raise Irrational("root")
    return low


def _whole(value: Fraction, limit: int) -> int:
    if value.denominator != 1 or value < 0:
        raise Irrational("not a natural number")
    if value > limit:
        raise TooLarge(f"more than {limit}")
    return int(value)


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    if any(len(row) != len(rows) for row in rows):
        raise Undefined("the determinant of a matrix that is not square")
    if len(rows) > 6:
        raise TooLarge("a large determinant")
    if not rows:
        return Fraction(1)
    minors = ([row[:column] + row[column + 1 :] for row in rows[1:]] for column in range(len(rows)))
    return sum(
        ((-1) ** column * rows[0][column] * _determinant(minor) for column, minor in enumerate(minors)), Fraction(0)
    )


def _of_integers(function: Callable[..., int]) -> Callable[..., Fraction]:
    def compute(*values: Fraction) -> Fraction:
        return Fraction(function(*(_whole(abs(value), 1 << 200) for value in values)))

    return compute


_EXACT: dict[str, Callable[..., Fraction]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "^": _power,
    "root": _root,
    "neg": lambda a: -a,
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "!": lambda a: Fraction(math.factorial(_whole(a, 1_000))),
    "binom": lambda n, k: Fraction(math.comb(_whole(n, 5_000), _whole(k, 5_000))),
    "gcd": _of_integers(math.gcd),
    "lcm": _of_integers(math.lcm),
    "min": min,
    "max": max,
}
