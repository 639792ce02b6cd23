"""Whether the stages fit their devices, and if one does not, the smallest change of the recipe that would.

Refused is only what is predicted to need more than the device has and the prediction may be wrong by. A change is the
smaller, the less of the result it touches: first how a batch is cut, then what is computed twice, then who holds what,
then how much the engine may have, then how long a sequence may be, and at last which weights are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from aha.errors import Mistake, RecipeError
from aha.recipe.batch import batch_size, micro_batch, stages_of, world_size
from aha.recipe.engines import GIB, SERVER_SHARE, cache_bytes, engine_weights, kv_bytes
from aha.recipe.hardware import Machine
from aha.recipe.memory import UNCERTAINTY, Load, load_of, peak_memory
from aha.recipe.schema import Grpo, Lora, Recipe
from aha.recipe.shapes import Shape, find_shape

Verdict = Literal["fits", "tight", "too large", "unknown"]
SHORTEST = 128  # tokens: no sequence is proposed below it


class Change(NamedTuple):
    """One key of the recipe with another value."""

    keys: tuple[str, ...]
    value: Any

    def __str__(self) -> str:
        """As an override of the recipe.

        >>> str(Change(("grpo", "gradient_checkpointing"), True))
        'grpo.gradient_checkpointing=true'
        """
        return f"{'.'.join(self.keys)}={str(self.value).lower() if self.value is True else self.value}"

    def applied(self, block: Any) -> Any:
        """The recipe, or a block of it, after the change. Not checked again."""
        first, *rest = self.keys
        if not rest:
            return block.model_copy(update={first: self.value})
        inner = getattr(block, first)
        if inner is None and first == "lora":
            inner = Lora()
        return block.model_copy(update={first: Change(tuple(rest), self.value).applied(inner)})


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
    if shape is None:
        return
    mistakes = [*_uneven_heads(recipe, shape)] if "grpo" in stages else []
    if not mistakes and machine.memory_gib is not None:
        mistakes = [mistake for name in stages if (mistake := _misfit(recipe, name, shape, machine))]
    if mistakes:
        raise RecipeError(*mistakes)


def _uneven_heads(recipe: Recipe, shape: Shape) -> Iterator[Mistake]:
    """Each process of a wide engine has whole attention heads."""
    wide = recipe.grpo.rollout.tensor_parallel if recipe.grpo else 1
    if shape.heads % wide:
        gpus = max(1, recipe.hardware.gpus_per_node)
        nearest = max(size for size in range(1, wide) if shape.heads % size == 0 and gpus % size == 0)
        expected = f"a divisor of the model's {shape.heads} attention heads"
        yield Mistake("grpo.rollout.tensor_parallel", str(wide), expected, f"grpo.rollout.tensor_parallel={nearest}")


def _misfit(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> Mistake | None:
    load = _load(recipe, name, shape, machine)
    memory = peak_memory(load)
    if verdict(memory.total, memory.available) == "too large":
        largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
        given = f"{memory.total:.1f} GiB per device ({', '.join(f'{part} {size:.1f}' for part, size in largest)}, …)"
        expected = (
            f"at most {memory.available:.1f} GiB, what one {machine.name} has (refused from {UNCERTAINTY:.0%} above)"
        )
        return Mistake(name, given, expected, smallest_change(recipe, name, shape, machine))
    if isinstance(load.block, Grpo) and not _engine_starts(load):
        return _no_room(recipe, load, load.block, name)
    return None


def _no_room(recipe: Recipe, load: Load, block: Grpo, name: str) -> Mistake:
    """An engine whose share of a GPU does not hold its weights and one sequence: a larger share, or more devices."""
    serves = block.rollout.mode == "server"
    key = "tensor_parallel" if serves else "memory_share"
    share = SERVER_SHARE if serves else block.rollout.memory_share
    given = f"{share:g} of {load.machine.memory_gib:g} GiB"
    if serves:
        given = f"{block.rollout.tensor_parallel} with {given} each"
    expected = (
        f"room for the engine's weights ({engine_weights(load) / GIB:.1f} GiB), its buffers and one sequence "
        f"of {load.length} tokens ({load.length * kv_bytes(load) / GIB:.1f} GiB)"
    )
    nearest = (_wider_engine if serves else _larger_share)(recipe, name, load.shape, load.machine)
    return Mistake(f"{name}.rollout.{key}", given, expected, nearest)


def smallest_change(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> str:
    """The first single change that makes a stage fit; else the fewest that do; else what there is to know."""

    def fits(changes: list[Change]) -> bool:
        return _fits(_changed(recipe, changes), name, shape, machine)

    def starts(changes: list[Change]) -> bool:
        return _engine_starts(_load(_changed(recipe, changes), name, shape, machine))

    singles = list(_changes(recipe, name))
    for change in singles:
        if fits([change]):
            return str(change)
    taken: list[Change] = []
    for keys in dict.fromkeys(change.keys for change in singles):
        options = [change for change in _changes(_changed(recipe, taken), name) if change.keys == keys]
        fitting = next((change for change in options if fits([*taken, change])), None)
        sound = [change for change in options if starts([*taken, change]) or not starts(taken)]
        taken += [fitting] if fitting else sound[-1:]  # the strongest, where none of them is enough
        if fitting:
            return " ".join(map(str, _needed(taken, fits)))
    least = peak_memory(_load(_changed(recipe, taken), name, shape, machine)).total
    idle = "" if starts(taken) else f", and {name}.rollout leaves the engine no room to start"
    return f"more or larger devices: with {' '.join(map(str, taken))} it still needs {least:.1f} GiB{idle}"


def _needed(changes: list[Change], fits: Callable[[list[Change]], bool]) -> list[Change]:
    """Without those that are not needed, beginning with the one that costs most."""
    for change in reversed(changes):
        without = [other for other in changes if other is not change]
        if fits(without):
            changes = without
    return changes


def _changed(recipe: Recipe, changes: list[Change]) -> Recipe:
    for change in changes:
        recipe = change.applied(recipe)
    return recipe


def _changes(recipe: Recipe, name: str) -> Iterator[Change]:
    """Every single change, from the smallest; of one key, from the mildest value."""
    block: Any = getattr(recipe, name)
    share = batch_size(block) // world_size(block, recipe.hardware)
    for size in range(micro_batch(block, recipe.hardware) - 1, 0, -1):
        if share % size == 0:
            yield Change((name, "micro_batch"), size)
    if not block.gradient_checkpointing:
        yield Change((name, "gradient_checkpointing"), True)
    if recipe.kernels == "torch":
        yield Change(("kernels",), "auto")
    if recipe.hardware.parallel == "ddp":
        yield Change(("hardware", "parallel"), "zero2")
    if recipe.hardware.parallel in ("ddp", "zero2"):
        yield Change(("hardware", "parallel"), "zero3")
    if isinstance(block, Grpo) and block.rollout.mode == "colocate":
        for percent in range(round(block.rollout.memory_share * 100) - 5, 5, -5):
            yield Change((name, "rollout", "memory_share"), percent / 100)
    length = block.rollout.max_tokens if isinstance(block, Grpo) else block.max_tokens
    for shorter in (length * eighths // 8 for eighths in range(7, 0, -1)):
        if shorter >= SHORTEST:
            yield Change((name, "rollout", "max_tokens") if isinstance(block, Grpo) else (name, "max_tokens"), shorter)
    if not block.lora:
        yield Change((name, "lora", "rank"), Lora().rank)


def _load(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> Load:
    return load_of(recipe, dict(stages_of(recipe))[name], shape, machine)  # type: ignore[index]


def _fits(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> bool:
    load = _load(recipe, name, shape, machine)
    memory = peak_memory(load)
    return verdict(memory.total, memory.available) == "fits" and _engine_starts(load)


def _engine_starts(load: Load) -> bool:
    """vLLM does not start where its cache cannot hold one sequence of full length. Within the uncertainty it may."""
    if not isinstance(load.block, Grpo) or load.block.rollout.engine == "transformers":
        return True
    needed = load.length * kv_bytes(load)
    slack = UNCERTAINTY * (needed + engine_weights(load))
    return cache_bytes(load, load.block) >= needed - slack


def _wider_engine(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> str:
    block, gpus = getattr(recipe, name), max(1, recipe.hardware.gpus_per_node)
    for devices in range(block.rollout.tensor_parallel + 1, gpus + 1):
        change = Change((name, "rollout", "tensor_parallel"), devices)
        if gpus % devices == 0 and _fits(change.applied(recipe), name, shape, machine):
            return str(change)
    return "larger devices"


def _larger_share(recipe: Recipe, name: str, shape: Shape, machine: Machine) -> str:
    block: Any = getattr(recipe, name)
    for percent in range(round(block.rollout.memory_share * 100) // 5 * 5 + 5, 95, 5):
        change = Change((name, "rollout", "memory_share"), percent / 100)
        if _fits(change.applied(recipe), name, shape, machine):
            return str(change)
    return f"{name}.rollout.mode=server with tensor_parallel of 2 or more, or larger devices"
