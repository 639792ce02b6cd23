"""One stage as a process: `python -m aha.stages RUN_DIRECTORY STAGE`. The pipeline starts it; people rarely do.

A stage of several processes is started by torchrun, once for each; every one of them says for itself what went wrong.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

from aha import child
from aha.recipe.plan import Plan
from aha.rundir import RunDir
from aha.train import heartbeat


def main(root: str, name: str) -> None:
    started = float(os.environ.get("AHA_STARTED", time.time()))
    run = RunDir(root)
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several:
        child.end_with_parent()

    def work() -> None:
        plan = Plan.model_validate_json((run.root / "plan.json").read_text())
        heartbeat.start(run.stage(name), plan.recipe.hardware.deadlines)
        from aha.stages.context import Context  # here, so that a failing import is told too, and a hanging one ended
        from aha.train import parallel

        stage = next(stage for stage in plan.stages if stage.name == name)
        rank = parallel.join(stage, plan.recipe.hardware.parallel, plan.device)
        importlib.import_module(f"aha.stages.{name}").run(Context(plan, stage, run, started, rank))
        parallel.leave()

    child.finish(work, run.stage(name) / child.failure_file(int(os.environ["RANK"]) if several else None))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
