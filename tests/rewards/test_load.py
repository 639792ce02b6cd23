"""Finding rewards, checking their arguments, calling plain functions, and believing nothing they return."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from aha.errors import RecipeError, RewardError
from aha.recipe.reward_files import reward_names
from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.load import check_params, check_value, load_reward, read_entry

PROBLEM = Problem("What is 2 + 3?", "5", "p1", {"level": "easy"})
COMPLETIONS = [Completion("5", tokens=1), Completion("six", tokens=3)]


def reward_file(folder: Path, code: str, name: str = "my_idea") -> str:
    path = folder / f"{name}.py"
    path.write_text(code)
    return str(path)


def values(scores: list[Score]) -> list[float | None]:
    return [score.value for score in scores]


# --- finding -------------------------------------------------------------------------------------------------------


def test_the_library_is_found_by_name() -> None:
    assert {"math_answer", "think_format", "countdown"} <= set(reward_names())
    assert load_reward("think_format", {}).name == "think_format"


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reward_file(tmp_path, "def my_idea(completions): return [1.0] * len(completions)")
    monkeypatch.setenv("AHA_REWARD_FNS", str(tmp_path))
    assert values(load_reward("my_idea", {}).score_group(COMPLETIONS, PROBLEM)) == [1.0, 1.0]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        load_reward("math_anwser", {}, "grpo.rewards.math_anwser")
    assert caught.value.mistakes[0].where == "grpo.rewards.math_anwser"
    assert caught.value.mistakes[0].nearest == "math_answer"


@pytest.mark.parametrize("name", ["no/such/file.py", "no_such_package.module:f", "json:no_such_function"])
def test_what_is_not_there_is_a_mistake_in_the_recipe(name: str) -> None:
    with pytest.raises(RecipeError):
        load_reward(name, {})


def test_a_file_may_name_its_function(tmp_path: Path) -> None:
    path = reward_file(tmp_path, "def longest(completions): return [len(text) for text in completions]")
    assert values(load_reward(f"{path}:longest", {}).score_group(COMPLETIONS, PROBLEM)) == [1.0, 3.0]
    with pytest.raises(RecipeError, match="longest"):
        load_reward(f"{path}:longes", {})


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise KeyboardInterrupt", "1 +", "import no_such_module"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, code: str) -> None:
    with pytest.raises(RewardError, match="my_idea"):
        load_reward(reward_file(tmp_path, code), {})


def test_checking_the_library_imports_nothing_heavy() -> None:
    code = (
        "import sys; from aha.rewards.load import check_params; from aha.recipe.reward_files import reward_names\n"
        "for name in reward_names():\n"
        "    check_params(name, {'max_tokens': 8, 'cache': 4} if name == 'soft_overlong' else\n"
        "                 {'max_tokens': 8} if name == 'cosine_length' else\n"
        "                 {'script': 'latin'} if name == 'language_consistency' else {})\n"
        "assert not {'torch', 'sympy', 'mpmath', 'math_verify', 'reasoning_gym'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- arguments -----------------------------------------------------------------------------------------------------

PARAMS = """
from dataclasses import dataclass
from typing import Literal
from aha.rewards.contract import Completion, Problem, Score

@dataclass(frozen=True)
class Params:
    limit: int
    scale: float = 1.0
    mode: Literal["soft", "hard"] = "soft"
    tags: tuple[str, str] = ("<a>", "</a>")

    def __post_init__(self):
        if self.limit < 0:
            raise ValueError("limit of at least 0")

def score(completion, problem, params):
    return Score(params.scale * params.limit, params.mode)
