"""The chapters of the report, from what was found out to what it was found out with. No rendering here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aha.errors import RunDirError
from aha.health import examine
from aha.report.blocks import Block, Bullets, Figure, Folded, Report, Sample, Samples, Section, Table, Text
from aha.report.plots import phases
from aha.report.read import LABELS, Run, Stage, clean, estimate, listing, mapping, number
from aha.report.samples import Moment, Story, is_correct, pick_stories
from aha.report.timeline import read_timeline, summary
from aha.report.wording import (
    AFTER,
    NOTHING,
    comparison,
    count,
    decimals,
    duration,
    headline,
    interval,
    joined,
    missing,
    percent,
    plural,
    same_policy,
    seconds_of,
    status,
    step_seconds,
)

COMPARE_COLUMNS = ("stage", "task", "pass@1 [95 %]", "majority", "mean tokens")
Figures = Mapping[str, Figure]


def compare_table(results: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The rows under `COMPARE_COLUMNS` for the object in results.json: stages in order, tasks as they were written.

    >>> share = {"value": 0.63, "low": 0.59, "high": 0.67}
    >>> compare_table({"3-grpo": {"tasks": {"arithmetic": {"pass_at_1": share, "majority": None, "mean_tokens": 41.5}}}})
    [('GRPO', 'arithmetic', '0.63 [0.59, 0.67]', '–', '41.5')]
    """
    rows = []
    for stage, label in LABELS.items():
        for task, found in mapping(mapping(mapping(results).get(stage)).get("tasks")).items():
            outcome = mapping(found)
            share, most = interval(estimate(outcome.get("pass_at_1"))), interval(estimate(outcome.get("majority")))
            rows.append((label, task, share, most, count(number(outcome.get("mean_tokens")))))
    return rows


def build_report(run: Run, figures: Figures) -> Report:
    """Everything the report says, in the order in which it says it."""
    chapters = [
        Section("Accuracy", _accuracy(run, figures)),
        Section("Reward and length", _reward(run, figures)),
        Section("What it writes", _completions(run)),
        Section("Health", _health(run)),
        Section("Is the training sound?", _soundness(run, figures)),
        Section("Loss", _figures(figures, "loss", "No stage has logged a loss.")),
        Section("Time and speed", _times(run, figures)),
        Section("Promised and observed", _expectation(run)),
        Section("Predicted and observed", _prediction(run)),
        Section("Kernels", _kernels(run)),
        Section("To run it again", _provenance(run)),
    ]
    return Report(
        name=run.name,
        subtitle=_subtitle(run),
        headline=" ".join(filter(None, (headline(run), same_policy(run)))),
        path=_path(run),
        measure=f"held-out pass@1 on {run.tasks[0]}" if run.tasks else "",
        missing=missing(run),
        sections=[section for section in chapters if section.blocks],
    )


def _subtitle(run: Run) -> str:
    parts = [run.model]
    algorithm = mapping(run.recipe.get("grpo")).get("algorithm")
    if "3-grpo" in run.stages and isinstance(algorithm, str):
        parts.append(f"GRPO variant {clean(algorithm)}" if algorithm != "grpo" else "GRPO")
    parts.append(_machine(run))
    return " · ".join(part for part in parts if part)


def _machine(run: Run) -> str:
    gpus = [clean(gpu) for gpu in listing(run.environment.get("gpus"))]
    if gpus:
        return joined([f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)])
    cpu, cores = run.environment.get("cpu"), run.environment.get("cores")
    return clean(f"{cpu} ({cores} cores)" if cpu and cores else cpu or "")


def _path(run: Run) -> list[tuple[str, str, str]]:
    steps = [("base", "starting point")] if "base" in run.evaluated else []
    steps += [(directory, status(stage)) for directory, stage in run.stages.items()]
    if not run.tasks:
        return [(LABELS[at], "", how) for at, how in steps]
    shares = [run.pass_at_1(at, run.tasks[0]) for at, _ in steps]
    return [
        (LABELS[at], decimals(share.value) if share else NOTHING, how)
        for (at, how), share in zip(steps, shares, strict=False)
    ]


def _figures(figures: Figures, name: str, otherwise: str) -> list[Block]:
    return [figures[name]] if name in figures else [Text(otherwise)]


