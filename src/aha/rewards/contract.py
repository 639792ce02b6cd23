"""The contract of a reward file: everything it may import from aha comes through here.

A file in `reward_fns/` has one function, and optionally its arguments:

    @dataclass(frozen=True)
    class Params:                       # its fields are the arguments a recipe may give, checked at plan time
        scale: float = 1.0

    def score(completion: Completion, problem: Problem, params: Params) -> Score: ...
    def score_group(completions: Sequence[Completion], problem: Problem, params: Params) -> list[Score]: ...

`score` sees one completion, `score_group` all completions of one problem; a file has one of the two. An optional
`warm_up()` runs once, before the first completion: expensive imports go there. The name of the file is the name of the
reward in recipes and in the metrics. "Could not judge" is `Score(None, reason)`: never 0, never 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from aha.rewards.extract import after_thinking, final_answer, whole_text
from aha.types import Completion, Problem, Score

__all__ = ["Completion", "Failure", "Problem", "Score", "after_thinking", "final_answer", "whole_text"]


@dataclass(frozen=True)
class Failure(Score):
    """A `Score(None, …)` that is the reward's or the machine's fault: it counts against the failure budget."""

    value: None = None
    reason: str = ""
