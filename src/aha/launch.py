"""Starting the processes of a stage, and making sure that none of them outlives this one.

One device is one plain process; several are torchrun's. A stage runs in a process group of its own, so that Ctrl-C
reaches this process first, which then asks the stage to save and stop.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aha.recipe import Plan, StagePlan

PR_SET_PDEATHSIG = 1


def stage_command(plan: Plan, stage: StagePlan) -> list[str]:
    """The command line of one stage on this machine."""
    target = ["aha.stages", plan.run_dir, stage.name]
    if stage.world_size == 1:
        return [sys.executable, "-m", *target]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={stage.world_size}", "-m", *target]


def eval_command(plan: Plan, index: int) -> list[str]:
    """The command line of one evaluation."""
    return [sys.executable, "-m", "aha.evals", plan.run_dir, str(index)]


def start(command: Sequence[str], log: Path, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to `log`; it dies with this one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, AHA_STARTED=str(time.time()), TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Let the stage finish its step and save."""
    _signal(process, signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, now."""
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
