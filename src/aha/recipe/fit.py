"""Whether the stages fit their devices, and if one does not, the smallest change of the recipe that would.

Refused is only what is predicted to need more than the device has and the prediction may be wrong by. A change is the
smaller, the less of the result it touches: first how a batch is cut, then what is computed twice, then who holds what,
then how much the engine may have, and at last how long a sequence may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from aha.errors import Mistake, RecipeError
from aha.recipe.batch import batch_size, micro_batch, stages_of, world_size
from aha.recipe.estimate import cache_bytes
from aha.recipe.hardware import Machine
from aha.recipe.memory import GIB, UNCERTAINTY, Load, kv_bytes, load_of, peak_memory
from aha.recipe.schema import Grpo, Recipe
from aha.recipe.shapes import Shape, find_shape

Verdict = Literal["fits", "tight", "too large", "unknown"]


class Change(NamedTuple):
    """One key of the recipe with another value, written as an override."""

    written: str
    recipe: Recipe


def verdict(total: float, available: float | None) -> Verdict:
    """What a prediction of `total` GiB says about a device of `available` GiB.

    >>> verdict(60, 80), verdict(85, 80), verdict(93, 80), verdict(60, None)
    ('fits', 'tight', 'too large', 'unknown')
    """
    if available is None:
        return "unknown"
    if total <= available:
        return "fits"
    return "tight" if total <= available * (1 + UNCERTAINTY) else "too large"


def require_fit(recipe: Recipe, machine: Machine, stages: list[str]) -> None:
    """Raises RecipeError when one of these stages cannot fit, with the smallest change that would."""
    shape, _ = find_shape(recipe.model)
    if shape is None or machine.memory_gib is None:
        return
    mistakes = [mistake for name in stages if (mistake := _misfit(recipe, name, shape, machine))]
    if mistakes:
        raise RecipeError(*mistakes)


def _misfit(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> Mistake | None:
    load = _load(recipe, name, shape, machine)
    memory = peak_memory(load)
    if verdict(memory.total, memory.available) == "too large":
        largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
        given = f"{memory.total:.1f} GiB per device ({', '.join(f'{part} {size:.1f}' for part, size in largest)}, …)"
        expected = f"at most {memory.available:.1f} GiB, what a {machine.name} has (refused from {UNCERTAINTY:.0%} above)"
        return Mistake(name, given, expected, smallest_change(recipe, name, shape, machine))
    if isinstance(load.block, Grpo) and not _engine_starts(load, load.block):
        rollout = load.block.rollout
        given = f"{rollout.memory_share:g} of {machine.memory_gib:g} GiB"
        expected = (
            f"room for the engine's weights ({load.precision.value * shape.weights / GIB:.1f} GiB), its buffers and one sequence "
            f"of {load.length} tokens ({load.length * kv_bytes(load) / GIB:.1f} GiB)"
        )
        return Mistake(f"{name}.rollout.memory_share", given, expected, _larger_share(recipe, name, shape, machine))
    return None


def smallest_change(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> str:
    """The first single change that makes a stage fit; else several on top of each other; else what there is to know."""
    changes = list(_changes(recipe, name))
    for change in changes:
        if _fits(change.recipe, name, shape, machine):
            return change.written
    written: list[str] = []
    for key in dict.fromkeys(map(_key, changes)):
        options = [change for change in _changes(recipe, name) if _key(change) == key]
        fitting = next((change for change in options if _fits(change.recipe, name, shape, machine)), None)
        if fitting:
            return " ".join([*written, fitting.written])
        if options:  # not enough: keep the strongest, and go on to the next key
            recipe = options[-1].recipe
            written.append(options[-1].written)
    least = peak_memory(_load(recipe, name, shape, machine)).total
    return f"more or larger devices, or lora: with {' '.join(written)} it still needs {least:.1f} GiB"


def _changes(recipe: Recipe, name: str) -> Iterator[Change]:
    """Every single change, from the smallest."""
    block: Any = getattr(recipe, name)
    share = batch_size(block) // world_size(block, recipe.hardware)
    for size in range(micro_batch(block, recipe.hardware) - 1, 0, -1):
        if share % size == 0:
            yield _in_block(recipe, name, "micro_batch", size)
    if not block.gradient_checkpointing:
        yield _in_block(recipe, name, "gradient_checkpointing", True)
    if recipe.kernels == "torch":
        yield Change("kernels=auto", recipe.model_copy(update={"kernels": "auto"}))
    if recipe.hardware.parallel in ("ddp", "zero2"):
        for parallel in ("zero2", "zero3") if recipe.hardware.parallel == "ddp" else ("zero3",):
            hardware = recipe.hardware.model_copy(update={"parallel": parallel})
            yield Change(f"hardware.parallel={parallel}", recipe.model_copy(update={"hardware": hardware}))
    if isinstance(block, Grpo):
        yield from _rollout_changes(recipe, block)
    else:
        for length in _shorter(block.max_tokens):
            yield _in_block(recipe, name, "max_tokens", length)


def _rollout_changes(recipe: Recipe, block: Grpo) -> Iterator[Change]:
    for percent in range(round(block.rollout.memory_share * 100) - 5, 5, -5):
        yield _in_rollout(recipe, block, "memory_share", percent / 100)
    for length in _shorter(block.rollout.max_tokens):
        yield _in_rollout(recipe, block, "max_tokens", length)


def _shorter(length: int) -> Iterator[int]:
    """Seven, six, … eighths of a length, down to 128 tokens."""
    return (length * eighths // 8 for eighths in range(7, 0, -1) if length * eighths // 8 >= 128)


def _in_block(recipe: Recipe, name: str, key: str, value: Any) -> Change:
    block = getattr(recipe, name).model_copy(update={key: value})
    return Change(f"{name}.{key}={str(value).lower()}", recipe.model_copy(update={name: block}))


def _in_rollout(recipe: Recipe, block: Grpo, key: str, value: Any) -> Change:
    changed = block.model_copy(update={"rollout": block.rollout.model_copy(update={key: value})})
    return Change(f"grpo.rollout.{key}={value}", recipe.model_copy(update={"grpo": changed}))


def _key(change: Change) -> str:
    return change.written.partition("=")[0]


def _load(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> Load:
    return load_of(recipe, dict(stages_of(recipe))[name], shape, machine)  # type: ignore[index]


def _fits(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> bool:
    load = _load(recipe, name, shape, machine)
    memory = peak_memory(load)
    starts = not isinstance(load.block, Grpo) or _engine_starts(load, load.block)
    return verdict(memory.total, memory.available) == "fits" and starts


def _engine_starts(load: Load, block: Grpo) -> bool:
    """vLLM does not start where its cache cannot hold one sequence of full length. Within the uncertainty it may."""
    if block.rollout.engine == "transformers":
        return True
    needed = load.length * kv_bytes(load)
    slack = UNCERTAINTY * (needed + load.precision.value * load.shape.weights)
    return cache_bytes(load, block) >= needed - slack


def _larger_share(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> str:
    block: Any = getattr(recipe, name)
    for percent in range(round(block.rollout.memory_share * 100) // 5 * 5 + 5, 95, 5):
        change = _in_rollout(recipe, block, "memory_share", percent / 100)
        if _fits(change.recipe, name, shape, machine):
            return change.written
    return "grpo.rollout.tensor_parallel above 1, or larger devices"
