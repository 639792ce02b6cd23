"""From graded samples to shares with intervals.

The unit is the problem: samples of one problem are not independent, so the interval comes from the spread between
problems (clustered standard errors; Miller 2024, arXiv:2411.00640) turned into a Wilson interval, which stays inside
[0, 1] and stays honest at 0 and at 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from aha.types import Estimate

Z = 1.959964  # of the standard normal, for 95 %


def share(values: Sequence[float]) -> Estimate:
    """Mean of per-problem values in [0, 1] with a 95 % interval. No problems: nan.

    >>> print(share([1.0] * 50 + [0.0] * 50))
    0.500 [0.404, 0.596]
    >>> print(share([0.0] * 20))
    0.000 [0.000, 0.161]
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan)
    mean = sum(values) / n
    variance = sum((value - mean) ** 2 for value in values) / n
    # As many yes-or-no problems as would have this spread; averaging samples within a problem makes them worth more.
    effective = n * mean * (1 - mean) / variance if variance > 0 else n
    centre = (mean + Z * Z / (2 * effective)) / (1 + Z * Z / effective)
    half = Z / (1 + Z * Z / effective) * math.sqrt(mean * (1 - mean) / effective + Z * Z / (4 * effective**2))
    return Estimate(mean, max(0.0, centre - half), min(1.0, centre + half))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of `k` samples is right, unbiased (Chen et al. 2021, arXiv:2107.03374, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    assert 0 <= correct <= samples and 1 <= k <= samples
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(answers: Sequence[str], right: Sequence[bool]) -> float:
    """Whether the most frequent answer is right; a tie counts by the share of tied answers that are right.

    >>> majority(["4", "4", "5"], [True, True, False])
    1.0
    """
    counts = Counter(answers)
    correct = Counter(answer for answer, is_right in zip(answers, right, strict=True) if is_right)
    top = max(counts.values())
    leaders = [answer for answer, count in counts.items() if count == top]
    return sum(correct[answer] / top for answer in leaders) / len(leaders)
