"""Fused kernels: which ones run in which stage, and the record of it. The only door to Liger.

One recipe key drives all three stages. `liger` takes every Liger kernel or stops; `torch` takes none; `auto` takes
what really runs on the device. The choice is checked against the built model afterwards, because a patch that does
not take hold raises nothing: it is only slower.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass, field
from typing import Any

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


def _from_liger(module: Any) -> bool:
    function = getattr(module.forward, "__func__", module.forward)
    return "liger" in getattr(function, "__module__", "") or "liger" in type(module).__module__
