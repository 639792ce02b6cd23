r"""Full marks for the right answer to a mathematical problem: judged by value and meaning, not by spelling.

Range: 0 or 1, None when the *reference* answer cannot be read. After math-verify (Hugging Face, github.com/huggingface/
Math-Verify), which is asked last, and only about formulas outside of the grammar here (integrals, limits).

How: what the completion commits to is found by a linear scan (`final_answer`), and both answers are brought to one
alphabet. The *reference* then says what kind of thing is compared: a choice or words, a number, a tuple, a set, an
interval, an equation, a matrix, a quantity. Rational numbers are compared exactly. Other formulas are computed at a
dozen fixed points with more digits than both of them contain; sizes are looked at before anything is computed.

Choices, where careful people differ:
- an answer counts when it stands after the thinking, in the answer tag, in the last balanced box, or, with the default
  `require: any`, in an explicit `#### 5`, `Final answer: 5` or `The answer is 5`. Never inside the think block;
- an unevaluated answer is right when its value is (`\sum_{k=1}^{10} k` for 55): ask for the form in the prompt;
- a sequence of letters is text: `HTH` is not `HHT`, `BCA` not `ABC`. `algebra: true` says that it is a product, and
  `multi_select: true` that it is a set of options;
- a unit may be missing on either side (`units: required` says it may not), but two units must agree: 5 cm is 500 mm/10
  and not 5 kg. Letters that touch a number are variables, `3m` is not 3;
- 25 % is 0.25 and not 25, unless `percent: true` says that the data set asks for percentages;
- an open interval and a pair look alike, `(1,2)`; a set is neither. A bare list counts as a set where one is expected, and
  as a tuple in the same order;
- a clock time is not a ratio; a decimal is not the irrational number it approximates; 1/0 is no number, and not infinity;
- an answer that is too large to compute is wrong, unless it is spelt like the reference.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple, TypeAlias

from aha.rewards.contract import Completion, Problem, Score, final_answer
from aha.rewards.expression import (
    Irrational,
    Node,
    TooLarge,
    Tree,
    Undefined,
    Unreadable,
    clean,
    exact,
    names,
    parse,
    series_terms,
)


@dataclass(frozen=True)
class Params:
    require: Literal["answer_tag", "boxed", "either", "any"] = "any"
    """Where the answer must stand."""
    units: Literal["optional", "required"] = "optional"
    percent: bool = False
    """25 and 25 % are the same answer."""
    multi_select: bool = False
    """`ABD` is a set of options."""
    algebra: bool = False
    """`ab` is a product."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    answer = final_answer(completion, params.require)
    if answer is None:
        return Score(0.0, "no answer given")
    return compare(answer, problem.answer, params)


def warm_up() -> None:
    """Import what the slow paths need, once, before workers are forked."""
    import math_verify
    import mpmath  # noqa: F401

    math_verify.verify(math_verify.parse("$1$"), math_verify.parse("$1$"))


def compare(answer: str, gold: str, params: Params) -> Score:
    """Is this the reference answer? Right, wrong, or no verdict when the reference itself cannot be read."""
    ours, reference = clean(answer).rstrip(" .,;"), clean(gold).rstrip(" .,;")
    if not reference:
        return Score(None, "the reference answer is empty")
    if not ours:
        return Score(0.0, "the answer is empty")
    if _squeezed(ours) == _squeezed(reference):
        return Score(1.0, "spelt like the reference")
    if (kind := _words_kind(reference, params)) is not None:
        return _verdict(kind(ours, reference), "compared as words")
    return _compare_values(ours, reference, params)


def _compare_values(ours: str, reference: str, params: Params) -> Score:
    try:
        expected = read(reference)
    except (Unreadable, TooLarge) as problem:
        return _ask_math_verify(ours, reference, Score(None, f"the reference cannot be read: {problem}"))
    try:
        given = read(ours, letters_are_units=True)
    except TooLarge as problem:
        return Score(0.0, f"too large to compute: {problem}")
    except Unreadable as problem:
        return _ask_math_verify(ours, reference, Score(0.0, f"unreadable: {problem}"))
    try:
        return _verdict(_Same(params)(expected, given), f"compared as {type(expected).__name__.lower()}")
    except TooLarge as problem:
        return Score(0.0, f"too large to compute: {problem}")


def _verdict(right: bool, reason: str) -> Score:
    return Score(float(right), reason)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


# --- words ---------------------------------------------------------------------------------------------------------

_LETTERS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_FILLER = frozenset("the a an option choice answer is are it".split())
_NO_SOLUTION = re.compile(
    r"(there (is|are) )?(no|none|not any)( real| integer| such)*( solutions?| roots?| values?| numbers?)?( exists?)?|(the )?empty set"
)
_ALL_REALS = re.compile(r"(all|any|every)( the)? real numbers?|all reals|the reals|the real numbers")
_UNDEFINED = re.compile(r"(the limit )?(does not exist|dne|undefined|is undefined|diverges|divergent)")


def _words_kind(reference: str, params: Params) -> Callable[[str, str], bool] | None:
    """How a reference that consists of words is compared; None when it is a formula."""
    words = _unwrapped(reference)
    if not _LETTERS.fullmatch(words) or _special(words) is not None:
        return None
    if re.fullmatch(r"[A-Z]", words):
        return _same_choice
    if params.multi_select and re.fullmatch(r"[A-Z]{2,}", words):
        return _same_options
    if len(words) == 1 or params.algebra or words == "infinity":
        return None
    return _same_words


