"""Shares and intervals, against counting by hand and against simulation."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from aha.evals.stats import Z, majority, pass_at_k, share


@pytest.mark.parametrize("samples", range(1, 8))
def test_pass_at_k_is_the_average_over_all_choices(samples: int) -> None:
    for correct in range(samples + 1):
        outcomes = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            chosen = list(combinations(outcomes, k))
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, chosen)) / len(chosen))


def test_pass_at_more_than_was_drawn_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        pass_at_k(2, 0, 4)


def test_majority_by_hand() -> None:
    assert majority(["4", "4", "5"], [True, True, False]) == 1.0
    assert majority(["4", "5", "5"], [True, False, False]) == 0.0
    assert majority(["4", "5"], [True, False]) == 0.5
    assert majority(["4", "5", "6"], [True, False, False]) == pytest.approx(1 / 3)
    assert majority(["4", "4"], [True, False]) == 0.5, "the same words, judged twice: the share that was right"


@pytest.mark.parametrize("seed", range(20))
def test_majority_is_what_a_fair_voter_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [str(a) for a in rng.integers(0, 4, size=7)]
    right = [answer == "2" for answer in answers]
    counts = Counter(answers)
    leaders = [answer for answer in counts if counts[answer] == max(counts.values())]
    assert majority(answers, right) == pytest.approx(sum(leader == "2" for leader in leaders) / len(leaders))


def test_no_problems() -> None:
    assert math.isnan(share([]).value) and math.isnan(share([]).low)


@pytest.mark.parametrize("n", [1, 2, 20, 500])
def test_yes_or_no_is_the_wilson_interval(n: int) -> None:
    for right in {0, n // 3, n}:
        p = right / n
        centre = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        found = share([1.0] * right + [0.0] * (n - right))
        assert found.value == pytest.approx(p)
        assert found.low == pytest.approx(max(0.0, centre - half), abs=1e-9)
        assert found.high == pytest.approx(min(1.0, centre + half), abs=1e-9)


def test_intervals_stay_where_shares_live() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        values = rng.integers(0, 5, size=rng.integers(1, 30)) / 4
        found = share(list(values))
        assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
        assert found.low < found.high, "a finite sample never tells everything"


def test_more_problems_tell_more() -> None:
    widths = [(found := share([0.0, 0.25, 0.5, 1.0] * n)).high - found.low for n in (5, 20, 80)]
    assert widths[0] > 1.8 * widths[1] > 3 * widths[2]


@pytest.mark.parametrize("hardness", ["equal", "spread", "all or nothing"])
@pytest.mark.parametrize("problems", [40, 150])
def test_the_interval_covers_the_truth(hardness: str, problems: int) -> None:
    """Problems drawn from a population, four samples each: 95 % of the intervals hold the population's mean."""
    rng = np.random.default_rng(1)
    draw = {
        "equal": lambda: np.full(problems, 0.3),
        "spread": lambda: rng.beta(0.6, 1.4, problems),
        "all or nothing": lambda: (rng.random(problems) < 0.3).astype(float),
    }[hardness]
    trials, covered = 1_000, 0
    for _ in range(trials):
        found = share(list(rng.binomial(4, draw()) / 4))
        covered += found.low <= 0.3 <= found.high
    assert 0.925 <= covered / trials <= 0.98
