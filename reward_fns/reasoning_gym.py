"""The verifier of the reasoning-gym task that a problem came from, with a guard in front of it.

Source: Reasoning Gym (arXiv:2505.24760). Range: 0 or 1, or 0 to 1 with `partial`. The problem carries the name of its
task in `meta["dataset"]` and the generator's record in `meta["entry"]` (a mapping, or the same as JSON).

Choices: an answer that is the reference, word for word, is right without asking. Otherwise the task's `score_answer` is
asked, and only its full 1.0 is full marks: many tasks give partial credit to any text that contains the answer
(`partial: true` takes it as it is). Tasks whose verifier accepts anything (`game_of_life_halting`) or not-a-number
(`complex_arithmetic`) are compared word for word only. Some verifiers raise or hang on hostile text: that is what the
deadline of the worker is for, and long answers are not shown to them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aha.rewards.contract import Completion, Problem, Score, final_answer

ANSWER_LIMIT = 4_000
"""Characters of an answer that a verifier is shown."""
EVALUATED = frozenset(["countdown"])
"""Tasks whose verifier computes what stands in the answer: `9**9**9**9` would cost the deadline, and count as a failure."""
_POWERS = re.compile(r"\*\*|\^|!|\d[eE]\d|\d{40}|[({\[]{20}")
NOT_TRUSTED = frozenset(["game_of_life_halting", "complex_arithmetic"])


@dataclass(frozen=True)
class Params:
    require: Literal["answer_tag", "boxed", "either", "any"] = "answer_tag"
    partial: bool = False
    """Give the partial credit of the task's own verifier."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    task, entry = problem.meta.get("dataset"), _entry(problem)
    if not task or entry is None:
        return Score(None, "the problem does not say which task it came from")
    answer = final_answer(completion, params.require)
    if answer is None or not answer.strip():
        return Score(0.0, "no answer given")
    answer = answer.strip()
    if entry["answer"] is not None and answer == str(entry["answer"]).strip():
        return Score(1.0, "the reference, word for word")
    if task in NOT_TRUSTED:
        return Score(0.0, "not the reference, and the verifier of this task is not to be trusted")
    if task in EVALUATED and _POWERS.search(answer):
        return Score(0.0, "a power or a long number, which no answer of this task has")
    if len(answer) > ANSWER_LIMIT:
        return Score(0.0, f"an answer of {len(answer)} characters")
    value = float(_scorer(str(task)).score_answer(answer=answer, entry=entry))
    value = min(max(value, 0.0), 1.0) if params.partial else float(value == 1.0)
    return Score(value, f"judged by {task}")


def _entry(problem: Problem) -> dict[str, Any] | None:
    entry = problem.meta.get("entry")
    if isinstance(entry, str):
        entry = json.loads(entry)
    return dict(entry) if isinstance(entry, Mapping) and "answer" in entry else None


def warm_up() -> None:
    """Importing a hundred tasks takes a second: once, before workers are forked."""
    import reasoning_gym  # noqa: F401


@functools.cache
def _scorer(task: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(task, size=1, seed=0)
