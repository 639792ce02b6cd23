"""The thread of a rollout server that owns the engine: jobs in, lines out, and never an answer from other weights.

Generations run together, and new ones join while others are running. Weights and scores wait until nothing runs.
"""

from __future__ import annotations

import dataclasses
import os
import queue
import time
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NoReturn

from aha.rollout.channel import Place
from aha.rollout.engine import EngineLimits, LocalEngine, Sampling
from aha.rollout.wire import StoredWeights, generation_line

LOCAL = "127.0.0.1"


@dataclass(frozen=True)
class ServerConfig:
    """What one server serves, and where. `ready` is a file in which it says that it does."""

    model: str
    fingerprint: str
    engine: str
    limits: EngineLimits
    seed: int
    host: str = LOCAL
    port: int = 0
    ready: str | None = None


@dataclass
class Job:
    """A request on its way through the engine's thread; its answers come back through `lines`, and None ends them."""

    kind: str
    asked: dict[str, Any]
    file: BinaryIO | None = None
    lines: queue.SimpleQueue[dict[str, Any] | None] = field(default_factory=queue.SimpleQueue)
    left: int = 0
    began: float = 0.0
    tokens: int = 0
    gone: bool = False

    def end(self, line: dict[str, Any]) -> None:
        self.lines.put(line)
        self.lines.put(None)


class Worker:
    """The engine's thread: takes jobs in their order, and lets generations run together."""

    def __init__(self, engine: LocalEngine, config: ServerConfig):
        self._engine = engine
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._running: dict[str, tuple[Job, int]] = {}
        self._next: Job | None = None
        self.config = config
        self.version = ""
        self.beat = time.monotonic()
        self.heard = 0.0

    def put(self, job: Job) -> None:
        self._jobs.put(job)

    def health(self) -> dict[str, Any]:
        """What a trainer wants to know before it relies on this server."""
        return {
            "fingerprint": self.config.fingerprint,
            "version": self.version,
            "engine": self._engine.name,
            "limits": dataclasses.asdict(self.config.limits),
            "pid": os.getpid(),
            "running": len(self._running),
            "silent": time.monotonic() - self.beat if self._running or self._next else 0.0,
        }

    def work(self) -> NoReturn:
        """Serve until the process ends. What the engine raises in the middle of its work is not survived."""
        while True:
            self.beat = time.monotonic()
            self._take()
            if self._next and (self._next.kind == "generate" or not self._running):
                job, self._next = self._next, None
                self._begin(job)
            if self._running:
                self._step()

    def _take(self) -> None:
        """The next job, if there is one; waits for it when there is nothing else to do."""
        if self._next is None:
            try:
                self._next = self._jobs.get(block=not self._running)
            except queue.Empty:
                return

    def _begin(self, job: Job) -> None:
        self.heard = time.monotonic()
        job.began = time.time()
        if job.kind == "weights":
            assert job.file is not None
            self.version = ""  # half of them would be nobody's
            self._engine.sync(StoredWeights(job.file))
            self.version = job.asked["version"]
            job.file.close()
            job.end(self._done(job))
        elif job.kind in ("join", "receive"):
            job.lines.put({"ready": True})
            job.end(self._done(job) | self._in_group(job))
        elif job.asked["version"] != self.version:
            job.end({"stale": self.version})
        elif job.kind == "score":
            job.lines.put({"logprobs": self._engine.score(job.asked["sequences"])})
            job.end(self._done(job))
        else:
            self._submit(job)

    def _in_group(self, job: Job) -> dict[str, Any]:
        """Join a group, or take the weights that are sent in it; says what went wrong, which is nobody's end."""
        try:
            if job.kind == "join":
                self._engine.join(Place(**job.asked["place"]))
            else:
                self.version = ""
                self._engine.take(self._alive)
                self.version = job.asked["version"]
        except RuntimeError as error:
            return {"failed": " ".join(str(error).split())}
        return {}

    def _alive(self) -> None:
        self.beat = time.monotonic()

    def _submit(self, job: Job) -> None:
        try:
            names = self._engine.submit(job.asked["prompts"], Sampling(**job.asked["sampling"]), job.asked["seeds"])
        except ValueError as error:  # a prompt that is too long, say: nothing has been queued
            job.end({"refused": str(error)})
            return
        job.left = len(names)
        self._running |= {name: (job, index) for index, name in enumerate(names)}
        if not names:
            job.end(self._done(job))

    def _step(self) -> None:
        if gone := [name for name, (job, _) in self._running.items() if job.gone]:
            self._engine.abort(gone)
            for name in gone:
                del self._running[name]
            if not self._running:
                return
        for name, generation in self._engine.step():
            if name in self._running:
                job, index = self._running.pop(name)
                job.left -= 1
                job.tokens += len(generation.token_ids)
                job.lines.put(generation_line(index, generation))
                if not job.left:
                    job.end(self._done(job))

    def _done(self, job: Job) -> dict[str, Any]:
        return {"done": True, "began": job.began, "ended": time.time(), "tokens": job.tokens}
