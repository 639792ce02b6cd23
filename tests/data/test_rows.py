"""Rows on disk are the rows of `pack`, made once, from no more tokens at a time than a window holds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from aha.data import packing, rows
from aha.data.packing import Tokens, pack, pack_all
from aha.data.rows import packed_rows
from aha.data.sources import Tally
from aha.errors import DataError
from aha.recipe import load_recipe, memory
from aha.stages import cpt


def some(count: int = 500, longest: int = 20) -> list[Tokens]:
    rng = random.Random(3)
    made = []
    for _ in range(count):
        ids = [rng.randrange(50_000) for _ in range(rng.randint(1, longest))]
        made.append(Tokens(ids, [-100 if rng.random() < 0.3 else token for token in ids]))
    return made


def quiet(line: str) -> None:
    """Nobody watches."""


def test_what_is_read_back_is_what_was_packed(tmp_path: Path) -> None:
    given = some()
    found = packed_rows(iter(given), [], 64, tmp_path, quiet)
    expected = pack(given, 64)
    assert list(found.rows) == expected
    assert found.tokens == sum(len(sequence.ids) for sequence in given)
    assert found.trained == sum(label != -100 for row in expected for label in row["labels"])


def test_the_planner_counts_the_same() -> None:
    assert memory.WINDOW == packing.WINDOW
    assert 4 * len(rows.FEATURES) == memory.ROW_BYTES


def test_a_window_is_all_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW", 1000)
    monkeypatch.setattr(packing, "LEAST_ROWS", 4)
    read, given = [0], some()

    def counted() -> Iterator[Tokens]:
        for sequence in given:
            read[0] += len(sequence.ids)
            yield sequence

    written, made = 0, []
    for row in pack_all(counted(), 64):
        assert read[0] - written < 1000 + 20
        written += len(row["input_ids"])
        made.append(row)
    assert written == read[0] == sum(len(sequence.ids) for sequence in given)
    starts = [[*(i for i, p in enumerate(row["position_ids"]) if p == 0), len(row["input_ids"])] for row in made]
    pieces = [tuple(row["input_ids"][a:b]) for row, at in zip(made, starts, strict=True) for a, b in pairwise(at)]
    assert Counter(pieces) == Counter(tuple(sequence.ids) for sequence in given)


def test_windows_come_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "WINDOW", 1000)
    monkeypatch.setattr(packing, "LEAST_ROWS", 4)
    once, again, otherwise = (list(pack_all(some(), 64, random.Random(seed))) for seed in (0, 0, 1))
    assert once == again != otherwise


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    tally = Tally("a source", read=7, kept=5)
    first = packed_rows(some(), [tally], 64, tmp_path, quiet)

    def unread() -> Iterator[Tokens]:
        raise AssertionError("the sources are read again")
        yield

    again = packed_rows(unread(), [Tally("a source")], 64, tmp_path, quiet)
    assert list(again.rows) == list(first.rows) and again[1:] == first[1:]
    assert again.tallies[0].kept == 5


def test_half_of_it_is_nothing(tmp_path: Path) -> None:
    """A process that is killed while it packs leaves rows without their facts: they are made again."""

    def broken() -> Iterator[Tokens]:
        yield from some(50)
        raise DataError("row 51 is bad")

    with pytest.raises(DataError, match="row 51"):
        packed_rows(broken(), [], 64, tmp_path, quiet)
    assert list(packed_rows(some(), [], 64, tmp_path, quiet).rows) == pack(some(), 64)


def test_no_sequences_are_no_rows(tmp_path: Path) -> None:
    assert len(packed_rows([], [], 64, tmp_path, quiet).rows) == 0


def test_long_packing_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PATIENCE", -1.0)
    said: list[str] = []
    packed_rows(some(40), [], 64, tmp_path, said.append)
    assert said and said[-1].startswith("packing: ") and said[-1].endswith("rows so far")


class Letters:
    """A tokenizer of one token for each letter."""

    eos_token_id = 0

    def __call__(self, text: str, **_: Any) -> Any:
        return type("Encoded", (), {"input_ids": [ord(letter) for letter in text]})


def test_a_source_too_small_for_its_share_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_text('{"text": "abcdefg"}\n{"text": "hi"}\n')
    (tmp_path / "r.yaml").write_text(
        "model: {from_scratch: {}}\ncpt: {data: [{path: small.jsonl}], tokens: 30, max_tokens: 4, batch_size: 1}\n"
    )
    block = load_recipe(tmp_path / "r.yaml").cpt
    assert block is not None
    source, tally = block.data[0].model_copy(update={"path": str(tmp_path / "small.jsonl")}), Tally("small")
    pieces = [list(piece.ids) for piece in cpt._read(source, 0, Letters(), block, 30, tally)]  # type: ignore[arg-type]
    once = [[97, 98, 99, 100], [101, 102, 103, 0], [104, 105, 0]]
    assert pieces == (once * 3)[:8]  # 11 + 11 + 8 tokens
    assert (tally.read, tally.kept) == (2, 2)
