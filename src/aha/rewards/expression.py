r"""Reading formulas: LaTeX, Unicode and plain text become one alphabet (`clean`), then a small tree (`parse`).

A tree is a `Fraction`, a name, or a `Node`. Nothing here evaluates more than it is allowed to: `exact` computes with
rationals and looks at the size of a result *before* it computes it, so that `9^{9^{9}}` is `TooLarge` and not a frozen
process. Nothing here knows what an answer is; that is the graders' business.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

MAX_CHARACTERS = 4_000
MAX_DEPTH = 60
MAX_BITS = 20_000
"""Size of an exact integer, numerator or denominator; about 6,000 digits."""
MAX_TERMS = 2_000
"""Terms of a sum or product that is written out."""


class Unreadable(Exception):
    """Text that is not a formula in the grammar below."""


class Undefined(Exception):
    """A formula without a value, such as 1/0."""


class TooLarge(Exception):
    """A formula whose value is not worth computing."""


class Irrational(Exception):
    """A formula whose value is not (known to be) a rational number."""


@dataclass(frozen=True)
class Node:
    """An operation and its operands: `+ - * / ^ neg ! abs floor ceil det matrix row deg sum prod`, or a function."""

    op: str
    args: tuple[Tree, ...]


Tree: TypeAlias = "Fraction | str | Node"


# --- one alphabet --------------------------------------------------------------------------------------------------

_SYMBOLS = {
    "≤": r"leq leqslant le leqq", "≥": r"geq geqslant ge geqq", "≠": "neq ne", "<": "lt", ">": "gt", "≈": "approx",
    "≡": "equiv", "∈": "in", "∪": "cup bigcup", "∩": "cap bigcap", "∖": "setminus backslash smallsetminus", "±": "pm",
    "∓": "mp", "∞": "infty infin", "∅": "emptyset varnothing", "*": "cdot times ast cdotp bullet", "/": "div",
    "°": "degree", "∨": "lor vee", "∧": "land wedge", "⦃": "lbrace", "⦄": "rbrace", "⟨": "langle", "⟩": "rangle",
    "|": "lvert rvert vert mid", ":": "colon", "∠": "angle measuredangle", "△": "triangle", "'": "prime",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon varepsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta vartheta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho",
    "σ": "sigma", "τ": "tau", "φ": "phi varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "ℝ": "R reals Reals",
    "ℤ": "Z", "ℚ": "Q", "ℕ": "N", "ℂ": "C",
}  # fmt: skip
_BY_COMMAND = {command: symbol for symbol, commands in _SYMBOLS.items() for command in commands.split()}
_BY_CHARACTER = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "∗": "*",
    "÷": "/", "∕": "/", "⁄": "/", "ϕ": "φ", "ϵ": "ε", "∼": "~", "∣": "|", "′": "'", "’": "'", "√": "\x04", "∛": r"\sqrt[3]",
    "∑": r"\sum", "∏": r"\prod", "⩽": "≤", "⩾": "≥", "\\": "\\", "º": "°", "。": ".", "，": ",", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "€": "\x03euros\x03", "£": "\x03gbp\x03", "¥": "\x03yen\x03",
    "₹": "\x03rupees\x03", "µ": "μ", "…": "...",
}  # fmt: skip
_DOUBLE_STRUCK = {"R": "ℝ", "Z": "ℤ", "Q": "ℚ", "N": "ℕ", "C": "ℂ"}
_KEPT = frozenset("".join(_SYMBOLS) + "".join(_BY_CHARACTER.values()))

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth asin acos atan ln log lg exp gcd lcm min max".split()
)
_WORDS = re.compile(rf"(?<![A-Za-z\\])({'|'.join([*sorted(FUNCTIONS, key=len, reverse=True), 'sqrt', 'pi'])})(?![A-Za-z])")
_TEXT_MACRO = re.compile(r"\\(text[a-z]*|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname\*?)\s*\{([^{}]*)\}")
_TIDY: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|hline|!)(?![A-Za-z])", ""),
        (r"\\!", ""),
        (r"\\(?:quad|qquad|hfill|enspace|thinspace)(?![A-Za-z])|\\[,;:> ]|~", " "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\(?:boxed|fbox)(?![A-Za-z])", ""),
        (r"\\mathbb\s*\{?\s*([RZQNC])\s*\}?", lambda match: _DOUBLE_STRUCK[match[1]]),
        (r"\\(?:mathcal|bf|rm)(?![A-Za-z])", ""),
        (r"\\\{", "⦃"),
        (r"\\\}", "⦄"),
        (r"\\%", "%"),
        (r"\\\$", "\x03dollars\x03"),
        (r"\^\s*\{?\s*\\circ\s*\}?", "°"),
        (r"\{,\}", ","),
        (r"\{:\}", ":"),
        (r"\*\*", "^"),
    )
)  # type: ignore[arg-type]


def clean(text: str) -> str:
    r"""One spelling for what looks the same: Unicode, LaTeX commands, spaces and fonts.

    >>> clean(r"\left[\,2,+\infty\right)"), clean("½ x²"), clean(r"x \leqslant \textbf{ 5 cm}")
    ('[ 2,+∞)', '\\frac{1}{2} x^{2}', 'x ≤ \\text{5 cm}')
    """
    text = _one_character_each(text[:MAX_CHARACTERS])
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    text = _TEXT_MACRO.sub(_plain_words, text)
    text = re.sub(r"(?<!\S)\$(?=\s*[\d.]+)(?!.*\$)", "\x03dollars\x03", text.strip()).replace("$", "")
    text = re.sub("\x03(\\w+)\x03", r"\\text{\1}", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda match: _BY_COMMAND.get(match[1], match[0]), text)
    text = re.sub(r"(?<![A-Za-z\\{])(or|and)(?![A-Za-z}])", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r"\\text\{\s*,?\s*(or|and)\s*\}", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r",\s*([∨∧])", r"\1", text)
    text = _map_outside_text(text, lambda part: _WORDS.sub(lambda match: "π" if match[1] == "pi" else rf"\{match[1]} ", part))
    return re.sub(r"\s+", " ", text).strip()


def _one_character_each(text: str) -> str:
    """Vulgar fractions, superscripts, full-width forms, dashes and invisible characters, as plain text."""
    text = re.sub("((?:\x01.)+)", lambda match: "^{" + match[1].replace("\x01", "") + "}", "".join(map(_plain, text)))
    text = re.sub("((?:\x02.)+)", lambda match: "_{" + match[1].replace("\x02", "") + "}", text)
    text = re.sub(r"\x04(\d+(?:\.\d+)?)", r"\\sqrt{\1}", text)
    return text.replace("\x04", r"\sqrt ")


def _plain(character: str) -> str:
    if character in _BY_CHARACTER:
        return _BY_CHARACTER[character]
    if character.isascii() or character in _KEPT:
        return character
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    if kind == "<fraction>":
        above, below = "".join(chr(int(code, 16)) for code in codes).split("⁄")
        return rf"\frac{{{above}}}{{{below}}}"
    if kind in ("<super>", "<sub>"):
        mark = "\x01" if kind == "<super>" else "\x02"
        return "".join(mark + _BY_CHARACTER.get(chr(int(code, 16)), chr(int(code, 16))) for code in codes)
    if unicodedata.category(character) in ("Cf", "Cc", "Cs"):
        return ""
    return unicodedata.normalize("NFKC", character)


def _plain_words(match: re.Match[str]) -> str:
    macro, words = match[1], match[2].replace("\x03", "").strip()
    if words in FUNCTIONS or (macro.startswith("operatorname") and words):
        return rf"\{words} " if words in FUNCTIONS else rf"\text{{{words}}}"
    if len(words) == 1 and macro.startswith(("math", "bold", "bm")):
        return words
    return rf"\text{{{words}}}"


def _map_outside_text(text: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(\\text\{[^{}]*\})", text)
    return "".join(part if part.startswith(r"\text{") else change(part) for part in parts)


# --- the grammar ---------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+|E[+-]\d+)?|\.\d+|\\[A-Za-z]+|\\\\|\S)")
_OPENING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", "|": "|"}
_AFTER_OPERAND = frozenset(["(", "[", "{", r"\lfloor", r"\lceil", r"\frac", r"\sqrt", r"\binom", r"\sum", r"\prod", r"\begin"])
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "Bmatrix", "array", "smallmatrix", "vmatrix")


def parse(text: str) -> Tree:
    r"""The tree of a cleaned formula; `Unreadable` when it is not one.

    >>> exact(parse(r"3\frac{1}{2} - 2^{-1}"))
    Fraction(3, 1)
    """
    parser = _Parser([match[1] for match in _TOKEN.finditer(text)])
    tree = parser.sum()
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
            if self.peek() in ("*", "/"):
                op = self.take()
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
        if len(token) > MAX_BITS // 4 or re.search(r"[eE][+-]?\d{4}", token):
            raise TooLarge(f"a number of {len(token)} characters")
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
        tree = self.sum()
        if opening == "{" and self.peek() in (r"\over", r"\choose"):
            op = "/" if self.take() == r"\over" else "binom"
            tree = Node(op, (tree, self.sum()))
        self.expect(_OPENING[opening])
        self._bars = bars - (opening == "|")
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
        if name in FUNCTIONS:
            return self._function(name)
        raise Unreadable(f"\\{name} is not known here")

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
        tree = Node("log" if base is not None else name, (*arguments, base) if base is not None else arguments)
        return tree if exponent is None else Node("^", (tree, exponent))

    def _arguments(self) -> tuple[Tree, ...]:
        """`(a, b)` ends an application; without brackets it reaches to the next sign, operator or function."""
        if self.peek() == "(":
            self.take()
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            self.expect(")")
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


def names(tree: Tree) -> Iterator[str]:
    """Every name in a tree, constants like π included."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Node):
        for argument in tree.args:
            yield from names(argument)


