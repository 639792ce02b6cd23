"""One alphabet: LaTeX commands, Unicode, plain words and fonts are brought to one spelling for what looks the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from aha.rewards.answers.errors import TooLarge

MAX_CHARACTERS = 4_000

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
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*",
    "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "ϕ": "φ", "ϵ": "ε", "∼": "~", "∣": "|", "′": "'", "’": "'", "√": "\x04",
    "∛": "\x05", "∶": ":", "∑": r"\sum", "∏": r"\prod", "⩽": "≤", "⩾": "≥", "º": "°", "。": ".", "，": ",",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "µ": "μ", "…": "...",
    "€": "\x03euros\x03", "£": "\x03gbp\x03", "¥": "\x03yen\x03", "₹": "\x03rupees\x03",
}  # fmt: skip
_DOUBLE_STRUCK = {"R": "ℝ", "Z": "ℤ", "Q": "ℚ", "N": "ℕ", "C": "ℂ"}
_DEGREES = {"C": "celsius", "F": "fahrenheit"}
_KEPT = frozenset("".join(_SYMBOLS) + "".join(_BY_CHARACTER.values()))

FUNCTIONS = frozenset([
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "coth", "asin",
    "acos", "atan", "ln", "log", "lg", "exp", "gcd", "lcm", "min", "max",
])  # fmt: skip
_WORDS = re.compile(
    rf"(?<![A-Za-z\\])({'|'.join([*sorted(FUNCTIONS, key=len, reverse=True), 'sqrt', 'pi'])})(?![A-Za-z])"
)
_TEXT_MACRO = re.compile(
    r"\\(text[a-z]*|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname\*?)\s*\{([^{}]*)\}"
)
_TIDY: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|hline)(?![A-Za-z])", " "),
        (r"\\!", ""),
        (r"\\(?:quad|qquad|hfill|enspace|thinspace)(?![A-Za-z])|(?<!\\)\\[,;:> ]|~", " "),
        (r"(?<![A-Za-z])\{\s*\}", " "),
        (r"\\(?:[dtcs]|nice)frac", r"\\frac"),
        (r"(?<!\\)\\[()[\]]", ""),
        (r"\((\d+)\)_", r"\1_"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|º", "°"),
        (r"°\s*(?:\\(?:text|mathrm)\{)?\s*([CF])(?![A-Za-z])\}?", lambda match: rf"\text{{{_DEGREES[match[1]]}}}"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\(?:boxed|fbox)(?![A-Za-z])", ""),
        (r"\\mathbb\s*\{?\s*([RZQNC])\s*\}?", lambda match: _DOUBLE_STRUCK[match[1]]),
        (r"\\(?:mathcal|bf|rm)(?![A-Za-z])", ""),
        (r"\\\{", "⦃"),
        (r"\\\}", "⦄"),
        (r"\\%", "%"),
        (r"\\\$", "\x03dollars\x03"),
        (r"\{,\}", ","),
        (r"\{:\}", ":"),
        (r"\*\*", "^"),
    )
)


def clean(text: str) -> str:
    r"""One spelling for what looks the same: Unicode, LaTeX commands, spaces and fonts.

    >>> clean(r"\left[\,2,+\infty\right)"), clean("½ x²"), clean(r"x \leqslant \textbf{ 5 cm}")
    ('[ 2,+∞ )', '\\frac{1}{2} x^{2}', 'x ≤ \\text{5 cm}')
    """
    if len(text.strip()) > MAX_CHARACTERS:
        raise TooLarge(f"a formula of {len(text)} characters")
    text = _one_character_each(text.strip())
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    text = _TEXT_MACRO.sub(_plain_words, text)
    text = re.sub(r"(\\text\{[^{}]*)\\text\{([^{}]*)\}", r"\1\2", text)
    text = re.sub(r"(?<!\S)\$(?=\s*[\d.]+)(?!.*\$)", "\x03dollars\x03", text.strip()).replace("$", "")
    text = re.sub("\x03(\\w+)\x03", r"\\text{\1}", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda match: _BY_COMMAND.get(match[1], match[0]), text)
    text = re.sub(r"(?<![A-Za-z\\{])(or|and)(?![A-Za-z}])", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r"\\text\{\s*,?\s*(or|and)\s*\}", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r",\s*([∨∧])", r"\1", text)
    text = _map_outside_text(text, lambda part: _WORDS.sub(_command_for, part))
    return re.sub(r"\s+", " ", text).strip()


def _command_for(match: re.Match[str]) -> str:
    return "π" if match[1] == "pi" else rf"\{match[1]} "


def _one_character_each(text: str) -> str:
    """Vulgar fractions, superscripts, full-width forms, dashes and invisible characters, as plain text."""
    text = re.sub("((?:\x01.)+)", lambda match: "^{" + match[1].replace("\x01", "") + "}", "".join(map(_plain, text)))
    text = re.sub("((?:\x02.)+)", lambda match: "_{" + match[1].replace("\x02", "") + "}", text)
    text = re.sub(r"(?<![A-Za-z\\])sqrt(?=\d)", "\x04", text)  # a root without braces reaches over the whole number
    text = re.sub(r"([\x04\x05])(\d+(?:\.\d+)?)", r"\1{\2}", text)
    return text.replace("\x04", r"\sqrt ").replace("\x05", r"\sqrt[3]")


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
