"""Packing loses nothing, and no sequence sees its neighbour."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from aha.data import arithmetic
from aha.data.packing import PackedCollator, Tokens, pack, split_long
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe.schema import FromScratch


def sequences_of(row: dict[str, list[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A packed row cut where its positions restart."""
    starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
    return [
        (tuple(row["input_ids"][a:b]), tuple(row["labels"][a:b]))
        for a, b in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True)
    ]


def random_sequences(rng: random.Random, length: int) -> list[Tokens]:
    made = []
    for _ in range(rng.randint(0, 40)):
        ids = [rng.randrange(1000) for _ in range(rng.randint(1, length))]
        made.append(Tokens(ids, [token if rng.random() < 0.7 else -100 for token in ids]))
    return made


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    length = rng.randint(1, 60)
    given = random_sequences(rng, length)
    rows = pack(given, length)
    for row in rows:
        assert set(row) == {"input_ids", "labels", "position_ids"}
        assert 0 < len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= length
    found = [sequence for row in rows for sequence in sequences_of(row)]
    wanted = [(tuple(s.ids), (-100, *s.labels[1:])) for s in given]
    assert Counter(found) == Counter(wanted)
    assert all(positions_restart(row) for row in rows)
    free = sorted(length - len(row["input_ids"]) for row in rows)
    assert not any(room >= len(row["input_ids"]) for row in rows for room in free[:-1]) or len(rows) < 2


def positions_restart(row: dict[str, list[int]]) -> bool:
    pairs = zip(row["position_ids"], row["position_ids"][1:], strict=False)
    return row["position_ids"][0] == 0 and all(after in (0, before + 1) for before, after in pairs)


def test_nothing_predicts_the_first_token_of_a_sequence() -> None:
    (row,) = pack([Tokens([1, 2, 3], [1, 2, 3]), Tokens([4, 5], [4, 5])], 8)
    assert row == {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, 5], "position_ids": [0, 1, 2, 0, 1]}


def test_best_fit() -> None:
    lengths = [6, 5, 5, 4]
    rows = pack([Tokens([n] * n, [n] * n) for n in lengths], 10)
    assert sorted(sorted(set(row["input_ids"])) for row in rows) == [[4, 6], [5]]


def test_empty_sequences_leave_no_trace() -> None:
    assert pack([], 8) == []
    assert pack([Tokens([], []), Tokens([1], [1])], 8) == [{"input_ids": [1], "labels": [-100], "position_ids": [0]}]


def test_a_sequence_longer_than_a_row_is_our_bug() -> None:
    with pytest.raises(AssertionError):
        pack([Tokens([1] * 9, [1] * 9)], 8)


def test_split_long() -> None:
    assert list(split_long([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(split_long([], 2)) == []


def test_padding_is_a_sequence_of_its_own() -> None:
    rows = [*pack([Tokens([1, 2, 3], [1, 2, 3])], 3), *pack([Tokens([4], [4])], 3)]
    batch = PackedCollator(pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [-100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 0, 1]]


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("flatten", [False, True], ids=["rows", "one flattened row"])
def test_no_contamination(architecture: str, flatten: bool) -> None:
    """What the model says of a packed sequence is what it says of that sequence alone."""
    tokenizer = make_tokenizer(arithmetic.vocabulary(), ("<think>", "</think>"))
    spec = FromScratch(architecture=architecture, hidden_size=32, layers=2, heads=2, intermediate_size=64)
    model = make_model(spec, tokenizer, seed=0).eval()
    rng = random.Random(0)
    sequences = [[rng.randrange(len(tokenizer)) for _ in range(rng.randint(2, 30))] for _ in range(12)]
    rows = pack([Tokens(ids, ids) for ids in sequences], 64)
    assert len(rows) > 1 and max(len(sequences_of(row)) for row in rows) > 2
    batch = PackedCollator(tokenizer.pad_token_id, flatten)(rows)
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        alone = {tuple(ids): model(input_ids=torch.tensor([ids]), use_cache=False).logits[0] for ids in sequences}
    compared = 0
    for number, row in enumerate(rows):
        at = sum(len(r["input_ids"]) for r in rows[:number]) if flatten else 0
        logits_TV = packed[0 if flatten else number]
        for ids, _ in sequences_of(row):
            torch.testing.assert_close(logits_TV[at : at + len(ids)], alone[ids], atol=1e-5, rtol=0)
            at += len(ids)
            compared += 1
    assert compared == len(sequences)


def test_the_contamination_test_can_fail() -> None:
    """Without restarting positions, a packed sequence does see its neighbour."""
    tokenizer = make_tokenizer(arithmetic.vocabulary(), ())
    model = make_model(FromScratch(hidden_size=32, layers=2, heads=2, intermediate_size=64), tokenizer, seed=0).eval()
    (row,) = pack([Tokens([5, 6, 7, 8], [5, 6, 7, 8]), Tokens([9, 10, 11], [9, 10, 11])], 16)
    with torch.no_grad():
        packed = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0, 4:]
        alone = model(input_ids=torch.tensor([[9, 10, 11]]), use_cache=False).logits[0]
    assert (packed - alone).abs().max() > 1e-4
