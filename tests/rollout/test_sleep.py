"""An engine that sleeps on the GPU while the trainer works: awake when it must answer, whatever was called before.

No GPU here, so vLLM is a stand-in that keeps vLLM's own rules (v1/executor/abstract.py, v1/engine/core.py): to wake what
is awake maps its memory twice, and an engine of which anything sleeps takes requests and never serves them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from aha.rollout.engine import Sampling
from aha.rollout.vllm import VllmEngine


class Sleeper:
    """vLLM's `LLM`, as far as sleeping goes."""

    def __init__(self) -> None:
        self.asleep: set[str] = set()
        self.loaded = 0
        executor = SimpleNamespace(driver_worker=SimpleNamespace(worker=SimpleNamespace(model_runner=self)))
        self.llm_engine = SimpleNamespace(model_executor=executor)
        self.model = self

    def load_weights(self, weights: Any) -> None:
        assert "weights" not in self.asleep, "written into memory that is not there"
        self.loaded += 1

    def generate(self, inputs: Any, params: Any, use_tqdm: bool) -> list[Any]:
        assert not self.asleep, f"never served: {self.asleep} is asleep"
        return []

    def enqueue(self, inputs: Any, params: Any, use_tqdm: bool) -> list[str]:
        return self.generate(inputs, params, use_tqdm)

    def sleep(self, level: int) -> None:
        assert not self.asleep
        self.asleep = {"weights", "kv_cache"}

    def wake_up(self, tags: list[str]) -> None:
        assert set(tags) <= self.asleep, f"{tags} mapped twice"
        self.asleep -= set(tags)

    def reset_prefix_cache(self) -> bool:
        return True


def test_it_is_awake_when_it_must_answer() -> None:
    engine = VllmEngine.__new__(VllmEngine)
    engine.on_gpu = engine._sleeps = True
    engine._asleep, engine._ends, engine._llm = set(), [0], Sleeper()
    sampling, weights = Sampling(4), [("weight", torch.zeros(1))]
    asleep = []
    for call in (
        lambda: engine.sync(iter(weights)),  # the first one: nothing has slept yet
        lambda: engine.generate([], sampling, []),
        lambda: engine.score([]),  # probes are drawn from the first rollouts
        lambda: engine.sync(iter(weights)),
        lambda: engine.score([]),  # probes after a sync: rollouts follow, so it stays awake
        lambda: engine.generate([], sampling, []),
        lambda: engine.generate([], sampling, []),  # more of the same step
        lambda: engine.sync(iter(weights)),
        lambda: engine.generate([], sampling, []),
    ):
        call()
        asleep.append(sorted(engine._llm.asleep))
    both = ["kv_cache", "weights"]
    assert asleep == [[], both, both, ["kv_cache"], [], both, both, ["kv_cache"], both]
    assert engine._llm.loaded == 3
