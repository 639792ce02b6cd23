"""Liger's layer kernels against transformers in float64: on a CPU in Triton's interpreter, or with `cuda` on a GPU.

Run by tests/models/test_layer_kernels.py and tests/gpu/test_kernels.py, in a process of its own: the interpreter has to
be chosen before Triton is imported. Prints one JSON object.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

import numpy
import torch
import triton
import triton.language as tl
from liger_kernel.ops import rms_norm
from liger_kernel.transformers import (
    LigerCrossEntropyLoss,
    LigerFusedLinearCrossEntropyLoss,
    LigerRMSNorm,
    LigerSwiGLUMLP,
    liger_rotary_pos_emb,
)
from small import completions, group, supervised
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
from transformers.models.llama import modeling_llama as llama
from triton.runtime import interpreter

from aha.errors import KernelError
from aha.models import kernels

# Two things that Triton's compiler has and its interpreter lacks: scalars of float arguments, and libdevice's rsqrt.
converted: Callable[[Any], Any] = interpreter._implicit_cvt


def convert(argument: Any) -> Any:
    if isinstance(argument, float):
        handle = interpreter.TensorHandle(numpy.array([argument], dtype=numpy.float32), tl.float32)
        return tl.tensor(handle, tl.float32)
    return converted(argument)


@triton.jit
def rsqrt(x):  # type: ignore[no-untyped-def]  # Triton reads annotations its own way
    return tl.rsqrt(x)


if DEVICE == "cpu":
    interpreter._implicit_cvt = convert
    rms_norm.rsqrt = rsqrt
else:
    torch.set_default_device(DEVICE)

PLAIN_NORM, PLAIN_MLP, PLAIN_ROPE = llama.LlamaRMSNorm, llama.LlamaMLP, llama.apply_rotary_pos_emb
CONFIG = AutoConfig.for_model("llama", hidden_size=32, intermediate_size=48, num_attention_heads=2, vocab_size=96)
Tensors = list[torch.Tensor]
PLAIN = dict(vars(llama))
SMALL = ["model.dtype=float32", "model.from_scratch.layers=1", "hardware.worst_case_first=never"]


def drawn(*shapes: tuple[int, ...]) -> Tensors:
    generator = torch.Generator(DEVICE).manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def outcome(compute: Callable[..., Any], tensors: Tensors, dtype: torch.dtype) -> Tensors:
    """What `compute` gives for these tensors in this type, and the gradient of each, in float64."""
    given = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    result = compute(*given)
    results = list(result) if isinstance(result, tuple) else [result]
    # Liger's RMSNorm writes into the gradient that it is given: every one gets its own.
    weights = [torch.linspace(-1, 1, one.numel()).reshape(one.shape).to(one.dtype).clone() for one in results]
    gradients = torch.autograd.grad(results, given, weights)
    return [one.detach().double() for one in (*results, *gradients)]


def norm(kind: Any) -> Callable[..., Any]:
    def compute(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        module = kind(32, eps=1e-6)
        del module.weight
        module.weight = weight
        return module(x)

    return compute


def mlp(kind: Any) -> Callable[..., Any]:
    def compute(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        module = kind(CONFIG)
        for part, weight in ((module.gate_proj, gate), (module.up_proj, up), (module.down_proj, down)):
            del part.weight
            part.weight = weight
        return module(x)

    return compute


def rope(function: Any) -> Callable[..., Any]:
    angles = torch.arange(5)[:, None] * torch.cat([torch.tensor([1.0, 0.1, 0.01, 0.001])] * 2)

    def compute(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return function(q, k, angles.cos()[None].to(q.dtype), angles.sin()[None].to(q.dtype))

    return compute


LABELS = torch.arange(24) * 7 % 96
LABELS[::5] = -100


def fused(x: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return LigerFusedLinearCrossEntropyLoss()(head, x, LABELS)


KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]] = {
    "rms_norm": (norm(LigerRMSNorm), norm(PLAIN_NORM), [(3, 8, 32), (32,)]),
    "swiglu": (mlp(LigerSwiGLUMLP), mlp(PLAIN_MLP), [(3, 8, 32), (48, 32), (48, 32), (32, 48)]),
    "rope": (rope(liger_rotary_pos_emb), rope(PLAIN_ROPE), [(2, 4, 5, 8), (2, 2, 5, 8)]),
    "cross_entropy": (
        lambda x: LigerCrossEntropyLoss()(x * 1, LABELS),  # it writes its gradient over its input
        lambda x: torch.nn.functional.cross_entropy(x, LABELS),
        [(24, 96)],
    ),
    "linear_cross_entropy": (
        fused,
        lambda x, head: torch.nn.functional.cross_entropy(x @ head.T, LABELS),
        [(24, 32), (96, 32)],
    ),
}


def difference(name: str, dtype: torch.dtype) -> list[float]:
    """For the result and each gradient: the largest difference from float64, as a share of the largest value."""
    liger, plain, shapes = KERNELS[name]
    tensors = [tensor.to(dtype).double() for tensor in drawn(*shapes)]
    pairs = zip(outcome(liger, tensors, dtype), outcome(plain, tensors, torch.float64), strict=True)
    return [float((got - true).abs().max() / true.abs().max()) for got, true in pairs]


def whole(architecture: str) -> dict[str, Any]:
    """A model with every layer kernel, and the same model while they are lifted: losses, and their gradients' distance."""
    config = AutoConfig.for_model(
        architecture, vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    planned = kernels.choose("cpt", "liger", "cuda", architecture)
    ids = torch.randint(1, 96, (2, 9), generator=torch.Generator(DEVICE).manual_seed(0))

    def compute() -> tuple[float, torch.Tensor]:
        loss = model(input_ids=ids, labels=ids).loss
        return float(loss), torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))])

    before, true = compute()
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model=model, **planned.liger)
    kernels.verify(planned, model)
    fused, gradient = compute()
    with kernels.lifted(model, lambda forward: forward):
        plain, lifted = compute()
    kernels.verify(planned, model)
    again, _ = compute()
    return {
        "lifted is what was": plain == before and torch.equal(lifted, true),
        "fused again": again == fused,
        "loss": abs(fused - plain),
        "distance": float((gradient - lifted).norm() / lifted.norm()),
    }


