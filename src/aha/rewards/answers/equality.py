"""Whether two formulas have the same value: exactly where they are rational, else by computing both at fixed points.

The digits that are computed grow with the digits that stand in the formulas, so that a number which differs in its
hundredth decimal is another number. Agreement at a dozen points that no formula singles out is as good as a proof for
formulas of this size, and unlike a proof it is found in milliseconds and never hangs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from aha.rewards.answers.errors import Irrational, TooLarge, Undefined, Unreadable
from aha.rewards.answers.exact import exact, series_terms, substitute
from aha.rewards.answers.grammar import Node, Tree, names, walk
from aha.rewards.answers.powers import power_product

_CONSTANTS = frozenset(["π", "e", "i", "∞"])
_POINTS = 12
_AGREEING_POINTS = 3
_GUARD_DIGITS = 40
_MAX_DIGITS = 3_000
_BENDING_DIGITS = 400
"""Beyond these a formula is too expensive to be looked at in more than a dozen points."""


def equal(one: Tree, other: Tree) -> bool:
    """Whether two formulas have the same value: exactly for rational numbers, else at a dozen points."""
    if one == other:
        return True
    try:
        return exact(one) == exact(other)
    except Undefined:
        return False
    except (Irrational, TooLarge) as inexact:
        try:
            return power_product(one) == power_product(other)
        except (Irrational, Undefined, TooLarge):
            if isinstance(inexact, TooLarge):
                raise inexact from None
            return _agree(one, other)


def _agree(one: Tree, other: Tree) -> bool:
    """Agreement wherever both are real; where both are never real, wherever both are defined."""
    if _is_open_series(one) or _is_open_series(other):
        return _agree_at_integers(one, other)
    symbols = sorted({*names(one), *names(other)} - _CONSTANTS)
    if "∞" in names(one) or "∞" in names(other):
        return False
    is_complex = "i" in names(one) or "i" in names(other)
    outcome = None if is_complex else _agree_at_points(one, other, symbols, real=True)
    return _agree_at_points(one, other, symbols, real=False) is True if outcome is None else outcome


def _is_open_series(tree: Tree) -> bool:
    """Whether a sum or product in it has a name for a bound, such as `\\sum_{k=1}^{n} k`."""
    series = (part for part in walk(tree) if isinstance(part, Node) and part.op in ("sum", "prod"))
    return any({*names(part.args[1]), *names(part.args[2])} - _CONSTANTS for part in series)


def _agree_at_integers(one: Tree, other: Tree) -> bool:
    """Agreement for a few sizes of what has a name: a sum with a name for a bound is there for integers only."""
    indices = {
        part.args[0]
        for tree in (one, other)
        for part in walk(tree)
        if isinstance(part, Node) and part.op in ("sum", "prod")
    }
    for size in range(2, 2 + _AGREEING_POINTS * 2):
        pair = [one, other]
        for place, name in enumerate(sorted({*names(one), *names(other)} - _CONSTANTS - indices)):
            pair = [substitute(tree, name, Fraction(size + place)) for tree in pair]
        if not equal(*pair):
            return False
    return True


def _agree_at_points(one: Tree, other: Tree, symbols: list[str], real: bool) -> bool | None:
    """None when too few points are in the domain of both."""
    import mpmath

    digits = _digits_for(one, other)
    agreed = alone = narrower = 0
    with mpmath.workdps(digits):
        for point in _points(symbols):
            ours, theirs = (_value_at(tree, point, real) for tree in (one, other))
            if ours is None or theirs is None:
                alone += (ours is None) != (theirs is None)
                narrower += ours is not None
                continue
            scale = max(1, abs(ours), abs(theirs))
            if abs(ours - theirs) > scale * mpmath.mpf(10) ** (-digits + _GUARD_DIGITS // 2):
                return False
            agreed += 1
        if real and agreed and digits <= _BENDING_DIGITS and not _agree_beyond(one, other, symbols, digits):
            return False
    if narrower >= _AGREEING_POINTS and _has_bars(one) and not _has_bars(other):
        return False  # ln x for ln |x|: the bars were there for the other half of the line
    if agreed >= (_AGREEING_POINTS if symbols else 1):
        return True
    return False if alone and real and not agreed and not symbols else None


_BENT = frozenset(["abs", "floor", "ceil", "min", "max", "root", "^"])


def _agree_beyond(one: Tree, other: Tree, symbols: list[str], digits: int) -> bool:
    """`|x - 3|` is `3 - x` for small x: where a formula may bend, on both sides of its numbers and far out, too."""
    import mpmath

    parts = [*walk(one), *walk(other)]
    if not symbols or not any(isinstance(part, Node) and part.op in _BENT for part in parts):
        return True
    numbers = sorted({abs(part) for part in parts if isinstance(part, Fraction) and part < 10**6})[-6:]
    near = [
        sign * number + step for number in numbers for sign in (1, -1) for step in (Fraction(1, 3), Fraction(-1, 3))
    ]
    far = 2 + sum(numbers, Fraction(0))
    for place in (*near, far, -far):
        point = {
            symbol: mpmath.mpf(place.numerator) / place.denominator + mpmath.mpf(index) / 7
            for index, symbol in enumerate(symbols)
        }
        try:
            ours, theirs = (_value_at(tree, point, real=True) for tree in (one, other))
        except TooLarge:
            continue
        if ours is None or theirs is None:
            continue
        if abs(ours - theirs) > max(1, abs(ours), abs(theirs)) * mpmath.mpf(10) ** (-digits + _GUARD_DIGITS // 2):
            return False
    return True


def _has_bars(tree: Tree) -> bool:
    return isinstance(tree, Node) and (tree.op == "abs" or any(map(_has_bars, tree.args)))


def _points(symbols: list[str]) -> Iterator[dict[str, Any]]:
    """Fixed points, half of them positive, that no formula singles out; without symbols, one."""
    import mpmath

    for number in range(_POINTS if symbols else 1):
        point = {}
        for index, symbol in enumerate(symbols):
            size = mpmath.mpf((number * 7919 + index * 104_729 + 31_337) % 2_003 + 211) / 701
            point[symbol] = -size if number % 2 and (number // 2 + index) % 2 else size
        yield point


def _digits_for(one: Tree, other: Tree) -> int:
    """The digits to compute with, so that what differs in its last written digit differs in its value."""
    digits = _GUARD_DIGITS + _digits_in(one) + _digits_in(other)
    if digits > _MAX_DIGITS:
        raise TooLarge(f"{digits} digits")
    return digits


def _digits_in(tree: Tree) -> int:
    """How many digits the numbers of a tree hold, powers written out: what a comparison must resolve."""
    if isinstance(tree, Fraction):
        return (tree.numerator.bit_length() + tree.denominator.bit_length()) // 3
    if isinstance(tree, str):
        return 0
    if tree.op == "!" and isinstance(tree.args[0], Fraction):
        return 20 + (3 * int(tree.args[0]) if tree.args[0].denominator == 1 else 0)
    if tree.op in ("^", "exp"):
        try:
            return max(1, _digits_in(tree.args[0])) * max(1, math.ceil(abs(exact(tree.args[-1]))))
        except (Irrational, Undefined):
            return 20
    return sum(map(_digits_in, tree.args))


def numeric_constant(tree: Tree) -> Fraction | None:
    """A real constant, rounded; None when it is not one."""
    import mpmath

    if set(names(tree)) - {"π", "e"}:
        return None
    with mpmath.workdps(60):
        value = _value_at(tree, {}, real=True)
        return None if value is None else Fraction(str(mpmath.nstr(value.real, 50)))


def _value_at(tree: Tree, point: dict[str, Any], real: bool) -> Any:
    """The value of a tree at a point; None outside of its domain."""
    try:
        value = _evaluate(tree, point, real)
    except (Undefined, ZeroDivisionError, ValueError, OverflowError):
        return None
    import mpmath

    return value if mpmath.isfinite(value) else None


def _evaluate(tree: Tree, point: dict[str, Any], real: bool) -> Any:
    import mpmath

    if isinstance(tree, Fraction):
        return mpmath.mpf(tree.numerator) / tree.denominator
    if isinstance(tree, str):
        return point[tree] if tree in point else _constant(tree)
    if tree.op in ("sum", "prod"):
        values = [_evaluate(term, point, real) for term in _terms(tree)]
        return mpmath.fsum(values) if tree.op == "sum" else mpmath.fprod(values)
    values = [_evaluate(argument, point, real) for argument in tree.args]
    try:
        is_power = tree.op in ("^", "root")
        value = _power_at(tree.op, values[0], values[1], real) if is_power else _function(tree.op)(*values)
    except TypeError:
        raise Unreadable(f"{tree.op} of {len(values)} arguments, or of what has no order") from None
    if real and getattr(value, "imag", 0) != 0:
        raise Undefined("not real here")
    if value and abs(mpmath.log(abs(value))) > 100_000:
        raise TooLarge("an intermediate value")
    return value


def _constant(name: str) -> Any:
    import mpmath

    if name == "∞":
        raise Undefined("infinity in a formula")
    return +{"π": mpmath.pi, "e": mpmath.e, "i": mpmath.j}[name]


def _terms(tree: Node) -> list[Tree]:
    try:
        return series_terms(tree)
    except Irrational:
        raise Unreadable("a sum without numbers for its bounds") from None


def _power_at(op: str, base: Any, exponent: Any, real: bool) -> Any:
    """A power or root; of a negative number, the real odd root where there is one."""
    import mpmath

    if op == "root":
        if real and base < 0 and exponent == int(exponent.real) and int(exponent) % 2:
            return -mpmath.root(-base, int(exponent))
        exponent = 1 / exponent
    if base == 0:
        if exponent.real <= 0:
            raise Undefined("zero to a power that is not positive")
        return base
    if abs(exponent * mpmath.log(base)) > 100_000:
        raise TooLarge("a power")
    if real and base < 0 and exponent != int(exponent):
        denominator = next(
            (odd for odd in (3, 5, 7, 9) if mpmath.almosteq(exponent * odd, mpmath.nint(exponent * odd))), None
        )
        if denominator is not None:
            root = -mpmath.root(-base, denominator)
            return root ** int(mpmath.nint(exponent * denominator))
    return mpmath.power(base, exponent)


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    import mpmath

    table: dict[str, Callable[..., Any]] = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "neg": lambda a: -a,
        "abs": abs,
        "conj": mpmath.conj,
        "deg": lambda a: a * mpmath.pi / 180,
        "rad": lambda a: a,
        "ln": _bounded_argument(mpmath.log),
        "log": _bounded_argument(mpmath.log),
        "lg": _bounded_argument(mpmath.log10),
        "exp": _bounded_argument(mpmath.exp),
        "!": _bounded_argument(mpmath.factorial, 1_000, 400),
        "binom": _bounded_argument(mpmath.binomial, 1_000, 400),
        "floor": mpmath.floor,
        "ceil": mpmath.ceil,
        "arcsin": mpmath.asin,
        "arccos": mpmath.acos,
        "arctan": mpmath.atan,
        "arccot": mpmath.acot,
        "arcsec": mpmath.asec,
        "arccsc": mpmath.acsc,
        "arcsinh": mpmath.asinh,
        "arccosh": mpmath.acosh,
        "arctanh": mpmath.atanh,
        "min": min,
        "max": max,
    }
    plain = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
    table |= {each: _bounded_argument(getattr(mpmath, each)) for each in plain}
    if name not in table:
        raise Unreadable(f"{name} of what is not a number")
    return table[name]


def _bounded_argument(function: Callable[..., Any], bound: int = 100_000, digits: int = 10_000) -> Callable[..., Any]:
    """The function, but not of arguments, or to a number of digits, that would take long; a logarithm takes any."""
    import mpmath

    grows = function.__name__ not in ("ln", "log", "log10")

    def compute(*values: Any) -> Any:
        if mpmath.mp.dps > digits or (grows and any(abs(value) > bound for value in values)):
            raise TooLarge("the argument of a function")
        return function(*values)

    return compute


def proportional(one: Tree, other: Tree) -> Any:
    """The constant ratio of two formulas; None when it is not constant, or when one of them vanishes."""
    import mpmath

    symbols = sorted({*names(one), *names(other)} - _CONSTANTS)
    ratios: list[Any] = []
    with mpmath.workdps(_digits_for(one, other)):
        for point in _points(symbols):
            ours, theirs = (_value_at(tree, point, real=True) for tree in (one, other))
            if ours is None or theirs is None or mpmath.almosteq(ours, 0) or mpmath.almosteq(theirs, 0):
                continue
            ratios.append(ours / theirs)
        if len(ratios) < (_AGREEING_POINTS if symbols else 1):
            return None
        return (
            ratios[0]
            if all(mpmath.almosteq(ratio, ratios[0], rel_eps=mpmath.eps * 10**15) for ratio in ratios)
            else None
        )
