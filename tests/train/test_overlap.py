"""Pipelined and asynchronous steps in the real trainer: the same gradients, the right policies, and nothing lost at a save.

The engine is in this process here, so that the same tokens are drawn whatever the mode; tests/rollout/test_server.py
has the servers.
"""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import NANO

from aha import handoff
from aha.data import arithmetic
from aha.data.chat import messages_of
from aha.errors import RecipeError
from aha.metrics import read_metrics
from aha.models.kernels import choose
from aha.models.load import load_model, load_tokenizer
from aha.recipe import load_recipe
from aha.recipe.plan import make_plan
from aha.rewards.scorer import Scorer
from aha.rollout.engine import EngineLimits, Generation, Sampling
from aha.rollout.transformers import TransformersEngine
from aha.train.bridge import Policy
from aha.train.grpo import make_grpo_trainer

FLOAT32 = [
    "model.dtype=float32",
    "grpo.rollout.mode=server",
    "grpo.save_every=100",
    "grpo.data=[{builtin: arithmetic/problems, rows: 24}]",
]
PIPELINED = ["grpo.rollout.overlap=pipelined", "grpo.micro_batch=4"]


@dataclass
class Run:
    """What a short training was seen to do."""

    folder: Path
    trainer: Any = None
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    """(optimiser steps taken when asked, how many completions)"""

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.trainer.model.named_parameters()}

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / f"rollouts/step-{step:06d}.jsonl").read_text().splitlines()]


def trained(folder: Path, *keys: str, resume: bool = False, stop_after: int | None = None) -> Run:
    """Train as the stage does, with an engine whose futures are there at once."""
    (folder / "nano.yaml").write_text(NANO)
    recipe = load_recipe(folder / "nano.yaml", [*FLOAT32, *keys])
    assert recipe.grpo is not None
    parent = handoff.prepare_base(recipe, folder / "base")
    tokenizer = load_tokenizer(parent)
    model = load_model(parent, recipe.model, "cpu")
    engine = TransformersEngine(parent.path, EngineLimits(40, 24, 16, dtype="float32"))
    run = Run(folder)

    def generate(prompts: list[list[int]], seeds: list[int]) -> list[Generation]:
        return engine.generate(prompts, Sampling(24), seeds)

    def submit(prompts: list[list[int]], seeds: list[int]) -> list[Future[Any]]:
        run.asked.append((run.trainer.state.global_step, len(prompts)))
        futures: list[Future[Any]] = [Future() for _ in prompts]
        for future, drawn in zip(futures, generate(prompts, seeds), strict=True):
            future.set_result(drawn)
        return futures

    problems = list(arithmetic.problems(24))
    chats = [messages_of(problem.prompt, None) for problem in problems]
    stage = make_plan(recipe, folder / "run", "nano.yaml").stages[-1]
    with Scorer(recipe.grpo.rewards, deadline=30, workers=1) as scorer:
        run.trainer = make_grpo_trainer(
            recipe, stage, folder, "cpu", model, tokenizer, problems, chats, scorer,
            Policy(engine.sync, generate, engine.score, submit=submit), choose("grpo", "torch", "cpu", "llama"), 0,
        )[0]  # fmt: skip
        watch(run, stop_after)
        newest = max(folder.glob("checkpoints/step-*"), default=None) if resume else None
        run.trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    return run


class Killed(BaseException):
    """Stands for kill -9: nothing of the process is kept but its checkpoints."""


def watch(run: Run, stop_after: int | None) -> None:
    trainer = run.trainer
    clip, make = trainer._clip_grad_norm, trainer._generate_and_score_completions

    def seen(model: Any) -> Any:
        if stop_after is not None and trainer.state.global_step >= stop_after:
            raise Killed
        run.gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
        return clip(model)

    def made(rows: Any) -> Any:
        run.batches.append(make(rows))
        return run.batches[-1]

    trainer._clip_grad_norm, trainer._generate_and_score_completions = seen, made


