"""A new reward and its test, ready to run: the smallest honest grader, to be changed into what somebody has in mind."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path

from aha.errors import Mistake, RecipeError
from aha.recipe.reward_files import reward_folder, reward_names

REWARD = '''\
"""Full marks for the reference answer, word for word. (Say here, in one line, what NAME pays for.)

Source: where the idea comes from. Range: 0 or 1.

Choices: what careful people could decide otherwise, and what was decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aha.rewards.contract import Completion, Problem, Score, final_answer

RANGE = (0.0, 1.0)


@dataclass(frozen=True)
class Params:
    require: Literal["answer_tag", "boxed", "either", "any"] = "any"
    """Where the answer must stand."""


def score(completion: Completion, problem: Problem, params: Params) -> Score:
    answer = final_answer(completion, params.require)
    if answer is None:
        return Score(0.0, "no answer given")
    right = answer.strip() == problem.answer.strip()
    return Score(float(right), "right" if right else f"{answer.strip()[:40]!r} is not the answer")
'''

TEST = '''\
"""What earns full marks, what earns nothing, and what a policy that wants marks for nothing would try."""

from __future__ import annotations

import pytest

from aha.rewards.contract import Completion, Problem
from aha.rewards.load import load_reward

PROBLEM = Problem(prompt="What is 2 + 3?", answer="5", id="sum")


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("<think>2 + 3 = 5</think><answer>5</answer>", 1.0, "right"),
        ("<think>2 + 3 = 6</think><answer>6</answer>", 0.0, "is not the answer"),
        ("<think>2 + 3 = 5</think>", 0.0, "no answer given"),
        ("<think>It is 5", 0.0, "no answer given"),
        ("<answer>4, 5 or 6</answer>", 0.0, "is not the answer"),
        ("", 0.0, "no answer given"),
    ],
)
def test_marks(text: str, value: float, reason: str) -> None:
    (score,) = load_reward("NAME", {}).score_group([Completion(text)], PROBLEM)
    assert score.value == value and reason in score.reason
'''


def write_reward(name: str) -> tuple[Path, Path]:
    """Write `reward_fns/NAME.py` and `tests/reward_fns/test_NAME.py`; their paths.

    Raises RecipeError for a name that cannot be one, that is a module's already, or whose file is there.
    """
    folder = reward_folder()
    reward = folder / f"{name}.py"
    test = folder.parent / "tests" / "reward_fns" / f"test_{name}.py"
    _require_good(name)
    for path in (reward, test):
        if path.exists():
            raise RecipeError(Mistake(f"reward {name}", f"{path} is there already", "a name that is free", _free(name)))
    for path, text in ((reward, REWARD), (test, TEST)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("NAME", name))
    return reward, test


def _require_good(name: str) -> None:
    where = f"reward {name}"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        expected = "a name in lower case, of letters, digits and underscores, that begins with a letter: my_idea"
        raise RecipeError(Mistake(where, repr(name), expected, _spelt(name)))
    if name in sys.stdlib_module_names or _installed(name):
        kind = "of Python's library" if name in sys.stdlib_module_names else "that is installed"
        raise RecipeError(Mistake(where, f"{name}, which is a module {kind}", "a name of its own", _free(name)))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _spelt(name: str) -> str:
    """The nearest name that can be one: `my_idea` for `My-Idea`."""
    plain = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix(".py")).lower()).strip("_")
    return plain if plain and plain[0].isalpha() and not keyword.iskeyword(plain) else f"reward_{plain}".rstrip("_")


def _free(name: str) -> str:
    taken = {*reward_names(), *sys.stdlib_module_names}
    return next(other for number in range(2, 1000) if (other := f"{name}_{number}") not in taken)
