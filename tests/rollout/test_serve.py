"""`aha serve`, as a person calls it: one line says where it serves what, and Ctrl-C ends it and its process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nano import NANO, ROOT

from aha import handoff
from aha.errors import EngineError
from aha.recipe import load_recipe
from aha.rollout import calls


def start(folder: Path, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli", "serve", "alone.yaml", f"--port={port}"],
        cwd=folder,
        env=dict(os.environ, COLUMNS="200", AHA_REWARD_FNS=str(ROOT / "reward_fns")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_server_says_where_it_is_lets_in_who_has_its_token_and_ends_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(calls.TOKEN, "open sesame")
    model, block = NANO[NANO.index("model:") : NANO.index("cpt:")], NANO[NANO.index("grpo:") : NANO.index("eval:")]
    block = block.replace("rollout: {", "rollout: {mode: server, engine: transformers, ")
    (tmp_path / "alone.yaml").write_text(model + block)
    base = handoff.prepare_base(load_recipe(tmp_path / "alone.yaml"), tmp_path / "runs" / "alone" / "0-base")
    server = start(tmp_path, 0)
    assert server.stdout is not None
    line = next(line for line in server.stdout if "serves" in line)
    found = re.search(r"serves rollouts for runs/alone on 127\.0\.0\.1:(\d+)", line)
    assert found, line
    port = int(found[1])
    told = calls.health("127.0.0.1", port, 30.0)
    assert told["fingerprint"] == base.fingerprint and told["limits"]["max_new_tokens"] == 24
    for token in ("open barley", ""):
        monkeypatch.setenv(calls.TOKEN, token)
        with pytest.raises(EngineError, match="answers only who sends the AHA_ROLLOUT_TOKEN"):
            calls.health("127.0.0.1", port, 30.0)
        with pytest.raises(EngineError, match="/score answered 403"):
            list(calls.ask("127.0.0.1", port, "/score", {"version": "", "sequences": []}, 30.0))
    server.send_signal(signal.SIGINT)
    assert server.communicate(timeout=60) and server.returncode == 130
    assert not Path(f"/proc/{told['pid']}").exists(), "the server outlived its command"
