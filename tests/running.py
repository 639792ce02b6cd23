"""A run at work: started in the background, watched from outside, and killed with all that it has started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nano import ROOT


def last_step(folder: Path) -> int:
    try:
        return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, json.JSONDecodeError):
        return 0


def start(folder: Path, recipe: str = "nano.yaml") -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "aha.cli", "run", recipe],
        cwd=folder,
        env=dict(os.environ, AHA_REWARD_FNS=str(ROOT / "reward_fns")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_until(process: subprocess.Popen, stage: Path, step: int) -> None:
    deadline = time.time() + 300
    while last_step(stage) < step:
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
        assert time.time() < deadline, f"{stage.name} did not reach step {step}"
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, str]:
    """All processes that come from this one, by number: when each was started, and its command."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = (int(fields[1]), f"{fields[19]} {(entry / 'cmdline').read_text()[:200]}")
        except (OSError, IndexError, ValueError):
            continue
    found: dict[int, str] = {}
    above = {pid}
    while above := {child for child, (parent, _) in parents.items() if parent in above}:
        found |= {child: parents[child][1] for child in above}
    return found


def alive(pid: int, born: str) -> bool:
    """Whether it is still the same process, and not only an entry that waits to be collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and fields[19] == born.partition(" ")[0]


def kill(process: subprocess.Popen, below: dict[int, str]) -> None:
    """kill -9 of the command line alone; what it had started has five seconds to be gone."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.time() + 5
    while (left := {pid: born for pid, born in below.items() if alive(pid, born)}) and time.time() < deadline:
        time.sleep(0.05)
    assert not left, f"outlived the run: {left}"
