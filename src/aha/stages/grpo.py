"""Stage 3, GRPO: sample a group of completions per problem, judge them, and raise what beat its group.

The engine starts on the input checkpoint and is moved to the trainer's weights after every step.
"""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Any

from transformers import PreTrainedTokenizerBase

from aha.data.chat import messages_of, prompt_ids
from aha.data.sources import Tally, read_problems
from aha.errors import DataError
from aha.models.load import load_tokenizer
from aha.recipe.algorithms import plain_loss
from aha.recipe.schema import Grpo
from aha.rewards.golds import ALLOWED, check_golds
from aha.rewards.honest import Tags
from aha.rewards.scorer import Scorer
from aha.rollout.engine import Sampling
from aha.stages.context import Context
from aha.stages.rollouts import policy_of, rollout_engine
from aha.train.grpo import make_grpo_trainer
from aha.train.watchdog import Watchdog
from aha.types import Problem


def run(context: Context) -> None:
    """Train for `grpo.steps` optimiser steps."""
    recipe, block = context.plan.recipe, context.plan.recipe.grpo
    assert block is not None and context.stage.steps is not None
    parent = context.receive()
    problems, chats, tallies = _problems(context, block, load_tokenizer(parent))
    with (
        Scorer(
            block.rewards, block.reward_deadline, block.reward_workers, block.reward_failures, "grpo.rewards"
        ) as scorer,
        ExitStack() as opened,
    ):
        for note in scorer.notes:
            context.say(note)
        problems, chats, golds = _with_good_answers(context, block, scorer, problems, chats)
        engine, choice = opened.enter_context(rollout_engine(context, block, parent))
        model, tokenizer = context.open_model(parent)
        plain = plain_loss(block)
        kernels = context.choose_kernels(model.config.model_type, plain)
        if plain:
            context.say(f"kernels: torch, {plain}")
        facts = {"problems": len(problems), "golds": golds, "engine": choice.name, "engine_why": choice.why}
        context.note(context.stage.steps, tallies, **facts)
        checkpoint, resume_step = context.resume_point()
        sampling = Sampling(block.rollout.max_tokens, block.rollout.temperature, block.rollout.top_p)
        trainer, journal = make_grpo_trainer(
            recipe,
            context.stage,
            context.folder,
            context.device,
            model,
            tokenizer,
            problems,
            chats,
            scorer,
            policy_of(engine, sampling),
            kernels,
            resume_step,
            context.say,
        )
        if block.health != "off":
            trainer.add_callback(Watchdog(context.folder, recipe, context.say))
        gc.collect()
        gc.freeze()  # vLLM and the trainer together hold a million objects that every later collection would walk
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    context.finish(trainer, tokenizer, parent, context.stage.steps, journal)


def _problems(
    context: Context, block: Grpo, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Problem], list[list[dict[str, str]]], list[Tally]]:
    """The questions that fit `max_prompt_tokens`, and as chat messages.

    Raises DataError when fewer are left than one step needs.
    """
    recipe = context.plan.recipe
    problems, tallies = read_problems(block.data, recipe.seed)
    kept, chats, dropped = [], [], 0
    for problem in problems:
        messages = messages_of(problem.prompt, recipe.chat.system)
        if len(prompt_ids(tokenizer, messages)) > block.rollout.max_prompt_tokens:
            dropped += 1
            continue
        kept.append(problem)
        chats.append(messages)
    if dropped:
        context.say(
            f"{dropped} of {len(problems)} prompts are longer than {block.rollout.max_prompt_tokens} tokens and were dropped"
        )
    _require_a_step(len(kept), block, f"fit max_prompt_tokens {block.rollout.max_prompt_tokens}")
    return kept, chats, tallies


def _with_good_answers(
    context: Context, block: Grpo, scorer: Scorer, problems: list[Problem], chats: list[list[dict[str, str]]]
) -> tuple[list[Problem], list[list[dict[str, str]]], dict[str, Any]]:
    """The problems whose own answers earn full marks, their chats, and the record of it; see `rewards/golds.py`."""
    chat_of = {problem.id: chat for problem, chat in zip(problems, chats, strict=True)}
    tags = Tags(context.plan.recipe.chat.think, context.plan.recipe.chat.answer)
    found = check_golds(
        scorer, problems, tags, max(ALLOWED, *(source.bad_rows for source in block.data)), where="grpo.data"
    )
    for remark in found.remarks():
        context.say(remark)
    _require_a_step(len(found.kept), block, "have an answer that earns full marks")
    return found.kept, [chat_of[problem.id] for problem in found.kept], found.record()


def _require_a_step(count: int, block: Grpo, which: str) -> None:
    if count < block.prompts_per_step:
        raise DataError(f"grpo: {count} problems {which}, fewer than prompts_per_step {block.prompts_per_step}")
