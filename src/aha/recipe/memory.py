"""Peak memory of one device, part by part: weights, gradients, optimiser, activations, logits, engine, runtime.

The model is the one of the Ultra-Scale Playbook (Hugging Face, 2025: "Memory usage in transformers" and "Zero Redundancy
Optimizer"): bytes per weight for what training keeps, shared out by ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054), and
bytes per token for what the backward pass waits for (Korthikanti et al. 2022, arXiv:2205.05198). The bytes per token are
counted anew for the layers that run here, and a test counts them again in autograd. What cannot be derived is in
recipe/measured.py, with predictions beside what runs then took; the engines' part is in recipe/engines.py.

A stage has moments (the end of a forward pass, of a backward pass; in GRPO also sampling). The prediction is the
largest of them. The scores that GRPO takes before its loss need less than the loss: the same chunk of logits
(train/logprobs.py), or all of them at 8 bytes instead of 16, and the activations of one layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aha.recipe.algorithms import plain_loss
from aha.recipe.batch import batch_size, micro_batch, sequence_length, world_size
from aha.recipe.engines import GIB, aside, awake
from aha.recipe.hardware import Machine
from aha.recipe.measured import MEASURED
from aha.recipe.schema import Block, Cpt, Distill, Grpo, Recipe
from aha.recipe.shapes import Shape

WINDOW = 2**21
"""Tokens that are packed together (data/packing.WINDOW)."""
ROW_BYTES = 12
"""Of a packed token on disk, which is read back memory-mapped (data/rows.FEATURES)."""
UNCERTAINTY = 0.15
"""Share by which a prediction may be wrong; nothing is refused for less."""

LIVE_WEIGHTS = 1e9
"""Weights that ZeRO-3 holds gathered at a time: DeepSpeed's default `stage3_max_live_parameters`."""
BUCKET = 5e8
"""Values of a reduction bucket: DeepSpeed's default `reduce_bucket_size`."""
SFT_CHUNK = 256
"""Tokens whose logits TRL's chunked loss holds at a time."""
GRPO_CHUNK = (2048, 4096)
"""Tokens (of one completion) and words whose logits Liger's GRPO loss holds at a time."""


class Memory(Block):
    """Peak memory of one device, GiB."""

    moment: str
    """When the peak is reached."""
    parts: dict[str, float]
    total: float
    available: float | None
    allocated: float
    """What the framework's own counter should show: on a GPU all but the runtime, on a CPU all of it."""


@dataclass(frozen=True)
class Precision:
    """Bytes per weight and per value, by who keeps them."""

    name: str
    """float32, mixed (float32 weights, bfloat16 arithmetic) or bfloat16: what a layer's activations look like."""
    weights: int
    gradients: int
    optimizer: int

    @property
    def value(self) -> int:
        """Bytes of what a matrix product reads and writes."""
        return 4 if self.name == "float32" else 2

    @property
    def residual(self) -> int:
        """Bytes of a value in the residual stream: it has the weights' type."""
        return 2 if self.name == "bfloat16" else 4


@dataclass(frozen=True)
class Load:
    """What one stage asks of one device."""

    recipe: Recipe
    block: Cpt | Distill | Grpo
    shape: Shape
    machine: Machine
    precision: Precision
    processes: int
    micro: int
    accumulation: int
    length: int

    @property
    def tokens(self) -> int:
        """Of one micro-batch."""
        return self.micro * self.length

    @property
    def on_gpu(self) -> bool:
        return self.machine.device == "cuda"

    @property
    def parallel(self) -> str:
        return self.recipe.hardware.parallel

    @property
    def trained(self) -> int:
        """Weights that get gradients: the adapters of LoRA, or all."""
        lora = self.block.lora
        return self.shape.adapter_weights(lora.rank) if lora else self.shape.weights

    def shared(self, *stages: str) -> int:
        """By how many processes a part is shared, where the recipe's parallelism is one of these."""
        return self.processes if self.parallel in stages else 1


