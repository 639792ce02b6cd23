"""A forward and backward pass that leaves no trace: what is computed before step 1, and must not change the run.

Gradients are taken beside the parameters (`torch.autograd.grad`), so nothing is added to what the optimiser will see, and
no hook of DDP's or ZeRO-2's fires: each process computes its own micro-batch. ZeRO-3 and FSDP gather weights in their
hooks, so there all processes go through these together, and what was added is taken out. Random states and TRL's running
metrics are put back.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

TRACES = ("_metrics", "_total_train_tokens", "_last_world_entropy", "_entropy_window_stats", "entropy_coef")
"""What TRL's `compute_loss` writes down in its trainer."""


@contextmanager
def rehearsal(trainer: Any) -> Iterator[None]:
    """Whatever is computed inside, the trainer goes on as if it had not been."""
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in TRACES if hasattr(trainer, name)}
    before = random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before)
        for name, value in kept.items():
            setattr(trainer, name, value)


def shares_weights(trainer: Any) -> bool:
    """Whether each process holds a part of every weight, so that all must compute together: ZeRO-3 and FSDP."""
    zero = trainer.accelerator.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else 0
    return trainer.is_fsdp_enabled or zero == 3


def gradients(trainer: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    """The loss's gradient for every trained parameter it reaches, in the parameters' order; none of them is changed.

    Where processes share the weights: the gradient of their mean loss, and of each parameter this process's share. There
    nothing may have been added up before, for it would be lost.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not shares_weights(trainer):
        return [one for one in torch.autograd.grad(loss, trained, allow_unused=True) if one is not None]
    if trainer.is_fsdp_enabled:
        model.set_requires_gradient_sync(True)
        loss.backward()
        model.set_requires_gradient_sync(trainer.accelerator.sync_gradients)
        # Not `trained`: some of those were the gathered weights.
        found = [parameter.grad.to_local() for parameter in model.parameters() if parameter.grad is not None]
        model.zero_grad()
        return found
    from deepspeed.utils import safe_get_local_grad

    engine = trainer.model_wrapped
    engine.backward(loss, scale_wrt_gas=False)
    found = [safe_get_local_grad(parameter) for parameter in trained]
    engine.optimizer.zero_grad()  # the next backward pass overwrites what this one has left
    return found


def obstacle(trainer: Any) -> str | None:
    """Why this trainer cannot rehearse; None when it can."""
    checkpointing = trainer.args.gradient_checkpointing_kwargs or {}
    if trainer.args.gradient_checkpointing and checkpointing.get("use_reentrant"):
        return "reentrant gradient checkpointing works with the run's own backward pass only"
    return None
