"""A user's folder on the virtual cluster: a recipe, a site file, and the commands that are typed there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nano import ROOT
from slurm.cluster import Cluster

# Large enough that a save takes a moment, and a step too: both are interrupted here.
SMALL = """\
model:
  dtype: float32
  from_scratch: {hidden_size: 256, layers: 4, heads: 4, intermediate_size: 768, context: 128}
hardware: {device: cpu, threads: 1}
kernels: torch
cpt:
  data: [{builtin: arithmetic/texts}]
  tokens: 20480
  max_tokens: 64
  batch_size: 8
  learning_rate: 1e-3
  save_every: 5
"""
THEN = """\
distill:
  data: [{builtin: arithmetic/traces, rows: 100}]
  steps: 4
  max_tokens: 64
  batch_size: 8
  learning_rate: 1e-3
eval:
  tasks:
    - {name: facts, data: [{builtin: arithmetic/facts, rows: 8}], grader: first_number, raw: true, max_tokens: 2}
  samples: 2
  max_tokens: 2
  engine: transformers
  when: end
"""
SITE = "partition: gpu\ntime: 00:30:00\ncpus: 1\nrestarts: 2\n"


class Desk:
    """One user's working directory; `name.yaml` becomes the run `runs/name`."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.site()

    def site(self, more: str = "") -> None:
        (self.folder / "site.yaml").write_text(SITE + more)

    def recipe(self, name: str, text: str) -> Path:
        """Write a recipe; returns the directory that its run will have."""
        (self.folder / f"{name}.yaml").write_text(text)
        return self.folder / "runs" / name

    def aha(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, typed on the head node."""
        return self.cluster.run(
            sys.executable,
            "-m",
            "aha.cli",
            *arguments,
            check=check,
            cwd=self.folder,
            COLUMNS="150",
            OMP_NUM_THREADS="1",
            AHA_REWARD_FNS=str(ROOT / "reward_fns"),
        )

    def submit(self, name: str, *options: str) -> dict[str, str]:
        """Submit a recipe; the ids of its jobs by their parts."""
        self.aha("submit", f"{name}.yaml", *options)
        jobs = json.loads((self.folder / "runs" / name / "slurm" / "jobs.json").read_text())["jobs"]
        return {job["part"]: job["id"] for job in jobs}

    def scripts(self, recipe: Path | str, *options: str) -> list[str]:
        """What `aha submit --dry-run` prints, script by script."""
        printed = self.aha("submit", str(recipe), "--dry-run", *options).stdout
        return ["#!" + script for script in printed.split("#!") if script.strip()]

    def sbatch(self, script: str, *options: str) -> str:
        """Hand a script to sbatch as it is; returns the job's id."""
        path = self.folder / "script.sh"
        path.write_text(script)
        return self.cluster.run("sbatch", "--parsable", *options, path).stdout.strip()


def last_step(stage: Path) -> int:
    try:
        return int(json.loads((stage / "metrics.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def wait_until(what: str, true: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds} s not yet: {what}"
        time.sleep(0.002)
