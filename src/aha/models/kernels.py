"""Fused kernels: which ones run in which stage, and the record of it. The only door to Liger.

One recipe key drives all three stages. `liger` takes every Liger kernel or stops; `torch` takes none; `auto` takes
what really runs on the device. The choice is checked against the built model afterwards, because a patch that does
not take hold raises nothing: it is only slower. And it can be lifted again for a moment, so that the fused computation
is held against the plain one (train/parity.py).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from aha.errors import KernelError

LAYERS = ("rope", "rms_norm", "swiglu")


@dataclass(frozen=True)
class Kernel:
    """One computation: done fused by somebody, or plainly for a reason."""

    kernel: str
    by: str = ""
    why: str = ""


@dataclass
class Kernels:
    """What a stage will run fused, and what not."""

    requested: str
    device: str
    fused: list[Kernel] = field(default_factory=list)
    plain: list[Kernel] = field(default_factory=list)
    liger: dict[str, bool] | None = None
    """Arguments of Liger's `apply`; None leaves the model alone."""
    chunked_loss: bool = False
    """Take the supervised loss in chunks of tokens, without the full logits (TRL's chunked_nll, plain torch)."""

    def record(self) -> dict[str, Any]:
        """What goes into kernels.json."""
        return {
            "requested": self.requested,
            "device": self.device,
            "fused": [asdict(kernel) for kernel in self.fused],
            "plain": [asdict(kernel) for kernel in self.plain],
        }


def choose(stage: str, requested: str, device: str, architecture: str, plain: str | None = None) -> Kernels:
    """Decide for one stage; `plain` says why this stage's loss cannot be fused, where it cannot.

    Raises KernelError when `liger` was demanded and this device or architecture cannot honour it.
    """
    loss = "grpo_loss" if stage == "grpo" else "linear_cross_entropy"
    plan = Kernels(requested, device)
    if requested == "torch" or (plain and requested == "auto"):
        why = "the recipe says kernels: torch" if requested == "torch" else plain or ""
        plan.plain = [Kernel(name, why=why) for name in (*LAYERS, loss)]
        return plan
    obstacle = plain or _obstacle(device, architecture)
    if obstacle is None:
        plan.liger = {"rope": True, "rms_norm": True, "swiglu": True, "fused_linear_cross_entropy": stage != "grpo"}
        plan.liger |= {"cross_entropy": False}
        plan.fused = [Kernel(name, "liger") for name in (*LAYERS, loss)]
        return plan
    if requested == "liger":
        raise KernelError(
            f"kernels: liger cannot be honoured in {stage}: {obstacle}. Write kernels: auto to take what runs here"
        )
    plan.plain = [Kernel(name, why=obstacle) for name in LAYERS]
    if stage == "grpo":
        # Liger's GRPO loss is chunked torch and runs anywhere; its layer kernels are switched off one by one.
        plan.liger = dict.fromkeys(("rope", "rms_norm", "swiglu", "cross_entropy", "fused_linear_cross_entropy"), False)
        plan.fused = [Kernel(loss, "liger", "chunked over sequences in torch: no full logits")]
    else:
        plan.chunked_loss = True
        plan.fused = [Kernel(loss, "trl", "chunked over tokens in torch: no full logits; Liger's is Triton")]
    return plan


def _obstacle(device: str, architecture: str) -> str | None:
    if importlib.util.find_spec("liger_kernel") is None:
        return "liger-kernel is not installed"
    if device != "cuda":
        return "Liger's layer kernels are Triton and need a GPU"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if architecture not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"Liger has no kernels for the architecture {architecture}"
    return None


def verify(plan: Kernels, model: Any) -> None:
    """Raises KernelError when the layer kernels that were planned are not in the built model."""
    wanted = plan.liger is not None and plan.liger["rms_norm"]
    found = any(_from_liger(module) for module in model.modules())
    if wanted != found:
        raise KernelError(
            f"Liger's layer kernels were {'' if wanted else 'not '}planned, but the built model does {'not ' if wanted else ''}use them"
        )


@contextmanager
def lifted(model: torch.nn.Module, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """A causal language model without its kernels, for a while: same modules, same weights, transformers' own code.

    Liger and TRL hang their forwards on instances, so the classes still have the plain ones; `around` puts back what
    else hung there (autocast). Liger's functions (RoPE) stand in the modeling file's own names; the plain ones come from
    a second copy of that file.

    Raises KernelError when something of Liger's stays: a module that was built after the patch is Liger's by class.
    """
    layers = [module for module in model.modules() if module is not model and _from_liger(module)]
    saved = {module: vars(module).pop("forward", None) for module in [model, *layers]}
    file, functions = sys.modules[type(model).__module__], _replaced(type(model).__module__)
    fused = {name: getattr(file, name) for name in functions}
    try:
        if left := [type(module).__name__ for module in model.modules() if _from_liger(module)]:
            raise KernelError(f"these modules have no plain forward to compare with: {', '.join(sorted(set(left)))}")
        model.forward = around(model.forward)
        vars(file).update(functions)
        yield
    finally:
        vars(file).update(fused)
        vars(model).pop("forward", None)
        for module, forward in saved.items():
            if forward is not None:
                module.forward = forward


def _replaced(modeling: str) -> dict[str, Any]:
    """The functions of a modeling file that Liger has replaced, as the file itself defines them."""
    file = sys.modules[modeling]
    names = [
        name for name, value in vars(file).items() if str(getattr(value, "__module__", "")).startswith("liger_kernel")
    ]
    if not names:
        return {}
    spec = importlib.util.spec_from_file_location(f"{file.__package__}.plain_copy", str(file.__file__))
    assert spec is not None and spec.loader is not None
    copy = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(copy)
    finally:
        del sys.modules[spec.name]
    return {name: getattr(copy, name) for name in names if hasattr(copy, name)}


def chunked_logprobs(hidden: Tensor, head: Tensor, ids: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    """Logprobs of `ids` (rows, tokens) after `hidden` (rows, tokens, width), without the full logits.

    Row by row, as Liger's GRPO loss does it, so that both round alike.
    """
    from liger_kernel.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase

    rows = zip(hidden.split(1), ids.split(1), strict=True)
    chunk = LigerFusedLinearPPOBase.chunk_forward
    return torch.cat([chunk(one, head, chosen, bias=bias, temperature=temperature) for one, chosen in rows])


def _from_liger(module: Any) -> bool:
    function = getattr(module.forward, "__func__", module.forward)
    return "liger" in getattr(function, "__module__", "") or "liger" in type(module).__module__
