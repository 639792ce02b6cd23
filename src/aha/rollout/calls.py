"""What a trainer says to a rollout server (server.py), one call at a time. Waiting and trying again is for fleet.py."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

from aha.errors import EngineError

SERVERS = "AHA_ROLLOUT_SERVERS"
"""HOST:PORT,… in the environment stands for `grpo.rollout.servers`: a scheduler's job learns them when it starts."""
TOKEN = "AHA_ROLLOUT_TOKEN"
"""In the environment of servers and of trainers: a server that was started with one answers only who sends it."""

LOST = (OSError, http.client.HTTPException, json.JSONDecodeError)
"""What a server that is dead, dying or deaf looks like from here. A time-out is an OSError."""


class Broken(ConnectionError):
    """The answer ended before it was whole: the server died while it worked."""


class Stale(ConnectionError):
    """The server holds other weights than the ones that were asked for."""


def health(host: str, port: int, patience: float) -> dict[str, Any]:
    """What the server says of itself. Raises one of LOST when it says nothing for `patience` seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=patience)
    try:
        connection.request("GET", "/health", headers=credentials())
        answer = connection.getresponse()
        if answer.status == 403:
            raise EngineError(f"{host}:{port} answers only who sends the {TOKEN} that it was started with")
        told = json.loads(answer.read())
    finally:
        connection.close()
    if not isinstance(told, dict) or "fingerprint" not in told:
        raise EngineError(f"{host}:{port} answers, but it is no rollout server of aha; `aha serve` starts one")
    return told


def credentials() -> dict[str, str]:
    """The header by which a trainer shows that it belongs to the server; none where there is no token."""
    token = os.environ.get(TOKEN)
    return {"Authorization": f"Bearer {token}"} if token else {}


def ask(host: str, port: int, route: str, asked: dict[str, Any], patience: float) -> Iterator[dict[str, Any]]:
    """The lines of an answer as they come, the last one included, signs of life left out.

    Raises Stale when the server holds other weights, EngineError when it refuses, and one of LOST when it is silent
    for `patience` seconds or breaks off.
    """
    yield from _lines(host, port, route, json.dumps(asked).encode(), {}, patience)


def begin(host: str, port: int, route: str, asked: dict[str, Any], patience: float) -> Iterator[dict[str, Any]]:
    """As `ask`, of something that others take part in: returns when the server is ready for it, with what it says after."""
    lines = ask(host, port, route, asked, patience)
    if "ready" not in next(lines):
        raise Broken(f"it does not take part in {route}")
    return lines


def push(host: str, port: int, weights: BinaryIO, fingerprint: str, version: str, patience: float) -> dict[str, Any]:
    """Move the server to the weights of a file (wire.py). Raises as `ask` does."""
    length = weights.seek(0, 2)
    weights.seek(0)
    headers = {"X-Fingerprint": fingerprint, "X-Version": version, "Content-Length": str(length)}
    return list(_lines(host, port, "/weights", weights, headers, patience))[-1]


def _lines(
    host: str, port: int, route: str, body: Any, headers: dict[str, str], patience: float
) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPConnection(host, port, timeout=patience, blocksize=1 << 20)
    try:
        connection.request("POST", route, body, headers | credentials())
        answer = connection.getresponse()
        if answer.status != 200:
            raise EngineError(f"{host}:{port}{route} answered {answer.status} {answer.reason}")
        while line := answer.readline():
            said = json.loads(line)
            if "refused" in said:
                raise EngineError(f"the rollout server {host}:{port} refuses: {said['refused']}")
            if "stale" in said:
                raise Stale(f"it holds the weights {said['stale'] or 'it started with'}")
            if "alive" not in said:
                yield said
            if "done" in said:
                return
        raise Broken("it broke off in the middle of its answer")
    finally:
        connection.close()
