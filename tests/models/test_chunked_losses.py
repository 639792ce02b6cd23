"""The chunked losses that run everywhere, against plain torch in float64: TRL's cross-entropy and Liger's GRPO loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss
from torch.utils._python_dispatch import TorchDispatchMode
from trl.trainer.sft_trainer import _chunked_cross_entropy_loss

from aha.models.kernels import chunked_logprobs
from aha.recipe.memory import GRPO_CHUNK

ROWS, TOKENS, WIDTH, WORDS = 3, 11, 16, 96
# dtype: (atol, rtol) against float64, for losses and gradients of size one. bfloat16 inputs have eight bits, and Liger
# gives their gradients back in bfloat16.
TOLERANCES = {torch.float32: (1e-6, 1e-5), torch.bfloat16: (2e-2, 2e-2)}
LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 3e-4, "epsilon_high": 4e-4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "bnpo": {"loss_type": "bnpo"},
    "with a KL penalty": {"loss_type": "grpo", "beta": 0.04},
}


def drawn(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Hidden states and head, rounded to `dtype`; the ratios to the old policy spread around 1, some beyond the clip."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    hidden, head = normal(ROWS, TOKENS, WIDTH).to(dtype).double(), (normal(WORDS, WIDTH) / 8).to(dtype).double()
    ids = torch.randint(0, WORDS, (ROWS, TOKENS), generator=generator)
    now = (hidden @ head.T).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    mask = (torch.arange(TOKENS) < torch.tensor([[11], [6], [3]])).long()
    return {
        "hidden": hidden,
        "head": head,
        "ids": ids,
        "mask": mask,
        "advantages": torch.tensor([1.0, -0.6, -0.4]),
        "old": now + 0.3 * normal(ROWS, TOKENS),
        "reference": now + 0.3 * normal(ROWS, TOKENS),
        "correction": torch.rand(ROWS, TOKENS, generator=generator) + 0.5,
        "count": torch.tensor(40.0),
    }


def by_the_paper(
    batch: dict[str, torch.Tensor],
    loss_type: str,
    importance_sampling_level: str = "token",
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    beta: float = 0.0,
) -> torch.Tensor:
    """The objectives as their papers write them, in float64 and with full logits."""
    mask, advantages = batch["mask"].double(), batch["advantages"].double()[:, None]
    now = (batch["hidden"] @ batch["head"].T).log_softmax(-1).gather(-1, batch["ids"][..., None])[..., 0]
    ratio = (now - batch["old"]).exp()
    if importance_sampling_level == "sequence":  # GSPO, arXiv:2507.18071, eq. 7
        ratio = (((now - batch["old"]) * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).exp()
    if loss_type == "cispo":  # arXiv:2506.13585, eq. 4
        each = -ratio.clamp(max=epsilon_high).detach() * advantages * now
    else:
        each = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon_low, 1 + epsilon_high) * advantages)
    each = each * batch["correction"]
    if beta:  # the k3 estimate of DeepSeekMath, arXiv:2402.03300, eq. 4
        apart = batch["reference"] - now
        each = each + beta * (apart.exp() - apart - 1)
    total = (each * mask).sum()
    return {
        "grpo": ((each * mask).sum(1) / mask.sum(1)).mean(),
        "dr_grpo": total / (ROWS * TOKENS),
        "bnpo": total / mask.sum(),
    }.get(loss_type, total / batch["count"])


def close(got: torch.Tensor, true: torch.Tensor, dtype: torch.dtype) -> None:
    absolute, relative = TOLERANCES[dtype]
    scale = float(true.abs().max())
    torch.testing.assert_close(got.double() / scale, true / scale, atol=absolute, rtol=relative)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_ligers_grpo_loss(name: str, dtype: torch.dtype) -> None:
    options, batch = LOSSES[name], drawn(dtype)
    leaves = [batch["hidden"].requires_grad_(), batch["head"].requires_grad_()]
    true = by_the_paper(batch, **options)
    expected = torch.autograd.grad(true, leaves)
    hidden, head = (leaf.detach().to(dtype).requires_grad_() for leaf in leaves)
    beta = options.get("beta", 0.0)
    loss = LigerFusedLinearGRPOLoss(**{"beta": beta, **options}, compiled=False, use_ref_model=beta > 0, max_completion_length=TOKENS)  # fmt: skip
    got, _ = loss(
        hidden,
        head,
        batch["ids"],
        batch["mask"],
        batch["advantages"],
        old_per_token_logps=batch["old"].float(),
        ref_per_token_logps=batch["reference"].float() if beta else None,
        vllm_is_ratio=batch["correction"],
        num_items_in_batch=batch["count"],
    )
    close(got, true.detach(), dtype)
    for one, other in zip(torch.autograd.grad(got, [hidden, head]), expected, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_trls_chunked_cross_entropy(dtype: torch.dtype) -> None:
    """Chunks of four tokens, some labels left out, so that the last chunk is not full."""
    batch = drawn(dtype)
    labels = batch["ids"].masked_fill(batch["mask"] == 0, -100)
    leaves = [batch["hidden"].requires_grad_(), batch["head"].requires_grad_()]
    logits = (leaves[0] @ leaves[1].T)[:, :-1].flatten(0, 1)
    true = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / batch["count"]
    expected = torch.autograd.grad(true, leaves)
    hidden, head = (leaf.detach().to(dtype).requires_grad_() for leaf in leaves)
    got, *_ = _chunked_cross_entropy_loss(hidden, head, 4, labels, num_items_in_batch=batch["count"])
    close(got, true.detach(), dtype)
    for one, other in zip(torch.autograd.grad(got, [hidden, head]), expected, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_logprobs(temperature: float) -> None:
    batch = drawn(torch.float32)
    true = (batch["hidden"] @ batch["head"].T / temperature).log_softmax(-1).gather(-1, batch["ids"][..., None])[..., 0]
    got = chunked_logprobs(batch["hidden"].float(), batch["head"].float(), batch["ids"], None, temperature)
    torch.testing.assert_close(got.double(), true, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    """The most values that one result has had."""

    values = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.values = max(self.values, result.numel() if isinstance(result, torch.Tensor) else 0)
        return result


def test_chunked_logprobs_hold_the_piece_that_the_planner_counts() -> None:
    """Three completions, each longer and wider than a piece."""
    tokens, words = (size + 100 for size in GRPO_CHUNK)
    hidden, head, ids = torch.zeros(3, tokens, 2), torch.zeros(words, 2), torch.zeros(3, tokens, dtype=torch.long)
    with Largest() as seen:
        chunked_logprobs(hidden, head, ids, None, 1.0)
    assert seen.values == GRPO_CHUNK[0] * GRPO_CHUNK[1]
