"""The command line: the only room that prints.

    aha plan RECIPE      what would run, on what, in how many steps
    aha run RECIPE       run what is missing, evaluate, report
    aha eval RECIPE      only the evaluations
    aha report RUN       write the report of a run directory again
    aha recipes          the shipped recipes, and what to expect of them
    aha rewards          the rewards a recipe can name
"""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from aha import __version__, pipeline
from aha.errors import AhaError
from aha.recipe import Plan, describe, load_recipe
from aha.report import COMPARE_COLUMNS, compare_table, write_report
from aha.rundir import read_object
from aha.watch import duration, watch

app = typer.Typer(
    name="aha",
    help="Recipes for reasoning models: continued pretraining, distillation, GRPO with verifiable rewards.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()
errors = Console(stderr=True)

RecipePath = Annotated[Path, typer.Argument(help="a recipe, for example recipes/tiny.yaml")]
Overrides = Annotated[
    Optional[list[str]], typer.Argument(help="changes to the recipe, for example grpo.steps=50 name=longer", metavar="[KEY=VALUE]...")
]
RunDirOption = Annotated[Optional[Path], typer.Option("--run-dir", help="where the run lives; runs/NAME if not given")]


def _plan(path: Path, overrides: list[str] | None, run_dir: Path | None) -> Plan:
    recipe = load_recipe(path, overrides or [])
    folder = run_dir or Path("runs") / (recipe.name or path.stem)
    return pipeline.prepare(recipe, folder, str(path))


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDirOption = None,
    json: Annotated[bool, typer.Option("--json", help="the whole plan as JSON")] = False,
) -> None:
    """Print what would run: stages, inputs, steps, tokens, devices, and what is there already and why."""
    planned = _plan(recipe, overrides, run_dir)
    if json:
        print(planned.model_dump_json(indent=1))
    else:
        _show_plan(planned)


@app.command()
def run(recipe: RecipePath, overrides: Overrides = None, run_dir: RunDirOption = None) -> None:
    """Run what is missing of a recipe, evaluate it, and write the report. Ctrl-C stops; the same command goes on."""
    planned = _plan(recipe, overrides, run_dir)
    _show_plan(planned)
    watch(pipeline.execute(planned), console)
    _show_results(planned)


@app.command(name="eval")
def evaluate(recipe: RecipePath, overrides: Overrides = None, run_dir: RunDirOption = None) -> None:
    """Evaluate the finished stages of a run."""
    planned = _plan(recipe, overrides, run_dir)
    watch(pipeline.evaluate(planned), console)
    _show_results(planned)


@app.command()
def report(run_dir: Annotated[Path, typer.Argument(help="a run directory, for example runs/tiny")]) -> None:
    """Write report.md and report.html of a run directory again, finished or not."""
    console.print(str(write_report(run_dir)), soft_wrap=True)


@app.command()
def recipes(folder: Annotated[Path, typer.Option(help="where the recipes are")] = Path("recipes")) -> None:
    """List the recipes: hardware, time, and the number to expect."""
    table = Table("recipe", "hardware", "time", "expect", box=None, pad_edge=False)
    for path in sorted(folder.glob("*.yaml")):
        expect = load_recipe(path).expect
        time = duration(expect.minutes * 60) if expect.minutes else ""
        table.add_row(path.stem, expect.hardware, time, expect.result)
    console.print(table)


@app.command()
def rewards() -> None:
    """List the rewards that a recipe can name, from reward_fns/."""
    from aha.recipe.reward_files import reward_folder, reward_names

    table = Table("reward", "what it judges", box=None, pad_edge=False)
    for name in reward_names():
        first = (ast.get_docstring(ast.parse((reward_folder() / f"{name}.py").read_text())) or "").splitlines()[:1]
        table.add_row(name, *(line.removeprefix(f"{name}: ") for line in first))
    console.print(table)


@app.command()
def version() -> None:
    """Print the version."""
    console.print(f"aha {__version__}", highlight=False)


def _show_plan(planned: Plan) -> None:
    table = Table("stage", "from", "steps", "tokens/step", "batch", "device", "state", "why", box=None, pad_edge=False)
    for row in describe(planned):
        table.add_row(*row)
    console.print(f"{planned.name} in {planned.run_dir}", highlight=False)
    console.print(table)
    console.print()


def _show_results(planned: Plan) -> None:
    results = read_object(Path(planned.run_dir) / "results.json")
    if results:
        _table(COMPARE_COLUMNS, compare_table(results))


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print()
    console.print(table)


def main() -> None:
    """Errors that a person can act on come without a traceback, with an exit code of their own."""
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        app(standalone_mode=False)
    except AhaError as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
