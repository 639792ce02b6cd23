"""Formulas said in words: `x is at least 2`, `all real numbers greater than 1`, `5 out of 36`, `the positive reals`."""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip
_TENS = {word: 10 * number for number, word in enumerate(
    ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)}  # fmt: skip
_POWERS = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
          "ninth": 9, "tenth": 10, "twelfth": 12, "hundredth": 100}  # fmt: skip

_MORE, _FEWER = r"(?:strictly )?(?:greater|more|larger|bigger)", r"(?:strictly )?(?:less|smaller|fewer)"
_IS = r"(?:(?:is|are|(?:must|should|has to|have to) be) )?"
_RANGE = r"(?:[a-z] is )?(?:from|between) (-?[\d.]+) (?:to|and|∧) (-?[\d.]+)"
_SIGNS = tuple(
    (re.compile(rf"\s*(?<![A-Za-z])(?:{pattern})(?![A-Za-z])\s*", re.IGNORECASE), f" {sign} ")
    for pattern, sign in (
        (rf"{_IS}(?:{_MORE} than or equal to|at least|(?:no|not) {_FEWER} than)", "≥"),
        (rf"{_IS}(?:{_FEWER} than or equal to|at most|(?:no|not) {_MORE} than)", "≤"),
        (rf"{_IS}{_MORE} than", ">"),
        (rf"{_IS}{_FEWER} than", "<"),
        (r"(?:is |does )?not equal(?: to)?", "≠"),
        (r"is equal to|equals|(?<=^[A-Za-z] )is(?= (?:-?\d|\\frac|\\sqrt))", "="),
        (r"(?<=[\w})])\s*squared", "^2"),
        (r"(?<=[\w})])\s*cubed", "^3"),
        (r"(?:the )?cube root(?: of)? (\d+|[a-z])", r"\\sqrt[3]{\1}"),
        (r"(?:the )?(?:square )?root(?: of)? (\d+|[a-z]|π)", r"\\sqrt{\1}"),
        (rf"{_RANGE},? ?\(?inclusive\)?", r"[\1,\2]"),
        (rf"{_RANGE},? ?\(?exclusive\)?", r"(\1,\2)"),
        (rf"(?:[a-z] is )?strictly {_RANGE}", r"(\1,\2)"),
        (r"(?<=\d)\s*times(?= [\\\da-z(])", "*"),
        (r"(?<=\d)\s*(?:out of|in|divided by|over)(?=\s*\d)", "/"),
    )
)
_ALL_THAT = re.compile(
    r"^(?:the )?(?:set of )?(?:all|any|every)(?: the)?\b(?: real)?(?: (?:numbers?|reals?|values?))?(?: of)?(?: ([a-z]))?"
    r"(?:(?:,? such that|,? with|,? where|,? for which|,? satisfying) (?=.*[<>≤≥≠])|(?: that are)?\s+(?=[<>≤≥≠([]))"
)
_PART_WORDS = re.compile(r"(?<=\d) ([a-z]{4,10}th|third|halve)s?(?![a-z])")
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
    if not re.search(r"[A-Za-z\d}] ?[a-z]{2,}|\{[a-z ]", text):
        return text
    plain = re.sub(r"\s+", " ", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)).strip()
    signed = plain
    for phrase, sign in _SIGNS:
        signed = phrase.sub(sign, signed)
    signed = _PART_WORDS.sub(lambda match: f"/{_PARTS[match[1]]}" if match[1] in _PARTS else match[0], signed)
    if about := _ALL_THAT.match(signed):
        rest = signed[about.end() :]
        signed = f"{about[1] or 'x'} {rest}" if rest[0] in "<>≤≥≠" else rest
    if signed == plain:
        return text
    return text if re.search(r"(?<![\\A-Za-z])(?!or\b|and\b)[A-Za-z]{2,}", signed) else signed


def half_line(words: str) -> str | None:
    """
    >>> half_line("all non-negative real numbers"), half_line("positive"), half_line("negative reals")
    ('[0,∞)', None, '(-∞,0)')
    """
    match = _SIGNED.fullmatch(words)
    return _HALVES[match[1].replace("-", "")] if match else None


def number_in_words(text: str) -> Fraction | None:
    """A whole number or a fraction in English.

    >>> number_in_words("minus two and a half"), number_in_words("half"), number_in_words("a quarter")
    (Fraction(-5, 2), Fraction(1, 2), Fraction(1, 4))
    >>> number_in_words("twenty-five"), number_in_words("two hundred and one"), number_in_words("Two thirds")
    (Fraction(25, 1), Fraction(201, 1), Fraction(2, 3))
    >>> number_in_words("third"), number_in_words("five one"), number_in_words("hundred")
    (None, None, None)
    """
    said = text.casefold().strip()
    if signed := re.fullmatch(r"(?:minus|negative)\s+(.+)", said):
        return None if (number := number_in_words(signed[1])) is None else -number
    if quotient := re.fullmatch(r"(.+) (?:over|out of|divided by) (.+)", said):
        above, below = map(number_in_words, quotient.groups())
        return above / below if above is not None and below else None
    if said == "half":
        return Fraction(1, 2)
    whole, _, rest = said.rpartition(" and ")
    if whole and (ends := number_in_words(rest)) is not None and 0 < ends < 1:
        return None if (number := number_in_words(whole)) is None or number.denominator > 1 else number + ends
    words = [word for word in re.split(r"[\s-]+", re.sub(r"^an? ", "one ", said)) if word != "and"]
    part = _PARTS.get(words[-1].removesuffix("s")) if len(words) > 1 else None
    total, current, last = 0, 0, 10**12
    for word in words[: -1 if part else None]:
        small = NUMBER_WORDS.index(word) if word in NUMBER_WORDS else _TENS.get(word, 0)
        if word in _POWERS and current:
            current *= _POWERS[word]
            if word != "hundred":
                total, current = total + current, 0
            last = _POWERS[word]
        elif (word in NUMBER_WORDS or small) and small < last and (last != 10 or small < 10):
            current += small
            last = 10 if word in _TENS else 0
        else:
            return None
    return Fraction(total + current, part or 1)


def counted_in_words(words: str) -> tuple[Fraction | None, str]:
    """`five dollars`: a number in words and what it counts."""
    words = words.replace("∧", "and")
    if (said := number_in_words(words)) is not None:
        return said, ""
    head, _, counted = words.rpartition(" ")
    return (None, "") if counted in _CONTINUE or head.endswith(" and") else (number_in_words(head), counted)


_CONTINUE = frozenset(["and", "squared", "cubed", *NUMBER_WORDS, *_TENS, *_POWERS, *_PARTS])
