"""Before step 1 the largest batch that can come goes forward and backward, so that a lack of memory shows in the first minute.

Batches differ in length, and the longest may come after hours. Here it is made up: as many sequences as a micro-batch
has, each as long as it can get (in GRPO a prompt and a completion of full length, scored and trained as TRL does it),
with room kept for the optimiser's state, which is only made in the first step. It changes nothing in the run
(rehearsal.py). If it does not fit, smaller micro-batches are tried, and the error names the largest that does.

On a GPU it costs less than a step. On a CPU it is done where it is cheap, about a second; `hardware.worst_case_first`
says otherwise. A CPU also hands out memory that it does not have, and then kills the process: unless there is a limit,
that is how it shows there.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import torch

from aha.errors import StageError
from aha.recipe.plan import StagePlan
from aha.recipe.schema import Recipe
from aha.rundir import write_json
from aha.train.rehearsal import gradients, obstacle, rehearsal

CHEAP = 2e11
"""Floating-point operations: about a second on two cores."""

Batch = dict[str, Any]


class WorstCase:
    """Mixed in before a TRL trainer; `expect_longest` is called before `train`."""

    _lengths: tuple[int, ...] | None = None
    _stage: StagePlan
    _recipe: Recipe

    def expect_longest(self, recipe: Recipe, stage: StagePlan, *lengths: int) -> None:
        """`lengths`, in tokens: of the longest packed row; or of the longest prompt and the longest completion."""
        self._recipe, self._stage, self._lengths = recipe, stage, lengths

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; before the very first one, the longest that can come."""
        if self._lengths is not None:
            lengths, self._lengths = self._lengths, None
            self._rehearse_longest(self.accelerator.unwrap_model(model), lengths)  # type: ignore[attr-defined]
        return super().training_step(model, *args, **kwargs)  # type: ignore[misc]

    def _rehearse_longest(self, inner: torch.nn.Module, lengths: tuple[int, ...]) -> None:
        """Raises StageError when the longest batch does not fit, with the largest micro-batch that does."""
        micro = self._stage.micro_batch
        facts: dict[str, Any] = {"micro_batch": micro, "lengths": lengths, "tokens": micro * sum(lengths)}
        if why := self._reason_against(inner, micro * sum(lengths)):
            return self._write_worst_case({"ran": False, "why": why} | facts)
        began = time.perf_counter()
        if self._fits(inner, micro, lengths):
            return self._write_worst_case(
                {"ran": True, "seconds": round(time.perf_counter() - began, 3)} | facts | _peak()
            )
        share = micro * self._stage.accumulation
        alone = self.accelerator.num_processes == 1  # type: ignore[attr-defined]  # several would wait for each other
        smaller = (size for size in range(micro - 1, 0, -1) if alone and share % size == 0)
        fitting = next((size for size in smaller if self._fits(inner, size, lengths)), None)
        self._write_worst_case({"ran": True, "fits": False, "largest_that_fits": fitting} | facts)
        raise StageError(self._too_large(micro, lengths, fitting))

    def _reason_against(self, inner: torch.nn.Module, tokens: int) -> str | None:
        wish = self._recipe.hardware.worst_case_first
        if wish == "never":
            return "the recipe says hardware.worst_case_first: never"
        if why := obstacle(self):
            return why
        sizes = (getattr(weight, "ds_numel", weight.numel()) for weight in inner.parameters())  # ZeRO-3 leaves it empty
        cost = 6 * tokens * sum(sizes)  # Kaplan et al. 2020, arXiv:2001.08361
        if wish == "auto" and self.args.device.type == "cpu" and cost > CHEAP:  # type: ignore[attr-defined]
            return f"on a CPU it takes {cost:.1e} operations; hardware.worst_case_first=always does it all the same"
        return None

    def _fits(self, inner: torch.nn.Module, micro: int, lengths: tuple[int, ...]) -> bool:
        try:
            with rehearsal(self):
                room = self._room_for_the_optimiser(inner)
                inner.train()
                batch, beside = self.longest_batch(micro, lengths)
                gradients(self, super().compute_loss(inner, batch, **beside))  # type: ignore[misc]
                del room
            return True
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # a sleeping engine wants that memory back
        gc.collect()  # not in the handler: there the error's traceback still holds the tensors
        return False

    def longest_batch(self, micro: int, lengths: tuple[int, ...]) -> tuple[Batch, dict[str, Any]]:
        """`micro` sequences of full length, and what `compute_loss` gets beside them."""
        words = self.model.config.get_text_config().vocab_size  # type: ignore[attr-defined]
        if len(lengths) == 2:
            return self._completions(micro, *lengths, words), {}
        ids = [token % words for token in range(lengths[0])]
        row = {"input_ids": ids, "labels": ids, "position_ids": range(len(ids))}
        batch = self._prepare_input(self.data_collator([row] * micro))  # type: ignore[attr-defined]
        return batch, {"num_items_in_batch": torch.tensor(micro * lengths[0], device=self.args.device)}  # type: ignore[attr-defined]

    def _completions(self, micro: int, prompt: int, completion: int, words: int) -> Batch:
        """A GRPO micro-batch of full length, scored as TRL scores it before the loss.

        The completions differ: of equal ones the advantages would cancel, and no gradient be left to compare.
        """
        device = self.args.device  # type: ignore[attr-defined]
        drawn = torch.Generator(device).manual_seed(0)
        ids = torch.randint(words, (micro, prompt + completion), generator=drawn, device=device)
        mask = torch.ones_like(ids)
        with torch.no_grad():
            scores, *_ = self._get_per_token_logps_and_entropies(self.model, ids, mask, completion, micro)  # type: ignore[attr-defined]
        return {
            "prompt_ids": ids[:, :prompt],
            "prompt_mask": mask[:, :prompt],
            "completion_ids": ids[:, prompt:],
            "completion_mask": mask[:, prompt:],
            "advantages": 1.0 - 2.0 * torch.arange(micro, device=device).remainder(2),
            "num_items_in_batch": torch.tensor(micro * completion, device=device),
            "old_per_token_logps": scores,
            "ref_per_token_logps": scores,
            "importance_sampling_ratio": torch.ones_like(scores),
            "tool_mask": mask[:, prompt:],
        }

    def _room_for_the_optimiser(self, inner: torch.nn.Module) -> list[torch.Tensor]:
        """As much memory as AdamW's two moments will take; none if they are there already, as DeepSpeed's are."""
        there = self.is_deepspeed_enabled or self.optimizer.state  # type: ignore[attr-defined]
        if there or "adamw" not in str(self.args.optim):  # type: ignore[attr-defined]
            return []
        trained = [weight for weight in inner.parameters() if weight.requires_grad]
        return [torch.empty_like(weight) for weight in trained for _ in range(2)]

    def _too_large(self, micro: int, lengths: tuple[int, ...], fitting: int | None) -> str:
        stage = self._stage.name
        made = " + ".join(map(str, lengths))
        if fitting:
            way_out = f"{stage}.micro_batch={fitting} fits, and leaves the step what it is"
        elif micro > 1 and self.accelerator.num_processes > 1:  # type: ignore[attr-defined]
            way_out = f"{stage}.micro_batch={micro // 2} is the smallest change, and leaves the step what it is; it was not tried"
        elif not self.args.gradient_checkpointing:  # type: ignore[attr-defined]
            way_out = f"not even one sequence fits; {stage}.gradient_checkpointing=true is the smallest change left, not tried"
        else:
            key = "rollout.max_tokens" if len(lengths) == 2 else "max_tokens"
            way_out = (
                f"not even one sequence fits; what is left is a smaller {stage}.{key}, {stage}.lora, or a larger device"
            )
        return (
            f"{stage}: the longest batch does not fit into memory: micro_batch {micro} x ({made}) tokens = "
            f"{micro * sum(lengths)} tokens, tried before step 1. {way_out}"
        )

    def _write_worst_case(self, facts: dict[str, Any]) -> None:
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            write_json(Path(self.args.output_dir).parents[1] / "worst_case.json", facts)  # type: ignore[attr-defined]


def _is_out_of_memory(error: Exception) -> bool:
    words = ("allocate memory", "out of memory", "bad_alloc", "could not create a primitive")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def _peak() -> dict[str, float]:
    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if torch.cuda.is_available() else {}
