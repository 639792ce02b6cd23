"""One evaluation as a process: `python -m aha.evals RUN_DIRECTORY INDEX`. The pipeline starts it."""

from __future__ import annotations

import sys

from aha import child
from aha.recipe.plan import Plan
from aha.rundir import RunDir


def main(root: str, index: str) -> None:
    run = RunDir(root)

    def work() -> None:
        from aha.evals.run import evaluate  # here, so that a failing import is told too

        plan = Plan.model_validate_json((run.root / "plan.json").read_text())
        evaluate(plan, plan.evals[int(index)], run)

    child.finish(work, run.root / "eval" / "failure.json")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
