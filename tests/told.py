"""A GRPO trainer whose policy says what it is told: every token, length and reward of a step is known beforehand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from nano import NANO

from aha.data import arithmetic
from aha.data.chat import apply_format, messages_of
from aha.models.kernels import choose
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe import load_recipe
from aha.recipe.plan import make_plan
from aha.rewards.scorer import Scorer
from aha.rollout.engine import Generation
from aha.train.bridge import Policy
from aha.train.grpo import GroupTrainer, make_grpo_trainer
from aha.types import Problem

THOUGHT = """
from aha.rewards.contract import Score, thought
def score(completion, problem):
    number = int(thought(completion))
    return Score(None, "declined") if number == 13 else Score(number, "thought")
"""
"""A reward: the number that was thought; a thought of 13 is not judged."""
ANSWERED = """
from aha.rewards.contract import Score, final_answer
def score(completion, problem):
    return Score(int(final_answer(completion)), "answered")
"""
"""A reward: the number that was answered."""
Heard = Callable[[int, torch.Tensor], torch.Tensor]
"""What the engine says of its own log-probabilities: the completion's number, and the model's."""
Say = Callable[[str, int], str]
"""What a policy says to a prompt, as the tokenizer decodes it, in the `n`-th completion that it is asked for at once."""


@contextmanager
def told(
    folder: Path,
    keys: Sequence[str],
    say: Say,
    scorer: Scorer | None = None,
    problems: int = 2,
    kernels: str = "torch",
    heard: Heard = lambda number, logprobs: logprobs,
    resume_step: int = 0,
) -> Iterator[GroupTrainer]:
    """The trainer of the nano recipe with these keys, on problems `Start with 1 .`, `Start with 2 .` and so on.

    Its `calls` are the prompts and seeds that the engine was asked, its `said` the remarks for the person who watches.
    SIGINT and SIGTERM, which a stage takes, are given back.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    (folder / "nano.yaml").write_text(NANO)
    recipe = load_recipe(folder / "nano.yaml", ["model.dtype=float32", *keys])  # the same on every CPU
    assert recipe.model.from_scratch is not None and recipe.grpo is not None
    tokenizer = make_tokenizer(arithmetic.vocabulary(), (*recipe.chat.think, *recipe.chat.answer))
    apply_format(recipe.chat, tokenizer)
    model: Any = make_model(recipe.model.from_scratch, tokenizer, seed=0)
    model.save_pretrained(folder / "start")  # where TRL finds the reference model
    model.config._name_or_path = str(folder / "start")

    said: list[str] = []
    calls: list[tuple[list[list[int]], list[int]]] = []

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[Generation]:
        calls.append((prompts, seeds))
        texts = [say(tokenizer.decode(prompt), number) for number, prompt in enumerate(prompts)]
        tokens = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        return [
            Generation(ids, heard(number, logprobs_of(model, prompt, ids)).tolist(), False)
            for number, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True))
        ]

    asked = [Problem(f"Start with {number} .", "5", f"p{number}") for number in range(1, problems + 1)]
    chats = [messages_of(problem.prompt, None) for problem in asked]
    stage = make_plan(recipe, folder / "run", "nano.yaml").stages[-1]
    own = Scorer(recipe.grpo.rewards, deadline=30, workers=1) if scorer is None else None
    try:
        made: Any = make_grpo_trainer(
            recipe, stage, folder, "cpu", model, tokenizer, asked, chats, scorer or own,
            Policy(lambda weights: None, generate), choose("grpo", kernels, "cpu", "llama"), resume_step, said.append,
        )[0]  # fmt: skip
        made.calls, made.said = calls, said
        yield made
    finally:
        if own:
            own.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@torch.no_grad()
def logprobs_of(model: Any, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """The model's log-probability of each token of a completion."""
    scores = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return scores.gather(-1, torch.tensor(ids)[:, None])[:, 0]
