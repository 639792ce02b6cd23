"""The first loss or gradient that is not finite ends the stage: before the step is taken, and with the batch written down.

One such step turns every weight into NaN, and Adam's moments with it. Weights are looked at once more before each
checkpoint, so the newest checkpoint is always one to go back to.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from aha.errors import StageError
from aha.rundir import write_json
from aha.train.parallel import anywhere, own_share

MOST_NAMES = 8
Inputs = dict[str, Any]


class Finite:
    """Mixed in before a TRL trainer, and before `Sealed`.

    It uses three of transformers' methods: `_prepare_inputs` gives the batch that a step is really computed from (in
    GRPO it is sampled there), `training_step` its loss, and `_get_grad_norm` runs between clipping and
    `optimizer.step()`. Under DeepSpeed the step is part of the backward pass, so there the stop comes one step late;
    the check before each checkpoint still holds.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._batches: list[Inputs] = []
        self._losses: list[torch.Tensor] = []
        super().__init__(*args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = super()._prepare_inputs(inputs)  # type: ignore[misc]
        self._batches.append(prepared)
        return prepared

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, forward and backward; returns its loss, a scalar."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self._losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        losses = [float(loss) for loss in self._losses]
        worst = math.fsum(losses) if all(map(math.isfinite, losses)) else math.nan
        everywhere = self.accelerator.gather(torch.tensor([worst], device=self.args.device))  # type: ignore[attr-defined]
        gradient = 0.0 if norm is None else float(norm)  # DeepSpeed has none to tell before its first step
        if not math.isfinite(gradient) or not bool(everywhere.isfinite().all()):
            self._refuse(losses, gradient)
        self._batches.clear()
        self._losses.clear()
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        spoilt = _spoilt(model)
        if anywhere(bool(spoilt), self.args.device):  # type: ignore[attr-defined]
            names = ", ".join(spoilt) or "another process has seen which"
            raise StageError(
                f"the weights are not finite after step {self.state.global_step} ({names}): "  # type: ignore[attr-defined]
                f"no checkpoint is made of them; {self._newest()}"
            )
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def _refuse(self, losses: list[float], gradient: float) -> None:
        """Write the batch beside the stage's metrics, and raise StageError."""
        folder = Path(self.args.output_dir).parents[1]  # type: ignore[attr-defined]
        accelerator = self.accelerator  # type: ignore[attr-defined]
        rank = "" if accelerator.num_processes == 1 else f"-rank{accelerator.process_index}"
        path = folder / f"nonfinite{rank}.json"
        step = self.state.global_step + 1  # type: ignore[attr-defined]
        loss = _first_bad(losses)
        rollouts = folder / "rollouts" / f"step-{step:06d}.jsonl"
        facts = {
            "step": step,
            "loss": str(loss),
            "grad_norm": str(gradient),
            "weights_not_finite": _spoilt(self.model),  # type: ignore[attr-defined]
            "rollouts": rollouts.name if rollouts.exists() else None,
            "micro_batches": [
                {"loss": str(loss), **self._told(batch)} for loss, batch in zip(losses, self._batches, strict=True)
            ],
        }
        write_json(path, facts)
        raise StageError(
            f"step {step} is not finite: loss {loss}, gradient norm {gradient}. The step was not taken; "
            f"its batch is in {path}, and {self._newest()}"
        )

    def _told(self, batch: Inputs) -> dict[str, Any]:
        """A micro-batch in words: its texts as the model saw them, and which of its tensors were not finite."""
        tokenizer = self.processing_class  # type: ignore[attr-defined]
        keys = [key for key in ("input_ids", "prompt_ids", "completion_ids") if key in batch]
        columns = [[_text(tokenizer, ids) for ids in batch[key]] for key in keys]
        spoilt = [key for key, value in batch.items() if isinstance(value, torch.Tensor) and not _is_finite(value)]
        return {
            "inputs_not_finite": spoilt,
            "rows": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
        }

    def _newest(self) -> str:
        kept = sorted(Path(self.args.output_dir).parent.glob("step-*"))  # type: ignore[attr-defined]
        return f"the newest checkpoint is {kept[-1].name}" if kept else "there is no checkpoint yet"


def _first_bad(losses: list[float]) -> float:
    """The first loss that is not finite, else the step's: the sum over its micro-batches."""
    return next((loss for loss in losses if not math.isfinite(loss)), math.fsum(losses))


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _spoilt(model: torch.nn.Module) -> list[str]:
    """The first few weights that hold a NaN or an infinity, in this process's share of them."""
    names = (name for name, weight in model.named_parameters() if not _is_finite(own_share(weight)))
    return [name for name, _ in zip(names, range(MOST_NAMES), strict=False)]


def _text(tokenizer: Any, ids: torch.Tensor) -> str:
    return tokenizer.decode([token for token in ids.tolist() if token != tokenizer.pad_token_id])
