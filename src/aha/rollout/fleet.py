"""The rollout servers of one trainer: started, watched, restarted, and always on the trainer's weights.

Servers are the stage's own (it starts them, they die with it) or were given by address (`grpo.rollout.servers`). A thread
of the leading process looks at each of them: one that died or fell silent is killed and started again if it is ours, and
waited for if it is not. Before it answers anything it gets the current weights, which are kept in a file for that. New
weights go to all servers by one broadcast (channel.py), and to each over HTTP where there can be none.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from aha.errors import EngineError
from aha.rollout import calls
from aha.rollout.channel import Channel, Place
from aha.rollout.member import Member, ended
from aha.rollout.wire import write_weights

RESTARTS = 3
"""How often one server is started again before the run gives up on it: what kills it three times kills it for ever."""
TRIES = 2
"""How often in a row the servers are asked to form a group: one may just have died, but where there is no way there is none."""
LOOK = 0.2  # seconds between two looks at a process
Say = Callable[[str], None]


@dataclass(frozen=True)
class Patience:
    """Seconds. `silence`: without a sign of life, a server is taken for dead. `deadline`: for it to be back, then."""

    silence: float = 60.0
    deadline: float = 600.0


class Fleet:
    """Servers, the weights they must have, and the thread that looks after them."""

    def __init__(
        self,
        members: Sequence[Member],
        fingerprint: str,
        owner: str,
        patience: Patience,
        say: Say,
        leads: bool = True,
        dtype: torch.dtype | None = None,
    ):
        """`owner` names the run in versions; one process `leads`: it starts and watches servers, and pushes weights."""
        self.members = members
        self.patience = patience
        self.leads = leads
        self.say = say
        self._fingerprint = fingerprint
        self._owner = owner
        self._dtype = dtype
        self._count = 0
        self._weights: Any = None
        self._tries = TRIES
        self._channel: Channel | None = None
        self._lock = threading.RLock()  # of the weights, their version, and every push
        self._over = threading.Event()

    @property
    def version(self) -> str:
        """Of the weights that every server must have: the run, and how often it has pushed."""
        return f"{self._owner}/{self._count}" if self._count else ""

    def __enter__(self) -> Fleet:
        try:
            for member in self.members if self.leads else ():
                if member.config:
                    member.start()
            for member in self.members:
                self._await_start(member)
        except BaseException:
            self.__exit__()
            raise
        for member in self.members if self.leads else ():
            threading.Thread(target=self._look_after, args=(member,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        for member in self.members:
            with member.lock:
                member.kill()

    def check(self, member: Member, limits: dict[str, Any]) -> None:
        """Raises EngineError when a server serves another checkpoint, or less than it will be asked for."""
        found = calls.health(*member.where(), self.patience.silence)
        if found["fingerprint"] != self._fingerprint:
            raise EngineError(
                f"the rollout server {member.name} serves another checkpoint ({found['fingerprint'][:12]}) than the one "
                f"that is trained from here ({self._fingerprint[:12]}): start it on that one"
            )
        theirs = found["limits"]
        small = [key for key in ("max_prompt_tokens", "max_new_tokens") if theirs[key] < limits[key]]
        other = [key for key in ("dtype",) if theirs[key] != limits[key]]
        if wrong := [f"{key} {theirs[key]} in place of {limits[key]}" for key in (*small, *other)]:
            raise EngineError(f"the rollout server {member.name} was started with {', '.join(wrong)}")

    def set_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Move all servers to these weights. Raises EngineError when one cannot be moved within the deadline."""
        if not self.leads:
            for _ in weights:  # gathering them takes every process
                pass
            self._count += 1
            return
        file: Any = tempfile.TemporaryFile()  # noqa: SIM115 — kept for restarts; without a name, nothing of it stays
        stored = _kept(file, weights, self._dtype)
        with self._lock:
            sent = self._broadcast(stored, f"{self._owner}/{self._count + 1}")
            for _ in stored:  # what is not in the file yet
                pass
            if self._weights is not None:
                self._weights.close()
            self._weights = file
            self._count += 1
            for member in () if sent else self.members:
                self.patiently(member, "taking new weights", functools.partial(self._push, member))

    def _broadcast(self, weights: Iterable[tuple[str, torch.Tensor]], version: str) -> bool:
        """Send weights to all servers at once. Where that cannot be, says why; then they must be pushed to each.

        Raises EngineError when a server refuses them, and what reading them raises.
        """
        channel, self._channel = self._channel or self._form(version), None  # whoever breaks off ends the group
        if channel is None:
            return False
        asked = {"version": version, "fingerprint": self._fingerprint}
        try:
            answers = [self._begin(member, "/receive", asked) for member in self.members]
            channel.send(weights)
            self._hear(answers)
        except (RuntimeError, *calls.LOST) as error:
            self.say(f"rollouts: these weights go to each server over HTTP, the broadcast broke off: {_brief(error)}")
            return False
        self._channel = channel
        return True

    def _form(self, version: str) -> Channel | None:
        """Make a group of this process and all servers. Where that cannot be, says why."""
        if self._tries == 0:
            return None
        self._tries -= 1
        silence = self.patience.silence
        ours = any(member.config for member in self.members)  # they may be on the trainer's GPU: NCCL refuses that
        backend = "nccl" if torch.cuda.is_available() and not ours else "gloo"
        try:
            widths = [calls.health(*one.where(), silence)["limits"]["tensor_parallel"] for one in self.members]
            seconds = silence / 2  # who waits in a group gives no sign of life, and is not dead
            patience = datetime.timedelta(seconds=seconds)
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=patience)
            place = Place("localhost", store.port, 0, 1 + sum(widths), backend, seconds)
            answers, rank = [], 1
            for member, width in zip(self.members, widths, strict=True):
                theirs = dataclasses.replace(place, host=member.sees(), rank=rank)
                asked = {"version": version, "fingerprint": self._fingerprint, "place": dataclasses.asdict(theirs)}
                answers.append(self._begin(member, "/join", asked))
                rank += width
            channel = Channel(place, store)
            self._hear(answers)
        except (RuntimeError, *calls.LOST) as error:
            until = "this time" if self._tries else "from now on"
            self.say(f"rollouts: weights go to each server over HTTP {until}, no group was formed: {_brief(error)}")
            return None
        self._tries = TRIES
        self.say(f"rollouts: weights go to {place.size - 1} engine process(es) by one broadcast ({backend})")
        return channel

    def _begin(self, member: Member, route: str, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return calls.begin(*member.where(), route, asked, self.patience.silence)

    def _hear(self, answers: Sequence[Iterator[dict[str, Any]]]) -> None:
        """Raises RuntimeError when a server could not take part."""
        for member, lines in zip(self.members, answers, strict=True):
            for line in lines:
                if "failed" in line:
                    raise RuntimeError(f"{member.name}: {line['failed']}")

    def patiently(self, member: Member, what: str, attempt: Callable[[], Any]) -> Any:
        """Try until it works. A server that is lost meanwhile is somebody's to bring back: until the deadline.

        Raises EngineError when that has passed, or when the server is given up.
        """
        lost_at: float | None = None
        while True:
            try:
                return attempt()
            except calls.LOST as error:
                lost_at = lost_at or time.monotonic()
                if member.failed or time.monotonic() - lost_at > self.patience.deadline:
                    why = member.failed or f"it was not back within {self.patience.deadline:g} s"
                    raise EngineError(
                        f"the rollout server {member.name} was lost while {what} ({error or type(error).__name__}): {why}"
                    ) from error
            time.sleep(LOOK)

    def _push(self, member: Member) -> None:
        with self._lock:
            calls.push(*member.where(), self._weights, self._fingerprint, self.version, self.patience.silence)

    def _await_start(self, member: Member) -> None:
        """Until the server answers. Raises EngineError when it ends instead, or when the deadline passes."""
        until = time.monotonic() + self.patience.deadline
        while True:
            try:
                calls.health(*member.where(), self.patience.silence)
                return
            except calls.LOST as error:
                if member.process and (code := member.process.poll()) is not None:
                    raise EngineError(f"the rollout server {member.name} {ended(code)}{member.last_words()}") from error
                if time.monotonic() > until:
                    raise EngineError(
                        f"no rollout server answers as {member.name} within {self.patience.deadline:g} s: "
                        f"{error or type(error).__name__}{member.last_words()}"
                    ) from error
            time.sleep(LOOK)

    def _look_after(self, member: Member) -> None:
        """The thread of one server: until the fleet is dissolved or the server is given up."""
        while not self._over.wait(LOOK):
            try:
                self._look_at(member)
            except calls.LOST:  # it died once more, while it was being helped
                continue
            except Exception as error:  # a thread that dies unheard would leave its server unwatched
                if self._over.is_set():
                    return
                told = str(error) if isinstance(error, EngineError) else f"not watched: {type(error).__name__}: {error}"
                member.failed = told
                self.say(f"rollouts: {told}")
                return

    def _look_at(self, member: Member) -> None:
        if member.process and (code := member.process.poll()) is not None:
            return self._restart(member, ended(code))
        began = time.monotonic()
        try:
            found = calls.health(*member.where(), self.patience.silence)
        except calls.LOST:
            deaf = time.monotonic() - began >= self.patience.silence
            if member.process and deaf and member.process.poll() is None:
                self._restart(member, f"has been silent for {self.patience.silence:g} s")
            return
        if found["silent"] > self.patience.silence and member.process:
            self._restart(member, f"has not moved for {self.patience.silence:g} s")
        elif self._count and not found["version"]:
            self._renew(member)
        elif member.back:
            member.back = False
            self.say(f"rollouts: {member.name} is back, with the current weights")

    def _renew(self, member: Member) -> None:
        """Give the weights to a server that was started again, by us or by its owner.

        Whoever holds the lock is sending them to this server too, and may be waiting for this thread to start it once more.
        """
        if self._lock.acquire(blocking=False):
            try:
                if not calls.health(*member.where(), self.patience.silence)["version"]:
                    self._channel, member.back = None, True
                    self._push(member)
            finally:
                self._lock.release()

    def _restart(self, member: Member, why: str) -> None:
        with member.lock:
            if self._over.is_set():
                return
            member.kill()
            self._channel = None
            if member.started > RESTARTS:
                raise EngineError(f"{member.name} {why}, and has been restarted {RESTARTS} times{member.last_words()}")
            self.say(f"rollouts: {member.name} {why}; it is started again")
            member.start()
            member.back = True


def _kept(
    file: Any, weights: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, each when it is in the file. Raises EngineError for whatever goes wrong: half of them must reach nobody."""
    try:
        yield from write_weights(file, weights, dtype)
    except Exception as error:
        raise EngineError(f"the weights for the rollout servers could not be kept: {error}") from error


def _brief(error: BaseException) -> str:
    """In one line, without the addresses of torch's code."""
    return " ".join(str(error).partition("\n")[0].split()) or type(error).__name__
