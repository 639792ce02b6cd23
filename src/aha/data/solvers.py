"""A teacher without a network: worked solutions of a few reasoning-gym tasks, short enough for a small model.

A solver reads the generator's own record of a question and returns the lines of the thought and the answer it leads to.
It never sees the reference answer: `gym.py` compares the two, so that a trace is right or is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reasoning_gym.arithmetic.leg_counting import ANIMALS

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Worked:
    """The lines of a thought, and the answer that they lead to."""

    lines: list[str]
    answer: str

    def write(self, think: bool = True) -> str:
        """As an assistant's turn: thought and answer, or an empty thought and the answer at once."""
        lines = [*self.lines, ""] if think else [""]
        return "<think>\n" + "\n".join(lines) + f"</think>\n<answer>{self.answer}</answer>"


def chain_sum(record: Record) -> Worked:
    """Running totals, one line per term.

    >>> chain_sum({"expression": "4 - 1 - 7"}).lines
    ['4 - 1 = 3', '3 - 7 = -4']
    """
    first, *rest = record["expression"].split()
    total, lines = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        before, total = total, total + int(term) if sign == "+" else total - int(term)
        lines.append(f"{before} {sign} {term} = {total}")
    return Worked(lines, str(total))


def gcd(record: Record) -> Worked:
    """Euclid's algorithm, one division per line; more than two numbers are folded in one after another.

    >>> gcd({"numbers": [18, 48]}).lines
    ['48 mod 18 = 12', '18 mod 12 = 6', '12 mod 6 = 0']
    """
    result, *rest = record["numbers"]
    lines = []
    for number in rest:
        larger, smaller = max(result, number), min(result, number)
        while smaller:
            lines.append(f"{larger} mod {smaller} = {larger % smaller}")
            larger, smaller = smaller, larger % smaller
        result = larger
    return Worked(lines, str(result))


def leg_counting(record: Record) -> Worked:
    """The legs of each kind of animal, then running totals.

    >>> leg_counting({"animals": {"deer": 2, "ant": 3}}).lines
    ['2 deer: 2 * 4 = 8', '3 ant: 3 * 6 = 18', '8 + 18 = 26']
    """
    each = {animal: count * ANIMALS[animal] for animal, count in record["animals"].items()}
    lines = [
        f"{count} {animal}: {count} * {ANIMALS[animal]} = {each[animal]}" for animal, count in record["animals"].items()
    ]
    total, *rest = each.values()
    for legs in rest:
        before, total = total, total + legs
        lines.append(f"{before} + {legs} = {total}")
    return Worked(lines, str(total))


def letter_counting(record: Record) -> Worked:
    """Every word spelled, and how many of the letter there have been so far.

    >>> letter_counting({"span": ["Then", "he"], "target_letter": "h"}).lines
    ['Then: t h e n, 1', 'he: h e, 2']
    """
    seen, lines = 0, []
    for word in record["span"]:
        seen += word.lower().count(record["target_letter"])
        lines.append(f"{word}: {' '.join(word.lower())}, {seen}")
    return Worked(lines, str(seen))


def spell_backward(record: Record) -> Worked:
    """The word spelled, and spelled from its end.

    >>> spell_backward({"word": "sun"}).lines
    ['s u n', 'n u s']
    """
    word = record["word"]
    return Worked([" ".join(word), " ".join(reversed(word))], word[::-1])


def count_bits(record: Record) -> Worked:
    """Halving until nothing is left: the remainder of each half, and how many ones there have been so far.

    >>> count_bits({"number": 5}).lines
    ['5 = 2 * 2 + 1, 1', '2 = 2 * 1 + 0, 1', '1 = 2 * 0 + 1, 2']
    """
    number, ones, lines = int(record["number"]), 0, []
    while number:
        ones += number % 2
        lines.append(f"{number} = 2 * {number // 2} + {number % 2}, {ones}")
        number //= 2
    return Worked(lines, str(ones))


SOLVERS: dict[str, Callable[[Record], Worked]] = {
    "chain_sum": chain_sum,
    "count_bits": count_bits,
    "gcd": gcd,
    "leg_counting": leg_counting,
    "letter_counting": letter_counting,
    "spell_backward": spell_backward,
}
