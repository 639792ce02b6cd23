"""The algorithms: what `algorithm: dapo` stands for, in the recipe's own keys, each with its paper and its equation.

Every field of an `Algorithm` is a key of the `grpo:` block and can be set beside the preset. For each completion o_i of a
group of G, with reward r_i and importance ratio w against the policy that sampled it, all of them minimise

    - average over i and t of  surrogate(w, A_i)  + beta · KL(policy, reference)_t

and differ in how the advantage A comes from the rewards, in the surrogate and its clip, and in what the average is over.
The KL is DeepSeekMath's k3 estimator (eq. 4), and `beta` is 0 unless the recipe says otherwise. `train/algorithms.py`
puts this in TRL's words.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from aha.recipe.schema import DynamicSampling, Grpo, Recipe

NO_RESAMPLING = DynamicSampling(enabled=False)


@dataclass(frozen=True)
class Algorithm:
    """One algorithm, worked out. Means and deviations are over judged completions; deviations are of a sample (n - 1)."""

    advantage: Literal["group", "batch", "mean", "leave_one_out", "whitened"] = "group"
    """group: (r - mean of the group) / (deviation of the group + 1e-4). batch: / (deviation of all rewards + 1e-4)
    (arXiv:2508.08221). mean: r - mean of the group. leave_one_out: r - mean of the others of the group. whitened:
    r - mean of the group, / (deviation of that over the batch + 1e-4)."""
    surrogate: Literal["clip", "cispo"] = "clip"
    """clip: min(w A, clip(w, 1 - clip_low, 1 + clip_high) A). cispo: stopgrad(min(w, clip_high)) A log policy."""
    ratio: Literal["token", "sequence"] = "token"
    """w of each token; or of the completion, as the geometric mean over its tokens."""
    average: Literal["completion", "token", "constant"] = "completion"
    """completion: over each completion's tokens, then over completions. token: over all tokens of the step. constant:
    the sum of the tokens / rollout.max_tokens, then over completions."""
    clip_low: float = 0.2
    clip_high: float | None = None
    """None: as clip_low."""
    unbiased_kl: bool = False
    """Multiply the KL by w: its gradient is then that of the reverse KL, which k3's is not (DeepSeek-V3.2,
    arXiv:2512.02556). TRL does so unless it is told; no paper here does."""
    mask_truncated: bool = False
    """Completions that the length limit ended are compared with, but are not trained on."""
    dynamic_sampling: DynamicSampling = NO_RESAMPLING


ALGORITHMS = {
    # DeepSeekMath, arXiv:2402.03300, eq. 3: the mean over a completion's tokens, then over completions.
    "grpo": Algorithm(),
    # Dr. GRPO, arXiv:2503.20783, section 3.2: neither the completion's length nor the group's deviation divides. The
    # sum over tokens is divided by the constant max_tokens, as in the authors' code.
    "dr_grpo": Algorithm(advantage="mean", average="constant"),
    # DAPO, arXiv:2503.14476, eq. 8: clip-higher (section 3.1), dynamic sampling (3.2), the mean over all tokens (3.3; of
    # the whole step, as in the authors' code, where eq. 8 has those of one prompt) and overlong filtering (3.4). Its
    # soft overlong punishment (eq. 13) is a reward; with rollout.max_tokens 20480, as in the paper, it is
    # `rewards: {…, soft_overlong: {weight: 1.0, max_tokens: 20480, cache: 4096}}`.
    "dapo": Algorithm(average="token", clip_high=0.28, mask_truncated=True, dynamic_sampling=DynamicSampling()),
    # GSPO, arXiv:2507.18071, eq. 5-7; the clip range is that of section 5.1.
    "gspo": Algorithm(ratio="sequence", clip_low=3e-4, clip_high=4e-4),
    # CISPO, MiniMax-M1, arXiv:2506.13585, eq. 4-5: no token loses its gradient, and there is no lower bound. The paper
    # gives no upper bound; 5.0 is ScaleRL's (arXiv:2510.13786). `clip_high` bounds the ratio itself, not its excess over 1.
    "cispo": Algorithm(surrogate="cispo", average="token", clip_high=5.0),
    # RLOO, arXiv:2402.14740, eq. 8: REINFORCE on whole completions, whose baseline is the mean of the others. The sum over
    # tokens is divided by the constant max_tokens, which leaves the direction as it is. The paper steps once per batch:
    # there w is 1 and nothing is clipped; with `iterations` above 1 the clip is PPO's.
    "rloo": Algorithm(advantage="leave_one_out", average="constant"),
    # REINFORCE++ with baseline, arXiv:2501.03262, the variant for groups: the group's mean is the baseline, one
    # deviation over the batch scales all. Statistics are over completions. Its KL is in the loss, as here, but by k2.
    "reinforce_pp": Algorithm(advantage="whitened"),
}


def algorithm_of(block: Grpo) -> Algorithm:
    """The preset of a recipe's `grpo:` block, with what is set beside it.

    >>> from aha.recipe.schema import Source
    >>> block = Grpo(data=[Source(hub="a/b")], rewards={"x": 1.0}, steps=1, algorithm="dapo", clip_high=0.4)
    >>> algorithm_of(block).clip_high, algorithm_of(block).average
    (0.4, 'token')
    """
    preset = ALGORITHMS[block.algorithm]
    beside = {field.name: getattr(block, field.name) for field in dataclasses.fields(preset)}
    return dataclasses.replace(preset, **{name: value for name, value in beside.items() if value is not None})


def outcome_of(recipe: Recipe) -> str:
    """The reward that says whether an answer is right: the recipe's `outcome`, else the first that carries weight without
    an `only_if`; one that an evaluation grades by goes before one that none does.
    """
    block = recipe.grpo
    assert block is not None
    if block.outcome is not None:
        return block.outcome
    entries = {name: entry if isinstance(entry, dict) else {"weight": entry} for name, entry in block.rewards.items()}
    weighted = [name for name, entry in entries.items() if entry.get("weight", 1.0)]
    free = [name for name in weighted if "only_if" not in entries[name]] or weighted or list(entries)
    graders = {task.grader for task in recipe.eval.tasks} if recipe.eval else set()
    return next((name for name in free if name in graders), free[0])


def plain_loss(block: Grpo) -> str | None:
    """Why Liger's GRPO loss cannot compute this block's loss; None when it can."""
    needs = {
        "entropy_bonus": block.entropy_bonus != 0,
        "high_entropy_share": block.high_entropy_share < 1,
        "trainer.off_policy_mask_threshold": block.trainer.get("off_policy_mask_threshold") is not None,
        "trainer.cast_lm_head_to_fp32": bool(block.trainer.get("cast_lm_head_to_fp32")),  # it casts it back
    }
    found = [name for name, needed in needs.items() if needed]
    return f"Liger's GRPO loss does not know grpo.{found[0]}" if found else None
