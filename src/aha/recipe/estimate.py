"""What a stage will take, before it runs: memory, time, tokens and disk, with every assumption said.

Time is arithmetic over a stated efficiency: floating-point operations (Kaplan et al. 2020, arXiv:2001.08361, and the
attention term of PaLM, arXiv:2204.02311, appendix B), or the bytes that parallel training sends, whichever takes longer;
GRPO's sampling by the bytes that each decoded token reads. `EFFICIENCY` is where a calibration goes.

Of one step in seconds, predicted and observed, on one thread of a CPU whose other core was busy: tiny cpt 0.30 and 0.24,
distill 0.30 and 0.21, grpo 4.1 and 3.7; SmolLM2 cpt 9.6 and 14, grpo 15 and 19. So a CPU's step is within a factor of 2,
and nothing better is claimed: a machine that other work shares was up to 3 times slower. On a GPU nothing was measured.
"""

from __future__ import annotations

from aha.recipe.batch import batch_size, stages_of
from aha.recipe.engines import Servers, kv_bytes, running, servers_of, wanted, width
from aha.recipe.hardware import Machine
from aha.recipe.memory import (
    GIB,
    ROW_BYTES,
    UNCERTAINTY,
    Load,
    Memory,
    load_of,
    needs_mask,
    peak_memory,
)
from aha.recipe.schema import Block, Cpt, Grpo, Recipe
from aha.recipe.shapes import Shape, find_shape

EFFICIENCY = {
    "cuda": 0.40,  # of dense bfloat16 peak, recomputation counted: the Playbook's good configurations reach 40 to 50 %
    "cpu": 0.45,  # of a 2048-square product: SmolLM2-135M trained at 400 of 870 GFLOP/s on two cores
    "cuda decoding": 0.60,  # of memory bandwidth, while vLLM decodes; an assumption
    "cpu decoding": 0.30,  # of arithmetic: SmolLM2-135M, 64 sequences, one thread: 490 tokens/s, 132 of 435 GFLOP/s
    "network": 0.80,  # of link bandwidth, in long all-gathers and reduce-scatters; an assumption
}
OVERHEAD = {
    "cuda": 0.02,  # seconds for each micro-batch beside its arithmetic: launches, data, logging; an assumption
    "cpu": 0.05,  # the same on a CPU: a model of a million weights took 0.1 s a step of 2048 tokens, half of it this
    "cuda decoding": 0.003,  # seconds for each decoded token of a batch: scheduling and sampling
    "cpu decoding": 0.004,  # the same on a CPU: 16 tokens of 64 sequences of a million weights took 0.06 s
}
STARTUP = {"cpu": 12.0, "cuda": 60.0, "vllm cpu": 15.0, "vllm cuda": 90.0}
"""Seconds until the first step: imports, model, data; and vLLM's own."""
COMPLETION = 0.5
"""Mean completion as a share of rollout.max_tokens. What a policy writes is not known beforehand."""
KEPT = 2
"""Checkpoints that stay (train/checkpoints.KEEP); while one is written there is one more."""


class Time(Block):
    """Seconds of an optimiser step, and of the whole stage."""

    step: float
    parts: dict[str, float]
    """arithmetic or communication (whichever is longer), overhead; in GRPO also scoring and sampling."""
    efficiency: float
    tflops: float
    """Peak of one device, of which `efficiency` is taken."""
    start: float
    total: float | None
    """None: known once the data are packed."""


class Disk(Block):
    """GiB that the stage leaves."""

    checkpoint: float
    kept: int
    model: float
    rows: float = 0.0
    """Packed rows, while the stage trains. A distillation's are known once they are packed."""


class StageEstimate(Block):
    """What a stage is predicted to take."""

    weights: int
    trained: int
    memory: Memory
    time: Time | None
    """None where the device's speed is not known."""
    tokens: int | None
    """At most: rows may not be full, completions may be shorter."""
    disk: Disk
    servers: Servers | None = None
    """The nodes that sample for a GRPO stage in `mode: server`."""


