"""Formulas said in words: `x is at least 2`, `all real numbers greater than 1`, `5 out of 36`, `the positive reals`."""

from __future__ import annotations

import re

_MORE, _FEWER = r"(?:strictly )?(?:greater|more|larger|bigger)", r"(?:strictly )?(?:less|smaller|fewer)"
_SIGNS = tuple(
    (re.compile(rf"\s*(?<![A-Za-z])(?:{pattern})(?![A-Za-z])\s*", re.IGNORECASE), f" {sign} ")
    for pattern, sign in (
        (rf"(?:is |are )?(?:{_MORE} than or equal to|at least|(?:no|not) {_FEWER} than)", "≥"),
        (rf"(?:is |are )?(?:{_FEWER} than or equal to|at most|(?:no|not) {_MORE} than)", "≤"),
        (rf"(?:is |are )?{_MORE} than", ">"),
        (rf"(?:is |are )?{_FEWER} than", "<"),
        (r"(?:is |does )?not equal(?: to)?", "≠"),
        (r"is equal to|equals|(?<=^[A-Za-z] )is(?= (?:-?\d|\\frac|\\sqrt))", "="),
        (r"(?<=[\w})])\s*squared", "^2"),
        (r"(?<=[\w})])\s*cubed", "^3"),
        (r"(?:the )?cube root(?: of)? (\d+|[a-z])", r"\\sqrt[3]{\1}"),
        (r"(?:the )?(?:square )?root(?: of)? (\d+|[a-z]|π)", r"\\sqrt{\1}"),
        (r"(?:x is )?(?:from|between) (-?[\d.]+) (?:to|and) (-?[\d.]+),? ?\(?inclusive\)?", r"[\1,\2]"),
        (r"(?:x is )?(?:from|between) (-?[\d.]+) (?:to|and) (-?[\d.]+),? ?\(?exclusive\)?", r"(\1,\2)"),
        (r"(?<=\d)\s*(?:out of|divided by|over)(?=\s*\d)", "/"),
    )
)
_ALL_THAT = re.compile(
    r"^\s*(?:the )?(?:set of )?(?:all|any|every)(?: the)?\b(?: real)?(?: (?:numbers?|reals?|values?))?(?: of)?(?: ([a-z]))?"
    r"(?: that are|,? such that|,? with|,? where|,? for which|,? satisfying)?\s+(?:([a-z]) )?(?=[<>≤≥≠])"
)
_SIGNED = re.compile(
    r"(?:the )?(?:set of )?(?:all |any |every )?(?:the )?(positive|negative|non-?negative|non-?positive|non-?zero) "
    r"(?:real(?: number| value)?s?|numbers?|reals)(?: [a-z])?"
)
_HALVES = {"positive": "(0,∞)", "negative": "(-∞,0)", "nonnegative": "[0,∞)", "nonpositive": "(-∞,0]",
           "nonzero": "ℝ∖⦃0⦄"}  # fmt: skip


def with_signs(text: str) -> str:
    r"""Comparisons and quotients in words as signs, where no other words are left.

    >>> with_signs(r"x \text{ is at least } 2"), with_signs(r"\text{all real numbers greater than 1}")
    ('x ≥ 2', 'x > 1')
    >>> with_signs(r"\text{Ann is taller than Bob, at least on Monday}")
    '\\text{Ann is taller than Bob, at least on Monday}'
    """
    if not re.search(r"[A-Za-z}] ?[a-z]{2,}|\{[a-z ]", text):
        return text
    plain = re.sub(r"\s+", " ", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)).strip()
    signed = plain
    for phrase, sign in _SIGNS:
        signed = phrase.sub(sign, signed)
    if signed == plain:
        return text
    signed = _ALL_THAT.sub(lambda match: f"{match[1] or match[2] or 'x'} ", signed)
    return text if re.search(r"(?<![\\A-Za-z])(?!or\b|and\b)[A-Za-z]{2,}", signed) else signed


def half_line(words: str) -> str | None:
    """
    >>> half_line("all non-negative real numbers"), half_line("positive"), half_line("negative reals")
    ('[0,∞)', None, '(-∞,0)')
    """
    match = _SIGNED.fullmatch(words)
    return _HALVES[match[1].replace("-", "")] if match else None
