"""A small recipe to break in many ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from aha.errors import RecipeError
from aha.recipe import Recipe, load_recipe

SMALL = """\
# line 1
model: {from_scratch: {context: 128}}
hardware: {device: cpu}
cpt:
  data: [{builtin: arithmetic/texts}]
  tokens: 1e6
  max_tokens: 64
  batch_size: 64
distill:
  data: [{builtin: arithmetic/traces}]
  steps: 400
  max_tokens: 64
grpo:
  data: [{builtin: arithmetic/problems}]
  rewards: {math_answer: 1.0, think_format: {weight: 0.2}}
  steps: 80
  prompts_per_step: 32
  group_size: 8
  rollout: {max_tokens: 48, max_prompt_tokens: 48}
eval:
  tasks: [{name: one_step, data: [{builtin: arithmetic/problems}]}]
  max_tokens: 48
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are named as people name them, relative to where they stand, and two rewards exist."""
    rewards = tmp_path / "reward_fns"
    rewards.mkdir()
    for name in ("math_answer", "think_format"):
        (rewards / f"{name}.py").write_text("raise RuntimeError('checking a recipe imported a reward')\n")
    monkeypatch.delenv("AHA_REWARD_FNS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def every_tracker_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers are not part of the setup, and a plan looks for the one that it names."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: ModuleSpec(name, None))


Load = Callable[..., Recipe]
Refused = Callable[..., str]


@pytest.fixture
def small() -> str:
    """The small recipe's text."""
    return SMALL


@pytest.fixture
def load() -> Load:
    """Load the small recipe after replacing `old` by `new` in it."""

    def loader(old: str = "", new: str = "", overrides: Sequence[str] = (), text: str = SMALL) -> Recipe:
        assert old in text, f"{old!r} is not in the recipe"
        Path("small.yaml").write_text(text.replace(old, new, 1) if old else text, encoding="utf-8")
        return load_recipe("small.yaml", overrides)

    return loader


@pytest.fixture
def refused(load: Load) -> Refused:
    """The whole message with which the changed recipe is refused."""

    def refuse(old: str = "", new: str = "", overrides: Sequence[str] = (), text: str = SMALL) -> str:
        with pytest.raises(RecipeError) as caught:
            load(old, new, overrides, text)
        return str(caught.value)

    return refuse
