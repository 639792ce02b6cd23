"""Sets of real numbers: intervals, unions, inequalities and number sets, brought to the same list of stretches."""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from typing import Any, NamedTuple

from aha.rewards.answers.equality import equal, numeric_constant
from aha.rewards.answers.errors import Irrational, Unreadable
from aha.rewards.answers.exact import exact, substitute
from aha.rewards.answers.grammar import Node, names, parse
from aha.rewards.answers.values import Combined, Many, Name, Relation, Scalar, Value, read


class NotARegion(Exception):
    """A value that is no set of real numbers with numbers for its ends."""


class Span(NamedTuple):
    """A stretch of the real line. Ends are exact where they are rational, else rounded to 50 digits."""

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


_INFINITE = Fraction(10) ** 5_000
EVERYTHING = (Span(-_INFINITE, False, _INFINITE, False),)


def region(value: Value) -> tuple[Span, ...]:
    """A value as stretches of the real line, in order and merged."""
    if isinstance(value, Name) and value.name == "ℝ":
        return EVERYTHING
    if isinstance(value, Combined):
        return _combined_region(value)
    if isinstance(value, Relation):
        return _relation_region(value)
    if isinstance(value, Scalar):
        return _merged([Span(_end(value), True, _end(value), True)])
    if isinstance(value, Many):
        if not value.ordered:
            _refuse_several_names(value.items)
            return _merged([span for item in value.items for span in region(item)])
        if len(value.items) == 2 and value.brackets in ("()", "[]", "(]", "[)"):
            low, high = (_end(item) for item in value.items)
            if low > high:
                raise NotARegion  # the point (2, -3)
            return _merged([Span(low, value.brackets[0] == "[", high, value.brackets[1] == "]")])
    raise NotARegion


def _combined_region(value: Combined) -> tuple[Span, ...]:
    _refuse_several_names(value.parts)
    parts = [region(part) for part in value.parts]
    union = _merged([span for part in parts for span in part])
    if value.sign in "∪∨":
        return union
    if value.sign == "∖":
        return _intersection(parts[0], _complement(_merged([span for part in parts[1:] for span in part])))
    common = functools.reduce(_intersection, parts)
    return common or (union if value.sign == "∧" else ())  # "x < -1, x > 1" means or


def _refuse_several_names(values: tuple[Value, ...]) -> None:
    """`x > 1 and y < 4` is no stretch of one line."""
    found = [names_in(value) for value in values if isinstance(value, Relation)]
    if any(each != found[0] for each in found):
        raise NotARegion


def _relation_region(relation: Relation) -> tuple[Span, ...]:
    """`0 < x ≤ 1` and its like: one variable, numbers around it."""
    if len(relation.sides) == 2 and (inside := re.fullmatch(r"\|([^|z]+)\|", relation.sides[0])):
        return _absolute_region(inside[1], relation)
    variables = {side for side in relation.sides if re.fullmatch("[A-Za-zα-ω]", side) and side not in "eiπ"}
    if len(variables) != 1:
        variables = names_in(relation)
    if len(variables) != 1:
        raise NotARegion
    (variable,) = variables
    spans: tuple[Span, ...] = EVERYTHING
    for left, sign, right in zip(relation.sides, relation.signs, relation.sides[1:], strict=False):
        if left == variable:
            spans = _intersection(spans, _half_line(sign, _end(read(right))))
        elif right == variable:
            spans = _intersection(spans, _half_line(sign.translate(MIRRORED), _end(read(left))))
        else:
            spans = _intersection(spans, _linear_region(variable, left, sign, right))
    return spans


def names_in(relation: Relation) -> set[str]:
    """The names of a relation between formulas."""
    try:
        return {name for side in relation.sides for name in names(parse(side))} - {"e", "i", "π", "∞"}
    except Unreadable:
        raise NotARegion from None


def _linear_region(variable: str, left: str, sign: str, right: str) -> tuple[Span, ...]:
    """`2x + 1 ≥ 4`: where the line through both sides' difference is on the right side of zero."""
    try:
        difference = Node("-", (parse(left), parse(right)))
        start, then = (substitute(difference, variable, Fraction(place)) for place in (0, 1))
        slope = exact(Node("-", (then, start)))
    except (Unreadable, Irrational):
        raise NotARegion from None
    if not slope or not equal(difference, Node("+", (start, Node("*", (slope, variable))))):
        raise NotARegion
    end = _end(Scalar(Node("/", (Node("neg", (start,)), slope))))
    return _half_line(sign if slope > 0 else sign.translate(MIRRORED), end)


def _absolute_region(variable: str, relation: Relation) -> tuple[Span, ...]:
    """`|x| < 3` is `-3 < x < 3`; `|x| > 3` is what the other half of the line says too. Of z it is a circle."""
    sign, end = relation.signs[0], relation.sides[1]
    upper = _relation_region(Relation((variable, end), (sign,)))
    lower = _relation_region(Relation((f"-({end})", variable), (sign,)))
    return _intersection(upper, lower) if sign in "<≤" else _merged([*upper, *lower])


MIRRORED = str.maketrans("<>≤≥", "><≥≤")


def _half_line(sign: str, end: Any) -> tuple[Span, ...]:
    spans = {
        "<": [Span(-_INFINITE, False, end, False)],
        "≤": [Span(-_INFINITE, False, end, True)],
        ">": [Span(end, False, _INFINITE, False)],
        "≥": [Span(end, True, _INFINITE, False)],
        "=": [Span(end, True, end, True)],
        "≠": [Span(-_INFINITE, False, end, False), Span(end, False, _INFINITE, False)],
    }
    return _merged(spans[sign])


def _end(value: Value) -> Fraction:
    if not isinstance(value, Scalar):
        raise NotARegion
    if value.tree == "∞" or value.tree == Node("neg", ("∞",)):
        return _INFINITE if value.tree == "∞" else -_INFINITE
    try:
        return exact(value.tree)
    except Irrational:
        number = numeric_constant(value.tree)
        if number is None:
            raise NotARegion from None
        return number


def _merged(spans: list[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    real = [
        span
        for span in spans
        if span.low < span.high or (span.low == span.high and span.low_closed and span.high_closed)
    ]
    for span in sorted(real, key=lambda span: (span.low, not span.low_closed)):
        if abs(span.low) == _INFINITE:
            span = span._replace(low_closed=False)
        if span.high == _INFINITE:
            span = span._replace(high_closed=False)
        last = merged[-1] if merged else None
        if (
            last is None
            or span.low > last.high
            or (span.low == last.high and not (span.low_closed or last.high_closed))
        ):
            merged.append(span)
        elif (span.high, span.high_closed) > (last.high, last.high_closed):
            merged[-1] = last._replace(high=span.high, high_closed=span.high_closed)
    return tuple(merged)


def _complement(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    gaps, low, closed = [], -_INFINITE, False
    for span in spans:
        gaps.append(Span(low, closed, span.low, not span.low_closed))
        low, closed = span.high, not span.high_closed
    gaps.append(Span(low, closed, _INFINITE, False))
    return _merged([gap for gap in gaps if gap.low < gap.high or (gap.low_closed and gap.high_closed)])


def _intersection(one: tuple[Span, ...], other: tuple[Span, ...]) -> tuple[Span, ...]:
    return _complement(_merged([*_complement(one), *_complement(other)]))
