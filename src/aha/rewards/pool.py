"""Processes that may be killed: tasks go out, outcomes come back, and no judgement outlives its deadline.

A time-out inside a process is not a time-out: `9**9**9` holds the interpreter lock, and nothing in that process runs
again. So judging happens elsewhere, the clock is here, and the end is SIGKILL. One poisonous completion costs its own
deadline and a fork; what else was in its task goes on in a fresh worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aha.errors import RewardError
from aha.rewards.contract import Failure, Score
from aha.rewards.worker import BURY, COMMAND, FORK, KILL, REPLY, Payload, receive_bytes, send_bytes

START_GRACE = 30.0
"""Seconds a worker may take, on a busy machine, to announce its first judgement."""
MAX_ATTEMPTS = 3
"""Workers that may die before they begin with a task; an idle one can be killed by the system at any time."""
NURSERY_GRACE = 300.0
"""Seconds the rewards may take to be imported."""


@dataclass(frozen=True)
class Unit:
    """One judgement: a reward (by its number) and the members of the group it sees at once."""

    reward: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """The judgements of one group."""

    units: tuple[Unit, ...]
    payload: Payload


@dataclass(frozen=True)
class Outcome:
    """What came of a unit: one score per member."""

    scores: tuple[Score, ...]
    seconds: float


@dataclass
class _Assignment:
    """A task from its unit `first` on."""

    index: int
    task: Task
    first: int = 0
    attempts: int = 0
    """Workers that died before they began with it."""

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.task.units[self.first :]


@dataclass(eq=False)
class _Worker:
    pid: int
    connection: socket.socket
    assignment: _Assignment = field(default_factory=lambda: _Assignment(-1, Task((), "")))
    current: int = 0
    """The unit being judged, counted from the assignment's first."""
    started: bool = False
    due: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)

    def send(self, body: bytes) -> None:
        self.connection.settimeout(START_GRACE)
        send_bytes(self.connection, body)

    def receive(self) -> list[list[Any]]:
        """The messages that have arrived, without waiting; EOFError when the process is gone."""
        self.connection.settimeout(0)
        try:
            part = self.connection.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            part = b""
        if not part:
            raise EOFError
        self.buffer += part
        *lines, rest = bytes(self.buffer).split(b"\n")
        self.buffer = bytearray(rest)
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise EOFError from None  # a reward wrote into our socket: nothing from this process can be believed


