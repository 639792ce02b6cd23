"""What a run reads besides its recipe: an edited reward or data file makes its stage run again, and the plan names it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aha.recipe import Plan, Recipe, inputs, make_plan

Load = Callable[..., Recipe]
RUN = Path("runs/small")
GRADER = "from aha.rewards.contract import grader\n"


@pytest.fixture
def plan(load: Load) -> Callable[..., Plan]:
    return lambda *overrides: make_plan(load(overrides=overrides), RUN, "small.yaml")


Planner = Callable[..., Plan]


def write(path: str, text: str = "x = 1\n") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def finish(plan: Plan) -> None:
    """What finished stages and a finished evaluation leave behind."""
    for stage in plan.stages:
        folder = RUN / stage.directory
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(stage.model_dump_json())
        done = {"inputs_hash": stage.inputs_hash, "checkpoint": {"path": "model", "fingerprint": "f"}}
        (folder / "done.json").write_text(json.dumps(done))
    tasks = {"one_step": {"samples": 4}}
    found = {each.after: {"fingerprint": "f", "files": each.files, "tasks": tasks} for each in plan.evals}
    (RUN / "results.json").write_text(json.dumps(found))


def grpo(plan: Plan) -> tuple[str, str]:
    return plan.stages[2].state, plan.stages[2].why


def test_an_edited_reward_runs_its_stage_and_its_evaluations_again(plan: Planner) -> None:
    finish(plan())
    assert {stage.state for stage in plan().stages} | {one.state for one in plan().evals} == {"skip"}
    write("reward_fns/think_format.py")
    assert [stage.state for stage in plan().stages] == ["skip", "skip", "run"]
    assert grpo(plan()) == ("run", "reward_fns/think_format.py has changed since it last ran")
    assert [one.state for one in plan().evals[:2]] == ["skip", "skip"]
    finish(plan())
    write("reward_fns/math_answer.py")
    assert plan().evals[0].why == "reward_fns/math_answer.py has changed since it was measured"
    write("reward_fns/another.py")
    finish(plan())
    write("reward_fns/another.py", "y = 2\n")
    assert grpo(plan())[0] == "skip", "nobody asks that one"


def test_a_stage_that_was_interrupted_does_not_go_on_with_another_reward(plan: Planner) -> None:
    finish(plan())
    (RUN / "3-grpo/done.json").unlink()
    write("runs/small/3-grpo/checkpoints/step-000008/manifest.json", "{}")
    assert grpo(plan()) == ("resume", "interrupted after step-000008")
    write("reward_fns/think_format.py")
    assert grpo(plan()) == ("run", "reward_fns/think_format.py has changed since it last ran")


@pytest.mark.parametrize(
    ("reward", "files"),
    [
        ("shaped", {"reward_fns/shaped.py": "import reward_fns.parser\n", "reward_fns/parser.py": ""}),
        ("shaped", {"reward_fns/shaped.py": "from reward_fns import parser\n", "reward_fns/parser.py": ""}),
        ("shaped", {"reward_fns/shaped.py": GRADER + "grader('strict')\n", "reward_fns/strict.py": ""}),
        ("shaped: {weight: 1.0, by: strict}", {"reward_fns/shaped.py": GRADER, "reward_fns/strict.py": ""}),
        ("own/file.py", {"own/file.py": "import mine.deep.parser\n", "mine/deep/parser.py": "", "mine/__init__.py": ""}),
        ("own/file.py:f", {"own/file.py": "from mine import parser\n", "mine/parser.py": ""}),
        (
            "mine.rewards:f",
            {"mine/rewards.py": "from .deep import *\nfrom . import other\n", "mine/deep/__init__.py": "from ..low import f\n",
             "mine/other.py": "import low\n", "mine/low.py": "", "low.py": ""},
        ),
    ],
)  # fmt: skip
def test_code_that_comes_with_a_reward(
    reward: str, files: dict[str, str], plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for path, text in files.items():
        write(path, text)
    rewards = reward if reward.startswith("shaped:") else f"'{reward}': 1.0"
    for path in files:
        finish(plan(f"grpo.rewards={{{rewards}}}"))
        write(path, files[path] + "edited = True\n")
        state, why = grpo(plan(f"grpo.rewards={{{rewards}}}"))
        assert (state, Path(path).name in why) == ("run", True), (path, why)
    assert "mine" not in sys.modules, "planning imported it"


def test_words_that_are_no_grader_are_no_code(plan: Planner) -> None:
    write("reward_fns/strict.py")
    write("reward_fns/math_answer.py", "TASKS = ['strict']\nimport json, pytest\nfrom aha.types import Score\n")
    assert sorted(plan("grpo.rewards={math_answer: {weight: 1.0, task: strict}}").stages[2].files) == [
        "reward_fns/math_answer.py"
    ]


@pytest.mark.parametrize("pattern", ["rows.jsonl", "data/*.jsonl", "data/**/*.jsonl"])
def test_edited_data(pattern: str, plan: Planner) -> None:
    for path in ("rows.jsonl", "data/a.jsonl", "data/b.jsonl"):
        write(path, '{"prompt": "1 + 1", "answer": "2"}\n')
    data = f"grpo.data=[{{path: '{pattern}'}}]"
    finish(plan(data))
    for path in ("rows.jsonl", "data/a.jsonl"):
        os.utime(path, (1, 1))
    assert grpo(plan(data))[0] == "skip", "a date is no content"
    for path in ("rows.jsonl", "data/b.jsonl"):
        write(path, '{"prompt": "1 + 1", "answer": "3"}\n')
    assert grpo(plan(data)) == ("run", f"{pattern} has changed since it last ran")
    finish(plan(data))
    write("data/c.jsonl", "")
    assert grpo(plan(data))[0] == ("skip" if pattern == "rows.jsonl" else "run")


def test_of_large_files_size_and_date_count(plan: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "WHOLE", 4)
    write("rows.jsonl", "12345")
    os.utime("rows.jsonl", (1, 1))
    finish(plan("grpo.data=[{path: rows.jsonl}]"))
    write("rows.jsonl", "54321")
    os.utime("rows.jsonl", (1, 1))
    assert grpo(plan("grpo.data=[{path: rows.jsonl}]"))[0] == "skip"
    os.utime("rows.jsonl", (2, 2))
    assert grpo(plan("grpo.data=[{path: rows.jsonl}]"))[0] == "run"


def test_the_model_and_the_template_on_this_machine(plan: Planner) -> None:
    for place in ("base/config.json", "chat.jinja"):
        write(place, "{}")
        overrides: Sequence[str] = ("model=./base", "chat.template=chat.jinja", "distill=", "grpo=", "eval=")
        finish(plan(*overrides))
        write(place, "[]")
        (cpt,) = plan(*overrides).stages
        assert (cpt.state, cpt.why) == (
            "run",
            f"{place.partition('/')[0] if '.jinja' in place else './base'} has changed since it last ran",
        )


def test_what_is_not_there_is_no_reason_to_fail(plan: Planner) -> None:
    write("reward_fns/math_answer.py", "def broken(:\n")
    assert plan("grpo.data=[{path: nowhere.jsonl}]").stages[2].files["nowhere.jsonl"]
    assert inputs._code("nowhere", {}) == inputs._code("nowhere.at_all:f", {}) == inputs._code("no/where.py", {}) == {}
