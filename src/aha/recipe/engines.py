"""The rollout engines of a GRPO stage, as the planner sees them: who has one, what it takes, how much it holds.

`mode: colocate`: every training process has an engine in its own memory, asleep on a GPU while the trainer works.
`mode: server`: N nodes train and M serve. Each server that a run starts for itself has a node of its own, whose GPUs are cut
into engines of `tensor_parallel`; completions are shared out evenly, and a trainer's device holds no engine. On one machine
without GPUs the servers are processes beside the trainer. Servers that a recipe names by their addresses are somebody
else's: they take no node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aha.recipe.measured import MEASURED
from aha.recipe.schema import Block, Grpo, Hardware, Recipe

if TYPE_CHECKING:
    from aha.recipe.memory import Load

GIB = 2**30
SERVER_SHARE = 0.9
"""Of a server's GPU, which is all vLLM's: its own default."""
SMALLEST_BATCH = 2048
"""Tokens of one forward pass that an engine on a CPU is ready for at least (rollout/vllm)."""
BUFFERS = 1.0
"""GiB of an engine's share that are neither weights nor cache: activations of a batch, CUDA graphs."""


class Servers(Block):
    """What M server nodes hold."""

    nodes: int
    engines: int
    devices_per_engine: int
    weights: float
    """GiB of one device."""
    cache: float
    """GiB of one device."""
    completions: float
    """Of one engine in a step."""
    running: float
    """Of them at a time."""


def server_nodes(block: Any, hardware: Hardware) -> int:
    """M: nodes that serve and do not train. Where none would be left to train, `check` refuses the recipe."""
    if not isinstance(block, Grpo) or block.rollout.mode != "server" or hardware.nodes == 1 or addresses(block):
        return 0
    return min(started(block), hardware.nodes - 1)


def started(block: Grpo) -> int:
    """Servers that the run starts for itself."""
    return block.rollout.server_count


def addresses(block: Grpo) -> list[str]:
    """Servers that are running already, by HOST:PORT."""
    return block.rollout.servers


def width(block: Grpo) -> int:
    """Devices of one engine; on a CPU its processes, each with a slice of the model."""
    return block.rollout.tensor_parallel


def engines_that_serve(load: Load, block: Grpo) -> int:
    """Engines of all servers together."""
    return (len(addresses(block)) or started(block)) * engines_per_node(load.recipe)


def engines_per_node(recipe: Recipe) -> int:
    """Engines of a node that serves: as many as its GPUs make, one on CPU."""
    wide = recipe.grpo.rollout.tensor_parallel if recipe.grpo else 1
    return max(1, recipe.hardware.gpus_per_node // wide)


def wanted(load: Load, block: Grpo) -> float:
    """Completions of one engine in a step."""
    if block.rollout.mode == "server":
        return block.prompts_per_step * block.group_size / engines_that_serve(load, block)
    return load.micro * load.accumulation


def running(load: Load, block: Grpo, held: float) -> float:
    """Completions that are drawn at a time, where each has `held` tokens in the cache."""
    room = cache_bytes(load, block)
    most = block.rollout.max_sequences
    return max(1.0, min(wanted(load, block), most, room / (held * kv_bytes(load)) if room else most))


def servers_of(load: Load, block: Grpo, held: float) -> Servers | None:
    """The servers of a stage; None where the engines are the trainers'."""
    if block.rollout.mode != "server":
        return None
    wide = width(block)
    return Servers(
        nodes=server_nodes(block, load.recipe.hardware),
        engines=engines_that_serve(load, block),
        devices_per_engine=wide,
        weights=round(engine_weights(load) / wide / GIB, 3),
        cache=round(cache_bytes(load, block) / wide / GIB, 3),
        completions=wanted(load, block),
        running=round(running(load, block, held), 1),
    )


# --- bytes ---------------------------------------------------------------------------------------------------------


def kv_bytes(load: Load) -> int:
    """Bytes of the KV cache for one token: a key and a value for each layer and KV head."""
    return load.shape.kv_values * load.precision.value


def engine_weights(load: Load) -> float:
    """An engine's copy of the weights.

    On a CPU it is two: vLLM packs each matrix after loading, and what it packed from goes back to a heap that does not
    shrink. A tied output head is one more, of its own.
    """
    shape = load.shape
    if load.on_gpu:
        return float(load.precision.value * shape.weights)
    return float(load.precision.value * (2 * shape.weights + (shape.vocabulary * shape.hidden if shape.tied else 0)))


def batch_bytes(load: Load, block: Grpo) -> float:
    """What one forward pass of an engine holds on a CPU, where it takes all prompts at once.

    For each token: residual stream and its normalised copy, both twice; queries, keys, values and attention's output; gate,
    up and their product.
    """
    shape = load.shape
    tokens = max(
        SMALLEST_BATCH, min(block.rollout.max_sequences, block.prompts_per_step * block.group_size) * load.length
    )
    values = 4 * shape.hidden + 2 * shape.query_width + 2 * shape.kv_width + 3 * shape.intermediate
    return float(tokens * values * load.precision.value)


def cache_bytes(load: Load, block: Grpo) -> float:
    """Room for the KV cache in one engine: on a CPU as given, on a GPU what its share leaves beside weights and buffers."""
    if not load.on_gpu:
        return width(block) * max(1, round(block.rollout.kv_cache_gib)) * GIB
    share = SERVER_SHARE if block.rollout.mode == "server" else block.rollout.memory_share
    return width(block) * (share * (load.machine.memory_gib or 0.0) - BUFFERS) * GIB - engine_weights(load)


def aside(load: Load) -> float:
    """The engine in a trainer's memory while the trainer works: asleep on a GPU, all there on a CPU."""
    if not isinstance(load.block, Grpo) or load.block.rollout.mode == "server":
        return 0.0
    if load.on_gpu and load.block.rollout.engine != "transformers":
        return MEASURED["vllm asleep"] * GIB
    return awake(load, load.block)


def awake(load: Load, block: Grpo) -> float:
    """The engine in a trainer's memory while it samples: on a GPU its share of the device.

    On a CPU weights, cache, and what a forward pass holds.
    `transformers` keeps weights, and a cache for the whole batch.
    """
    if block.rollout.mode == "server":
        return 0.0
    if block.rollout.engine == "transformers":
        return load.precision.value * load.shape.weights + wanted(load, block) * load.length * kv_bytes(load)
    if load.on_gpu:
        return block.rollout.memory_share * (load.machine.memory_gib or 0.0) * GIB
    return engine_weights(load) + cache_bytes(load, block) + batch_bytes(load, block)