class Pool:
    """`workers` processes with the same rewards loaded; `specs` are the (name, arguments) of those."""

    def __init__(self, specs: Sequence[tuple[str, dict[str, Any]]], workers: int, deadline: float):
        self._specs = list(specs)
        self._size = workers
        self._deadline = deadline
        self._idle: list[_Worker] = []
        self._nursery: subprocess.Popen[bytes] | None = None
        self._start_nursery()

    def run(self, tasks: Sequence[Task]) -> list[list[Outcome]]:
        """Judge all units of all tasks; the outcomes stand as the units do, whoever finished first."""
        return _Run(self, tasks).finish()

    def close(self) -> None:
        """End the workers and the nursery."""
        for worker in self._idle:
            worker.connection.close()
        self._idle.clear()
        if self._nursery is not None:
            self._control.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nursery.wait(timeout=5)
            self._nursery.kill()
            self._nursery.wait()
            self._nursery = None

    # What a _Run asks of its pool.

    def take_worker(self) -> _Worker:
        """An idle worker, or a fresh fork."""
        if self._idle:
            return self._idle.pop()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = self._ask(FORK, 0, [theirs.fileno()])
            except (OSError, EOFError):  # the nursery itself was killed: by the system, or by a reward
                self.close()
                self._start_nursery()
                pid = self._ask(FORK, 0, [theirs.fileno()])
        return _Worker(pid, ours)

    def give_back(self, worker: _Worker, retire: bool) -> None:
        if retire:
            self.end(worker)
        else:
            self._idle.append(worker)

    def end(self, worker: _Worker, died: bool = False) -> int | None:
        """End a worker; its exit code when it `died` by itself and that could be found out."""
        worker.connection.close()
        try:
            return self._ask(BURY if died else KILL, worker.pid, [])
        except (OSError, EOFError):
            return None  # with the nursery gone, the kernel has killed its workers

    @property
    def size(self) -> int:
        return self._size

    @property
    def deadline(self) -> float:
        return self._deadline

    def _start_nursery(self) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        with theirs:
            self._nursery = subprocess.Popen(
                [sys.executable, "-m", "aha.rewards.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_worker_environment(),
                start_new_session=True,
            )
        ours.settimeout(NURSERY_GRACE)
        send_bytes(ours, pickle.dumps(self._specs))
        try:
            answer = (
                receive_bytes(ours) or b'{"complaint": "the process that loads the rewards ended while importing them"}'
            )
        except OSError:
            answer = b'{"complaint": "the rewards took too long to import"}'
        ready = json.loads(answer)
        if "complaint" in ready:
            self.close()
            raise RewardError(ready["complaint"])
        self.whole_group: tuple[bool, ...] = tuple(ready["whole_group"])
        self.notes: list[str] = ready["notes"]

    def _ask(self, command: bytes, pid: int, descriptors: list[int]) -> int:
        self._control.settimeout(START_GRACE)
        socket.send_fds(self._control, [COMMAND.pack(command, pid)], descriptors)
        answer = self._control.recv(REPLY.size)
        if not answer:
            raise EOFError
        return int(REPLY.unpack(answer)[0])


class _Run:
    """One call of `Pool.run`: who is busy with what until when."""

    def __init__(self, pool: Pool, tasks: Sequence[Task]):
        self._pool = pool
        self._waiting = deque(_Assignment(index, task) for index, task in enumerate(tasks) if task.units)
        self._busy: dict[int, _Worker] = {}
        self._outcomes: list[list[Outcome | None]] = [[None] * len(task.units) for task in tasks]
        self._selector = selectors.DefaultSelector()

    def finish(self) -> list[list[Outcome]]:
        try:
            while self._waiting or self._busy:
                while self._waiting and len(self._busy) < self._pool.size:
                    self._assign(self._waiting.popleft())
                self._listen()
        finally:
            for worker in list(self._busy.values()):  # only after an exception: their answers are no longer wanted
                self._release(worker)
                self._pool.end(worker)
            self._selector.close()
        return [[outcome for outcome in outcomes if outcome is not None] for outcomes in self._outcomes]

    def _assign(self, assignment: _Assignment) -> None:
        worker = self._pool.take_worker()
        worker.assignment, worker.current, worker.started = assignment, 0, False
        worker.due = time.monotonic() + START_GRACE + self._allowed(assignment.units[0])
        self._busy[worker.pid] = worker
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        units = [(unit.reward, unit.members) for unit in assignment.units]
        try:
            worker.send(pickle.dumps((units, assignment.task.payload)))
        except OSError:
            self._died(worker)

    def _listen(self) -> None:
        """Wait for news or for the nearest deadline. News that is already there is read before anyone is killed."""
        nearest = min((worker.due for worker in self._busy.values()), default=0.0)
        for key, _ in self._selector.select(max(0.0, nearest - time.monotonic())):
            self._hear(key.data)
        for worker in list(self._busy.values()):
            if time.monotonic() >= worker.due and not self._hear(worker):
                self._fail(worker, f"deadline of {self._pool.deadline:.1f} s passed", died=False)

    def _hear(self, worker: _Worker) -> bool:
        """Take in what a worker has to say; False when that is nothing."""
        try:
            messages = worker.receive()
        except EOFError:
            self._died(worker)
            return True
        for kind, *content in messages:
            if kind == "start":
                worker.current, worker.started = content[0], True
                worker.due = time.monotonic() + self._allowed(worker.assignment.units[worker.current])
            elif kind == "done":
                self._note(worker, content[0], content[1], content[2])
            else:
                self._release(worker)
                self._pool.give_back(worker, retire=content[0])
        return bool(messages)

    def _note(self, worker: _Worker, number: int, scores: list[tuple[float | None, str, bool]], seconds: float) -> None:
        judged = tuple(Failure(reason=reason) if failed else Score(value, reason) for value, reason, failed in scores)
        worker.current = number + 1
        self._outcomes[worker.assignment.index][worker.assignment.first + number] = Outcome(judged, seconds)

    def _died(self, worker: _Worker) -> None:
        self._fail(worker, "the worker died", died=True)

    def _fail(self, worker: _Worker, reason: str, died: bool) -> None:
        """Give up on the unit a worker was at, and hand what is left of its task to another one."""
        assignment = worker.assignment
        self._release(worker)
        exit_code = self._pool.end(worker, died)
        if died and exit_code is not None:
            reason += f": {_exit_text(exit_code)}"
        if died and not worker.started and assignment.attempts < MAX_ATTEMPTS:
            self._waiting.appendleft(dataclasses.replace(assignment, attempts=assignment.attempts + 1))
            return
        at = assignment.first + worker.current
        if at < len(assignment.task.units):
            unit = assignment.task.units[at]
            self._outcomes[assignment.index][at] = Outcome((Failure(reason=reason),) * len(unit.members), 0.0)
        if at + 1 < len(assignment.task.units):
            self._waiting.appendleft(_Assignment(assignment.index, assignment.task, at + 1))

    def _release(self, worker: _Worker) -> None:
        self._selector.unregister(worker.connection)
        del self._busy[worker.pid]

    def _allowed(self, unit: Unit) -> float:
        return self._pool.deadline * len(unit.members)


def _worker_environment() -> dict[str, str]:
    """One thread each, the same hash seed each time, and the parent's import path."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def _exit_text(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    return f"{signal.Signals(-exit_code).name}"
