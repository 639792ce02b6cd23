"""Rollout servers in real second processes: the trainer's weights reach them, and no way of dying makes them answer from
others, or makes the trainer wait for ever.

Weights are shown with vLLM. Dying is shown with the transformers engine, which starts in a third of the time and sits
behind the same worker.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from aha.data import arithmetic
from aha.errors import EngineError
from aha.models.load import fingerprint, save
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe.schema import FromScratch
from aha.rollout import calls
from aha.rollout.engine import EngineLimits, Sampling
from aha.rollout.fleet import RESTARTS, Fleet, Patience
from aha.rollout.member import Member, own
from aha.rollout.served import ServedEngine
from aha.rollout.server import serve
from aha.rollout.worker import ServerConfig

TOLERANCE = 1e-4  # nats, float32
LIMITS = EngineLimits(32, 480, 16, dtype="float32")
LONG, SHORT = Sampling(480), Sampling(8)


class Trainer:
    """A model whose weights move, and the fixed sequences by which it is known."""

    def __init__(self, folder: Path, tied: bool = True):
        torch.set_num_threads(1)
        tokenizer = make_tokenizer(arithmetic.vocabulary(), ("<think>", "</think>"))
        shape = FromScratch(hidden_size=64, layers=2, heads=2, context=512, tied=tied)
        self.model: Any = make_model(shape, tokenizer, seed=0)
        save(self.model, tokenizer, folder)
        self.folder = folder
        self.fingerprint = fingerprint(folder)
        self.sequences = [tokenizer(problem.prompt).input_ids for problem in arithmetic.problems(8)]

    def step(self) -> None:
        with torch.no_grad():
            for weight in self.model.parameters():
                weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))

    def distance(self, engine: ServedEngine) -> float:
        """The largest difference in log-probability between the engine's weights and these."""
        apart = 0.0
        for ids, theirs in zip(self.sequences, engine.score(self.sequences), strict=True):
            with torch.no_grad():
                logprobs = self.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            ours = logprobs.gather(-1, torch.tensor(ids)[1:, None])[:, 0]
            apart = max(apart, (ours - torch.tensor(theirs)).abs().max().item())
        return apart


@contextmanager
def served(
    trainer: Trainer, engine: str, silence: float, limits: EngineLimits = LIMITS, count: int = 1
) -> Iterator[tuple[Fleet, ServedEngine, list[str]]]:
    """Servers of our own, the engine in front of them, and what was said about them."""
    said: list[str] = []
    config = ServerConfig(str(trainer.folder), trainer.fingerprint, engine, limits, seed=0)
    members = own(count, config, trainer.folder / f"{count}-servers-{limits.tensor_parallel}")
    with Fleet(members, trainer.fingerprint, "run", Patience(silence, 60.0), said.append) as fleet:
        yield fleet, ServedEngine(fleet, engine), said


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def one_server(trainer: Trainer) -> Iterator[tuple[Fleet, ServedEngine, list[str]]]:
    with served(trainer, "transformers", silence=1.5) as found:
        yield found


@pytest.fixture
def server(one_server: tuple[Fleet, ServedEngine, list[str]]) -> tuple[Fleet, ServedEngine, list[str]]:
    """The one server of this file, as if nothing had ever happened to it."""
    one_server[0].members[0].started = 1
    one_server[2].clear()
    return one_server


def strike(fleet: Fleet, blow: int, pid: int | None = None) -> None:
    """Hit the server, or another process of it, as soon as it draws."""
    until = time.monotonic() + 30
    while not calls.health(*fleet.members[0].where(), 5.0)["running"]:
        assert time.monotonic() < until, "the server never drew"
    process = fleet.members[0].process
    assert process is not None
    os.kill(pid or process.pid, blow)


def wait_until_said(said: list[str], line: str) -> None:
    """As the last line. By the thread that looks after a server: it may come after the answer of a server that is already back."""
    until = time.monotonic() + 60
    while said[-1:] != [line]:
        assert time.monotonic() < until, said
        time.sleep(0.05)


def require_weights_arrive(trainer: Trainer, engine: ServedEngine) -> None:
    """Before and after a step of the trainer, which the engine does not know of until the sync."""
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE
    trainer.step()
    assert trainer.distance(engine) > 100 * TOLERANCE, "the step did not move the policy: this proves nothing"
    engine.sync(trainer.model.named_parameters())
    assert trainer.distance(engine) < TOLERANCE


def test_pushed_weights_reach_a_vllm_server_of_a_tied_model(trainer: Trainer) -> None:
    """The untied one is in tests/e2e/test_served.py."""
    with served(trainer, "vllm", silence=30.0) as (_, engine, _):
        require_weights_arrive(trainer, engine)


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP], ids=["kill -9", "SIGSTOP"])
def test_a_server_that_is_lost_while_it_draws_comes_back_with_the_current_weights(
    trainer: Trainer, server: tuple[Fleet, ServedEngine, list[str]], blow: int
) -> None:
    fleet, engine, said = server
    trainer.step()
    engine.sync(trainer.model.named_parameters())
    seeds = list(range(len(trainer.sequences)))
    undisturbed = engine.generate(trainer.sequences, LONG, seeds)
    futures = engine.submit(trainer.sequences, LONG, seeds)
    strike(fleet, blow)
    assert not any(future.done() for future in futures), "it was struck too late: this proves nothing"
    assert [future.result(timeout=60) for future in futures] == undisturbed
    assert trainer.distance(engine) < TOLERANCE
    wait_until_said(said, "rollouts: server 0 is back, with the current weights")
    said = [line for line in said if "weights go to" not in line]
    assert len(said) == 2
    assert ("was killed by signal 9" if blow == signal.SIGKILL else "has been silent for 1.5 s") in said[0]


