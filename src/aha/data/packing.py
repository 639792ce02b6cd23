"""Packing: many token sequences into rows of one length, so that no computation is spent on padding.

Each sequence keeps its own positions, starting at 0, and attends to itself only; so packing changes the speed of
training and not what is learned. Rows are filled best-fit-decreasing (Ding et al. 2024, arXiv:2404.10830), within windows
of a few million tokens, so that a corpus of any size goes through the same memory.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

WINDOW = 2**21
"""Tokens that are packed together. A window is what is held in memory; in a larger one rows are hardly fuller."""
LEAST_ROWS = 256
"""Rows that a window has at least: in one of a few long rows, much would stay empty."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence: its token ids, and the labels of the same length (-100 where no loss is taken)."""

    ids: Sequence[int]
    labels: Sequence[int]

    def compact(self) -> Tokens:
        """The same at four bytes a token; a list of Python's integers takes up to 36."""
        ids = array("i", self.ids)
        return Tokens(ids, ids if self.labels is self.ids else array("i", self.labels))


def split_long(ids: list[int], length: int) -> Iterable[list[int]]:
    """Cut a document into pieces of at most `length` tokens; nothing is lost."""
    return (ids[i : i + length] for i in range(0, len(ids), length))


def pack(sequences: Sequence[Tokens], length: int) -> list[dict[str, list[int]]]:
    """Rows of at most `length` tokens: `input_ids`, `labels`, `position_ids`, each of shape (row length,).

    The first label of every sequence is -100: nothing before it predicts it, and the last token of the sequence
    packed in front of it must not.
    """
    return [_join(row) for row in _fill(sequences, length)]


def pack_all(
    sequences: Iterable[Tokens], length: int, order: random.Random | None = None
) -> Iterator[dict[str, list[int]]]:
    """The rows of `pack`, window by window; with an `order`, the sequences of a window are shuffled first."""
    for window in _windows(sequences, max(WINDOW, LEAST_ROWS * length)):
        if order is not None:
            order.shuffle(window)
        yield from map(_join, _fill(window, length))


def _windows(sequences: Iterable[Tokens], size: int) -> Iterator[list[Tokens]]:
    window: list[Tokens] = []
    held = 0
    for sequence in sequences:
        window.append(sequence.compact())
        held += len(sequence.ids)
        if held >= size:
            yield window
            window, held = [], 0
    yield window


def _fill(sequences: Sequence[Tokens], length: int) -> list[list[Tokens]]:
    """Which sequences share a row: the longest first, each into the fullest row that has room for it."""
    assert all(len(s.ids) == len(s.labels) and len(s.ids) <= length for s in sequences), (
        "cut or drop them before packing"
    )
    sequences = [sequence for sequence in sequences if sequence.ids]
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    rows: list[list[Tokens]] = []
    for sequence in sorted(sequences, key=lambda s: -len(s.ids)):
        spot = bisect_left(free, (len(sequence.ids), -1))
        if spot == len(free):
            rows.append([sequence])
            insort(free, (length - len(sequence.ids), len(rows) - 1))
            continue
        room, row = free.pop(spot)
        rows[row].append(sequence)
        insort(free, (room - len(sequence.ids), row))
    return rows


def _join(sequences: list[Tokens]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for s in sequences for token in s.ids],
        "labels": [label for s in sequences for label in (-100, *s.labels[1:])],
        "position_ids": [position for s in sequences for position in range(len(s.ids))],
    }


@dataclass(frozen=True)
class PackedCollator:
    """Rows into a batch without an attention mask: positions that restart at 0 mark where a sequence begins.

    `flatten=False` keeps a batch of shape (rows, longest row): attention is quadratic in the row, which suits SDPA.
    `flatten=True` joins the rows into shape (1, all tokens), as FlashAttention's variable-length kernel wants it.
    """

    pad_token_id: int
    flatten: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.flatten:
            return {key: torch.tensor([[t for row in rows for t in row[key]]]) for key in rows[0]}
        longest = max(len(row["input_ids"]) for row in rows)
        # Padding restarts the positions too: it is a sequence of its own, which no real token can see.
        fill: dict[str, Callable[[int], Iterable[int]]] = {
            "input_ids": lambda n: [self.pad_token_id] * n,
            "labels": lambda n: [-100] * n,
            "position_ids": range,
        }
        return {key: torch.tensor([[*row[key], *fill[key](longest - len(row[key]))] for row in rows]) for key in fill}
