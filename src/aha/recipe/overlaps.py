"""The ways to draw completions: in words, and a recipe's GRPO stage in each of them for `aha bench-overlap RUN`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from aha.errors import RecipeError
from aha.recipe.batch import micro_batch
from aha.recipe.check import check
from aha.recipe.schema import Grpo, Recipe

SYNCHRONOUS = "server, synchronous"
WAYS = {
    "colocate": {"mode": "colocate", "overlap": "none"},
    SYNCHRONOUS: {"mode": "server", "overlap": "none"},
    "server, pipelined": {"mode": "server", "overlap": "pipelined"},
    "server, asynchronous": {"mode": "server", "overlap": "async"},
}
"""What is asked of `grpo.rollout`, by what it is called in a comparison."""

IN_WORDS = {
    "none": "synchronous: training waits for all completions of a step",
    "pipelined": "pipelined: finished groups are trained while others are drawn",
    "async": "asynchronous: drawn during the step before, from weights one step older",
}


def in_words(block: Grpo, servers: Sequence[str] = ()) -> str:
    """How completions are drawn, for the plan and the log; `servers` stand for those that the recipe names.

    Says too where `pipelined` has nothing to train early, because an engine draws the whole step at a time.
    """
    rollout = block.rollout
    if rollout.mode == "colocate":
        return f"in the trainer's process, {IN_WORDS['none']}"
    given, count = servers or rollout.servers, rollout.server_count
    where = f"servers {', '.join(given)}" if given else f"{count} server{'s' * (count > 1)} of the stage's own"
    each = math.ceil(block.prompts_per_step * block.group_size / (len(given) or count))
    together = rollout.overlap == "pipelined" and rollout.max_sequences >= each
    early = max(block.group_size, each // 4)
    hint = (
        f"; all {each} of a server are drawn at a time, and end nearly together: try grpo.rollout.max_sequences={early}"
    )
    return f"{where}, {IN_WORDS[rollout.overlap]}" + hint * together


def ways_to_draw(recipe: Recipe, parent: Path, steps: int) -> dict[str, Recipe]:
    """The GRPO stage alone, from its finished input, for a few steps: by way. All train in the same micro-batches.

    Raises RecipeError when one of them cannot be had, for example because the step cannot be cut into whole groups.
    """
    block = recipe.grpo
    assert block is not None
    pipelined = block.rollout.model_copy(update=WAYS["server, pipelined"])
    given = block.model_copy(update={"rollout": pipelined, "micro_batch": None})
    ways = {}
    for name, asked in WAYS.items():
        grpo = {
            "steps": steps,
            "save_every": steps,
            "health": "off",
            "micro_batch": micro_batch(given, recipe.hardware),
        }
        ways[name] = _alone(
            recipe, block.model_copy(update=grpo | {"rollout": block.rollout.model_copy(update=asked)}), parent
        )
    if mistakes := [mistake for way in ways.values() for mistake in check(way)]:
        raise RecipeError(*mistakes)
    return ways


def _alone(recipe: Recipe, block: Grpo, parent: Path) -> Recipe:
    model = recipe.model.model_copy(update={"path": str(parent), "from_scratch": None, "wheel": None})
    return recipe.model_copy(update={"grpo": block, "model": model, "cpt": None, "distill": None, "eval": None})
