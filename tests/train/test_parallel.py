"""What several processes rest on: the wrapper that was asked for is really there, and the order of rows is one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from train.test_finite import trainer

from aha.errors import StageError
from aha.train.parallel import WRAPPERS, own_share
from aha.train.sft import RowOrder


@pytest.mark.parametrize("way", ["ddp", "zero3"])
def test_a_bare_model_is_not_trained_where_a_shared_one_was_asked_for(way: str, tmp_path: Path) -> None:
    bare = trainer(tmp_path)
    bare.parallel = way
    before = {name: value.clone() for name, value in bare.model.state_dict().items()}
    with pytest.raises(StageError, match=f"{WRAPPERS[way]}, but what would be trained is the bare model"):
        bare.train()
    assert all(torch.equal(value, before[name]) for name, value in bare.model.state_dict().items())


@pytest.mark.parametrize(("rank", "held"), [(0, [1.0, 2.0, 3.0]), (1, [4.0, 5.0])])
def test_what_fills_up_a_share_is_not_looked_at(rank: int, held: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """ZeRO-3 shares five entries as three and two, and one of memory that nobody wrote: it was NaN, and ended a run."""
    monkeypatch.setattr("aha.train.parallel.dist.get_rank", lambda: rank)
    weight: Any = torch.nn.Parameter(torch.empty(0))
    weight.ds_numel, weight.ds_tensor = 5, torch.tensor([*held, torch.nan][:3])
    weight.ds_tensor.ds_numel = 3
    assert own_share(weight).tolist() == held


def test_rows_come_epoch_after_epoch_without_a_short_step() -> None:
    order = list(RowOrder(5, 12, seed=3))
    assert len(order) == 12 and sorted(order[:5]) == sorted(order[5:10]) == list(range(5))
    assert order[:5] != order[5:10], "each epoch has an order of its own"
    assert order == list(RowOrder(5, 12, seed=3)) and order[:7] == list(RowOrder(5, 7, seed=3))


def test_the_first_epoch_is_the_one_that_transformers_would_take() -> None:
    theirs = SeedableRandomSampler(range(9), data_seed=4)
    assert list(RowOrder(9, 9, seed=4)) == list(theirs)
