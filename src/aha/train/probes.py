"""Probes: a few sequences of the run itself, scored by trainer and engine after every sync.

They are real prompts with sampled completions, taken from the first rollouts and kept. Trainer and engine must agree on
them up to rounding; each update must have reached the engine (train/arrival.py says how that is seen below its
rounding); and after updates with a gradient something must have moved at all. The run ends where one of these fails,
with the fault that it looks like (train/suspects.py).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from aha.errors import EngineError, StageError
from aha.train import suspects
from aha.train.arrival import SURE, Sight, arrival, regressed
from aha.train.scoring import in_float32, logits_of, logprobs_of

BUDGET, FEWEST, LONGEST = 384, 2, 128
"""Tokens of all probes, how many there are at least, and tokens of one; a longer prompt brings 64 of its completion."""
MISMATCH = {torch.float32: 5e-3, torch.bfloat16: 0.5}
"""By the engine's dtype: mean |logprob of the trainer - logprob of the engine| of sampled tokens, against their mean 1 - p. An
error of d in every score changes log p by at most 2 (1 - p) d: rounding shows where the policy is unsure, and nowhere else.
Honest runs of SmolLM2 in bfloat16 reach 0.15, whether a probe's tokens are as sure as when they were sampled (0.006 nats on
average) or have become unlikely (0.023); in float32 all stay below 1e-4."""
CLEAR = 0.1
"""Standard error, and rounding against the update, above which the share of an update is not worth logging."""
RESOLUTION, ROUNDINGS = 2e-5, 8
"""Nats (root mean square over the probes) that the trainer must have moved before it is compared: more than a float32
forward pass rounds. Where trainer and engine compute in one dtype, that many roundings as seen at the first probes."""
TEMPERATURE = {torch.float32: 0.02, torch.bfloat16: 0.06}
"""Relative difference of the temperature that the samples show from the recipe's. An honest engine in bfloat16 is off by up
to 0.03, whichever samples are looked at (SmolLM2, 30 layers, vLLM on CPU)."""
QUIET = {torch.float32: 2e-5, torch.bfloat16: 1e-3}
"""Mean |difference| in nats below which it is rounding whatever it looks like, as in a policy that hardly chooses any more."""
WAY_OUT = "If you know why they differ and want it so: grpo.rollout.on_mismatch=warn"
STUCK = 5
"""Updates with a gradient and a learning rate after which the weights must have changed somewhere."""


class Probes:
    """The probes of one process. `draw` takes them from the first rollouts, `look` is called after each sync."""

    def __init__(
        self,
        trainer: Any,
        score: Callable[[list[list[int]]], list[list[float]]],
        longest: int,
        warn: Callable[[str], None] | None = None,
    ):
        """`score` is the engine's: logprobs of every token but the first, at temperature 1, of at most `longest` tokens.
        With `warn` a disagreement is said (the first in full) and counted, and the run goes on."""
        self._trainer = trainer
        self._score = score
        self._sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        self._exact = not self._sharded and in_float32(trainer.model)
        self.dtype = torch.bfloat16 if trainer.args.bf16 else torch.float32
        self.sequences: list[list[int]] = []
        self._places: list[tuple[int, int]] = []
        """Of each token that is looked at: its probe, and its place there."""
        self._first: Sight | None = None
        self._score_error = 0.0
        """The largest that the engine was seen to round its scores, of the syncs that were found good."""
        self._judged: Sight | None = None
        """The newest sight that the trainer had moved far enough for; the next one is compared with it."""
        self._updates = 0
        self._still: tuple[Tensor, list[Tensor]] | None = None
        """The trainer's logprobs, and a sample of its weights, since when there have been `_updates`."""
        self.metrics: dict[str, float] = {}
        self._longest = longest
        self._warn = warn
        self._warned: set[int] = set()
        """Steps at which they disagreed."""

    def refuse(self, why: str) -> None:
        """Raises EngineError, unless the recipe only wants to hear of it."""
        if self._warn is None:
            raise EngineError(f"{why}\n  {WAY_OUT}")
        first = not self._warned
        self._warned.add(self._trainer.state.global_step)
        self.metrics["mismatch_warnings"] = len(self._warned)
        if first:
            self._warn(
                f"{why}\n  The run goes on, as grpo.rollout.on_mismatch says; `mismatch_warnings` counts the steps"
            )

    def took(self, norm: float | None, learning_rate: float) -> None:
        """An optimiser step with this gradient norm is about to be taken."""
        self._updates += bool(norm) and learning_rate > 0

    # --- which sequences ---

    def draw(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], logprobs: Sequence[list[float]]
    ) -> None:
        """Take the probes from a step's rollouts, the same in every process, and look for the first time.

        Raises EngineError as `look` does, and when the samples were not drawn at the recipe's temperature.
        """
        chosen = _choose(prompts, completions, self._longest)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast_object_list(holder := [chosen], 0)
            chosen = holder[0]
        self.sequences = [prompt + completion for prompt, completion in chosen]
        self._places = _places(self.sequences, [len(prompt) for prompt, _ in chosen])
        self.look()
        self.require_temperature(prompts, completions, logprobs)

    def require_temperature(
        self, prompts: Sequence[list[int]], completions: Sequence[list[int]], logprobs: Sequence[list[float]]
    ) -> bool:
        """The samples' logprobs must be the trainer's at the recipe's temperature t; returns whether they are.

        The same test as for an update: what the engine said less what the trainer says, regressed on the slope by
        log t, is log(its temperature / t). Raises EngineError that names the temperature (see `refuse`).
        """
        wanted = self._trainer.temperature
        gaps, slopes = [], []
        rows = _spread(prompts)
        lengths = [min(LONGEST, len(completions[row])) for row in rows]
        rows = [row for at, row in enumerate(rows) if at < FEWEST or sum(lengths[:at]) < BUDGET]
        sequences = [list(prompts[row]) + list(completions[row])[:LONGEST] for row in rows]
        for row, one, scores in zip(rows, sequences, self._logits(sequences), strict=True):
            first = len(prompts[row]) - 1
            values, slope = logprobs_of(scores, one, wanted)
            gaps.append(torch.tensor(logprobs[row][:LONGEST], dtype=torch.float64) - values[first:])
            slopes.append(slope[first:])
        gap, slope = torch.cat(gaps), torch.cat(slopes)
        off, error = regressed(gap, slope)
        if not (gap.abs().mean() > QUIET[self.dtype] and abs(off) > max(TEMPERATURE[self.dtype], SURE * error)):
            return True
        self.refuse(
            f"the engine samples at another temperature than the recipe's: about {wanted * math.exp(off):.2f}, where "
            f"grpo.rollout.temperature is {wanted:g}. Its logprobs of {len(gap)} sampled tokens differ from the "
            f"trainer's by {gap.abs().mean():.2g} nats on average, and as those of another temperature do"
        )
        return False

    # --- what both sides say of them ---

    def look(self) -> None:
        """Score the probes on both sides.

        Raises EngineError when the engine does not have the trainer's weights (see `refuse`), and StageError when the trainer's
        weights have not changed although it took steps.
        """
        if not self.sequences:
            return
        began = time.perf_counter()
        now = Sight(self._trainer.state.global_step, self.logprobs(), self._of_engine())
        self._first = self._first or now
        last = self._judged or now
        since = arrival(last, now, self._score_error)
        clear = since.moved > self._resolution and max(since.error, since.rounding) < CLEAR
        self.metrics = {"mismatch_probes": now.mismatch, "arrived": since.share if clear else math.nan}
        if self._warn is not None:
            self.metrics["mismatch_warnings"] = len(self._warned)
        missed = next((before for before in (last, self._first) if not self._arrived(before, now)), None)
        if missed is not None or not now.mismatch <= rounding(now.doubt.mean().item(), self.dtype):
            self.refuse(self._told(missed or last, now))
        self._require_movement(now)
        self._score_error = max(self._score_error, now.score_error)
        if self._judged is None or since.moved > self._resolution:
            self._judged = now
        self.metrics["seconds/probes"] = time.perf_counter() - began

    def logprobs(self, instead: dict[str, Tensor] | None = None) -> Tensor:
        """The trainer's, shape (tokens,); `instead` as in train/scoring.py."""
        rows = zip(self._logits(self.sequences, instead), self.sequences, strict=True)
        return self._looked_at([logprobs_of(scores, one)[0] for scores, one in rows])

    def _logits(self, sequences: list[list[int]], instead: dict[str, Tensor] | None = None) -> list[Tensor]:
        return logits_of(self._trainer.model, sequences, self.dtype if self._exact else None, instead)

    def _looked_at(self, rows: Sequence[Tensor]) -> Tensor:
        return torch.stack([rows[probe][place - 1] for probe, place in self._places])

    def _of_engine(self) -> Tensor:
        scored = self._score(self.sequences)
        rows = [torch.tensor([math.nan if one is None else one for one in row], dtype=torch.float64) for row in scored]
        whole = [len(row) for row in rows] == [len(one) - 1 for one in self.sequences]
        if not whole or not all(row.isfinite().all() for row in rows):
            raise EngineError("the engine did not give a finite log-probability for every token of the probes")
        return self._looked_at(rows)

    @property
    def _resolution(self) -> float:
        assert self._first is not None
        if self._exact and self.dtype != torch.float32:
            return RESOLUTION
        return max(1e-6, ROUNDINGS * self._first.rounded)

    def _arrived(self, before: Sight, now: Sight) -> bool:
        found = arrival(before, now, self._score_error)
        if found.moved <= self._resolution:
            return True
        alike = self._exact and self.dtype == torch.float32
        return found.complete and (not alike or found.complete_up_to(self._resolution))

    def _told(self, before: Sight, now: Sight) -> str:
        found = arrival(before, now)
        told = [
            f"the engine samples from another policy than the one being trained, found after the sync at step {now.step}: "
            f"mean |logprob difference| {now.mismatch:.2g} nats on {len(now.engine)} sampled tokens of {len(self.sequences)} probes, "
            f"where rounding explains at most {rounding(now.doubt.mean().item(), self.dtype):.2g}"
        ]
        if found.moved:
            told.append(
                f"  since step {before.step} the trainer moved by {found.moved:.2g} nats, and {found.share:.0%} of that reached the "
                f"engine, give or take {found.error:.0%}"
            )
        return "\n".join(
            [*told, *suspects.name(self, self._trainer.model, self._first or now, before, now, self._exact)]
        )

    # --- whether there is anything to arrive ---

    def _require_movement(self, now: Sight) -> None:
        if self._sharded:  # a piece of a weight may hold entries that no gradient reaches
            return
        if self._still is None or not now.trainer.equal(self._still[0]):
            self._updates, self._still = 0, (now.trainer, _sample(self._trainer.model))
        elif self._updates >= STUCK:
            weights = _sample(self._trainer.model)
            if all(map(torch.equal, weights, self._still[1])):
                raise StageError(
                    f"the policy has not moved: {self._updates} updates with a gradient left every weight that was looked at as it was. "
                    "Either the optimiser does not hold the model's weights, or the learning rate is below what their dtype "
                    f"({weights[0].dtype}) can resolve"
                )
            self._updates, self._still = 0, (now.trainer, weights)  # too little to show, as rounded for the engine


