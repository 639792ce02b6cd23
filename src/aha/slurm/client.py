"""Slurm's own commands, called: their words are passed on when they refuse, and their tables come back as values."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from aha.errors import SlurmError

NOT_KNOWN = "Invalid job id specified"
"""What Slurm says of a job that ended some minutes ago: it forgets them."""

OVER = {
    "COMPLETED",
    "FAILED",
    "CANCELLED",
    "TIMEOUT",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "DEADLINE",
    "BOOT_FAIL",
    "PREEMPTED",
}


class InQueue(NamedTuple):
    """A job as Slurm knows it now: its state in Slurm's own capitals, and why it is in it."""

    state: str
    reason: str
    restarts: int

    @property
    def over(self) -> bool:
        return self.state in OVER


def call(*command: str) -> str:
    """The output of one of Slurm's commands. Raises SlurmError with what it says when it refuses."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on this machine: call aha where Slurm's commands are") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for two minutes: is slurmctld up?") from None
    if done.returncode != 0:
        raise SlurmError(f"{command[0]} refuses: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def sbatch(script: str, options: Sequence[str]) -> str:
    """Submit a script; returns the job's id."""
    return call("sbatch", "--parsable", "--kill-on-invalid-dep=yes", *options, script).strip().partition(";")[0]


def queue(ids: Iterable[str]) -> dict[str, InQueue]:
    """Those of these jobs that Slurm still knows."""
    wanted = ",".join(ids)
    if not wanted:
        return {}
    columns = "JobID:|,State:|,Reason:|,RestartCnt:|"
    try:
        table = call("squeue", "--noheader", "--states=all", f"--jobs={wanted}", f"--Format={columns}")
    except SlurmError as error:
        if NOT_KNOWN in str(error):
            return {}
        raise
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.strip()]
    return {job: InQueue(state, reason, int(restarts or 0)) for job, state, reason, restarts, *_ in rows}


def scancel(ids: Iterable[str]) -> None:
    """End jobs, waiting or running."""
    call("scancel", *ids)
