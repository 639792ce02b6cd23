"""The figures, as SVG text. The door to matplotlib, opened only when something is drawn.

One colour and one marker per stage in every figure (Okabe and Ito's palette, told apart by colour-blind readers), lines
labelled where they end instead of in a legend, units on every axis. A function returns None when its data are not there.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

from aha.report.blocks import Figure
from aha.report.read import LABELS, Run, Series, Stage, estimate, mapping, number
from aha.report.timeline import Step, read_timeline, summary
from aha.report.wording import decimals, duration, percent, seconds_of

COLOURS = {"base": "#6E6E6E", "1-cpt": "#009E73", "2-distill": "#0072B2", "3-grpo": "#D55E00"}
MARKERS = {"base": "s", "1-cpt": "^", "2-distill": "D", "3-grpo": "o"}
INK, FAINT = "#22262B", "#5B636D"
SECOND = "#33383E"
WIDTH = 7.6
"""Inches; with 9.5 pt text this stays readable on a telephone and is not coarse on a desk."""
MOST_POINTS = 800
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": FAINT,
    "axes.edgecolor": "#B4BAC2",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E9ECEF",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",
    "svg.hashsalt": "aha",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def draw_figures(run: Run) -> dict[str, Figure]:
    """Every figure whose data are there, by name."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        drawn = [draw(run) for draw in FIGURES]
    return {figure.name: figure for figure in drawn if figure is not None}


