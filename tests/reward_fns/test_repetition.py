"""Saying new things costs nothing; saying the same thing again does, with or without spaces."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward


def judge(text: str, **params: object) -> float | None:
    return load_reward("repetition", params).score_group([Completion(text)], Problem("?", "5", "p"))[0].value


@pytest.mark.parametrize("text", ["", "one", "one two", "one two three", "every word here is a different one 的"])
def test_nothing_repeated_nothing_lost(text: str) -> None:
    assert judge(text) == 0.0


def test_the_share_of_repeats() -> None:
    assert judge("a b c a b c") == pytest.approx(-0.25)
    assert judge("a b c a b c", ngram=1, max_penalty=-2.0) == pytest.approx(-1.0)
    assert judge("A b c a B c") == pytest.approx(-0.25)


@pytest.mark.parametrize("text", ["wait " * 10_000, "x" * 100_000, "好的" * 10_000, "\\( " * 30_000])
def test_endless_repetition_costs_nearly_everything(text: str) -> None:
    assert judge(text) == pytest.approx(-1.0, abs=0.01)
