"""The command line: the only room that prints.

aha plan RECIPE      what would run, on what, in how many steps
aha run RECIPE       run what is missing, evaluate, report
aha eval RECIPE      only the evaluations
aha serve RECIPE     a rollout server for its GRPO stage, for trainers elsewhere
aha report RUN       write the report of a run directory again
aha doctor RUN       what is wrong with a run, and which line of the recipe to change
aha bench RUN        how fast it was, against what the machine can do
aha bench-rewards    how fast and how rightly answers are verified, against TRL and math-verify
aha bench-algorithms every algorithm from one start, on several seeds: a plot and a table
aha bench-overlap RUN how much faster GRPO is when completions are drawn beside the training
aha bench-memory     what a training step takes on a CPU, against TRL's stock path
aha submit RECIPE    give what is missing to Slurm, one job for each stage and evaluation
aha status RUN       where it stands, and why what waits waits
aha logs RUN         what its jobs say
aha cancel RUN       end its jobs
aha recipes          the shipped recipes, and what to expect of them
aha rewards          the rewards a recipe can name; write, check and use one (cli_rewards.py)
aha rescore RUN      its rollouts under another reward (cli_rewards.py)
aha version          this version
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.table import Table

from aha import __version__, bench_overlap, cli_rewards, launch, pipeline, slurm
from aha.bench_algorithms import FOLDER, HEAD, Bench, write_up
from aha.errors import AhaError, Mistake, RecipeError, RunDirError, StageError
from aha.health import examine
from aha.pipeline import Event
from aha.recipe import Plan, Recipe, Row, describe, foretell, hardware_overrides, load_recipe
from aha.recipe.algorithms import ALGORITHMS
from aha.recipe.site import Site, load_site
from aha.report import COMPARE_COLUMNS, compare_table, write_report
from aha.report.wording import duration
from aha.rundir import STAGES, read_object
from aha.terminal import console, errors
from aha.terminal import say as _say
from aha.watch import watch

DIAGNOSED = 3
"""The exit code of `aha doctor` when it found something: 1 and 2 are taken by errors."""
GO_ON_LATER = 75
"""The exit code for "saved, and the same command goes on": a job's script puts the job back in the queue."""

app = typer.Typer(
    name="aha",
    help="Recipes for reasoning models: continued pretraining, distillation, GRPO with verifiable rewards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(cli_rewards.app, name="rewards")  # typer lists groups last

RecipePath = Annotated[Path, typer.Argument(help="a recipe, for example recipes/tiny.yaml", metavar="RECIPE")]
Overrides = Annotated[
    Optional[list[str]],
    typer.Argument(help="changes to the recipe, for example grpo.steps=50 name=longer", metavar="KEY=VALUE"),
]
RunDirOption = Annotated[
    Optional[Path], typer.Option("--run-dir", help="where the run lives; runs/NAME if not given", metavar="RUN")
]
SubmittedRun = Annotated[Path, typer.Argument(help="a run directory, for example runs/tiny", metavar="RUN")]


def _plan(path: Path, overrides: list[str] | None, run_dir: Path | None) -> Plan:
    recipe = load_recipe(path, overrides or [])
    folder = run_dir or Path("runs") / (recipe.name or path.stem)
    return pipeline.prepare(recipe, folder, str(path))


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDirOption = None,
    hardware: Annotated[
        Optional[str],
        typer.Option(help="plan for other devices: cpu, h100-80, h100-80x8 or h100-80x8x4nodes", metavar="DEVICES"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="the whole plan as JSON")] = False,
) -> None:
    """Print what would run, and why.

    Stages with their inputs, steps, tokens and devices; the memory, time and disk that each is predicted to take; and
    what is there already. What cannot fit is refused, with the smallest change that would. Nothing is written.
    """
    planned = _plan(recipe, [*(hardware_overrides(hardware) if hardware else []), *(overrides or [])], run_dir)
    if json:
        print(planned.model_dump_json(indent=1))
    else:
        _show_plan(planned)


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDirOption = None,
    only: Annotated[
        Optional[str], typer.Option(help="one stage and nothing else, for example distill", metavar="STAGE")
    ] = None,
    torchrun: Annotated[
        Optional[str], typer.Option(help="this node's share of a stage on many: torchrun's options", metavar="OPTIONS")
    ] = None,
) -> None:
    """Run what is missing, and report.

    Ctrl-C stops after the step it is in and saves; the same command goes on from there. SIGUSR1 does the same and
    exits with 75, for schedulers: saved, go on later.
    """
    planned = _plan(recipe, overrides, run_dir)
    if only is None:
        _show_plan(planned)
        watch(pipeline.execute(planned), console)
        _show_results(planned)
    else:
        _choose("--only", only, [stage.name for stage in planned.stages])
        watch(pipeline.execute_stage(planned, only, torchrun), console)


