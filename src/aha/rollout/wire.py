"""What goes over the wire between a trainer and a rollout server: weights as frames, generations as lines of JSON.

No pickle: whoever reaches the port may send what they like, and must not be able to run code with it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import torch

from aha.rollout.engine import Generation

LENGTH = struct.Struct("!Q")


def write_weights(
    file: BinaryIO, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """One frame for each weight: the length of its head, its head as JSON, its bytes. Floats are cast to `dtype`.

    Yields each weight as it was written, where it was: it may be sent at the same time.
    """
    for name, weight in weights:
        tensor = weight.detach()
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        data = tensor.cpu().contiguous()
        shape, kind = list(data.shape), str(data.dtype).removeprefix("torch.")
        head = json.dumps({"name": name, "shape": shape, "dtype": kind}).encode()
        file.write(LENGTH.pack(len(head)))
        file.write(head)
        file.write(data.reshape(-1).view(torch.uint8).numpy().data)
        yield name, tensor


class StoredWeights:
    """The weights of a file that `write_weights` wrote, one at a time. Raises ValueError when it is cut short."""

    def __init__(self, file: BinaryIO):
        self._file = file

    @property
    def path(self) -> str:
        """By which another process of this machine opens the file, which may have no name (Linux)."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._file.seek(0)
        while prefix := self._file.read(LENGTH.size):
            head = json.loads(_exactly(self._file, LENGTH.unpack(prefix)[0]))
            dtype = getattr(torch, head["dtype"])
            size = dtype.itemsize
            for length in head["shape"]:
                size *= length
            yield head["name"], torch.frombuffer(_exactly(self._file, size), dtype=dtype).reshape(head["shape"])


def _exactly(file: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    if file.readinto(data) != size:  # type: ignore[attr-defined]
        raise ValueError("weights are cut short")
    return data


def generation_line(index: int, generation: Generation) -> dict[str, Any]:
    """One finished continuation: the place of its prompt in the request, and what was drawn."""
    return {
        "index": index,
        "token_ids": generation.token_ids,
        "logprobs": generation.logprobs,
        "truncated": generation.truncated,
    }


def generation_of(line: dict[str, Any]) -> Generation:
    """The other way round. JSON keeps every bit of a float."""
    return Generation(line["token_ids"], line["logprobs"], line["truncated"])
