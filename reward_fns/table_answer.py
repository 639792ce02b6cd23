"""Full marks for the answer to a question about tables: numbers as rounded, lists in any order, text up to spelling.

Source: the scorer of DABStep (Hugging Face and Adyen, huggingface.co/blog/dabstep), re-implemented from its
description. Range: 0 or 1; None when the reference is blank. The reference says what is compared: a list when it has a
`;`, or a `,` that is no thousands separator; else a number, if it can be read as one; else text.

Choices, stricter than the original where its tolerance pays for wrong answers:
- a number is right when it rounds to the reference at the reference's own decimals (3.14159 for 3.14, never 3 for
  3.14). A whole reference is exact: 5.4 is not 5;
- `,` `'` and spaces group thousands, `.` is the decimal point. A currency, a percent sign or one word of unit may be
  missing on either side, but two must agree: 5 EUR is 5, and not 5 kg. 25 % is 25, and never rescaled to 0.25. `k`,
  `million` and their like are part of the number: 5 million is not 5;
- a list is right when its items are, one to one, in any order: a missing, additional or repeated item is wrong.
  `1,234` is a number, and `1, 234` a list of two: write `;` in references where that matters;
- text is right when it has the same number of words (case, articles and punctuation aside), the same digits, and a
  similarity of at least `similarity` (difflib's ratio). An answer that contains the reference, or begins like it, is
  wrong. Similar words of opposite meaning in a long sentence ("possible", "impossible") cannot be told apart:
  `similarity: 1.0` asks for the very words;
- "nan", "inf" and their like are text.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from aha.rewards.contract import Completion, Problem, Score, final_answer

ANSWER_LIMIT = 10_000
"""Characters of an answer."""
TEXT_LIMIT = 1_000
"""Characters of one text: similarity takes time quadratic in it."""
LIST_LIMIT = 200
"""Items of a reference: every answer is compared with every one of them."""

_UNITS = {
    "$": "usd", "€": "eur", "£": "gbp", "¥": "jpy", "dollar": "usd", "euro": "eur", "pound": "gbp", "yen": "jpy",
    "percent": "%",
}  # fmt: skip
_MAGNITUDES = frozenset(
    ["k", "m", "mn", "mio", "mm", "b", "bn", "t", "tn", "thousand", "million", "billion", "trillion"]
)
_NUMBER = re.compile(
    r"(?P<minus>-)?\s?(?P<before>[$€£¥]|USD|EUR|GBP|JPY|CNY|INR|CHF)?\s?(?P<sign>[-+])?"
    r"(?P<digits>(?:\d{1,3}(?:[, ']\d{3})+|\d{1,40})(?:\.\d{1,40})?|\.\d{1,40})(?P<exponent>[eE][-+]?\d{1,3})?"
    r"\s?(?P<after>[%$€£¥]|[^\W\d_]{1,20})?\.?"
)
_COMMA = re.compile(r",(?!\d{3}(?!\d))|(?<!\d),")
_SAME_LOOK = str.maketrans({"−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "’": "'", "\u200b": "", "\ufeff": ""})
_WORD = re.compile(r"[^\W_]+|[-+*/=<>#%$€£¥&]")
_ARTICLES = frozenset(["the", "a", "an"])


@dataclass(frozen=True)
class Params:
    similarity: float = 0.95
    """difflib's ratio from which on two texts are the same."""
    lists: bool = True
    """Read references with separators as lists; False: as they stand."""
    require: Literal["answer_tag", "boxed", "either", "any"] = "any"

    def __post_init__(self) -> None:
        if not 0.5 <= self.similarity <= 1.0:
            raise ValueError("similarity from 0.5 to 1")


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    reference = _tidy(problem.answer)
    if not reference:
        return Score(None, "the problem's answer is blank")
    answer = final_answer(completion, params.require)
    if answer is None or not answer.strip():
        return Score(0.0, "no answer given")
    if len(answer) > ANSWER_LIMIT:
        return Score(0.0, f"an answer of {len(answer)} characters")
    answer = _tidy(answer)
    expected = _items(reference) if params.lists else [reference]
    if len(expected) == 1:
        return Score(float(_same(answer, reference, params.similarity)), "compared as one value")
    if len(expected) > LIST_LIMIT:
        return Score(None, f"a reference of {len(expected)} items")
    given = _items(answer)
    if len(given) != len(expected):
        return Score(0.0, f"{len(given)} items, not {len(expected)}")
    fits = [[_same(one, other, params.similarity) for other in expected] for one in given]
    return Score(float(_one_to_one(fits)), f"compared as lists of {len(expected)}")