@app.command(name="eval")
def evaluate(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDirOption = None,
    only: Annotated[
        Optional[str], typer.Option(help="the evaluation that follows this stage, or base", metavar="STAGE")
    ] = None,
) -> None:
    """Evaluate the finished stages of a run."""
    planned = _plan(recipe, overrides, run_dir)
    if only is None:
        watch(pipeline.evaluate(planned), console)
    else:
        after = {one.after.partition("-")[2] or one.after: one.after for one in planned.evals}
        _choose("--only", only, list(after))
        watch(pipeline.evaluate_after(planned, after[only]), console)
    _show_results(planned)


@app.command()
def serve(
    recipe: RecipePath,
    overrides: Overrides = None,
    run_dir: RunDirOption = None,
    host: Annotated[
        str, typer.Option(help="the address to listen on; see AHA_ROLLOUT_TOKEN below for any but the default")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on; 0 for any that is free")] = 8000,
) -> None:
    """Serve rollouts for a recipe's GRPO stage.

    The stage then runs elsewhere with grpo.rollout.mode=server and grpo.rollout.servers=[HOST:PORT, ...], and pushes
    its weights here before every batch. Serves the checkpoint that the stage starts from, until Ctrl-C. Whoever
    reaches the port can sample and replace the weights; with AHA_ROLLOUT_TOKEN in the environment here and there, only
    who has it can.
    """
    watch(pipeline.serve_rollouts(_plan(recipe, overrides, run_dir), host, port), console)


def _choose(option: str, given: str, known: list[str]) -> None:
    if given not in known:
        raise RecipeError(Mistake(option, given, f"one of: {', '.join(known)}" if known else "nothing: there is none"))


@app.command()
def submit(
    recipe: RecipePath,
    overrides: Overrides = None,
    cluster: Annotated[
        Path, typer.Option(help="what the cluster wants to hear: a site file, see slurm/README.md", metavar="SITE")
    ] = Path("site.yaml"),
    run_dir: RunDirOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the scripts, and touch nothing")] = False,
) -> None:
    """Give what is missing to Slurm.

    One job for each stage, each waiting for the one before it to end well, and one for each evaluation. A job that
    has to stop (its time is up, it is preempted, a node is lost) saves, comes back and goes on. The recipe is kept in
    the run directory: what becomes of the file after this does not matter. A run that is in the queue already is
    refused.
    """
    planned = _plan(recipe, overrides, run_dir)
    site = load_site(cluster)
    if dry_run:
        _show_scripts(planned, site)
        return
    jobs = slurm.submit(planned, site)
    for one in jobs:
        _say(f"{one.part:<16} job {one.id:<8} {one.log}")
    _say(f"aha status {planned.run_dir} shows where it stands" if jobs else f"{planned.run_dir}: nothing is missing")


def _show_scripts(planned: Plan, site: Site) -> None:
    for job in slurm.jobs_of(planned):
        print(slurm.script_of(planned, job, site))
    try:
        launch.require_supported(planned)
    except StageError as error:
        errors.print(f"These scripts are not submitted yet: {error}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def status(
    run_dir: Annotated[Optional[Path], typer.Argument(help="a run directory", metavar="RUN")] = None,
    every: Annotated[bool, typer.Option("--all", help="every run in the folder")] = False,
    folder: Annotated[Path, typer.Option(help="where the runs are, for --all", metavar="FOLDER")] = Path("runs"),
) -> None:
    """Show where a run stands, stage by stage.

    Job, attempt, state, step, time left, tokens per second, the last reward, and why what waits waits or what failed
    has failed. Works for runs without Slurm too.
    """
    if run_dir is None and not every:
        raise RunDirError("which run? aha status RUN, or aha status --all")
    runs = sorted(path.parent for path in folder.glob("*/plan.json")) if every else []
    for root in [*([run_dir] if run_dir else []), *runs]:
        table = Table(*slurm.COLUMNS, box=None, pad_edge=False, title=str(root), title_justify="left")
        for row in slurm.run_rows(root):
            table.add_row(*row)
        console.print(table)
        console.print()
    if every and not runs:
        _say(f"no runs in {folder}")


@app.command()
def logs(
    run_dir: SubmittedRun,
    part: Annotated[
        Optional[str], typer.Argument(help="a stage or evaluation, for example 1-cpt or eval-1-cpt", metavar="PART")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it grows, until Ctrl-C")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="how many of the last lines", metavar="N")] = 40,
) -> None:
    """Show what a run's jobs say.

    The log that was written to last, or that of one part. What the stage itself printed is in its folder's log.txt.
    """
    path = slurm.newest_log(run_dir, part)
    _say(f"{path}:", style="bold")
    with path.open(encoding="utf-8", errors="replace") as file:
        print(*file.readlines()[-lines:], sep="", end="", flush=True)
        while follow:
            time.sleep(0.5)
            print(file.read(), end="", flush=True)


@app.command()
def cancel(run_dir: SubmittedRun) -> None:
    """End a run's jobs, waiting and running.

    What runs saves if Slurm leaves it the time; the same aha submit goes on from the last checkpoint.
    """
    ended = slurm.cancel(run_dir)
    for one in ended:
        _say(f"{one.part:<16} job {one.id} cancelled")
    if not ended:
        _say(f"{run_dir}: nothing of it is in the queue")


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(help="a run directory, for example runs/tiny", metavar="RUN")],
) -> None:
    """Write a run's report again.

    The run may be finished or not: report.md and report.html say what is missing.
    """
    console.print(str(write_report(run_dir)), soft_wrap=True)


