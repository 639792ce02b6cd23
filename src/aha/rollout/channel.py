"""Weights to all engines by one broadcast: NCCL where trainer and servers have GPUs of their own, else gloo.

Over HTTP (calls.push) each engine gets a copy of its own, one after the other. Here all of them, and every process of those
that are cut over several devices, take part in a group of which the trainer is the first, and each weight is sent once.
The group belongs to nobody else: neither to the trainers' own nor to vLLM's. Whoever is started again is not in it; then
it is formed anew.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

HEAD = 1024
"""Bytes before each weight: its name, its shape and its type as JSON, filled up with blanks. Nothing in them: the end."""


@dataclass(frozen=True)
class Place:
    """Where a group meets, and one process's place in it."""

    host: str
    port: int
    rank: int
    size: int
    backend: str
    seconds: float
    """Of silence, after which the others are taken for lost."""


class Channel:
    """A group of processes, of which the first sends weights and the others receive them.

    Raises RuntimeError (torch's) when the others do not come, or when one is lost on the way.
    """

    def __init__(self, place: Place, store: dist.Store | None = None):
        """Returns when all are there. The first process brings the store at which they meet."""
        patience = datetime.timedelta(seconds=place.seconds)
        store = store or dist.TCPStore(place.host, place.port, is_master=False, timeout=patience)
        if place.backend == "nccl":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            self._group: Any = dist.ProcessGroupNCCL(store, place.rank, place.size, options)
        else:
            self._group = dist.ProcessGroupGloo(store, place.rank, place.size, patience)
        self._device = torch.device("cuda" if place.backend == "nccl" else "cpu")

    def send(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Every weight, of any shape, to all others."""
        for name, weight in weights:
            tensor = weight.to(self._device).contiguous()
            head = {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
            self._broadcast(self._head(json.dumps(head)))
            self._broadcast(tensor)
        self._broadcast(self._head(""))

    def receive(self) -> Iterator[tuple[str, torch.Tensor]]:
        """What the first process sends, as it comes."""
        while told := bytes(self._broadcast(self._head("")).cpu().numpy()).decode().strip():
            head = json.loads(told)
            tensor = torch.empty(head["shape"], dtype=getattr(torch, head["dtype"]), device=self._device)
            yield head["name"], self._broadcast(tensor)

    def _head(self, text: str) -> torch.Tensor:
        """Raises ValueError for a name that is longer than any model's."""
        data = text.encode().ljust(HEAD)
        if len(data) > HEAD:
            raise ValueError(f"a weight whose head has {len(data)} bytes: {text[:80]}…")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self._device)

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        self._group.broadcast(tensor, 0).wait()
        return tensor


class Receives:
    """Mixed into the engines: they join a group, and take the weights that are sent in it."""

    _channel: Channel | None = None

    def join(self, place: Place) -> None:
        """Returns when all are there. Raises RuntimeError when they do not come."""
        self._channel = None  # the group before it ends with it
        self._channel = Channel(place)

    def take(self, heard: Callable[[], None] = lambda: None) -> None:
        """Move to the weights that are sent now; `heard` is called for each. Raises RuntimeError when they break off."""
        weights = _noticed(self._joined.receive(), heard)
        # A reload that is broken off on a CPU leaves an engine that no other can mend: there all must have come first.
        self.sync(weights if torch.cuda.is_available() else list(weights))  # type: ignore[attr-defined]

    @property
    def _joined(self) -> Channel:
        if self._channel is None:
            raise RuntimeError("it is in no group")
        return self._channel


def _noticed(
    weights: Iterator[tuple[str, torch.Tensor]], heard: Callable[[], None]
) -> Iterator[tuple[str, torch.Tensor]]:
    for pair in weights:
        heard()
        yield pair
