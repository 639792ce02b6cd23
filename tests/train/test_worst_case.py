"""The longest batch goes first: what does not fit is said before step 1, with what would; and it leaves no trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import BESIDE_THE_TESTS
from small import completions, group, supervised

from aha.models.kernels import choose
from aha.train import worst_case

SUPERVISED, GROUP = choose("cpt", "auto", "cpu", "llama"), choose("grpo", "auto", "cpu", "llama")
ALWAYS, NEVER = "hardware.worst_case_first=always", "hardware.worst_case_first=never"


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads(next(folder.glob("run/*/worst_case.json")).read_text())


def test_it_changes_nothing(tmp_path: Path) -> None:
    """Weights and metrics are those of a run without it, bit by bit; dropout draws in both."""
    runs = {}
    for wish in (ALWAYS, NEVER):
        folder = tmp_path / wish
        folder.mkdir()
        trainer = supervised(folder, SUPERVISED, 3, wish, "cpt.lora={rank: 4, dropout: 0.5}")
        trainer.train()
        lines = map(json.loads, next(folder.glob("run/*/metrics.jsonl")).read_text().splitlines())
        metrics = [
            {key: value for key, value in line.items() if key not in ("time", "tokens_per_second")} for line in lines
        ]
        runs[wish] = (trainer.model.state_dict(), metrics, torch.rand(4))
    assert recorded(tmp_path / ALWAYS)["ran"] and recorded(tmp_path / ALWAYS)["tokens"] == 4 * 15
    assert "never" in recorded(tmp_path / NEVER)["why"]
    (one, metrics, drawn), (other, expected, also) = runs.values()
    assert all(torch.equal(one[key], other[key]) for key in other) and torch.equal(drawn, also)
    assert metrics == expected and len(metrics) == 3


def test_a_grpo_batch_has_the_shape_of_the_longest(tmp_path: Path) -> None:
    trainer = group(tmp_path, GROUP, "grpo.rollout.max_tokens=24", "grpo.rollout.max_prompt_tokens=40")
    made, _ = trainer.longest_batch(3, (40, 24))
    real = completions(trainer)
    assert real.keys() <= made.keys(), "everything that TRL gives a loss"
    assert made["prompt_ids"].shape == (3, 40) and made["completion_ids"].shape == (3, 24)
    trainer.create_optimizer()
    trainer._rehearse_longest(trainer.model_wrapped, trainer._lengths)
    found = recorded(tmp_path)
    assert found["ran"] and found["lengths"] == [40, 24] and found["micro_batch"] * 64 == found["tokens"]
    assert all(weight.grad is None for weight in trainer.model.parameters()) and not trainer._metrics["train"]


def test_on_a_cpu_what_is_not_cheap_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worst_case, "CHEAP", 1.0)
    supervised(tmp_path, SUPERVISED, 1).train()
    assert not recorded(tmp_path)["ran"] and "worst_case_first=always" in recorded(tmp_path)["why"]


FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""An allocator that reserves nothing for later: the address space that is taken is then what is in use, in every run."""
LIMITED = """
import os, resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from small import supervised
from aha.errors import StageError
from aha.models.kernels import choose

folder, micro = Path(sys.argv[1]), sys.argv[2]
keys = ("hardware.worst_case_first=always", f"cpt.micro_batch={micro}", "cpt.batch_size=64", "model.from_scratch.hidden_size=128")
trainer = supervised(folder, choose("cpt", "torch", "cpu", "llama"), 1, *keys)
trainer.expect_longest(trainer._recipe, trainer._stage, 512)
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**20 * int(sys.argv[3]),) * 2)
try:
    trainer.train()
except StageError as error:
    print("refused at step", trainer.state.global_step, "::", error)
else:
    print("trained")
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is honoured on Linux")
def test_what_does_not_fit_is_refused_in_words_and_what_is_proposed_fits(tmp_path: Path) -> None:
    """A real lack of memory: the address space ends 320 MiB above what is held when training begins. 64 rows take 440, 32 take 230."""

    def limited(micro: str) -> str:
        folder = tmp_path / micro
        folder.mkdir()
        command = [sys.executable, "-c", LIMITED, str(folder), micro, "320"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=BESIDE_THE_TESTS | FRUGAL)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()[-1]

    told = limited("64")
    assert told.startswith(
        "refused at step 0 :: cpt: the longest batch does not fit into memory: micro_batch 64 x (512)"
    )
    proposed = re.search(r"cpt\.micro_batch=(\d+) fits", told)
    assert proposed and 0 < int(proposed[1]) < 64, told
    assert limited(proposed[1]) == "trained"