def _accuracy(run: Run, figures: Figures) -> list[Block]:
    if not run.evaluated:
        return [Text("No checkpoint of this run has been evaluated, so there is no accuracy to show.")]
    blocks: list[Block] = [*_figures(figures, "accuracy", "No task has a pass@1."), _accuracy_table(run)]
    blocks.append(
        Text(
            "Shares are over held-out problems, with 95 % intervals in brackets. Majority is the answer that most samples gave; "
            "cut off is the share of samples that the length limit ended. Samples that the grader could not judge are outside every share."
        )
    )
    return [*blocks, *_pass_at_k(run, figures)]


def _outcomes(run: Run) -> list[tuple[str, str, dict[str, Any]]]:
    found = [(task, stage, run.outcome(stage, task)) for task in run.tasks for stage in run.evaluated]
    return [row for row in found if row[2]]


def _accuracy_table(run: Run) -> Table:
    rows = []
    for task, stage, found in _outcomes(run):
        compared = comparison(run, stage, task)
        change = NOTHING if compared is None else f"{compared[2].value - compared[1].value:+.2f}".replace("-", "−")
        shares = (interval(run.pass_at_1(stage, task)), change, interval(estimate(found.get("majority"))))
        tokens, cut_off = count(number(found.get("mean_tokens"))), percent(number(found.get("truncated")))
        sizes = f"{count(number(found.get('problems')))} × {count(number(found.get('samples')))}"
        rows.append((task, LABELS[stage], *shares, tokens, cut_off, count(number(found.get("unjudged"))), sizes))
    tail = ("majority", "mean tokens", "cut off", "not judged", "problems × samples")
    return Table(("task", "stage", "pass@1", "change", *tail), rows, words=2)


def _pass_at_k(run: Run, figures: Figures) -> list[Block]:
    outcomes = _outcomes(run)
    every = {k for *_, found in outcomes for k in mapping(found.get("pass_at_k")) if k.isdecimal() and k != "1"}
    ks = sorted((k for k in every if len(k) < 6), key=int)
    if not ks:
        return []
    ks = ks if len(ks) <= 5 else [*ks[:4], ks[-1]]
    rows = []
    for task, stage, found in outcomes:
        shares = mapping(found.get("pass_at_k"))
        rows.append((task, LABELS[stage], *(interval(estimate(shares.get(k))) for k in ks)))
    table = Table(("task", "stage", *(f"pass@{k}" for k in ks)), rows, words=2)
    return [*([figures["pass-at-k"]] if "pass-at-k" in figures else []), table]


def _reward(run: Run, figures: Figures) -> list[Block]:
    if "3-grpo" not in run.stages:
        return []
    blocks = _figures(figures, "reward-and-length", "GRPO has logged no reward, so there is no curve to show.")
    reward, tokens = (run.stages["3-grpo"].series(key).ends() for key in ("reward", "completion_length"))
    if reward and tokens:
        blocks.insert(0, Text(_together(reward, tokens)))
    return [*blocks, *([figures["rewards"]] if "rewards" in figures else [])]


def _together(reward: tuple[float, float], tokens: tuple[float, float]) -> str:
    def moved(ends: tuple[float, float]) -> str:
        return "rose" if ends[1] > ends[0] * 1.02 else "fell" if ends[1] < ends[0] * 0.98 else "stayed"

    ways = moved(reward), moved(tokens)
    sentence = (
        f"Between the first and the last tenth of the steps, the mean reward {ways[0]} from {decimals(reward[0])} to {decimals(reward[1])}, "
        f"and the mean completion {ways[1]} from {count(tokens[0])} to {count(tokens[1])} tokens"
    )
    return sentence + {
        ("rose", "rose"): ": both rise together.",
        ("rose", "fell"): ": more reward with fewer words.",
    }.get(ways, ".")


def _facts(row: Mapping[str, Any]) -> tuple[str, ...]:
    reward, advantage = number(row.get("reward")), number(row.get("advantage"))
    facts = [f"reward {decimals(reward)}" if reward is not None else "not judged"]
    facts.append(f"advantage {advantage:+.2f}".replace("-", "−") if advantage is not None else "no advantage")
    facts.append(f"{count(number(row.get('tokens')))} tokens" + (", cut off" if row.get("truncated") is True else ""))
    for name, found in list(mapping(row.get("rewards")).items())[:8]:
        value, reason = number(mapping(found).get("value")), clean(str(mapping(found).get("reason") or "")[:160])
        facts.append(f"{name} {decimals(value)}" + (f": {reason}" if reason else ""))
    return tuple(facts)


