r"""Reading formulas: text in the one alphabet becomes a small tree. Nothing is computed here.

A tree is a `Fraction`, a name, or a `Node`. What a formula means as an answer is not known here either: `values.py`
takes lists, intervals and equations apart before the formulas in them come here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from aha.rewards.answers.alphabet import FUNCTIONS
from aha.rewards.answers.errors import TooLarge, Unreadable

MAX_DEPTH = 60
MAX_DIGITS = 5_000


@dataclass(frozen=True)
class Node:
    """An operation and its operands: `+ - * / ^ neg ! abs floor ceil conj det matrix row deg sum prod`, or a function."""

    op: str
    args: tuple[Tree, ...]


Tree: TypeAlias = "Fraction | str | Node"


_TOKEN = re.compile(
    r"\s*(\d+\.(?=\\(?:overline|bar|dot))|(?:\d+\.\d+|1)e-\d+|\d+(?:\.\d+)?(?:[eE]\d+|E[+-]\d+|e[+-]0\d+)?|\.\d+|\\[A-Za-z]+|\\\\|\S)"
)
_OPENING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", "|": "|"}
_AFTER_OPERAND = frozenset(
    ["(", "[", "{", r"\lfloor", r"\lceil", r"\frac", r"\sqrt", r"\binom", r"\sum", r"\prod", r"\begin"]
)
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "array", "smallmatrix", "vmatrix")


def parse(text: str) -> Tree:
    r"""The tree of a cleaned formula; `Unreadable` when it is not one.

    >>> parse(r"x - \frac{1}{y}")
    Node(op='-', args=('x', Node(op='/', args=(Fraction(1, 1), 'y'))))
    """
    parser = _Parser([match[1] for match in _TOKEN.finditer(text)])
    tree = parser.formula()
    if parser.peek() is not None:
        raise Unreadable(f"{parser.peek()} was not expected")
    return tree


class _Parser:
    """Recursive descent: sum → product → signed → power → postfix → operand. Depth is bounded, so the stack is."""

    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._bars = 0

    def peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def take(self) -> str:
        token = self.peek()
        if token is None:
            raise Unreadable("it ends too early")
        self._next += 1
        return token

    def expect(self, wanted: str) -> None:
        if self.take() != wanted:
            raise Unreadable(f"{wanted} is missing")

    def formula(self) -> Tree:
        """A sum, or TeX's `a \\over b` and `n \\choose k`, which split everything within a brace group."""
        tree = self.sum()
        if self.peek() in (r"\over", r"\choose"):
            op = "/" if self.take() == r"\over" else "binom"
            tree = Node(op, (tree, self.sum()))
        return tree

    def sum(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        tree = self.product()
        while self.peek() in ("+", "-"):
            op = self.take()
            tree = Node(op, (tree, self.product()))
        self._depth -= 1
        return tree

    def product(self) -> Tree:
        tree = self.signed()
        while True:
            if self.peek() in ("*", "/", ":"):
                op = self.take().replace(":", "/")
                tree = Node(op, (tree, self.signed()))
            elif self._starts_operand():
                tree = self._juxtaposed(tree)
            elif self.peek() in ("%", "°"):
                tree = self._marked(tree)
            else:
                return tree

    def _juxtaposed(self, left: Tree) -> Tree:
        """`2x`, and the mixed number `2\\frac{3}{4}` (or `2 3/4`), which is a sum."""
        after_integer = re.fullmatch(r"\d+", self._tokens[self._next - 1]) is not None
        follows = self.peek()
        if after_integer and follows is not None and follows[0].isdigit():
            return self._mixed_slash(left)
        right = self.power()
        if after_integer and follows == r"\frac" and _is_proper_fraction(right):
            if isinstance(left, Fraction):
                return Node("+", (left, right))
            if isinstance(left, Node) and left.op == "neg" and isinstance(left.args[0], Fraction):
                return Node("neg", (Node("+", (left.args[0], right)),))
        return Node("*", (left, right))

    def _mixed_slash(self, left: Tree) -> Tree:
        above = self.operand()
        self.expect("/")
        right = Node("/", (above, self.operand()))
        if not _is_proper_fraction(right):
            raise Unreadable("two numbers side by side")
        if isinstance(left, Node) and left.op == "neg":
            return Node("neg", (Node("+", (left.args[0], right)),))
        return Node("+", (left, right))

    def _starts_operand(self) -> bool:
        token = self.peek()
        if token is None or (token == "|" and self._bars):
            return False
        if token[0].isdigit() and self._tokens[self._next - 1] == "}":
            return False  # `\\frac{1}{2}000` is not a product
        return token[0].isalnum() or token in ("∞", "|") or token in _AFTER_OPERAND or token[1:] in FUNCTIONS

    def signed(self) -> Tree:
        if self.peek() == "-":
            self.take()
            return Node("neg", (self.signed(),))
        if self.peek() == "+":
            self.take()
            return self.signed()
        return self.power()

    def power(self) -> Tree:
        base = self.postfix(self.operand())
        if self.peek() != "^":
            return base
        self.take()
        return self.postfix(Node("^", (base, self._exponent())))

    def _exponent(self) -> Tree:
        if self.peek() == "-":
            self.take()
            return Node("neg", (self._exponent(),))
        if self.peek() == "+":
            self.take()
        exponent = self.operand()
        if self.peek() == "^":
            self.take()
            return Node("^", (exponent, self._exponent()))
        return exponent

    def postfix(self, tree: Tree) -> Tree:
        while self.peek() == "!":
            self.take()
            tree = Node("!", (tree,))
        return tree

    def _marked(self, tree: Tree) -> Tree:
        """Per cent and degrees bind looser than a product, so that `33\\frac{1}{3}%` is a third."""
        return Node("/", (tree, Fraction(100))) if self.take() == "%" else Node("deg", (tree,))

    def operand(self) -> Tree:
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self._number(token)
        if token in _OPENING:
            return self._group(token)
        if token.startswith("\\"):
            return self._command(token[1:])
        if token == "∞" or (len(token) == 1 and token.isalpha()):
            return self._name(token)
        raise Unreadable(f"{token} was not expected")

    def _number(self, token: str) -> Tree:
        if len(token) > MAX_DIGITS or re.search(r"[eE][+-]?\d{4}", token):
            raise TooLarge(f"a number of {len(token)} characters")
        if self.peek() in (r"\overline", r"\bar", r"\dot") and "." in token:
            return self._repeating(token)
        number = Fraction(token)
        if self.peek() != "_":
            return number
        self.take()
        base = self.argument()
        if not (isinstance(base, Fraction) and base.denominator == 1 and 2 <= base <= 36 and token.isdigit()):
            raise Unreadable("a number with a subscript that is no base")
        try:
            return Fraction(int(token, int(base)))
        except ValueError:
            raise Unreadable(f"{token} is no numeral of base {base}") from None

    def _repeating(self, token: str) -> Tree:
        """`0.1\\overline{6}` is a sixth."""
        self.take()
        start = self._next
        self.argument()
        period = re.sub(r"\D", "", "".join(self._tokens[start : self._next]))
        places = len(token.partition(".")[2])
        if not period:
            raise Unreadable("a repeating decimal without digits")
        return Fraction(token.rstrip(".")) + Fraction(int(period), (10 ** len(period) - 1) * 10**places)

    def _name(self, letter: str) -> Tree:
        name = letter
        if self.peek() == "_":
            self.take()
            name += "_" + _shown(self.argument())
        while self.peek() == "'":
            name += self.take()
        return name

    def _group(self, opening: str) -> Tree:
        self._bars += opening == "|"
        bars, self._bars = self._bars, self._bars if opening == "|" else 0
        tree = self.formula() if opening == "{" else self.sum()
        self.expect(_OPENING[opening])
        self._bars = bars - (opening == "|")
        if opening == "|" and isinstance(tree, Node) and tree.op == "matrix":
            return Node("det", tree.args)
        wrap = {"|": "abs", r"\lfloor": "floor", r"\lceil": "ceil"}.get(opening)
        return Node(wrap, (tree,)) if wrap else tree

    def argument(self) -> Tree:
        """What TeX takes for an argument: a brace group, or a single digit, letter or command."""
        token = self.peek()
        if token is not None and token.isdigit() and len(token) > 1:
            self._tokens[self._next] = token[1:]
            return Fraction(token[0])
        return self.operand()

    def _command(self, name: str) -> Tree:
        if name == "frac":
            above = self.argument()
            return Node("/", (above, self.argument()))
        if name == "binom":
            above = self.argument()
            return Node("binom", (above, self.argument()))
        if name == "sqrt":
            return self._root()
        if name in ("sum", "prod"):
            return self._series(name)
        if name == "begin":
            return self._matrix()
        if name in ("overline", "bar"):
            return self._conjugate()
        if name == "det":
            matrix = self.operand()
            return Node("det", matrix.args if isinstance(matrix, Node) and matrix.op == "matrix" else ())
        if name in FUNCTIONS:
            return self._function(name)
        raise Unreadable(f"\\{name} is not known here")

    def _conjugate(self) -> Tree:
        """`\\overline{2+i}`. Of letters, a bar may also mean a segment, a mean or digits: that is not known here."""
        number = self.argument()
        found = set(names(number))
        if "i" not in found or found - {"i", "e", "π"}:
            raise Unreadable("a bar over what is no complex number")
        return Node("conj", (number,))

    def _root(self) -> Tree:
        degree: Tree = Fraction(2)
        if self.peek() == "[":
            self.take()
            degree = self.sum()
            self.expect("]")
        return Node("root", (self.argument(), degree))

    def _series(self, name: str) -> Tree:
        self.expect("_")
        self.expect("{")
        index = self.operand()
        self.expect("=")
        low = self.sum()
        self.expect("}")
        self.expect("^")
        high = self.argument()
        if not isinstance(index, str):
            raise Unreadable("a sum without an index")
        return Node(name, (index, low, high, self.product()))

    def _function(self, name: str) -> Tree:
        exponent: Tree | None = None
        base: Tree | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                exponent = self._exponent()
            else:
                base = self.argument()
        arguments = self._arguments()
        if exponent == Node("neg", (Fraction(1),)) and name in _INVERSE:
            name, exponent = _INVERSE[name], None
        name = _INVERSE.get(name, name) if name.startswith("a") and len(name) == 4 else name
        if name == "cis":  # cos + i sin
            name, arguments = "exp", tuple(Node("*", ("i", argument)) for argument in arguments)
        tree = Node("log" if base is not None else name, (*arguments, base) if base is not None else arguments)
        return tree if exponent is None else Node("^", (tree, exponent))

    def _arguments(self) -> tuple[Tree, ...]:
        """`(a, b)` ends an application; without brackets it reaches to the next sign, operator or function."""
        if self.peek() in ("(", "⦃"):
            closing = {"(": ")", "⦃": "⦄"}[self.take()]
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            self.expect(closing)
            return tuple(arguments)
        tree = Node("neg", (self.power(),)) if self.peek() == "-" and self.take() else self.power()
        while self._starts_operand() and (self.peek() or "")[1:] not in FUNCTIONS:
            tree = Node("*", (tree, self.power()))
        return (self._marked(tree) if self.peek() in ("%", "°") else tree,)

    def _matrix(self) -> Tree:
        kind = self._environment()
        if kind not in _MATRICES:
            raise Unreadable(f"environment {kind}")
        if kind == "array" and self.peek() == "{":
            self._environment()
        rows: list[Tree] = []
        entries = [self.sum()]
        while True:
            token = self.take()
            if token == "&":
                entries.append(self.sum())
                continue
            if token not in ("\\\\", r"\end"):
                raise Unreadable(f"{token} was not expected in a matrix")
            rows.append(Node("row", tuple(entries)))
            if token == "\\\\" and self.peek() == r"\end":
                token = self.take()
            if token == r"\end":
                break
            entries = [self.sum()]
        self._environment()
        return Node("det" if kind == "vmatrix" else "matrix", tuple(rows))

    def _environment(self) -> str:
        self.expect("{")
        name = ""
        while (token := self.take()) != "}":
            name += token
        return name


def _is_proper_fraction(tree: Tree) -> bool:
    if not (isinstance(tree, Node) and tree.op == "/"):
        return False
    above, below = tree.args
    whole = isinstance(above, Fraction) and isinstance(below, Fraction) and above.denominator == below.denominator == 1
    return whole and 0 < above < below  # type: ignore[operator]


def _shown(tree: Tree) -> str:
    if isinstance(tree, Node):
        return f"{tree.op}({','.join(map(_shown, tree.args))})"
    return str(tree)


def walk(tree: Tree) -> Iterator[Tree]:
    """A tree and everything below it, from the top, left to right."""
    yield tree
    if isinstance(tree, Node):
        for argument in tree.args:
            yield from walk(argument)


def names(tree: Tree) -> Iterator[str]:
    """Every name in a tree, constants like π included."""
    return (part for part in walk(tree) if isinstance(part, str))