# --- exact values --------------------------------------------------------------------------------------------------


def exact(tree: Tree) -> Fraction:
    r"""The value of a tree of rational numbers. Irrational, Undefined or TooLarge otherwise.

    >>> exact(parse(r"\frac{6!}{2^{3}}")), exact(parse(r"\sum_{k=1}^{10} k"))
    (Fraction(90, 1), Fraction(55, 1))
    """
    if isinstance(tree, Fraction):
        return tree
    if isinstance(tree, str):
        raise Irrational(tree)
    if tree.op in ("sum", "prod"):
        return _bounded(_exact_series(tree))
    if tree.op == "det":
        return _determinant([[exact(entry) for entry in row.args] for row in tree.args if isinstance(row, Node)])
    if tree.op not in _EXACT:
        raise Irrational(tree.op)
    return _bounded(_EXACT[tree.op](*(exact(argument) for argument in tree.args)))


def substitute(tree: Tree, name: str, value: Tree) -> Tree:
    """The tree with a name replaced."""
    if tree == name:
        return value
    if isinstance(tree, Node):
        return Node(tree.op, tuple(substitute(argument, name, value) for argument in tree.args))
    return tree


def series_terms(tree: Node) -> list[Tree]:
    """The terms of a sum or product with integer bounds, written out."""
    index, low, high, body = tree.args
    assert isinstance(index, str)
    first, last = exact(low), exact(high)
    if first.denominator != 1 or last.denominator != 1:
        raise Undefined("bounds that are no integers")
    if last - first > MAX_TERMS:
        raise TooLarge(f"{last - first} terms")
    return [substitute(body, index, Fraction(k)) for k in range(int(first), int(last) + 1)]


