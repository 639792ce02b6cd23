"""The algorithms: each preset is TRL's own switches for one paper's objective, and every one of them can be set beside it.

A recipe says `algorithm: dapo`; this file says what that means to TRL's GRPOTrainer.
"""

from __future__ import annotations

from typing import Any

from aha.models.kernels import Kernels
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Grpo

ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "scale_rewards": "group"},  # DeepSeekMath, arXiv:2402.03300, eq. 3
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},  # arXiv:2503.20783, eq. 5
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28, "mask_truncated_completions": True},  # arXiv:2503.14476, eq. 8
    "gspo": {  # arXiv:2507.18071, eq. 5
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
    },
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},  # MiniMax-M1, arXiv:2506.13585, eq. 4
}

# How several rewards become one advantage. The second is GDPO, arXiv:2601.05242.
COMBINATIONS = {"sum": "sum_then_normalize", "normalise_each": "normalize_then_sum"}


def options_of(block: Grpo, stage: StagePlan, kernels: Kernels) -> dict[str, Any]:
    """TRL's arguments for a recipe's `grpo:` block, beside those that all stages share."""
    options: dict[str, Any] = ALGORITHMS[block.algorithm] | {
        "max_steps": stage.steps,
        "warmup_steps": round(block.warmup * (stage.steps or 0)),
        "num_generations": block.group_size,
        "num_iterations": block.iterations,
        "multi_objective_aggregation": COMBINATIONS[block.combine],
        "max_completion_length": block.rollout.max_tokens,
        "beta": block.beta,
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
    if block.clip_low is not None:
        options["epsilon"] = block.clip_low
    if block.clip_high is not None:
        options["epsilon_high"] = block.clip_high
    return options
