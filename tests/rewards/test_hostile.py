"""Hostile completions through the whole library: each is judged, none hangs or is a failure, none gets a full mark, and the
memory of the workers stays flat.

`AHA_HOSTILE=10000 pytest -s tests/rewards/test_hostile.py` runs the full promise; the default is a tenth of it. `-s`
prints the table, one line per reward. A new reward is one line in LIBRARY.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rewards.hostile import hostile_completion

from aha.recipe.reward_files import reward_names
from aha.rewards.contract import Completion, Problem
from aha.rewards.scorer import Scorer, Verdict

COUNT = int(os.environ.get("AHA_HOSTILE", "1000"))
CHUNK = 200
GROUP = 8
MEMORY = 256
"""MiB that a worker may hold beyond what it held after its first chunk; it is replaced at 512."""


class Entry(NamedTuple):
    """How a reward is tried: its block in a recipe, problems it understands, and whether 1.0 means a right answer."""

    arguments: dict[str, Any]
    problems: list[Problem]
    is_grader: bool


def problems(*answers: str, **meta: Any) -> list[Problem]:
    return [Problem("?", answer, f"p{number}", meta) for number, answer in enumerate(answers)]


def gym(task: str) -> list[Problem]:
    from reasoning_gym.factory import create_dataset

    entry = create_dataset(task, size=1, seed=7)[0]
    return [Problem(entry["question"], str(entry["answer"]), task, {"dataset": task, "entry": entry})]


MATHS = problems(
    "5", r"\frac{3}{7}", r"2\sqrt{3}", "(1,2)", r"\{1,2\}", "[0,1]", "y=2x+1", r"\text{Yes}", "C", r"5\text{ cm}", "x^2"
)
"""References that no piece of a hostile completion spells."""

LIBRARY: dict[str, Entry] = {
    "code_format": Entry({}, problems("5"), False),
    "code_tests": Entry(
        {"timeout": 0.3, "budget": 1.0}, problems("", test_cases=[{"input": "2 3", "output": "5"}]), True
    ),
    "cosine_length": Entry({"max_tokens": 1000}, MATHS, True),
    "countdown": Entry({}, problems("12", nums=[3, 4, 5], target=12), True),
    "first_number": Entry({}, problems("5"), True),
    "json_schema": Entry({"schema": {"type": "object", "required": ["sum"]}}, problems("5"), True),
    "language_consistency": Entry({"script": "latin"}, problems("5"), False),
    "length_penalty": Entry({}, MATHS, True),
    "math_answer": Entry({}, MATHS, True),
    "multiple_choice": Entry({}, problems("C", choices=["one", "two", "three"]), True),
    "reasoning_gym": Entry({}, [*gym("chain_sum"), *gym("countdown"), *gym("prime_factorization")], True),
    "reasoning_steps": Entry({}, problems("5"), False),
    "repetition": Entry({}, problems("5"), False),
    "soft_overlong": Entry({"max_tokens": 4096, "cache": 1024}, problems("5"), False),
    "table_answer": Entry({}, problems("12.35", "Leiden; Utrecht", "merchant category"), True),
    "tag_count": Entry({}, problems("5"), False),
    "think_format": Entry({}, problems("5"), False),
}


def test_the_whole_library_is_tried() -> None:
    missing = sorted(set(reward_names()) ^ set(LIBRARY))
    assert not missing, f"give {', '.join(missing)} a line in LIBRARY of {Path(__file__).name}, or take it out"


class Tally:
    """What a reward did with its hostile completions."""

    def __init__(self, is_grader: bool):
        self.is_grader = is_grader
        self.seen = self.full = self.failed = 0
        self.slowest = 0.0
        self.withheld: Counter[str] = Counter()
        self.offenders: list[str] = []
        self.held: dict[int, list[float]] = {}
        """Worker -> MiB that it held after each of its chunks."""

    def note(self, completion: Completion, verdict: Verdict) -> None:
        full = self.is_grader and verdict.value is not None and verdict.value >= 1.0
        self.seen += 1
        self.full += full
        self.failed += verdict.failed
        self.slowest = max(self.slowest, verdict.seconds)
        if verdict.value is None:
            self.withheld[verdict.reason[:60]] += 1
        if full or verdict.value is None:
            self.offenders.append(f"{verdict.value} {verdict.reason[:80]}: {completion.text[:100]!r}")

    @property
    def growth(self) -> float:
        """MiB per 1,000 completions, by least squares over the longest life of a worker; its first chunk warms it up."""
        longest = max(self.held.values(), key=len)[1:]
        if len(longest) < 3:
            return 0.0
        return statistics.linear_regression(range(len(longest)), longest).slope * 1000 / CHUNK

    def line(self, name: str, seconds: float) -> str:
        full = str(self.full) if self.is_grader else "-"
        withheld = ", ".join(f"{count} {reason}" for reason, count in self.withheld.items()) or "0"
        most = max(map(max, self.held.values()))
        figures = f"{self.seen:,} | {full} | {withheld} | {self.failed} | {self.slowest:.2f} s | {most:.0f} | {self.growth:+.2f}"
        return f"| `{name}` | {figures} | {seconds:.0f} s |"


HEAD = (
    "| reward | completions | wrong full marks | without a verdict | crashes, time-outs | slowest "
    "| MiB at most | MiB per 1,000 | all |\n" + "|---" * 9 + "|"
)


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Lines for the table, which is printed when all rewards are through."""
    lines: list[str] = []
    yield lines
    print("\n" + "\n".join([HEAD, *lines]))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_hostile_completions(name: str, table: list[str]) -> None:
    entry = LIBRARY[name]
    rng = random.Random(0)
    tally = Tally(entry.is_grader)
    began = time.perf_counter()
    with Scorer({name: {"weight": 1.0, **entry.arguments}}, deadline=10, workers=1, failure_budget=1.0) as scorer:
        while tally.seen < COUNT:
            completions = [hostile_completion(rng) for _ in range(min(CHUNK, COUNT - tally.seen))]
            asked = [entry.problems[number // GROUP % len(entry.problems)] for number in range(len(completions))]
            for completion, judged in zip(completions, scorer.score(completions, asked, GROUP), strict=True):
                tally.note(completion, judged.verdicts[name])
            for worker in scorer._pool._idle:
                tally.held.setdefault(worker.pid, []).append(resident(worker.pid))
    table.append(tally.line(name, time.perf_counter() - began))
    print(f"\n{table[-1]}", flush=True)
    assert not tally.offenders, "\n".join(tally.offenders[:20])
    held = [each for life in tally.held.values() for each in life]
    assert max(held) - held[0] < MEMORY


def resident(pid: int) -> float:
    """MiB of physical memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
