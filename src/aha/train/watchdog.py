"""The doctor's rules while GRPO runs: a warning the first time that something is found, and a stop where that is asked.

It reads the files that `aha doctor` reads, so what is said live is what the doctor says afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from aha.errors import StageError
from aha.health import Diagnosis, examine_grpo, in_words
from aha.recipe.document import Keys
from aha.recipe.schema import Recipe
from aha.train.parallel import anywhere

EVERY = 5
"""Logged steps between two looks: a look reads the metrics and the newest completions again, which takes milliseconds
for a small run and stays far below a step for a large one."""


class Unsound(StageError):
    """The stage was ended by a severe finding, with a checkpoint saved. The exit code is `aha doctor`'s."""

    exit_code = 3


class Watchdog(TrainerCallback):
    """Runs after the Journal, whose lines it reads. With `grpo.health: stop` a severe finding saves and ends the stage."""

    def __init__(self, folder: Path, recipe: Recipe, say: Callable[[str], None]):
        """`say` takes a line for the person who watches."""
        assert recipe.grpo is not None
        self._folder = folder
        self._recipe = recipe
        self._say = say
        self._may_stop = recipe.grpo.health == "stop"
        self._said: set[tuple[str, Keys]] = set()
        self._logged = 0
        self._severe: list[Diagnosis] = []
        self._stopping = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "train_runtime" in (logs or {}):
            return
        self._logged += 1
        if self._logged % EVERY and state.global_step < state.max_steps:
            return
        if state.is_world_process_zero:
            self._look()
        self._stopping = self._may_stop and anywhere(bool(self._severe), args.device)
        if self._stopping:
            control.should_save = True
            control.should_training_stop = True

    def _look(self) -> None:
        try:
            _, found = examine_grpo(self._folder, self._recipe)
        except Exception as error:  # a watchdog that fails must not end what it watches
            self._say(f"health: not examined at this step: {type(error).__name__}: {error}")
            return
        for one in found:
            if (one.name, one.keys) not in self._said:
                self._said.add((one.name, one.keys))
                self._say(in_words(one, self._folder.parent))
        self._severe = [one for one in found if one.severity == "severe"]

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Raises Unsound when a severe finding ended the stage before its last step."""
        if self._stopping and state.global_step < state.max_steps:
            told = "\n".join(in_words(one, self._folder.parent) for one in self._severe)
            raise Unsound(
                f"stopped at step {state.global_step} of {state.max_steps}, checkpoint saved, because grpo.health is stop\n{told}\n"
                "With grpo.health=warn the same command goes on from there; another remedy makes another run: give it a name"
            )
