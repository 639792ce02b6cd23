"""Log-probabilities in GRPO: those that are trained and those that they are held against come from one computation.

The importance ratio is exp(logprob now - logprob when sampled). On the first pass over a batch both are of the same
weights, so the ratio is 1 and nothing is clipped. With Liger's loss in TRL 1.13 it was not. TRL scores a batch through
the model's forward, where accelerate's autocast hangs, but Liger's loss goes past that forward, to the backbone: in
mixed bfloat16 the old logprobs were rounded to eight bits and the new ones were float32. Each is a fair computation;
their ratio is rounding noise, which weighs every token's gradient, and which GSPO's clip range of 3e-4 takes for policy
change.

Measured on CPU (a Llama of 4 layers, 8 x 64 tokens, first pass): the distance of the gradient from a float64 one, as a
share of its norm.

    ==========================================================  =======  =======
    computation                                                 grpo     gspo
    ==========================================================  =======  =======
    TRL's plain loss, mixed bfloat16                            0.0055   0.0055
    Liger's loss as TRL calls it                                0.037    0.016
    Liger's loss under autocast, its head still in float32      0.037    0.22
    Liger's loss as here                                        0.0049   0.0049
    Liger's loss and the scores both in float32                 4e-7     4e-7
    ==========================================================  =======  =======

So neither side was wrong alone: the float32 half was the nearer one, and the mixture was seven times as far off as
either way done consistently. Here both are mixed bfloat16, as the run was asked to be; a run in float32 has both in
float32. The scores also come in chunks: TRL's own scoring holds the logits of a whole micro-batch.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.utils import maybe_gather_lm_head_ctx

from aha.models.kernels import chunked_logprobs


class Logprobs:
    """Mixed in before TRL's GRPOTrainer. Without Liger's loss it changes nothing: there TRL's two ways are one already."""

    def _get_last_hidden_state(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What goes into the head: (completions, tokens, hidden), in the type that autocast would multiply it in."""
        with self.accelerator.autocast():  # type: ignore[attr-defined]
            hidden = super()._get_last_hidden_state(*args, **kwargs)  # type: ignore[misc]
            kind = hidden.device.type
            return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Logprobs of the last `logits_to_keep` tokens, (completions, tokens); scored as Liger's loss computes them."""
        asked = any(kwargs.get(name) for name in ("compute_entropy", "compute_aux_loss", "pixel_values"))
        if not self.use_liger_kernel or asked or torch.is_grad_enabled():  # type: ignore[attr-defined]
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        inner = self.accelerator.unwrap_model(model)  # type: ignore[attr-defined]
        size = batch_size or len(input_ids)
        found = [
            self._forward_redirection(model, inner, self._score, inner, ids, mask, logits_to_keep)  # type: ignore[attr-defined]
            for ids, mask in zip(input_ids.split(size), attention_mask.split(size), strict=True)
        ]
        return torch.cat(found), None, None

    def _score(self, model: Any, ids: torch.Tensor, mask: torch.Tensor, count: int) -> torch.Tensor:
        hidden = self._get_last_hidden_state(model, ids, mask, count)
        head = model.lm_head
        with maybe_gather_lm_head_ctx(head.weight, head.bias):  # ZeRO-3 holds it in parts
            return chunked_logprobs(hidden, head.weight, ids[:, -count:], head.bias, self.temperature)  # type: ignore[attr-defined]