def load_of(recipe: Recipe, block: Cpt | Distill | Grpo, shape: Shape, machine: Machine) -> Load:
    """What a stage asks of each of its devices."""
    processes, micro = world_size(block, recipe.hardware), micro_batch(block, recipe.hardware)
    accumulation = max(1, batch_size(block) // (processes * micro))
    precision = precision_of(recipe, machine)
    return Load(recipe, block, shape, machine, precision, processes, micro, accumulation, sequence_length(block))


def precision_of(recipe: Recipe, machine: Machine) -> Precision:
    """Who keeps what in which type.

    Plain AdamW keeps two moments in the weights' type. DeepSpeed's bfloat16 keeps bfloat16 weights and gradients, and in
    the optimiser float32 weights and two moments: 2 + 2 + 12 bytes, as in the Playbook. Without bfloat16 all is float32.
    """
    if recipe.hardware.parallel in ("zero2", "zero3") and machine.bf16:
        return Precision("bfloat16", 2, 2, 12)
    if recipe.model.dtype == "bfloat16":
        return Precision("bfloat16", 2, 2, 4)
    return Precision("mixed" if machine.bf16 else "float32", 4, 4, 8)


# --- moments -------------------------------------------------------------------------------------------------------


def peak_memory(load: Load) -> Memory:
    """The moment that needs most, part by part."""
    moments = {"forward": _forward(load), "backward": _backward(load)}
    if isinstance(load.block, Grpo):
        moments["sampling"] = _sampling(load, load.block)
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    parts = {name: round(size / GIB, 4) for name, size in moments[moment].items() if size}
    total = round(sum(parts.values()), 4)
    hidden = parts["runtime"] if load.on_gpu else 0.0
    return Memory(
        moment=moment,
        parts=parts,
        total=total,
        available=load.machine.memory_gib,
        allocated=round(total - hidden, 4),
    )


def _kept(load: Load) -> dict[str, float]:
    """What stays from step to step."""
    parts = {"weights": _weights(load), "optimiser": _optimizer(load)}
    if isinstance(load.block, Grpo) and load.block.beta > 0 and not load.block.lora:
        parts["reference"] = load.shape.weights * load.precision.weights / load.shared("zero3", "fsdp2")
    return parts | {"runtime": _runtime(load), "data": _data(load)}


def _forward(load: Load) -> dict[str, float]:
    """The end of a micro-batch's forward pass: all activations wait, beside gradients of the micro-batches before.

    On a CPU the gradients of the step before count too: what the allocator has freed it rarely gives back. Nor does it
    find a use for each piece between the activations.
    """
    waiting = load.accumulation > 1 or load.parallel != "none" or not load.on_gpu
    activations = _activations(load)
    parts = _kept(load) | {"gradients": _gradients(load) if waiting else 0.0, "activations": activations}
    parts |= {"heap": 0.0 if load.on_gpu else MEASURED["heap"] * activations}
    return parts | {"logits": _loss_logits(load), "casts": _casts(load), "engine": aside(load)}


def _backward(load: Load) -> dict[str, float]:
    """The end of the backward pass: all gradients are there, and the activations of one layer."""
    one_layer = load.tokens * layer_bytes(load, load.shape)
    parts = _kept(load) | {"gradients": _gradients(load), "activations": one_layer, "casts": _casts(load)}
    return parts | {"engine": aside(load)}


def _sampling(load: Load, block: Grpo) -> dict[str, float]:
    """The engine is awake, beside weights and optimiser."""
    return _kept(load) | {"engine": awake(load, block)}


# --- parts, in bytes -----------------------------------------------------------------------------------------------


def _weights(load: Load) -> float:
    """Weights in the training's type, shared by ZeRO-3 and FSDP; there the gathered ones in bfloat16 come on top."""
    size = load.shape.weights * load.precision.weights / load.shared("zero3", "fsdp2")
    if load.shared("zero3", "fsdp2") > 1:
        size += min(load.shape.weights, LIVE_WEIGHTS) * load.precision.value
    return size + (4 * load.trained if load.block.lora else 0)


def _gradients(load: Load) -> float:
    """As many as there are trained weights. ZeRO-2, ZeRO-3 and FSDP share them; ZeRO and DDP reduce them in buckets."""
    width = 4 if load.block.lora else load.precision.gradients
    size = load.trained * width / load.shared("zero2", "zero3", "fsdp2")
    if load.parallel == "ddp":
        return 2 * size  # DDP's buckets hold a second copy
    return size + (min(load.trained, BUCKET) * width if load.parallel in ("zero2", "zero3") else 0)


def _optimizer(load: Load) -> float:
    """AdamW's two moments, and the float32 weights where others are trained; shared by every ZeRO stage and FSDP."""
    width = 8 if load.block.lora else load.precision.optimizer
    return load.trained * width / load.shared("zero2", "zero3", "fsdp2")


def _casts(load: Load) -> float:
    """Autocast keeps a bfloat16 copy of every float32 matrix from its first use to the end of the forward pass."""
    return 2.0 * load.shape.layers * load.shape.layer_matrices if load.precision.name == "mixed" else 0.0


def layer_bytes(load: Load, shape: Shape) -> float:
    """Bytes that one layer keeps for the backward pass, per token.

    For each norm: its float32 input and its normalised output. For each product: its input (autocast makes a copy for
    each of the five: queries, keys, values, gate, up). For attention: queries, keys, values and output, with keys and
    values repeated to all heads where a mask is given, and that mask. For SwiGLU: gate, its activation, up, their
    product. Liger's RMSNorm and SwiGLU keep less (input alone; three of four).
    """
    value, norms = load.precision.value, _norm_bytes(load)
    heads = shape.query_width if needs_mask(load) else shape.kv_width
    attention = value * (2 * shape.query_width + 2 * heads)
    if shape.architecture == "qwen3":  # norms of queries and keys
        attention += {"float32": 8, "mixed": 6, "bfloat16": 6}[load.precision.name] * (
            shape.query_width + shape.kv_width
        )
    mask = value * load.length if needs_mask(load) else 0
    return norms * shape.hidden + attention + (3 if uses_liger(load) else 4) * value * shape.intermediate + mask


def _norm_bytes(load: Load) -> int:
    """Per value of the hidden size: two norms, and the inputs of the five products behind them."""
    if uses_liger(load):
        return {"float32": 16, "mixed": 18, "bfloat16": 8}[load.precision.name]
    return {"float32": 24, "mixed": 26, "bfloat16": 16}[load.precision.name]


def _activations(load: Load) -> float:
    """All layers; with gradient checkpointing each layer's input, and one layer anew. Then the backward pass's own.

    Going back through SwiGLU takes three more values per intermediate unit: the gradients of product, gate and up.
    """
    shape = load.shape
    layers = shape.layers * layer_bytes(load, shape)
    if load.block.gradient_checkpointing:
        layers = shape.layers * load.precision.residual * shape.hidden + layer_bytes(load, shape)
    head = 4 * load.precision.residual * shape.hidden  # embeddings, last norm, input of the head
    return load.tokens * (layers + head + 3 * load.precision.value * shape.intermediate)


def needs_mask(load: Load) -> bool:
    """Packed rows and padded batches need a mask, except in FlashAttention's kernels, which get lengths."""
    return load.recipe.model.attention != "flash_attention_2"


def uses_liger(load: Load) -> bool:
    return load.on_gpu and load.recipe.kernels != "torch"


def _loss_logits(load: Load) -> float:
    """What the loss holds of the logits: all of them (bfloat16, twice float32, log-softmax, gradient), or a chunk.

    Chunked in TRL: 256 tokens, in bfloat16 and four times in float32. Liger's supervised loss: as many tokens at a time as
    make the chunk as large as the hidden states. Liger's GRPO loss: see `_grpo_chunk`. Beside a chunk stands what
    the head gets: see `_head`.
    """
    shape, words = load.shape, load.shape.vocabulary
    if _whole_logits(load):
        kept = load.micro * load.block.rollout.max_tokens if isinstance(load.block, Grpo) else load.tokens
        return 16.0 * kept * words
    if isinstance(load.block, Grpo):
        return _grpo_chunk(load, load.block) + _head(load)
    if load.on_gpu:
        rows = math.ceil(load.tokens / math.ceil(words / shape.hidden))
        return 8.0 * words * 2 ** math.ceil(math.log2(rows)) + _head(load)
    return 18.0 * min(SFT_CHUNK, load.tokens) * words + _head(load)


def _head(load: Load) -> float:
    """The output head's gradient, which a chunked loss sums up before the backward pass begins.

    Liger's supervised loss: in the gradients' type. Liger's GRPO loss: in float32, and once more of the chunk at work.
    TRL's on a CPU: in float32; under autocast also in bfloat16, beside a bfloat16 copy of the head. None with LoRA.
    """
    head = load.shape.vocabulary * load.shape.hidden
    if isinstance(load.block, Grpo):
        width = 8
    elif load.on_gpu:
        width = load.precision.gradients
    else:
        width = 8 if load.precision.name == "mixed" else 4
    return 0.0 if load.block.lora else float(width * head)


def _whole_logits(load: Load) -> bool:
    """Whether no loss in chunks is taken: the recipe does not want one, or none knows what it asks for."""
    return load.recipe.kernels == "torch" or (isinstance(load.block, Grpo) and plain_loss(load.block) is not None)


def _grpo_chunk(load: Load, block: Grpo) -> float:
    """One completion at a time, in pieces of 2048 tokens × 4096 words.

    Four of them in float32: logits, less their largest, the exponential, and the one before.
    """
    return 16.0 * min(GRPO_CHUNK[0], block.rollout.max_tokens) * min(GRPO_CHUNK[1], load.shape.vocabulary)


def _runtime(load: Load) -> float:
    """Before any of ours: CUDA and NCCL on a GPU; on a CPU imports and tokenizer, which count in the process's memory."""
    if load.on_gpu:
        return (MEASURED["cuda context"] + (MEASURED["nccl"] if load.processes > 1 else 0)) * GIB
    tokenizer = MEASURED["tokenizer"] * load.shape.vocabulary
    if not isinstance(load.block, Grpo) or load.block.rollout.mode == "server":
        return MEASURED["python and torch"] * GIB + tokenizer
    engine = MEASURED["vllm on cpu"] if load.block.rollout.engine != "transformers" else 0
    return (MEASURED["python, torch and vllm"] + engine) * GIB + tokenizer


def _data(load: Load) -> float:
    """On a CPU a supervised stage's rows lie in the same memory: a window while it packs, and all of them mapped.

    How many tokens a distillation has is known once they are packed; without `steps`, half a window is assumed.
    """
    if load.on_gpu or isinstance(load.block, Grpo):
        return 0.0
    if isinstance(load.block, Cpt):
        tokens = load.block.tokens
    else:
        steps = load.block.steps
        tokens = steps * load.block.batch_size * load.length if steps else WINDOW // 2
    return MEASURED["packing"] * min(tokens, WINDOW) + ROW_BYTES * tokens
