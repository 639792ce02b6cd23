"""Packed rows on disk: written once, window by window, then read back memory-mapped.

A billion tokens as Python lists are a hundred gigabytes; here a stage holds one window of them, whatever its budget. The
rows lie in the stage's folder while it trains. A stage that was interrupted finds them there: it goes on with the very
rows it had, and does not read its sources again.
"""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, Sequence, Value
from datasets.arrow_writer import ArrowWriter

from aha.data.packing import Tokens, pack_all
from aha.data.sources import Tally
from aha.rundir import read_object, write_json

FEATURES = Features({key: Sequence(Value("int32")) for key in ("input_ids", "labels", "position_ids")})
"""Of a row, each of shape (row length,): 12 bytes a token."""
ROWS, FACTS = "rows.arrow", "rows.json"
BATCH = 2**19
"""Tokens of one record batch. Opening the file reads the head of each, and the kernel maps what is near a head: of many
small ones, the whole file."""
PATIENCE = 60.0
"""Seconds between two remarks about how far packing is."""


class PackedRows(NamedTuple):
    """What a supervised stage trains on."""

    rows: Dataset
    tokens: int
    trained: int
    """Tokens on which the loss is taken."""
    tallies: list[Tally]
    """What became of each source's rows."""


def packed_rows(
    sequences: Iterable[Tokens],
    tallies: list[Tally],
    length: int,
    folder: Path,
    say: Callable[[str], None],
    order: random.Random | None = None,
) -> PackedRows:
    """Rows of at most `length` tokens, from `folder` or else made of `sequences`, whose reading fills in `tallies`.

    Several processes may ask at once: one of them packs, and the others wait for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder / ".lock"):
        facts = read_object(folder / FACTS)
        if facts is None:
            counts = _write(pack_all(sequences, length, order), max(1, BATCH // length), folder, say)
            facts = counts | {"sources": [asdict(tally) for tally in tallies]}
            write_json(folder / FACTS, facts)  # last: without it there are no rows
    empty = Dataset.from_dict({key: [] for key in FEATURES}, FEATURES)
    rows = Dataset.from_file(str(folder / ROWS)) if facts["rows"] else empty
    return PackedRows(rows, facts["tokens"], facts["trained"], [Tally(**source) for source in facts["sources"]])


def _write(
    rows: Iterable[dict[str, list[int]]], at_a_time: int, folder: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    counts = {"rows": 0, "tokens": 0, "trained": 0}
    said = time.monotonic()
    with ArrowWriter(features=FEATURES, path=str(folder / ROWS), writer_batch_size=at_a_time) as writer:
        for row in rows:
            writer.write(row)
            counts["rows"] += 1
            counts["tokens"] += len(row["input_ids"])
            counts["trained"] += sum(label != -100 for label in row["labels"])
            if time.monotonic() - said > PATIENCE:
                said = time.monotonic()
                say(f"packing: {counts['tokens']:,} tokens in {counts['rows']:,} rows so far")
        if counts["rows"]:
            writer.finalize()
    with (folder / ROWS).open("rb") as file:
        os.fsync(file.fileno())  # the facts that follow must not outlive the rows in a power cut
    return counts


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """The kernel lets go when this process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
