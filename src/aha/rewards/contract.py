"""The contract of a reward file: everything it may import from aha comes through here.

A file in `reward_fns/` has one function, and optionally its arguments:

    @dataclass(frozen=True)
    class Params:                       # its fields are the arguments a recipe may give, checked at plan time
        scale: float = 1.0

    def score(completion: Completion, problem: Problem, params: Params) -> Score: ...
    def score_group(completions: Sequence[Completion], problem: Problem, params: Params) -> list[Score]: ...

`score` sees one completion, `score_group` all completions of one problem; a file has one of the two. `params` may be
left out where there are none. A number `budget` among them is what the reward gives itself for a completion, in seconds;
a recipe that would kill it earlier is refused. An optional `RANGE = (lowest, highest)` is held against every value by
`aha rewards check`. An optional `warm_up()`, or `warm_up(params)`, runs once, before the first completion: expensive
imports go there, so that planning a run stays quick and a fresh worker starts within milliseconds. A text that it
returns is shown with the run.

The name of the file is the name of the reward, in recipes and in the metrics. "Could not judge" is `Score(None,
reason)`: never 0, never 1. Nothing else is asked: no registry, no batch, and no care for time-outs or exceptions,
which become verdicts without a value where the reward runs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aha.rewards.answers.extract import after_thinking, final_answer, thought, whole_text
from aha.types import Completion, Problem, Score

if TYPE_CHECKING:
    from aha.rewards.load import Reward

__all__ = [
    "Completion",
    "Failure",
    "Problem",
    "Score",
    "after_thinking",
    "final_answer",
    "grader",
    "thought",
    "whole_text",
]


@dataclass(frozen=True)
class Failure(Score):
    """A `Score(None, …)` that is the reward's or the machine's fault: it counts against the failure budget."""

    value: None = None
    reason: str = ""


@functools.cache
def grader(name: str) -> Reward:
    """Another reward by its name, for a reward that builds on a verdict; see `reward_fns/cosine_length.py`."""
    from aha.rewards.load import load_reward  # here, because load.py knows this contract

    return load_reward(name, {})
