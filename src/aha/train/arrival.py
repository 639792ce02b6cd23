"""Did the update arrive? What trainer and engine say of the same tokens, before and after a sync.

The question needs care, because an update is small: at learning rate 1e-6 it moves log-probabilities by less than an
engine in bfloat16 rounds them. A limit on |trainer - engine| that lets honest rounding pass lets a stale engine pass
too. So each side is first compared with itself. Between two syncs the trainer's log-probabilities of the probes moved
by m, and the engine's by e, one entry for each token; their gap is g = e - m.

- In an honest engine g is rounding, and knows nothing of m. In a stale one e = 0, so g = -m, however small m is.
- `arrived` = <e, m> / <m, m> is the share of the update that reached the engine: 1, or 0 where nothing did.
- Its standard error is |g| / (|m| sqrt(tokens)), that of the regression of e on m under "all of it arrived" (a score
  test). A stale engine is off by the square root of the tokens in these, whatever the dtype.
- An engine that got nothing says the very same of every token, to the last bit; one whose weights have moved does not.

Looked at are sampled tokens only. A prompt's may be as unlikely as one in a million: there an engine in bfloat16 rounds by
tenths of a nat, and one such token can outweigh all others in <e, m> (SmolLM2: 0.07 nats on all tokens, 0.005 on sampled
ones). Tokens after the same beginning are one observation, not several. And a sampled token may become unlikely in one step:
a tiny policy in bfloat16 gave one 0.002 after 0.19, rounded that by 0.26 nats, and it alone was 97 % of <m, m> and made the
share 1.06. So the few `HEAVY` tokens that pull the share furthest are left out, as are those that were rounded most where it is
asked what an engine rounds. Without them that share was 0.99.

How far g can be rounding is known from before. An error of d in every score changes log p by about d (1 - p): it shows where
the policy is unsure, and tokens that were sure of themselves a step ago may be unsure now. So d is measured, at the syncs that
were found good, and `rounding` is the standard error that it gives the share.

The run ends when the engine has not moved and the trainer has; or when the share is off by more than `MISSING`, and by more
than `SURE` standard errors of both kinds, since the last sync or since the first, over which errors too small for one step add
up. A float32 engine rounds so little that g itself must be small: then a fault also shows that lies across m. The trainer must
have moved by more than it rounds itself, or its own rounding is in both m and g. What does not grow is for `MISMATCH`
(train/probes.py).

Honest runs of ten steps (a model of two layers, 391 tokens): in float32 shares of 1.0000 with errors below 0.0001, in
bfloat16 0.993 to 1.002 with errors of 0.002 and at most 3.5 errors from 1. Stale engines: 0.00, and 20 errors from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SURE, MISSING = 6.0, 0.05
"""Standard errors, and share of an update. The few tokens that moved far weigh most, so that the error taken from g itself is
too small where they are few: honest runs of SmolLM2 in bfloat16 reached 7.2 of those, and 3.1 of those that follow from d. A
stale tied head misses an eighth of an update: under rounding it shows as it adds up."""
SURE_OF_ITSELF = 1e-3
"""The smallest 1 - p that is reckoned with: below it, what a float rounds is not a score's."""
STILL = 1e-4
"""Nats (root mean square over the probes) that the trainer moves at most while a bfloat16 engine may stay as it is."""
HEAVY = 0.01
"""Of the tokens, rounded up: those with the largest |g m|. No fault shows in them alone: of a stale engine g = -m for all."""
LEFT_OVER = 0.02
"""Size of g against m from which a float32 engine has not got all. A stale tied head leaves from a twentieth to a quarter,
honest engines 1e-4."""


@dataclass(frozen=True)
class Sight:
    """What both sides said of the probes at one sync: logprobs of shape (tokens,), in float64."""

    step: int
    trainer: Tensor
    engine: Tensor

    @property
    def mismatch(self) -> float:
        return (self.engine - self.trainer).abs().mean().item()

    @property
    def doubt(self) -> Tensor:
        """Of each token 1 - p, by the trainer: how likely another one was."""
        return (1 - self.trainer.exp()).clamp(min=SURE_OF_ITSELF)

    @property
    def rounded(self) -> float:
        """Root mean square, in nats, of what an honest engine rounds, without the heavy tokens."""
        gap = self.engine - self.trainer
        return _size(gap[_light(gap)])

    @property
    def score_error(self) -> float:
        """The error d in every score that would round all of them so."""
        return _size(self.engine - self.trainer) / _size(self.doubt)


@dataclass(frozen=True)
class Arrival:
    """How much of an update reached the engine. See the head of this file."""

    share: float
    error: float
    """Its standard error."""
    rounding: float
    """The standard error that follows from what the engine was seen to round before."""
    moved: float
    gap: float
    """Root mean squares, in nats, of m and g, without the heavy tokens."""

    still: bool
    """Whether the engine says the very same of every token as before."""

    @property
    def complete(self) -> bool:
        if self.still:
            return self.moved <= STILL
        return not abs(1 - self.share) > max(MISSING, SURE * self.error, SURE * self.rounding)

    def complete_up_to(self, rounding: float) -> bool:
        """For an engine whose rounding is known, and small: what is left over may be in any direction."""
        return not self.gap > max(rounding, LEFT_OVER * self.moved)


def arrival(before: Sight, now: Sight, score_error: float = 0.0) -> Arrival:
    """Compares two syncs, where the engine has been seen to round its scores by as much as `score_error`.

    A trainer that has not moved at all gives a share of NaN: it says nothing of the engine.
    """
    moved = now.trainer - before.trainer
    gap = now.engine - before.engine - moved
    light = _light(gap * moved)
    slope, error = regressed(gap[light], moved[light])
    doubt = (before.doubt.square() + now.doubt.square()).sqrt()
    drawn = max(score_error, before.score_error) * (doubt * moved)[light].norm().item()
    rounding = drawn / moved[light].square().sum().item() if moved[light].any() else math.nan
    return Arrival(1 + slope, error, rounding, _size(moved[light]), _size(gap[light]), before.engine.equal(now.engine))


def _size(values: Tensor) -> float:
    """Root mean square."""
    return values.square().mean().sqrt().item()


def _light(weights: Tensor) -> Tensor:
    """The places of all tokens but the `HEAVY` ones, by the size of their weight; of at least one."""
    most = len(weights) - math.ceil(HEAVY * len(weights))
    return torch.argsort(weights.abs(), stable=True)[: max(1, most)]


def regressed(values: Tensor, on: Tensor) -> tuple[float, float]:
    """The slope through the origin, and its standard error under "no slope"; NaN where there is nothing to regress on."""
    size = on.norm().item()
    if size == 0:
        return math.nan, math.nan
    return (values @ on).item() / size**2, values.norm().item() / (size * math.sqrt(len(on)))
