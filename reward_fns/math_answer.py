r"""Full marks for the right answer to a mathematical problem: judged by value and meaning, not by spelling.

Range: 0 or 1, None when the *reference* answer cannot be read. After math-verify (Hugging Face, github.com/huggingface/
Math-Verify), which is asked last, and only about formulas outside of the grammar here (integrals, limits).

How: what the completion commits to is found by a linear scan (`final_answer`), and both answers are brought to one
alphabet. The *reference* then says what kind of thing is compared: a choice or words, a number, a tuple, a set, an
interval, an equation, a matrix, a quantity. Rational numbers are compared exactly. Other formulas are computed at a
dozen fixed points with more digits than both of them contain; sizes are looked at before anything is computed.

Choices, where careful people differ:
- an answer counts when it stands after the thinking, in the answer tag, in the last balanced box, or, with the
  default `require: any`, in an explicit `#### 5`, `Final answer: 5` or `The answer is 5`. Never inside the think
  block;
- an unevaluated answer is right when its value is (`\sum_{k=1}^{10} k` for 55): ask for the form in the prompt;
- a sequence of letters is text: `HTH` is not `HHT`, `BCA` not `ABC`. `algebra: true` says that it is a product, and
  `multi_select: true` that it is a set of options;
- a unit may be missing on either side (`units: required` says it may not), but two units must agree: 5 cm is 50 mm
  and not 5 kg. Letters that touch a number are variables, `3m` is not 3;
- 25 % is 0.25 and not 25, unless `percent: true` says that the data set asks for percentages;
- an open interval and a pair look alike, `(1,2)`; a set is neither. A bare list counts as a set where one is
  expected, and as a tuple in the same order;
- digits that repeat before dots are a period, `0.1666...` is a sixth; of several dots or apostrophes, `1.000.000`, three
  digits apart, are thousands; `1 h 30 min` and `37°30'` are one quantity;
- a clock time is not a ratio: of `9:16`, which may be either, 18:32 is wrong, and 9/16 right. A decimal is not the
  irrational number it approximates; 1/0 is no number, and not infinity;
- an unwritten base of a logarithm is e or ten, whichever fits; denominators of an equation may be cleared, but a name
  not cancelled;
- an answer that is too large to compute is wrong, unless it is spelt like the reference.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import FrameType
from typing import Any, Literal

from aha.rewards.answers.alphabet import MAX_CHARACTERS, clean
from aha.rewards.answers.errors import TooLarge, Unreadable
from aha.rewards.answers.extract import reference_answer
from aha.rewards.answers.sameness import Sameness, squeezed
from aha.rewards.answers.values import Scalar, Value, read, special_phrase, unwrapped
from aha.rewards.answers.wording import number_in_words
from aha.rewards.contract import Completion, Problem, Score, final_answer

LONGEST = 2 * MAX_CHARACTERS
"""Characters of an answer that is looked at; white space counts."""
HIGHEST = 2
"""Powers on powers that math-verify is asked about: `e^{-x^2}`."""
CALLS = 1_000_000
"""Function calls that math-verify may make about one answer, of the order of a second."""


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
    if len(answer) > LONGEST:
        return Score(0.0, f"an answer of {len(answer)} characters")
    return _compare(answer.strip(), gold.strip(), params)


@functools.lru_cache(maxsize=4096)  # the completions of a group often agree
def _compare(answer: str, gold: str, params: Params) -> Score:
    if answer == gold and gold:
        return Score(1.0, "spelt like the reference")
    if not (params.percent or params.units == "required"):
        number = _plain_number(gold)
        if number is not None and (given := _plain_number(answer)) is not None:
            return _verdict(number == given, "compared as numbers")
    try:
        reference = _reference(gold)
        ours = clean(answer).rstrip(" .,;")
    except TooLarge as problem:
        return Score(float(answer == gold), str(problem))
    if not reference:
        return Score(None, "the reference answer is empty")
    if not ours:
        return Score(0.0, "the answer is empty")
    if squeezed(ours) == squeezed(reference):
        return Score(1.0, "spelt like the reference")
    if (kind := _words_kind(reference, params)) is not None:
        return _verdict(kind(ours, reference), "compared as words")
    return _compare_values(ours, reference, params)


_PLAIN = re.compile(r"\$?([+-]?)(?:\\?\$)?([1-9]\d{0,2}(?:,\d{3})+|\d{1,40})(\.\d{1,40})?\$?\.?", re.ASCII)


def _plain_number(text: str) -> str | None:
    """The cheap way for what most answers are: an integer or a decimal, perhaps of dollars, in one spelling for each.

    >>> _plain_number("+1,250.50"), _plain_number(r"\\$007"), _plain_number("-0.0"), _plain_number("1/2")
    ('1250.5', '7', '0', None)
    """
    match = _PLAIN.fullmatch(text)
    if match is None:
        return None
    whole = match[2].replace(",", "").lstrip("0") or "0"
    part = (match[3] or "").rstrip("0").rstrip(".")
    number = whole + part
    return f"-{number}" if match[1] == "-" and number != "0" else number


@functools.lru_cache(maxsize=1024)
def _reference(gold: str) -> str:
    return clean(reference_answer(gold)).rstrip(" .,;")


_expected = functools.lru_cache(maxsize=1024)(read)


def _compare_values(ours: str, reference: str, params: Params) -> Score:
    try:
        expected = _expected(reference)
    except (Unreadable, TooLarge, RecursionError) as problem:
        if re.search(r"(?<![A-Za-z\\])[A-Za-z]{3,}", unwrapped(reference)):
            return _verdict(_same_words(ours, reference), "compared as words")
        return _ask_math_verify(ours, reference, Score(None, f"the reference cannot be read: {problem}"))
    try:
        is_quantity = isinstance(expected, Scalar) and expected.unit is not None
        given = read(ours, letters_are_units=True, is_quantity=is_quantity)
        same = Sameness(params.units == "required", params.percent)
        if same(expected, given) or _same_scientific(expected, ours):
            return Score(1.0, f"compared as {type(expected).__name__.lower()}")
        return Score(0.0, f"compared as {type(expected).__name__.lower()}")
    except (TooLarge, RecursionError) as problem:
        return Score(0.0, f"too large to compute: {problem}")
    except Unreadable as problem:
        return _ask_math_verify(ours, reference, Score(0.0, f"unreadable: {problem}"))


def _same_scientific(expected: Value, ours: str) -> bool:
    """`5e-1` is 5e - 1, unless a number without e is expected."""
    if not (isinstance(expected, Scalar) and isinstance(expected.tree, Fraction)):
        return False
    return re.fullmatch(r"-?\d+e-\d{1,3}", ours) is not None and Fraction(ours) == expected.tree


def _verdict(right: bool, reason: str) -> Score:
    return Score(float(right), reason)


# --- words ---------------------------------------------------------------------------------------------------------

_LETTERS = re.compile(r"[A-Za-z][A-Za-z' -]*")
_WORDS_WITH_DIGITS = re.compile(r"(?=[^}]*\d)\\text\{[A-Za-z]{3,}[\w ,.'-]*\}")
_FILLER = frozenset(["the", "a", "an", "option", "choice", "answer", "is", "are", "it"])
_MONTH = re.compile(
    r"\b(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\b(?=\W*\d|\W*$)"
)
_SENTENCE = re.compile(
    r"(?:the|these|this) [a-z]+ (?:(?:is|are) (?:an? )?|(?=(?:con|di)verges$))(?!(?:yes|no|true|false)$)([a-z]+)"
)
_ARTICLES = frozenset(["the", "an"])
_JUDGEMENTS = frozenset(["yes", "no", "true", "false"])


def _words_kind(reference: str, params: Params) -> Callable[[str, str], bool] | None:
    """How a reference that consists of words is compared; None when it is a formula."""
    words = unwrapped(reference)
    if re.fullmatch(r"(?:[Oo]ption |[Cc]hoice )?[(\[]?[A-Z][)\].]?|\(?[A-Z][).:]\s*\S.*", words):
        return _same_choice
    if _MONTH.search(words.casefold()) or _WORDS_WITH_DIGITS.fullmatch(reference):
        return _same_words
    if not _LETTERS.fullmatch(words) or special_phrase(words) is not None:
        return None
    if params.multi_select and re.fullmatch(r"[A-Z]{2,}", words):
        return _same_options
    if number_in_words(words) is not None or len(words) == 1 or params.algebra or words == "infinity":
        return None
    return _same_words


def _same_words(ours: str, reference: str) -> bool:
    if _content(ours) == _content(reference):
        return True
    pairs = [re.split(r"\band\b|∧", unwrapped(text)) for text in (ours, reference)]
    if len(pairs[0]) == len(pairs[1]) == 2 and "," not in unwrapped(reference):
        return sorted(map(_content, pairs[0])) == sorted(map(_content, pairs[1]))
    if reference[0] == "⦃" and ours[0] == "⦃":
        members = [
            {_content(item) for item in re.split(r"[,;]|\band\b|∧", text.strip("⦃⦄"))} for text in (ours, reference)
        ]
        return members[0] == members[1]
    if (sentence := _SENTENCE.fullmatch(unwrapped(ours).casefold())) and unwrapped(reference).casefold() == sentence[1]:
        return True
    return _same_judgement(unwrapped(ours).casefold(), unwrapped(reference).casefold())


def _same_judgement(ours: str, reference: str) -> bool:
    """`No, it is not` for No: the word, a comma, and nothing that takes it back."""
    if reference in ("true", "false") and re.fullmatch(
        rf"(?:(?:the |this )?(?:statement|claim)|it) is {reference}", ours
    ):
        return True
    if reference not in _JUDGEMENTS or not re.match(rf"{reference}\s*[,;:.]\s", ours):
        return False
    contrary = _JUDGEMENTS - {reference} | ({"not", "but"} if reference in ("yes", "true") else {"but"})
    return not contrary & set(re.findall(r"[a-z]+", ours))


def _content(text: str) -> str:
    """Words without case, articles, spaces and multiplication signs; with digits, minus signs and primes."""
    plain = re.sub(r"(?<=[a-z]{2})[-'](?=[a-z])", "", unwrapped(text).casefold())
    plain = re.sub(r"\b(con|di)vergent\b", r"\1verges", plain)
    if _MONTH.search(plain):  # a date, in either order
        return " ".join(sorted(re.findall(r"\d+", plain) + [month[:3] for month in _MONTH.findall(plain)]))
    words = re.findall(r"[^\W_]+|(?<=\d)[.,](?=\d)|[^\s\w*.,\"()∧⦃⦄]", plain)
    following = [*words[1:], ""]
    return "".join(
        word
        for word, after in zip(words, following, strict=False)
        if word not in _FILLER or (len(after) < 2 and after != "a" and word not in _ARTICLES)
    )


def _same_choice(ours: str, reference: str) -> bool:
    """`A`, `(A)`, `Option A`, and `A) with its text`, but not `A or B`."""
    letter = re.sub(r"^(?:[Oo]ption|[Cc]hoice)|[()\[\].: ]", "", unwrapped(reference))[:1]
    text = unwrapped(ours).strip("⦃⦄ ")
    if text.startswith("-"):
        return False
    words = [word for word in re.findall(r"\w+|[^\s\w().:;,*\[\]-]", text) if word.casefold() not in _FILLER - {"a"}]
    if [word.upper() for word in words] == [letter]:
        return True
    labelled = re.match(r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?\(?([A-Z])\s*(?:[).:]\s*\S|,\s*[a-z]{3})", text)
    return labelled is not None and labelled[1] == letter and len(re.findall(r"(?<![\w'])[A-Z](?!\w)", text)) == 1


def _same_options(ours: str, reference: str) -> bool:
    letters = re.sub(r"[\s,;∧()⦃⦄]", "", unwrapped(ours))
    return letters.isalpha() and sorted(set(letters)) == sorted(set(unwrapped(reference)))


# --- the last resort -----------------------------------------------------------------------------------------------

_BEYOND_US = re.compile(r"\\(?:int|iint|oint|lim|frac\{d)(?![A-Za-z])")


def _ask_math_verify(ours: str, reference: str, otherwise: Score) -> Score:
    """math-verify on integrals and limits. Its alarm works in main threads only and is left off; calls are counted."""
    if not (_BEYOND_US.search(ours) or _BEYOND_US.search(reference)) or re.search(r"[,=<>]|\\text", ours + reference):
        return otherwise
    if _powers_in_powers(ours) > HIGHEST or re.search(r"\^\s*(?:\{?\s*-?\d{4}|\w\s*\^)", ours):
        return Score(0.0, "too large to compute")
    import math_verify

    def judge() -> Score:
        expected, given = (
            math_verify.parse("$" + formula.replace("∞", r"\infty ") + "$", parsing_timeout=0)
            for formula in (reference, ours)
        )
        if not expected or not given:
            return otherwise
        return _verdict(bool(math_verify.verify(expected, given, timeout_seconds=0)), "compared by math-verify")

    try:
        return _at_most(CALLS, judge)
    except _TooManyCalls:
        return Score(0.0, "too long to compute by math-verify")


def _powers_in_powers(formula: str) -> int:
    """How high its powers stand on each other: 3 for `x^{x^{x^x}}`, whose value no processor computes.

    Integers grow in C code, where neither calls are counted nor signals heard.
    """
    height, open_braces = 0, [0]
    for position, character in enumerate(formula):
        if character == "{":
            raised = formula[:position].rstrip()[-1:] == "^"
            open_braces.append(open_braces[-1] + raised)
        elif character == "}" and len(open_braces) > 1:
            open_braces.pop()
        elif character == "^":
            height = max(height, open_braces[-1] + 1)
    return height


class _TooManyCalls(BaseException):
    """Not an Exception: sympy catches those."""


def _at_most(calls: int, judge: Callable[[], Score]) -> Score:
    """A limit that is the same on every machine and in every thread, which a clock is not.

    An exception out of a hook removes that hook, and is lost when it strikes while a generator is being closed: each of
    the two hooks sets the other one again, until one of them is heard.
    """
    left = calls
    tracing = sys.gettrace(), sys.getprofile()

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= event == "call"
        if left < 0:
            sys.settrace(again)
            raise _TooManyCalls

    def again(frame: FrameType, event: str, argument: Any) -> None:
        sys.setprofile(count)
        raise _TooManyCalls

    sys.setprofile(count)
    try:
        return judge()
    finally:
        sys.settrace(tracing[0])
        sys.setprofile(tracing[1])