def _sample(moment: Moment, grader: str | None) -> Sample:
    group, row = moment.group, moment.row
    unjudged = group.verdicts.count(None)
    note = f"{group.correct} of {len(group.rows)} in this group were correct" + (
        f", {unjudged} not judged" if unjudged else ""
    )
    return Sample(f"Step {group.step}", note, group.prompt, row["completion"], _facts(row), is_correct(row, grader))


def _completions(run: Run) -> list[Block]:
    stage = run.stages.get("3-grpo")
    if stage is None:
        return []
    stories = pick_stories(stage.rollouts, run.grader)
    if not stories:
        return [Text("GRPO has left no completions to show.")]
    marks = [
        clean(mark) for key in ("think", "answer") for mark in listing(mapping(run.recipe.get("chat")).get(key)) if mark
    ]
    intro = (
        "Completions at the beginning, in the middle and at the end of GRPO. They are picked to show the change where there is one, "
        "and are no random sample: the count beside each step is the evidence."
    )
    told: list[Block] = [
        Samples(_story_title(story), [_sample(moment, run.grader) for moment in story.moments], tuple(marks))
        for story in stories
    ]
    return [Text(intro), *told]


def _story_title(story: Story) -> str:
    first = story.moments[0].group
    if len(story.moments) == 1:
        return f"Problem {first.problem}"
    return (
        f"The same problem, {first.problem}"
        if story.same_problem
        else "Problems that are alike (none came up twice at these steps)"
    )


def _health(run: Run) -> list[Block]:
    """The diagnoses of `aha doctor`."""
    if "3-grpo" not in run.stages:
        return []
    try:
        found = examine(run.root)
    except (RunDirError, OSError, RecursionError) as error:
        return [Text(f"Not examined: {clean(error)}")]
    rows = [
        (one.name, one.severity, clean(one.evidence), clean(found.place(one.keys)), clean(one.advice))
        for one in found.diagnoses
    ]
    columns = ("diagnosis", "severity", "evidence", "line to change", "how")
    told: Block = Table(columns, rows, words=5) if rows else Text(f"Nothing was found in {found.looked_at}.")
    return [told, *([Bullets([clean(note) for note in found.notes])] if found.notes else [])]


def _soundness(run: Run, figures: Figures) -> list[Block]:
    stage = run.stages.get("3-grpo")
    if stage is None:
        return []
    found = []
    silent, gap, entropy = (stage.series(key) for key in ("no_signal", "mismatch", "entropy"))
    if silent.mean is not None:
        found.append(
            f"{percent(silent.mean)} of the groups had no signal: all their rewards were equal, so they taught nothing."
        )
    if gap.mean is not None:
        worst = max(gap.finite)
        found.append(
            f"Trainer and engine disagreed by {gap.mean:.2g} in log-probability per token on average, {worst:.2g} at worst."
        )
    if (ends := entropy.ends()) is not None:
        found.append(f"The policy's entropy went from {decimals(ends[0])} to {decimals(ends[1])} nats per token.")
    unjudged = sum(stage.series("unjudged").finite)
    if unjudged:
        found.append(
            f"Of all completions, {count(unjudged)} could not be judged: they leave their groups' baselines alone."
        )
    return [
        *([Bullets(found)] if found else []),
        *_figures(figures, "health", "GRPO has logged nothing to judge this by."),
    ]


def _speed(stage: Stage) -> tuple[float | None, float | None]:
    """Trained tokens per second of training, and sampled tokens per second of rollout."""
    logged = stage.series("tokens_per_second")
    total, tokens = seconds_of(stage), number(stage.done.get("tokens"))
    training = (total or 0) - (number(stage.done.get("startup_seconds")) or 0)
    overall = tokens / training if tokens is not None and training > 0 else logged.mean
    return overall, stage.series("rollout_tokens_per_second").mean


