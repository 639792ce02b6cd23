"""A rollout engine in a process of its own: `aha serve`, or started by the GRPO stage (`grpo.rollout: {mode: server}`).

It is the engine that would run in the trainer's process, with the same seeds, behind four routes of HTTP. vLLM's OpenAI
server with its development routes was the other choice. It leaves the output head of a tied model stale on CPU, has no
word for "whose weights are these", and says nothing while it works, so that a hung server looks like a busy one. What
is kept of it is the way it batches: requests of all trainers run together, and join while others are running.

    GET  /health    which checkpoint, whose weights, when the engine last moved
    POST /weights   frames (wire.py); taken when everything that was asked before is done
    POST /join      a group in which the trainer will send weights (channel.py); POST /receive takes them from there
    POST /generate  token ids in; one line of JSON for each continuation as it finishes, and a sign of life each second
    POST /score     token ids in, logprobs out

Every request names the version of the weights it is meant for, and none is answered from another. Whoever reaches the
port can read the policy's words and replace its weights, unless the server was started with AHA_ROLLOUT_TOKEN in its
environment: then every request must carry it. It listens to this machine only, unless told otherwise.
"""

from __future__ import annotations

import hmac
import json
import os
import queue
import socket
import sys
import tempfile
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from aha.errors import EngineError
from aha.rollout.calls import credentials
from aha.rollout.engine import EngineLimits
from aha.rollout.start import choose_engine, start_engine
from aha.rollout.tensor_parallel import start_wide_engine
from aha.rollout.worker import Job, ServerConfig, Worker
from aha.rundir import write_json

BEAT = 1.0  # seconds between signs of life
TAKEN = 60.0
"""Seconds after its last word for which a server belongs to a trainer."""


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads a request, hands it to the worker, and passes its lines on as they come."""

    worker: Worker
    expected: str | None = None
    """The Authorization header of every request; None lets everybody in."""
    timeout = 600

    def parse_request(self) -> bool:
        """The door: whoever comes without the token is sent away before anything that they say is read."""
        if not super().parse_request():
            return False
        given = self.headers.get("Authorization", "")
        if self.expected is None or hmac.compare_digest(given.encode(), self.expected.encode()):
            return True
        self.send_error(403)
        return False

    def log_message(self, *_: Any) -> None:
        """The log is for what goes wrong."""

    def do_GET(self) -> None:
        if self.path != "/health":
            return self.send_error(404)
        self._head()
        self._say(self.worker.health())

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if self.path == "/weights":
            asked = {"version": self.headers["X-Version"], "fingerprint": self.headers["X-Fingerprint"]}
            job = Job("weights", asked, self._spool(length))
        elif self.path in ("/generate", "/score", "/join", "/receive"):
            job = Job(self.path[1:], json.loads(self.rfile.read(length)))
        else:
            return self.send_error(404)
        self._head()
        if "fingerprint" in job.asked and (why := self._why_not(job.asked["fingerprint"], job.asked["version"])):
            return self._say({"refused": why})
        self.worker.put(job)
        self._relay(job)

    def _why_not(self, theirs: str, version: str) -> str | None:
        """Why weights are refused: of another checkpoint, or while somebody else trains with this server."""
        mine = self.worker.config.fingerprint
        if mine != theirs:
            return f"it serves checkpoint {mine[:12]}, and these weights began as {theirs[:12]}"
        owner, taken = self.worker.version.partition("/")[0], time.monotonic() - self.worker.heard < TAKEN
        if owner and taken and owner != version.partition("/")[0]:
            return "another run is using it"
        return None

    def _spool(self, length: int) -> BinaryIO:
        """The whole of them first: an engine must not be left with half when the connection breaks."""
        file: Any = tempfile.TemporaryFile()  # noqa: SIM115 — the worker closes it
        while length:
            data = self.rfile.read(min(length, 1 << 22))
            if not data:
                raise ConnectionError("weights are cut short")
            file.write(data)
            length -= len(data)
        file.seek(0)
        return file

    def _head(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()

    def _say(self, line: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(line).encode() + b"\n")
        self.wfile.flush()

    def _relay(self, job: Job) -> None:
        told = 0.0
        while True:
            try:
                line = job.lines.get(timeout=BEAT)
                if line is None:
                    return
            except queue.Empty:
                if self.worker.beat == told:  # the engine has not moved: no sign of life
                    continue
                told, line = self.worker.beat, {"alive": True}
            try:
                self._say(line)
            except OSError:
                job.gone = True
                return


def serve(config: ServerConfig) -> NoReturn:
    """Start the engine, say so, and serve until the process is ended.

    Raises EngineError when the engine cannot start or the port is taken.
    """
    http = ThreadingHTTPServer((config.host, config.port), _Handler, bind_and_activate=False)
    http.daemon_threads = True
    try:
        http.server_bind()  # first of all: a port that is taken need not wait for an engine
    except OSError as error:
        raise EngineError(f"{config.host}:{config.port} cannot be served: {error.strerror}") from error
    start = start_wide_engine if config.limits.tensor_parallel > 1 else start_engine
    engine = start(choose_engine(config.engine), config.model, config.limits, config.seed)
    worker = Worker(engine, config)
    http.RequestHandlerClass = type(
        "Handler", (_Handler,), {"worker": worker, "expected": credentials().get("Authorization")}
    )
    http.server_activate()
    threading.Thread(target=http.serve_forever, daemon=True).start()
    if config.ready:
        where = {"host": config.host, "port": http.server_address[1], "pid": os.getpid(), "on": socket.gethostname()}
        write_json(Path(config.ready), where)
    worker.work()


def main(config: str) -> None:
    """`python -m aha.rollout.server CONFIG`: the process that the GRPO stage starts."""
    values = json.loads(config)
    try:
        serve(ServerConfig(**values | {"limits": EngineLimits(**values["limits"])}))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(1)  # native libraries would take seconds to leave


if __name__ == "__main__":
    main(sys.argv[1])
