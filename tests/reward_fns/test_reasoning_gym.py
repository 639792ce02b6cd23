"""The task's verifier decides, and its partial credit is not full marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.load import load_reward

reasoning_gym = pytest.importorskip("reasoning_gym")


def problem(task: str) -> Problem:
    entry = reasoning_gym.create_dataset(task, size=1, seed=7)[0]
    return Problem(entry["question"], str(entry["answer"]), "p", {"dataset": task, "entry": entry})


def judge(answer: str, asked: Problem, **params: object) -> Score:
    return load_reward("reasoning_gym", params).score_group([Completion(f"<answer>{answer}</answer>")], asked)[0]


@pytest.mark.parametrize("task", ["basic_arithmetic", "leg_counting", "countdown", "game_of_life_halting"])
def test_the_reference_is_right(task: str) -> None:
    asked = problem(task)
    assert judge(asked.answer, asked).value == 1.0
    assert judge("certainly not", asked).value == 0.0


def test_an_answer_that_only_contains_the_reference_is_wrong() -> None:
    asked = problem("basic_arithmetic")
    hedged = f"{asked.answer} or perhaps 12345"
    assert judge(hedged, asked).value == 0.0
    assert 0.0 <= (judge(hedged, asked, partial=True).value or 0.0) < 1.0


def test_an_entry_may_travel_as_json() -> None:
    asked = problem("leg_counting")
    packed = Problem("?", asked.answer, "p", {"dataset": "leg_counting", "entry": json.dumps(asked.meta["entry"])})
    assert judge("nothing", packed) == Score(0.0, "judged by leg_counting")


def test_a_problem_from_elsewhere_is_not_judged() -> None:
    assert judge("5", Problem("?", "5", "p")).value is None


def test_a_task_that_does_not_exist_fails_with_its_name() -> None:
    score = judge("5", Problem("?", "6", "p", {"dataset": "no_such_task", "entry": {"answer": "6"}}))
    assert isinstance(score, Failure) and "no_such_task" in score.reason


def test_none_is_not_the_answer_of_a_task_without_a_reference() -> None:
    """Tasks such as graph_color have no one answer: their record says None, which a policy could learn to write."""
    entry = {"question": "q", "answer": None, "metadata": {"possible_answer": {}, "puzzle": {}}}
    problem = Problem("q", "", "1", {"dataset": "graph_color", "entry": entry})
    (score,) = load_reward("reasoning_gym", {}).score_group([Completion("<answer>None</answer>")], problem)
    assert score.value != 1.0


EVALUATED = ["countdown", "puzzle24", "spiral_matrix", "binary_matrix", "n_queens", "simple_integration"]


@pytest.mark.parametrize("task", EVALUATED)
def test_an_answer_is_never_run_as_python(task: str, tmp_path: Path) -> None:
    """The verifiers of these tasks `eval` what they are given."""
    asked, trace = problem(task), tmp_path / "ran"
    for answer in (f"[__import__('pathlib').Path({str(trace)!r}).touch()]", f"open({str(trace)!r}, 'w')", "9**9**9**9"):
        assert judge(answer, asked).value == 0.0
    assert not trace.exists()
    assert asked.meta["entry"]["answer"] is None or judge(asked.answer, asked).value == 1.0


def test_an_answer_that_the_verifier_cannot_read_is_wrong() -> None:
    score = judge("two times three", problem("prime_factorization"))
    assert score.value == 0.0 and "prime_factorization" in score.reason
