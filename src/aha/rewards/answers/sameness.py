"""Whether two values are the same answer: one method for each kind of thing that a reference can be."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import starmap
from typing import Any

from aha.rewards.answers.equality import equal, proportional
from aha.rewards.answers.errors import Irrational, Undefined, Unreadable
from aha.rewards.answers.exact import exact, substitute
from aha.rewards.answers.grammar import Node, Tree, names, parse
from aha.rewards.answers.regions import MIRRORED, NotARegion, names_in, region
from aha.rewards.answers.values import (
    Combined,
    Many,
    Matrix,
    Name,
    Ratio,
    Relation,
    Residue,
    Scalar,
    Value,
    full_hour,
    have_own_names,
    in_order_of_names,
    is_label,
    is_tuple_of_names,
    read,
)


@dataclass(frozen=True)
class Sameness:
    """Whether an answer is a reference. Not symmetric: the reference says what kind of thing it is."""

    units_required: bool = False
    percent: bool = False
    """25 and 25 % are the same."""

    def __call__(self, gold: Value, given: Value) -> bool:
        given = self._simplified(gold, given)
        gold, given = _with_components(gold, given), _with_components(given, gold)
        if isinstance(gold, Many) and gold.brackets == "list" and have_own_names(gold.items):
            gold = Many(tuple(in_order_of_names(gold.items)), "()")
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
        if isinstance(gold, Scalar) and isinstance(given, Relation) and _is_sum_of_names(given):
            given = read(given.sides[1], letters_are_units=True)
        is_one = isinstance(gold, Scalar) or (isinstance(gold, Many) and gold.ordered)
        if is_one and isinstance(given, Many) and given.brackets == "set" and len(given.items) == 1:
            given = given.items[0]
        if isinstance(gold, Scalar) and isinstance(given, Many) and given.brackets == "list" and len(given.items) == 2:
            formula, condition = given.items
            if isinstance(condition, Relation) and condition.signs == ("≠",) and condition.sides[0] in names(gold.tree):
                given = formula  # of x, where it is defined
        return given

    def _scalar(self, gold: Scalar, given: Value) -> bool:
        if isinstance(given, Many) and re.fullmatch(r"-?\d+,\d+", given.text):  # a decimal comma
            given = Scalar(Fraction(given.text.replace(",", ".")))
        if isinstance(given, Ratio) and len(given.terms) == 2 and not given.is_clock and given.terms[1]:
            given = Scalar(given.terms[0] / given.terms[1])
        if isinstance(given, Many) and (chosen := re.fullmatch(r"([CP])\((\w{1,4}),\s*(\w{1,4})\)", given.text)):
            given = Scalar(_selections(*chosen.groups()))
        if isinstance(given, Many) and (
            mixed := re.fullmatch(r"(\d+) ∧ (\\frac\s*\{\d+\}\s*\{\d+\}|\d+/\d+)", given.text)
        ):
            given = read(f"{mixed[1]} {mixed[2]}")
        if isinstance(given, Matrix) and [len(row) for row in given.rows] == [1]:
            given = Scalar(given.rows[0][0])
        if isinstance(given, Residue):
            return _same_remainder(gold.tree, given)
        if not isinstance(given, Scalar):
            return False
        if gold.unit is not None and given.unit is not None:
            if gold.unit.dimension != given.unit.dimension:
                return False
            return equal(_in_base_units(gold), _in_base_units(given))
        if (gold.unit is None) != (given.unit is None) and (self.units_required or _is_angle(gold, given)):
            return False
        return self._equal_up_to_notation(gold.tree, given.tree)

    def _equal_up_to_notation(self, gold: Tree, given: Tree) -> bool:
        if equal(gold, _with_constant_of(gold, given)):
            return True
        for one, other in ((gold, given), (given, gold)):
            if isinstance(one, Node) and one.op == "deg" and not _mentions_degrees_or_pi(other):
                return equal(one.args[0], other)
        common = _with_common_logarithms(gold), _with_common_logarithms(given)
        if common != (gold, given) and equal(*common):
            return True
        if self.percent:
            return equal(Node("/", (gold, Fraction(100))), given) or equal(gold, Node("/", (given, Fraction(100))))
        return False

    def _many(self, gold: Many, given: Value) -> bool:
        if isinstance(given, Matrix) and gold.brackets in ("()", "⟨⟩"):
            given = _vector(given)
        if not gold.ordered and len(gold.items) == 1 and not (isinstance(given, Many) and not given.ordered):
            return self(gold.items[0], given) or self._region(gold, given)
        if not gold.ordered and not isinstance(given, Many):
            return isinstance(given, Combined) and self._region(gold, given)
        if not isinstance(given, Many):
            return self._region(gold, given)
        if not gold.ordered:
            if have_own_names(given.items) and not all(map(self, gold.items, in_order_of_names(given.items))):
                return False  # x = 2, y = 1 are not the roots 1 and 2
            return not given.ordered and self._same_members(gold, given)
        pair = "()" if given.brackets == "list" else _round(given.brackets)
        if given.brackets == "set" or pair != _round(gold.brackets) or _are_alternatives(given):
            return False
        items = in_order_of_names(given.items) if have_own_names(given.items) else list(given.items)
        return len(items) == len(gold.items) and all(map(self, gold.items, items))

    def _same_members(self, gold: Many, given: Many) -> bool:
        joined = {sign for many in (gold, given) for sign in "∨∧" if sign in many.text}
        if len(joined) == 2 and any(isinstance(item, Scalar) and isinstance(item.tree, str) for item in gold.items):
            return False  # of statements, p and q is not p or q
        if len(given.items) > 4 * len(gold.items) + 16:
            return False
        expected, found = self._members(gold, given), self._members(given, gold)
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
            is_product = re.fullmatch("[a-z]{2,3}", gold.sides[0])  # xy = 6 is no name for 6
            value = None if is_product else _value_of(gold)
            return self(value, given) if value is not None else self._region(gold, given)
        if gold.signs == given.signs == ("=",):
            return _same_equation(gold, given) or self._same_definition(gold, given)
        return self._region(gold, given) or _same_inequality(gold, given)

    def _same_definition(self, gold: Relation, given: Relation) -> bool:
        """`x = 5` and `x = 10/2`: the same name, the same value."""
        ours, theirs = _value_of(gold), _value_of(given)
        if ours is None or theirs is None or not is_label(gold.sides[0]):
            return False
        functions = [re.fullmatch(r"([A-Za-z])\(([A-Za-z])\)", squeezed(each.sides[0])) for each in (gold, given)]
        if (functions[0] is None) != (functions[1] is None) and "y" in (
            squeezed(each.sides[0]) for each in (gold, given)
        ):
            return self(ours, theirs)  # the graph of f is y = f(x)
        if functions[0] and functions[1] and functions[0][1] == functions[1][1] and isinstance(theirs, Scalar):
            return self(ours, Scalar(substitute(theirs.tree, functions[1][2], functions[0][2])))
        return squeezed(gold.sides[0]) == squeezed(given.sides[0]) and self(ours, theirs)

    def _region(self, gold: Value, given: Value) -> bool:
        with contextlib.suppress(NotARegion, Undefined):
            return region(gold) == region(given)
        if isinstance(gold, Combined) and isinstance(given, Combined):
            same_length = gold.sign == given.sign and len(gold.parts) == len(given.parts)
            with contextlib.suppress(NotARegion):
                return same_length and all(map(self._same_part, gold.parts, given.parts))
        return False

    def _same_part(self, gold: Value, given: Value) -> bool:
        """Of `x < 1 or y > 2`, where a name is not as good as another."""
        if isinstance(gold, Relation) and isinstance(given, Relation) and names_in(gold) != names_in(given):
            return False
        return self(gold, given)

    def _matrix(self, gold: Matrix, given: Value) -> bool:
        if isinstance(given, Many) and given.brackets in ("()", "⟨⟩"):
            return self._many(_vector(gold), given) if all(len(row) == 1 for row in gold.rows) else False
        if isinstance(given, Scalar) and "I" in {name[0] for name in names(given.tree)}:
            return _is_multiple_of_identity(gold, given.tree)
        if (
            isinstance(given, Scalar) and isinstance(given.tree, Node) and given.tree.op == "binom"
        ):  # TeX's column of two
            given = Matrix(tuple((entry,) for entry in given.tree.args))
        if isinstance(given, Scalar) and [len(row) for row in gold.rows] == [1]:
            return equal(gold.rows[0][0], given.tree)
        if not isinstance(given, Matrix) or [len(row) for row in gold.rows] != [len(row) for row in given.rows]:
            return False
        pairs = zip(gold.rows, given.rows, strict=True)
        return all(equal(one, other) for ours, theirs in pairs for one, other in zip(ours, theirs, strict=True))

    def _ratio(self, gold: Ratio, given: Value) -> bool:
        if isinstance(given, Scalar) and len(gold.terms) == 2 and not gold.is_clock:
            return bool(gold.terms[1]) and equal(gold.terms[0] / gold.terms[1], given.tree)
        if isinstance(given, Scalar) and gold.is_clock:
            if given.tree == Node("/", gold.terms) and (gold.terms[1] % 5 or gold.terms[0] > 12):
                return True  # 9/16 for 9:16, which may be a ratio
            given = full_hour(given.text) or given
        if not isinstance(given, Ratio) or len(gold.terms) != len(given.terms):
            return False
        if gold.is_clock or given.suffix:
            return gold.is_clock and _same_time(gold, given)
        return all(a * given.terms[0] == b * gold.terms[0] for a, b in zip(gold.terms, given.terms, strict=True))

    def _residue(self, gold: Residue, given: Value) -> bool:
        given = _residue_of(given)
        if not isinstance(given, Residue) or not equal(gold.modulus, given.modulus):
            return False
        try:
            return (exact(gold.tree) - exact(given.tree)) % exact(gold.modulus) == 0
        except (Irrational, Undefined, ZeroDivisionError):
            return equal(gold.tree, given.tree)

    def _name(self, gold: Name, given: Value) -> bool:
        if isinstance(given, Scalar) and given.tree == unicodedata.normalize("NFKC", gold.name):
            return True  # a bold R
        if gold.name == "infinitely many":
            return gold == given or (isinstance(given, Scalar) and given.tree == "∞")
        return gold == given or self._region(gold, given)


def _selections(kind: str, total: str, chosen: str) -> Tree:
    """`C(n, k)` and `P(n, k)`: selections without and with their order."""
    binomial = Node("binom", (parse(total), parse(chosen)))
    return binomial if kind == "C" else Node("*", (binomial, Node("!", (parse(chosen),))))


def _same_time(gold: Ratio, given: Ratio) -> bool:
    """`3:30` is also `3:30 p.m.`; a reference that says which half of the day it means is not, but may be 15:30."""
    if gold.terms == given.terms:
        return gold.suffix in ("", given.suffix)
    hours = [each.terms[0] % 12 + 12 * (each.suffix == "p") if each.suffix else each.terms[0] for each in (gold, given)]
    return bool(gold.suffix) != bool(given.suffix) and hours[0] == hours[1] and gold.terms[1:] == given.terms[1:]


def _residue_of(given: Value) -> Value:
    """`7k + 2, k ∈ ℤ` as 2 (mod 7)."""
    if not (isinstance(given, Many) and len(given.items) == 2 and given.items[1] == Name("ℤ")):
        return given
    formula = _value_of(given.items[0]) if isinstance(given.items[0], Relation) else given.items[0]
    if not isinstance(formula, Scalar) or set(names(formula.tree)) != {"k"}:
        return given
    start, then = (substitute(formula.tree, "k", Fraction(place)) for place in (0, 1))
    step = Node("-", (then, start))
    line = Node("+", (start, Node("*", ("k", step))))
    return Residue(start, Node("abs", (step,))) if equal(formula.tree, line) else given


def _same_remainder(gold: Tree, given: Residue) -> bool:
    """`5 mod 3` is 2."""
    try:
        return exact(gold) == exact(given.tree) % exact(given.modulus)
    except (Irrational, Undefined, ZeroDivisionError):
        return False


def _value_of(relation: Relation) -> Value | None:
    """The value that a chain of equations arrives at, `x = 2+3 = 5`; None when its sides disagree or define nothing."""
    if set(relation.signs) != {"="}:
        return None
    sides = list(relation.sides)
    if is_label(sides[0]) or is_tuple_of_names(sides[0]):
        sides = sides[1:]
    elif len(sides) == 2 and is_label(sides[1]):
        sides = sides[:1]
    values = [read(side, letters_are_units=True) for side in sides]
    last = values[-1]
    agree = all(
        isinstance(value, Scalar) and isinstance(last, Scalar) and equal(value.tree, last.tree) for value in values[:-1]
    )
    return last if agree else None


def _are_alternatives(given: Many) -> bool:
    """`7 or 1`, and two values of one name, `x = 7, x = 1`, are no pair."""
    named = [item.sides[0] for item in given.items if isinstance(item, Relation)]
    return len(set(named)) < len(named) or (given.brackets == "list" and "∨" in given.text)


def _with_components(value: Value, other: Value) -> Value:
    """`2i + 3j` as the vector (2, 3), where the other side is one."""
    if not isinstance(value, Scalar) or not isinstance(other, Matrix | Many):
        return value
    size = len(other.rows) if isinstance(other, Matrix) else len(other.items) if other.ordered else 0
    basis = ("i", "j", "k")[:size]
    if size < 2 or value.unit is not None or not set(names(value.tree)) & {"j", "k"}:
        return value
    renamed = value.tree
    for name in basis:  # i is no imaginary unit here
        renamed = substitute(renamed, name, f"{name}_v")
    parts = [_component(renamed, f"{name}_v", [f"{each}_v" for each in basis]) for name in basis]
    whole: Tree = Fraction(0)
    for name, part in zip(basis, parts, strict=True):
        whole = Node("+", (whole, Node("*", (part, f"{name}_v"))))
    return Many(tuple(map(Scalar, parts)), "()") if equal(whole, renamed) else value


def _component(tree: Tree, name: str, basis: list[str]) -> Tree:
    for each in basis:
        tree = substitute(tree, each, Fraction(int(each == name)))
    return tree


def _vector(matrix: Matrix) -> Many:
    single = all(len(row) == 1 for row in matrix.rows)
    return Many(tuple(Scalar(row[0]) for row in matrix.rows) if single else (), "()")


def _is_multiple_of_identity(matrix: Matrix, tree: Tree) -> bool:
    """`2I`, `3I_2`: its entries are the formula with 1 for the identity, and with 0 where it is 0."""
    size = len(matrix.rows)
    if not all(len(row) == size for row in matrix.rows) or set(names(tree)) & {"I", f"I_{size}"} != set(names(tree)):
        return False
    entries = [tree, tree]
    for name in ("I", f"I_{size}"):
        entries = [substitute(entry, name, Fraction(value)) for value, entry in enumerate(entries)]
    return all(equal(matrix.rows[i][j], entries[i == j]) for i in range(size) for j in range(size))


def _round(brackets: str) -> str:
    return brackets.replace("⟨", "(").replace("⟩", ")")


def _is_angle(one: Scalar, other: Scalar) -> bool:
    """Whether one of the two is an angle, and the other in a unit that is none of temperature: 11° is not 11 cm."""
    units = [base for each in (one, other) if each.unit is not None for base, _ in each.unit.dimension]
    is_angle = any(isinstance(each.tree, Node) and each.tree.op in ("deg", "rad") for each in (one, other))
    return is_angle and not {"celsius", "fahrenheit"} & set(units)


def _is_sum_of_names(relation: Relation) -> bool:
    """`m + n = 5` says what the sum is."""
    left = relation.sides[0]
    return relation.signs == ("=",) and re.fullmatch(r"[a-z](?:_\d)?(?:\s*\+\s*[a-z](?:_\d)?)+", left) is not None


def _in_base_units(scalar: Scalar) -> Tree:
    assert scalar.unit is not None
    return Node("*", (scalar.tree, scalar.unit.factor))


def _mentions_degrees_or_pi(tree: Tree) -> bool:
    return "π" in names(tree) or (
        isinstance(tree, Node) and (tree.op in ("deg", "rad") or any(map(_mentions_degrees_or_pi, tree.args)))
    )


def _with_constant_of(gold: Tree, given: Tree) -> Tree:
    """The constant of integration may be written in either case."""
    if "C" not in _summands(gold):
        return given
    constant = next((each for each in _summands(given) if each in ("c", "k", "K", "C_1", "c_1")), None)
    return substitute(given, constant, "C") if isinstance(constant, str) else given


def _with_common_logarithms(tree: Tree) -> Tree:
    """`log x`, whose base is not written, as the logarithm of base ten; e is tried first."""
    if not isinstance(tree, Node):
        return tree
    arguments = tuple(map(_with_common_logarithms, tree.args))
    return Node("lg", arguments) if tree.op == "log" and len(arguments) == 1 else Node(tree.op, arguments)


def _summands(tree: Tree) -> list[Tree]:
    if isinstance(tree, Node) and tree.op in ("+", "-"):
        return [*_summands(tree.args[0]), *(_summands(tree.args[1]) if tree.op == "+" else [])]
    return [tree]


def _difference(relation: Relation) -> Tree:
    left, right = (parse(side) for side in relation.sides)
    return Node("-", (left, right))


def _same_equation(gold: Relation, given: Relation) -> bool:
    """The same equation, up to moving terms, multiplying by a number and clearing denominators."""
    try:
        ours, theirs = _difference(gold), _difference(given)
    except Unreadable:
        return False
    if proportional(ours, theirs) is not None:
        return True
    fractions = [_over_one_denominator(tree) for tree in (ours, theirs)]
    cleared = [above for above, _ in fractions]
    return cleared != [ours, theirs] and proportional(*cleared) is not None and not any(starmap(_cancel, fractions))


def _cancel(above: Tree, below: Tree) -> bool:
    """Whether a name divides numerator and denominator: `x²/x = 2x/x` has lost the solution 0 of `x² = 2x`."""
    zero = Fraction(0)
    return any(all(equal(substitute(tree, name, zero), zero) for tree in (above, below)) for name in set(names(below)))


def _over_one_denominator(tree: Tree) -> tuple[Tree, Tree]:
    """Numerator and denominator, where the denominator mentions a variable: `y - 12/x` is `(yx - 12) / x`."""
    one = Fraction(1)
    if not isinstance(tree, Node) or tree.op not in ("+", "-", "*", "/", "neg"):
        return tree, one
    parts = [_over_one_denominator(argument) for argument in tree.args]
    if tree.op == "/" and next(names(tree.args[1]), None) is not None:
        parts[1] = parts[1][1], parts[1][0]
    elif tree.op == "/" or all(below == one for _, below in parts):
        return (tree, one) if parts[0][1] == one else (Node("/", (parts[0][0], tree.args[1])), parts[0][1])
    (above, below), (other_above, other_below) = parts[0], parts[-1]
    if tree.op == "neg":
        return Node("neg", (above,)), below
    if tree.op in "*/":
        return Node("*", (above, other_above)), Node("*", (below, other_below))
    if below == other_below:
        return Node(tree.op, (above, other_above)), below
    crossed = Node("*", (above, other_below)), Node("*", (other_above, below))
    return Node(tree.op, crossed), Node("*", (below, other_below))


def _same_inequality(gold: Relation, given: Relation) -> bool:
    """The same inequality in several variables."""
    if len(gold.signs) != 1 or len(given.signs) != 1:
        return False
    try:
        factor = proportional(_difference(gold), _difference(given))
    except Unreadable:
        return False
    if factor is None:
        return False
    return given.signs[0] == (gold.signs[0] if factor > 0 else gold.signs[0].translate(MIRRORED))


def squeezed(text: str) -> str:
    """Without the white space that means nothing: `4 2` stays two numbers."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
