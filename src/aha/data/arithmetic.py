"""The embedded world of the tiny recipe: whole numbers from 0 to 14, added and taken away.

It has what each stage needs. *Facts* ("7 + 5 = 12") and worked lines are the text of continued pretraining. *Traces*
are what a mixed teacher writes: some think step by step, some answer at once, so that the distilled model knows both
habits and GRPO can find out which one pays. *Problems* are the questions alone. Every question belongs to the train
or to the held-out split by a hash of its text, so no held-out question is ever trained on, by any stage.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from aha.errors import DataError
from aha.types import Problem

LARGEST = 14  # 210 facts: what a model of a million weights learns in a minute on two CPU cores
WORDS = ("Start", "with", "Add", "Take", "away", "What", "is", "the", "result", "?", ".", ";", "+", "-", "=")


def vocabulary() -> list[str]:
    """Every token of this world, one per word and one per integer."""
    return [*WORDS, *(str(number) for number in range(LARGEST + 1))]


@dataclass(frozen=True)
class Chain:
    """A start value and signed changes whose running total never leaves 0..LARGEST.

    >>> chain = Chain(7, (5, -3))
    >>> chain.question
    'Start with 7 . Add 5 . Take away 3 . What is the result ?'
    >>> chain.worked
    '7 + 5 = 12 ; 12 - 3 = 9'
    """

    start: int
    changes: tuple[int, ...]

    @property
    def totals(self) -> list[int]:
        totals = [self.start]
        for change in self.changes:
            totals.append(totals[-1] + change)
        return totals

    @property
    def result(self) -> int:
        return self.totals[-1]

    @property
    def moves(self) -> str:
        return " . ".join(
            [f"Start with {self.start}", *(f"Add {c}" if c >= 0 else f"Take away {-c}" for c in self.changes)]
        )

    @property
    def question(self) -> str:
        return f"{self.moves} . What is the result ?"

    @property
    def worked(self) -> str:
        return " ; ".join(
            f"{before} {'+' if change >= 0 else '-'} {abs(change)} = {before + change}"
            for before, change in zip(self.totals, self.changes, strict=False)
        )

    @property
    def held_out(self) -> bool:
        """One question in five, chosen by its text alone."""
        return hashlib.sha256(self.question.encode()).digest()[0] % 5 == 0


def draw(rng: random.Random, steps: int) -> Chain:
    """A random chain of `steps` changes, none of them 0, never leaving 0..LARGEST."""
    total = start = rng.randint(0, LARGEST)
    changes = []
    for _ in range(steps):
        change = rng.choice([c for c in range(-total, LARGEST + 1 - total) if c])
        changes.append(change)
        total += change
    return Chain(start, tuple(changes))


def _chains(seed: int, steps: Sequence[int], split: str) -> Iterator[Chain]:
    if split not in ("train", "held_out"):
        raise DataError(f"arithmetic has no split {split!r}; expected train or held_out")
    if not isinstance(steps, (list, tuple)) or not steps or not all(type(n) is int and n > 0 for n in steps):
        raise DataError(f"arithmetic: steps is {steps!r}; expected a list of whole numbers, for example [1, 2, 3]")
    rng = random.Random(f"{seed}/{split}")
    while True:
        chain = draw(rng, rng.choice(list(steps)))
        if chain.held_out == (split == "held_out"):
            yield chain


def texts(
    rows: int | None = None, seed: int = 0, steps: Sequence[int] = (1, 2, 3), lines: int = 2, stories: float = 0.5
) -> Iterator[dict[str, str]]:
    """Documents for pretraining, endless without `rows`: `lines` worked lines each; one-step lines are bare facts.

    A share `stories` of the lines comes after the moves it works out: that is where a model learns to carry numbers
    from a question into its working, which no amount of bare facts teaches.
    """
    rng = random.Random(f"{seed}/stories")
    chains = _chains(seed, steps, "train")
    for _ in islice(count(), rows):
        drawn = [next(chains) for _ in range(lines)]
        yield {
            "text": " . ".join(f"{c.moves} . {c.worked}" if rng.random() < stories else c.worked for c in drawn) + " ."
        }


def traces(
    rows: int = 20_000, seed: int = 0, steps: Sequence[int] = (1, 2, 3), thinks: float = 0.5
) -> Iterator[dict[str, str]]:
    """Questions of the train split with a teacher's completion; a share `thinks` of them is worked step by step."""
    rng = random.Random(f"{seed}/teacher")
    chains = _chains(seed, steps, "train")
    for _ in range(rows):
        chain = next(chains)
        worked = f"{chain.worked} " if rng.random() < thinks else ""
        yield {
            "prompt": chain.question,
            "completion": f"<think> {worked}</think> <answer> {chain.result} </answer>",
            "answer": str(chain.result),
        }


def problems(rows: int = 1_000, seed: int = 0, steps: Sequence[int] = (1, 2, 3), split: str = "train") -> list[Problem]:
    """`rows` different questions of one split.

    Raises DataError when the split does not hold that many (one-step questions are few).
    """
    found: dict[str, Chain] = {}
    for tries, chain in enumerate(_chains(seed, steps, split)):
        found.setdefault(chain.question, chain)
        if len(found) == rows:
            break
        if tries > 50 * rows:
            raise DataError(
                f"arithmetic has only {len(found)} different {split} questions of {list(steps)} steps, not {rows}"
            )
    return [
        Problem(question, str(chain.result), f"arithmetic-{split}-{index}", {"steps": len(chain.changes)})
        for index, (question, chain) in enumerate(found.items())
    ]


def facts(rows: int | None = None, seed: int = 0) -> list[Problem]:
    """Every single fact as a bare prompt ("7 + 5 ="): what pretraining is asked. Recall, not generalisation."""
    pairs = [(a, c) for a in range(LARGEST + 1) for c in range(-a, LARGEST + 1 - a) if c]
    random.Random(seed).shuffle(pairs)
    return [Problem(f"{a} {'+' if c >= 0 else '-'} {abs(c)} =", str(a + c), f"fact-{a}{c:+d}") for a, c in pairs[:rows]]