@pytest.mark.parametrize("algorithm", ["grpo", "dapo"])
def test_the_pipelined_gradient_is_the_synchronous_one(tmp_path: Path, algorithm: str) -> None:
    runs = []
    for name, keys in (("none", ["grpo.micro_batch=16"]), ("pipelined", PIPELINED)):
        (tmp_path / name).mkdir()
        runs.append(
            trained(
                tmp_path / name,
                f"grpo.algorithm={algorithm}",
                "grpo.dynamic_sampling=false",
                "grpo.steps=2",
                "grpo.learning_rate=1e-6",
                *keys,
            )
        )
    whole, parts = runs
    assert [len(run.batches) for run in runs] == [2, 8] and parts.asked == [(0, 16), (1, 16)]
    for step in range(2):
        for name, expected in whole.gradients[step].items():
            scale = expected.abs().max().item()
            assert scale > 0, f"{name} has no gradient: this proves nothing"
            assert (parts.gradients[step][name] - expected).abs().max().item() < 2e-6 * scale, (step, name)
        assert [row["completion"] for row in parts.rollouts(step + 1)] == [
            row["completion"] for row in whole.rollouts(step + 1)
        ]
    losses = [[row["loss"] for row in read_metrics(run.folder / "metrics.jsonl")] for run in runs]
    assert losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-7), "float32 of what sums to nothing"


def test_asynchronous_completions_are_one_step_old_and_corrected_for_it(tmp_path: Path) -> None:
    run = trained(tmp_path, "grpo.rollout.overlap=async", "grpo.steps=4", "grpo.learning_rate=1e-2")
    assert run.asked == [(0, 16), (0, 16), (1, 16), (2, 16)], "each batch is asked for one step ahead, the last one too"
    assert [run.rollouts(step)[0]["policy_step"] for step in (1, 2, 3, 4)] == [0, 0, 1, 2]
    fresh, stale = run.batches[0], run.batches[2]
    assert (fresh["importance_sampling_ratio"] - 1).abs().max() < 1e-3
    mask = stale["completion_mask"]
    behaviour, before = stale["sampling_per_token_logps"], stale["old_per_token_logps"]
    expected = ((before - behaviour) * mask).exp().clamp(max=2.0)
    assert torch.allclose(stale["importance_sampling_ratio"], expected)
    assert (expected - 1).abs().max() > 0.05, "the policy has not moved: this proves nothing"
    logs = read_metrics(run.folder / "metrics.jsonl")
    assert ["off_policy" in row for row in logs] == [False, True, True, True]
    assert ["mismatch" in row for row in logs] == [True, False, False, False]


def test_a_batch_in_flight_is_part_of_the_checkpoint(tmp_path: Path) -> None:
    keys = ["grpo.rollout.overlap=async", "grpo.steps=5", "grpo.learning_rate=1e-3", "grpo.save_every=2"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = trained(tmp_path / "whole", *keys)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", *keys, stop_after=3)
    assert (tmp_path / "killed/checkpoints/step-000002/in-flight.json").is_file()
    resumed = trained(tmp_path / "killed", *keys, resume=True)
    assert resumed.rollouts(3)[0]["policy_step"] == 1
    for name, weight in whole.weights().items():
        assert torch.equal(weight, resumed.weights()[name]), name


def test_what_needs_the_whole_step_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nano.yaml").write_text(NANO)

    def refused(*keys: str) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(tmp_path / "nano.yaml", [*FLOAT32, *keys])
        return str(caught.value)

    assert "nearest   4" in refused("grpo.rollout.overlap=pipelined", "grpo.micro_batch=2")
    assert "none fits" in refused("grpo.rollout.overlap=pipelined", "grpo.prompts_per_step=1")
    assert "server, with overlap: async" in refused("grpo.rollout.overlap=async", "grpo.rollout.mode=colocate")
    assert "older than one step" in refused("grpo.rollout.overlap=async", "grpo.iterations=2")
    assert "dynamic_sampling" in refused(*PIPELINED, "grpo.algorithm=dapo")
    for needs in ("combine=normalise_each", "advantage=batch", "algorithm=reinforce_pp"):
        assert "needs the whole step before its first gradient" in refused(*PIPELINED, f"grpo.{needs}")
    token = ["grpo.algorithm=dapo", "grpo.dynamic_sampling=false"]
    assert "an entropy_bonus beside average: token" in refused(*PIPELINED, *token, "grpo.entropy_bonus=0.01")
    planned = make_plan(load_recipe(tmp_path / "nano.yaml", [*FLOAT32, PIPELINED[0]]), tmp_path / "run", "nano.yaml")
    assert planned.stages[-1].micro_batch == 8, "whole groups, and at least two micro-batches"
