"""The doctor's rules on a run at work: said once, and with `grpo.health: stop` saved and ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainerControl, TrainerState

from aha.recipe import dump_recipe, load_recipe, recipe_hash
from aha.rundir import RunDir, append_jsonl
from aha.train.watchdog import EVERY, Unsound, Watchdog

RECIPE = """\
name: watched
model: {from_scratch: {context: 128}}
hardware: {device: cpu}
grpo:
  data: [{builtin: arithmetic/problems}]
  rewards: {math_answer: 1.0}
  steps: 40
  prompts_per_step: 4
  group_size: 4
  health: warn
  rollout: {max_tokens: 24, max_prompt_tokens: 40}
"""
ARGS = SimpleNamespace(device=torch.device("cpu"))


def watched(tmp_path: Path, health: str, truncated: float, steps: int = 40) -> tuple[int, list[str], Watchdog, bool]:
    """Log steps until the watchdog stops; returns the step, what it said, itself, and whether it asked for a save."""
    (tmp_path / "watched.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "watched.yaml", [f"grpo.health={health}"])
    RunDir(tmp_path / "run").claim(dump_recipe(recipe), recipe_hash(recipe))
    said: list[str] = []
    dog = Watchdog(tmp_path / "run" / "3-grpo", recipe, said.append)
    control, state = TrainerControl(), TrainerState(max_steps=40, is_world_process_zero=True)
    for step in range(1, steps + 1):
        state.global_step = step
        append_jsonl(tmp_path / "run/3-grpo/metrics.jsonl", {"step": step, "truncated": truncated})
        dog.on_log(ARGS, state, control, {"loss": 0.1})
        if control.should_training_stop:
            break
    if state.global_step < 40 and control.should_training_stop:
        with pytest.raises(Unsound) as caught:
            dog.on_train_end(ARGS, state, control)
        said.append(str(caught.value))
    else:
        dog.on_train_end(ARGS, state, control)
    return state.global_step, said, dog, control.should_save


def test_a_warning_is_said_once_with_its_line(tmp_path: Path) -> None:
    step, said, _, saved = watched(tmp_path, "warn", 0.9)
    assert step == 40 and not saved and len(said) == 1
    assert said[0].startswith("health: truncation-starved (severe): 90% of the completions were cut off at 24 tokens")
    assert f"{tmp_path}/run/recipe.yaml:" in said[0] and "raise it from 24 to 48" in said[0]


def test_stop_saves_and_ends_with_the_diagnosis(tmp_path: Path) -> None:
    step, said, _, saved = watched(tmp_path, "stop", 0.9)
    assert step == EVERY and saved and Unsound.exit_code == 3
    assert f"stopped at step {EVERY} of 40, checkpoint saved, because grpo.health is stop" in said[-1]
    assert "truncation-starved" in said[-1]


def test_stop_leaves_a_run_with_a_mild_finding_alone(tmp_path: Path) -> None:
    step, said, _, saved = watched(tmp_path, "stop", 0.4)
    assert step == 40 and not saved and len(said) == 1 and "(warn)" in said[0]


def test_a_healthy_run_hears_nothing(tmp_path: Path) -> None:
    assert watched(tmp_path, "stop", 0.1)[:2] == (40, [])


def test_a_watchdog_that_cannot_read_says_so_and_lets_the_run_go_on(tmp_path: Path) -> None:
    _, _, dog, _ = watched(tmp_path, "stop", 0.1, steps=4)
    said: list[str] = []
    dog._say = said.append
    (tmp_path / "run/3-grpo/metrics.jsonl").write_text("{\n{}\n")
    control = TrainerControl()
    dog.on_log(ARGS, TrainerState(max_steps=40, global_step=5, is_world_process_zero=True), control, {})
    assert not control.should_training_stop
    assert len(said) == 1 and "not examined" in said[0] and "metrics.jsonl:1 is damaged" in said[0]