def test_a_given_server_that_was_started_again_gets_the_weights_before_it_answers(
    trainer: Trainer, server: tuple[Fleet, ServedEngine, list[str]]
) -> None:
    """Whoever owns it restarts it, here the fleet of the fixture, which knows older weights than the trainer under test."""
    owner, _, _ = server
    host, port = owner.members[0].where()
    config = owner.members[0].config
    assert config is not None
    owner.members[0].config = dataclasses.replace(config, port=port)
    owner._count, said = 0, []  # an owner that pushes nothing
    with Fleet(
        [Member("given", f"{host}:{port}")], trainer.fingerprint, "run", Patience(5.0, 60.0), said.append
    ) as fleet:
        engine = ServedEngine(fleet, "given")
        trainer.step()
        engine.sync(trainer.model.named_parameters())
        futures = engine.submit(trainer.sequences, LONG, list(range(8)))
        strike(owner, signal.SIGKILL)
        assert all(future.result(timeout=60) for future in futures)
        assert trainer.distance(engine) < TOLERANCE
        wait_until_said(said, "rollouts: given is back, with the current weights")


def test_a_server_that_dies_twice_while_it_takes_weights_is_started_twice(
    trainer: Trainer, server: tuple[Fleet, ServedEngine, list[str]]
) -> None:
    """Whoever sends weights holds their lock, and whoever starts the server again must not need it."""
    fleet, engine, said = server
    engine.sync(trainer.model.named_parameters())
    member = fleet.members[0]
    with fleet._lock:
        for _ in range(2):
            assert member.process is not None
            member.process.kill()
            member.process.wait()
            fleet.patiently(member, "taking new weights", functools.partial(fleet._push, member))
    assert trainer.distance(engine) < TOLERANCE
    wait_until_said(said, "rollouts: server 0 is back, with the current weights")


def test_a_given_server_is_asked_for_its_checkpoint_and_waited_for_until_the_deadline(
    trainer: Trainer, server: tuple[Fleet, ServedEngine, list[str]]
) -> None:
    fleet, engine, _ = server
    engine.sync(trainer.model.named_parameters())
    address = "{}:{}".format(*fleet.members[0].where())
    said: list[str] = []
    other = Fleet([Member("ours", address)], "0" * 64, "other", Patience(1.0, 2.0), said.append)
    with pytest.raises(EngineError, match="serves another checkpoint"):
        other.check(other.members[0], dataclasses.asdict(LIMITS))
    with pytest.raises(EngineError, match="refuses: it serves checkpoint"):
        other.set_weights(trainer.model.named_parameters())
    mine = Fleet([Member("ours", address)], trainer.fingerprint, "second", Patience(1.0, 2.0), said.append)
    with pytest.raises(EngineError, match="max_new_tokens 480 in place of 481"):
        mine.check(mine.members[0], dataclasses.asdict(dataclasses.replace(LIMITS, max_new_tokens=481)))
    with pytest.raises(EngineError, match="refuses: another run is using it"):
        mine.set_weights(trainer.model.named_parameters())
    with pytest.raises(calls.Stale, match="run/"):
        list(calls.ask(*fleet.members[0].where(), "/score", {"version": "run/0", "sequences": []}, 5.0))
    with pytest.raises(EngineError, match="cannot be served: Address already in use"):
        host, port = fleet.members[0].where()
        serve(ServerConfig("", "", "transformers", LIMITS, 0, host, port))


def test_a_server_that_dies_again_and_again_ends_the_run(
    trainer: Trainer, server: tuple[Fleet, ServedEngine, list[str]]
) -> None:
    """The last one: nothing comes back after this."""
    fleet, engine, _ = server
    engine.sync(trainer.model.named_parameters())
    host, port = fleet.members[0].where()
    fleet.members[0].started = RESTARTS + 1
    futures = engine.submit(trainer.sequences, LONG, list(range(8)))
    strike(fleet, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"lost while drawing 8 completions .* was killed by signal 9, and has been"):
        futures[0].result(timeout=30)
    gone = Fleet([Member("gone", f"{host}:{port}")], trainer.fingerprint, "run", Patience(1.0, 1.0), print)
    with pytest.raises(EngineError, match=r"the rollout server gone was lost while drawing .* not back within 1 s"):
        ServedEngine(gone, "gone").generate(trainer.sequences, SHORT, list(range(8)))
    with pytest.raises(EngineError, match="no rollout server answers as gone within 1 s"), gone:
        pass


def test_no_server_outlives_a_trainer_that_is_killed(trainer: Trainer) -> None:
    code = f"""
        import json, os, signal
        from aha.rollout.engine import EngineLimits
        from aha.rollout.fleet import Fleet, Patience
        from aha.rollout.member import own
        from aha.rollout.worker import ServerConfig
        config = ServerConfig({str(trainer.folder)!r}, "f", "transformers", EngineLimits(8, 8, 1), 0)
        members = own(1, config, __import__("pathlib").Path({str(trainer.folder / "orphan")!r}))
        Fleet(members, "f", "run", Patience(30, 60), print).__enter__()
        print(members[0].process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    server = Path(f"/proc/{int(done.stdout)}")
    until = time.monotonic() + 5
    while server.exists() and "Z" not in (server / "stat").read_text().split()[2]:
        assert time.monotonic() < until, "the server outlived its trainer"
        time.sleep(0.05)
