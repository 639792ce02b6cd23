"""The far side of the pool: a *nursery* process that reads the rewards once, and the workers it forks from itself.

    python -m aha.rewards.worker <fd>

The nursery pays for imports (sympy alone is most of a second) a single time; a fork of it is ready within
milliseconds, which is what makes killing a worker cheap. It is a fresh interpreter, not a fork of the trainer: no
torch, no CUDA, no threads. `multiprocessing` is not used because its children import the parent's `__main__` again.

Nobody survives: the nursery ends when its control socket closes or its parent changes, and a worker is killed by the
kernel when the nursery ends.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any

from aha.child import end_with
from aha.errors import AhaError
from aha.rewards.contract import Failure, Score
from aha.rewards.load import Reward, describe, load_reward

FORK, KILL, BURY = b"F", b"K", b"B"
"""What the pool may ask of the nursery: a new worker, the end of one, or the exit code of one that died by itself."""
COMMAND = struct.Struct("!cq")
REPLY = struct.Struct("!q")
LENGTH = struct.Struct("!Q")

Payload = tuple[bytes, list[bytes]] | str
"""A group's problem and its completions, each pickled for itself; or the reason why they could not be."""
RETIRE_AFTER = 5_000
"""Judgements after which a worker is replaced: sympy's caches grow."""
MEMORY_GROWTH = 1 << 29
"""Bytes of growth after which a worker is replaced at the end of its task."""
MEMORY_LIMIT = 4 << 30
"""Bytes a worker may map beyond what it started with; more is a MemoryError inside the reward."""

_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def send_bytes(connection: socket.socket, body: bytes) -> None:
    connection.sendall(LENGTH.pack(len(body)) + body)


def receive_bytes(connection: socket.socket) -> bytes | None:
    """One message, or None when the other side is gone."""
    header = _receive_exactly(connection, LENGTH.size)
    return None if header is None else _receive_exactly(connection, LENGTH.unpack(header)[0])


def _receive_exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


# --- the nursery ---------------------------------------------------------------------------------------------------


def nursery(control: socket.socket) -> None:
    """Read the rewards, say so, then fork, kill and bury workers until the pool hangs up."""
    parent = os.getppid()
    for number in _DEAF_TO:  # a scheduler signals the whole job: the trainer decides what it means, not its graders
        signal.signal(number, lambda *_: None)
    specs = receive_bytes(control)
    if specs is None:
        return
    try:
        rewards = [load_reward(name, params) for name, params in pickle.loads(specs)]
        said = [(reward.name, reward.warm_up()) for reward in rewards]
    except BaseException as error:
        complaint = str(error) if isinstance(error, AhaError) else describe(error)
        send_bytes(control, json.dumps({"complaint": complaint}).encode())
        return
    notes = [f"{name}: {note}" for name, note in said if isinstance(note, str)]
    ready = {"whole_group": [reward.whole_group for reward in rewards], "notes": notes}
    send_bytes(control, json.dumps(ready).encode())
    gc.freeze()
    _attend(control, rewards, parent)


def _attend(control: socket.socket, rewards: list[Reward], parent: int) -> None:
    alive: set[int] = set()
    try:
        while os.getppid() == parent:
            if not select.select([control], [], [], 1.0)[0]:
                continue
            message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
            if not message:
                return
            command, pid = COMMAND.unpack(message)
            if command == FORK:
                answer = _fork(control, socket.socket(fileno=descriptors[0]), rewards)
                alive.add(answer)
            elif pid in alive:
                answer = _bury(pid, patience=0.0 if command == KILL else 0.2)
                alive.discard(pid)
            else:
                answer = -signal.SIGKILL  # the child of a nursery before this one: it died with it
            control.sendall(REPLY.pack(answer))
    finally:
        for pid in alive:
            _bury(pid, patience=0.0)


def _fork(control: socket.socket, connection: socket.socket, rewards: list[Reward]) -> int:
    nursery_pid = os.getpid()
    pid = os.fork()
    if pid:
        connection.close()
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    try:
        control.close()
        _confine(nursery_pid)
        work(connection, rewards)
    except BaseException:  # the parent went away, or a reward closed our socket: either way this process is done
        pass
    finally:
        os._exit(0)


def _confine(nursery_pid: int) -> None:
    """A process group of its own, death with the nursery, no core dumps, bounded memory."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    end_with(nursery_pid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = mapped + MEMORY_LIMIT
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _bury(pid: int, patience: float) -> int:
    """End a worker and all it left in its process group; its exit code, negative when a signal ended it."""
    end = time.monotonic() + patience
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None and time.monotonic() < end:
        time.sleep(0.002)
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- a worker ------------------------------------------------------------------------------------------------------


def work(connection: socket.socket, rewards: Sequence[Reward]) -> None:
    """Judge tasks until the pool hangs up. Each judgement is announced, so that its deadline starts when it does."""
    before = _peak_memory()
    judged = 0
    while (task := receive_bytes(connection)) is not None:
        units, payload = pickle.loads(task)
        _tell(connection, ("start", 0))
        for number, (reward, members) in enumerate(units):
            began = time.perf_counter()
            scores = _judge(rewards[reward], members, payload)
            seconds = time.perf_counter() - began
            next_one = [("start", number + 1)] if number + 1 < len(units) else []
            _tell(connection, ("done", number, [_as_json(score) for score in scores], seconds), *next_one)
        judged += len(units)
        _tell(connection, ("idle", judged >= RETIRE_AFTER or _peak_memory() - before > MEMORY_GROWTH))


def _judge(reward: Reward, members: Sequence[int], payload: Payload) -> list[Score]:
    """Each judgement unpickles its own copy: a reward that changes its inputs changes them for itself only."""
    if isinstance(payload, str):
        return [Failure(reason=f"the problem cannot be sent to a worker: {payload}")] * len(members)
    try:
        completions, problem = [pickle.loads(payload[1][member]) for member in members], pickle.loads(payload[0])
    except BaseException as error:
        return [Failure(reason=f"the problem cannot be sent to a worker: {describe(error)}")] * len(members)
    return reward.score_group(completions, problem)


def _tell(connection: socket.socket, *messages: tuple[Any, ...]) -> None:
    """JSON, not pickle: what comes out of a process that has read hostile text is only ever data."""
    connection.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def _as_json(score: Score) -> tuple[float | None, str, bool]:
    return score.value, score.reason, isinstance(score, Failure)


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    try:
        nursery(socket.socket(fileno=int(sys.argv[1])))
    except OSError as gone:
        if gone.errno not in (errno.EPIPE, errno.ECONNRESET):
            raise
