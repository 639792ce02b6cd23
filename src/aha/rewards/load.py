"""From a name in a recipe to a reward: find the file, check its arguments, and wrap it so that it cannot do harm.

Three spellings are understood: `math_answer` (a file in `reward_fns/`), `path/to/file.py`, and
`package.module:function` (`path/to/file.py:function` too). A function named `score` or `score_group` follows the
house's contract; any other is taken for a plain TRL/Open-R1 reward, `f(completions, **columns) -> list[float |
None]`, and plugs in unchanged.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import importlib
import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from aha.errors import Mistake, RecipeError, RewardError
from aha.recipe.reward_files import reward_folder, reward_names
from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.params import build_params

Judge = Callable[[Sequence[Completion], Problem], Any]

HOUSE_FUNCTIONS = ("score", "score_group")
REASON_LIMIT = 500
BEFORE_DEADLINE = 0.9
"""Share of its deadline that a reward may plan for: the rest is for starting, and for stopping what it runs."""


@dataclass(frozen=True)
class Reward:
    """A reward with its arguments bound. Judging never raises: what goes wrong is a `Failure` with its reason."""

    name: str
    judge: Judge
    whole_group: bool
    """True when the reward compares the completions of a problem, so that it must see them together."""
    warm_up: Callable[[], object]
    range: tuple[float, float] | None = None
    """The lowest and the highest value, where the reward's file declares a `RANGE`."""
    budget: float | None = None
    """Seconds that it gives itself for a completion, where its `Params` have a `budget`."""

    def score_group(self, completions: Sequence[Completion], problem: Problem) -> list[Score]:
        """One score per completion, in their order."""
        if self.whole_group:
            return self._judge(completions, problem)
        return [self._judge([completion], problem)[0] for completion in completions]

    def _judge(self, completions: Sequence[Completion], problem: Problem) -> list[Score]:
        try:
            returned = self.judge(completions, problem)
            return check_returned(returned, len(completions))
        except BaseException as error:  # SystemExit and math_verify's own time-out derive from BaseException
            return [Failure(reason=f"raised {describe(error)}")] * len(completions)


def load_reward(name: str, params: Mapping[str, Any], where: str = "") -> Reward:
    """The reward that a recipe names, with its arguments checked and bound. Raises RecipeError or RewardError."""
    where = where or name
    source, function_name = locate(name, where)
    module = _import(source, name)
    found, function = _function(module, source, function_name, where)
    if found not in HOUSE_FUNCTIONS:
        return Reward(name, _plain_judge(function, params, where), whole_group=True, warm_up=lambda: None)
    arguments = build_params(getattr(module, "Params", None), params, where)
    whole_group = found == "score_group"
    warm_up = _with_params(getattr(module, "warm_up", lambda: None), 0, arguments)
    judge = _house_judge(function, arguments, whole_group)
    budget = getattr(arguments, "budget", None)
    return Reward(name, judge, whole_group, warm_up, getattr(module, "RANGE", None), budget)


def check_params(name: str, params: Mapping[str, Any], where: str = "", deadline: float | None = None) -> None:
    """What can be said about a reward at plan time, without importing anything heavy: RecipeError when it is wrong.

    Files are executed (they keep heavy imports in `warm_up`); a `package.module:function` is only looked up. With a
    `deadline`, the seconds for a completion, the reward's own `budget` has to end before it.
    """
    source, _ = locate(name, where or name)
    if not isinstance(source, Path):
        return
    budget = load_reward(name, params, where).budget
    most = BEFORE_DEADLINE * (deadline or math.inf)
    if budget is not None and budget > most:
        expected = (
            f"at most {most:g}, or a deadline above {budget / BEFORE_DEADLINE:g} s: the judge is killed at its deadline "
            f"of {deadline:g} s, and what it was judging has no verdict"
        )
        raise RecipeError(Mistake(f"{where or name}.budget", f"{budget:g} s", expected, f"budget: {most:g}"))


class Entry(NamedTuple):
    """A reward's entry in a recipe."""

    weight: float
    params: dict[str, Any]
    only_if: str | None = None
    """The reward of the same block that must give 1 for this one to count."""


def read_entry(entry: float | Mapping[str, Any]) -> Entry:
    """`0.2` or `{weight: 0.2, only_if: math_answer, max_tokens: 4096}`; a weight that is not given is 1.

    >>> read_entry({"weight": 0.3, "max_tokens": 4096})
    Entry(weight=0.3, params={'max_tokens': 4096}, only_if=None)
    """
    if isinstance(entry, Mapping):
        params = dict(entry)
        return Entry(float(params.pop("weight", 1.0)), params, params.pop("only_if", None))
    return Entry(float(entry), {})


