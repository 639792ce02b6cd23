"""Programs that run elsewhere: a Piston-style server behind the contract of the local box.

The interface is that of Piston (github.com/engineer-man/piston), `POST …/api/v2/execute`, which other servers speak
too. What protects that machine is its own business: nothing of `protections()` is claimed for it.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from typing import Any

from aha.rewards.sandbox.box import Limits, Ran, SandboxError

GRACE = 10.0
"""Seconds beyond a program's wall time in which a server must answer."""
ANSWER = 64 << 20
"""Bytes of an answer that are read."""
_STATUS = {"TO": "wall", "OL": "output", "EL": "output"}


class Remote:
    """`Remote("http://host:2000")(program, stdin, limits) -> Ran`. Raises SandboxError when the server gives no verdict.

    A server that cannot be reached, is overloaded (429) or broken (5xx) is asked `attempts` times; a request that it refuses
    (another 4xx) is not sent again.
    """

    def __init__(self, url: str, language: str = "python", version: str = "*", attempts: int = 3, pause: float = 0.2):
        base = url.rstrip("/")
        self.url = base if base.endswith("/execute") else f"{base}/api/v2/execute"
        self._language, self._version, self._attempts, self._pause = language, version, attempts, pause

    def __call__(self, program: str, stdin: bytes = b"", limits: Limits = Limits()) -> Ran:  # noqa: B008 - frozen
        body = {
            "language": self._language,
            "version": self._version,
            "files": [{"name": "main", "content": program}],
            "stdin": stdin.decode("utf-8", "replace"),
            "run_timeout": int(limits.wall * 1000),
            "run_cpu_time": int(limits.cpu * 1000),
            "run_memory_limit": limits.memory,
        }
        began = time.monotonic()
        answer = self._ask(json.dumps(body).encode(), limits.wall + GRACE)
        return _read(answer, self.url, time.monotonic() - began)

    def _ask(self, body: bytes, timeout: float) -> Any:
        complaint = ""
        for attempt in range(self._attempts):
            time.sleep(attempt * self._pause)
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=timeout) as reply:
                    return json.loads(reply.read(ANSWER))
            except urllib.error.HTTPError as error:
                complaint = f"{error.code} {error.read(300).decode(errors='replace')}"
                if error.code < 500 and error.code != 429:
                    break
            except (OSError, ValueError) as error:  # no connection, a time-out, or no JSON
                complaint = f"{type(error).__name__}: {error}"
        raise SandboxError(f"no verdict from {self.url}: {complaint}")


def _read(answer: Any, url: str, seconds: float) -> Ran:
    """A server's answer as a `Ran`. A program that did not compile ends as one that failed."""
    try:
        compiled = answer.get("compile") or {}
        part = compiled if compiled.get("code") else answer["run"]
        out, err = str(part["stdout"]).encode(), str(part["stderr"]).encode()
        code, signal, status = part.get("code"), part.get("signal"), part.get("status")
        cpu = float(part.get("cpu_time") or 0) / 1000
    except (AttributeError, KeyError, TypeError, ValueError):
        raise SandboxError(f"no verdict from {url}: it answered {str(answer)[:300]!r}") from None
    if status in _STATUS:
        return Ran(out, err, None, _STATUS[status], seconds, cpu)
    if not isinstance(code, int):  # ended by a signal, which is how Piston ends what passes a limit
        return Ran(out, err, None, "wall" if signal == "SIGKILL" else str(signal or "server's"), seconds, cpu)
    return Ran(out, err, code, "", seconds, cpu)