@app.command()
def doctor(
    run_dir: Annotated[Path, typer.Argument(help="a run directory, finished or at work", metavar="RUN")],
) -> None:
    """Say what is wrong with a run.

    Each diagnosis comes with its evidence, and with the recipe line to change. Exit code 0: nothing found; 3: at least one
    diagnosis; 1: no run that can be read. The same rules speak during the run (grpo.health: warn, stop or off).
    """
    found = examine(run_dir)
    _say(f"{run_dir}: {found.looked_at}")
    for one in found.diagnoses:
        console.print()
        _say(f"{one.severity:<8} {one.name}", style="bold")
        for line in (one.evidence, found.place(one.keys), one.advice):
            _say(" " * 9 + line, indent=11)
    console.print()
    for note in found.notes:
        _say(f"note     {note}", indent=9)
    if found.diagnoses:
        raise typer.Exit(DIAGNOSED)
    _say("nothing found")


@app.command()
def bench(
    run_dir: Annotated[
        Path, typer.Argument(help="the directory of a finished run, for example runs/tiny", metavar="RUN")
    ],
) -> None:
    """Measure a finished run's speed.

    The machine's matmul peak, the share of it that training reached, and vLLM against transformers.generate.
    """
    figures = pipeline.measure_speed(run_dir)
    for dtype, peak in figures["matmul_gflops"].items():
        _say(f"matmul peak {dtype:<9} {peak:,.0f} GFLOP/s")
    for stage, found in figures["stages"].items():
        _say(f"{stage:<21} " + "  ".join(_figure(name, value) for name, value in found.items()))
    speeds = figures["rollout_tokens_per_second"]
    _say(f"{'rollouts':<21} " + "  ".join(_figure(name, value) for name, value in speeds.items()))


def _figure(name: str, value: float) -> str:
    words = name.replace("_", " ")
    return f"{words} {value:.1%}" if "share" in name else f"{words} {value:,.1f}"