def _exact_series(tree: Node) -> Fraction:
    values = [exact(term) for term in series_terms(tree)]
    total = Fraction(tree.op == "prod")
    for value in values:
        total = _bounded(total + value if tree.op == "sum" else total * value)
    return total


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooLarge("a value of thousands of digits")
    return value


def _divide(a: Fraction, b: Fraction) -> Fraction:
    if b == 0:
        raise Undefined("division by zero")
    return a / b


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    if base == 0 and exponent <= 0:
        raise Undefined("zero to a power that is not positive")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and bits * abs(exponent) > 2 * MAX_BITS:
        raise TooLarge("a power of thousands of digits")
    return base ** int(exponent % 2 if abs(base) == 1 else exponent)


def _root(value: Fraction, degree: Fraction) -> Fraction:
    """The real root when it is rational."""
    if degree.denominator != 1 or not 1 <= degree <= 64 or (value < 0 and degree % 2 == 0):
        raise Irrational("root")
    above, below = _integer_root(abs(value.numerator), int(degree)), _integer_root(value.denominator, int(degree))
    return Fraction(above if value >= 0 else -above, below)


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    if low**degree != value:
        raise Irrational("root")
    return low


def _whole(value: Fraction, limit: int) -> int:
    if value.denominator != 1 or value < 0:
        raise Irrational("not a natural number")
    if value > limit:
        raise TooLarge(f"more than {limit}")
    return int(value)


def _determinant(rows: list[list[Fraction]]) -> Fraction:
    if any(len(row) != len(rows) for row in rows):
        raise Undefined("the determinant of a matrix that is not square")
    if len(rows) > 6:
        raise TooLarge("a large determinant")
    if not rows:
        return Fraction(1)
    minors = ([row[:column] + row[column + 1 :] for row in rows[1:]] for column in range(len(rows)))
    return sum(((-1) ** column * rows[0][column] * _determinant(minor) for column, minor in enumerate(minors)), Fraction(0))


def _of_integers(function: Callable[..., int]) -> Callable[..., Fraction]:
    def compute(*values: Fraction) -> Fraction:
        return Fraction(function(*(_whole(abs(value), 1 << 200) for value in values)))

    return compute


_EXACT: dict[str, Callable[..., Fraction]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": _divide,
    "^": _power,
    "root": _root,
    "neg": lambda a: -a,
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "!": lambda a: Fraction(math.factorial(_whole(a, 1_000))),
    "binom": lambda n, k: Fraction(math.comb(_whole(n, 5_000), _whole(k, 5_000))),
    "gcd": _of_integers(math.gcd),
    "lcm": _of_integers(math.lcm),
    "min": min,
    "max": max,
}
