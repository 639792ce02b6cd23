"""The algorithms in TRL's words: `recipe/algorithms.py` says what a preset is, this file which switches compute it.

TRL has the losses and three of the advantages. The other two are computed here, from the rewards of the whole step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aha.errors import KernelError
from aha.models.kernels import Kernels
from aha.recipe.algorithms import algorithm_of
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Grpo, ReferenceSync

LOSSES = {
    ("clip", "completion"): "grpo",
    ("clip", "token"): "dapo",
    ("clip", "constant"): "dr_grpo",
    ("cispo", "token"): "cispo",
}
"""Surrogate and average -> TRL's loss_type. A recipe with another pair is refused where it is read."""

SCALES = {"group": "group", "batch": "batch"}
"""Advantage -> TRL's scale_rewards; none for the rest."""

# How several rewards become one advantage. The second is GDPO, arXiv:2601.05242.
COMBINATIONS = {"sum": "sum_then_normalize", "normalise_each": "normalize_then_sum"}

STABLE = 1e-4
"""What TRL adds to a deviation before it divides."""


def options_of(block: Grpo, stage: StagePlan, kernels: Kernels) -> dict[str, Any]:
    """TRL's arguments for a recipe's `grpo:` block, beside those that all stages share."""
    algorithm, sync = algorithm_of(block), block.reference_sync or ReferenceSync()
    return {
        "loss_type": LOSSES[algorithm.surrogate, algorithm.average],
        "scale_rewards": SCALES.get(algorithm.advantage, "none"),
        "importance_sampling_level": algorithm.ratio,
        "epsilon": algorithm.clip_low,
        "epsilon_high": algorithm.clip_high,
        "mask_truncated_completions": algorithm.mask_truncated,
        "entropy_coef": block.entropy_bonus,
        "top_entropy_quantile": block.high_entropy_share,
        "max_steps": stage.steps,
        "warmup_steps": round(block.warmup * (stage.steps or 0)),
        "num_generations": block.group_size,
        "num_iterations": block.iterations,
        "multi_objective_aggregation": COMBINATIONS[block.combine],
        "max_completion_length": block.rollout.max_tokens,
        "beta": block.beta,
        "use_bias_correction_kl": algorithm.unbiased_kl,
        "sync_ref_model": block.reference_sync is not None,
        "ref_model_sync_steps": sync.every,
        "ref_model_mixup_alpha": sync.share,
        "temperature": block.rollout.temperature,
        "top_p": block.rollout.top_p,
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": block.rollout.correction_cap,
        "use_liger_kernel": kernels.liger is not None,
        "liger_kernel_config": kernels.liger,
        "log_completions": False,
    }


def leave_one_out(rewards: torch.Tensor) -> torch.Tensor:
    """r_i minus the mean of the others of its group (RLOO, arXiv:2402.14740, eq. 8).

    `rewards` is (groups, members), NaN where there was no verdict; so is the result.
    """
    judged = (~rewards.isnan()).sum(dim=1, keepdim=True)
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    return centred * judged / (judged - 1).clamp(min=1)


def whitened(rewards: torch.Tensor) -> torch.Tensor:
    """r_i minus its group's mean, over the deviation of that in the whole step (REINFORCE++, arXiv:2501.03262).

    `rewards` is (groups, members), NaN where there was no verdict; so is the result.
    """
    centred = rewards - rewards.nanmean(dim=1, keepdim=True)
    known = centred[~centred.isnan()]
    return centred / (known.std() + STABLE) if len(known) > 1 else centred


ESTIMATORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"leave_one_out": leave_one_out, "whitened": whitened}
"""The advantages that TRL does not have."""


LOGIT_SCALES = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""What some architectures (Gemma 2, Granite, Cohere) do to logits after the last matrix."""


def require_whole_loss(trainer: Any) -> None:
    """Raises KernelError when Liger's loss would leave out, without a word, what TRL's own does for this model.

    It multiplies hidden states by the last matrix itself, and adds no loss of a router.
    """
    if not trainer.use_liger_kernel:
        return
    config = trainer.model.config.get_text_config()
    scales = [name for name in LOGIT_SCALES if getattr(config, name, None) not in (None, 1, 1.0)]
    if scales:
        raise KernelError(f"Liger's GRPO loss leaves out this model's {scales[0]}. Write kernels: torch")
    if trainer.aux_loss_enabled:
        raise KernelError(
            "Liger's GRPO loss leaves out the router's load-balancing loss of this mixture of experts. Write kernels: "
            "torch, or grpo.trainer: {router_aux_loss_coef: 0} to do without"
        )
