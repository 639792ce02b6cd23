"""Group-relative policy optimisation: TRL's GRPOTrainer, aha's rewards, and an engine that is held to the trainer's weights.

TRL keeps the algorithm. This adapter gives it three things: an engine in place of its own vLLM wiring (`EngineBridge`),
verdicts in place of reward functions (`Judge`), and a record of every rollout. Each completion is drawn with a seed made
of the run's seed, the step and the problem, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from aha.errors import EngineError
from aha.metrics import MetricsWriter
from aha.models.kernels import Kernels, verify
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Chat, Grpo, Recipe
from aha.rewards.scorer import Judged, Scorer
from aha.rundir import write_jsonl
from aha.seeds import seed_of
from aha.train.finite import Finite
from aha.train.lora import lora_config
from aha.train.trainer import Journal, Sealed, arguments
from aha.types import Completion, Problem

# Each preset is TRL's own switches for one paper's objective; every one of them can be set beside it.
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


# Mean |logprob of the trainer - logprob of the engine| over the sampled tokens, in nats. Rounding stays a hundred times
# below in float32; in bfloat16 honest runs show up to 0.02, and a stale tied head 0.04 after six steps.
MISMATCH = {"float32": 1e-3, "bfloat16": 0.05}


class Policy:
    """What GRPO needs of a rollout engine: `generate(prompts, seeds)` and `sync(weights)`. See rollout/engine.py."""

    def __init__(self, sync: Callable[[Any], None], generate: Callable[[list[list[int]], list[int]], list[Any]]):
        self.sync = sync
        self.generate = generate


class EngineBridge(VLLMGeneration):
    """Stands where TRL expects its vLLM wrapper. TRL gathers the weights; the engine takes them and generates."""

    policy: Policy
    seed_for: Callable[[int], int]
    seconds = 0.0
    new_tokens = 0

    def _init_vllm(self) -> None:
        """The engine is running already."""

    def sync_weights(self) -> None:
        self.policy.sync(self._iter_named_params())

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None) -> tuple:
        began = time.perf_counter()
        first = self.accelerator.process_index * len(prompts)
        drawn = self.policy.generate(prompts, [self.seed_for(first + index) for index in range(len(prompts))])
        self.seconds = time.perf_counter() - began
        self.new_tokens = sum(len(generation.token_ids) for generation in drawn)
        logprobs = [[[value] for value in generation.logprobs] for generation in drawn]
        return prompts, [generation.token_ids for generation in drawn], logprobs, None


@contextmanager
def _bridged(policy: Policy, seed_for: Callable[[int], int]) -> Iterator[None]:
    """TRL builds its generation backend by name inside its constructor: give it ours for that moment."""
    bridge = type("Bridge", (EngineBridge,), {"policy": policy, "seed_for": staticmethod(seed_for)})
    module: Any = grpo_trainer
    original, module.VLLMGeneration = module.VLLMGeneration, bridge
    try:
        yield
    finally:
        module.VLLMGeneration = original


class Judge:
    """What TRL calls for rewards: the weighted total of the recipe's rewards, None where there is no verdict."""

    __name__ = "total"

    def __init__(self, scorer: Scorer, problems: Sequence[Problem], group_size: int, end_ids: set[int], chat: Chat):
        self._scorer = scorer
        self._problems = problems
        self.group_size = group_size
        self._end_ids = end_ids
        self._chat = chat
        self.last: list[tuple[Problem, Completion, Judged]] = []
        self.seconds = 0.0

    def __call__(
        self, completions: list[Any], completion_ids: list[list[int]], problem_index: list[int], **_: Any
    ) -> list[float | None]:
        began = time.perf_counter()
        problems = [self._problems[index] for index in problem_index]
        answers = [
            Completion(
                messages[0]["content"],
                len(ids),
                truncated=ids[-1] not in self._end_ids,
                think=self._chat.think,
                answer=self._chat.answer,
            )
            for messages, ids in zip(completions, completion_ids, strict=True)
        ]
        judged = self._scorer.score(answers, problems, self.group_size)
        self.last = list(zip(problems, answers, judged, strict=True))
        self.seconds = time.perf_counter() - began
        return [one.total for one in judged]

    def each(self) -> dict[str, Callable[..., list[float | None]]]:
        """One function per reward that carries weight. The first one asks the scorer, the others read what it said.

        A completion without a total has no value in any of them: TRL leaves out only what no function judged.
        """
        names = [name for name, weight in self._scorer.weights.items() if weight]
        return {name: self._reader(name, asks=name == names[0]) for name in names}

    def _reader(self, name: str, asks: bool) -> Callable[..., list[float | None]]:
        def read(**batch: Any) -> list[float | None]:
            if asks:
                self(**batch)
            return [None if judged.total is None else judged.counted[name] for _, _, judged in self.last]

        read.__name__ = name
        return read


