"""One stage as a process: `python -m aha.stages RUN_DIRECTORY STAGE`. The pipeline starts it; people rarely do."""

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

    def work() -> None:
        plan = Plan.model_validate_json((run.root / "plan.json").read_text())
        heartbeat.start(run.stage(name), plan.recipe.hardware.deadlines)
        from aha.stages.context import Context  # here, so that a failing import is told too, and a hanging one ended

        stage = next(stage for stage in plan.stages if stage.name == name)
        importlib.import_module(f"aha.stages.{name}").run(Context(plan, stage, run, started))

    child.finish(work, run.stage(name) / "failure.json")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
