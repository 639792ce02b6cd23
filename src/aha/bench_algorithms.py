"""Every algorithm on the same problems, from the same start: `aha bench-algorithms`.

One recipe is trained up to its GRPO stage once for each seed; then each algorithm goes on from there, in a run of its own
that differs in `algorithm` and in nothing else. Runs that are finished are not run again. What comes out is the outcome
reward over the steps, as a mean over the seeds with its 95 % interval, in one plot and one table.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha import pipeline
from aha.errors import Mistake, RecipeError
from aha.metrics import read_metrics, short_names
from aha.recipe import Plan, load_recipe
from aha.recipe.algorithms import ALGORITHMS, outcome_of
from aha.rundir import RunDir, write_text

FOLDER = Path("runs/bench-algorithms")
LAST = 10
"""Steps at the end over which the table takes its means."""
WINDOW = 5
"""Steps of the running mean in the plot."""
T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for a 95 % interval, by degrees of freedom from 1."""


@dataclass(frozen=True)
class Bench:
    """What is compared: each algorithm on each seed, in runs below `folder`."""

    recipe: Path
    folder: Path
    algorithms: Sequence[str]
    seeds: Sequence[int]
    overrides: Sequence[str] = ()

    def plans(self) -> Iterator[Plan]:
        """One run after the other, to be executed before the next is asked for: it may start from its checkpoint.

        Raises RecipeError when an algorithm is unknown, or the recipe has no stages to compare them on.
        """
        recipe = load_recipe(self.recipe, self.overrides)
        unknown = [name for name in self.algorithms if name not in ALGORITHMS]
        if unknown:
            raise RecipeError(Mistake("--algorithms", unknown[0], f"some of: {', '.join(ALGORITHMS)}"))
        if recipe.grpo is None or recipe.distill is None:
            raise RecipeError(Mistake(str(self.recipe), "no distill or no grpo", "a recipe with both stages"))
        for seed in self.seeds:
            yield self._plan(f"start-{seed}", seed, "grpo=", "eval=")
            start = RunDir(self.folder / f"start-{seed}").stage("distill") / "model"
            for name in self.algorithms:
                after = ("cpt=", "distill=", "eval=", f"model={{path: {start}}}", f"grpo.algorithm={name}")
                yield self._plan(f"{name}-{seed}", seed, *after)

    def _plan(self, name: str, seed: int, *changes: str) -> Plan:
        mine = [one for one in self.overrides if "grpo=" not in changes or not one.startswith("grpo.")]
        recipe = load_recipe(self.recipe, [*mine, f"name={name}", f"seed={seed}", *changes])
        return pipeline.prepare(recipe, self.folder / name, str(self.recipe))

    def rows(self, algorithm: str) -> list[list[dict[str, Any]]]:
        """metrics.jsonl of an algorithm's runs, seed by seed."""
        return [
            read_metrics(RunDir(self.folder / f"{algorithm}-{seed}").stage("grpo") / "metrics.jsonl")
            for seed in self.seeds
        ]

    @property
    def outcome(self) -> str:
        """The metric that is compared."""
        recipe = load_recipe(self.recipe, self.overrides)
        assert recipe.grpo is not None
        return f"reward/{short_names(recipe.grpo.rewards)[outcome_of(recipe)]}"


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t); nan for the half of a single value.

    >>> tuple(round(value, 3) for value in interval([0.5, 0.6, 0.7]))
    (0.6, 0.248)
    """
    if len(values) < 2:
        return values[0], math.nan
    t = T_95[min(len(values), len(T_95)) - 1]
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))


def table(bench: Bench) -> list[list[str]]:
    """A row for each algorithm: the outcome at the end, what it is above the first algorithm's (seed by seed), tokens per
    completion, completions per step, seconds per step."""
    found = []
    first = [_end(rows, bench.outcome) for rows in bench.rows(bench.algorithms[0])]
    for name in bench.algorithms:
        runs = bench.rows(name)
        kept = runs[0][0].get("completions_sampled") is not None
        found.append(
            [
                name,
                _cell([_end(rows, bench.outcome) for rows in runs], ".2f"),
                _cell([_end(rows, bench.outcome) - other for rows, other in zip(runs, first, strict=True)], "+.3f"),
                _cell([_end(rows, "completion_length") for rows in runs], ".1f"),
                _cell([_mean(rows, "completions_sampled") for rows in runs], ".0f") if kept else "as planned",
                _cell([statistics.fmean(map(_seconds, rows)) for rows in runs], ".2f"),
            ]
        )
    return found


HEAD = ["algorithm", "outcome at the end", "above the first", "tokens", "completions per step", "seconds per step"]


def write_up(bench: Bench) -> list[list[str]]:
    """Write algorithms.png and algorithms.md below the bench's folder; returns the table's rows."""
    rows = table(bench)
    lines = [HEAD, ["---"] * len(HEAD), *rows]
    seeds = ", ".join(map(str, bench.seeds))
    text = (
        f"{bench.recipe.stem}, seeds {seeds}: means over seeds ± half of their 95 % interval. The outcome is that of "
    )
    text += f"the last {LAST} steps' first round of sampling, before dynamic sampling chooses.\n\n"
    write_text(bench.folder / "algorithms.md", text + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    _draw(bench, bench.folder / "algorithms.png")
    return rows


def _draw(bench: Bench, path: Path) -> None:
    """One panel for each algorithm, with the others behind it in grey: curves that nearly agree hide each other."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    across = min(4, len(bench.algorithms))
    down = math.ceil(len(bench.algorithms) / across)
    figure = Figure(figsize=(2.4 * across + 0.6, 2.2 * down + 0.5), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
    found = {name: _curve(bench, name) for name in bench.algorithms}
    for number, (name, panel) in enumerate(zip(bench.algorithms, panels, strict=False)):
        for other, (steps, points) in found.items():
            mean = [middle for middle, _ in points]
            mine = other == name
            colour = colormaps["tab10"](number) if mine else "0.8"
            panel.plot(steps, mean, color=colour, linewidth=1.8 if mine else 0.7, zorder=2 + mine)
            if mine and len(bench.seeds) > 1:
                low, high = [middle - half for middle, half in points], [middle + half for middle, half in points]
                panel.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
        panel.set_title(f"{name}  {found[name][1][-1][0]:.2f}", fontsize=10, loc="left")
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
    for panel in panels:  # those that are left over
        panel.set_axis_off()
    figure.supxlabel("optimiser step", fontsize=10)
    figure.supylabel(bench.outcome, fontsize=10)
    seeds = f"mean of {len(bench.seeds)} seeds and its 95 % interval" if len(bench.seeds) > 1 else "one seed"
    figure.suptitle(f"{bench.recipe.stem}: {seeds}", fontsize=11)
    figure.savefig(path, dpi=110)


def _curve(bench: Bench, name: str) -> tuple[list[int], list[tuple[float, float]]]:
    """Steps, and at each the mean over the seeds with half of its interval."""
    curves = [_smooth([row[bench.outcome] for row in rows]) for rows in bench.rows(name)]
    points = [interval(at) for at in zip(*curves, strict=False)]
    return [row["step"] for row in bench.rows(name)[0]][: len(points)], points


def _smooth(values: Sequence[float | None]) -> list[float]:
    """The mean of the last WINDOW known values, for each of them."""
    known = [value for value in values if value is not None]
    return [statistics.fmean(known[max(0, at + 1 - WINDOW) : at + 1]) for at in range(len(known))]


def _end(rows: Sequence[dict[str, Any]], name: str) -> float:
    return _mean(rows[-LAST:], name)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    known = [row[name] for row in rows if row.get(name) is not None]
    return statistics.fmean(known) if known else math.nan


def _seconds(row: dict[str, Any]) -> float:
    return sum(value for key, value in row.items() if key.startswith("seconds/") and value is not None)


def _cell(values: Sequence[float], form: str) -> str:
    mean, half = interval(values)
    return f"{mean:{form}}" + ("" if math.isnan(half) else f" ± {half:{form.lstrip('+')}}")
