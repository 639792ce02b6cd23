"""What the three stages' trainers share: arguments, sealed checkpoints, metrics, and a clean stop.

`Sealed` is mixed into TRL's trainers; the rest is a callback and a function from a stage's plan to TRL's arguments.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainingArguments

from aha.errors import AhaError, CheckpointError, Mistake, RecipeError, StageError
from aha.metrics import MetricsWriter
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Optimizer, Recipe
from aha.train import heartbeat
from aha.train.checkpoints import seal
from aha.train.parallel import PATIENCE, Wrapped, anywhere, sharing


class Interrupted(StageError):
    """The stage was asked to stop, and saved a checkpoint first."""

    exit_code = 75


def arguments(
    config: type[TrainingArguments],
    recipe: Recipe,
    block: Optimizer,
    stage: StagePlan,
    folder: Path,
    device: str,
    **own: Any,
) -> TrainingArguments:
    """TRL's arguments for one stage: the planner's arithmetic, the recipe's knobs, and its `trainer:` block on top.

    Raises RecipeError when the `trainer:` block names a field that TRL's config does not have.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    unknown = [key for key in block.trainer if key not in fields]
    if unknown:
        raise RecipeError(*(_unknown_field(stage.name, key, sorted(fields), config.__name__) for key in unknown))
    values: dict[str, Any] = {
        "output_dir": str(folder / "checkpoints" / ".partial"),
        "per_device_train_batch_size": stage.micro_batch,
        "gradient_accumulation_steps": stage.accumulation,
        "learning_rate": block.learning_rate,
        "lr_scheduler_type": block.schedule,
        "weight_decay": block.weight_decay,
        "max_grad_norm": block.max_grad_norm,
        "gradient_checkpointing": block.gradient_checkpointing,
        "logging_steps": block.log_every,
        "logging_first_step": True,
        "save_strategy": "steps" if stage.save_every else "no",
        "save_steps": stage.save_every or 500,
        **_tracking(recipe, stage, folder),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "use_cpu": device == "cpu",
        "bf16": mixed_bf16(device, recipe.model.dtype),
        "disable_tqdm": True,
        "dataloader_pin_memory": device == "cuda",
        "remove_unused_columns": False,
        "logging_nan_inf_filter": False,
        "ddp_timeout": round(PATIENCE.total_seconds()),
        **sharing(recipe.hardware.parallel, stage, device),
    }
    return config(**values | own | block.trainer)


def _tracking(recipe: Recipe, stage: StagePlan, folder: Path) -> dict[str, Any]:
    """Mirror the metrics to the recipe's tracker; what it keeps on disk lies in the stage's folder.

    The trackers read their places from the environment. Their default would be the folder of the unfinished checkpoint,
    which is emptied with every save.
    """
    if recipe.tracking == "none":
        return {"report_to": []}
    name = recipe.name or "aha"
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(folder / "tensorboard"))
    os.environ.setdefault("WANDB_DIR", str(folder))
    os.environ.setdefault("WANDB_PROJECT", name)
    return {"report_to": [recipe.tracking], "project": name, "run_name": f"{name}/{stage.directory}"}


def _unknown_field(stage: str, key: str, known: list[str], config: str) -> Mistake:
    import difflib

    nearest = difflib.get_close_matches(key, known, 1)
    return Mistake(f"{stage}.trainer.{key}", key, f"a field of TRL's {config}", nearest[0] if nearest else None)


def mixed_bf16(device: str, dtype: str) -> bool:
    """Mixed bfloat16 where the hardware has it, unless the recipe's `model.dtype` is float32.

    Without AVX512-BF16 a CPU emulates it, five times slower than float32.
    """
    if dtype == "float32":
        return False
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported())


class Sealed(Wrapped):
    """Mixed in before a TRL trainer: every checkpoint is written aside, sealed, and only then given its name.

    Several processes write their parts of it; the first one seals it when all have written. One that dies meanwhile
    leaves a folder without a name, and the checkpoint before it.
    """

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the run directory says more."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        partial = Path(self.args.output_dir)  # type: ignore[attr-defined]
        step, first = self.state.global_step, self.is_world_process_zero()  # type: ignore[attr-defined]
        if first:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
        try:
            with heartbeat.phase("save"):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
                self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
                if first:
                    seal(partial / f"checkpoint-{step}", partial.parent, step)
                self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]
        except AhaError:
            raise
        except Exception as error:  # of a full disk, torch's writer makes a RuntimeError, and safetensors' own kind
            if _lost_another(error):
                raise
            shutil.rmtree(partial, ignore_errors=True)
            older = sorted(partial.parent.glob("step-*"))
            kept = f"the newest good one is {older[-1].name}" if older else "there is no older one"
            raise CheckpointError(
                f"the checkpoint of step {step} could not be saved in {partial.parent}: {error}; {kept}. "
                "Make room and run the same command again"
            ) from error


def _lost_another(error: Exception) -> bool:
    """Whether this is not about a disk but about another process that is gone: that one has its own story to tell."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "closed by peer" in str(error)


class Journal(TrainerCallback):
    """Writes metrics.jsonl, tells the heartbeat of each step, and turns SIGTERM into a checkpoint and an exit."""

    def __init__(
        self,
        writer: MetricsWriter,
        tokens: Callable[[int, dict[str, Any]], int],
        translate: Callable[[dict[str, Any]], dict[str, Any]],
    ):
        """`tokens` gives the tokens that have gone through the model by a step; `translate` picks its metrics."""
        self._writer = writer
        self._tokens = tokens
        self._translate = translate
        self._asked_to_stop = False
        self._since = (time.time(), 0)  # when, and at how many tokens, the last line was written
        self.tokens = 0
        self.first_step_at: float | None = None
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: Any) -> None:
        self._asked_to_stop = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tokens = self._tokens(state.global_step, {"num_tokens": state.num_input_tokens_seen})
        self._since = (time.time(), self.tokens)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        heartbeat.begin_step(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.first_step_at = self.first_step_at or time.time()
        self._asked_to_stop = anywhere(self._asked_to_stop, args.device)  # all of them, after the same step
        if self._asked_to_stop and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        # It would grow with the steps, here and in each checkpoint; metrics.jsonl has it all.
        del state.log_history[:-1]
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        self.tokens = self._tokens(state.global_step, logs)
        then, before = self._since
        self._since = (time.time(), self.tokens)
        speed = (self.tokens - before) / max(1e-6, time.time() - then)
        common = {name: float(logs[name]) for name in ("loss", "grad_norm", "learning_rate") if name in logs}
        self._writer.write(
            state.global_step,
            tokens=self.tokens,
            tokens_per_second=speed,
            **common,
            **self._translate(logs),
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._asked_to_stop and state.global_step < state.max_steps:
            raise Interrupted(f"stopped at step {state.global_step} of {state.max_steps}, checkpoint saved")
