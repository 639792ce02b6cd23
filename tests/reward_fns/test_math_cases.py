"""Hand-written cases with the verdict of a careful person: nothing wrong is accepted, and nearly all that is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.scorer import Scorer, Verdict

CASES: list[dict[str, Any]] = [
    json.loads(line) for line in (Path(__file__).parent / "math_cases.jsonl").read_text(encoding="utf-8").splitlines()
]
ACCEPTED_SHARE = 0.98


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    completions = [Completion(case["completion"]) for case in CASES]
    problems = [Problem("?", case["gold"], case["id"]) for case in CASES]
    with Scorer({"math_answer": 1.0}, deadline=30, workers=2) as scorer:
        judged = scorer.score(completions, problems, 1)
    return {case["id"]: each.verdicts["math_answer"] for case, each in zip(CASES, judged, strict=True)}


def listed(cases: list[dict[str, Any]], verdicts: dict[str, Verdict]) -> str:
    lines = (
        f"{c['id']}: {c['gold']} <- {c['completion'][-80:]} ({verdicts[c['id']].reason}; {c['why']})" for c in cases
    )
    return "\n".join(lines)


def test_every_case_is_judged(verdicts: dict[str, Verdict]) -> None:
    unjudged = [case for case in CASES if verdicts[case["id"]].value is None]
    assert not unjudged, listed(unjudged, verdicts)


def test_nothing_wrong_is_accepted(verdicts: dict[str, Verdict]) -> None:
    accepted = [case for case in CASES if not case["expected"] and verdicts[case["id"]].value == 1.0]
    assert not accepted, listed(accepted, verdicts)


def test_nearly_all_that_is_right_is_accepted(verdicts: dict[str, Verdict]) -> None:
    right = [case for case in CASES if case["expected"]]
    rejected = [case for case in right if verdicts[case["id"]].value != 1.0]
    print(f"{len(right) - len(rejected)} of {len(right)} accepted; rejected:\n{listed(rejected, verdicts)}")
    assert len(rejected) <= (1 - ACCEPTED_SHARE) * len(right), listed(rejected, verdicts)


def test_every_reference_is_its_own_answer() -> None:
    golds = sorted({case["gold"] for case in CASES})
    with Scorer({"math_answer": 1.0}, deadline=30) as scorer:
        completions = [Completion(f"\\boxed{{{gold}}}") for gold in golds]
        judged = scorer.score(completions, [Problem("?", gold, gold) for gold in golds], 1)
    assert [gold for gold, each in zip(golds, judged, strict=True) if each.total != 1.0] == []