def _unwrapped(text: str) -> str:
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    return re.sub(r"\s+", " ", text.replace("{", " ").replace("}", " ")).strip(" .,;:!?\"'")


def _same_words(ours: str, reference: str) -> bool:
    return _content(ours) == _content(reference)


def _content(text: str) -> str:
    """Words without case, articles, spaces and multiplication signs; with digits, so that no number is overlooked."""
    words = re.findall(r"[^\W_]+|[^\s\w*.,'’\"()∧-]", _unwrapped(text).casefold())
    return "".join(word for word in words if len(words) == 1 or word not in _FILLER)


def _same_choice(ours: str, reference: str) -> bool:
    """`A`, `(A)`, `Option A`, and `A) with its text`, but not `A or B`."""
    letter, text = _unwrapped(reference), _unwrapped(ours)
    words = [word for word in re.findall(r"\w+|[^\s\w().:;,*\[\]-]", text) if word.casefold() not in _FILLER - {"a"}]
    if [word.upper() for word in words] == [letter]:
        return True
    labelled = re.match(r"\(?([A-Z])\s*[).:]\s*\S", text)
    return labelled is not None and labelled[1] == letter and len(re.findall(r"(?<![\w'])[A-Z](?!\w)", text)) == 1


def _same_options(ours: str, reference: str) -> bool:
    letters = re.sub(r"[\s,;∧()⦃⦄]", "", _unwrapped(ours))
    return letters.isalpha() and sorted(set(letters)) == sorted(set(_unwrapped(reference)))


def _special(words: str) -> Value | None:
    """Phrases that are mathematics: no solution, all real numbers, does not exist, infinity."""
    plain = words.casefold().strip()
    if _NO_SOLUTION.fullmatch(plain):
        return Many((), "set")
    if _ALL_REALS.fullmatch(plain):
        return Name("ℝ")
    if _UNDEFINED.fullmatch(plain):
        return Name("undefined")
    if plain in ("infinity", "positive infinity", "plus infinity"):
        return Scalar("∞")
    return Scalar(Node("neg", ("∞",))) if plain in ("negative infinity", "minus infinity") else None


# --- values --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scalar:
    """A number or a formula, with its unit."""

    tree: Tree
    unit: Unit | None = None
    text: str = ""


@dataclass(frozen=True)
class Many:
    """Several values. `brackets` is `set`, `list`, or the pair as written: `()`, `[)`, …"""

    items: tuple[Value, ...]
    brackets: str
    text: str = ""

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("set", "list")


