"""What an answer says: a number, a tuple, a set, an interval, an equation, a matrix, a time of day, …

`read` takes cleaned text apart from the outside in, the loosest sign first; what is left in the end are formulas.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from aha.rewards.answers.equality import numeric_constant
from aha.rewards.answers.errors import Unreadable
from aha.rewards.answers.grammar import Node, Tree, parse
from aha.rewards.answers.units import ANGLES, Unit, read_parts, read_unit, split_multiple, split_unit
from aha.rewards.answers.wording import counted_in_words, half_line

_NO_SOLUTION = re.compile(
    r"(there (is|are) )?(none|(no|not any)( real| integer)*( solutions?| roots?| values?| numbers?)( exists?)?"
    r"|no such [a-z]+( exists?)?)|(the )?empty set"
)
_ALL_REALS = re.compile(r"(all|any|every)( the)? real numbers?|all (reals|real [a-z])|the reals|the real numbers")
_NUMBER_SET = re.compile(
    r"(?:the )?(?:set of )?(?:(?:all|any|every) )?(?:the )?(integer|natural number|rational number|complex number)s?"
)
_NUMBER_SETS = {"integer": "ℤ", "natural number": "ℕ", "rational number": "ℚ", "complex number": "ℂ"}
_EXCEPT = re.compile(r"(?:all |any |every )?(?:reals|real numbers?) except(?: for)? (.+)")
_UNDEFINED = re.compile(
    r"((the )?(limit|integral|series|sequence|sum|it) )?(does not exist|dne|(is )?(undefined|not defined|divergent)|diverges)"
)


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
    """`3:4`, or a time of day: `3:40`, `12:05 p.m.`"""

    terms: tuple[Fraction, ...]
    is_clock: bool = False
    suffix: str = ""


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
_THOUSANDS = re.compile(r"(?<![\d.,_'])[1-9]\d{0,2}(?:(?:([,' _])\d{3})(?:\1\d{3})*|(?:\.\d{3}){2,})(?![\d,'])")
_CLOCK = re.compile(r"(\d{1,2})\s*:\s*(\d{2})(?:\s*:\s*(\d{2}))?\s*([ap])?\.?\s*(?:m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")
_LABEL = re.compile(r"(?=\D)[A-Za-zα-ωΑ-Ω∠△|'_{}\s\d,]{1,40}(?:\([^()=+*/^]{0,20}\))?\|?\s*")
_BRACKETS = {"(": ")", "[": "]", "{": "}", "⦃": "⦄", "⟨": "⟩"}


def read(text: str, letters_are_units: bool = False, is_quantity: bool = False) -> Value:
    """What a cleaned answer says; of a quantity, any letters behind a number are its unit. Unreadable when not clear."""
    text = _stripped(text)
    if (found := special_phrase(unwrapped(text))) is not None:
        return found
    if is_quantity:
        text = re.sub(r"(?<=\d)\s*\^?\{?(?:''|\")\}?", r"\\text{ in}", text)
        text = re.sub(r"(?<=\d)\s*\^?\{?'\}?(?!\d{3})", r"\\text{ ft}", text)
    text = _with_usual_parameter(text)
    text = re.sub(r"(?<=[ℝℤℚℕℂ])\s*-\s*(?=⦃)", "∖", text)
    text = re.sub(r"ℝ\s*\^\s*\{?\*\}?", "ℝ∖⦃0⦄", text)
    text = re.sub(r"ℝ\s*(?:(?:\^\{?\+\}?|_\{?0\}?){2}|_\{?≥\s*0\}?)", "[0,∞)", text)
    text = re.sub(r"ℝ\s*(?:\^\{?\+\}?|_\{?(?:\+|>\s*0)\}?)", "(0,∞)", text)
    text = re.sub(r"ℝ\s*(?:\^\{?-\}?|_\{?(?:-|<\s*0)\}?)", "(-∞,0)", text)
    if text in "ℝℤℚℕℂ":
        return Name(text)
    if text == "∅":
        return Many((), "set")
    for reader in (
        _read_parts,
        _read_thousands,
        _read_joined,
        _read_residue,
        _read_relation,
        _read_plus_minus,
        _read_bracketed,
        _read_ratio,
    ):
        if (value := reader(text)) is not None:
            return value
    return _read_scalar(text, letters_are_units, is_quantity)


def _with_usual_parameter(text: str) -> str:
    """`π/4 + nπ, n ∈ ℤ` with k for n: the letter of a whole number that runs is free."""
    match = re.search(r"(?<![A-Za-z\\])([a-z])\s*∈\s*ℤ\s*$", text)
    if match is None or match[1] == "k" or re.search(r"(?<![A-Za-z\\])k(?![A-Za-z])", text):
        return text
    return re.sub(rf"(?<![A-Za-z\\]){match[1]}(?![A-Za-z])", "k", text)


def _stripped(text: str) -> str:
    """Without final punctuation, and without parentheses and braces around the whole, however many."""
    text = text.strip().rstrip(".,;").strip().lstrip("=≈ ")
    text = re.sub(r'^"(.*)"$', r"\1", text)
    text = re.sub(r"^(?:\\text\{)?\s*(?:approximately|about|roughly)\s*\}?\s*(?=[\d\\-])", "", text)
    if inside := re.fullmatch(r"\\text\{([^{}]*\d[^{}]*)\}", text):
        text = inside[1].strip()
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


_ARC = re.compile(r"(\d+)\s*°\s*(\d+)\s*\^?\s*\{?'\}?(?:\s*(\d+(?:\.\d+)?)\s*\^?\s*\{?(?:''|\")\}?)?")


def _read_parts(text: str) -> Value | None:
    """One quantity in several units: `1 h 30 min`, and `37°30'`."""
    if arc := _ARC.fullmatch(text):
        degrees = sum(Fraction(part or 0) / 60**place for place, part in enumerate(arc.groups()))
        return Scalar(Node("deg", (Fraction(degrees),)), None, text)
    found = read_parts(text)
    return Scalar(found[0], found[1], text) if found else None


def _read_thousands(text: str) -> Value | None:
    """`1,000,000`, `1 000 000`, `1'000'000` and `1.000.000` are numbers where no other comma says that it is a list."""
    if text[0] in "([⦃⟨":
        return None
    joined = _THOUSANDS.sub(lambda match: re.sub("[,' _.]", "", match[0]), text)
    return read(joined) if joined != text and "," not in joined else None


def _read_joined(text: str) -> Value | None:
    """`a or b`, `a and b`, `A ∪ B`, `a, b`: the loosest sign first."""
    for sign in ("∨", ";", "∧", ",", "∪", "∩", "∖"):
        pieces = _filled([piece for piece, _ in _split(text, sign)])
        if len(pieces) == 1:
            continue
        if sign in ",;∧" and not pieces[-1]:
            pieces.pop()
        if sign in ",∧" and "≠" in pieces[0] and not re.search(f"[{_SIGNS}]", "".join(pieces[1:])):
            pieces[1:] = [f"{pieces[0].partition('≠')[0]}≠{piece}" for piece in pieces[1:]]  # x ≠ 1, 2
        if not all(pieces) or _is_french_interval(text):
            return None
        parts = tuple(read(piece) for piece in pieces)
        if sign in "∪∩∖":
            return Combined(sign, parts)
        if any(map(_is_inequality, parts)) and all(isinstance(part, Relation | Name | Combined) for part in parts):
            return Combined("∨" if sign == "∨" else "∧", parts)
        return _listed(parts, text)
    return None


_DOTS = (r"\ldots", r"\dots", r"\cdots", "...")
LONGEST_PROGRESSION = 100


def _filled(pieces: list[str]) -> list[str]:
    """`1, 2, …, 5` in full: whole numbers in equal steps."""
    at = next((place for place, piece in enumerate(pieces) if piece in _DOTS), 0)
    if at < 2 or at + 1 == len(pieces) or not all(re.fullmatch(r"-?\d{1,9}", pieces[at + k]) for k in (-2, -1, 1)):
        return pieces
    before, last, end = (int(pieces[at + k]) for k in (-2, -1, 1))
    step = last - before
    if step == 0 or (end - last) % step or not 0 < (end - last) // step <= LONGEST_PROGRESSION:
        return pieces
    return [*pieces[:at], *map(str, range(last + step, end, step)), *pieces[at + 1 :]]


def have_own_names(items: tuple[Value, ...]) -> bool:
    """`x = 1, y = 2` is a pair; `x = 1, x = 2` and `x_1 = 1, x_2 = 2` are roots."""
    found = [item.sides[0] for item in items if isinstance(item, Relation) and re.fullmatch("[A-Za-z]", item.sides[0])]
    return len(set(found)) == len(items) > 1


def in_order_of_names(items: tuple[Value, ...]) -> list[Value]:
    return sorted(items, key=lambda item: item.sides[0] if isinstance(item, Relation) else "")


def _is_inequality(value: Value) -> bool:
    return isinstance(value, Relation) and set(value.signs) != {"="}


def _listed(parts: tuple[Value, ...], text: str) -> Many:
    """A list; lists inside (from ±, or from mixed `,` and `and`) are flattened, but `x=0, y=3 or x=3, y=0` are two pairs."""
    items: list[Value] = []
    if all(isinstance(part, Many) and part.brackets == "list" and have_own_names(part.items) for part in parts):
        parts = tuple(Many(tuple(in_order_of_names(part.items)), "()") for part in parts if isinstance(part, Many))
    for part in parts:
        items += part.items if isinstance(part, Many) and part.brackets == "list" else [part]
    return Many(tuple(items), "list", text)


def _is_french_interval(text: str) -> bool:
    return re.fullmatch(r"[\][][^][]*[\][]", text) is not None and (text[0] == "]" or text[-1] == "[")


def _read_residue(text: str) -> Value | None:
    match = re.fullmatch(
        r"(.*?)\s*\(?\s*(?:\\pmod|\\bmod|\\mod|\\text\{mod\}|\(mod|mod)\s*\{?\s*([^{}()]+?)\s*\}?\s*\)?", text
    )
    if match is None:
        return None
    side = re.split("[≡=]", match[1])[-1]
    return Residue(parse(side), parse(match[2]))


def _read_relation(text: str) -> Value | None:
    pieces = _split(text, _SIGNS)
    if len(pieces) == 1:
        return None
    signs = tuple(sign for _, sign in pieces[1:])
    if not pieces[0][0] and len(signs) == 1 and signs[0] in "<>≤≥≠":
        pieces[0] = ("x", "")  # "less than 7"
    if signs[-1] == "≈" and not is_label(pieces[-2][0]):  # an exact value, and how large it is
        value = read(text[: text.rindex("≈")])
        if not _is_about(value, read(pieces[-1][0])):
            raise Unreadable("an approximation of something else")
        return value
    if signs == ("∈",) and (is_label(pieces[0][0]) or is_tuple_of_names(pieces[0][0])):
        return read(pieces[1][0])
    if not all(piece for piece, _ in pieces) or "∈" in signs:
        raise Unreadable("a relation with a missing side")
    return Relation(tuple(piece for piece, _ in pieces), tuple("=" if sign in "≈≡" else sign for sign in signs))


def _is_about(value: Value, rounded: Value) -> bool:
    """Whether two numbers are within a tenth of each other; what is no number is not looked at."""
    if not (isinstance(value, Scalar) and isinstance(rounded, Scalar)):
        return True
    exactly, about = numeric_constant(value.tree), numeric_constant(rounded.tree)
    return exactly is None or about is None or abs(exactly - about) * 10 <= abs(exactly)


def _read_plus_minus(text: str) -> Value | None:
    """`1 ± √2` is two values; signs that occur together are read together."""
    if ("±" not in text and "∓" not in text) or (text[0], text[-1]) == ("⦃", "⦄"):
        return None
    upper, lower = text.replace("±", "+").replace("∓", "-"), text.replace("±", "-").replace("∓", "+")
    return _listed((read(upper), read(lower)), text)


def _read_bracketed(text: str) -> Value | None:
    whole = text
    text = re.sub(r"^[A-Z]'?\s*(?=\()", "", text)  # the point P(1,2)
    text = re.sub(r"(?<=\))\s*\^\s*\{?\s*T\s*\}?$", "", text)  # the column (1,2)^T
    opening, closing = text[0], text[-1]
    if _is_french_interval(text):
        inside = {"]": "(", "[": "["}[opening] + text[1:-1] + {"[": ")", "]": "]"}[closing]
        return _read_bracketed(inside)
    if (
        opening not in "([⦃⟨"
        or closing not in ")]⦄⟩"
        or _lowest_depth(text[1:-1].replace("⦃", "{").replace("⦄", "}")) < 0
    ):
        return None
    inner = text[1:-1].strip()
    if opening == "⦃":
        return _read_set(inner, text) if closing == "⦄" else None
    pieces = [piece for piece, _ in _split(inner, ",;")]
    rows = [_bare_row(piece) for piece in pieces]
    if opening == "[" and all(rows):
        return Matrix(tuple(row for row in rows if row))
    if len(pieces) == 1 or not all(pieces):
        return None
    return Many(tuple(read(piece) for piece in pieces), opening + closing, whole)


def _bare_row(text: str) -> tuple[Tree, ...] | None:
    """A row of `[[1, 2], [3, 4]]`."""
    if not re.fullmatch(r"\[[^][]*\]", text):
        return None
    return tuple(parse(piece) for piece, _ in _split(text[1:-1], ","))


def _read_set(inner: str, text: str) -> Value:
    if not inner:
        return Many((), "set")
    builder = re.fullmatch(r"\s*([A-Za-z])\s*(?:∈\s*(ℝ)\s*)?[|:](.*)", inner)
    if builder:
        return read(builder[3])
    items = _listed(tuple(read(piece) for piece in _filled([piece for piece, _ in _split(inner, ",;")])), text)
    return Many(items.items, "set", text)


def _read_ratio(text: str) -> Value | None:
    plain = unwrapped(text)
    if match := _CLOCK.fullmatch(plain):
        terms = tuple(Fraction(term) for term in match.groups()[:3] if term)
        if terms[0] <= 24 and terms[1] < 60:
            return Ratio(terms, True, (match[4] or "").lower())
    if (hour := full_hour(plain)) is not None and re.search(r"\\text|\.|'", text):
        return hour
    plain = re.sub(r"(?<=\d) to (?=\d)", ":", plain)
    if _RATIO.fullmatch(plain):
        return Ratio(tuple(Fraction(term) for term in plain.split(":")))
    return None


def full_hour(plain: str) -> Ratio | None:
    """`9 a.m.`, `9 o'clock`. Without dots, `9 am` may also be a product."""
    match = re.fullmatch(r"(\d{1,2})\s*(?:([ap])\.?\s?m\.?|o'clock)", plain, re.IGNORECASE)
    if match is None or int(match[1]) > 12:
        return None
    return Ratio((Fraction(match[1]), Fraction(0)), True, (match[2] or "").lower())


def _read_scalar(text: str, letters_are_units: bool, is_quantity: bool) -> Value:
    for sign in "+*":
        if any(dots in text for dots in _DOTS):  # 1 + 2 + … + 10
            text = sign.join(_filled([piece for piece, _ in _split(text, sign)]))
    if (numeral := _read_numeral(text)) is not None:
        return Scalar(numeral, None, text)
    number, unit_text = split_unit(text, letters_are_units, is_quantity)
    multiple, unit_text = split_multiple(unit_text)
    unit = read_unit(unit_text) if unit_text else None
    words = unwrapped(number)
    if re.match(r"[A-Za-z]{3}|a ", words):
        said, counted = counted_in_words(words)
        if said is not None:
            number, unit = str(said), read_unit(counted) if counted else unit
    tree = parse(number) if multiple == 1 else Node("*", (parse(number), multiple))
    if unit is not None and (unit.dimension == () or unit in ANGLES):
        return Scalar(Node(ANGLES[unit], (tree,)) if unit in ANGLES else Node("*", (tree, unit.factor)), None, text)
    if isinstance(tree, Node) and (rows := _matrix_rows(tree)) is not None:
        return Matrix(rows)
    return Scalar(tree, unit, text)


def _read_numeral(text: str) -> Fraction | None:
    """`FF_{16}`: a numeral whose digits include letters."""
    match = re.fullmatch(r"\(?(?:\\text\{)?([0-9A-Z]+)\}?\)?_\{?(\d\d)\}?", text)
    if match is None or match[1].isdigit() or len(match[1]) > 40:
        return None
    try:
        return Fraction(int(match[1], int(match[2])))
    except ValueError:
        return None


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


def unwrapped(text: str) -> str:
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    return re.sub(r"\s+", " ", text.replace("{", " ").replace("}", " ")).strip(' .,;:!?"')


def special_phrase(words: str) -> Value | None:
    """Phrases that are mathematics: no solution, all real numbers, does not exist, infinity."""
    plain = words.casefold().strip()
    if _NO_SOLUTION.fullmatch(plain):
        return Many((), "set")
    if _ALL_REALS.fullmatch(plain):
        return Name("ℝ")
    if goes := re.fullmatch(r"(?:it |the [a-z]+ )?(?:diverges|tends|goes) to (.*infinity)", plain):
        return special_phrase(goes[1])
    if numbers := _NUMBER_SET.fullmatch(plain):
        return Name(_NUMBER_SETS[numbers[1]])
    if (half := half_line(plain)) is not None:
        return read(half)
    if exception := _EXCEPT.fullmatch(plain):
        return Combined("∖", (Name("ℝ"), read(exception[1])))
    if re.fullmatch(r"(there are )?(an )?infinite(ly many)?( number of)?( solutions?| values?| ways)?", plain):
        return Name("infinitely many")
    if _UNDEFINED.fullmatch(plain):
        return Name("undefined")
    if plain in ("infinity", "positive infinity", "plus infinity", "inf", "+inf", "oo", "+oo"):
        return Scalar("∞")
    return Scalar(Node("neg", ("∞",))) if plain in ("negative infinity", "minus infinity", "-inf", "-oo") else None


def is_label(text: str) -> bool:
    """`x`, `x_1`, `f(x)`, `|AB|`, `\\text{Area}`: what a value may be called. Digits stand in subscripts only."""
    plain = re.sub(r"\\(?:text|overline|widehat|bar)\s*\{([^{}]*)\}", r"\1", text)
    plain = re.sub(r"^([A-Za-z])\s*\^\s*\{?\s*-\s*1\s*\}?\s*(?=\()", r"\1", plain)
    if re.fullmatch(r"\|\s*[a-yα-ω]\s*\|", plain):
        return False  # |x| = 5 is an equation for x, |z| = 5 says how large z is
    if not _LABEL.fullmatch(plain) or not re.search(r"[^\W\d_]", plain):
        return False
    return not re.search(r"(?<![\d_{,])\d", plain.partition("(")[0]) and plain.strip() not in ("π", "i")


def is_tuple_of_names(text: str) -> bool:
    return re.fullmatch(r"\(\s*[A-Za-zα-ω](?:_\{?\w\}?)?(?:\s*,\s*[A-Za-zα-ω](?:_\{?\w\}?)?)+\s*\)", text) is not None
