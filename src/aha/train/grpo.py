"""Group-relative policy optimisation: TRL's GRPOTrainer, aha's rewards, and an engine that is held to the trainer's weights.

TRL keeps the algorithm. This adapter gives it three things: an engine in place of its own vLLM wiring (`EngineBridge`),
verdicts in place of reward functions (`Judge`), and a record of every rollout. Each completion is drawn with a seed made
of the run's seed, the step and the problem, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from aha.metrics import MetricsWriter, short_names
from aha.models.kernels import Kernels
from aha.recipe.algorithms import algorithm_of, outcome_of
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Recipe
from aha.rewards.scorer import Judged, Scorer
from aha.rundir import read_jsonl, write_jsonl
from aha.seeds import seed_of
from aha.train import heartbeat
from aha.train.algorithms import ESTIMATORS, options_of, require_whole_loss
from aha.train.bridge import EngineBridge, Policy, bridged
from aha.train.draws import Draws
from aha.train.finite import Finite
from aha.train.judge import Judge, rollout_line, without_signal
from aha.train.logprobs import Logprobs
from aha.train.lora import lora_config
from aha.train.overlap import Overlapped, require_overlap
from aha.train.parity import Parity
from aha.train.probes import Probes
from aha.train.reference import MovingReference
from aha.train.refill import Refilled
from aha.train.timeline import Timeline
from aha.train.trainer import Journal, Sealed, arguments
from aha.train.worst_case import WorstCase
from aha.types import Problem

WARN = logging.getLogger(__name__).warning


class GroupTrainer(Finite, Parity, WorstCase, Sealed, MovingReference, Overlapped, Refilled, Logprobs, GRPOTrainer):
    """TRL's GRPOTrainer with finite steps, sealed checkpoints, a record of every rollout, and no loss on what was not judged."""

    rollouts: Path
    vllm_generation: EngineBridge
    advantage = "group"

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self._estimate_advantages(output)
        self._leave_out_unjudged(output)
        step = self.state.global_step + 1
        in_loss = (output["completion_mask"] * output["tool_mask"]).any(dim=1).tolist()
        rows = zip(self.judge.last, output["advantages"].tolist(), in_loss, strict=True)
        lines = gather_object(
            [rollout_line(step, *judgement, *rest) | {"policy_step": self.policy_step} for judgement, *rest in rows]
        )
        if self.is_world_process_zero():
            path = self.rollouts / f"step-{step:06d}.jsonl"
            write_jsonl(path, [*(read_jsonl(path) if self.part else ()), *lines])
        self._record()
        return output

    def _estimate_advantages(self, output: dict[str, Any]) -> None:
        """The advantages that TRL does not have, of the totals of all processes; 0 where there is no verdict."""
        estimate = ESTIMATORS.get(self.advantage)
        if estimate is None:
            return
        mine = [float("nan") if judged.total is None else judged.total for _, _, judged in self.judge.last]
        everyone = self.accelerator.gather(torch.tensor(mine, device=self.accelerator.device))
        found = estimate(everyone.view(-1, self.judge.group_size)).flatten().nan_to_num(nan=0.0)
        start = self.accelerator.process_index * len(mine)
        output["advantages"] = found[start : start + len(mine)]

    def _calculate_rewards(self, *args: Any) -> torch.Tensor:
        with heartbeat.phase("reward"):
            return super()._calculate_rewards(*args)

    def _leave_out_unjudged(self, output: dict[str, Any]) -> None:
        """Take the tokens of completions without a verdict, or that only fill the batch, out of the loss and its count.

        TRL gives them advantage 0, but their tokens still dilute a token mean, and pay the KL penalty. They leave by the
        tool mask, which is of the loss alone: in `completion_mask` they would also leave the attention, and the ratio to
        their old log-probabilities would be of two different contexts. Losses that divide by completions (`grpo`,
        `dr_grpo`) still count them, as 0: each judged completion keeps the weight it has in a full batch.
        """
        tokens = output["completion_mask"]  # (completions, tokens)
        trained = zip(self._trained(len(tokens)), self.judge.last, strict=True)
        judged = torch.tensor([kept and one.total is not None for kept, (_, _, one) in trained], device=tokens.device)
        output["tool_mask"] = judged[:, None].to(tokens.dtype).repeat(1, tokens.shape[1])
        output["num_items_in_batch"] = self.accelerator.gather((tokens * output["tool_mask"]).sum()).sum()

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.vllm_generation.probes:
            self.vllm_generation.probes.took(norm, float(self._get_learning_rate()))
        return norm

    def _record(self) -> None:
        """Metrics that TRL does not have: one value per reward, seconds per phase, rollout speed. Of all processes: each
        has sampled and judged its own share."""
        metrics = self._metrics["train"]
        everyone: list[Judged] = gather_object([judged for _, _, judged in self.judge.last])
        spent = torch.tensor([self.vllm_generation.seconds, self.judge.seconds], device=self.accelerator.device)
        rollout, reward = self.accelerator.gather(spent[None]).amax(0).tolist()
        new_tokens = sum(gather_object([self.vllm_generation.new_tokens]))
        if self.policy_step == self.state.global_step:
            self.vllm_generation.require_same_policy(metrics["sampling/sampling_logp_difference/mean"][-1])
        else:  # drawn from older weights: what differs is the policy's own step; the probes look at the engine
            metrics["off_policy"].append(metrics["sampling/sampling_logp_difference/mean"].pop())
            metrics["sampling/sampling_logp_difference/max"].pop()
            for name in [name for name, values in metrics.items() if not values]:
                del metrics[name]
        for name, value in (self.vllm_generation.probes.metrics if self.vllm_generation.probes else {}).items():
            metrics[name].append(value)
        chosen = self.filled is not None and self.dynamic.enabled
        seen = self.filled.first if self.filled and chosen else everyone
        for name in seen[0].verdicts:
            metrics[f"reward/{name}"].append(_mean(one.verdicts[name].value for one in seen))
        if chosen:  # TRL has that of the chosen batch, which is about one half whatever the policy can do
            metrics["reward"][-1] = _mean(one.total for one in seen)
        if self.multi_objective_aggregation == "normalize_then_sum":  # TRL looks at the batch here, not at the groups
            metrics["frac_reward_zero_std"][-1] = without_signal(
                everyone, self.reward_func_names, self.judge.group_size
            )
        self._record_filling(metrics)
        metrics["unjudged"].append(sum(one.total is None for one in seen))
        metrics["seconds/rollout"].append(rollout)
        metrics["seconds/reward"].append(reward)
        metrics["rollout_tokens_per_second"].append(new_tokens / max(1e-6, rollout))