def _times(run: Run, figures: Figures) -> list[Block]:
    rows = []
    for stage in (stage for stage in run.stages.values() if stage.started):
        total, startup = seconds_of(stage), number(stage.done.get("startup_seconds"))
        training = None if total is None else max(0.0, total - (startup or 0.0))
        tokens = number(stage.done.get("tokens")) or max(stage.series("tokens").finite, default=None)
        steps = number(stage.done.get("steps"))
        speed, rollout = _speed(stage)
        cells = [
            count(stage.last_step if steps is None else steps),
            duration(total),
            duration(startup),
            duration(training),
        ]
        rows.append((stage.label, *cells, count(tokens), count(speed), count(rollout)))
    if not rows:
        return [Text("No stage has run, so there is no time to show.")]
    columns = ("stage", "steps", "wall time", "start-up", "training", "tokens trained", "tokens/s", "rollout tokens/s")
    shares = [
        (stage.label, phase, duration(spent), percent(spent / total))
        for stage in run.stages.values()
        for phase, spent, total in _shares(stage)
    ]
    blocks: list[Block] = [figures[name] for name in ("times", "timeline") if name in figures]
    if told := _rollouts(run):
        blocks.append(Text(told))
    blocks.append(Table(columns, rows))
    return [*blocks, *([Table(("stage", "phase", "time", "share"), shares, words=2)] if shares else [])]


def _rollouts(run: Run) -> str:
    """How completions were drawn, in a sentence; empty where there was no GRPO."""
    if "3-grpo" not in run.stages or not (steps := read_timeline(run.root / "3-grpo")):
        return ""
    rollout = mapping(mapping(run.recipe.get("grpo")).get("rollout"))
    mode, overlap = clean(rollout.get("mode", "colocate")), clean(rollout.get("overlap", "none"))
    oldest = max(step.step - 1 - step.policy_step for step in steps)
    age = "the step's own weights" if not oldest else f"weights that were up to {count(oldest)} step old"
    shared = summary(steps).get("overlap", 0.0) if mode == "server" else 0.0
    also = f"; the trainer worked during {percent(shared)} of the servers' time" if mode == "server" else ""
    return f"GRPO drew its completions in mode {mode}, overlap {overlap}, from {age}{also}."


def _shares(stage: Stage) -> list[tuple[str, float, float]]:
    parts = phases(stage)
    return [(name, spent, sum(parts.values())) for name, spent in parts.items()] if len(parts) > 1 else []


def _expectation(run: Run) -> list[Block]:
    expected = mapping(run.recipe.get("expect"))
    if not any(expected.values()):
        return [Text("The recipe promises nothing (it has no expect block).")] if run.recipe else []
    known = [seconds for stage in run.stages.values() if (seconds := seconds_of(stage)) is not None]
    whole = bool(run.stages) and all(stage.done for stage in run.stages.values())
    took = duration(sum(known)) + ("" if whole else " so far") if known else NOTHING
    minutes = number(expected.get("minutes"))
    last = run.evaluated[-1] if run.evaluated else None
    shares = [f"{task} {interval(share)}" for task in run.tasks if last and (share := run.pass_at_1(last, task))]
    result = f"{joined(shares)} ({AFTER[last]})" if last and shares else "not evaluated yet"
    rows = [
        ("hardware", clean(expected.get("hardware") or NOTHING), _machine(run) or NOTHING),
        ("time", duration(None if minutes is None else 60 * minutes), took + " in the stages" if known else took),
        ("result", clean(expected.get("result") or NOTHING), result),
    ]
    return [Table(("", "promised", "observed"), rows, words=3)]