"""


def test_arguments_reach_the_reward(tmp_path: Path) -> None:
    reward = load_reward(reward_file(tmp_path, PARAMS), {"limit": 3, "scale": 2, "tags": ["[", "]"]})
    assert reward.score_group(COMPLETIONS, PROBLEM) == [Score(6.0, "soft")] * 2


def test_all_wrong_arguments_are_named_at_once_unknown_ones_first(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_params(reward_file(tmp_path, PARAMS), {"scal": 1.0, "mode": "hrd", "tags": "<a>"}, "grpo.rewards.x")
    found = [(mistake.where, mistake.nearest) for mistake in caught.value.mistakes]
    assert found == [
        ("grpo.rewards.x.scal", "scale"),
        ("grpo.rewards.x.limit", None),
        ("grpo.rewards.x.mode", "hard"),
        ("grpo.rewards.x.tags", None),
    ]


@pytest.mark.parametrize("params", [{"limit": True}, {"limit": 1.5}, {"limit": "3"}, {"limit": None}, {"limit": -1}])
def test_types_are_checked_without_coercion(tmp_path: Path, params: dict[str, object]) -> None:
    with pytest.raises(RecipeError):
        check_params(reward_file(tmp_path, PARAMS), params)


def test_a_budget_ends_before_the_deadline() -> None:
    check_params("code_tests", {"budget": 4.5}, deadline=5.0)
    check_params("code_tests", {"budget": 60.0})
    for params, deadline, most in (({"budget": 4.6}, 5.0, "4.5"), ({}, 2.0, "1.8")):
        with pytest.raises(RecipeError) as caught:
            check_params("code_tests", params, "grpo.rewards.code_tests", deadline)
        (mistake,) = caught.value.mistakes
        assert (mistake.where, mistake.nearest) == ("grpo.rewards.code_tests.budget", f"budget: {most}")


def test_a_reward_without_params_takes_none() -> None:
    with pytest.raises(RecipeError, match="speed"):
        check_params("first_number", {"speed": 3})


def test_weight_and_gate_are_no_arguments() -> None:
    assert read_entry(0.2) == (0.2, {}, None)
    assert read_entry({"max_tokens": 8}) == (1.0, {"max_tokens": 8}, None)
    assert read_entry({"weight": 2, "only_if": "math_answer"}) == (2.0, {}, "math_answer")


# --- plain TRL and Open-R1 functions ---------------------------------------------------------------------------------

OPEN_R1 = """
import re

def format_reward(completions, **kwargs):
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match("^five$", content) else 0.0 for content in contents]

def by_column(prompts, completions, level, answer, scale=1.0):
    assert level == ["easy"] * len(completions) and isinstance(prompts[0], str)
    return [scale if text == gold else None for text, gold in zip(completions, answer)]

async def slow(completions, solution, **kwargs):
    import asyncio
    await asyncio.sleep(0)
    return [float(text == gold) for text, gold in zip(completions, solution)]

def by_length(completion_ids, **kwargs):
    return [float(len(ids)) for ids in completion_ids]

class Judge:
    def __call__(self, completions, **kwargs):
        return [0.5 for _ in completions]

judge = Judge()

class Chatty:
    def __call__(self, completions, log_metric, log_extra, **kwargs):
        log_metric("seen", len(completions))
        log_extra("text", [completion[0]["content"] for completion in completions])
        return [float(len(completion[0]["content"])) for completion in completions]

def get_chatty(scale):
    def scaled(completions, **kwargs):
        return [scale * value for value in Chatty()(completions, **kwargs)]
    return Chatty() if scale == 1 else scaled

def nothing():
    return None

def dynamic(completions, trainer_state):
    return [trainer_state.global_step for _ in completions]
