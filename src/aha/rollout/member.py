"""One rollout server as its trainer knows it: an address, and a process where the server is our own."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from aha.child import end_with
from aha.errors import EngineError
from aha.rollout.worker import ServerConfig
from aha.rundir import read_object

TIDY = 1.0  # seconds


class Member:
    """One server: where it is, and, if it is ours, its process. Raises EngineError for an address that is none."""

    def __init__(
        self, name: str, address: str | None = None, config: ServerConfig | None = None, log: Path | None = None
    ):
        self.name = name
        self.given: tuple[str, int] | None = _address(address) if address else None
        self.config = config
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()  # of its process
        self.started = 0
        self.failed: str | None = None
        self.back = False  # started again, and not yet seen with weights

    def where(self) -> tuple[str, int]:
        """Host and port. Raises ConnectionError while the server is not up."""
        if self.given:
            return self.given
        assert self.config is not None and self.config.ready is not None
        found = read_object(Path(self.config.ready))
        if found is None:
            raise ConnectionRefusedError("it has not started yet")
        return found["host"], found["port"]

    def sees(self) -> str:
        """By which address the server reaches this machine. Raises OSError while it is not up."""
        with socket.create_connection(self.where(), timeout=10) as probe:
            return str(probe.getsockname()[0])

    def start(self) -> None:
        """Start the process. It dies with this one, however this one dies."""
        assert self.config is not None and self.config.ready is not None and self.log is not None
        self.started += 1
        Path(self.config.ready).unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "aha.rollout.server", json.dumps(dataclasses.asdict(self.config))]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=functools.partial(end_with, os.getpid()), env=_environment(),
            )  # fmt: skip

    def kill(self) -> None:
        """End the process, now, and its group: one of that takes away what the others shared, and gets a moment for it."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            until = time.monotonic() + TIDY
            while time.monotonic() < until:
                os.killpg(self.process.pid, 0)
                time.sleep(0.01)
            os.killpg(self.process.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """The last line of its log that says something."""
        lines = self.log.read_text(errors="replace").split("\n") if self.log and self.log.exists() else []
        told = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"; its log {self.log} ends: {told}" if told else ""


def own(count: int, config: ServerConfig, folder: Path) -> list[Member]:
    """Servers of our own, on free ports; what they say of themselves is in `folder`."""
    return [
        Member(
            f"server {number}",
            config=dataclasses.replace(config, ready=str(folder / f"{number}.json")),
            log=folder / f"{number}.log",
        )
        for number in range(count)
    ]


def ended(code: int) -> str:
    """How a process ended, in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise EngineError(f"{text} is no address of a server: HOST:PORT was expected")
    return host, int(port)


def _environment() -> dict[str, str]:
    """Ours, without what a launcher said to this process of its own place among others."""
    theirs = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {key: value for key, value in os.environ.items() if key not in theirs}
