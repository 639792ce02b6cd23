"""A reward that watches another one: full marks when it left the completions and the problem as they were.

Judging unpickles a copy for every judgement, so a reward that changes its inputs does no harm in a run. Elsewhere (in
TRL, in a notebook) it does, and nobody will see it happen. This reward runs where the watched one would.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aha.rewards.load import Reward, load_reward
from aha.types import Completion, Problem, Score


@dataclass(frozen=True)
class Params:
    """The reward to watch, and its arguments as JSON."""

    reward: str
    arguments: str = "{}"


def score_group(completions: Sequence[Completion], problem: Problem, params: Params) -> list[Score]:
    """1 for each completion when nothing was changed, else 0."""
    before: Any = copy.deepcopy((list(completions), problem))
    _watched(params.reward, params.arguments).score_group(completions, problem)
    same = (list(completions), problem) == before
    return [Score(float(same), "left as it was" if same else "changed its inputs")] * len(completions)


@functools.cache
def _watched(name: str, arguments: str) -> Reward:
    return load_reward(name, json.loads(arguments))