def rounding(doubt: float, dtype: torch.dtype) -> float:
    """The largest mean difference, in nats, that rounding explains in tokens whose mean 1 - p is `doubt`."""
    return max(QUIET[dtype], MISMATCH[dtype] * doubt)


def _spread(prompts: Sequence[list[int]]) -> list[int]:
    """The rows of a batch, one completion of each prompt before the second of any."""
    seen: dict[tuple[int, ...], int] = {}
    turns = []
    for prompt in prompts:
        turns.append(seen.get(tuple(prompt), 0))
        seen[tuple(prompt)] = turns[-1] + 1
    return sorted(range(len(prompts)), key=lambda row: (turns[row], row))


def _choose(
    prompts: Sequence[list[int]], completions: Sequence[list[int]], most: int
) -> list[tuple[list[int], list[int]]]:
    """Prompts with their completions, at most `most` tokens of both, until the budget is spent."""
    chosen: list[tuple[list[int], list[int]]] = []
    for row in _spread(prompts):
        room = max(LONGEST - len(prompts[row]), 64)
        chosen.append((list(prompts[row]), list(completions[row])[: max(0, min(room, most - len(prompts[row])))]))
        if len(chosen) >= FEWEST and sum(len(prompt) + len(completion) for prompt, completion in chosen) >= BUDGET:
            break
    return chosen


def _places(sequences: Sequence[list[int]], prompts: Sequence[int]) -> list[tuple[int, int]]:
    """Every sampled token, but the same one after the same beginning only once (see train/arrival.py).

    Where there is none (no room for one behind the prompt), those of the prompts.

    >>> _places([[7, 8, 9, 3], [7, 8, 9, 4]], [2, 2])
    [(0, 2), (0, 3), (1, 3)]
    """
    seen: set[tuple[int, ...]] = set()
    places = []
    for probe, (one, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        for place in range(prompt, len(one)):
            if (beginning := tuple(one[: place + 1])) not in seen:
                seen.add(beginning)
                places.append((probe, place))
    return places or (_places(sequences, [1] * len(sequences)) if any(one > 1 for one in prompts) else [])


def _sample(model: Any, values: int = 64) -> list[Tensor]:
    """A few entries of every weight that is trained."""
    trained = [weight.detach().flatten() for weight in model.parameters() if weight.requires_grad]
    return [weight[:: max(1, len(weight) // values)].clone() for weight in trained]
