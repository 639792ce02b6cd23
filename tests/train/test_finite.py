"""A step that is not finite is not taken: the weights stay, the batch is written down, and no checkpoint is spoilt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from aha.data import arithmetic
from aha.data.packing import Tokens
from aha.data.rows import packed_rows
from aha.errors import StageError
from aha.models import kernels
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe import load_recipe, make_plan
from aha.recipe.schema import FromScratch
from aha.train.checkpoints import damage
from aha.train.sft import SupervisedTrainer, make_sft_trainer

RECIPE = """\
name: brittle
model: {from_scratch: {hidden_size: 32, layers: 1, heads: 1, intermediate_size: 64, context: 64}}
hardware: {device: cpu}
kernels: torch
cpt: {data: [{builtin: arithmetic/texts}], tokens: 640, max_tokens: 16, batch_size: 4, micro_batch: 2,
      save_every: 2, learning_rate: 1e-2}
"""
LINES = [f"{first} + {second} = {first + second}" for first in range(8) for second in range(8)]


def trainer(tmp_path: Path) -> SupervisedTrainer:
    """Ten steps of two micro-batches, a checkpoint every second step, from a model of 32 hidden units."""
    (tmp_path / "brittle.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "brittle.yaml")
    stage = make_plan(recipe, tmp_path / "run", "brittle.yaml").stages[0]
    tokenizer = make_tokenizer(arithmetic.vocabulary(), ())
    sequences = [Tokens(ids, ids) for ids in tokenizer(LINES).input_ids]
    rows = packed_rows(sequences, [], 16, tmp_path / "rows", lambda line: None)
    spec = FromScratch(hidden_size=32, layers=1, heads=1, intermediate_size=64, context=64)
    model = make_model(spec, tokenizer, 0)
    chosen = kernels.choose("cpt", "torch", "cpu", "llama")
    assert recipe.cpt is not None
    folder = tmp_path / "run" / "1-cpt"
    made, _ = make_sft_trainer(recipe, recipe.cpt, stage, 10, folder, "cpu", model, tokenizer, rows, chosen, 0)
    return made


def told(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run/1-cpt/nonfinite.json").read_text())


def test_a_gradient_that_is_not_finite_is_not_applied(tmp_path: Path) -> None:
    """Planted in the third step's second micro-batch; the loss itself stays finite."""
    brittle = trainer(tmp_path)
    weight, calls, before = brittle.model.lm_head.weight, [], {}

    def plant(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 6:
            before.update({name: value.clone() for name, value in brittle.model.state_dict().items()})
            return gradient * torch.inf
        return gradient

    weight.register_hook(plant)
    with pytest.raises(StageError, match=r"step 3 is not finite: loss \d+\.\d+, gradient norm (inf|nan)") as caught:
        brittle.train()
    assert "The step was not taken" in str(caught.value) and "the newest checkpoint is step-000002" in str(caught.value)
    for name, value in brittle.model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed"
    assert damage(tmp_path / "run/1-cpt/checkpoints/step-000002") is None
    found = told(tmp_path)
    assert found["step"] == 3 and found["grad_norm"] in ("inf", "nan") and found["weights_not_finite"] == []
    texts = [row["input_ids"] for batch in found["micro_batches"] for row in batch["rows"]]
    assert len(found["micro_batches"]) == 2 and len(texts) == 4
    assert all(any(line in text for line in LINES) for text in texts)


def test_a_weight_that_is_not_finite_stops_the_next_step_and_every_save(tmp_path: Path) -> None:
    brittle = trainer(tmp_path)
    with torch.no_grad():
        brittle.model.lm_head.weight[3, 3] = torch.nan
    with pytest.raises(StageError, match="the weights are not finite after step 0"):
        brittle._save_checkpoint(brittle.model, None)
    with pytest.raises(StageError, match=r"step 1 is not finite: loss nan.*there is no checkpoint yet"):
        brittle.train()
    assert told(tmp_path)["weights_not_finite"] == ["lm_head.weight"]
    assert not list((tmp_path / "run/1-cpt/checkpoints").glob("step-*"))


def test_finite_steps_pass(tmp_path: Path) -> None:
    brittle = trainer(tmp_path)
    brittle.train()
    assert brittle.state.global_step == 10 and not (tmp_path / "run/1-cpt/nonfinite.json").exists()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/1-cpt/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 10 and losses[-1] < losses[0]
