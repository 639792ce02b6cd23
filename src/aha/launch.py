"""Starting the processes of a stage, and making sure that none of them outlives this one.

A stage runs in a process group of its own, so that Ctrl-C reaches this process first, which then asks the stage to save
and stop. A stage of several processes is torchrun's: torchrun starts them, and ends all when one has failed. It is kept
from ending them when a scheduler says SIGTERM to everybody: they save first, and then it ends by itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from aha.child import end_with
from aha.errors import StageError
from aha.recipe import Plan, StagePlan
from aha.recipe.batch import processes_per_node
from aha.recipe.engines import server_nodes
from aha.recipe.hardware import cores_of_this_machine
from aha.rollout.calls import SERVERS

TORCHRUN = "torch.distributed.run"


def require_supported(plan: Plan) -> None:
    """Raises StageError for what a recipe may ask and this version cannot do."""
    grpo = next((stage for stage in plan.stages if stage.name == "grpo"), None)
    if grpo and plan.recipe.grpo and plan.recipe.grpo.prompts_per_step % grpo.world_size:
        raise StageError(
            f"grpo.prompts_per_step: {plan.recipe.grpo.prompts_per_step} is not a multiple of {grpo.world_size} processes: a "
            "process samples and judges whole groups in this version, because a reward may look at a whole group"
        )


def require_all_nodes(plan: Plan, torchrun: str | None = None, stage: StagePlan | None = None) -> None:
    """Raises StageError when one machine is to do what a recipe plans for several: never one node in place of four.

    Of one `stage`, nodes that serve its rollouts are not missed when their addresses are known.
    """
    nodes = plan.recipe.hardware.nodes
    serving = server_nodes(plan.recipe.grpo, plan.recipe.hardware) if stage and stage.name == "grpo" else 0
    if serving and not os.environ.get(SERVERS):
        raise StageError(
            f"{plan.name} is planned with rollout servers on {serving} of its {nodes} nodes, and {SERVERS} does not say where: "
            "`aha submit` starts them and does. By hand: aha serve RECIPE --host ADDRESS there, HOST:PORT,… of all in it here"
        )
    if nodes - serving > 1 and torchrun is None:
        raise StageError(
            f"{plan.name} is planned for {nodes} nodes, and this is one: `aha submit` gives it to Slurm. By hand, call on "
            f"each node: aha run RECIPE --only STAGE --torchrun '--nnodes={nodes} --node-rank=… --nproc-per-node=… …'"
        )


def stage_command(plan: Plan, stage: StagePlan, torchrun: str | None = None) -> list[str]:
    """The command line of one stage on this machine; `torchrun` has the options of this node's share of many."""
    if torchrun is None and stage.world_size > 1:
        torchrun = f"--standalone --nproc-per-node={processes_per_node(plan.recipe.hardware)}"
    through = ["-m", TORCHRUN, *torchrun.split()] if torchrun else []
    words = ["-m", "aha.stages", plan.run_dir, stage.name]
    return [sys.executable, *through, *words]


def node_of(torchrun: str | None) -> int:
    """Which of a stage's nodes this is, by torchrun's options; 0 keeps the run directory, the others only help.

    >>> node_of("--nnodes=2 --node-rank=1 --nproc-per-node=8"), node_of(None)
    (1, 0)
    """
    found = re.search(r"--node[-_]rank[= ](\d+)", torchrun or "")
    return int(found[1]) if found else 0


def threads_of(plan: Plan, stage: StagePlan | None = None) -> int | None:
    """CPU threads of each process of a stage: the recipe's, else a node's cores shared out.

    None: what OMP_NUM_THREADS says, or (of one process) all that there are.
    """
    if plan.recipe.hardware.threads or stage is None or stage.world_size == 1 or "OMP_NUM_THREADS" in os.environ:
        return plan.recipe.hardware.threads
    return max(1, cores_of_this_machine() // processes_per_node(plan.recipe.hardware))


def eval_command(plan: Plan, index: int) -> list[str]:
    """The command line of one evaluation."""
    return [sys.executable, "-m", "aha.evals", plan.run_dir, str(index)]


def start(command: Sequence[str], log: Path, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to `log`; it dies with this one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ, AHA_STARTED=str(time.time()), TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1")
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    if TORCHRUN in command:
        environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=functools.partial(_begin, os.getpid(), TORCHRUN in command),
        )


def _begin(parent: int, torchrun: bool) -> None:
    """In the new process. A scheduler may signal a whole job: what SIGUSR1 means, it hears from its parent."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if torchrun:  # it would give its processes thirty seconds after a SIGTERM, and then kill them
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with(parent)


def ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """Let the stage finish its step and save. Of several processes each is asked; asking twice means it once."""
    for number in _started_by_torchrun(process) or [process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGTERM)


def _started_by_torchrun(process: subprocess.Popen[bytes]) -> list[int]:
    if TORCHRUN not in process.args:  # type: ignore[operator]
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(process.pid).children()]
    return []


def kill(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, now; what torchrun has started ends with torchrun."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