@app.command(name="bench-rewards")
def bench_rewards() -> None:
    """Measure how answers are verified.

    Easy and hard answers, judged by our worker processes, by TRL's accuracy_reward and by a loop over math-verify.
    """
    figures: dict[str, Any] = {}
    watch(_keeping(pipeline.measure_rewards(), figures), console)
    table = Table("answers", "grader", "a second (range)", "× TRL", "× serial", "right", box=None, pad_edge=False)
    for kind, graders in figures["figures"].items():
        others = [graders[name]["answers_per_second"] for name in ("TRL accuracy_reward", "math-verify, serial")]
        for name, found in graders.items():
            median, low, high = (found[key] for key in ("answers_per_second", "slowest", "fastest"))
            times = [f"{median / other:.1f}" for other in others]
            table.add_row(kind, name, f"{median:,.0f} ({low:,.0f} to {high:,.0f})", *times, f"{found['right']:.1%}")
    console.print(table)


def _keeping(events: Iterator[Event], facts: dict[str, Any]) -> Iterator[Event]:
    """The same events, and what the last one knows is kept in `facts`."""
    for event in events:
        facts |= event.facts
        yield event


@app.command(name="bench-algorithms")
def bench_algorithms(
    overrides: Overrides = None,
    recipe: Annotated[Path, typer.Option(help="with a distill and a grpo stage", metavar="RECIPE")] = Path(
        "recipes/tiny.yaml"
    ),
    algorithms: Annotated[str, typer.Option(help="which, with commas between")] = ",".join(ALGORITHMS),
    seeds: Annotated[int, typer.Option(help="how many, from 0", min=1)] = 3,
    folder: Annotated[Path, typer.Option(help="where its runs live", metavar="FOLDER")] = FOLDER,
) -> None:
    """Compare the algorithms.

    The recipe is trained up to grpo once for each seed, and each algorithm goes on from there. What is finished is not
    run again. Writes algorithms.png and algorithms.md.
    """
    bench = Bench(recipe, folder, algorithms.split(","), range(seeds), overrides or [])
    _run_each(bench.plans())
    _print_table(HEAD, write_up(bench))
    _say(f"{folder}/algorithms.png, {folder}/algorithms.md")


def _run_each(plans: Iterator[Plan]) -> None:
    """One run after the other, each under its name."""
    for planned in plans:
        _say(f"\n{planned.run_dir}")
        watch(pipeline.execute(planned), console)


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    shown = Table(*head, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def _collecting(events: Iterator[Event], figures: list[dict[str, Any]]) -> Iterator[Event]:
    """The same events, and the figures of each kept in a list."""
    for event in events:
        figures += [event.facts["figures"]] if "figures" in event.facts else []
        yield event


@app.command(name="bench-overlap")
def bench_overlaps(
    run_dir: Annotated[
        Path, typer.Argument(help="the directory of a finished run, for example runs/tiny", metavar="RUN")
    ],
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(help="GRPO steps of each", min=bench_overlap.WARM_UP + 2)] = 12,
    repeats: Annotated[int, typer.Option(help="how often the ways take turns", min=1)] = 3,
) -> None:
    """Compare the ways to draw completions.

    A few GRPO steps of the run, drawn in the trainer's process, by a synchronous server, and overlapped: pipelined and
    asynchronous. Medians over the turns; the ratios are against the synchronous server. RUN/overlap.svg shows who worked
    when. Two processes on two cores want one thread each: hardware.threads=1.
    """
    bench = bench_overlap.Bench(run_dir, steps, repeats, overrides or [])
    _run_each(bench.plans())
    head, *rows = bench_overlap.table(bench_overlap.write_up(bench))
    _print_table(head, rows)
    _say(f"{run_dir}/overlap.svg, {run_dir}/overlap.json")