class Prediction(Block):
    """All stages, or why there is no prediction."""

    machine: Machine
    stages: dict[str, StageEstimate]
    missing: str | None
    assumptions: list[str]


def predict(recipe: Recipe, machine: Machine, steps: dict[str, int | None]) -> Prediction:
    """The prediction of every stage of a recipe; `steps` are the plan's, by stage."""
    shape, source = find_shape(recipe.model)
    if shape is None:
        return Prediction(machine=machine, stages={}, missing=source, assumptions=[])
    loads = {name: load_of(recipe, block, shape, machine) for name, block in stages_of(recipe)}
    return Prediction(
        machine=machine,
        stages={name: estimate(load, steps[name]) for name, load in loads.items()},
        missing=None,
        assumptions=_assumptions(shape, source, list(loads.values())),
    )


def estimate(load: Load, steps: int | None) -> StageEstimate:
    """One stage on one device of its kind."""
    tokens = None if steps is None else steps * batch_size(load.block) * load.length
    return StageEstimate(
        weights=load.shape.weights,
        trained=load.trained,
        memory=peak_memory(load),
        time=_time(load, steps),
        tokens=tokens,
        disk=_disk(load),
        servers=servers_of(load, load.block, _held(load.block)) if isinstance(load.block, Grpo) else None,
    )


# --- time ----------------------------------------------------------------------------------------------------------


def _time(load: Load, steps: int | None) -> Time | None:
    if load.machine.tflops is None:
        return None
    kind = load.machine.device
    busy = {"arithmetic": _arithmetic(load), "communication": _communication(load)}
    longer = max(busy, key=lambda name: busy[name])
    parts = {longer: busy[longer], "overhead": load.accumulation * OVERHEAD[kind]}
    start = STARTUP[kind]
    if isinstance(load.block, Grpo):
        parts |= {"scoring": _scoring(load), "sampling": _sampling(load, load.block) / load.block.iterations}
        start += STARTUP[f"vllm {kind}"]
    step = sum(parts.values())
    return Time(
        step=round(step, 4),
        parts={name: round(seconds, 4) for name, seconds in parts.items()},
        efficiency=EFFICIENCY[kind],
        tflops=load.machine.tflops,
        start=start,
        total=None if steps is None else round(start + steps * step, 1),
    )


def forward_flops(shape: Shape, length: float, masked: bool) -> float:
    """Of one token: 2 for each weight that it is multiplied with, and attention's two products with the sequence.

    A causal kernel computes half of the square of attention; one that is given a mask computes all of it.
    """
    attention = 4 * shape.layers * shape.query_width * length
    return 2 * shape.matrices + attention * (1 if masked else 0.5)


def _flops_per_second(load: Load) -> float:
    return (load.machine.tflops or 0.0) * 1e12 * EFFICIENCY[load.machine.device]


def _mean_length(load: Load) -> float:
    """Tokens of a sequence as they come: packed rows are full, completions are shorter than they may be."""
    if isinstance(load.block, Grpo):
        return load.block.rollout.max_prompt_tokens + COMPLETION * load.block.rollout.max_tokens
    return load.length


def _forward_seconds(load: Load) -> float:
    """One forward pass over all that a device sees in a step."""
    length = _mean_length(load)
    tokens = load.micro * load.accumulation * length
    return tokens * forward_flops(load.shape, length, needs_mask(load)) / _flops_per_second(load)


def _arithmetic(load: Load) -> float:
    """Forward once, backward twice that (once where only adapters are trained), once more where it is recomputed."""
    passes = 1 + (1 if load.block.lora else 2) + (1 if load.block.gradient_checkpointing else 0)
    return passes * _forward_seconds(load)