@dataclass(frozen=True)
class Relation:
    """`a = b = c`, `0 < x ≤ 1`: the texts between the signs, since `f(x)` and `Area` are names here, and the signs."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True)
class Combined:
    """Values joined by ∪, ∩, ∖, ∨ (or) or ∧ (and)."""

    sign: str
    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Tree, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """`3:4`, or a time of day."""

    terms: tuple[Fraction, ...]
    suffix: str = ""

    @property
    def is_clock(self) -> bool:
        return bool(self.suffix) or (2 <= len(self.terms) <= 3 and self.terms[0] <= 24 and self.terms[1] >= 10)


@dataclass(frozen=True)
class Residue:
    """`3 (mod 5)`."""

    tree: Tree
    modulus: Tree


@dataclass(frozen=True)
class Name:
    """ℝ, ℚ, "does not exist"."""

    name: str


Value: TypeAlias = "Scalar | Many | Relation | Combined | Matrix | Ratio | Residue | Name"

_SIGNS = "=<>≤≥≠≈≡∈"
_THOUSANDS = re.compile(r"([+-]?)([1-9]\d{0,2}(?:([, ])\d{3})(?:\3\d{3})*)((?:\.\d+)?)")
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?\s*([ap])?\.?\s*(?:m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
_LABEL = re.compile(r"\s*(?:\\text\{[^{}]*\}|[A-Za-zα-ωΑ-Ω][A-Za-zα-ωΑ-Ω' ]*(?:_\{?\w+\}?)?|[∠△|])+\s*(?:\([^()=+*/^]*\))?\|?\s*")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄", "⟨": "⟩"}


def read(text: str, letters_are_units: bool = False) -> Value:
    """What a cleaned answer says. Unreadable when that is not clear."""
    text = _stripped(text)
    if (found := _special(_unwrapped(text))) is not None:
        return found
    if text in "ℝℤℚℕℂ" or text == "undefined":
        return Name(text)
    if text == "∅":
        return Many((), "set")
    for reader in (_read_thousands, _read_joined, _read_residue, _read_relation, _read_plus_minus, _read_bracketed, _read_ratio):
        if (value := reader(text)) is not None:
            return value
    return _read_scalar(text, letters_are_units)


def _stripped(text: str) -> str:
    """Without final punctuation, and without parentheses and braces around the whole, however many."""
    text = text.strip().rstrip(".,;").strip()
    depth = 0
    while depth < len(text) and text[depth] in "({" and text[-1 - depth : len(text) - depth] == _BRACKETS[text[depth]]:
        depth += 1
    inner = text[depth : len(text) - depth]
    lowest = _lowest_depth(inner)
    depth = max(0, depth + lowest)
    while depth and "," in text[depth : len(text) - depth] and text[depth - 1] == "(":
        depth -= 1
    return text[depth : len(text) - depth].strip() or text


def _lowest_depth(text: str) -> int:
    depth = lowest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        lowest = min(lowest, depth)
    return lowest


def _split(text: str, separators: str) -> list[tuple[str, str]]:
    """(piece, the separator before it) at the top level of all brackets."""
    pieces, depth, bars, start, before = [], 0, False, 0, ""
    for position, character in enumerate(text):
        depth += (character in "([{⦃⟨") - (character in ")]}⦄⟩")
        bars ^= character == "|"
        if depth == 0 and not (bars and character in ",") and character in separators:
            pieces.append((text[start:position].strip(), before))
            start, before = position + 1, character
    return [*pieces, (text[start:].strip(), before)]


def _read_thousands(text: str) -> Value | None:
    """`1,000,000` and `1 000 000` are numbers wherever they stand alone."""
    match = _THOUSANDS.fullmatch(text)
    return Scalar(Fraction(match[1] + re.sub("[, ]", "", match[2]) + match[4]), text=text) if match else None


def _read_joined(text: str) -> Value | None:
    """`a or b`, `a and b`, `A ∪ B`, `a, b`: the loosest sign first."""
    for sign in ("∨", ";", "∧", ",", "∪", "∩", "∖"):
        pieces = [piece for piece, _ in _split(text, sign)]
        if len(pieces) == 1:
            continue
        if sign in ",;∧" and not pieces[-1]:
            pieces.pop()
        if not all(pieces) or _is_french_interval(text):
            return None
        parts = tuple(read(piece) for piece in pieces)
        if sign in "∪∩∖":
            return Combined(sign, parts)
        inequalities = all(isinstance(part, Relation) and part.signs != ("=",) * len(part.signs) for part in parts)
        return Combined("∨" if sign == "∨" else "∧", parts) if inequalities else _listed(parts, text)
    return None


def _listed(parts: tuple[Value, ...], text: str) -> Many:
    """A list; lists inside (from ±, or from mixed `,` and `and`) are flattened."""
    items: list[Value] = []
    for part in parts:
        items += part.items if isinstance(part, Many) and part.brackets == "list" else [part]
    return Many(tuple(items), "list", text)


def _is_french_interval(text: str) -> bool:
    return re.fullmatch(r"[\][][^][]*[\][]", text) is not None and (text[0] == "]" or text[-1] == "[")


def _read_residue(text: str) -> Value | None:
    match = re.fullmatch(r"(.*?)\s*\(?\s*(?:\\pmod|\\bmod|\\mod|\\text\{mod\}|\(mod|mod)\s*\{?\s*([^{}()]+?)\s*\}?\s*\)?", text)
    if match is None:
        return None
    side = re.split("[≡=]", match[1])[-1]
    return Residue(parse(side), parse(match[2]))


def _read_relation(text: str) -> Value | None:
    pieces = _split(text, _SIGNS)
    if len(pieces) == 1:
        return None
    signs = tuple(sign for _, sign in pieces[1:])
    if signs == ("∈",):
        return read(pieces[1][0])
    if not all(piece for piece, _ in pieces) or "∈" in signs:
        raise Unreadable("a relation with a missing side")
    return Relation(tuple(piece for piece, _ in pieces), tuple("=" if sign in "≈≡" else sign for sign in signs))


def _read_plus_minus(text: str) -> Value | None:
    """`1 ± √2` is two values; signs that occur together are read together."""
    if "±" not in text and "∓" not in text:
        return None
    upper, lower = text.replace("±", "+").replace("∓", "-"), text.replace("±", "-").replace("∓", "+")
    return _listed((read(upper), read(lower)), text)


def _read_bracketed(text: str) -> Value | None:
    opening, closing = text[0], text[-1]
    if _is_french_interval(text):
        inside = {"]": "(", "[": "["}[opening] + text[1:-1] + {"[": ")", "]": "]"}[closing]
        return _read_bracketed(inside)
    if opening not in "([⦃⟨" or closing not in ")]⦄⟩" or _lowest_depth(text[1:-1].replace("⦃", "{").replace("⦄", "}")) < 0:
        return None
    inner = text[1:-1].strip()
    if opening == "⦃":
        return _read_set(inner, text) if closing == "⦄" else None
    pieces = [piece for piece, _ in _split(inner, ",;")]
    if len(pieces) == 1 or not all(pieces):
        return None
    return Many(tuple(read(piece) for piece in pieces), opening + closing, text)


def _read_set(inner: str, text: str) -> Value:
    if not inner:
        return Many((), "set")
    builder = re.fullmatch(r"\s*([A-Za-z])\s*(?:∈\s*(ℝ)\s*)?[|:](.*)", inner)
    if builder:
        return read(builder[3])
    items = _listed(tuple(read(piece) for piece, _ in _split(inner, ",;")), text)
    return Many(items.items, "set", text)


def _read_ratio(text: str) -> Value | None:
    plain = _unwrapped(text)
    if match := _CLOCK.fullmatch(plain):
        terms = tuple(Fraction(term) for term in match.groups()[:3] if term)
        return Ratio(terms, (match[4] or "").lower())
    if _RATIO.fullmatch(plain):
        return Ratio(tuple(Fraction(term) for term in plain.split(":")))
    return None


def _read_scalar(text: str, letters_are_units: bool) -> Value:
    number, unit_text = _split_unit(text, letters_are_units)
    unit = read_unit(unit_text) if unit_text else None
    words = _unwrapped(number).casefold()
    if words in _NUMBER_WORDS:
        return Scalar(Fraction(_NUMBER_WORDS.index(words)), unit, text)
    number = re.sub(r"(?<![\d.,])[1-9]\d{0,2}(?:[, ]\d{3})+(?![\d,])", lambda match: re.sub("[, ]", "", match[0]), number)
    tree = parse(number)
    if unit is not None and unit.dimension == ():
        return Scalar(Node("*", (tree, unit.factor)), None, text)
    if isinstance(tree, Node) and (rows := _matrix_rows(tree)) is not None:
        return Matrix(rows)
    return Scalar(tree, unit, text)


def _matrix_rows(tree: Tree) -> tuple[tuple[Tree, ...], ...] | None:
    """The entries of a matrix, or of a number times a matrix."""
    if not isinstance(tree, Node):
        return None
    if tree.op == "matrix":
        return tuple(row.args for row in tree.args if isinstance(row, Node))
    if tree.op == "neg" and (rows := _matrix_rows(tree.args[0])) is not None:
        return tuple(tuple(Node("neg", (entry,)) for entry in row) for row in rows)
    if tree.op in ("*", "/"):
        left, right = tree.args
        if (rows := _matrix_rows(left)) is not None:
            return tuple(tuple(Node(tree.op, (entry, right)) for entry in row) for row in rows)
        if tree.op == "*" and (rows := _matrix_rows(right)) is not None:
            return tuple(tuple(Node("*", (left, entry)) for entry in row) for row in rows)
    if tree.op == "^" and tree.args[1] in ("T", "⊤") and (rows := _matrix_rows(tree.args[0])) is not None:
        return tuple(zip(*rows, strict=True))
    return None


# --- units ---------------------------------------------------------------------------------------------------------


class Unit(NamedTuple):
    """A factor to the base units, and their powers: km/h is (5/18, ((m, 1), (s, -1)))."""

    factor: Fraction
    dimension: tuple[tuple[str, int], ...]


_UNITS_TABLE = """
m: mm 1/1000, millimeter 1/1000, millimetre 1/1000, cm 1/100, centimeter 1/100, centimetre 1/100, dm 1/10, decimeter 1/10, m 1,
   meter 1, metre 1, km 1000, kilometer 1000, kilometre 1000, in 0.0254, inch 0.0254, inches 0.0254, ft 0.3048, foot 0.3048,
   feet 0.3048, yd 0.9144, yard 0.9144, mi 1609.344, mile 1609.344
