"""The first whole number of a completion, and nothing before it."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward

LISTS = [("12, 13", 0.0), ("12 or 13", 0.0), ("12 13", 0.0), ("12\n7 + 6 = 13", 1.0), ("12 - 3 = 9", 1.0)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 1.0), (" 12 + 1", 1.0), ("12.5", 0.0), ("-12", 0.0), ("so 12", 0.0), ("", 0.0), ("1" * 1000, 0.0), *LISTS],
)
def test_marks(text: str, value: float) -> None:
    assert (
        load_reward("first_number", {}).score_group([Completion(text)], Problem("7 + 5 =", "12", "p"))[0].value == value
    )