# --- finding -------------------------------------------------------------------------------------------------------


def locate(name: str, where: str) -> tuple[Path | str, str | None]:
    """(file or module, function or None) for a name in a recipe; RecipeError when there is no such thing."""
    stem, colon, function = name.rpartition(":")
    source = stem if colon else name
    if source.endswith(".py"):
        path = Path(source)
    elif colon:
        return _locate_module(source, name, where), function
    else:
        path = reward_folder() / f"{source}.py"
    if not path.is_file():
        raise RecipeError(_unknown_reward(name, where))
    return path, function if colon else None


def _locate_module(module: str, name: str, where: str) -> str:
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise RecipeError(Mistake(where, name, f"an importable module, package.module:function (no module {module})"))
    return module


def _unknown_reward(name: str, where: str) -> Mistake:
    names = reward_names()
    listed = ", ".join(names) if names else "empty"
    expected = f"a file in {reward_folder()} ({listed}), path/to/file.py or package.module:function"
    nearest = difflib.get_close_matches(name, names, n=1)
    return Mistake(where, name, expected, nearest[0] if nearest else None)


def _import(source: Path | str, name: str) -> ModuleType:
    try:
        return importlib.import_module(source) if isinstance(source, str) else _import_file(source)
    except BaseException as error:  # a reward file may do anything while it is read, sys.exit included
        raise RewardError(f"reward {name}: its code could not be read: {describe(error)}") from error


def _import_file(path: Path) -> ModuleType:
    module_name = f"reward_fns.{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses with postponed annotations look their module up
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, source: Path | str, wanted: str | None, where: str) -> tuple[str, Callable[..., Any]]:
    """The name and the function asked for, else `score`, `score_group`, or the function named like its file."""
    names = [wanted] if wanted else [*HOUSE_FUNCTIONS, Path(source).stem]
    for name in names:
        function: Callable[..., Any] | None = getattr(module, name, None)
        if callable(function):
            return name, function
    public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    nearest = difflib.get_close_matches(names[-1], public, n=1)
    raise RecipeError(
        Mistake(where, str(source), f"a function {' or '.join(names)} in it", nearest[0] if nearest else None)
    )


# --- calling -------------------------------------------------------------------------------------------------------


def _house_judge(function: Callable[..., Any], params: Any, whole_group: bool) -> Judge:
    """`score` and `score_group` behind one face."""
    judge = _with_params(function, 2, params)
    if whole_group:
        return lambda completions, problem: _finished(judge(completions, problem))
    return lambda completions, problem: [_finished(judge(completion, problem)) for completion in completions]


def _with_params(function: Callable[..., Any], position: int, params: Any) -> Callable[..., Any]:
    """The function with `params` bound, unless its signature has no use for them."""
    if len(inspect.signature(function).parameters) <= position:
        return function
    return lambda *given: function(*given, params)


def _plain_judge(function: Callable[..., Any], params: Mapping[str, Any], where: str) -> Judge:
    """A TRL/Open-R1 function. Arguments of the recipe reach it as keywords; `completions: text | messages` is ours."""
    params = dict(params)
    form = params.pop("completions", None)
    accepted, anything = _accepted(function)
    unknown = [key for key in params if key not in accepted]
    if unknown:
        raise RecipeError(*(_unknown_argument(key, list(accepted), where) for key in unknown))
    if not anything and not {"prompts", "completions", "completion_ids"} & set(accepted):
        function, params = _made(function, params, where), {}
        accepted, anything = _accepted(function)
    if "trainer_state" in accepted and accepted["trainer_state"].default is inspect.Parameter.empty:
        expected = "a function that does without: rewards are judged in processes that have no trainer"
        raise RecipeError(Mistake(where, "an argument trainer_state", expected))
    form = form or ("messages" if _reads_messages(function) else "text")
    if form not in ("text", "messages"):
        raise RecipeError(Mistake(f"{where}.completions", repr(form), "text or messages"))

    def judge(completions: Sequence[Completion], problem: Problem) -> Any:
        columns = _columns(completions, problem, messages=form == "messages")
        if "completion_ids" in accepted:  # ids are not carried this far; their number is
            columns["completion_ids"] = [[0] * completion.tokens for completion in completions]
        named = {key: value for key, value in columns.items() if anything or key in accepted}
        return _finished(function(**{**named, **params}))

    return judge


