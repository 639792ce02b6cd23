"""What the trainer and the evaluations know of a rollout engine: token ids in, token ids and their logprobs out.

Nothing is decoded and encoded again on the way: text changes token ids, and then the trained sequence is not the
sampled one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from aha.rollout.channel import Place


@dataclass(frozen=True)
class Sampling:
    """How to draw. Temperature 0 is greedy. `max_tokens` counts new tokens, the end token included."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generation:
    """One sampled continuation: ids and logprobs of shape (new tokens,), under the distribution it was drawn from."""

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


class Engine(Protocol):
    """A policy that can be sampled, scored, and moved to new weights."""

    name: str

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        """One continuation per prompt. The same prompts, seeds and weights give the same tokens."""
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprob of every token but the first, at temperature 1: shape (length - 1,) for each sequence."""
        ...

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Move to these weights (Hugging Face names). All weights must come; nothing of the old policy survives."""
        ...


class LocalEngine(Engine, Protocol):
    """An engine of this process, which can also be run in small steps: what a rollout server is made of."""

    def submit(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        """Queue one continuation per prompt, and return their names."""
        ...

    def step(self) -> list[tuple[str, Generation]]:
        """Work a little, about one token for each continuation that is running; returns what has finished by it."""
        ...

    def abort(self, names: Iterable[str]) -> None:
        """Nobody waits for these any more."""
        ...

    def join(self, place: Place) -> None:
        """Join the group in which a trainer sends weights. Raises RuntimeError when the others do not come."""
        ...

    def take(self, heard: Callable[[], None]) -> None:
        """As `sync`, with the weights that are sent in the group. Raises RuntimeError when they break off."""
        ...


def run_to_end(
    engine: LocalEngine, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
) -> list[Generation]:
    """What `generate` is where nobody looks in between: submit, and step until all have finished."""
    names = engine.submit(prompts, sampling, seeds)
    done: dict[str, Generation] = {}
    while len(done) < len(names):
        done |= engine.step()
    return [done[name] for name in names]


@dataclass(frozen=True)
class EngineChoice:
    """Which engine will generate, and why, in words for the plan, the log and the report."""

    name: str
    why: str


@dataclass(frozen=True)
class EngineLimits:
    """What an engine must make room for."""

    max_prompt_tokens: int
    max_new_tokens: int
    max_sequences: int
    kv_cache_gib: float = 1.0
    memory_share: float = 0.3
    tensor_parallel: int = 1
    sleep: bool = False
    """Free the GPU while the trainer works."""
    dtype: str = "auto"
    """float32 or bfloat16: the trainer's."""


def end_tokens(model_path: str) -> list[int]:
    """The token ids that end a completion, as the checkpoint's generation config says."""
    ends = json.loads((Path(model_path) / "generation_config.json").read_text())["eos_token_id"]
    return ends if isinstance(ends, list) else [ends]
