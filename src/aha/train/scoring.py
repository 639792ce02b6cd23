"""The trainer's side of the probes: the log-probabilities that the weights which were sent to the engine must give.

Not simply what the trainer's own forward pass says. An engine in bfloat16 holds each weight rounded, with any adapter
merged into it before. An update of 1e-6 leaves most rounded weights where they were, so engine and master weights differ
though every sync is honest. Rounding the weights alike, and computing in float32 from there, leaves one difference: the
engine's own rounding between its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


@torch.no_grad()
def logits_of(
    model: Any, sequences: Sequence[Sequence[int]], sent_as: torch.dtype | None, instead: Weights | None = None
) -> list[Tensor]:
    """The scores of every token but the first: one tensor (length - 1, vocabulary) in float32 for each sequence.

    `sent_as` is the engine's dtype; None takes the trainer's forward pass as it is (see `in_float32`).
    `instead` has weights, by name, to take in place of the model's.
    """
    width = max(map(len, sequences))
    ids = torch.tensor([list(one) + [0] * (width - len(one)) for one in sequences], device=model.device)
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in sequences], device=model.device)
    training = model.training
    model.eval()
    try:
        with ExitStack() as stack:
            forward = model
            if sent_as is not None:
                stack.enter_context(_as_sent(model, sent_as, instead or {}))
                forward = getattr(model, "_original_forward", model.forward)  # accelerate's has autocast around it
            scores = forward(input_ids=ids, attention_mask=mask, use_cache=False).logits
    finally:
        model.train(training)
    return [row[: len(one) - 1].float() for row, one in zip(scores, sequences, strict=True)]


def in_float32(model: Any) -> bool:
    """Whether the model, if it is whole in this process, can compute in float32: its weights are, and so is its attention."""
    return all(weight.dtype == torch.float32 for weight in model.parameters()) and "flash" not in (
        model.config._attn_implementation or ""
    )


def logprobs_of(scores: Tensor, sequence: Sequence[int], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logprobs of a sequence's tokens but the first at a temperature, and their slopes by its logarithm: (length - 1,) each.

    The slope of log p(y) by log(temperature) is the mean score under p less the score of y, both over the temperature.
    """
    scaled = scores / temperature
    everything = scaled.log_softmax(-1)
    tokens = torch.tensor(list(sequence[1:]), device=scores.device)[:, None]
    mean = (everything.exp() * scaled).sum(-1)
    return everything.gather(-1, tokens)[:, 0].double().cpu(), (mean - scaled.gather(-1, tokens)[:, 0]).double().cpu()


@contextmanager
def _as_sent(model: Any, dtype: torch.dtype, instead: Weights) -> Iterator[None]:
    """Every layer computes with the weights as they were sent; no more than one layer's copy at a time."""
    with ExitStack() as stack:
        if hasattr(model, "disable_adapter"):
            stack.enter_context(model.disable_adapter())
        adapted = {id(one.base_layer): one for one in model.modules() if hasattr(one, "get_delta_weight")}
        for name, module in model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                swap = _Swap(f"{name}." if name else "", adapted.get(id(module)), dtype, instead)
                stack.callback(module.register_forward_pre_hook(swap.put).remove)
                stack.callback(module.register_forward_hook(swap.put_back, always_call=True).remove)
        yield


class _Swap:
    """One layer's own weights, replaced while it computes."""

    def __init__(self, prefix: str, adapted: Any, dtype: torch.dtype, instead: Weights):
        self._prefix = prefix
        self._adapted = adapted
        self._dtype = dtype
        self._instead = instead
        self._own: dict[str, Tensor] = {}

    def put(self, module: Any, _: Any) -> None:
        for name, weight in module.named_parameters(recurse=False):
            self._own[name] = weight.data
            sent = self._instead.get(self._prefix + name, weight.data).to(weight.device)
            if name == "weight" and self._adapted is not None and WITHOUT_ADAPTER not in self._instead:
                sent = sum((self._adapted.get_delta_weight(one) for one in self._adapted.active_adapters), sent)
            weight.data = sent.to(self._dtype).to(torch.float32)

    def put_back(self, module: Any, *_: Any) -> None:
        for name, weight in module.named_parameters(recurse=False):
            weight.data = self._own.pop(name)


WITHOUT_ADAPTER = "without adapter"
"""As a key of `instead`: the base model, whatever its adapters have learned."""
