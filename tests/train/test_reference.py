"""A reference that moves with the policy: where it goes, and that a checkpoint takes it along."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from told import THOUGHT, told

from aha.errors import CheckpointError

SAID = [f"<think> {number % 2} </think> <answer> 5 </answer> <|im_end|>" for number in range(8)]
KEYS = ["steps=4", "save_every=2", "prompts_per_step=2", "group_size=4"]
KEYS += ["beta=0.1", "learning_rate=1e-2"]


def keys(folder: Path, *more: str) -> list[str]:
    (folder / "thought.py").write_text(THOUGHT)
    return [f"grpo.{key}" for key in [f"rewards={{{folder}/thought.py: 1.0}}", *KEYS, *more]]


def say(prompt: str, number: int) -> str:
    return SAID[number]


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_it_moves_as_told_and_resumes_where_it_was(tmp_path: Path) -> None:
    sync = "reference_sync={every: 2, share: 0.25}"
    with told(tmp_path, keys(tmp_path, sync), say, problems=12) as trainer:
        start = flat(copy.deepcopy(trainer.ref_model))
        assert torch.equal(start, flat(trainer.model))
        trainer.train()
        names = [name for name, _ in trainer.model.named_parameters()]
        policy, reference = flat(trainer.model), flat(trainer.ref_model)
    checkpoint = tmp_path / "checkpoints" / "step-000002"
    with told(tmp_path, keys(tmp_path, sync), say, problems=12, resume_step=2) as trainer:
        assert torch.equal(flat(trainer.ref_model), start), "TRL builds it from the stage's input again"
        trainer.train(resume_from_checkpoint=str(checkpoint))
        assert torch.equal(flat(trainer.model), policy) and torch.equal(flat(trainer.ref_model), reference)
    halfway = torch.cat([load_file(checkpoint / "model.safetensors")[name].flatten() for name in names])
    assert not torch.allclose(start, halfway, atol=1e-3)
    expected = 0.75 * (0.75 * start + 0.25 * halfway) + 0.25 * policy
    assert torch.allclose(reference, expected, atol=1e-6)
    (checkpoint / "reference.pt").unlink()
    with (
        told(tmp_path, keys(tmp_path, sync), say, problems=12) as trainer,
        pytest.raises(CheckpointError, match=r"without grpo\.reference_sync"),
    ):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_it_stands_still_unless_told(tmp_path: Path) -> None:
    with told(tmp_path, keys(tmp_path), say, problems=12) as trainer:
        before = flat(copy.deepcopy(trainer.ref_model))
        trainer.train()
        assert torch.equal(flat(trainer.ref_model), before) and not torch.equal(flat(trainer.model), before)
        assert not list(tmp_path.rglob("reference.pt"))
