"""One broadcast for all engines: the weights reach each of them, and where there can be none, they come the other way, and it is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout.test_server import TOLERANCE, Trainer, served, wait_until_said

from aha.errors import EngineError
from aha.rollout.fleet import TRIES, Fleet
from aha.rollout.member import Member
from aha.rollout.served import ServedEngine
from aha.rollout.wire import StoredWeights, write_weights

pytestmark = pytest.mark.long
Served = tuple[Fleet, ServedEngine, list[str]]


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def two(trainer: Trainer) -> Iterator[Served]:
    with served(trainer, "transformers", silence=10.0, count=2) as found:
        yield found


@pytest.fixture
def servers(two: Served) -> Served:
    """The two servers of this file, as if nothing had ever happened to them."""
    fleet, _, said = two
    fleet._channel, fleet._tries = None, TRIES
    for member in fleet.members:
        member.started = 1
    said.clear()
    return two


def words(said: list[str]) -> list[str]:
    return [line.removeprefix("rollouts: ").split(":")[0] for line in said]


GROUP = "weights go to 2 engine process(es) by one broadcast (gloo)"


def test_one_broadcast_reaches_all_servers_and_a_new_group_those_that_came_back(
    trainer: Trainer, servers: Served
) -> None:
    fleet, engine, said = servers
    for _ in range(2):
        trainer.step()
        assert trainer.distance(engine) > 100 * TOLERANCE if fleet.version else True
        engine.sync(trainer.model.named_parameters())
        assert trainer.distance(engine) < TOLERANCE, "by either server: they are asked both, and must agree"
    assert words(said) == [GROUP], "one group is enough for two syncs"
    process = fleet.members[1].process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    trainer.step()
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE
    trainer.step()
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE
    assert words(said).count(GROUP) == 2, said


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_a_server_that_is_lost_in_the_middle_of_a_broadcast_gets_the_weights_when_it_is_back(
    trainer: Trainer, servers: Served, blow: int
) -> None:
    fleet, engine, said = servers
    engine.sync(trainer.model.named_parameters())
    trainer.step()

    def struck() -> Iterator[tuple[str, torch.Tensor]]:
        for number, (name, weight) in enumerate(trainer.model.named_parameters()):
            if number == 5:
                process: Any = fleet.members[0].process
                os.kill(process.pid, blow)
            yield name, weight

    engine.sync(struck())
    assert trainer.distance(engine) < TOLERANCE
    assert "these weights go to each server over HTTP, the broadcast broke off" in words(said), said
    wait_until_said(said, "rollouts: server 0 is back, with the current weights")
    trainer.step()
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE
    assert words(said)[-1] == GROUP, said


def test_where_no_group_can_be_formed_the_weights_go_over_http(
    trainer: Trainer, servers: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, engine, said = servers
    fleet._tries = 1
    monkeypatch.setattr(Member, "sees", lambda self: "nobody.invalid")  # a name that is never given (RFC 2606)
    for _ in range(2):
        trainer.step()
        engine.sync(trainer.model.named_parameters())
        assert trainer.distance(engine) < TOLERANCE
    assert words(said) == ["weights go to each server over HTTP from now on, no group was formed"], said


def test_weights_that_cannot_be_read_to_their_end_reach_nobody(trainer: Trainer, servers: Served) -> None:
    fleet, engine, _ = servers
    engine.sync(trainer.model.named_parameters())
    before = fleet.version

    def torn() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(trainer.model.named_parameters())[:5]
        raise RuntimeError("CUDA out of memory")

    trainer.step()
    with pytest.raises(EngineError, match="could not be kept: CUDA out of memory"):
        engine.sync(torn())
    assert fleet.version == before
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE


def test_the_wire_is_the_same_both_ways(tmp_path: Path) -> None:
    """What is kept for servers that come back is what was sent, in the dtype in which it was sent."""
    weights = [("a", torch.randn(3, 5)), ("whole", torch.arange(6).view(2, 3))]
    with (tmp_path / "weights").open("w+b") as file:
        sent = list(write_weights(file, weights, torch.bfloat16))
        file.flush()
        kept = list(StoredWeights(file))
    assert [name for name, _ in sent] == [name for name, _ in kept] == ["a", "whole"]
    assert all(one.equal(other) and one.dtype == other.dtype for (_, one), (_, other) in zip(sent, kept, strict=True))
    assert kept[0][1].dtype == torch.bfloat16 and kept[1][1].dtype == torch.int64
