"""Drawing and training at the same time (`grpo.rollout.overlap`): a thin way around TRL's own generate-and-score.

*Pipelined* (arXiv:2511.18871): weights go to the servers once a step, all prompts of the step are asked for at once, and
each micro-batch waits for its own groups only. Groups are trained in the order of the data, not in the order in which
they finish: the same seed is the same run, and a server takes what is asked first, first. No policy but the step's
own is ever trained on, so the gradient is the synchronous step's. One thing needs care: losses that divide by the
tokens of the whole step (`dapo`, `cispo`) do not know them yet. They divide by a constant first, and the gradient is
rescaled when the last group is in: gradients are linear in it.

*Asynchronous*: while step s trains, the completions of step s + 1 are drawn with the weights of before step s: they are
one step old when they are trained on, never more. The loss is then of three policies, as in decoupled PPO
(arXiv:2110.00641; for language models AReaL, arXiv:2505.24298), with its first ratio truncated: mu which drew, pi_old
which is the trainer's at the start of the step, pi which is trained:

    min(pi_old / mu, C) * min(r A, clip(r, 1 - e, 1 + e) A),   r = pi / pi_old

TRL computes pi_old when the step begins, takes mu from the engine, and C is `correction_cap`. Clipping is around pi_old,
so that its range means what it means in a synchronous step. A KL penalty is not corrected: it is over mu's tokens.

What is being drawn is part of a checkpoint (`in-flight.json`): a save waits for it, and a resumed run trains on the
very tokens that the undisturbed one trains on.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aha.errors import Mistake, RecipeError
from aha.rundir import read_object, write_json
from aha.train import heartbeat
from aha.train.timeline import Timeline

TOKEN_LOSSES = ("dapo", "cispo", "vespo")
"""TRL's losses that divide by the tokens of the whole step."""
WHOLE_LOSSES = ("grpo", "sapo", "dr_grpo", "luspo")
"""Those that are means over completions: micro-batches of the same size add up to the step, however it is cut."""
SUMMED = ("seconds/rollout", "seconds/reward", "unjudged")
HIGHEST = ("sampling/sampling_logp_difference/max",)


@dataclass
class Flight:
    """A batch that was asked for: its rows, what they become, and the optimiser step whose weights draw it."""

    rows: list[dict[str, Any]]
    futures: list[Future[Any]]
    policy_step: int


