"""A long run keeps the memory it has: under a megabyte more per hundred steps, over five hundred tiny steps.

What is watched is the stage's anonymous memory (RssAnon), from outside, over the second half of its steps: in the first
half allocators and caches fill. It is in float32: in bfloat16 oneDNN compiles, and keeps, some 14 MB of products for
each new length of a batch (ONEDNN_VERBOSE=profile_create shows them), which come late and are not a step's. GRPO takes
minutes for it: `AHA_SLOPE=grpo` asks for it.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import pytest
from nano import NANO
from running import descendants, last_step, start

STEPS = 500
MOST = 1.0
"""MB per hundred steps."""
WHOLE, _, WITHOUT_CPT = NANO.replace("model:", "model:\n  dtype: float32").partition("eval:")[0].partition("distill:\n")
SHORT = {
    "cpt": WHOLE.replace("tokens: 4096", f"tokens: {STEPS * 8 * 64}").replace("save_every: 2", "save_every: 100"),
    "grpo": WHOLE.partition("cpt:")[0]
    + "grpo:\n"
    + WITHOUT_CPT.partition("grpo:\n")[2]
    .replace("steps: 6", f"steps: {STEPS}")
    .replace("save_every: 2", "save_every: 100"),
}


def anonymous_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / 1e6


def watched(folder: Path, stage: str) -> dict[int, float]:
    """Step -> MB, while a stage runs to its end."""
    process = start(folder)
    seen: dict[int, float] = {}
    try:
        while process.poll() is None:
            pids = [pid for pid, command in descendants(process.pid).items() if "aha.stages" in command]
            while pids and process.poll() is None:
                try:
                    seen[last_step(stage_folder := folder / "runs" / "nano" / stage)] = anonymous_mb(pids[0])
                except (OSError, StopIteration):
                    break
                if last_step(stage_folder) >= STEPS - 1:  # what handing over takes is not a step's
                    break
                time.sleep(0.1)
            time.sleep(0.1)
    finally:
        process.kill()
    return seen


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
@pytest.mark.parametrize(("stage", "directory"), [("cpt", "1-cpt"), ("grpo", "3-grpo")])
def test_memory_does_not_grow_with_the_steps(stage: str, directory: str, tmp_path: Path) -> None:
    if stage == "grpo" and "grpo" not in os.environ.get("AHA_SLOPE", ""):
        pytest.skip("five hundred steps of GRPO take minutes: AHA_SLOPE=grpo asks for them")
    (tmp_path / "nano.yaml").write_text(SHORT[stage])
    seen = {step: size for step, size in watched(tmp_path, directory).items() if STEPS // 2 <= step < STEPS}
    assert len(seen) > 10, f"only {len(seen)} steps were seen"
    slope, _ = statistics.linear_regression(list(seen), list(seen.values()))
    print(f"{stage}: {100 * slope:.3f} MB per 100 steps, from {min(seen.values()):.0f} to {max(seen.values()):.0f} MB")
    assert 100 * slope < MOST
