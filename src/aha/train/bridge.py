"""Between TRL and the rollout engine: TRL gathers the weights and asks for completions; the engine takes them and generates.

What the engine says of its own samples is held against the trainer: rollouts from another policy than the one being
trained end the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from aha.errors import EngineError

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
def bridged(policy: Policy, seed_for: Callable[[int], int]) -> Iterator[None]:
    """TRL builds its generation backend by name inside its constructor: give it ours for that moment."""
    bridge = type("Bridge", (EngineBridge,), {"policy": policy, "seed_for": staticmethod(seed_for)})
    module: Any = grpo_trainer
    original, module.VLLMGeneration = module.VLLMGeneration, bridge
    try:
        yield
    finally:
        module.VLLMGeneration = original


def require_same_policy(difference: float, bf16: bool) -> None:
    """The engine's logprobs of what it has just sampled must be the trainer's, up to rounding.

    Raises EngineError when they are not: rollouts were drawn from other weights than the ones being trained.
    """
    limit = MISMATCH["bfloat16" if bf16 else "float32"]
    if not difference <= limit:
        raise EngineError(
            f"the engine samples from another policy than the one being trained: mean |logprob difference| {difference:.4f}, "
            f"at most {limit} expected. Weights did not arrive, or temperature or dtype differ"
        )