class Overlapped:
    """Mixed in before TRL's GRPOTrainer, and after `Sealed`, whose checkpoints it adds to.

    Uses five methods of TRL and transformers: `get_batch_samples` to see the next batch, `_prepare_inputs` where a
    batch is generated, `training_step` to rescale, and the two that write and read a checkpoint.
    """

    overlap = "none"
    submit: Callable[[list[list[int]], list[int]], list[Future[Any]]]
    """The engine's: prompts and seeds to futures of generations."""
    seed_at: Callable[[int, int], int]
    """Of an optimiser step and a place in its batch."""
    policy_step = 0
    """The step whose weights drew the completions that are being trained on."""
    part = 0
    """Which micro-batch of the step is being made, when it is made in parts."""
    timeline: Timeline

    _flight: Flight | None = None
    _source: Any = None
    _peeked: Sequence[Any] = ()
    _tokens = 0.0
    _divided: float | torch.Tensor = 0.0

    # --- batches ---

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> Any:
        """As transformers has it, looking one batch ahead; at the end of an epoch there is none."""
        if self._source is not epoch_iterator:
            self._source, self._peeked = epoch_iterator, ()
        chained = itertools.chain(self._peeked, epoch_iterator)
        found = super().get_batch_samples(chained, num_batches, device)  # type: ignore[misc]
        if self.overlap == "async":
            self._peeked = list(itertools.islice(epoch_iterator, 1))
        return found

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        trainer: Any = self
        place = trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations)
        if place == 0:
            self.policy_step = trainer.state.global_step
        if self.overlap == "pipelined":
            prepared = self._next_part(generation_batch, place)
        else:
            if self.overlap == "async" and place == 0:
                self._turn(generation_batch)
            prepared = super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        self.timeline.mark()
        return prepared

    def _submit(self, rows: list[dict[str, Any]], step: int) -> Flight:
        """Ask for the completions of the batch that optimiser step `step` (counted from 0) trains on."""
        trainer: Any = self
        prompts = trainer._tokenize_prompts([row["prompt"] for row in rows])[0]
        first = trainer.accelerator.process_index * len(prompts)
        seeds = [self.seed_at(step, first + index) for index in range(len(prompts))]
        return Flight(rows, self.submit(prompts, seeds), trainer.state.global_step)

    def _move_engine(self) -> None:
        trainer: Any = self
        with self.timeline.span("sync"):
            trainer.vllm_generation.sync_weights()
        trainer._last_loaded_step = trainer.state.global_step

    # --- pipelined ---

    def _next_part(self, batch: list[dict[str, Any]], place: int) -> Any:
        """The micro-batch whose turn it is, made of whole groups as they are there."""
        trainer: Any = self
        parts, size = trainer.args.steps_per_generation, trainer.args.per_device_train_batch_size
        if place >= parts:  # a later iteration over the same completions
            return trainer._buffered_inputs[place % parts]
        if place == 0:
            trainer._buffered_inputs = []
            self._tokens, self._divided = 0.0, 0.0
            self._move_engine()
            self._flight = self._submit(batch, trainer.state.global_step)
        assert self._flight is not None
        self.part, rows = place, slice(place * size, (place + 1) * size)
        trainer.vllm_generation.awaited = self._flight.futures[rows]
        made = trainer._generate_and_score_completions(self._flight.rows[rows])
        self._tokens += float(made["num_items_in_batch"])
        trainer._buffered_inputs.append(made | {"num_items_in_batch": torch.tensor(self._stand_in)})
        if place == parts - 1:
            self._fold(trainer._metrics["train"], parts)
        return trainer._buffered_inputs[-1]

    @property
    def _stand_in(self) -> float:
        """In place of the step's tokens, while they are not known: as many as there could be."""
        args, trainer = self.args, self  # type: ignore[attr-defined]
        most: int = trainer.max_completion_length  # type: ignore[attr-defined]
        return float(args.per_device_train_batch_size * args.steps_per_generation * args.world_size * most)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch, forward and backward; returns its loss, a scalar."""
        trainer: Any = self
        parts = trainer.args.steps_per_generation
        first_pass = trainer._step % (parts * trainer.num_iterations) < parts
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if self.overlap == "pipelined" and trainer.loss_type in TOKEN_LOSSES and first_pass:
            loss = self._rescaled(loss, last=trainer._step % parts == 0)
        self.timeline.since_mark("train")
        if trainer.accelerator.sync_gradients:
            speed = self.timeline.write(trainer.state.global_step + 1, self.policy_step)
            if self.overlap != "none":  # by the servers' clocks: the trainer's wait says little
                drawn = parts if self.overlap == "pipelined" else 1
                values = trainer._metrics["train"]["rollout_tokens_per_second"]
                values[-drawn:] = [math.nan if speed is None else speed]
        return loss

    def _rescaled(self, loss: torch.Tensor, last: bool) -> torch.Tensor:
        """Set right what was divided by a stand-in: the gradients once all parts are in, and the sum of the losses."""
        self._divided = self._divided + loss
        if not last:
            return loss
        trainer: Any = self
        factor = self._stand_in / max(self._tokens, 1.0)
        for weight in trainer.model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(factor)
        for made in trainer._buffered_inputs:  # a further iteration knows them
            made["num_items_in_batch"] = torch.tensor(self._tokens)
        return loss + (factor - 1) * self._divided

    def _fold(self, metrics: dict[str, list[float]], parts: int) -> None:
        """What TRL would average over the parts of a step, and is a sum or a maximum."""
        for names, fold in ((SUMMED, sum), (HIGHEST, max)):
            for name in names:
                metrics[name][-parts:] = [fold(metrics[name][-parts:])]

    # --- asynchronous ---

    def _turn(self, batch: list[dict[str, Any]]) -> None:
        """Take what is in flight, move the engine, and ask for the next batch, to be drawn while this one trains."""
        trainer: Any = self
        if self._flight is None:
            self._move_engine()
            self._flight = self._submit(batch, trainer.state.global_step)
        else:
            began = time.perf_counter()
            with self.timeline.span("wait"), heartbeat.phase("rollout"):
                for future in self._flight.futures:
                    future.result()
            trainer.vllm_generation.waited = time.perf_counter() - began
            self._move_engine()
        now, self._flight = self._flight, None
        assert [row["problem_index"] for row in now.rows] == [row["problem_index"] for row in batch]
        self.policy_step = now.policy_step
        trainer.vllm_generation.awaited = now.futures
        if self._peeked and trainer.state.global_step + 1 < trainer.state.max_steps:
            self._flight = self._submit(self._peeked[0], trainer.state.global_step + 1)

    # --- checkpoints ---

    def _in_flight(self, checkpoint: str | Path) -> Path:
        rank = "" if self.args.world_size == 1 else f"-rank{self.args.process_index}"  # type: ignore[attr-defined]
        return Path(checkpoint) / f"in-flight{rank}.json"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        if self.overlap == "async" and self._flight is not None:
            trainer: Any = self
            folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
            drawn = [vars(future.result()) for future in self._flight.futures]
            facts = {"policy_step": self._flight.policy_step, "rows": self._flight.rows, "drawn": drawn}
            write_json(self._in_flight(folder), facts)

    def _load_optimizer_and_scheduler(self, checkpoint: Any) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        found = read_object(self._in_flight(checkpoint)) if checkpoint is not None else None
        if found:
            futures: list[Future[Any]] = [Future() for _ in found["drawn"]]
            for future, drawn in zip(futures, found["drawn"], strict=True):
                future.set_result(_Drawn(**drawn))
            self._flight = Flight(found["rows"], futures, found["policy_step"])

    # --- the timeline's other phases ---

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        trainer: Any = self
        if trainer.state.global_step != trainer._last_loaded_step:
            self._move_engine()
        with self.timeline.span("wait"):
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():  # part of a training step
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        with self.timeline.span("score"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Any:
        with self.timeline.span("reward"):
            return super()._calculate_rewards(*args, **kwargs)  # type: ignore[misc]


@dataclass(frozen=True)
class _Drawn:
    """A generation that was read from a checkpoint."""

    token_ids: list[int]
    logprobs: list[float]
    truncated: bool


def require_overlap(trainer: Any) -> None:
    """Raises RecipeError when the trainer's gradient cannot be the synchronous one's; recipe/check.py has the rest."""
    if trainer.overlap != "pipelined":
        return
    token, loss = trainer.loss_type in TOKEN_LOSSES, trainer.loss_type
    wrong = {
        f"loss_type {loss}, which is a mean over the tokens of a micro-batch": not token and loss not in WHOLE_LOSSES,
        f"a router's auxiliary loss beside loss_type {loss}": token and trainer.aux_loss_enabled,
        f"loss_type {loss} under DeepSpeed, which hides its gradients": token and trainer.is_deepspeed_enabled,
    }
    mistakes = [
        Mistake("grpo.rollout.overlap", f"pipelined, with {what}", "none or async: this needs the whole step at once")
        for what, found in wrong.items()
        if found
    ]
    if mistakes:
        raise RecipeError(*mistakes)