def _canvas(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of panels, without pyplot and so without a display and without global figures."""
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.07, w_pad=0.05)
    canvas = Canvas(figsize=(WIDTH, height), layout=layout)
    panels = canvas.subplots(rows, columns, squeeze=False, **options)
    return canvas, [panel for row in panels for panel in row]


def _svg(canvas: Any, name: str) -> str:
    """The drawing alone, its ids made its own so that several can stand in one page."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    return re.sub(r'(href="|url\()#', rf"\1#{name}-", text)


def _smooth(values: Sequence[float], window: int) -> list[float]:
    """A centred running mean that passes over missing values and does not lag behind."""
    half, sums, counts = window // 2, [0.0], [0]
    for value in values:
        known = not math.isnan(value)
        sums.append(sums[-1] + (value if known else 0.0))
        counts.append(counts[-1] + known)
    found = []
    for at in range(len(values)):
        low, high = max(0, at - half), min(len(values), at + half + 1)
        seen = counts[high] - counts[low]
        found.append((sums[high] - sums[low]) / seen if seen else math.nan)
    return found


def smoothing(series: Series) -> int:
    """Steps in the running mean: about a twentieth of the curve, and none for a curve of a few points."""
    return 1 if len(series.values) < 12 else max(5, len(series.values) // 20) | 1


def _thin(series: Series, values: list[float]) -> tuple[list[float], list[float]]:
    stride = -(-len(values) // MOST_POINTS) or 1
    return series.steps[::stride], values[::stride]


def _curve(panel: Any, series: Series, colour: str, style: str = "-") -> float | None:
    """The raw values faint, their running mean on top; returns where the line ends."""
    window = smoothing(series)
    if window > 1:
        panel.plot(*_thin(series, series.values), color=colour, alpha=0.28, linewidth=0.8)
        smooth = _smooth(series.values, window)
        panel.plot(*_thin(series, smooth), color=colour, linestyle=style)
    else:
        smooth = series.values
        panel.plot(series.steps, smooth, color=colour, linestyle=style, marker="o", markersize=3.5)
    finite = [value for value in smooth if not math.isnan(value)]
    return finite[-1] if finite else None


def _label_ends(panel: Any, ends: list[tuple[float | None, str, str]]) -> None:
    """Names of lines at the right edge, at the height where each ends, moved apart where they would touch."""
    known = sorted((end, text, colour) for end, text, colour in ends if end is not None)
    low, high = panel.get_ylim()
    gap = 13 / (72 * panel.get_position().height * panel.figure.get_figheight() * 0.85) * (high - low)
    heights: list[float] = []
    for end, *_ in known:
        heights.append(max(end, heights[-1] + gap) if heights else end)
    heights = [min(height, high - (len(heights) - 1 - at) * gap) for at, height in enumerate(heights)]
    for at, (_, text, colour) in zip(heights, known, strict=False):
        panel.annotate(
            text,
            xy=(1.0, at),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def _whole_steps(panel: Any, label: str = "optimiser step") -> None:
    from matplotlib.ticker import MaxNLocator

    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    panel.set_xlabel(label)
    panel.margins(x=0.01)


def _as_share(panel: Any, axis: str = "y") -> None:
    from matplotlib.ticker import PercentFormatter

    getattr(panel, f"{axis}axis").set_major_formatter(PercentFormatter(1.0, decimals=None))


def _short(text: str, most: int = 34) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _grid(amount: int, height: float, most_columns: int = 3, **options: Any) -> tuple[Any, list[Any]]:
    columns = min(most_columns, amount)
    rows = -(-amount // columns)
    canvas, panels = _canvas(rows, columns, height * rows, **options)
    for panel in panels[amount:]:
        panel.set_visible(False)
    return canvas, panels[:amount]


def accuracy(run: Run) -> Figure | None:
    """pass@1 of every evaluated stage, one panel per task."""
    tasks = [task for task in run.tasks if any(run.pass_at_1(stage, task) for stage in run.evaluated)]
    if not tasks:
        return None
    canvas, panels = _grid(len(tasks), 2.9, sharey=True)
    stages = run.evaluated
    for at, (panel, task) in enumerate(zip(panels, tasks, strict=False)):
        panel.set_title(_short(task))
        for x, stage in enumerate(stages):
            found = run.pass_at_1(stage, task)
            if found is None:
                why = "not\nevaluated" if run.asked(stage, task) else "not\nasked"
                panel.annotate(why, (x, 0.02), color=FAINT, ha="center", va="bottom", fontsize=8)
                continue
            error = [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]
            panel.errorbar(
                x,
                found.value,
                yerr=error,
                color=COLOURS[stage],
                marker=MARKERS[stage],
                markersize=8,
                capsize=4,
                linewidth=2,
            )
            panel.annotate(
                f"{found.value:.2f}",
                (x, found.high),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                color=COLOURS[stage],
                fontweight="bold",
            )
        panel.set_xticks(range(len(stages)), [LABELS[stage] for stage in stages])
        panel.set_xlim(-0.6, len(stages) - 0.4)
        panel.set_ylim(0, 1.09)
        panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
        panel.grid(visible=False, axis="x")
        if at % 3 == 0:
            panel.set_ylabel("pass@1 (share of problems)")
    alt = "pass@1 per stage: " + "; ".join(
        f"{task}: "
        + ", ".join(
            f"{LABELS[stage]} {decimals(found.value)}" for stage in stages if (found := run.pass_at_1(stage, task))
        )
        for task in tasks
    )
    return Figure(
        "accuracy", alt, "Held-out pass@1 after each stage. Bars are 95 % intervals.", _svg(canvas, "accuracy")
    )


def _by_k(run: Run, stage: str, task: str) -> list[tuple[int, float]]:
    outcome = run.outcome(stage, task)
    found = {
        int(k): estimate(value)
        for k, value in mapping(outcome.get("pass_at_k")).items()
        if k.isdecimal() and len(k) < 6
    }
    found.setdefault(1, estimate(outcome.get("pass_at_1")))
    return sorted((k, value.value) for k, value in found.items() if value is not None and k > 0)


def pass_at_k(run: Run) -> Figure | None:
    """How fast a stage finds an answer when it may try more than once."""
    tasks = [task for task in run.tasks if any(len(_by_k(run, stage, task)) > 1 for stage in run.evaluated)]
    if not tasks:
        return None
    canvas, panels = _grid(len(tasks), 2.9, most_columns=2, sharey=True)
    for at, (panel, task) in enumerate(zip(panels, tasks, strict=False)):
        panel.set_title(_short(task))
        panel.set_xscale("log", base=2)
        panel.set_ylim(0, 1.04)
        ends: list[tuple[float | None, str, str]] = []
        ticks: set[int] = set()
        for stage in run.evaluated:
            points = _by_k(run, stage, task)
            if points:
                ks, values = zip(*points, strict=False)
                panel.plot(ks, values, color=COLOURS[stage], marker=MARKERS[stage], markersize=5)
                ends.append((values[-1], LABELS[stage], COLOURS[stage]))
                ticks.update(ks)
        panel.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
        panel.minorticks_off()
        panel.set_xlabel("k (samples per problem)")
        if at % 2 == 0:
            panel.set_ylabel("pass@k (share of problems)")
        _label_ends(panel, ends)
    caption = "pass@k: the share of problems with at least one correct answer among k samples. A stage that lifts pass@1 but not pass@k makes the model surer, not more able."
    return Figure("pass-at-k", "pass@k per stage", caption, _svg(canvas, "pass-at-k"))


def loss(run: Run) -> Figure | None:
    """The loss of every stage, each on its own axes: they measure different things."""
    stages = [stage for stage in run.stages.values() if stage.series("loss").finite]
    if not stages:
        return None
    units = {
        "1-cpt": "cross-entropy (nats per token)",
        "2-distill": "cross-entropy (nats per token)",
        "3-grpo": "policy loss",
    }
    canvas, panels = _grid(len(stages), 2.7)
    for panel, stage in zip(panels, stages, strict=False):
        _curve(panel, stage.series("loss"), COLOURS[stage.directory])
        panel.set_title(stage.label, color=COLOURS[stage.directory])
        panel.set_ylabel(units[stage.directory])
        _whole_steps(panel)
    caption = "Training loss of each stage: every logged step faint, the running mean on top."
    if any(stage.directory == "3-grpo" for stage in stages):
        caption += " GRPO's loss says little, because advantages are centred within a group and it hovers near zero: read its reward instead."
    ends = [(stage.label, found) for stage in stages if (found := stage.series("loss").ends())]
    alt = "Loss: " + "; ".join(f"{label} from {decimals(first)} to {decimals(last)}" for label, (first, last) in ends)
    return Figure("loss", alt, caption, _svg(canvas, "loss"))


def reward_and_length(run: Run) -> Figure | None:
    """Reward above, completion length below, on one axis of steps: do they rise together?"""
    stage = run.stages.get("3-grpo")
    if stage is None or not stage.series("reward").finite:
        return None
    canvas, (above, below) = _canvas(2, 1, 5.0, sharex=True)
    colour, correct = COLOURS["3-grpo"], stage.series(f"reward/{run.grader}")
    total = stage.series("reward")
    ends = [(_curve(above, total, colour), "total reward", colour)]
    if correct.finite and correct.values != total.values:
        ends.append((_curve(above, correct, SECOND, "--"), _short(str(run.grader), 18), SECOND))
    above.set_title("Reward")
    above.set_ylabel("mean per completion")
    _label_ends(above, ends)
    tokens = stage.series("completion_length")
    if tokens.finite:
        _label_ends(below, [(_curve(below, tokens, colour), "length", colour)])
    else:
        below.annotate(
            "completion_length was not logged", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT
        )
    below.set_title("Completion length")
    below.set_ylabel("tokens, mean per completion")
    _whole_steps(below)
    window = smoothing(total)
    caption = "What GRPO was paid for, and how much the model wrote for it."
    if window > 1:
        caption += f" Faint: every step. Bold: running mean over {window} steps."
    both = [(name, ends_) for name, found in (("reward", total), ("length", tokens)) if (ends_ := found.ends())]
    alt = "; ".join(f"{name} from {decimals(first)} to {decimals(last)}" for name, (first, last) in both)
    return Figure(
        "reward-and-length", alt or "reward and completion length", caption, _svg(canvas, "reward-and-length")
    )


def rewards_apart(run: Run) -> Figure | None:
    """Every reward on its own, when there is more than one."""
    stage = run.stages.get("3-grpo")
    names = [key for key in stage.keys("reward/") if stage.series(key).finite][:9] if stage else []
    if stage is None or len(names) < 2:
        return None
    canvas, panels = _grid(len(names), 2.3)
    for at, (panel, name) in enumerate(zip(panels, names, strict=False)):
        _curve(panel, stage.series(name), COLOURS["3-grpo"])
        panel.set_title(_short(name.removeprefix("reward/"), 26))
        if at % 3 == 0:
            panel.set_ylabel("mean, before its weight")
        _whole_steps(panel)
    names = [name.removeprefix("reward/") for name in names]
    return Figure(
        "rewards",
        "each reward: " + ", ".join(names),
        "Each reward on its own, before weighting.",
        _svg(canvas, "rewards"),
    )


HEALTH = (
    ("no_signal", "Groups without signal", "share of groups", True),
    ("entropy", "Entropy of the policy", "nats per token", False),
    ("mismatch", "Trainer against engine", "mean |Δ log p|", False),
    ("arrived", "Updates that arrived", "share of each", True),
    ("truncated", "Cut off by the limit", "share of completions", True),
    ("reward_std", "Spread of the reward", "standard deviation", False),
    ("kl", "KL to the reference", "nats per token", False),
    ("clip_ratio", "Clipped", "share of tokens", True),
    ("grad_norm", "Gradient norm", "before clipping", False),
    ("unjudged", "Not judged", "completions", False),
)


def health(run: Run) -> Figure | None:
    """What goes wrong first when GRPO goes wrong."""
    stage = run.stages.get("3-grpo")
    shown = [row for row in HEALTH if stage and any(stage.series(row[0]).finite)]
    if stage is None or not shown:
        return None
    canvas, panels = _grid(len(shown), 2.2)
    for panel, (key, title, unit, share) in zip(panels, shown, strict=False):
        _curve(panel, stage.series(key), COLOURS["3-grpo"])
        panel.set_title(title)
        panel.set_ylabel(unit)
        if share:
            _as_share(panel)
        panel.set_ylim(bottom=0)
        _whole_steps(panel)
    caption = (
        "Groups without signal (all rewards equal) teach nothing; an entropy near zero ends exploration; a gap between trainer and "
        "engine means that the samples are not the policy's own."
    )
    alt = "; ".join(f"{title}: mean {decimals(stage.series(key).mean, 3)}" for key, title, *_ in shown)
    return Figure("health", alt, caption, _svg(canvas, "health"))


def phases(stage: Stage) -> dict[str, float]:
    """Seconds of a stage by what they went to; what no phase accounts for is "other"."""
    total = seconds_of(stage)
    if not total:
        return {}
    startup = min(total, max(0.0, number(stage.done.get("startup_seconds")) or 0.0))
    found = {"start-up": startup}
    for key in stage.keys("seconds/"):
        found[key.removeprefix("seconds/")] = sum(max(0.0, value) for value in stage.series(key).finite)
    named = set(found) - {"start-up"}
    rest = total - sum(found.values())
    found["other" if named else "training"] = max(0.0, rest)
    return {name: value for name, value in found.items() if value > 0}


def times(run: Run) -> Figure | None:
    """Where the wall time went, one bar per stage."""
    stages = [stage for stage in run.stages.values() if phases(stage)]
    if not stages:
        return None
    canvas, (panel,) = _canvas(1, 1, 0.75 + 0.62 * len(stages))
    for at, stage in enumerate(stages):
        parts = phases(stage)
        left, total = 0.0, sum(parts.values())
        for order, (name, value) in enumerate(parts.items()):
            share = value / total
            panel.barh(
                at,
                share,
                left=left,
                height=0.62,
                color=COLOURS[stage.directory],
                alpha=(0.42, 0.95, 0.72, 0.55, 0.3)[order % 5],
                edgecolor="white",
            )
            if share > 0.09:
                ink = "white" if order % 5 in (1, 2) else INK
                panel.annotate(
                    f"{name}\n{percent(share)}", (left + share / 2, at), ha="center", va="center", fontsize=8, color=ink
                )
            left += share
        panel.annotate(
            duration(total),
            (1, at),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontweight="bold",
            annotation_clip=False,
        )
    panel.set_yticks(range(len(stages)), [stage.label for stage in stages])
    panel.invert_yaxis()
    panel.set_xlim(0, 1)
    _as_share(panel, "x")
    panel.set_xlabel("share of the stage's wall time")
    panel.grid(visible=False)
    alt = "; ".join(
        f"{stage.label}: " + ", ".join(f"{name} {duration(value)}" for name, value in phases(stage).items())
        for stage in stages
    )
    return Figure(
        "times",
        alt,
        "Where the wall time of each stage went, from start-up (pale, at the left) on; the table has the narrow parts.",
        _svg(canvas, "times"),
    )


PHASES = {
    "sync": "#CC79A7",
    "wait": "#D9DDE2",
    "reward": "#E69F00",
    "score": "#56B4E9",
    "train": "#0072B2",
    "draw": "#D55E00",
}
SHOWN = 4
"""Steps in a timeline: of the middle of the run, long enough to see what repeats."""


def timeline(run: Run) -> Figure | None:
    """When trainer and servers worked, where there are servers."""
    stage = run.stages.get("3-grpo")
    steps = read_timeline(run.root / "3-grpo") if stage else []
    if not any(span[1] == "draw" for step in steps for span in step.spans):
        return None
    return draw_timelines({"": steps})


def draw_timelines(modes: dict[str, list[Step]]) -> Figure:
    """One panel for each way to overlap: a row for the trainer and one for each server, the same scale in all."""
    canvas, panels = _canvas(len(modes), 1, 0.9 + 0.95 * len(modes), sharex=True)
    told = []
    for panel, (name, steps) in zip(panels, modes.items(), strict=True):
        middle = max(0, (len(steps) - SHOWN) // 2)
        spans = [span for step in steps[middle : middle + SHOWN] for span in step.spans]
        begin = min((span[2] for span in spans), default=0.0)
        whos = sorted({span[0] for span in spans}, key=lambda who: (who != "trainer", who))
        for who, what, start, end in spans:
            panel.barh(whos.index(who), end - start, left=start - begin, height=0.7, color=PHASES.get(what, FAINT))
        panel.set_yticks(range(len(whos)), whos)
        panel.invert_yaxis()
        panel.grid(visible=False)
        panel.set_title(name)
        found = summary(steps)
        told.append(
            f"{name or 'GRPO'}: {percent(found.get('overlap', 0.0))} of the servers' time is also the trainer's"
        )
    panels[-1].set_xlabel("seconds")
    for at, (what, colour) in enumerate(PHASES.items()):
        panels[0].annotate(
            what,
            (0.4 + 0.1 * at, 1.04),
            xycoords="axes fraction",
            color=colour if what != "wait" else FAINT,
            fontsize=8,
        )
    caption = f"Trainer and servers over {SHOWN} steps; wait is the trainer's time without completions to train on."
    return Figure("timeline", "; ".join(told), caption, _svg(canvas, "timeline"))


def timelines_svg(modes: dict[str, list[Step]]) -> str:
    """The same as a drawing of its own."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        return draw_timelines(modes).svg


FIGURES = (accuracy, pass_at_k, loss, reward_and_length, rewards_apart, health, times, timeline)
