"""`aha serve`: a rollout server for a recipe's GRPO stage, on this machine, for trainers that run elsewhere.

It serves the checkpoint that the stage starts from, which it waits for: the stage may be starting at the same time.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

from aha import child, handoff
from aha.errors import CheckpointError
from aha.recipe.plan import BASE, Plan
from aha.rollout.server import serve
from aha.rundir import RunDir
from aha.stages.context import Context
from aha.stages.rollouts import server_config

ALONE = 0.9
"""Of a GPU's memory, for a server that shares it with no trainer: what the planner counts on (recipe/estimate.py)."""


def run(plan_file: Path, host: str, port: int) -> None:
    """Serve until this process is ended. `plan_file` lies in the folder where `ready.json` will say that it serves.

    Raises CheckpointError when the stage's input is not there before `grpo.rollout.server_deadline`.
    """
    plan = Plan.model_validate_json(plan_file.read_text())
    stage = next(stage for stage in plan.stages if stage.name == "grpo")
    block, root = plan.recipe.grpo, Path(plan.run_dir)
    assert block is not None
    folder = root / handoff.BASE_FOLDER if stage.parent == BASE else root / stage.parent / "model"
    until = time.monotonic() + block.rollout.server_deadline
    while not folder.exists():
        if time.monotonic() > until:
            raise CheckpointError(f"{folder}, which the GRPO stage starts from, is not there: run what comes before it")
        time.sleep(1)
    parent = handoff.receive(folder, plan.recipe)
    config = server_config(Context(plan, stage, RunDir(root), time.time()), block, parent)
    limits = dataclasses.replace(config.limits, memory_share=ALONE)
    ready = str(plan_file.with_name("ready.json"))
    serve(dataclasses.replace(config, limits=limits, host=host, port=port, ready=ready))


if __name__ == "__main__":
    file = Path(sys.argv[1])
    child.finish(lambda: run(file, sys.argv[2], int(sys.argv[3])), file.with_name("failure.json"))
