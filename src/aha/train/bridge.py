"""Between TRL and the rollout engine: TRL gathers the weights and asks for completions; the engine takes them and generates.

After each sync trainer and engine score the same probes (train/probes.py), and what the engine says of its own samples
is held against the trainer: rollouts from another policy than the one being trained end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import torch
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from aha.errors import EngineError
from aha.train import heartbeat
from aha.train.probes import Probes, rounding


class Policy:
    """What GRPO needs of a rollout engine: `generate(prompts, seeds)`, `sync(weights)` and `score(sequences)`.

    See rollout/engine.py. Only a stand-in that computes nothing may come without `score`: it cannot be probed.
    With `submit` completions can be waited for one by one (rollout/served.py); `spans` says when they were drawn.
    """

    def __init__(
        self,
        sync: Callable[[Any], None],
        generate: Callable[[list[list[int]], list[int]], list[Any]],
        score: Callable[[list[list[int]]], list[list[float]]] | None = None,
        submit: Callable[[list[list[int]], list[int]], list[Future[Any]]] | None = None,
        spans: Callable[[], list[tuple[str, float, float, int]]] = list,
    ):
        self.sync = sync
        self.generate = generate
        self.score = score
        self.submit = submit
        self.spans = spans


class EngineBridge(VLLMGeneration):
    """Stands where TRL expects its vLLM wrapper. TRL gathers the weights; the engine takes them and generates."""

    policy: Policy
    seed_for: Callable[[int], int]
    probes: Probes | None = None
    awaited: list[Future[Any]] | None = None
    """Completions that were asked for before they are wanted (train/overlap.py)."""
    waited = 0.0
    """Seconds that were waited for them already."""
    seconds = 0.0
    new_tokens = 0
    newest: tuple[list[list[int]], list[list[int]], list[list[float]]]
    """The newest rollouts: prompts, completions and logprobs."""

    def _init_vllm(self) -> None:
        """The engine is running already."""

    def sync_weights(self) -> None:
        with heartbeat.phase("sync"):
            self.policy.sync(self._iter_named_params())
            if self.probes:
                self.probes.look()

    def generate(self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None) -> tuple:
        began = time.perf_counter()
        first = self.accelerator.process_index * len(prompts)
        with heartbeat.phase("rollout"):
            if self.awaited is None:
                drawn = self.policy.generate(prompts, [self.seed_for(first + index) for index in range(len(prompts))])
            else:
                drawn, self.awaited = [future.result() for future in self.awaited], None
        self.seconds, self.waited = self.waited + time.perf_counter() - began, 0.0
        self.new_tokens = sum(len(generation.token_ids) for generation in drawn)
        self.newest = prompts, [one.token_ids for one in drawn], [one.logprobs for one in drawn]
        if self.probes and not self.probes.sequences:
            with heartbeat.phase("sync"):
                self.probes.draw(*self.newest)
        prompts, tokens, logprobs = self.newest
        return prompts, tokens, [[[value] for value in row] for row in logprobs], None

    def require_same_policy(self, difference: float) -> None:
        """The engine's logprobs of what it has just sampled must be the trainer's, up to rounding: `difference` is their mean.

        Raises EngineError when they are not. The probes passed at this sync, so the first suspect is the sampling.
        """
        sampled = torch.tensor([value for row in self.newest[2] for value in row])
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        limit = rounding(1 - sampled.exp().mean().item(), dtype)
        if difference <= limit:
            return
        if self.probes and not self.probes.require_temperature(*self.newest):
            return
        told = (
            f"the engine samples from another policy than the one being trained: mean |logprob difference| {difference:.2g}, "
            f"where rounding explains at most {limit:.2g}. Weights did not arrive, or temperature or dtype differ"
        )
        if not self.probes:
            raise EngineError(told)
        self.probes.refuse(told)


@contextmanager
def bridged(policy: Policy, seed_for: Callable[[int], int]) -> Iterator[None]:
    """TRL builds its generation backend by name inside its constructor: give it ours for that moment."""
    bridge = type("Bridge", (EngineBridge,), {"policy": policy, "seed_for": staticmethod(seed_for)})
    module: Any = grpo_trainer
    original, module.VLLMGeneration = module.VLLMGeneration, bridge
    try:
        yield
    finally:
        module.VLLMGeneration = original
