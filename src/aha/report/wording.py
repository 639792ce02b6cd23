"""The report's sentences and units: what happened in one sentence, and what is missing in plain words."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

from aha.report.read import LABELS, Run, Stage, listing, mapping, number
from aha.types import Estimate

NOTHING = "–"
DEEDS = {"1-cpt": "Continued pretraining", "2-distill": "Distillation", "3-grpo": "GRPO"}
AFTER = {"base": "in the base model", "1-cpt": "after CPT", "2-distill": "after distillation", "3-grpo": "after GRPO"}


def decimals(value: float | None, places: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{places}f}".replace("-", "−")


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"


def count(value: float | None) -> str:
    """A number of things, short: 950, 12.3 k, 4.56 M."""
    if value is None:
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (unit != "k" and abs(value) >= size):
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 41 s, 3 min 20 s, 5 h 12 min."""
    if seconds is None or seconds < 0:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def interval(value: Estimate | None) -> str:
    return NOTHING if value is None else f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def plural(amount: int, thing: str) -> str:
    return f"{amount} {thing}" if amount == 1 else f"{amount} {thing}s"


def joined(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def comparison(run: Run, stage: str, task: str) -> tuple[str, Estimate, Estimate] | None:
    """The last stage evaluated on the task before this one, its estimate, and this stage's."""
    now = run.pass_at_1(stage, task)
    order = list(LABELS)
    for earlier in reversed(order[: order.index(stage)]):
        before = run.pass_at_1(earlier, task)
        if now is not None and before is not None:
            return earlier, before, now
    return None


def verdict(before: Estimate, now: Estimate) -> str:
    """What the two intervals allow one to say."""
    if before.high < now.low or now.high < before.low:
        return "the intervals do not overlap"
    return "the intervals overlap, so this evaluation alone does not settle it"


def headline(run: Run) -> str:
    """The outcome in one sentence, from the results; without results, from the training alone."""
    for stage in reversed(run.evaluated):
        for task in run.tasks:
            found = comparison(run, stage, task)
            if found is not None and stage in DEEDS:
                earlier, before, now = found
                moved = "raised" if now.value > before.value else "lowered" if now.value < before.value else "left"
                change = "at" if moved == "left" else f"from {interval(before)} {AFTER[earlier]} to"
                return f"{DEEDS[stage]} {moved} held-out pass@1 on {task} {change} {interval(now)}; {verdict(before, now)}."
    for stage in reversed(run.evaluated):
        for task in run.tasks:
            if (only := run.pass_at_1(stage, task)) is not None:
                return f"Held-out pass@1 on {task} is {interval(only)} {AFTER[stage]}; there is nothing yet to compare it with."
    return _training_only(run)


def same_policy(run: Run) -> str:
    """What GRPO's probes and samples say of its rollouts: whether they were of the policy that was trained."""
    stage = run.stages.get("3-grpo")
    gaps = stage.series("mismatch").finite if stage else []
    if stage is None or not gaps:
        return ""
    told = f"Trainer and engine differed by at most {max(gaps):.1g} nats per sampled token"
    if shares := stage.series("arrived").finite:
        told += f"; of each of {plural(len(shares), 'update')} that could be measured, at least {percent(min(shares))} reached the engine"
    return told + "."


def _training_only(run: Run) -> str:
    for stage in reversed(list(run.stages.values())):
        for key, name in (("reward", "mean reward"), ("loss", "training loss")):
            ends = stage.series(key).ends()
            if ends is not None:
                moved = f"{name} went from {decimals(ends[0])} to {decimals(ends[1])} over {plural(stage.last_step, 'step')}"
                return f"{DEEDS[stage.directory]}: {moved}. No checkpoint has been evaluated, so nothing here says how good it is."
    return "No stage of this run has logged a step yet."


def status(stage: Stage) -> str:
    """How far a stage came, in a few words."""
    if stage.done:
        return "finished"
    if not stage.started:
        return "not started"
    of = f" of {stage.planned_steps}" if stage.planned_steps else ""
    return f"unfinished, at step {stage.last_step}{of}"


def missing(run: Run) -> list[str]:
    """What a complete run directory would hold and this one does not."""
    found = []
    if not run.plan:
        found.append(
            "plan.json is missing or unreadable: what the run was meant to do is taken from the folders that exist."
        )
    elif not run.recipe:
        found.append("plan.json holds no recipe: the model, the seed and what was expected are not known.")
    if not run.recipe_text:
        found.append("recipe.yaml is missing, so the recipe cannot be shown as it was resolved.")
    if not run.environment:
        found.append("environment.json is missing: the versions and the machine of this run are not known.")
    if not run.stages:
        found.append("There is no stage: neither planned, nor as a folder.")
    for stage in run.stages.values():
        found += _missing_of_stage(stage)
    return found + _missing_of_evaluation(run)


def _missing_of_stage(stage: Stage) -> list[str]:
    if not stage.started:
        return [f"{stage.label} has not started: {stage.directory}/ holds nothing yet."]
    found = []
    if not stage.done:
        found.append(f"{stage.label} is {status(stage)}: {stage.directory}/done.json is not there.")
    if not stage.series("step").finite:
        found.append(f"{stage.label} has no metrics: its curves and speeds cannot be shown.")
    if stage.torn_lines:
        lines = plural(stage.torn_lines, "line")
        found.append(
            f"{lines} of {stage.directory}/metrics.jsonl could not be read and {'is' if stage.torn_lines == 1 else 'are'} left out."
        )
    if not stage.kernels:
        found.append(f"{stage.label} has no kernels.json: which kernels ran is not known.")
    if stage.directory == "3-grpo" and not stage.rollouts:
        found.append("GRPO has no rollouts/: there are no completions to show.")
    holes = len(stage.series("loss").values) - len(stage.series("loss").finite)
    if holes:
        found.append(
            f"The loss of {stage.label} was not a finite number at {plural(holes, 'logged step')}; curves break there."
        )
    return found


def _missing_of_evaluation(run: Run) -> list[str]:
    if not run.recipe.get("eval") and not run.results and run.recipe:
        return ["The recipe has no eval block: nothing was measured on held-out problems."]
    if not run.results:
        files = plural(len(run.eval_files), "file")
        tail = (
            f"eval/ holds {files} of graded samples, not summed up."
            if run.eval_files
            else "no checkpoint was evaluated."
        )
        return [f"results.json is missing or unreadable: {tail}"]
    found = []
    for block in (mapping(item) for item in listing(run.plan.get("evals"))):
        for target in (name for name in map(str, listing(block.get("targets"))) if name in LABELS):
            asked = [task for task in map(str, listing(block.get("tasks"))) if run.asked(target, task)]
            absent = [task for task in asked if run.pass_at_1(target, task) is None]
            if absent:
                found.append(f"{LABELS[target]} was to be evaluated on {joined(absent)}, and has no result there.")
    for directory, stage in run.stages.items():
        made = mapping(stage.done.get("checkpoint")).get("fingerprint")
        judged = mapping(run.results.get(directory)).get("fingerprint")
        if made and judged and made != judged:
            found.append(
                f"The results of {stage.label} are of another checkpoint than the one it has now: evaluate it again."
            )
    return found


def seconds_of(stage: Stage) -> float | None:
    """The stage's wall time: as recorded, else from its first to its last logged step."""
    recorded = number(stage.done.get("seconds"))
    if recorded is not None:
        return recorded
    stamps = stage.series("time").finite
    return max(stamps) - min(stamps) if len(stamps) > 1 else None


def step_seconds(stage: Stage) -> float | None:
    """The median time of one optimiser step, from the stamps of the logged ones; None with fewer than two."""
    stamps = stage.series("time")
    logged = [(step, at) for step, at in zip(stamps.steps, stamps.values, strict=True) if not math.isnan(at)]
    took = [(now - then) / (step - before) for (before, then), (step, now) in pairwise(logged)]
    return statistics.median(took) if took else None