class GroupTrainer(Finite, Sealed, GRPOTrainer):
    """TRL's GRPOTrainer with finite steps, sealed checkpoints, a record of every rollout, and no loss on what was not judged."""

    judge: Judge
    rollouts: Path
    vllm_generation: EngineBridge

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self._leave_out_unjudged(output)
        step = self.state.global_step + 1
        suffix = "" if self.accelerator.num_processes == 1 else f"-rank{self.accelerator.process_index}"
        path = self.rollouts / f"step-{step:06d}{suffix}.jsonl"
        rows = zip(self.judge.last, output["advantages"].tolist(), strict=True)
        write_jsonl(path, (_rollout_line(step, *judgement, advantage) for judgement, advantage in rows))
        self._record()
        return output

    def _leave_out_unjudged(self, output: dict[str, Any]) -> None:
        """Take the tokens of completions without a verdict out of the loss and of its token count.

        TRL gives them advantage 0, but their tokens still dilute a token mean, and pay the KL penalty. They leave by the
        tool mask, which is of the loss alone: in `completion_mask` they would also leave the attention, and the ratio to
        their old log-probabilities would be of two different contexts. Losses that divide by completions (`grpo`,
        `dr_grpo`) still count them, as 0: each judged completion keeps the weight it has in a full batch.
        """
        tokens = output["completion_mask"]  # (completions, tokens)
        judged = torch.tensor([judged.total is not None for _, _, judged in self.judge.last], device=tokens.device)
        output["tool_mask"] = judged[:, None].to(tokens.dtype).repeat(1, tokens.shape[1])
        output["num_items_in_batch"] = self.accelerator.gather((tokens * output["tool_mask"]).sum()).sum()

    def _record(self) -> None:
        """Metrics that TRL does not have: one value per reward, seconds per phase, rollout speed."""
        metrics = self._metrics["train"]
        _require_same_policy(metrics["sampling/sampling_logp_difference/mean"][-1], self.args.bf16)
        for name in self.judge.last[0][2].verdicts:
            values = [judged.verdicts[name].value for _, _, judged in self.judge.last]
            known = [value for value in values if value is not None]
            metrics[f"reward/{name}"].append(sum(known) / len(known) if known else float("nan"))
        if self.multi_objective_aggregation == "normalize_then_sum":  # TRL looks at the batch here, not at the groups
            judged = [judged for _, _, judged in self.judge.last]
            metrics["frac_reward_zero_std"][-1] = _without_signal(judged, self.reward_func_names, self.judge.group_size)
        missing = sum(judged.total is None for _, _, judged in self.judge.last)
        metrics["unjudged"].append(missing)
        metrics["seconds/rollout"].append(self.vllm_generation.seconds)
        metrics["seconds/reward"].append(self.judge.seconds)
        metrics["rollout_tokens_per_second"].append(
            self.vllm_generation.new_tokens / max(1e-6, self.vllm_generation.seconds)
        )


def _without_signal(judged: Sequence[Judged], names: Sequence[str], group_size: int) -> float:
    """The share of groups in which no reward tells one judged completion from another."""
    groups = [judged[start : start + group_size] for start in range(0, len(judged), group_size)]
    kinds = [{tuple(one.counted[name] for name in names) for one in group if one.total is not None} for group in groups]
    return sum(len(kind) < 2 for kind in kinds) / len(groups)


def _require_same_policy(difference: float, bf16: bool) -> None:
    """The engine's logprobs of what it has just sampled must be the trainer's, up to rounding.

    Raises EngineError when they are not: rollouts were drawn from other weights than the ones being trained.
    """
    limit = MISMATCH["bfloat16" if bf16 else "float32"]
    if not difference <= limit:
        raise EngineError(
            f"the engine samples from another policy than the one being trained: mean |logprob difference| {difference:.4f}, "
            f"at most {limit} expected. Weights did not arrive, or temperature or dtype differ"
        )


def _rollout_line(
    step: int, problem: Problem, completion: Completion, judged: Judged, advantage: float
) -> dict[str, Any]:
    return {
        "step": step,
        "problem_id": problem.id,
        "prompt": problem.prompt,
        "answer": problem.answer,
        "completion": completion.text,
        "tokens": completion.tokens,
        "truncated": completion.truncated,
        "rewards": {
            name: {"value": verdict.value, "reason": verdict.reason, "seconds": round(verdict.seconds, 6)}
            for name, verdict in judged.verdicts.items()
        },
        "reward": judged.total,
        "advantage": round(advantage, 6),
    }


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
) -> tuple[GroupTrainer, Journal]:
    """The trainer of the GRPO stage, ready for `.train()`. `messages` are the problems as chat, index by index."""
    block = recipe.grpo
    assert block is not None and stage.steps is not None
    judge = Judge(scorer, problems, block.group_size, {tokenizer.eos_token_id, tokenizer.pad_token_id}, recipe.chat)
    functions: dict[str, Any] = {judge.__name__: judge} if block.combine == "sum" else judge.each()
    weights = [1.0] if block.combine == "sum" else [scorer.weights[name] for name in functions]
    options = _options(block, stage, kernels) | {"reward_weights": weights}
    args: Any = arguments(GRPOConfig, recipe, block, stage, folder, device, **options)
    writer = MetricsWriter(folder / "metrics.jsonl", resume_step)
    journal = Journal(writer, lambda step, logs: round(logs["num_tokens"]), _translate)
    trainer: GroupTrainer | None = None

    def seed_for(index: int) -> int:
        assert trainer is not None
        return seed_of(recipe.seed, trainer.state.global_step, index)

    with _bridged(policy, seed_for):
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
    trainer.judge = judge
    trainer.rollouts = folder / "rollouts"
    trainer.rollouts.mkdir(parents=True, exist_ok=True)
    if device == "cpu" and kernels.liger is not None:
        trainer.liger_loss.compiled = False  # half a minute of compilation for a loss that takes milliseconds
    verify(kernels, trainer.model)
    return trainer, journal


def _options(block: Grpo, stage: StagePlan, kernels: Kernels) -> dict[str, Any]:
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
        "step_time": "seconds/train",
    }
    kept = {new: logs[old] for old, new in names.items() if old in logs}
    own = {key: value for key, value in logs.items() if key.startswith(("reward/", "seconds/")) or key in OWN}
    return kept | own


OWN = ("unjudged", "rollout_tokens_per_second")
