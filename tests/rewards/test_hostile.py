"""Completions that nobody would write and a policy does: every one is judged, none hangs, none is a failure.

`AHA_HOSTILE=10000 pytest tests/rewards/test_hostile.py` runs the full promise; the default is a tenth of it.
"""

from __future__ import annotations

import os
import random
import string

from aha.rewards.contract import Completion, Problem
from aha.rewards.scorer import Scorer

COUNT = int(os.environ.get("AHA_HOSTILE", "1000"))
REWARDS = {
    "math_answer": 1.0,
    "think_format": 0.1,
    "tag_count": 0.1,
    "multiple_choice": 0.0,
    "repetition": 0.1,
    "reasoning_steps": 0.0,
    "language_consistency": {"weight": 0.0, "script": "latin"},
    "table_answer": 0.0,
    "json_schema": {"weight": 0.0, "schema": {"type": "integer"}},
}
GOLDS = [
    "5",
    r"\frac{1}{2}",
    r"2\sqrt{3}",
    "(1,2)",
    r"\{1,2\}",
    "[0,1]",
    "y=2x+1",
    r"\text{Yes}",
    "A",
    r"5\text{ cm}",
    "x^2",
]
PIECES = [
    "<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\boxed", "}", "{", "\\( ", "$", "(", ")", "[", "]",
    "\\frac", "\\sqrt", "^", "_", "!", "9^{9^{9", "1e999", "\\sum_{k=1}^{99999}", "\\binom", "\\text{", "\\pm", ",",
    "=", "<", "\\le", "\\cup", "|", "\\infty", "0", "5", "x", "½", "²", "√", "∞", "−", "\u200b", "\x00", "\ud800", "＜",
    "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "%", "°", "or", "and", "The answer is ", "####", "\n", "\r\n",
]  # fmt: skip


def completion(rng: random.Random) -> str:
    shape = rng.random()
    if shape < 0.1:
        return rng.choice(PIECES) * rng.choice([10, 1_000, 30_000])
    if shape < 0.2:
        return "".join(rng.choice(string.printable) for _ in range(rng.randint(0, 300)))
    soup = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 40)))
    return f"<think>{soup}</think><answer>{soup}</answer>" if shape < 0.7 else soup


def test_every_completion_is_judged() -> None:
    rng = random.Random(0)
    completions = [Completion(completion(rng), tokens=50) for _ in range(COUNT)]
    problems = [Problem("?", GOLDS[number // 8 % len(GOLDS)], f"p{number // 8}") for number in range(COUNT)]
    with Scorer(REWARDS, deadline=10, workers=2, failure_budget=0.0) as scorer:
        judged = scorer.score(completions, problems, 8)
    failed = [
        (each.verdicts, text.text[:100]) for each, text in zip(judged, completions, strict=True) if each.total is None
    ]
    assert failed == []
