"""Starting the processes of a stage, and making sure that none of them outlives this one.

A stage runs in a process group of its own, so that Ctrl-C reaches this process first, which then asks the stage to save
and stop.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aha.errors import StageError
from aha.recipe import Plan, StagePlan

PR_SET_PDEATHSIG = 1


def require_supported(plan: Plan) -> None:
    """Raises StageError for what a recipe may ask and this version cannot do: never one process in place of eight."""
    several = [stage for stage in plan.stages if stage.world_size > 1]
    if several:
        raise StageError(
            f"{several[0].directory} is planned for {several[0].world_size} processes, and this version runs stages on one device only. "
            "hardware: {nodes: 1, gpus_per_node: 1, parallel: none} runs it on one"
        )
    if plan.recipe.grpo and plan.recipe.grpo.rollout.mode == "server" and plan.recipe.grpo.rollout.tensor_parallel > 1:
        raise StageError(
            "a rollout server runs on one device in this version: grpo.rollout.tensor_parallel: 1, or mode: colocate"
        )


def stage_command(plan: Plan, stage: StagePlan, torchrun: str | None = None) -> list[str]:
    """The command line of one stage on this machine; `torchrun` has the options of this node's share of many."""
    through = ["-m", "torch.distributed.run", *torchrun.split()] if torchrun else []
    return [sys.executable, *through, "-m", "aha.stages", plan.run_dir, stage.name]


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
            preexec_fn=_begin,
        )


def _begin() -> None:
    """In the new process. A scheduler may signal a whole job: what SIGUSR1 means, it hears from its parent."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Let the stage finish its step and save."""
    _signal(process, signal.SIGTERM)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, now."""
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
