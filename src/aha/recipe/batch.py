"""The arithmetic of a batch: people write sequences per step, devices see micro-batches.

    sequences per optimiser step = processes × micro-batch × accumulation

`check` refuses recipes where this does not come out, `plan` solves it; both ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from aha.recipe.engines import server_nodes
from aha.recipe.schema import Cpt, Distill, Grpo, Hardware, Recipe

Stage = Cpt | Distill | Grpo
Device = Literal["cpu", "cuda"]

NVIDIA = Path("/dev/nvidia0")
TOKENS_PER_FORWARD = {"cpu": 8192, "cuda": 16384}
"""What a micro-batch may hold when the recipe does not say."""


def stages_of(recipe: Recipe) -> Iterator[tuple[Literal["cpt", "distill", "grpo"], Stage]]:
    """The stages that the recipe has, in the order in which they run."""
    if recipe.cpt:
        yield "cpt", recipe.cpt
    if recipe.distill:
        yield "distill", recipe.distill
    if recipe.grpo:
        yield "grpo", recipe.grpo


def device_of(hardware: Hardware) -> Device:
    """`auto` is CUDA where the recipe counts GPUs or this machine has one."""
    if hardware.device != "auto":
        return hardware.device
    return "cuda" if hardware.gpus_per_node or NVIDIA.exists() else "cpu"


def processes_per_node(hardware: Hardware) -> int:
    """One process per GPU; on CPU what the recipe says, one if it says nothing."""
    return max(1, hardware.gpus_per_node) if device_of(hardware) == "cuda" else hardware.processes_per_node or 1


def world_size(stage: Stage, hardware: Hardware) -> int:
    """How many processes train. Rollout servers take nodes for themselves."""
    return (hardware.nodes - server_nodes(stage, hardware)) * processes_per_node(hardware)


def batch_size(stage: Stage) -> int:
    """Sequences per optimiser step, over all devices."""
    return stage.prompts_per_step * stage.group_size if isinstance(stage, Grpo) else stage.batch_size


def sequence_length(stage: Stage) -> int:
    """The longest sequence that a forward pass sees."""
    if isinstance(stage, Grpo):
        return stage.rollout.max_prompt_tokens + stage.rollout.max_tokens
    return stage.max_tokens


def micro_batch(stage: Stage, hardware: Hardware) -> int:
    """What the recipe says, else the largest divisor of a device's share whose tokens fit a forward pass."""
    if stage.micro_batch:
        return stage.micro_batch
    share = batch_size(stage) // world_size(stage, hardware)
    most = max(1, TOKENS_PER_FORWARD[device_of(hardware)] // sequence_length(stage))
    unit = 1
    if isinstance(stage, Grpo) and stage.rollout.overlap == "pipelined":  # whole groups, and several micro-batches
        unit, most = stage.group_size, max(stage.group_size, min(most, share // 2))
    sizes = [size for size in range(min(share, most), 0, -1) if share % size == 0]
    return next((size for size in sizes if size % unit == 0), sizes[0])
