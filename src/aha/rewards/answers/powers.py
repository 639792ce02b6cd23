r"""Products of powers of primes, π and e, compared without computing them: `2\sqrt{3}` and `\sqrt{12}`, `3^{10^6}` and
`9^{500000}`.

A number of this shape has one list of exponents only, so that two of them are equal when their lists are. It is exact,
it costs microseconds, and the size of the number does not matter.
"""

from __future__ import annotations

from fractions import Fraction

from aha.rewards.answers.errors import Irrational
from aha.rewards.answers.exact import exact
from aha.rewards.answers.grammar import Node, Tree

_LARGEST_FACTOR = 1_000
_MAX_BITS = 4_000

Exponents = dict[int | str, Fraction]


def power_product(tree: Tree) -> tuple[bool, Exponents]:
    r"""(is negative, prime or constant → exponent) of a tree. Irrational when it is no such product.

    >>> power_product(Node("*", (Fraction(2), Node("root", (Fraction(3), Fraction(2))))))
    (False, {2: Fraction(1, 1), 3: Fraction(1, 2)})
    """
    negative, exponents = _product(tree)
    return negative, {base: exponent for base, exponent in sorted(exponents.items(), key=str) if exponent}


def _product(tree: Tree) -> tuple[bool, Exponents]:
    if isinstance(tree, str):
        if tree not in ("π", "e"):
            raise Irrational(tree)
        return False, {tree: Fraction(1)}
    if isinstance(tree, Fraction):
        return tree < 0, _factors(tree)
    if tree.op == "neg":
        negative, exponents = _product(tree.args[0])
        return not negative, exponents
    if tree.op in ("*", "/"):
        (one, left), (other, right) = map(_product, tree.args)
        sign = 1 if tree.op == "*" else -1
        return one != other, {base: left.get(base, Fraction(0)) + sign * right.get(base, 0) for base in left | right}
    if tree.op in ("^", "root"):
        return _power(tree)
    value = exact(tree)
    return value < 0, _factors(value)


def _power(tree: Node) -> tuple[bool, Exponents]:
    exponent = exact(tree.args[1])
    if tree.op == "root":
        if not exponent:
            raise Irrational("a root of degree zero")
        exponent = 1 / exponent
    negative, exponents = _product(tree.args[0])
    if negative and exponent.denominator != 1:
        raise Irrational("a root of a negative number")
    return negative and exponent % 2 == 1, {base: power * exponent for base, power in exponents.items()}


def _factors(value: Fraction) -> Exponents:
    if not value or max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise Irrational("zero, or too long to take apart")
    found: Exponents = {}
    for rest, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
        factor = 2
        while rest > 1 and factor <= _LARGEST_FACTOR:
            if rest % factor == 0:
                rest //= factor
                found[factor] = found.get(factor, Fraction(0)) + sign
            else:
                factor = rest if rest < factor * factor else factor + 1
        if rest > 1:
            if rest >= _LARGEST_FACTOR**2:
                raise Irrational("a large factor")
            found[rest] = found.get(rest, Fraction(0)) + sign
    return found
