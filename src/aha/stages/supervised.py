"""The way that continued pretraining and distillation share: packed rows in, a new checkpoint out."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterable
from typing import Any

from aha.data.packing import Tokens
from aha.data.rows import packed_rows
from aha.data.sources import Tally
from aha.errors import DataError
from aha.recipe.schema import Cpt, Distill
from aha.stages.context import Context
from aha.train.sft import make_sft_trainer


def train_on(
    context: Context,
    block: Cpt | Distill,
    parent: Any,
    sequences: Iterable[Tokens],
    tallies: list[Tally],
    order: random.Random | None = None,
) -> None:
    """Pack (in an `order`, or as they come), train, and hand over.

    Raises DataError when the sequences do not fill a single optimiser step.
    """
    folder = context.folder / "rows"
    packed = packed_rows(sequences, tallies, block.max_tokens, folder, context.say, order)
    rows = len(packed.rows)
    if rows < context.stage.batch_size:
        raise DataError(
            f"{context.stage.name}: the data pack into {rows} rows of up to {block.max_tokens} tokens, "
            f"fewer than batch_size {context.stage.batch_size}; add data, or lower batch_size or max_tokens"
        )
    steps = context.stage.steps or _steps(block, rows)
    model, tokenizer = context.open_model(parent)
    kernels = context.choose_kernels(model.config.model_type)
    context.note(
        steps,
        packed.tallies,
        rows=rows,
        tokens=packed.tokens,
        trained_tokens=packed.trained,
        fill=round(packed.tokens / rows / block.max_tokens, 4),
    )
    checkpoint, resume_step = context.resume_point()
    trainer, journal = make_sft_trainer(
        context.plan.recipe,
        block,
        context.stage,
        steps,
        context.folder,
        context.device,
        model,
        tokenizer,
        packed,
        kernels,
        resume_step,
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    context.finish(trainer, tokenizer, parent, steps, journal)
    if context.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)  # a finished stage does not need its rows again


def _steps(block: Cpt | Distill, rows: int) -> int:
    epochs = getattr(block, "epochs", None) or 1.0
    return max(1, math.floor(rows * epochs / block.batch_size))
