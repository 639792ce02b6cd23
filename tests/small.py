"""The real trainers of the three stages around a model of two thin layers, without a run directory or an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nano import NANO
from transformers import AutoModelForCausalLM
from transformers.integrations.liger import apply_liger_kernel

from aha.data import arithmetic
from aha.data.chat import apply_format, messages_of
from aha.data.packing import Tokens
from aha.data.rows import packed_rows
from aha.models.kernels import Kernels
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe import load_recipe
from aha.recipe.plan import make_plan
from aha.recipe.schema import Recipe
from aha.rewards.scorer import Scorer
from aha.train.bridge import Policy
from aha.train.grpo import GroupTrainer, make_grpo_trainer
from aha.train.sft import SupervisedTrainer, make_sft_trainer
from aha.types import Problem

LINES = [f"{first} + {second} = {first + second}" for first in range(8) for second in range(8)]


def _start(folder: Path, keys: list[str]) -> tuple[Recipe, Any, Any, Any]:
    (folder / "nano.yaml").write_text(NANO)
    recipe = load_recipe(folder / "nano.yaml", ["hardware.device=cpu", *keys])
    assert recipe.model.from_scratch is not None
    tokenizer = make_tokenizer(arithmetic.vocabulary(), (*recipe.chat.think, *recipe.chat.answer))
    apply_format(recipe.chat, tokenizer)
    plan = make_plan(recipe, folder / "run", "nano.yaml")
    return recipe, plan, tokenizer, make_model(recipe.model.from_scratch, tokenizer, seed=0)


def supervised(folder: Path, kernels: Kernels, steps: int, *keys: str) -> SupervisedTrainer:
    """The CPT trainer: rows of three sums, 15 tokens each, four a step."""
    recipe, plan, tokenizer, model = _start(
        folder, ["cpt.max_tokens=15", "cpt.batch_size=4", "cpt.save_every=100", *keys]
    )
    sums = [Tokens(ids, ids) for ids in tokenizer(LINES).input_ids]
    rows = packed_rows(sums, [], 15, folder / "rows", lambda line: None)
    stage, there = plan.stages[0], folder / "run" / "1-cpt"
    return make_sft_trainer(recipe, recipe.cpt, stage, steps, there, "cpu", model, tokenizer, rows, kernels, 0)[0]


def group(folder: Path, kernels: Kernels, *keys: str) -> GroupTrainer:
    """The GRPO trainer, for a policy that is never asked."""
    recipe, plan, tokenizer, model = _start(folder, ["grpo.rewards={math_answer: 1.0}", *keys])
    problems = [Problem(f"{number} + 1", str(number + 1), str(number)) for number in range(8)]
    model.save_pretrained(folder / "model")  # a KL penalty reads its reference from there
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    chats = [messages_of(problem.prompt, recipe.chat.system) for problem in problems]
    policy = Policy(lambda weights: None, lambda prompts, seeds: [])
    with Scorer({"math_answer": 1.0}, workers=1) as scorer:
        made = make_grpo_trainer(
            recipe, plan.stages[-1], folder / "run" / "3-grpo", "cpu", model, tokenizer, problems, chats, scorer, policy, kernels, 0,
        )[0]  # fmt: skip
    if kernels.liger:  # as `train` begins: the kernels, and accelerate's autocast
        apply_liger_kernel(made.model, kernels.liger)
    made.model_wrapped = made.accelerator.prepare_model(made.model)
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def completions(trainer: GroupTrainer, rows: int = 4, tokens: int = 12) -> dict[str, torch.Tensor]:
    """A batch as TRL makes it: random tokens of unequal lengths, advantages around 0, the policy's own old logprobs."""
    drawn = torch.Generator().manual_seed(1)
    words = trainer.model.config.vocab_size

    def ids(length: int) -> torch.Tensor:
        return torch.randint(5, words, (rows, length), generator=drawn)

    mask = (torch.arange(tokens) < torch.arange(rows)[:, None] * 2 + tokens // 2).long()
    advantages = torch.randn(rows, generator=drawn)
    batch = {
        "prompt_ids": ids(8),
        "prompt_mask": torch.ones(rows, 8, dtype=torch.long),
        "completion_ids": ids(tokens),
        "completion_mask": mask,
        "advantages": advantages - advantages.mean(),
        "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": torch.rand(rows, tokens, generator=drawn) + 0.5,
    }
    return batch | {"old_per_token_logps": logprobs(trainer, batch)}


@torch.no_grad()
def logprobs(trainer: GroupTrainer, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """As TRL scores a batch before it trains on it: (rows, tokens)."""
    whole, mask = (torch.cat([batch[f"prompt_{what}"], batch[f"completion_{what}"]], 1) for what in ("ids", "mask"))
    count = batch["completion_ids"].shape[1]
    return trainer._get_per_token_logps_and_entropies(trainer.model, whole, mask, count, batch_size=2)[0]
