"""A reference that moves: TRL mixes the policy into it every few steps, and a checkpoint has to hold what came of that.

TRL saves no reference. It builds it from the stage's input again, so a run that resumed would be held to a model that the
uninterrupted one has left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from aha.errors import CheckpointError

FILE = "reference.pt"


class MovingReference:
    """Mixed in before TRL's GRPOTrainer, and after `Sealed`, which seals what is written here."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        trainer: Any = self
        if trainer.args.sync_ref_model and trainer.is_world_process_zero():
            path = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}" / FILE
            torch.save(trainer.accelerator.unwrap_model(trainer.ref_model).state_dict(), path)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called for every resume, whoever loads the weights; `checkpoint` is None for a fresh start."""
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        trainer: Any = self
        if checkpoint is None or not trainer.args.sync_ref_model:
            return
        path = Path(checkpoint) / FILE
        if not path.exists():
            raise CheckpointError(f"{checkpoint} holds no {FILE}: it was written without grpo.reference_sync")
        reference = trainer.accelerator.unwrap_model(trainer.ref_model)
        reference.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