def _communication(load: Load) -> float:
    """What a device sends in a step, over the slowest link between two of them.

    ZeRO-3 and FSDP gather the weights twice and scatter the gradients once for every micro-batch; ZeRO-2 scatters the
    gradients for every micro-batch and gathers the weights once; DDP reduces the gradients once, which is twice their
    size (arXiv:1910.02054, section 7).
    """
    nodes = load.recipe.hardware.nodes
    bandwidth = load.machine.network_gbs if nodes > 1 else load.machine.link_gbs
    if load.processes == 1 or bandwidth is None:
        return 0.0
    weights, gradients = 2.0 * load.shape.weights, float(load.trained * load.precision.gradients)
    sent = {
        "zero3": load.accumulation * (2 * weights + gradients),
        "fsdp2": load.accumulation * (2 * weights + gradients),
        "zero2": load.accumulation * gradients + weights,
        "ddp": 2 * gradients,
    }.get(load.parallel, 0.0)
    share = (load.processes - 1) / load.processes
    return sent * share / (bandwidth * 1e9 * EFFICIENCY["network"])


def _scoring(load: Load) -> float:
    """GRPO's own log-probabilities of what was sampled; with a KL penalty those of the reference too."""
    passes = 2 if isinstance(load.block, Grpo) and load.block.beta > 0 else 1
    return passes * _forward_seconds(load)


def _sampling(load: Load, block: Grpo) -> float:
    """Decoding one batch of completions: the longest decides, unless the cache holds too few at a time.

    Each token of all running completions reads the weights once and their caches.
    """
    kind, wide = load.machine.device, width(block)
    mean = COMPLETION * block.rollout.max_tokens
    held = _held(block)
    together = running(load, block, held)
    decoded = max(float(block.rollout.max_tokens), wanted(load, block) * mean / together)
    read = load.precision.value * load.shape.weights + together * held * kv_bytes(load)
    speed = (load.machine.memory_gbs or 1.0) * 1e9 * EFFICIENCY["cuda decoding"]
    seconds = read / (speed * wide)
    if kind == "cpu":
        flops = together * forward_flops(load.shape, held, masked=True)
        seconds = max(seconds, flops / ((load.machine.tflops or 1.0) * 1e12 * EFFICIENCY["cpu decoding"]))
    return decoded * (seconds + OVERHEAD[f"{kind} decoding"])


def _held(block: Grpo) -> float:
    """Tokens of a completion in the cache, its prompt included, on average."""
    return block.rollout.max_prompt_tokens + COMPLETION * block.rollout.max_tokens


# --- disk ----------------------------------------------------------------------------------------------------------


def _disk(load: Load) -> Disk:
    """A checkpoint is weights and AdamW's state; ZeRO keeps its bfloat16 weights beside those that are gathered."""
    weights = float(load.shape.weights * load.precision.weights)
    state = load.trained * (8 if load.block.lora else load.precision.optimizer)
    written = (4.0 * load.trained if load.block.lora else weights) + state
    if load.parallel in ("zero2", "zero3"):
        written += weights
    rows = ROW_BYTES * load.block.tokens / GIB if isinstance(load.block, Cpt) else 0.0
    return Disk(checkpoint=round(written / GIB, 3), kept=KEPT, model=round(weights / GIB, 3), rows=round(rows, 3))


# --- assumptions ---------------------------------------------------------------------------------------------------


def _assumptions(shape: Shape, source: str, loads: list[Load]) -> list[str]:
    """Everything that the prediction takes for granted, for whoever has to believe it."""
    load = loads[0]
    machine, nodes = load.machine, load.recipe.hardware.nodes
    said = [f"{shape.weights:,} weights ({source})", machine.source]
    if machine.tflops is not None:
        said.append(f"{EFFICIENCY[machine.device]:.0%} of that peak in training, recomputation counted")
    if load.processes > 1 and machine.network_gbs is not None and machine.link_gbs is not None:
        speed, where = (machine.network_gbs, "nodes") if nodes > 1 else (machine.link_gbs, "the node's GPUs")
        said.append(
            f"{speed:g} GB/s for each GPU between {where}, {EFFICIENCY['network']:.0%} used, hidden behind arithmetic"
        )
    said.append(f"activations of {load.precision.name} training{'' if needs_mask(load) else ', FlashAttention'}")
    if any(isinstance(one.block, Grpo) for one in loads):
        said.append(f"completions of {COMPLETION:.0%} of max_tokens on average, the longest of all of it")
    return [*said, f"memory within {UNCERTAINTY:.0%}; evaluations and waiting for data are not counted"]
