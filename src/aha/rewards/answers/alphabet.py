"""One alphabet: LaTeX commands, Unicode, plain words and fonts are brought to one spelling for what looks the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from aha.rewards.answers.errors import TooLarge
from aha.rewards.answers.wording import with_signs

MAX_CHARACTERS = 4_000

_SYMBOLS = {
    "≤": r"leq leqslant le leqq", "≥": r"geq geqslant ge geqq", "≠": "neq ne", "<": "lt", ">": "gt", "≈": "approx",
    "≡": "equiv", "∈": "in", "∪": "cup bigcup", "∩": "cap bigcap", "∖": "setminus backslash smallsetminus", "±": "pm",
    "∓": "mp", "∞": "infty infin", "∅": "emptyset varnothing", "*": "cdot times ast cdotp bullet", "/": "div",
    "°": "degree textdegree", "∨": "lor vee", "∧": "land wedge", "⦃": "lbrace", "⦄": "rbrace", "⟨": "langle", "⟩": "rangle",
    "|": "lvert rvert vert mid", ":": "colon", "∠": "angle measuredangle", "△": "triangle bigtriangleup", "'": "prime",
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon varepsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta vartheta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho",
    "σ": "sigma", "τ": "tau", "φ": "phi varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta",
    "Θ": "Theta", "Λ": "Lambda", "Σ": "Sigma", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "ℝ": "R reals Reals",
    "ℤ": "Z", "ℚ": "Q", "ℕ": "N", "ℂ": "C",
}  # fmt: skip
_BY_COMMAND = {command: symbol for symbol, commands in _SYMBOLS.items() for command in commands.split()}
_BY_CHARACTER = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*",
    "∗": "*", "÷": "/", "∕": "/", "⁄": "/", "ϕ": "φ", "ϵ": "ε", "∼": "~", "∣": "|", "′": "'", "’": "'", "√": "\x04", "✓": "", "✔": "", "✅": "",
    "∛": "\x05", "″": "''", "“": '"', "”": '"', "∶": ":", "∑": r"\sum", "∏": r"\prod", "⩽": "≤", "⩾": "≥", "º": "°", "。": ".", "，": ",",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "µ": "μ", "…": "...",
    "€": "\x03euros\x03", "£": "\x03gbp\x03", "¥": "\x03yen\x03", "₹": "\x03rupees\x03", "¢": "\x03cents\x03",
}  # fmt: skip
_DOUBLE_STRUCK = {"R": "ℝ", "Z": "ℤ", "Q": "ℚ", "N": "ℕ", "C": "ℂ"}
_DEGREES = {"C": "celsius", "F": "fahrenheit"}
_ALIASES = {"tg": "tan", "ctg": "cot", "arctg": "arctan", "cosec": "csc", "arsinh": "arcsinh", "Log": "log"}
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "eight": "8", "ten": "10", "sixteen": "16"}
_MONEY = {"dollar": "dollars", "euro": "euros", "pounds": "gbp", "yen": "yen", "cent": "cents"}
_KEPT = frozenset("".join(_SYMBOLS) + "".join(_BY_CHARACTER.values()))

FUNCTIONS = frozenset([
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "sinh",
    "cosh", "tanh", "coth", "arcsinh", "arccosh", "arctanh", "asin", "acos", "atan", "ln", "log", "lg", "exp", "gcd",
    "lcm", "min", "max", "cis",
])  # fmt: skip
_WORDS = re.compile(
    rf"(?<![A-Za-z\\])({'|'.join([*sorted(FUNCTIONS, key=len, reverse=True), 'sqrt', 'pi'])})(?![A-Za-z])"
)
_TEXT_MACRO = re.compile(
    r"\\(text[a-z]*|mbox|hbox|mathrm|mathbf|mathit|mathsf|boldsymbol|bm|operatorname\*?)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)


def _selections(match: re.Match[str]) -> str:
    """`_5C_2` and `^5P_2`: selections without and with their order."""
    order = rf"\cdot {match[3]}!" if match[2] == "P" else ""
    return rf"\binom{{{match[1]}}}{{{match[3]}}}{order}"


def _repeating(digits: str) -> str:
    """`333...` as a period under a bar: what stands there twice, a single digit three times; other digits as they are."""
    for length in range(1, len(digits) // 2 + 1):
        period, times = digits[-length:], 1
        while digits[: len(digits) - times * length].endswith(period):
            times += 1
        if times >= (3 if length == 1 else 2):
            return rf"{digits[: len(digits) - times * length]}\overline{{{period}}}"
    return f"{digits}..."


_MATRIX = re.compile(r"\\begin\s*\{(?:[a-zA-Z]*matrix|array|cases)\*?\}")
_ALIGNED = re.compile(r"\\(?:begin|end)\s*\{(?:align(?:ed)?|equation|gather(?:ed)?|split)\*?\}|&|\\\\(?=\s*\\end)")
_SYSTEM = re.compile(
    r"(?:\\left\s*)?(?:\\\{)?\s*\\begin\{(cases|array|(?:align|gather)(?:ed)?\*?)\}(?:\{[lcr]+\})?(.*)\\end\{\1\}"
    r"\s*(?:\\right\s*\.)?",
    re.DOTALL,
)
_EQUATION = re.compile(r"[^=&]+=[^=&]+")
_UNIT = r"\{\s*\\text\{([^{}]*)\}\s*(\^\s*\{?\d\}?)?\s*\}"
_UNIT_FRACTION = re.compile(rf"\\frac\s*{_UNIT}\s*{_UNIT}")
_CALLED = (  # `Total:`, `The total is`, before its value; a choice has a letter
    r"((?!(?:[^{}:]* )?(?i:not?|none|never|cannot|wrong|incorrect|false|than|least|most|but|except|or|if|half|twice|[b-z])\b)"
    r"[A-Z]?[a-z]{2,20}(?: [a-z]{1,20}){0,5})(?::|\sis\b:?)"
)
_TIDY: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right)\s*\.", ""),
        (r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm|in)\s*\]|\\cr(?![A-Za-z])", r"\\\\ "),
        (
            r"\\(?:large|Large|LARGE|huge|Huge|small|normalsize|boldmath|underline|mathop|therefore|checkmark)(?![A-Za-z])|∴",
            " ",
        ),
        (r"\\(?:text)?color\s*\{[^{}]*\}|\\h?phantom\s*\{[^{}]*\}", " "),
        (r"(?<=\))\s*(?:\\q?quad\s*)+(?=\()", ", "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|hline)(?![A-Za-z])", " "),
        (r"\\!", ""),
        (r"\\(?:quad|qquad|hfill|enspace|thinspace)(?![A-Za-z])|(?<!\\)\\[,;:> ]|~", " "),
        (r"(?<![A-Za-z])\{\s*\}", " "),
        (r"\\(?:[dtcs]|nice)frac", r"\\frac"),
        (r"\\surd(?![A-Za-z])\s*(?=[\d{])|\\text\{\s*sqrt\s*\}", r"\\sqrt "),
        (
            r"^(?:\\text\{)?\s*(?:[Ss]o|[Tt]hus|[Hh]ence|[Tt]herefore)\b,?\s*(?:we (?:have|get)\s*)?(?:\}|(?=[^{}]*$))",
            "",
        ),
        (r",\s*(?:\\text\{\s*)?not\s*\}?\s*[\w.]+\s*$|\\text\{\s*only\s*\}\s*$", ""),
        (
            r"^\\text\{\s*(?:[Tt]he )?(?:point|interval|set|(?:ordered )?pair|vector|solutions?|values?)(?: is| are)?:?\s*\}\s*(?=\S)",
            "",
        ),
        (r"(?<!\\)\\[()[\]]", ""),
        (r"\((\d+)\)_", r"\1_"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|º|(?<=\d)\s*\^\s*(?:\{\s*o\s*\}|o(?![A-Za-z]))", "°"),
        (r"\bdegrees?\s+([Cc]elsius|[Ff]ahrenheit)\b", lambda match: match[1].lower()),
        (r"°\s*(?:\\(?:text|mathrm)\{)?\s*([CF])(?![A-Za-z])\}?", lambda match: rf"\text{{{_DEGREES[match[1]]}}}"),
        (r"\\[dt]binom", r"\\binom"),
        (r"\\(?:boxed|f(?:rame)?box)(?![A-Za-z])", ""),
        (r"\\mathbb\s*\{?\s*([RZQNC])\s*\}?", lambda match: _DOUBLE_STRUCK[match[1]]),
        (
            r"(?<=[\w)}]),?\s*(?:\\text\{\s*,?\s*for (?:all|any|every)(?: real)?(?: numbers?)?\s*\}|\\forall)\s*[a-z]\s*"
            r"(?:(?:\\in|∈)\s*ℝ)?\s*$",
            "",
        ),
        (r"\\(?:mathcal|bf|rm)(?![A-Za-z])", ""),
        (r"\\\{", "⦃"),
        (r"\\\}", "⦄"),
        (r"\\text\{\s*\\?%\s*\}|\\%", "%"),
        (r"\\&", r"\\land "),
        (r"^\\text\{\s*[Tt]here (?:is|are)\s+(?=\d)", r"\\text{"),
        (r"(?:(?<![A-Za-z])US\s*)?\\\$", "\x03dollars\x03"),
        (r"\\(?:text|math)?(dollar|euro|pounds|yen|cent)(?![A-Za-z])", lambda match: f"\x03{_MONEY[match[1]]}\x03"),
        (r"\{,\}", ","),
        (r"\{:\}", ":"),
        (r"\*\*", "^"),
        (r"\+\s*/\s*-", "±"),
        (r"\\(?:text|mathrm)\s*\{\s*([kMmμ])\s*\}\s*(?=\\Omega|Ω)", r"\1"),
        (r"(?<![\d.])(\d+)\.\((\d{1,40})\)", r"\1.\\overline{\2}"),
        (
            r"(?<![\d.])(\d+\.)(\d{3,60})\s*(?:\.\.\.|\\[lc]?dots(?![A-Za-z]))",
            lambda match: match[1] + _repeating(match[2]),
        ),
        (r">=", "≥"),
        (r"<=", "≤"),
        (r"(?<=[)\]])\s*U\s*(?=[(\[])", "∪"),
        (r"\b(?:per|%) cent\b", "percent"),
        (r"(?<![A-Za-z\\])(?:minus|negative)\s+(?=[\d\\])|^\\text\{\s*(?:minus|negative)\s*\}\s*(?=[\d\\])", "-"),
        (rf"^\\text\{{\s*{_CALLED}\s*\}}\s*(?=[\d\\$⦃\x03-]|[(\[]\s*[-\d\\])(?=[^=<>]*$)", r"\\text{\1} = "),
        (rf"^\\text\{{\s*{_CALLED}\s*((?:\x03\w+\x03)?-?[\d.,/:]*\d(?: [A-Za-z]+)?)\s*\}}$", r"\\text{\1} = \2"),
        (r"(?<=\d)\s*(min|sec)s?(?=\s*[.,;]?\s*$)", r"\\text{\1}"),
        (r"\\(?:hat|vec|overrightarrow)\s*\{\s*([A-Za-z])\s*\}", r"\1"),
        (r"\\(tg|ctg|arctg|cosec|arsinh|Log)(?![A-Za-z])", lambda match: "\\" + _ALIASES[match[1]]),
        (r"_\s*\{?\s*\\text\s*\{\s*(\w+)\s*\}\s*\}?", lambda match: f"_{{{_BASES.get(match[1], match[1])}}}"),
        (r"^\s*\\text\s*\{\s*(?:[Tt]he )?(?:[Ff]inal )?[Aa]nswer(?:\s+is)?\s*:?\s*\}\s*:?", ""),
        (
            r"^((?:\\(?:text|math)[a-z]*\{)?)\s*(?:[Tt]he )?(?:(?:[Ff]inal )?[Aa]nswer|[Cc]orrect (?:answer|option|choice))\s*(?:is\b|:)\s*:?",
            r"\1",
        ),
        (r"(?<![\w)}])[_^]\s*\{?\s*(\d+)\s*\}?\s*([CP])\s*_\s*\{?\s*(\d+)\s*\}?", _selections),
        (r"\\frac\s*\{\s*d\s*([a-z])\s*\}\s*\{\s*d\s*[a-z]\s*\}", r"\1'"),
        (r"\+\s*\\text\s*\{\s*(?:constant|const\.?|C)\s*\}", "+C"),
    )
)


def clean(text: str) -> str:
    r"""One spelling for what looks the same: Unicode, LaTeX commands, spaces and fonts.

    >>> clean(r"\left[\,2,+\infty\right)"), clean("½ x²"), clean(r"x \leqslant \textbf{ 5 cm}")
    ('[ 2,+∞ )', '\\frac{1}{2} x^{2}', 'x ≤ \\text{5 cm}')
    """
    if len(text.strip()) > MAX_CHARACTERS:
        raise TooLarge(f"a formula of {len(text)} characters")
    text = _lines_as_list(_one_character_each(text.strip()).rstrip("\\"))
    if r"\begin" not in text:
        text = re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    elif not _MATRIX.search(text):
        text = _ALIGNED.sub(" ", text)
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    text = _TEXT_MACRO.sub(_plain_words, text)
    text = re.sub(r"(\\text\{[^{}]*)\\text\{([^{}]*)\}", r"\1\2", text)
    text = _UNIT_FRACTION.sub(lambda match: rf"\text{{{match[1]}{match[2] or ''}/{match[3]}{match[4] or ''}}}", text)
    text = re.sub(r"(?<!\S)\$(?=\s*[\d.]+)(?!.*\$)", "\x03dollars\x03", text.strip()).replace("$", "")
    text = re.sub("\x03(\\w+)\x03", r"\\text{\1}", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda match: _BY_COMMAND.get(match[1], match[0]), text)
    text = with_signs(text)
    text = re.sub(r"(?<![A-Za-z\\{])(or|and)(?![A-Za-z}])", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r"\\text\{\s*,?\s*(or|and)\s*\}", lambda match: "∨" if match[1] == "or" else "∧", text)
    text = re.sub(r",\s*([∨∧])", r"\1", text)
    text = _map_outside_text(text, lambda part: _WORDS.sub(_command_for, part))
    return re.sub(r"\s+", " ", text).strip()


def _lines_as_list(text: str) -> str:
    r"""Equations below each other, of the same rank, as a list: `x=7 \\ y=1`, and what stands in `cases`."""
    system = _SYSTEM.fullmatch(text)
    body = re.sub(r"\\\\\s*(?==)", " ", re.sub(r"&\s*=|=\s*&", "=", system[2] if system else text))
    lines = [line.strip().rstrip(",;. ") for line in re.split(r"\\\\(?![A-Za-z]{2})", body)]
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if len(lines) == 1 and system and "=" in body and "&" not in body:
        return body  # one chain over several lines
    return ", ".join(lines) if len(lines) > 1 and all(map(_EQUATION.fullmatch, lines)) else text


def _command_for(match: re.Match[str]) -> str:
    return "π" if match[1] == "pi" else rf"\{match[1]} "


def _one_character_each(text: str) -> str:
    """Vulgar fractions, superscripts, full-width forms, dashes and invisible characters, as plain text."""
    text = re.sub("((?:\x01.)+)", lambda match: "^{" + match[1].replace("\x01", "") + "}", "".join(map(_plain, text)))
    text = re.sub("((?:\x02.)+)", lambda match: "_{" + match[1].replace("\x02", "") + "}", text)
    text = re.sub(r"\^\{(\d+)\}/_\{(\d+)\}", r"\\frac{\1}{\2}", text)
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
    macro, words = match[1], match[2].strip()
    if words.startswith("\x03") and not re.search("[A-Za-z]", words.rpartition("\x03")[2]):
        return words  # an amount of money, not words
    words = words.replace("\x03", "")
    is_font = macro.startswith(("math", "bold", "bm"))
    if is_font and "\\" in words:
        return f"{{{words}}}"
    words = words.replace("{", "").replace("}", "")
    before = match.string[: match.start()].rstrip()[-1:]
    behind_number = before.isdigit() or before in ("}", ")")
    if words in ("min", "sec") and behind_number:
        return rf"\text{{{words}}}"
    if words in FUNCTIONS or (macro.startswith("operatorname") and words):
        return rf"\{words} " if words in FUNCTIONS else rf"\text{{{words}}}"
    if len(words) == 1:
        is_unit = macro == "mathrm" and behind_number and words not in "eid"
        if (is_font and not is_unit) or (words == "i" or (words in "eC" and before and before in "+-=*^(")):
            return words
    return rf"\text{{{words}}}"


def _map_outside_text(text: str, change: Callable[[str], str]) -> str:
    parts = re.split(r"(\\text\{[^{}]*\})", text)
    return "".join(part if part.startswith(r"\text{") else change(part) for part in parts)
