"""The nano recipe (the tiny one, made much smaller), and the command line as a person would call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CPU = Path("/proc/cpuinfo")
BF16 = CPU.exists() and "avx512_bf16" in CPU.read_text()
"""Whether training here is in mixed bfloat16: two ways to compute the same then agree to its eight bits only."""
NANO = """\
name: nano
model:
  from_scratch: {hidden_size: 32, layers: 2, heads: 1, intermediate_size: 64, context: 128}
cpt:
  data: [{builtin: arithmetic/texts}]
  tokens: 4096
  max_tokens: 64
  batch_size: 8
  learning_rate: 1e-3
  save_every: 2
distill:
  data: [{builtin: arithmetic/traces, rows: 200}]
  steps: 8
  max_tokens: 64
  batch_size: 8
  learning_rate: 1e-3
  save_every: 2
grpo:
  data: [{builtin: arithmetic/problems, rows: 40}]
  rewards: {math_answer: 1.0, think_format: 0.5, REWARD: 1.0}
  steps: 6
  prompts_per_step: 4
  group_size: 4
  learning_rate: 1e-4
  save_every: 2
  rollout: {max_tokens: 24, max_prompt_tokens: 40}
eval:
  tasks:
    - {name: facts, data: [{builtin: arithmetic/facts, rows: 20}], grader: first_number, raw: true, max_tokens: 2}
    - {name: problems, data: [{builtin: arithmetic/problems, rows: 20, options: {split: held_out}}]}
  samples: 4
  ks: [2]
  max_tokens: 24
  when: end
"""


NANO = NANO.replace("REWARD", str(ROOT / "tests" / "digit_share.py"))


BESIDE_THE_TESTS = dict(os.environ, PYTHONPATH=f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'src'}")
"""The environment of a script that imports what tests share, as pytest's own `pythonpath` lets the tests do; and this aha."""


def aha(*arguments: str | Path, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """The command line, as a person would call it."""
    command = [sys.executable, "-m", "aha.cli", *map(str, arguments)]
    environment = dict(os.environ, COLUMNS="120", AHA_REWARD_FNS=str(ROOT / "reward_fns"))
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=560,
        **options,
    )  # type: ignore[call-overload]