g: mg 1/1000, milligram 1/1000, g 1, gram 1, kg 1000, kilogram 1000, t 1000000, ton 1000000, tonne 1000000, lb 453.59237,
   lbs 453.59237, pound 453.59237, oz 28.349523125, ounce 28.349523125
s: ms 1/1000, millisecond 1/1000, s 1, sec 1, second 1, min 60, minute 60, h 3600, hr 3600, hour 3600, day 86400, week 604800
month: month 1, year 12, yr 12
dollar: dollar 1, usd 1, buck 1, cent 1/100, ¢ 1/100
euro: euro 1, eur 1
gbp: gbp 1
deg: deg 1, degree 1, ° 1
rad: rad 1, radian 1
K: kelvin 1
: hundred 100, thousand 1000, million 1000000, billion 1000000000, trillion 1000000000000, dozen 12, percent 1/100
"""
_UNITS: dict[str, Unit] = {}
for _line in _UNITS_TABLE.replace("\n   ", " ").strip().splitlines():
    _base, _, _entries = _line.partition(":")
    for _entry in _entries.split(","):
        _unit, _factor = _entry.split()
        _UNITS[_unit] = Unit(Fraction(_factor), ((_base, 1),) if _base else ())
_UNITS |= {name: Unit(Fraction(1, 1000), (("m", 3),)) for name in ("l", "liter", "litre")}
_UNITS |= {name: Unit(Fraction(1, 10**6), (("m", 3),)) for name in ("ml", "milliliter", "millilitre", "cc")}
_UNITS |= {"mph": Unit(Fraction("0.44704"), (("m", 1), ("s", -1))), "kph": Unit(Fraction(5, 18), (("m", 1), ("s", -1)))}

_LETTER_UNIT = re.compile(r"(?<=[\d})])(?:cm|mm|km|kg|mg|ml|ft|mph|kph|lbs?|hrs?|min|sec)(?:\^\{?\d\}?)?$")
_WORD_UNIT = re.compile(r"(?<=[\d})])\s+([A-Za-z]{2,}[A-Za-z /^{}\d.]*|(?:m|g|s|h|L|l)(?:\^\{?\d\}?)?(?:/[a-z]+(?:\^\{?\d\}?)?)?)$")
_NOT_UNITS = frozenset("or and not if when where is for but no than to nor either maybe".split())
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()


def _split_unit(text: str, letters_are_units: bool) -> tuple[str, str]:
    """A formula and the unit behind it, or the currency before it. Only text (`\\text{…}`, or words) is a unit."""
    currency = re.match(r"([+-]?)\s*\\text\{(dollars|euros|gbp|yen|rupees)\}\s*", text)
    if currency:
        return currency[1] + text[currency.end() :], currency[2]
    start = text.find(r"\text{")
    if start > 0:
        return text[:start].strip(), text[start:]
    match = _WORD_UNIT.search(text)
    if match is None and letters_are_units:
        match = _LETTER_UNIT.search(text)
    if match is not None and not re.search(r"\\[A-Za-z]*\s*$", text[: match.start()]):
        return text[: match.start()].strip(), match[0]
    return text, ""


def read_unit(text: str) -> Unit:
    """The unit that words name; unknown words (apples) are units of their own."""
    words = re.findall(r"[A-Za-z¢°]+|\^\s*\{?\s*-?\d+|/", _unwrapped_unit(text).replace("*", " "))
    if len(words) > 8 or any(word.casefold() in _NOT_UNITS for word in words) or not words:
        raise Unreadable("text behind a number that is no unit")
    factor, powers, sign, raised = Fraction(1), dict[str, int](), 1, 1
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word in ("/", "per"):
            sign = -1
        elif word in ("square", "sq", "squared", "cubic", "cu", "cubed"):
            raised = (2 if word.startswith("s") else 3) if not word.endswith("ed") else 1
        elif not word.startswith("^"):
            power = sign * raised * _power_after(following)
            unit = _unit_named(word)
            factor *= unit.factor**power
            for base, count in unit.dimension:
                powers[base] = powers.get(base, 0) + count * power
            raised = 1
    return Unit(factor, tuple(sorted((base, power) for base, power in powers.items() if power)))


def _unwrapped_unit(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace(".", " ")


def _power_after(word: str) -> int:
    if word in ("squared", "cubed"):
        return 2 if word == "squared" else 3
    return int(re.sub(r"[^\d-]", "", word)) if word.startswith("^") else 1


def _unit_named(word: str) -> Unit:
    for name in (word, word.casefold(), word.casefold().removesuffix("s")):
        if name in _UNITS:
            return _UNITS[name]
    return Unit(Fraction(1), ((word.casefold().removesuffix("s"), 1),))


# --- sameness ------------------------------------------------------------------------------------------------------


class _Same:
    """Whether an answer is a reference. Not symmetric: the reference says what kind of thing it is."""

    def __init__(self, params: Params):
        self._params = params

    def __call__(self, gold: Value, given: Value) -> bool:
        given = self._simplified(gold, given)
        compare: dict[type, Callable[[Any, Value], bool]] = {
            Scalar: self._scalar,
            Many: self._many,
            Relation: self._relation,
            Combined: self._region,
            Matrix: self._matrix,
            Ratio: self._ratio,
            Residue: self._residue,
            Name: self._name,
        }
        return compare[type(gold)](gold, given)

    def _simplified(self, gold: Value, given: Value) -> Value:
        """`x = 5` for 5, `(x, y) = (1, 2)` for (1, 2), `{5}` for 5: what was asked for, without its name."""
        if isinstance(gold, Relation):
            return given
        while isinstance(given, Relation) and (value := _value_of(given)) is not None:
            given = value
        if isinstance(gold, Scalar) and isinstance(given, Many) and given.brackets == "set" and len(given.items) == 1:
            given = given.items[0]
        return given

    def _scalar(self, gold: Scalar, given: Value) -> bool:
        if isinstance(given, Many) and re.fullmatch(r"-?\d+,\d+", given.text):  # a decimal comma
            given = Scalar(Fraction(given.text.replace(",", ".")))
        if isinstance(given, Ratio) and len(given.terms) == 2 and not given.is_clock and given.terms[1]:
            given = Scalar(given.terms[0] / given.terms[1])
        if not isinstance(given, Scalar):
            return False
        if gold.unit is not None and given.unit is not None:
            if gold.unit.dimension != given.unit.dimension:
                return False
            return equal(_in_base_units(gold), _in_base_units(given))
        if (gold.unit is None) != (given.unit is None) and self._params.units == "required":
            return False
        return self._equal_up_to_notation(gold.tree, given.tree)

    def _equal_up_to_notation(self, gold: Tree, given: Tree) -> bool:
        if equal(gold, _with_constant_of(gold, given)):
            return True
        for one, other in ((gold, given), (given, gold)):
            if isinstance(one, Node) and one.op == "deg" and not _mentions_degrees_or_pi(other):
                return equal(one.args[0], other)
        if self._params.percent:
            return equal(Node("/", (gold, Fraction(100))), given) or equal(gold, Node("/", (given, Fraction(100))))
        return False

    def _many(self, gold: Many, given: Value) -> bool:
        if isinstance(given, Matrix) and gold.brackets in ("()", "⟨⟩"):
            given = _vector(given)
        if gold.brackets in ("set", "list") and not isinstance(given, Many):
            if len(gold.items) == 1 and isinstance(given, Scalar):
                return self(gold.items[0], given)
            return isinstance(given, Combined) and self._region(gold, given)
        if not isinstance(given, Many):
            return self._region(gold, given)
        if not gold.ordered:
            return not given.ordered and self._same_members(gold, given)
        if given.brackets == "set" or (given.brackets != "list" and _round(given.brackets) != _round(gold.brackets)):
            return False
        items = _in_order_of_names(given.items)
        return len(items) == len(gold.items) and all(map(self, gold.items, items))

    def _same_members(self, gold: Many, given: Many) -> bool:
        expected, found = self._members(gold, given), self._members(given, given)
        if len(expected) != len(found):
            return False
        for item in expected:
            match = next((other for other in found if self(item, other)), None)
            if match is None:
                return False
            found.remove(match)
        return True

    def _members(self, many: Many, given: Many) -> list[Value]:
        """The members, once each when one side is a set."""
        items: list[Value] = []
        for item in many.items:
            if "set" in (many.brackets, given.brackets) and any(self(other, item) for other in items):
                continue
            items.append(item)
        return items

    def _relation(self, gold: Relation, given: Value) -> bool:
        if not isinstance(given, Relation):
            value = _value_of(gold)
            return self(value, given) if value is not None else self._region(gold, given)
        if gold.signs == given.signs == ("=",):
            return _same_equation(gold, given) or self._same_definition(gold, given)
        return self._region(gold, given) or _same_inequality(gold, given)

    def _same_definition(self, gold: Relation, given: Relation) -> bool:
        """`x = 5` and `x = 10/2`: the same name, the same value."""
        ours, theirs = _value_of(gold), _value_of(given)
        if ours is None or theirs is None or not _LABEL.fullmatch(gold.sides[0]):
            return False
        return _squeezed(gold.sides[0]) == _squeezed(given.sides[0]) and self(ours, theirs)

    def _region(self, gold: Value, given: Value) -> bool:
        try:
            return region(gold) == region(given)
        except (NotARegion, Undefined):
            pass
        if isinstance(gold, Combined) and isinstance(given, Combined):
            same_length = gold.sign == given.sign and len(gold.parts) == len(given.parts)
            return same_length and all(map(self, gold.parts, given.parts))
        return False

    def _matrix(self, gold: Matrix, given: Value) -> bool:
        if isinstance(given, Many) and given.brackets in ("()", "⟨⟩"):
            return self._many(_vector(gold), given) if all(len(row) == 1 for row in gold.rows) else False
        if not isinstance(given, Matrix) or [len(row) for row in gold.rows] != [len(row) for row in given.rows]:
            return False
        pairs = zip(gold.rows, given.rows, strict=True)
        return all(equal(one, other) for ours, theirs in pairs for one, other in zip(ours, theirs, strict=True))

    def _ratio(self, gold: Ratio, given: Value) -> bool:
        if isinstance(given, Scalar) and len(gold.terms) == 2 and not gold.is_clock:
            return bool(gold.terms[1]) and equal(gold.terms[0] / gold.terms[1], given.tree)
        if not isinstance(given, Ratio) or len(gold.terms) != len(given.terms):
            return False
        if gold.is_clock or given.is_clock:
            return gold.terms == given.terms and gold.suffix in ("", given.suffix)
        return all(a * given.terms[0] == b * gold.terms[0] for a, b in zip(gold.terms, given.terms, strict=True))

    def _residue(self, gold: Residue, given: Value) -> bool:
        if not isinstance(given, Residue) or not equal(gold.modulus, given.modulus):
            return False
        try:
            return (exact(gold.tree) - exact(given.tree)) % exact(gold.modulus) == 0
        except (Irrational, Undefined, ZeroDivisionError):
            return equal(gold.tree, given.tree)

    def _name(self, gold: Name, given: Value) -> bool:
        return gold == given or self._region(gold, given)


def _value_of(relation: Relation) -> Value | None:
    """The value that a chain of equations arrives at, `x = 2+3 = 5`; None when its sides disagree or define nothing."""
    if set(relation.signs) != {"="}:
        return None
    sides = list(relation.sides)
    if _LABEL.fullmatch(sides[0]) or _is_tuple_of_names(sides[0]):
        sides = sides[1:]
    elif len(sides) == 2 and _LABEL.fullmatch(sides[1]):
        sides = sides[:1]
    values = [read(side, letters_are_units=True) for side in sides]
    last = values[-1]
    agree = all(isinstance(value, Scalar) and isinstance(last, Scalar) and equal(value.tree, last.tree) for value in values[:-1])
    return last if agree else None


def _is_tuple_of_names(text: str) -> bool:
    return re.fullmatch(r"\(\s*[A-Za-zα-ω](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-zα-ω](?:_\{?\w\}?)?)+\s*\)", text) is not None


def _in_order_of_names(items: tuple[Value, ...]) -> list[Value]:
    """`y = 2, x = 1` in the order of the names."""
    if not all(isinstance(item, Relation) and re.fullmatch("[A-Za-z]", item.sides[0]) for item in items):
        return list(items)
    return sorted(items, key=lambda item: item.sides[0])  # type: ignore[union-attr]


def _vector(matrix: Matrix) -> Many:
    single = all(len(row) == 1 for row in matrix.rows)
    return Many(tuple(Scalar(row[0]) for row in matrix.rows) if single else (), "()")


def _round(brackets: str) -> str:
    return brackets.replace("⟨", "(").replace("⟩", ")")


def _in_base_units(scalar: Scalar) -> Tree:
    assert scalar.unit is not None
    return Node("*", (scalar.tree, scalar.unit.factor))


def _mentions_degrees_or_pi(tree: Tree) -> bool:
    return "π" in names(tree) or (isinstance(tree, Node) and (tree.op == "deg" or any(map(_mentions_degrees_or_pi, tree.args))))


def _with_constant_of(gold: Tree, given: Tree) -> Tree:
    """The constant of integration may be written in either case."""
    if not (isinstance(gold, Node) and gold.op == "+" and gold.args[1] == "C"):
        return given
    if isinstance(given, Node) and given.op == "+" and given.args[1] in ("c", "k", "K"):
        return Node("+", (given.args[0], "C"))
    return given


# --- regions of the real line --------------------------------------------------------------------------------------


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
            return _merged([span for item in value.items for span in region(item)])
        if len(value.items) == 2 and value.brackets in ("()", "[]", "(]", "[)"):
            low, high = (_end(item) for item in value.items)
            return _merged([Span(low, value.brackets[0] == "[", high, value.brackets[1] == "]")])
    raise NotARegion


def _combined_region(value: Combined) -> tuple[Span, ...]:
    parts = [region(part) for part in value.parts]
    union = _merged([span for part in parts for span in part])
    if value.sign in "∪∨":
        return union
    if value.sign == "∖":
        return _intersection(parts[0], _complement(_merged([span for part in parts[1:] for span in part])))
    common = functools.reduce(_intersection, parts)
    return common or union  # "x < -1, x > 1" means or


def _relation_region(relation: Relation) -> tuple[Span, ...]:
    """`0 < x ≤ 1` and its like: one variable, numbers around it."""
    variables = {side for side in relation.sides if re.fullmatch("[A-Za-zα-ω]", side) and side not in "eiπ"}
    if len(variables) != 1:
        raise NotARegion
    spans = EVERYTHING
    for left, sign, right in zip(relation.sides, relation.signs, relation.sides[1:], strict=False):
        if left in variables:
            spans = _intersection(spans, _half_line(sign, _end(read(right))))
        elif right in variables:
            spans = _intersection(spans, _half_line(sign.translate(_MIRRORED), _end(read(left))))
        else:
            raise NotARegion
    return spans


_MIRRORED = str.maketrans("<>≤≥", "><≥≤")


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
    real = [span for span in spans if span.low < span.high or (span.low == span.high and span.low_closed and span.high_closed)]
    for span in sorted(real, key=lambda span: (span.low, not span.low_closed)):
        if abs(span.low) == _INFINITE:
            span = span._replace(low_closed=False)
        if span.high == _INFINITE:
            span = span._replace(high_closed=False)
        last = merged[-1] if merged else None
        if last is None or span.low > last.high or (span.low == last.high and not (span.low_closed or last.high_closed)):
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


# --- equality of formulas ------------------------------------------------------------------------------------------

_CONSTANTS = frozenset(["π", "e", "i", "∞"])
_POINTS = 12
_AGREEING_POINTS = 3
_GUARD_DIGITS = 40
_MAX_DIGITS = 3_000


def equal(one: Tree, other: Tree) -> bool:
    """Whether two formulas have the same value: exactly for rational numbers, else at a dozen points."""
    if one == other:
        return True
    try:
        return exact(one) == exact(other)
    except Undefined:
        return False
    except Irrational:
        return _agree(one, other)


def _agree(one: Tree, other: Tree) -> bool:
    """Agreement wherever both are real; where both are never real, wherever both are defined."""
    symbols = sorted({*names(one), *names(other)} - _CONSTANTS)
    if "∞" in names(one) or "∞" in names(other):
        return False
    is_complex = "i" in names(one) or "i" in names(other)
    outcome = None if is_complex else _agree_at_points(one, other, symbols, real=True)
    return _agree_at_points(one, other, symbols, real=False) is True if outcome is None else outcome


def _agree_at_points(one: Tree, other: Tree, symbols: list[str], real: bool) -> bool | None:
    """None when too few points are in the domain of both."""
    import mpmath

    digits = _GUARD_DIGITS + _digits_in(one) + _digits_in(other)
    if digits > _MAX_DIGITS:
        raise TooLarge(f"{digits} digits")
    agreed = alone = 0
    with mpmath.workdps(digits):
        for point in _points(symbols):
            ours, theirs = (_value_at(tree, point, real) for tree in (one, other))
            if ours is None or theirs is None:
                alone += (ours is None) != (theirs is None)
                continue
            scale = max(mpmath.mpf(1) if abs(ours) > 1 else abs(ours), abs(ours), abs(theirs))
            if abs(ours - theirs) > scale * mpmath.mpf(10) ** (-digits + _GUARD_DIGITS // 2):
                return False
            agreed += 1
    if agreed >= (_AGREEING_POINTS if symbols else 1):
        return True
    return False if alone and real and not agreed and not symbols else None


def _points(symbols: list[str]) -> Iterator[dict[str, Any]]:
    """Fixed points, half of them positive, that no formula singles out; without symbols, one."""
    import mpmath

    for number in range(_POINTS if symbols else 1):
        point = {}
        for index, symbol in enumerate(symbols):
            size = mpmath.mpf((number * 7919 + index * 104_729 + 31_337) % 2_003 + 211) / 701
            point[symbol] = -size if number % 2 and (number // 2 + index) % 2 else size
        yield point


def _digits_in(tree: Tree) -> int:
    """How many digits the numbers of a tree hold, powers of ten included: what a comparison must resolve."""
    if isinstance(tree, Fraction):
        return len(str(tree.numerator)) + len(str(tree.denominator)) if tree.denominator != 1 else len(str(tree.numerator))
    if isinstance(tree, str):
        return 0
    if tree.op == "^":
        try:
            return max(1, int(_digits_in(tree.args[0]) * max(1, abs(exact(tree.args[1])))))
        except (Irrational, Undefined):
            pass
    if tree.op == "!":
        return 1 + int(5 * abs(exact(tree.args[0]))) if isinstance(tree.args[0], Fraction) else 10
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
        constants = {"π": mpmath.pi, "e": mpmath.e, "i": mpmath.j}
        return point[tree] if tree in point else +constants[tree]
    if tree.op in ("sum", "prod"):
        values = [_evaluate(term, point, real) for term in _terms(tree)]
        return mpmath.fsum(values) if tree.op == "sum" else mpmath.fprod(values)
    values = [_evaluate(argument, point, real) for argument in tree.args]
    if tree.op == "^" or tree.op == "root":
        value = _power_at(tree.op, *values, real)
    else:
        value = _function(tree.op)(*values)
    if real and getattr(value, "imag", 0) != 0:
        raise Undefined("not real here")
    if value and abs(mpmath.log(abs(value))) > 100_000:
        raise TooLarge("an intermediate value")
    return value


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
        denominator = next((odd for odd in (3, 5, 7, 9) if mpmath.almosteq(exponent * odd, mpmath.nint(exponent * odd))), None)
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
        "deg": lambda a: a * mpmath.pi / 180,
        "ln": _bounded_argument(mpmath.log),
        "log": _bounded_argument(mpmath.log),
        "lg": _bounded_argument(mpmath.log10),
        "exp": _bounded_argument(mpmath.exp),
        "!": lambda a: _bounded_argument(mpmath.gamma)(a + 1),
        "binom": _bounded_argument(mpmath.binomial),
        "floor": mpmath.floor,
        "ceil": mpmath.ceil,
        "arcsin": mpmath.asin,
        "arccos": mpmath.acos,
        "arctan": mpmath.atan,
        "min": min,
        "max": max,
    }
    plain = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
    table |= {each: _bounded_argument(getattr(mpmath, each)) for each in plain}
    if name not in table:
        raise Unreadable(f"{name} of what is not a number")
    return table[name]


def _bounded_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute(*values: Any) -> Any:
        if any(abs(value) > 100_000 for value in values):
            if function.__name__ in ("ln", "log", "log10"):
                return function(*values)
            raise TooLarge("the argument of a function")
        return function(*values)

    return compute


# --- equations -----------------------------------------------------------------------------------------------------


def _difference(relation: Relation) -> Tree:
    left, right = (parse(side) for side in relation.sides)
    return Node("-", (left, right))


def _same_equation(gold: Relation, given: Relation) -> bool:
    """The same equation, up to moving terms and multiplying by a number."""
    try:
        return _proportional(_difference(gold), _difference(given)) is not None
    except Unreadable:
        return False


def _same_inequality(gold: Relation, given: Relation) -> bool:
    """The same inequality in several variables."""
    if len(gold.signs) != 1 or len(given.signs) != 1:
        return False
    try:
        factor = _proportional(_difference(gold), _difference(given))
    except Unreadable:
        return False
    if factor is None:
        return False
    return given.signs[0] == (gold.signs[0] if factor > 0 else gold.signs[0].translate(_MIRRORED))


def _proportional(one: Tree, other: Tree) -> Any:
    """The constant ratio of two formulas; None when it is not constant, or when one of them vanishes."""
    import mpmath

    symbols = sorted({*names(one), *names(other)} - _CONSTANTS)
    ratios: list[Any] = []
    with mpmath.workdps(_GUARD_DIGITS + _digits_in(one) + _digits_in(other)):
        for point in _points(symbols):
            ours, theirs = (_value_at(tree, point, real=True) for tree in (one, other))
            if ours is None or theirs is None or mpmath.almosteq(ours, 0) or mpmath.almosteq(theirs, 0):
                continue
            ratios.append(ours / theirs)
        if len(ratios) < (_AGREEING_POINTS if symbols else 1):
            return None
        return ratios[0] if all(mpmath.almosteq(ratio, ratios[0], rel_eps=mpmath.eps * 10**15) for ratio in ratios) else None


# --- the last resort -----------------------------------------------------------------------------------------------

_BEYOND_US = re.compile(r"\\(?:int|iint|oint|lim|frac\{d)(?![A-Za-z])")


def _ask_math_verify(ours: str, reference: str, otherwise: Score) -> Score:
    """math-verify on integrals and limits. Its own alarm is the first bound, our deadline and SIGKILL the second."""
    if not (_BEYOND_US.search(ours) or _BEYOND_US.search(reference)) or re.search(r"[,=<>]|\\text", ours + reference):
        return otherwise
    import math_verify

    expected = math_verify.parse(f"${reference}$")
    given = math_verify.parse(f"${ours}$")
    if not expected or not given:
        return otherwise
    return _verdict(bool(math_verify.verify(expected, given, timeout_seconds=2)), "compared by math-verify")
