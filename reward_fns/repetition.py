"""A penalty for saying the same thing again: the share of n-grams that are not new.

Source: "Demystifying Long Chain-of-Thought Reasoning" (arXiv:2502.03373, appendix), as in Open R1's repetition
penalty. Range: `max_penalty` (a negative number) to 0. The value is (1 - distinct n-grams / n-grams) * max_penalty.

Choices: words are what white space separates, in lower case; text without spaces (Chinese, a run of one letter) is
counted by character, or it could repeat itself for free. A text with fewer than `ngram` of them has nothing to repeat
and earns 0. The time is linear in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.contract import Completion, Problem, Score

WORD_LIMIT = 40
"""Characters beyond which a word is taken apart."""


@dataclass(frozen=True)
class Params:
    ngram: int = 3
    max_penalty: float = -1.0

    def __post_init__(self) -> None:
        if self.ngram < 1 or self.max_penalty > 0:
            raise ValueError("ngram of at least 1, and max_penalty of at most 0")


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    words = [part for word in completion.text.lower().split() for part in _parts(word)]
    count = len(words) - params.ngram + 1
    if count < 1:
        return Score(0.0, "too short to repeat itself")
    distinct = len(set(zip(*(words[start:] for start in range(params.ngram)), strict=False)))
    repeated = 1.0 - distinct / count
    return Score(repeated * params.max_penalty, f"{repeated:.0%} of {count} {params.ngram}-grams are repeats")


def _parts(word: str) -> list[str]:
    spaceless = len(word) > WORD_LIMIT or (len(word) > 1 and not word.isascii() and word.isalpha())
    return list(word) if spaceless else [word]
