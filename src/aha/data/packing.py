"""Packing: many token sequences into rows of one length, so that no computation is spent on padding.

Each sequence keeps its own positions, starting at 0, and attends to itself only; so packing changes the speed of
training and not what is learned. Rows are filled best-fit-decreasing (Ding et al. 2024, arXiv:2404.10830).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Tokens:
    """One sequence: its token ids, and the labels of the same length (-100 where no loss is taken)."""

    ids: list[int]
    labels: list[int]


def split_long(ids: list[int], length: int) -> Iterable[list[int]]:
    """Cut a document into pieces of at most `length` tokens; nothing is lost."""
    return (ids[i : i + length] for i in range(0, len(ids), length))


def pack(sequences: Sequence[Tokens], length: int) -> list[dict[str, list[int]]]:
    """Rows of at most `length` tokens: `input_ids`, `labels`, `position_ids`, each of shape (row length,).

    The first label of every sequence is -100: nothing before it predicts it, and the last token of the sequence
    packed in front of it must not.
    """
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
    return [_join(row) for row in rows]


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
