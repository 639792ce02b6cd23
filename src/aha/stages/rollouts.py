"""Where the GRPO stage's completions come from: an engine in its own process, or servers (`grpo.rollout.mode`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aha.recipe.overlaps import in_words
from aha.recipe.schema import Grpo, Recipe
from aha.rollout.calls import SERVERS
from aha.rollout.engine import Engine, EngineChoice, EngineLimits, Generation, Sampling
from aha.rollout.fleet import Fleet, Patience
from aha.rollout.member import Member, own
from aha.rollout.served import ServedEngine
from aha.rollout.start import choose_engine, start_engine
from aha.rollout.worker import ServerConfig
from aha.stages.context import Context
from aha.train.bridge import Policy
from aha.train.trainer import mixed_bf16
from aha.types import Checkpoint


@contextmanager
def rollout_engine(context: Context, block: Grpo, parent: Checkpoint) -> Iterator[tuple[Engine, EngineChoice]]:
    """The engine that the recipe asks for, on the stage's input checkpoint, and why it is that one.

    Raises EngineError when it cannot start, when no server answers, or when one serves another checkpoint.
    """
    choice = choose_engine(block.rollout.engine)
    if block.rollout.mode == "colocate":
        context.say(f"rollouts: {choice.name}, {choice.why}; {in_words(block)}")
        yield (
            start_engine(choice, parent.path, limits_of(context.plan.recipe, context.device), context.plan.recipe.seed),
            choice,
        )
        return
    given = [where for where in os.environ.get(SERVERS, "").split(",") if where] or block.rollout.servers
    members = [Member(where, address=where) for where in given] or own(
        block.rollout.server_count, server_config(context, block, parent), context.folder / "servers"
    )
    with _fleet(context, block, parent, members) as fleet:
        for member in members:
            fleet.check(member, limits_of(context.plan.recipe, context.device).__dict__)
        context.say(f"rollouts: {choice.name}, {choice.why}; {in_words(block, given)}")
        yield ServedEngine(fleet, f"{choice.name} server"), choice


def policy_of(engine: Engine, sampling: Sampling) -> Policy:
    """The engine in the words of the trainer."""

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[Generation]:
        return engine.generate(prompts, sampling, seeds)

    if not isinstance(engine, ServedEngine):
        return Policy(engine.sync, generate, engine.score)
    return Policy(
        engine.sync,
        generate,
        engine.score,
        submit=lambda prompts, seeds: engine.submit(prompts, sampling, seeds),
        spans=engine.new_spans,
    )


def _fleet(context: Context, block: Grpo, parent: Checkpoint, members: list[Member]) -> Fleet:
    rollout = block.rollout
    dtype = limits_of(context.plan.recipe, context.device).dtype
    return Fleet(
        members,
        parent.fingerprint,
        owner=context.stage.inputs_hash[:16],
        patience=Patience(rollout.server_silence, rollout.server_deadline),
        say=context.say,
        leads=os.environ.get("RANK", "0") == "0",
        dtype=getattr(torch, dtype),
    )


def server_config(context: Context, block: Grpo, parent: Checkpoint) -> ServerConfig:
    """One server for this stage, on a free port of this machine."""
    limits = limits_of(context.plan.recipe, context.device)
    return ServerConfig(parent.path, parent.fingerprint, block.rollout.engine, limits, context.plan.recipe.seed)


def limits_of(recipe: Recipe, device: str) -> EngineLimits:
    """What an engine must make room for."""
    block = recipe.grpo
    assert block is not None
    rollout = block.rollout
    return EngineLimits(
        rollout.max_prompt_tokens,
        rollout.max_tokens,
        min(block.prompts_per_step * block.group_size, rollout.max_sequences),
        rollout.kv_cache_gib,
        rollout.memory_share,
        rollout.tensor_parallel,
        sleep=device == "cuda" and rollout.mode == "colocate",
        dtype="bfloat16" if mixed_bf16(device, recipe.model.dtype) else "float32",
    )