"""


@pytest.mark.parametrize(
    ("function", "params", "expected"),
    [
        ("format_reward", {}, [0.0, 0.0]),
        ("by_column", {}, [1.0, None]),
        ("by_column", {"scale": 2.5}, [2.5, None]),
        ("slow", {}, [1.0, 0.0]),
        ("by_length", {}, [1.0, 3.0]),
        ("judge", {}, [0.5, 0.5]),
        ("get_chatty", {"scale": 1}, [1.0, 3.0]),
        ("get_chatty", {"scale": 2, "completions": "messages"}, [2.0, 6.0]),
    ],
)
def test_a_plain_function_plugs_in_unchanged(
    tmp_path: Path, function: str, params: dict[str, float], expected: list[float | None]
) -> None:
    reward = load_reward(f"{reward_file(tmp_path, OPEN_R1)}:{function}", params)
    assert values(reward.score_group(COMPLETIONS, PROBLEM)) == expected


def test_the_form_of_completions_can_be_said(tmp_path: Path) -> None:
    code = "def my_idea(completions): return [len(each) for each in completions]"
    path = reward_file(tmp_path, code)
    assert values(load_reward(path, {"completions": "messages"}).score_group(COMPLETIONS, PROBLEM)) == [1.0, 1.0]
    with pytest.raises(RecipeError, match="messages"):
        load_reward(path, {"completions": "message"})


def test_what_the_template_wrote_is_part_of_the_completion(tmp_path: Path) -> None:
    path = reward_file(tmp_path, "def my_idea(completions): return [len(text) for text in completions]")
    assert values(load_reward(path, {}).score_group([Completion("ab", prompt_tail="<think>")], PROBLEM)) == [9.0]


def test_an_argument_that_the_function_does_not_take_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_reward(f"{reward_file(tmp_path, OPEN_R1)}:by_column", {"scal": 1.0})
    assert caught.value.mistakes[0].nearest == "scale"


@pytest.mark.parametrize(
    ("function", "params", "said"),
    [
        ("get_chatty", {}, "missing 1 required positional argument: 'scale'"),
        ("nothing", {}, "a function without completions"),
        ("dynamic", {}, "trainer_state"),
    ],
)
def test_a_function_that_cannot_be_called_is_a_mistake(
    tmp_path: Path, function: str, params: dict[str, float], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        check_params(f"{reward_file(tmp_path, OPEN_R1)}:{function}", params)


def test_trls_own_rewards_plug_in() -> None:
    reward = load_reward("trl.rewards:get_soft_overlong_punishment", {"max_completion_len": 4, "soft_punish_cache": 2})
    assert values(reward.score_group(COMPLETIONS, PROBLEM)) == [0.0, -0.5]
    reward = load_reward("trl.rewards:think_format_reward", {})
    assert values(reward.score_group([Completion("<think>a</think>5"), Completion("5")], PROBLEM)) == [1.0, 0.0]


# --- believing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("[1.0]", "1 values for 2 completions"),
        ("[1.0] * 3", "3 values for 2 completions"),
        ("[float('nan')] * 2", "nan, not a finite number"),
        ("[float('inf')] * 2", "inf, not a finite number"),
        ("['1'] * 2", "'1', not a finite number"),
        ("[{}] * 2", "{}, not a finite number"),
        ("1.0", "1.0, not a list"),
        ("None", "None, not a list"),
        ("1 / 0", "ZeroDivisionError"),
        ("exit(0)", "SystemExit"),
    ],
)
def test_nonsense_becomes_a_failure_with_its_reason(tmp_path: Path, returned: str, reason: str) -> None:
    path = reward_file(tmp_path, f"def my_idea(completions): return {returned}")
    for score in load_reward(path, {}).score_group(COMPLETIONS, PROBLEM):
        assert isinstance(score, Failure) and score.value is None and reason in score.reason


def test_good_values_beside_bad_ones_stay() -> None:
    assert [check_value(value).value for value in (True, 2, 0.5, None, math.inf)] == [1.0, 2.0, 0.5, None, None]
    assert not isinstance(check_value(None), Failure)


def test_a_verdict_that_was_withheld_keeps_its_reason() -> None:
    assert check_value(Score(None, "no gold")) == Score(None, "no gold")
    assert isinstance(check_value(Score(float("nan"), "")), Failure)


def test_an_exception_that_cannot_be_printed(tmp_path: Path) -> None:
    code = """
class Odd(BaseException):
    def __str__(self): raise RuntimeError("no")

def my_idea(completions): raise Odd()
"""
    assert "Odd" in load_reward(reward_file(tmp_path, code), {}).score_group(COMPLETIONS, PROBLEM)[0].reason


def test_one_bad_completion_does_not_cost_its_neighbours_theirs(tmp_path: Path) -> None:
    code = "def score(completion, problem): return 1 / (5 - len(completion.text) * 5)"
    found = load_reward(reward_file(tmp_path, code), {}).score_group(COMPLETIONS, PROBLEM)
    assert found[0].value is None and found[1].value == -0.1
