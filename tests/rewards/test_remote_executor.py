"""A Piston-style server, small but real: it runs what it is sent in the local box, and the client cannot tell the difference."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aha.rewards.contract import Completion, Failure, Problem, Score
from aha.rewards.load import load_reward
from aha.rewards.sandbox import Limits, Remote, SandboxError, executor, run

try:
    run("")
    WHY_NOT = ""
except SandboxError as error:
    WHY_NOT = str(error)
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no sandbox on this machine: {WHY_NOT}")


class Piston(BaseHTTPRequestHandler):
    """`broken` is a list of answers (status, body) that are given before any other."""

    broken: list[tuple[int, bytes]]
    asked: int

    def do_POST(self) -> None:
        type(self).asked += 1
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.broken:
            self._answer(*self.broken.pop(0))
        elif asked["language"] != "python":
            self._answer(400, b'{"message": "no such runtime"}')
        else:
            self._answer(200, json.dumps(self._execute(asked)).encode())

    def _execute(self, asked: dict) -> dict:  # type: ignore[type-arg]
        limits = Limits(cpu=asked["run_cpu_time"] / 1000, wall=asked["run_timeout"] / 1000)
        ran = run(asked["files"][0]["content"], asked["stdin"].encode(), limits)
        told = {"stdout": ran.stdout.decode(), "stderr": ran.stderr.decode(), "code": ran.exit_code, "signal": None}
        if ran.exit_code is None:
            told |= {"signal": "SIGKILL", "status": {"output": "OL"}.get(ran.limit, "TO")}
        return {"language": "python", "version": "3", "run": told}

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[tuple[str, type[Piston]]]:
    handler = type("Handler", (Piston,), {"broken": [], "asked": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", handler
        running.shutdown()


def test_the_same_contract(server: tuple[str, type[Piston]]) -> None:
    there = executor(server[0])
    ran = there("print(sum(map(int, input().split())))", b"3 4", Limits(cpu=20, wall=60))
    assert (ran.stdout, ran.exit_code, ran.limit) == (b"7\n", 0, "")
    assert there("raise SystemExit(3)", b"", Limits(cpu=20, wall=60)).exit_code == 3
    slow = there("import time; time.sleep(99)", b"", Limits(wall=0.3))
    assert (slow.exit_code, slow.limit) == (None, "wall")
    assert there("while True: print('x' * 9999)", b"", Limits(cpu=20, wall=60)).limit == "output"


def test_a_server_that_stumbles_is_asked_again_but_not_for_ever(server: tuple[str, type[Piston]]) -> None:
    url, handler = server
    handler.broken = [(500, b"oops"), (429, b"slow down")]
    assert Remote(url, pause=0.01)("print(1)", b"", Limits(cpu=20, wall=60)).stdout == b"1\n"
    handler.broken, handler.asked = [(503, b"no"), (200, b"<html>"), (200, b"[]")], 0
    with pytest.raises(SandboxError, match="no verdict"):
        Remote(url, pause=0.01)("print(1)")
    assert handler.asked == 3


def test_a_request_that_is_refused_is_not_sent_again(server: tuple[str, type[Piston]]) -> None:
    url, handler = server
    with pytest.raises(SandboxError, match="no such runtime"):
        Remote(url, "cobol")("DISPLAY 1.")
    assert handler.asked == 1


def test_the_reward_runs_on_it(server: tuple[str, type[Piston]]) -> None:
    url, handler = server
    reward = load_reward("code_tests", {"executor": url, "timeout": 20.0, "budget": 100.0})
    completion = Completion("```python\ndef add(a, b):\n    return a + b\n```")
    problem = Problem("?", "assert add(3, 4) == 7\nassert add(1, 1) == 2", "p")
    assert reward.score_group([completion], problem) == [Score(1.0, "all 2 tests passed")]
    handler.broken = [(500, b"")] * 3
    (score,) = reward.score_group([completion], problem)
    assert isinstance(score, Failure) and "no verdict" in score.reason


def test_nobody_there_is_no_verdict() -> None:
    with pytest.raises(SandboxError, match=r"no verdict from http://127\.0\.0\.1:9/api/v2/execute"):
        Remote("http://127.0.0.1:9", pause=0.01)("print(1)")
