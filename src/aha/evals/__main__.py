"""One evaluation as a process: `python -m aha.evals RUN_DIRECTORY INDEX`. The pipeline starts it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from aha.errors import AhaError
from aha.recipe.plan import Plan
from aha.rundir import RunDir, write_json


def main(root: str, index: str) -> int:
    run = RunDir(Path(root))
    plan = Plan.model_validate_json((run.root / "plan.json").read_text())
    failure = run.root / "eval" / "failure.json"
    failure.unlink(missing_ok=True)
    try:
        from aha.evals.run import evaluate

        evaluate(plan, plan.evals[int(index)], run)
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
    os._exit(code)
