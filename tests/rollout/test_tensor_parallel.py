"""An engine of two processes, each with half of every matrix: the weights reach both halves, and neither outlives the other."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator

import psutil
import pytest
from rollout.test_server import (
    LIMITS,
    LONG,
    TOLERANCE,
    Trainer,
    require_weights_arrive,
    served,
    strike,
    wait_until_said,
)

from aha.errors import EngineError
from aha.rollout.engine import EngineChoice
from aha.rollout.fleet import Fleet, Patience
from aha.rollout.served import ServedEngine
from aha.rollout.tensor_parallel import start_wide_engine

pytestmark = pytest.mark.long
WIDE = dataclasses.replace(LIMITS, tensor_parallel=2)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def wide(trainer: Trainer) -> Iterator[tuple[Fleet, ServedEngine, list[str]]]:
    with served(trainer, "vllm", silence=30.0, limits=WIDE) as found:
        yield found


def slices(fleet: Fleet) -> list[psutil.Process]:
    """The server's other processes."""
    process = fleet.members[0].process
    assert process is not None
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def test_pushed_weights_reach_every_slice_of_a_tied_model(
    trainer: Trainer, wide: tuple[Fleet, ServedEngine, list[str]]
) -> None:
    fleet, engine, said = wide
    assert len(slices(fleet)) == 1
    require_weights_arrive(trainer, engine)
    assert said == ["rollouts: weights go to 2 engine process(es) by one broadcast (gloo)"]


def test_two_slices_draw_what_one_engine_draws(trainer: Trainer, wide: tuple[Fleet, ServedEngine, list[str]]) -> None:
    _, engine, _ = wide
    engine.sync(trainer.model.named_parameters())
    seeds = list(range(len(trainer.sequences)))
    drawn = engine.generate(trainer.sequences, LONG, seeds)
    assert drawn == engine.generate(trainer.sequences, LONG, seeds)
    with served(trainer, "vllm", silence=30.0) as (_, narrow, _):
        narrow.sync(trainer.model.named_parameters())
        expected = narrow.generate(trainer.sequences, LONG, seeds)
    for one, other in zip(drawn, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=TOLERANCE)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_a_slice_that_is_lost_takes_its_server_with_it_and_both_come_back(
    trainer: Trainer, wide: tuple[Fleet, ServedEngine, list[str]], blow: int
) -> None:
    fleet, engine, said = wide
    said.clear()
    fleet.members[0].started = 1
    fleet.patience = Patience(silence=30.0 if blow == signal.SIGKILL else 5.0, deadline=180.0)
    engine.sync(trainer.model.named_parameters())
    seeds = list(range(len(trainer.sequences)))
    undisturbed = engine.generate(trainer.sequences, LONG, seeds)
    (old,) = slices(fleet)
    futures = engine.submit(trainer.sequences, LONG, seeds)
    strike(fleet, blow, old.pid)
    assert not any(future.done() for future in futures), "it was struck too late: this proves nothing"
    assert [future.result(timeout=200) for future in futures] == undisturbed
    assert not psutil.pid_exists(old.pid), "a slice outlived its server"
    wait_until_said(said, "rollouts: server 0 is back, with the current weights")
    said = [line for line in said if "weights go to" not in line]
    assert ("ended with exit code 1" if blow == signal.SIGKILL else "for 5 s") in said[0], said


def test_only_vllm_is_cut(trainer: Trainer) -> None:
    with pytest.raises(EngineError, match="tensor_parallel: 2 needs vLLM, and the engine is transformers"):
        start_wide_engine(EngineChoice("transformers", ""), str(trainer.folder), WIDE, 0)
    assert "RANK" not in os.environ
