"""An engine that is cut over several devices (`tensor_parallel`): one process each, all making the same calls in one order.

vLLM's launcher for this (`external_launcher`) gives every process a whole engine, scheduler included, and a slice of each
matrix (Megatron-LM, arXiv:1909.08053). They stay together as long as all of them hear the same calls, because a schedule
depends on nothing else. The first process is the rollout server. It tells a call to the others, and then makes it itself.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from aha.child import end_with_parent
from aha.errors import EngineError
from aha.rollout.channel import Place
from aha.rollout.engine import EngineChoice, EngineLimits, Generation, LocalEngine, Sampling, run_to_end
from aha.rollout.start import start_engine
from aha.rollout.wire import StoredWeights


def start_wide_engine(choice: EngineChoice, model_path: str, limits: EngineLimits, seed: int) -> LocalEngine:
    """Start the engine in this process and in `limits.tensor_parallel - 1` others. When one of them ends, all do.

    Raises EngineError when the engine is not vLLM, or cannot start.
    """
    if choice.name != "vllm":
        raise EngineError(f"tensor_parallel: {limits.tensor_parallel} needs vLLM, and the engine is {choice.name}")
    place = {"WORLD_SIZE": str(limits.tensor_parallel), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    spawn = multiprocessing.get_context("spawn")
    others: list[tuple[Any, Connection]] = []
    for rank in range(1, limits.tensor_parallel):
        ours, theirs = spawn.Pipe()
        arguments = (theirs, place | _rank(rank), choice, model_path, limits, seed)
        process = spawn.Process(target=_follow, args=arguments, daemon=True)
        process.start()
        theirs.close()
        others.append((process, ours))
    threading.Thread(target=_end_together, args=([process for process, _ in others],), daemon=True).start()
    os.environ |= place | _rank(0)
    return WideEngine(start_engine(choice, model_path, limits, seed), [pipe for _, pipe in others])


class WideEngine:
    """The first process's engine, whose calls the others repeat."""

    def __init__(self, engine: LocalEngine, others: Sequence[Connection]):
        self.name = engine.name
        self._engine = engine
        self._others = others

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[Generation]:
        return run_to_end(self, prompts, sampling, seeds)

    def submit(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]) -> list[str]:
        self._tell("submit", prompts, sampling, seeds)
        return self._engine.submit(prompts, sampling, seeds)

    def step(self) -> list[tuple[str, Generation]]:
        self._tell("step")
        return self._engine.step()

    def abort(self, names: Iterable[str]) -> None:
        names = list(names)
        self._tell("abort", names)
        self._engine.abort(names)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        self._tell("score", sequences)
        return self._engine.score(sequences)

    def sync(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """From a file: each process reads all weights, and keeps its slices. Returns when all of them have done so."""
        assert isinstance(weights, StoredWeights), "every process reads them for itself"
        self._tell("sync", weights.path)
        self._engine.sync(weights)
        self._hear()

    def join(self, place: Place) -> None:
        for number, other in enumerate(self._others, 1):
            other.send(("join", (dataclasses.replace(place, rank=place.rank + number),)))
        self._engine.join(place)
        self._hear()

    def take(self, heard: Callable[[], None]) -> None:
        self._tell("take")
        self._engine.take(heard)
        self._hear()

    def _tell(self, call: str, *arguments: Any) -> None:
        for other in self._others:
            other.send((call, arguments))

    def _hear(self) -> None:
        """Wait until all have done it too. Raises RuntimeError when one could not."""
        for failed in [other.recv() for other in self._others]:
            if failed:
                raise RuntimeError(failed)


def _follow(pipe: Connection, place: dict[str, str], *engine: Any) -> None:
    """One of the other processes: makes the calls that it is told, until nobody is there to tell it any more."""
    end_with_parent()
    os.environ |= place
    mine = start_engine(*engine)
    with suppress(EOFError):
        while True:
            call, arguments = pipe.recv()
            if call == "sync":
                with open(arguments[0], "rb") as file:
                    mine.sync(StoredWeights(file))
                pipe.send(None)
            elif call in ("join", "take"):
                try:
                    getattr(mine, call)(*arguments)
                    pipe.send(None)
                except RuntimeError as error:  # of the group: no reason to end
                    pipe.send(str(error))
            elif call == "submit":
                with suppress(ValueError):  # the first process hears it too, and says so
                    mine.submit(*arguments)
            else:
                getattr(mine, call)(*arguments)


def _end_together(others: Sequence[Any]) -> None:
    """A slice that is missing leaves the rest waiting for it in the middle of a sum, for ever."""
    wait([process.sentinel for process in others])
    for process in others:
        process.join(timeout=0)
    codes = ", ".join(f"{rank}: {process.exitcode}" for rank, process in enumerate(others, 1) if not process.is_alive())
    sys.stderr.write(f"EngineError: a process of the tensor-parallel engine has ended (exit code of process {codes})\n")
    sys.stderr.flush()
    os._exit(1)


def _rank(rank: int) -> dict[str, str]:
    return {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
