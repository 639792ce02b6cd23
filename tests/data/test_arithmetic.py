"""The embedded world: nothing held out is ever trained on, and every word of it is a token."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from aha.data import arithmetic
from aha.data.arithmetic import Chain
from aha.errors import DataError

SEEDS = (0, 1, 7)


def chain_of(worked: str) -> Chain:
    """`7 + 5 = 12 ; 12 - 3 = 9` back into the chain it is of."""
    steps = [line.split() for line in worked.split(" ; ")]
    return Chain(int(steps[0][0]), tuple(int(change) if sign == "+" else -int(change) for _, sign, change, *_ in steps))


def held_out_questions() -> set[str]:
    asked = [(40, [1]), (300, [2]), (300, [3])]
    return {
        problem.prompt
        for seed in SEEDS
        for rows, steps in asked
        for problem in arithmetic.problems(rows, seed, steps, split="held_out")
    }


def test_no_stage_trains_on_a_held_out_question() -> None:
    held_out = held_out_questions()
    for seed in SEEDS:
        texts = [row["text"] for row in arithmetic.texts(1_000, seed)]
        lines = {line for text in texts for line in text.removesuffix(" .").split(" . ") if "=" in line}
        read = {chain_of(line).question for line in lines}
        taught = {row["prompt"] for row in arithmetic.traces(3_000, seed)}
        asked = {p.prompt for p in arithmetic.problems(2_000, seed)}
        for trained in (read, taught, asked):
            assert len(trained) > 500
            assert not trained & held_out


def test_about_a_fifth_is_held_out() -> None:
    rng = random.Random(0)
    chains = {arithmetic.draw(rng, 2) for _ in range(3_000)}
    assert 0.15 < sum(chain.held_out for chain in chains) / len(chains) < 0.25


def test_every_token_is_in_the_vocabulary() -> None:
    tags = {"<think>", "</think>", "<answer>", "</answer>"}
    known = set(arithmetic.vocabulary())
    assert len(known) == len(arithmetic.vocabulary())
    texts = [row["text"] for row in arithmetic.texts(2_000, 3)]
    texts += [value for row in arithmetic.traces(2_000, 3) for value in row.values()]
    texts += [text for problem in arithmetic.problems(500, 3) for text in (problem.prompt, problem.answer)]
    texts += [text for problem in arithmetic.facts() for text in (problem.prompt, problem.answer)]
    words = {word for text in texts for word in text.split()}
    assert words - known == tags
    assert known <= words, "no token without a use"


def test_answers_are_right() -> None:
    for problem in arithmetic.problems(300, 5):
        total = 0
        for move in problem.prompt.removesuffix(" . What is the result ?").split(" . "):
            *verb, number = move.split()
            total = {"Start with": int(number), "Add": total + int(number), "Take away": total - int(number)}[
                " ".join(verb)
            ]
            assert 0 <= total <= arithmetic.LARGEST
        assert problem.answer == str(total)


def test_traces_think_as_often_as_asked() -> None:
    for share in (0.0, 0.4, 1.0):
        traces = list(arithmetic.traces(2_000, 0, thinks=share))
        thinking = sum("=" in row["completion"] for row in traces) / len(traces)
        assert abs(thinking - share) < 0.05
        assert all(row["completion"].endswith(f"<answer> {row['answer']} </answer>") for row in traces)


def test_the_seed_decides() -> None:
    assert list(arithmetic.texts(50, 1)) == list(arithmetic.texts(50, 1)) != list(arithmetic.texts(50, 2))
    assert len(list(islice(arithmetic.texts(), 10))) == 10, "endless without rows"


def test_too_many_questions() -> None:
    with pytest.raises(DataError, match=r"only .* different held_out questions"):
        arithmetic.problems(5_000, steps=[1], split="held_out")


@pytest.mark.parametrize("steps", [[], "two", 2, [0], [True], ["1"]])
def test_wrong_steps(steps: object) -> None:
    with pytest.raises(DataError, match="list of whole numbers"):
        arithmetic.problems(5, steps=steps)  # type: ignore[arg-type]


def test_wrong_split() -> None:
    with pytest.raises(DataError, match="expected train or held_out"):
        arithmetic.problems(5, split="test")