def _prediction(run: Run) -> list[Block]:
    """What the plan foretold of each stage beside what was seen: peak memory, one step, the whole stage, its tokens."""
    foretold = mapping(mapping(run.plan.get("prediction")).get("stages"))
    rows: list[tuple[str, str, str, str, str]] = []
    for stage in (stage for stage in run.stages.values() if stage.done):
        said = mapping(foretold.get(stage.directory.partition("-")[2]))
        memory, time = mapping(said.get("memory")), mapping(said.get("time"))
        step, steps, start = number(time.get("step")), number(stage.done.get("steps")), number(time.get("start"))
        whole = None if step is None or steps is None else (start or 0.0) + steps * step
        gib = number(mapping(stage.done.get("memory")).get("gib"))
        tokens = number(said.get("tokens")), number(stage.done.get("tokens"))
        rows += [
            (stage.label, "peak memory", *_against(number(memory.get("allocated")), gib, _gib)),
            (stage.label, "one step", *_against(step, step_seconds(stage), duration)),
            (stage.label, "whole stage", *_against(whole, seconds_of(stage), duration)),
            (stage.label, "tokens", *_against(*tokens, count)),
        ]
    if not foretold or not rows:
        return []
    measures = {clean(mapping(stage.done.get("memory")).get("measure") or "") for stage in run.stages.values()} - {""}
    note = f"Observed memory is {joined(sorted(measures)) or 'not recorded'}; a step is the median of those that were logged. "
    note += "Tokens are predicted at most: rows may not be full, and completions may be shorter than they may be."
    return [Table(("stage", "what", "predicted", "observed", "observed / predicted"), rows, words=2), Text(note)]


def _against(said: float | None, seen: float | None, words: Callable[[float | None], str]) -> tuple[str, str, str]:
    return words(said), words(seen), decimals(seen / said) if said and seen is not None else NOTHING


def _gib(size: float | None) -> str:
    return NOTHING if size is None else f"{size:.2f} GiB"


def _kernels(run: Run) -> list[Block]:
    rows = []
    for stage in run.stages.values():
        for kind in ("fused", "plain"):
            for kernel in map(mapping, listing(stage.kernels.get(kind))):
                how = f"fused, by {kernel.get('by') or '?'}" if kind == "fused" else "plain"
                rows.append(
                    (stage.label, clean(kernel.get("kernel", "?")), clean(how), clean(kernel.get("why") or NOTHING))
                )
    if not rows:
        return [Text("Which kernels ran was not recorded.")] if run.stages else []
    wishes = {clean(stage.kernels["requested"]) for stage in run.stages.values() if stage.kernels.get("requested")}
    devices = {clean(stage.kernels["device"]) for stage in run.stages.values() if stage.kernels.get("device")}
    asked = f"The recipe asked for {joined(sorted(wishes)) or 'nothing in particular'}; the stages ran on {joined(sorted(devices)) or 'an unrecorded device'}."
    compared = [
        line for stage in run.stages.values() if (line := _compared(stage.label, mapping(stage.kernels.get("parity"))))
    ]
    return [
        Text(asked),
        Table(("stage", "kernel", "how", "why"), rows, words=4),
        *([Text(" ".join(compared))] if compared else []),
    ]


def _compared(stage: str, parity: dict[str, Any]) -> str:
    """What was found when the stage's first batch was computed fused and plain; empty if that was not recorded."""
    distance, most = parity.get("grad_distance"), mapping(parity.get("tolerance")).get("grad_distance")
    if parity.get("compared") and isinstance(distance, float) and isinstance(most, float):
        return f"{stage}: fused and plain gradients of the first batch are {distance:.1e} of their norm apart (at most {most:g} in {clean(parity.get('dtype'))})."
    return (
        f"{stage}: fused and plain were not compared, {clean(parity.get('why') or 'since no gradient came')}."
        if parity
        else ""
    )


def _provenance(run: Run) -> list[Block]:
    facts = {"seed": run.recipe.get("seed"), "run directory": run.root.name, **run.environment}
    rows = [(clean(key), _plain(value)) for key, value in facts.items() if key == "seed" or value not in (None, "", [])]
    for stage in run.stages.values():
        made = mapping(stage.done.get("checkpoint")).get("fingerprint")
        if made:
            rows.append((f"checkpoint {stage.label}", clean(made)))
    recipe = clean(run.recipe_text) or (json.dumps(run.recipe, indent=2) if run.recipe else "")
    folded = (
        [Folded(f"The recipe as it was resolved ({plural(len(recipe.splitlines()), 'line')})", clean(recipe))]
        if recipe
        else []
    )
    return [Table(("what", "value"), rows, words=2), *folded]


def _plain(value: object) -> str:
    if isinstance(value, list):
        return joined([clean(item) for item in value])
    return NOTHING if value is None else clean(json.dumps(value) if isinstance(value, dict) else value)
