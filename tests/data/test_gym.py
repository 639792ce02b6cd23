"""reasoning-gym's problems: an honest split, verified traces, and clear refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
import reasoning_gym

from aha.data.gym import held_out, rows
from aha.data.solvers import SOLVERS, Worked
from aha.data.sources import Row, Tally, read_conversations, read_problems, read_rows
from aha.errors import DataError
from aha.recipe.schema import Source

SMALL: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 5, "allow_negation": True},
    "count_bits": {"max_n": 4_000},
    "gcd": {"max_numbers": 3},
    "leg_counting": {"max_animals": 3},
    "letter_counting": {"min_words": 1, "max_words": 5},
    "spell_backward": {},
}


def gym_source(task: str, rows: int | None = 50, **options: Any) -> Source:
    return Source(reasoning_gym=task, rows=rows, options=options)


def given(task: str, wanted: int = 50, seed: int = 0, **options: Any) -> list[Row]:
    return list(rows(gym_source(task, wanted, **options), seed))


def test_no_question_on_both_sides() -> None:
    trained: set[str] = set()
    for seed in range(3):
        trained |= {row["prompt"] for row in given("chain_sum", 120, seed, max_terms=2, max_digits=1)}
        trained |= {row["prompt"] for row in given("chain_sum", 400, seed, max_terms=3, max_digits=1, traces=True)}
    asked = {row["prompt"] for row in given("chain_sum", 80, 9, max_terms=3, max_digits=1, split="held_out")}
    assert not trained & asked
    assert all(map(held_out, asked)) and not any(map(held_out, trained))


def test_about_a_fifth_is_held_out() -> None:
    questions = [f"What is {n} + 1?" for n in range(2_000)]
    assert 0.17 < sum(map(held_out, questions)) / len(questions) < 0.23


def test_rows_are_different_and_the_seed_decides() -> None:
    once, again, other = given("gcd", 200, 1), given("gcd", 200, 1), given("gcd", 200, 2)
    assert once == again
    assert len({row["prompt"] for row in once}) == len({row["id"] for row in once}) == 200
    assert [row["prompt"] for row in once] != [row["prompt"] for row in other]


def test_traces_and_questions_begin_elsewhere() -> None:
    taught, asked = given("gcd", 100, traces=True), given("gcd", 100)
    assert len({row["prompt"] for row in taught} & {row["prompt"] for row in asked}) < 10


def test_the_entry_is_whole_and_plain() -> None:
    (row,) = given("leg_counting", 1)
    assert set(row) == {"prompt", "answer", "id", "dataset", "entry"}
    assert row["dataset"] == "leg_counting"
    assert set(row["entry"]) == {"question", "answer", "metadata"}
    json.dumps(row)
    verifier = reasoning_gym.create_dataset("leg_counting", size=1, seed=0)
    assert verifier.score_answer(row["answer"], row["entry"]) == 1.0


def test_a_task_that_only_verifies_has_no_answer_to_copy() -> None:
    (row,) = given("rush_hour", 1)
    assert row["answer"] == row["entry"]["answer"] == ""


@pytest.mark.parametrize("task", SOLVERS)
def test_solvers_agree_with_the_verifier(task: str) -> None:
    tally = Tally(task)
    verifier = reasoning_gym.create_dataset(task, size=1, seed=0)
    found = list(rows(gym_source(task, 300, traces=True, **SMALL[task]), 0, tally))
    assert (len(found), tally.bad) == (300, 0), tally.examples
    for row in found:
        thought, answer = row["completion"].removesuffix("</answer>").split("</think>\n<answer>")
        assert thought.startswith("<think>\n") and thought.count("\n") >= 1
        assert answer == row["answer"] and verifier.score_answer(answer, row["entry"]) == 1.0


def test_a_wrong_trace_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "gcd", lambda record: Worked(["by feeling"], "2"))
    tally = Tally("gcd")
    found = list(rows(gym_source("gcd", 20, traces=True), 0, tally))
    assert len(found) == 20 and all(row["answer"] == "2" for row in found)
    assert tally.bad > 0 and "our solver says '2', the task '" in tally.examples[0]
    with pytest.raises(DataError, match="rows cannot be used"):
        tally.settle(0.0)


def test_a_solver_that_is_never_right_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOLVERS, "gcd", lambda record: Worked([], "no idea"))
    with pytest.raises(DataError, match="none of the first 1000 rows"):
        list(rows(gym_source("gcd", 20, traces=True), 0))


def test_a_verifier_that_disagrees_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = type(reasoning_gym.create_dataset("gcd", size=1))
    monkeypatch.setattr(dataset, "score_answer", lambda self, answer, entry: 0.99)
    with pytest.raises(DataError, match="none of the first 1000 rows"):
        list(rows(gym_source("gcd", 20, traces=True), 0))


def test_thinks() -> None:
    for share in (0, 0.5, 1.0):
        found = given("chain_sum", 400, traces=True, thinks=share)
        thinking = sum(not row["completion"].startswith("<think>\n</think>") for row in found) / len(found)
        assert abs(thinking - share) < 0.08


def test_the_layout_of_a_trace() -> None:
    worked = Worked(["4 - 1 = 3"], "3")
    assert worked.write() == "<think>\n4 - 1 = 3\n</think>\n<answer>3</answer>"
    assert worked.write(think=False) == "<think>\n</think>\n<answer>3</answer>"


def test_a_thousand_rows_if_nobody_says() -> None:
    assert sum(1 for _ in rows(gym_source("chain_sum", None), 0)) == 1_000


def test_through_the_sources() -> None:
    source = gym_source("gcd", 30, traces=True)
    tally = Tally("gcd")
    assert len(list(read_rows(source, 0, tally))) == tally.read == 30
    talks = list(read_conversations(source, 0, "Think.", Tally("gcd")))
    assert [message["role"] for message in talks[0]] == ["system", "user", "assistant"]
    problems, _ = read_problems([source, gym_source("gcd", 30, min_numbers=3, max_numbers=3)], 0)
    assert len({problem.id for problem in problems}) == len(problems) == 60
    assert problems[0].meta["dataset"] == "gcd" and problems[0].meta["entry"]["question"] == problems[0].prompt


def refusal(task: str, wanted: int = 5, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(rows(gym_source(task, wanted, **options), seed=0))
    return str(caught.value)


def test_refusals() -> None:
    assert "nearest: chain_sum" in refusal("chain_sums")
    assert "max_term is none of" in (message := refusal("chain_sum", max_term=3)) and "nearest: max_terms" in message
    assert "does not take options" in refusal("chain_sum", min_terms=5, max_terms=2)
    assert "does not take options" in refusal("chain_sum", min_terms="two")
    assert "expected train or held_out" in refusal("chain_sum", split="test")
    assert "expected a share" in refusal("chain_sum", traces=True, thinks=2)
    assert "expected true or false" in refusal("chain_sum", traces="yes")
    assert "the recipe's seed" in refusal("chain_sum", seed=3)
    assert "rows says how many" in refusal("chain_sum", size=3)


def test_no_solver() -> None:
    message = refusal("rush_hour", traces=True)
    assert all(task in message for task in SOLVERS)


def test_an_exhausted_task() -> None:
    message = refusal("count_bits", 500, min_n=1, max_n=100)
    assert "different train questions, not 500" in message and "lower rows" in message
