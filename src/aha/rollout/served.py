"""The engine that the trainer sees when rollouts come from servers: prompts go out by whole groups, completions come back.

What is asked for can be waited for one by one (`submit`): a completion is there as soon as it is finished, while others
are still being drawn.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from aha.errors import EngineError
from aha.rollout import calls
from aha.rollout.engine import Generation, Sampling
from aha.rollout.fleet import Fleet
from aha.rollout.member import Member
from aha.rollout.wire import generation_of

Span = tuple[str, float, float, int]
"""Which server drew, from when to when, by its own clock (seconds since 1970), and how many tokens."""
APART = 0.05
"""Nats per token on average, by which two servers with the same weights may differ: what bfloat16 rounds (train/bridge)."""


class ServedEngine:
    """An `Engine` whose policy lives in the processes of a fleet."""

    def __init__(self, fleet: Fleet, name: str):
        self.name = name
        self._spans: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self._fleet = fleet

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        return [future.result() for future in self.submit(prompts, sampling, seeds)]

    def submit(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Future[Generation]]:
        """One continuation per prompt, each from the weights of the last sync. A future raises EngineError when lost."""
        futures: list[Future[Generation]] = [Future() for _ in prompts]
        shares: list[list[int]] = [[] for _ in self._fleet.members]
        for number, (_, group) in enumerate(itertools.groupby(range(len(prompts)), key=lambda at: prompts[at])):
            shares[number % len(shares)] += group
        version = self._fleet.version
        for member, share in zip(self._fleet.members, shares, strict=True):
            if share:
                rows = {at: (list(prompts[at]), seeds[at]) for at in share}
                draw = _Draw(self._fleet, member, version, sampling, rows, futures, self._spans.put)
                threading.Thread(target=draw.run, daemon=True).start()
        return futures

    def new_spans(self) -> list[Span]:
        """When servers drew, as far as it has not been asked for yet."""
        return [self._spans.get() for _ in range(self._spans.qsize())]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """By every server: they must agree, since each of them draws. Raises EngineError when they do not."""
        asked = {"version": self._fleet.version, "sequences": [list(sequence) for sequence in sequences]}
        scored = []
        for member in self._fleet.members:

            def attempt(member: Member = member) -> list[list[float]]:
                lines = calls.ask(*member.where(), "/score", asked, self._fleet.patience.silence)
                return next(line["logprobs"] for line in lines if "logprobs" in line)

            scored.append(self._fleet.patiently(member, "scoring", attempt))
        for member, other in zip(self._fleet.members[1:], scored[1:], strict=True):
            pairs = [pair for rows in zip(scored[0], other, strict=True) for pair in zip(*rows, strict=True)]
            apart = sum(abs(one - two) for one, two in pairs) / max(1, len(pairs))
            if apart > APART:
                first = self._fleet.members[0].name
                raise EngineError(
                    f"{member.name} and {first} differ by {apart:.3f} nats per token: they hold other weights"
                )
        return scored[0]

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        self._fleet.set_weights(weights)


class _Draw:
    """What one server was asked to draw; asked again for what is missing when the server was lost meanwhile."""

    def __init__(
        self,
        fleet: Fleet,
        member: Member,
        version: str,
        sampling: Sampling,
        rows: dict[int, tuple[list[int], int]],
        futures: list[Future[Generation]],
        spent: Callable[[Span], None],
    ):
        """`rows`: place in the batch -> prompt and seed."""
        self._fleet = fleet
        self._member = member
        self._version = version
        self._sampling = sampling
        self._missing = rows
        self._futures = futures
        self._spent = spent
        self._all = len(rows)

    def run(self) -> None:
        try:
            what = f"drawing {self._all} completions"
            while self._missing:
                self._fleet.patiently(self._member, what, self._some)
        except BaseException as error:  # whoever waits must hear of it
            for at in self._missing:
                self._futures[at].set_exception(error)

    def _some(self) -> None:
        asked = list(self._missing.items())
        request: dict[str, Any] = {
            "version": self._version,
            "sampling": self._sampling.__dict__,
            "prompts": [prompt for _, (prompt, _) in asked],
            "seeds": [seed for _, (_, seed) in asked],
        }
        before = len(self._missing)
        try:
            for line in calls.ask(*self._member.where(), "/generate", request, self._fleet.patience.silence):
                if "done" in line:
                    self._spent((self._member.name, line["began"], line["ended"], line["tokens"]))
                else:
                    at = asked[line["index"]][0]
                    del self._missing[at]
                    self._futures[at].set_result(generation_of(line))
        except calls.LOST:
            if len(self._missing) == before:
                raise
            # what came until then is kept, and the deadline for the rest begins anew