def _accepted(function: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], bool]:
    """The parameters of a function, and whether it takes any other keyword too."""
    parameters = inspect.signature(function).parameters
    return parameters, any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _made(factory: Callable[..., Any], params: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """What TRL's `get_soft_overlong_punishment(max_completion_len, …)` and its like return: the reward function."""
    expected = "a function of completions, or one that returns such a function"
    try:
        made = factory(**params)
    except TypeError as error:
        raise RecipeError(Mistake(where, f"{dict(params)}: {error}", expected)) from error
    if not callable(made):
        raise RecipeError(Mistake(where, "a function without completions", expected))
    return made  # type: ignore[no-any-return]


def _unknown_argument(key: str, accepted: list[str], where: str) -> Mistake:
    nearest = difflib.get_close_matches(key, accepted, n=1)
    return Mistake(f"{where}.{key}", key, f"one of: {', '.join(accepted)}", nearest[0] if nearest else None)


def _columns(completions: Sequence[Completion], problem: Problem, messages: bool) -> dict[str, Any]:
    """What TRL hands to a reward function: prompts, completions, and every column of the row, each as a list."""
    count = len(completions)
    texts = [completion.prompt_tail + completion.text for completion in completions]
    columns: dict[str, Any] = {key: [value] * count for key, value in problem.meta.items()}
    columns.setdefault("answer", [problem.answer] * count)
    columns.setdefault("solution", [problem.answer] * count)
    columns["prompts"] = [[{"role": "user", "content": problem.prompt}] if messages else problem.prompt] * count
    columns["completions"] = [[{"role": "assistant", "content": text}] for text in texts] if messages else texts
    columns |= {"log_extra": _not_logged, "log_metric": _not_logged}
    return columns


def _not_logged(name: str, value: Any) -> None:
    """What a function logs on the side stays in its process: a run's metrics are its rewards."""


def _reads_messages(function: Callable[..., Any]) -> bool:
    """Whether a plain function expects conversations: it says so in its code, `completion[0]["content"]`."""
    function = inspect.unwrap(function.func if isinstance(function, functools.partial) else function)
    if not hasattr(function, "__code__"):  # an object that is called
        function = type(function).__call__
    code = getattr(function, "__code__", None)
    called = [getattr(function, "__globals__", {}).get(name) for name in getattr(code, "co_names", ())]
    codes = [code, *(getattr(each, "__code__", None) for each in called)]
    return any("content" in _constants(each) for each in codes if each is not None)


def _constants(code: CodeType) -> set[Any]:
    nested = (_constants(each) for each in code.co_consts if isinstance(each, CodeType))
    return {each for each in code.co_consts if isinstance(each, str)}.union(*nested)


def _finished(value: Any) -> Any:
    """The value of a call, awaited when the function was asynchronous."""

    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


# --- believing -----------------------------------------------------------------------------------------------------


def check_returned(returned: Any, count: int) -> list[Score]:
    """What a reward returned, as `count` scores. Anything that is not a finite number or a Score is a Failure."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, list | tuple):
        return [Failure(reason=f"returned {_shown(returned)}, not a list")] * count
    if len(values) != count:
        return [Failure(reason=f"returned {len(values)} values for {count} completions")] * count
    return [check_value(value) for value in values]


def check_value(value: Any) -> Score:
    """One returned value as a Score.

    >>> check_value(float("nan"))
    Failure(value=None, reason='returned nan, not a finite number')
    """
    if isinstance(value, Score):
        checked = value if value.value is None else check_value(value.value)
        return checked if isinstance(checked, Failure) else Score(checked.value, str(value.reason)[:REASON_LIMIT])
    if value is None:
        return Score(None, "the reward returned None")
    if hasattr(value, "item") and callable(value.item):  # a scalar of numpy or torch
        value = value.item()
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return Score(float(value), "a number without a reason")
    return Failure(reason=f"returned {_shown(value)}, not a finite number")


def describe(error: BaseException) -> str:
    """An exception in one line, with the place it came from."""
    try:
        text = f"{type(error).__name__}: {error}"
    except BaseException:  # an exception whose own __str__ raises
        text = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return text[:REASON_LIMIT] + place


def _shown(value: Any) -> str:
    try:
        return repr(value)[:80]
    except BaseException:
        return f"an object of {type(value).__name__}"
