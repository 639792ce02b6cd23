"""One stage as a process: `python -m aha.stages RUN_DIRECTORY STAGE`. The pipeline starts it; people rarely do.

Whatever goes wrong is written to failure.json for the process that watches, and the exit code is never 0 unless the
stage is finished.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

from aha.errors import AhaError
from aha.recipe.plan import Plan
from aha.rundir import RunDir, write_json


def main(root: str, name: str) -> int:
    started = float(os.environ.get("AHA_STARTED", time.time()))
    run = RunDir(Path(root))
    plan = Plan.model_validate_json((run.root / "plan.json").read_text())
    stage = next(stage for stage in plan.stages if stage.name == name)
    failure = run.stage(name) / "failure.json"
    failure.unlink(missing_ok=True)
    try:
        from aha.stages.context import Context

        module = importlib.import_module(f"aha.stages.{name}")
        module.run(Context(plan, stage, run, started))
    except AhaError as error:
        write_json(failure, {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except BaseException as error:
        write_json(
            failure,
            {"kind": type(error).__name__, "message": str(error), "exit_code": 1, "traceback": traceback.format_exc()},
        )
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], sys.argv[2])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # native libraries would take seconds to leave, and print about their leaks
