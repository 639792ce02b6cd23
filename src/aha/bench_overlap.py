"""Every way to draw completions, on the same GRPO steps of one run: `aha bench-overlap RUN`.

The GRPO stage of a finished run is trained again for a few steps, in the trainer's process, with a synchronous server, and
with a server that overlaps. The ways take turns, several times over, so that a machine that slows down slows all of them.
What comes out is how much faster than a synchronous server each is, and a drawing of who worked when.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aha import pipeline
from aha.errors import StageError
from aha.recipe import Plan, load_recipe
from aha.recipe.overlaps import SYNCHRONOUS, WAYS, ways_to_draw
from aha.report.plots import timelines_svg
from aha.report.timeline import read_timeline, summary
from aha.rundir import RunDir, write_json, write_text

WARM_UP = 2
"""Steps at the start of each run that are not counted."""
PHASES = ("wait", "sync", "reward", "score", "train", "draw")


@dataclass(frozen=True)
class Bench:
    """`repeats` runs of `steps` steps for each way, below `root`/overlap; `overrides` change the run's recipe first."""

    root: Path
    steps: int = 12
    repeats: int = 3
    overrides: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        return self.root / "overlap"

    def plans(self) -> Iterator[Plan]:
        """One run after the other, to be executed before the next is asked for; those of an earlier bench are removed first.

        Raises StageError when the run has no finished GRPO stage, RecipeError when its batch cannot be pipelined.
        """
        path = self.root / "plan.json"
        plan = Plan.model_validate_json(path.read_text()) if path.exists() else None
        stage = next((stage for stage in plan.stages if stage.name == "grpo"), None) if plan else None
        if stage is None or RunDir(self.root).done("grpo") is None:
            raise StageError(f"{self.root} has no finished GRPO stage to repeat")
        parent = self.root / "0-base" if stage.parent == "base" else self.root / stage.parent / "model"
        source = self.root / "recipe.yaml"
        ways = ways_to_draw(load_recipe(source, self.overrides), parent, self.steps)
        shutil.rmtree(self.folder, ignore_errors=True)
        for turn in range(self.repeats):
            for way, recipe in ways.items():
                yield pipeline.prepare(recipe, self.run_dir(way, turn), str(source))

    def run_dir(self, way: str, turn: int) -> Path:
        return self.folder / f"{way.replace(', ', '-')}-{turn + 1}"


def write_up(bench: Bench) -> dict[str, dict[str, float]]:
    """Medians over the turns for each way, also written to overlap.json; overlap.svg draws the last turn.

    `times_as_fast` compares with the synchronous server of the same turn.
    """
    turns = [{way: read_timeline(bench.run_dir(way, turn) / "3-grpo") for way in WAYS} for turn in range(bench.repeats)]
    measured = [{way: summary(steps, skip=WARM_UP) for way, steps in turn.items()} for turn in turns]
    figures = {}
    for way in WAYS:
        found = [turn[way] for turn in measured]
        figures[way] = {name: statistics.median(one[name] for one in found) for name in found[0]}
        gains = [turn[SYNCHRONOUS]["seconds_per_step"] / turn[way]["seconds_per_step"] for turn in measured]
        figures[way] |= {
            "times_as_fast": statistics.median(gains),
            "times_as_fast/lowest": min(gains),
            "times_as_fast/highest": max(gains),
        }
    write_json(bench.root / "overlap.json", figures)
    write_text(bench.root / "overlap.svg", timelines_svg(turns[-1]))
    return figures


def table(figures: dict[str, dict[str, float]]) -> list[list[str]]:
    """A column for each way: seconds of a step and of its phases, the shared time, and the ratio with its range."""
    rows = {"seconds of a step": "seconds_per_step"} | {f"· {phase}": f"seconds/{phase}" for phase in PHASES}
    ways = list(figures.values())
    return [
        ["", *(way.replace(", ", "\n") for way in figures)],
        *([words, *(f"{found[name]:.3f}" for found in ways)] for words, name in rows.items()),
        ["drawn while trained", *(f"{found['overlap']:.0%}" for found in ways)],
        ["times as fast", *(f"{found['times_as_fast']:.2f}" for found in ways)],
        ["", *(f"{found['times_as_fast/lowest']:.2f} to {found['times_as_fast/highest']:.2f}" for found in ways)],
    ]
