"""The command line's part about rewards, before and after a run.

aha rewards              the rewards a recipe can name
aha rewards new NAME     write a reward and its test
aha rewards check NAME   is it fit to be optimised against?
aha rewards score NAME   a verdict for each row of a file
aha rescore RUN          a run's rollouts under another reward
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from aha.data.sources import Tally
from aha.pipeline import Event
from aha.recipe.document import read_values
from aha.recipe.reward_files import reward_folder, reward_names
from aha.reward_kit.check import check_reward
from aha.reward_kit.new import write_reward
from aha.reward_kit.problems import problems_of
from aha.reward_kit.rescore import Change, Rescored, Rescoring
from aha.reward_kit.score import FileScoring, summary_of
from aha.terminal import console, say
from aha.watch import watch

MOST_PROMPTS = 20
"""Prompts that a rescoring shows; all of them are in its output."""

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

RewardName = Annotated[
    str, typer.Argument(help="as a recipe names it: NAME, path/to/file.py or package.module:function", metavar="NAME")
]
Arguments = Annotated[
    Optional[list[str]],
    typer.Argument(help="arguments of the reward, for example require=boxed", metavar="KEY=VALUE"),
]
Deadline = Annotated[float, typer.Option(help="seconds per completion", min=0.05)]


@app.callback()
def rewards(context: typer.Context) -> None:
    """List the rewards, or write, check and use one."""
    if context.invoked_subcommand is not None:
        return
    table = Table("reward", "what it judges", box=None, pad_edge=False)
    for name in reward_names():
        first = (ast.get_docstring(ast.parse((reward_folder() / f"{name}.py").read_text())) or "").splitlines()[:1]
        table.add_row(name, *(line.removeprefix(f"{name}: ") for line in first))
    console.print(table)


@app.command()
def new(name: Annotated[str, typer.Argument(help="of the reward: my_idea", metavar="NAME")]) -> None:
    """Write a reward that works, and its test."""
    for path in write_reward(name):
        say(str(path))
    say(f"next: change them, then `make reward-check NAME={name}`")


@app.command()
def check(
    name: RewardName,
    arguments: Arguments = None,
    data: Annotated[
        str, typer.Option(help="problems: a file of rows (prompt, answer, …), or a recipe, for its grpo.data")
    ] = "",
    rows: Annotated[int, typer.Option(help="problems of the data to be tried, at most", min=1)] = 200,
    deadline: Deadline = 5.0,
) -> None:
    """Check that a reward is fit to be optimised against.

    One line for each check; exit code 1 when one fails.
    """
    problems = problems_of(data)[:rows] if data else None
    failed = 0
    for finding in check_reward(name, read_values(arguments or []), problems, deadline):
        word = "-" if finding.passed is None else "ok" if finding.passed else "FAIL"
        failed += finding.passed is False
        say(f"{word:<5} {finding.check:<31} {finding.text}", indent=38, style="bold" if word == "FAIL" else "none")
    if failed:
        say(f"{name} is not fit to be trained on: {failed} {'check' if failed == 1 else 'checks'} failed")
        raise typer.Exit(1)


@app.command()
def score(
    name: RewardName,
    source: Annotated[
        Path, typer.Option("--input", help="JSON lines with id, prompt, answer or gold, completion", metavar="FILE")
    ],
    output: Annotated[
        Path, typer.Option("--output", help="one verdict for each row: id, value, reason, seconds", metavar="FILE")
    ],
    arguments: Arguments = None,
    deadline: Deadline = 5.0,
    workers: Annotated[int, typer.Option(help="processes that judge", min=1)] = 2,
) -> None:
    """Score a file of completions with a reward.

    An interrupted one goes on with the same command.
    """
    scoring = FileScoring(name, read_values(arguments or []), source, output, deadline, workers)
    if scoring.replaced:
        say("starts over: what is left there of an earlier command is of other rows, or of another reward")
    if scoring.resumed:
        say(f"goes on after {scoring.resumed} verdicts that are there already")
    watch(_events("score", str(source), scoring.rows, scoring.run()), console)
    _show_bad_rows(scoring.tally)
    found = summary_of(output)
    mean = "no value at all" if found.mean is None else f"mean {found.mean:.4f}"
    say(f"{output}: {found.judged} rows, {mean}, {found.declined} without a verdict, {found.failed} failures")


def rescore(
    run_dir: Annotated[Path, typer.Argument(help="a run directory, for example runs/tiny", metavar="RUN")],
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(help="reward=NAME, or grpo.rewards.NAME.require=boxed", metavar="KEY=VALUE"),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", help="every completion, old and new; RUN/rescored.jsonl", metavar="FILE"),
    ] = None,
    workers: Annotated[int, typer.Option(help="processes that judge", min=1)] = 2,
) -> None:
    """Score a run's rollouts with changed rewards.

    Verdicts that flip, advantages that move, and gradients that would have turned, prompt by prompt.
    """
    rescoring = Rescoring(run_dir, overrides or [], output, workers)
    watch(_events("rescore", f"{rescoring.steps} steps", rescoring.steps, rescoring.run()), console)
    _show_rescored(rescoring.result)


def _events(part: str, text: str, steps: int, progress: Iterable[int]) -> Iterator[Event]:
    """Progress as the watcher of runs shows it."""
    began = time.time()
    yield Event("start", part, text, {"steps": steps})
    for step in progress:
        yield Event("step", part, facts={"step": step, "steps": steps})
    yield Event("done", part, facts={"seconds": time.time() - began})


def _show_bad_rows(tally: Tally) -> None:
    if tally.bad:
        say(f"{tally.bad} of {tally.read} rows could not be judged:", style="bold")
        for example in [*tally.examples, *(["…"] if tally.bad > len(tally.examples) else [])]:
            say(f"  {example}", indent=4)


def _show_rescored(found: Rescored) -> None:
    every = list(found.changes.values())
    count = sum(change.completions for change in every)
    console.print()
    for note in found.notes:
        say(note, style="bold")
    pairs = ", ".join(old if old == new else f"{old} -> {new}" for old, new in found.compared)
    say(f"{count:,} completions of {len(every):,} prompts; verdicts of {pairs or 'no reward that both have'}")
    say(f"advantages as the run had them: by {found.scaling}")
    table = Table("prompt", *("of", "up", "down", "turned", "|Δ advantage|"), box=None, pad_edge=False)
    for change in sorted(every, key=lambda one: -one.moved / one.completions)[:MOST_PROMPTS]:
        table.add_row(_cut(change.prompt, 48), *_figures(change))
    total = Change("all", *(sum(getattr(one, key) for one in every) for key in CHANGE_SUMS))
    table.add_row("all", *_figures(total), style="bold")
    console.print(table)
    for flip in [*found.flips["up"], *found.flips["down"]]:
        say(
            f"{flip.problem_id} at step {flip.step} (answer {_cut(flip.answer, 40)}): {flip.old} -> {flip.new}",
            indent=2,
        )
        say(f"  …{_cut(flip.completion[-160:], 160)}", indent=4, style="dim")
    say(f"every completion: {found.output}")


CHANGE_SUMS = ("completions", "up", "down", "verdicts", "turned", "moved")


def _figures(change: Change) -> tuple[str, ...]:
    turned, moved = change.turned / change.completions, change.moved / change.completions
    return str(change.completions), str(change.up), str(change.down), f"{turned:.0%}", f"{moved:.3f}"


def _cut(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