def _tidy(text: str) -> str:
    """One spelling of dashes, spaces and widths, without LaTeX's escapes and dollar signs around a formula."""
    text = unicodedata.normalize("NFKC", text).translate(_SAME_LOOK)
    text = re.sub(r"\\([$%&#])", r"\1", re.sub(r"\$([^$]*)\$", r"\1", text))
    return " ".join(text.split())


# --- lists ---------------------------------------------------------------------------------------------------------


def _items(text: str) -> list[str]:
    if len(text) > 1 and text[0] + text[-1] in ("[]", "()", "{}"):
        text = text[1:-1]
    parts = text.split(";") if ";" in text else _COMMA.split(text)
    return [item for part in parts if (item := part.strip().removeprefix("and ").strip(" '\""))]


def _one_to_one(fits: Sequence[Sequence[bool]]) -> bool:
    """Whether each row finds a column of its own (Kuhn's augmenting paths): tolerance makes first come first served wrong."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


# --- one value -----------------------------------------------------------------------------------------------------


def _same(given: str, reference: str, similarity: float) -> bool:
    expected, found = read_number(reference), read_number(given)
    if expected is None:
        return _same_text(given, reference, similarity)
    return found is not None and _same_number(found, expected)


class Number(NamedTuple):
    """A number with the half of its last place (0 for a whole one), and its unit ("" for none)."""

    value: Decimal
    tolerance: Decimal
    unit: str


def read_number(text: str) -> Number | None:
    """A number with at most one unit.

    >>> read_number("$1,234.50"), read_number("5 kg"), read_number("5 or 6")
    (Number(value=Decimal('1234.50'), tolerance=Decimal('0.005'), unit='usd'), Number(value=Decimal('5'), tolerance=Decimal('0'), unit='kg'), None)
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None or (match["before"] and match["after"]) or (match["minus"] and match["sign"]):
        return None
    minus = "-" if match["minus"] or match["sign"] == "-" else ""
    value = Decimal(minus + re.sub("[, ']", "", match["digits"]) + (match["exponent"] or ""))
    place = int(value.as_tuple().exponent)
    rounded = "." in match["digits"] or match["exponent"]
    unit = (match["before"] or match["after"] or "").casefold()
    unit = unit if unit in _MAGNITUDES else unit.removesuffix("s")
    return Number(value, Decimal((0, (5,), place - 1)) if rounded else Decimal(0), _UNITS.get(unit, unit))


def _same_number(found: Number, expected: Number) -> bool:
    units = {found.unit, expected.unit}
    if len(units) > 1 and ("" not in units or units & _MAGNITUDES):
        return False
    return abs(found.value - expected.value) <= expected.tolerance


def _same_text(given: str, reference: str, similarity: float) -> bool:
    ours, theirs = _words(given), _words(reference)
    if len(ours) != len(theirs) or max(len(given), len(reference)) > TEXT_LIMIT:
        return given.casefold() == reference.casefold()
    one, other = " ".join(ours), " ".join(theirs)
    if re.findall(r"\d+", one) != re.findall(r"\d+", other):
        return False
    match = difflib.SequenceMatcher(None, one, other, autojunk=False)
    return match.quick_ratio() >= similarity and match.ratio() >= similarity  # the quick one is an upper bound


def _words(text: str) -> list[str]:
    """Words in one case, and signs that carry meaning; no articles, except where an article would be a letter's name."""
    words = _WORD.findall(re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", "", text.casefold()))
    return [word for word, after in zip(words, [*words[1:], ""], strict=False) if word not in _ARTICLES or not after]
