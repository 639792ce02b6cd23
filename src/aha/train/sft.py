"""Supervised training on packed tokens: continued pretraining and distillation differ only in their labels.

A thin adapter over TRL's SFTTrainer. The rows come packed and labelled from `data/packing`, so TRL's own data
preparation is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from aha.data.packing import PackedCollator
from aha.data.rows import PackedRows
from aha.metrics import MetricsWriter
from aha.models.kernels import Kernels
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Cpt, Distill, Recipe
from aha.train.finite import Finite
from aha.train.lora import lora_config
from aha.train.parity import Parity
from aha.train.trainer import Journal, Sealed, arguments
from aha.train.worst_case import WorstCase


class SupervisedTrainer(Finite, Parity, WorstCase, Sealed, SFTTrainer):
    """TRL's SFTTrainer with finite steps, kernels held to the plain computation, sealed checkpoints, and the same rows in a
    step however many processes share it."""

    rows_per_step: int

    def _get_train_sampler(self, train_dataset: Any = None) -> RowOrder:
        trainer: Any = self
        needed = trainer.args.max_steps * self.rows_per_step
        return RowOrder(len(trainer.train_dataset), needed, trainer.args.data_seed)


class RowOrder(Sampler[int]):
    """The rows of a whole stage in order: epoch after epoch, each shuffled by its own seed, and no step cut short by the
    end of one. transformers' own would end each epoch with a step of what is left, or, for several processes, read some
    rows again.
    """

    def __init__(self, rows: int, needed: int, seed: int):
        self._rows = rows
        self._needed = needed
        self._seed = seed

    def __len__(self) -> int:
        return self._needed

    def __iter__(self) -> Iterator[int]:
        epochs = (torch.randperm(self._rows, generator=torch.Generator().manual_seed(self._seed + n)) for n in count())
        return islice((int(row) for epoch in epochs for row in epoch), self._needed)


def make_sft_trainer(
    recipe: Recipe,
    block: Cpt | Distill,
    stage: StagePlan,
    steps: int,
    folder: Path,
    device: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    packed: PackedRows,
    kernels: Kernels,
    resume_step: int,
) -> tuple[SupervisedTrainer, Journal]:
    """The trainer of one supervised stage, ready for `.train()`."""
    args = arguments(
        SFTConfig,
        recipe,
        block,
        stage,
        folder,
        device,
        max_steps=steps,
        warmup_steps=round(block.warmup * steps),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        use_liger_kernel=kernels.liger is not None,
        liger_kernel_config=kernels.liger,
        loss_type="chunked_nll" if kernels.chunked_loss else "nll",
    )
    flatten = "flash" in (model.config._attn_implementation or "")
    per_step = packed.tokens / len(packed.rows) * stage.batch_size
    writer = MetricsWriter(folder / "metrics.jsonl", resume_step)
    journal = Journal(writer, lambda step, logs: round(step * per_step), _translate)
    trainer = SupervisedTrainer(
        model,
        args,
        data_collator=PackedCollator(tokenizer.pad_token_id, flatten),
        train_dataset=packed.rows,
        processing_class=tokenizer,
        callbacks=[journal],
        peft_config=lora_config(block.lora),
    )
    trainer.kernels = kernels
    trainer.expect_longest(recipe, stage, block.max_tokens)
    trainer.rows_per_step = stage.batch_size
    trainer.parallel = recipe.hardware.parallel
    return trainer, journal


def _translate(logs: dict[str, Any]) -> dict[str, float]:
    names = {"entropy": "entropy", "mean_token_accuracy": "token_accuracy"}
    return {new: float(logs[old]) for old, new in names.items() if old in logs}
