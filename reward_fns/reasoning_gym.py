"""The verifier of the reasoning-gym task that a problem came from, with a guard in front of it.

Source: Reasoning Gym (arXiv:2505.24760). Range: 0 or 1, or 0 to 1 with `partial`. The problem carries the name of its
task in `meta["dataset"]` and the generator's record in `meta["entry"]` (a mapping, or the same as JSON).

Choices: an answer that is the reference, word for word, is right without asking. Otherwise the task's `score_answer` is
asked, and only its full 1.0 is full marks: many tasks give partial credit to any text that contains the answer
(`partial: true` takes it as it is). Tasks whose verifier accepts anything (`game_of_life_halting`) or not-a-number
(`complex_arithmetic`) are compared word for word only. A verifier that raises
on an answer, but not on the reference, cannot read it: that answer is wrong. Some hang on hostile text: that is what the
deadline of the worker is for, and powers and long answers are not shown to them.
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
_LISTS = re.compile(r"[\w\s,'\"\[\]-]*")
_SUMS = re.compile(r"(?:[\d\s+/().=×÷-]|\*(?!\s*\*))*")
_FORMULAS = re.compile(r"(?:[A-Za-z\d\s+/()=-]|\.(?=\d)|\*\*\s*\d{1,3}(?!\d|\s*\*)|\*(?!\s*\*))*")
EVALUATED = {
    **dict.fromkeys(["string_insertion", "spiral_matrix", "binary_matrix", "n_queens"], _LISTS),
    **dict.fromkeys(["countdown", "puzzle24"], _SUMS),
    **dict.fromkeys(["simple_integration", "intermediate_integration", "polynomial_multiplication"], _FORMULAS),
}
"""Tasks whose verifier *evaluates* the answer as Python (`eval`, or sympy's `parse_expr`, which is the same): what they may
be shown. Without this, `__import__('os')._exit(0)` in an answer runs, and `9**9**9**9` does not end."""
_NAMES = frozenset(["sin", "cos", "tan", "exp", "log", "sqrt", "pi"])
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
    if task in EVALUATED and not _is_harmless(answer, EVALUATED[task]):
        return Score(0.0, "not shown to the verifier, which would run it as Python")
    if len(answer) > ANSWER_LIMIT:
        return Score(0.0, f"an answer of {len(answer)} characters")
    verifier = _scorer(str(task))
    try:
        value = float(verifier.score_answer(answer=answer, entry=entry))
    except Exception as error:
        verifier.score_answer(answer=str(entry["answer"]), entry=entry)  # raises, too, if the verifier is at fault
        return Score(0.0, f"unreadable for the verifier of {task}: {type(error).__name__}")
    value = min(max(value, 0.0), 1.0) if params.partial else float(value == 1.0)
    return Score(value, f"judged by {task}")


def _is_harmless(answer: str, grammar: re.Pattern[str]) -> bool:
    """Whether an answer is of the task's own signs: no call of anything but a function of mathematics, no attribute."""
    if grammar.fullmatch(answer) is None or re.search(r"\d{40}", answer):
        return False
    words = re.findall("[A-Za-z]+", answer)
    return grammar is not _FORMULAS or all(len(word) == 1 or word in _NAMES for word in words)


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
