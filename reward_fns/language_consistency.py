"""The share of the thinking's words that are written in the script of the wanted language.

Source: the language consistency reward of DeepSeek-R1 (arXiv:2501.12948, section 2.3.2): the proportion of words of the
target language in the chain of thought. It was made against a model that mixes Chinese into English. Range: 0 to 1.

Choices: languages are told apart by their *script*, so the argument is a script, and this reward cannot tell English
from French, Russian from Bulgarian, or Chinese from Japanese written in Han alone. Telling those apart takes a language
identifier, and on the one-line sentences around formulas that a thought consists of, identifiers guess.

- The words are those of the thinking: before the last `</think>`, or without one, before the answer's tag.
- Digits and signs are no words. Single letters are variables. LaTeX macros, and Latin letters in `code` and between $ $,
  are notation and count for nobody. Other scripts count there too: nothing is hidden in a formula.
- Han, kana and Thai are written without spaces: a few letters count as a word (2 of Han).
- A thought without words earns 0: full marks for silence would be the first thing that a policy finds.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from aha.rewards.contract import Completion, Problem, Score, thought

# The script of a letter is the first word of its Unicode name.
WRITTEN_IN = {
    "latin": {"LATIN"},
    "han": {"CJK"},
    "japanese": {"CJK", "HIRAGANA", "KATAKANA"},
    "korean": {"HANGUL"},
    "cyrillic": {"CYRILLIC"},
    "greek": {"GREEK"},
    "arabic": {"ARABIC"},
    "hebrew": {"HEBREW"},
    "devanagari": {"DEVANAGARI"},
    "thai": {"THAI"},
}
LETTERS_PER_WORD = {"CJK": 2, "HIRAGANA": 3, "KATAKANA": 4, "THAI": 4}
"""For scripts without spaces between words: how long a word about is."""

_CLOSING = {"```": "```", "`": "`", "$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_OPENING = re.compile(r"```|`|\$\$|\$|\\\(|\\\[")
_MACRO = re.compile(r"\\[A-Za-z]+(?:\{[A-Za-z*]{1,20}\})?")
_LATIN = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Params:
    script: Literal["latin", "han", "japanese", "korean", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "thai"]


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    words = count_words(thought(completion))
    total = sum(words.values())
    if not total:
        return Score(0.0, "no words in the thinking")
    wanted = sum(words[script] for script in WRITTEN_IN[params.script])
    return Score(wanted / total, f"{wanted} of {total} words in {params.script} script")


def count_words(text: str) -> Counter[str]:
    """Words per script, in linear time."""
    words: Counter[str] = Counter()
    for token in _MACRO.sub(" ", _prose(text)).split():
        for script, letters in Counter(_script(each) for each in token if each.isalpha()).items():
            if script in LETTERS_PER_WORD:
                words[script] += math.ceil(letters / LETTERS_PER_WORD[script])
            elif letters > 1:
                words[script] += 1
    return words


def _prose(text: str) -> str:
    """The text without the Latin letters of its code and formulas. A sign that nothing closes opens nothing."""
    parts, at, never_closed = [], 0, set()
    while found := _OPENING.search(text, at):
        sign, begin = found[0], found.end()
        end = -1 if sign in never_closed else text.find(_CLOSING[sign], begin)
        parts.append(text[at : found.start()])
        at = begin
        if end < 0:
            never_closed.add(sign)
        else:
            parts.append(_LATIN.sub(" ", text[begin:end]))
            at = end + len(_CLOSING[sign])
    return " ".join([*parts, text[at:]])


@functools.cache
def _script(letter: str) -> str:
    plain = unicodedata.normalize("NFKC", letter)[0]  # full-width and mathematical letters are what they look like
    return unicodedata.name(plain, "UNKNOWN").partition(" ")[0]
