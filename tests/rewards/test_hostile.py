"""Hostile completions through the whole library: each is judged, none hangs or is a failure, none gets a full mark, and the
memory of the workers stays flat.

`AHA_HOSTILE=10000 pytest -s tests/rewards/test_hostile.py` runs the full promise; the default is a tenth of it. `-s`
prints one line per reward. A new reward is one line in LIBRARY.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rewards.hostile import hostile_completion

from aha.recipe.reward_files import reward_names
from aha.rewards.contract import Problem
from aha.rewards.scorer import Scorer

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
    "code_tests": Entry({}, problems("", test_cases=[{"input": "2 3", "output": "5"}]), True),
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


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_hostile_completions(name: str) -> None:
    entry = LIBRARY[name]
    rng = random.Random(0)
    full = failed = seen = 0
    slowest = 0.0
    memory: list[float] = []
    offenders: list[str] = []
    began = time.perf_counter()
    with Scorer({name: {"weight": 1.0, **entry.arguments}}, deadline=10, workers=1, failure_budget=1.0) as scorer:
        while seen < COUNT:
            completions = [hostile_completion(rng) for _ in range(min(CHUNK, COUNT - seen))]
            asked = [entry.problems[number // GROUP % len(entry.problems)] for number in range(len(completions))]
            for completion, judged in zip(completions, scorer.score(completions, asked, GROUP), strict=True):
                verdict = judged.verdicts[name]
                slowest = max(slowest, verdict.seconds)
                wrong_mark = entry.is_grader and verdict.value is not None and verdict.value >= 1.0
                full += wrong_mark
                failed += verdict.failed
                if verdict.failed or wrong_mark or verdict.value is None:
                    offenders.append(f"{verdict.value} {verdict.reason[:80]}: {completion.text[:100]!r}")
            seen += len(completions)
            memory.append(max(resident(worker.pid) for worker in scorer._pool._idle) if scorer._pool._idle else 0.0)
    seconds = time.perf_counter() - began
    held = [each for each in memory if each]
    print(
        f"{name:<16}{seen:>7} completions {seconds:8.1f} s  slowest {slowest:6.2f} s  "
        f"full marks {full if entry.is_grader else '-'}  failures {failed}  "
        f"MiB {held[0]:.0f} -> {held[-1]:.0f}, at most {max(held):.0f}"
    )
    assert not offenders, "\n".join(offenders[:20])
    assert max(held) - held[0] < MEMORY


def resident(pid: int) -> float:
    """MiB of physical memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