class Off(TrainerCallback):
    """The first norm's weight is a tenth too large, once Liger's kernels are in the model."""

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        model.model.layers[0].input_layernorm.offset = 0.1


def gate(stage: str, wrong: bool) -> dict[str, Any]:
    """The real trainer with all of Liger, and what its comparison records."""
    planned = kernels.choose(stage, "liger", "cuda", "llama")
    folder = Path(tempfile.mkdtemp())
    vars(llama).update(PLAIN)  # a stage has a process of its own: its model is of transformers' classes
    error = None
    try:
        if stage == "cpt":
            trainer: Any = supervised(folder, planned, 1, *SMALL, "cpt.batch_size=2")
            if wrong:
                trainer.add_callback(Off())
            trainer.train()
        else:
            trainer = group(folder, planned, *SMALL)
            trainer.liger_loss.compiled = False
            if wrong:
                Off().on_train_begin(model=trainer.model)
            trainer.compute_loss(trainer.model_wrapped, completions(trainer, rows=2, tokens=6))
    except KernelError as refused:
        error = str(refused)
    return json.loads(next(folder.glob("run/*/kernels.json")).read_text())["parity"] | {"error": error}


def main() -> None:
    types = {"float32": torch.float32}
    if DEVICE == "cuda":  # Triton 3.7's interpreter gives NaN for bfloat16
        types["bfloat16"] = torch.bfloat16
    found: dict[str, Any] = {
        "kernels": {f"{name} {word}": difference(name, dtype) for name in KERNELS for word, dtype in types.items()},
        "models": {name: whole(name) for name in ("qwen2", "qwen3")},
    }
    if DEVICE == "cpu":
        found["gates"] = {
            f"{stage} {wrong}": gate(stage, wrong) for stage in ("cpt", "grpo") for wrong in (False, True)
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
