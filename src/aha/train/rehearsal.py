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

from aha.train.parallel import shared_gradients, shares_weights

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


def gradients(trainer: Any, loss: torch.Tensor) -> list[torch.Tensor]:
    """The loss's gradient for every trained parameter it reaches, in the parameters' order; none of them is changed.

    Where processes share the weights, this process's shares of a gradient of all: see `shared_gradients`.
    """
    if shares_weights(trainer):
        return shared_gradients(trainer, loss)
    model = trainer.accelerator.unwrap_model(trainer.model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [one for one in torch.autograd.grad(loss, trained, allow_unused=True) if one is not None]


def obstacle(trainer: Any) -> str | None:
    """Why this trainer cannot rehearse; None when it can."""
    checkpointing = trainer.args.gradient_checkpointing_kwargs or {}
    if trainer.args.gradient_checkpointing and checkpointing.get("use_reentrant"):
        return "reentrant gradient checkpointing works with the run's own backward pass only"
    return None