@app.command(name="bench-memory")
def bench_memory() -> None:
    """Measure the memory of a training step on a CPU.

    SmolLM2-135M with random weights, 2 x 512 tokens, supervised and GRPO: TRL's stock path, and ours.
    """
    columns = ("stage", "path", "GiB before the step", "GiB at its peak", "the step alone", "tokens/s")
    table = Table(*columns, box=None, pad_edge=False)
    measured: list[dict[str, Any]] = []
    watch(_collecting(pipeline.measure_memory(), measured), console)
    for found in measured:
        way = "TRL, kernels: torch" if found["kernels"] == "torch" else "aha, kernels: auto"
        held, peak = found["held_gib"], found["peak_gib"]
        figures = (f"{held:.2f}", f"{peak:.2f}", f"{peak - held:.2f}", f"{found['tokens_per_second']:,.0f}")
        table.add_row(found["stage"], way, *figures)
    console.print(table)


@app.command()
def recipes(
    folder: Annotated[Path, typer.Option(help="where the recipes are", metavar="FOLDER")] = Path("recipes"),
) -> None:
    """List the recipes and what they promise."""
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise RecipeError(Mistake(str(folder), "no recipes", "a folder with .yaml files; give it as --folder"))
    for path in paths:
        _show_recipe(path, load_recipe(path))
    _say(f"make NAME runs one; make plan RECIPE={folder}/NAME.yaml first shows what it would do")


app.command()(cli_rewards.rescore)


@app.command()
def version() -> None:
    """Print the version."""
    _say(f"aha {__version__}")


def _show_plan(planned: Plan) -> None:
    _say(f"{planned.name} in {planned.run_dir}")
    for row in describe(planned):
        console.print()
        _say(f"{row.stage:<10} {row.state:<6} {row.why}", indent=18, style="dim" if row.state == "skip" else "bold")
        for line in [*_stage_lines(row), *foretell(planned, row.stage)]:
            _say(" " * 11 + line, indent=13)
    for number, line in enumerate(planned.prediction.assumptions if planned.prediction else []):
        if number == 0:
            console.print()
        _say(f"{'' if number else 'assumed':<11}{line}", indent=13, style="dim")
    console.print()


def _stage_lines(row: Row) -> list[str]:
    """What a stage starts from and how its batch comes out; of an evaluation, what is measured of what."""
    if not row.steps:
        return [f"of {row.input}", row.batch]
    steps = f"{row.steps} steps" if row.steps[0].isdigit() else "steps known once packed"
    return [f"from {row.input} · {steps} × {row.tokens_per_step} tokens · {row.device}", row.batch]


def _show_recipe(path: Path, recipe: Recipe) -> None:
    expect = recipe.expect
    time = (
        f"about {duration(expect.minutes * 60).removesuffix(' 00 min').removesuffix(' 00 s')}" if expect.minutes else ""
    )
    stages = ", ".join(name for name in STAGES if getattr(recipe, name))
    _say(f"{path.stem}  ({stages})", style="bold")
    for line in filter(None, (", ".join(filter(None, (expect.hardware, time))), expect.result)):
        _say(" " * 4 + line, indent=6)
    console.print()


def _show_results(planned: Plan) -> None:
    results = read_object(Path(planned.run_dir) / "results.json")
    if results:
        table = Table(*COMPARE_COLUMNS, box=None, pad_edge=False)
        for row in compare_table(results):
            table.add_row(*row)
        console.print()
        console.print(table)


class _Asked:
    """SIGTERM and SIGUSR1 are a scheduler's Ctrl-C. They may come several times, and the stage that saves is asked once.

    What this process was started to ignore stays ignored: a rollout server is needed until its trainer has saved.
    """

    def __init__(self) -> None:
        self.by: int | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self)

    def __call__(self, number: int, frame: object) -> None:
        if self.by is None:
            self.by = number
            signal.raise_signal(signal.SIGINT)

    def exit_code(self, otherwise: int) -> int:
        stopped = otherwise == pipeline.Stopped.exit_code
        return GO_ON_LATER if stopped and self.by == signal.SIGUSR1 else otherwise


def main() -> None:
    """Errors that a person can act on come without a traceback, with an exit code of their own."""
    asked = _Asked()
    try:
        sys.exit(app(standalone_mode=False, prog_name="aha"))  # the code of typer.Exit, else None
    except AhaError as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(asked.exit_code(error.exit_code))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(asked.exit_code(130))
    except Exception as error:
        show = getattr(error, "show", None)  # click's own usage errors
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()