def make_grpo_trainer(
    recipe: Recipe,
    stage: StagePlan,
    folder: Path,
    device: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    messages: Sequence[list[dict[str, str]]],
    scorer: Scorer,
    policy: Policy,
    kernels: Kernels,
    resume_step: int,
    say: Callable[[str], None] = WARN,
) -> tuple[GroupTrainer, Journal]:
    """The trainer of the GRPO stage, ready for `.train()`. `messages` are the problems as chat, index by index.

    `say` takes a line for the person who watches.
    """
    block = recipe.grpo
    assert block is not None and stage.steps is not None
    judge = Judge(scorer, problems, block.group_size, {tokenizer.eos_token_id, tokenizer.pad_token_id}, recipe.chat)
    functions: dict[str, Any] = {judge.__name__: judge} if block.combine == "sum" else judge.each()
    weights = [1.0] if block.combine == "sum" else [scorer.weights[name] for name in functions]
    options = options_of(block, stage, kernels) | {"reward_weights": weights}
    args: Any = arguments(GRPOConfig, recipe, block, stage, folder, device, **options)
    writer = MetricsWriter(folder / "metrics.jsonl", resume_step)
    journal = Journal(writer, lambda step, logs: round(logs["num_tokens"]), _translate)
    trainer: GroupTrainer | None = None

    def seed_for(index: int) -> int:
        assert trainer is not None
        further = ("round", trainer.round) if trainer.round else ()
        return seed_of(recipe.seed, trainer.state.global_step, *further, index)

    def seed_at(step: int, index: int) -> int:
        return seed_of(recipe.seed, step, index)

    with bridged(policy, seed_for):
        trainer = GroupTrainer(
            model,
            list(functions.values()),
            args,
            train_dataset=Dataset.from_list(
                [{"prompt": chat, "problem_index": index} for index, chat in enumerate(messages)]
            ),
            processing_class=tokenizer,
            callbacks=[journal],
            peft_config=lora_config(block.lora),
        )
    require_whole_loss(trainer)
    algorithm = algorithm_of(block)
    trainer.advantage, trainer.dynamic, trainer.say = algorithm.advantage, algorithm.dynamic_sampling, say
    trainer.outcome = short_names(block.rewards)[outcome_of(recipe)]
    rates = folder / "pass_rates.jsonl" if block.curriculum == "pass_rate" else None
    trainer.draws = Draws(len(problems), recipe.seed, rates, resume_step)
    trainer.overlap, trainer.seed_at = block.rollout.overlap, seed_at
    if policy.submit is not None:
        trainer.submit = policy.submit
    require_overlap(trainer)
    trainer.timeline = Timeline(folder / "timeline.jsonl", policy.spans)
    trainer.parallel = recipe.hardware.parallel if stage.world_size > 1 else "none"
    trainer.judge = judge
    if policy.score:
        longest = block.rollout.max_prompt_tokens + block.rollout.max_tokens - 1  # the engine adds one when it scores
        warn = say if block.rollout.on_mismatch == "warn" else None
        trainer.vllm_generation.probes = Probes(trainer, policy.score, longest, warn)
    trainer.kernels = kernels
    trainer.expect_longest(recipe, stage, block.rollout.max_prompt_tokens, block.rollout.max_tokens)
    trainer.rollouts = folder / "rollouts"
    trainer.rollouts.mkdir(parents=True, exist_ok=True)
    if device == "cpu" and kernels.liger is not None:
        trainer.liger_loss.compiled = False  # half a minute of compilation for a loss that takes milliseconds
    return trainer, journal


def _translate(logs: dict[str, Any]) -> dict[str, float | None]:
    names = {
        "reward": "reward",
        "reward_std": "reward_std",
        "completions/mean_length": "completion_length",
        "completions/clipped_ratio": "truncated",
        "frac_reward_zero_std": "no_signal",
        "entropy": "entropy",
        "sampling/sampling_logp_difference/mean": "mismatch",
        "sampling/sampling_logp_difference/max": "mismatch_max",
        "kl": "kl",
        "clip_ratio": "clip_ratio",
        "clip_ratio/region_mean": "clip_ratio",
    }
    kept = {new: logs[old] for old, new in names.items() if old in logs}
    own = {key: value for key, value in logs.items() if key.startswith(("reward/", "seconds/")) or key in OWN}
    if "step_time" in logs:  # TRL's is of the whole step: training is what is left of it
        spent = sum(value for key, value in own.items() if key.startswith("seconds/"))
        own["seconds/train"] = max(0.0, logs["step_time"] - spent)
    return kept | own


OWN = (
    "off_policy",
    "unjudged",
    "rollout_tokens_per_second",
    "mismatch_probes",
    "mismatch_warnings",
    "arrived",
    "rounds",
    "groups_kept",
    "completions_sampled",
)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
