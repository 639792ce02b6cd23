"""From a recipe to a plan: which stages run, on what, in how many steps, and what is already there.

The plan is made without torch in well under a second, is kept in the run directory as `plan.json`, and is what every
later room works from. Nothing here writes; all it reads of the run directory is what finished stages left behind.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from aha.recipe.batch import (
    Stage,
    batch_size,
    device_of,
    micro_batch,
    sequence_length,
    stages_of,
    world_size,
)
from aha.recipe.estimate import Prediction, predict
from aha.recipe.hardware import machine_of
from aha.recipe.inputs import Files, changed, files_of_stage, files_of_tasks
from aha.recipe.load import DOES_NOT_CHANGE_THE_RUN, hash_of
from aha.recipe.schema import Block, Cpt, Eval, Grpo, Recipe, asked_of
from aha.rundir import STAGES, RunDir, read_object

BASE = "base"
State = Literal["run", "skip", "resume"]


class StagePlan(Block):
    """One stage, worked out."""

    name: Literal["cpt", "distill", "grpo"]
    directory: str
    parent: str
    """`base`, or the directory of the stage it starts from."""
    world_size: int
    micro_batch: int
    accumulation: int
    batch_size: int
    """Sequences per optimiser step, over all devices."""
    steps: int | None
    """None: known once the data are packed."""
    tokens_per_step: int
    """At most: GRPO's completions may be shorter."""
    save_every: int | None
    inputs_hash: str
    files: dict[str, str] = Field(default_factory=dict)
    """What it reads besides the recipe -> digest: see `recipe/inputs.py`."""
    state: State
    why: str


class EvalPlan(Block):
    """One evaluation: its checkpoints share one engine start."""

    targets: list[str]
    tasks: list[str]
    after: str
    """The stage directory after which it runs; `base` before the first stage."""
    files: dict[str, str] = Field(default_factory=dict)
    """Problems on this machine and code of graders -> digest."""
    state: Literal["run", "skip"]
    why: str


class Plan(Block):
    """A whole run, worked out."""

    name: str
    run_dir: str
    device: Literal["cpu", "cuda"]
    recipe: Recipe
    stages: list[StagePlan]
    evals: list[EvalPlan]
    prediction: Prediction | None = None
    """Memory, time and disk of each stage; None in plans that were written before there was one."""


def make_plan(recipe: Recipe, run_dir: str | Path, source: str) -> Plan:
    """The plan of a recipe in a run directory; `source` (the recipe's file) names the run when the recipe does not."""
    stages = _stages(recipe, RunDir(run_dir))
    machine = machine_of(recipe.hardware, Path(run_dir), recipe.model.dtype)
    return Plan(
        name=recipe.name or Path(source).stem,
        run_dir=str(run_dir),
        device=device_of(recipe.hardware),
        recipe=recipe,
        stages=stages,
        evals=_evals(recipe, Path(run_dir), stages),
        prediction=predict(recipe, machine, {stage.name: stage.steps for stage in stages}),
    )


# --- stages --------------------------------------------------------------------------------------------------------


def _stages(recipe: Recipe, run: RunDir) -> list[StagePlan]:
    plans: list[StagePlan] = []
    for name, stage in stages_of(recipe):
        parent = plans[-1] if plans else None
        files = files_of_stage(recipe, name)
        inputs_hash = _inputs_hash(recipe, name, files, parent)
        state, why = _state(run, name, inputs_hash, files, parent)
        steps = _steps(stage)
        processes, micro = world_size(stage, recipe.hardware), micro_batch(stage, recipe.hardware)
        plans.append(
            StagePlan(
                name=name,
                directory=STAGES[name],
                parent=parent.directory if parent else BASE,
                world_size=processes,
                micro_batch=micro,
                accumulation=batch_size(stage) // (processes * micro),
                batch_size=batch_size(stage),
                steps=steps,
                tokens_per_step=batch_size(stage) * sequence_length(stage),
                save_every=_save_every(stage, steps),
                inputs_hash=inputs_hash,
                files=files,
                state=state,
                why=why,
            )
        )
    return plans


def _steps(stage: Stage) -> int | None:
    if isinstance(stage, Cpt):
        return math.ceil(stage.tokens / (stage.batch_size * stage.max_tokens))
    return stage.steps


def _save_every(stage: Stage, steps: int | None) -> int | None:
    """A tenth of the stage, rounded up to where GRPO starts a fresh batch of completions: only there it can resume."""
    if stage.save_every or steps is None:
        return stage.save_every
    cycle = stage.iterations if isinstance(stage, Grpo) else 1
    return math.ceil(max(1, steps / 10) / cycle) * cycle


def _inputs_hash(recipe: Recipe, name: str, files: Files, parent: StagePlan | None) -> str:
    """Over everything that the stage's result depends on, its ancestors included."""
    included = {name, "model", "chat", "kernels", "hardware", "seed"}
    inputs = recipe.model_dump(mode="json", include=included, exclude=DOES_NOT_CHANGE_THE_RUN)
    read = {"files": files} if files else {}
    return hash_of({**inputs, **read, "parent": parent.inputs_hash if parent else None})


def _state(run: RunDir, name: str, inputs_hash: str, files: Files, parent: StagePlan | None) -> tuple[State, str]:
    if parent is not None and parent.state != "skip":
        return "run", f"{parent.directory}, which it starts from, runs first"
    folder = run.stage(name)
    done = run.done(name)
    if done is not None and done.get("inputs_hash") == inputs_hash:
        if _finished_checkpoint(folder, done).is_dir():
            return "skip", "finished, and its inputs are the same"
        return "run", "finished, but its checkpoint is gone"
    newest = _newest_checkpoint(folder)
    noted = read_object(folder / "config.json") or {}
    started_with = noted.get("inputs_hash")
    if newest is not None and (started_with == inputs_hash or (started_with is None and done is None)):
        return "resume", f"interrupted after {newest}"
    if done is not None or newest is not None:
        return "run", f"{_listed(changed(noted.get('files'), files)) or 'its inputs have'} changed since it last ran"
    return "run", "not run yet"


def _listed(files: list[str], most: int = 3) -> str:
    """
    >>> _listed(["a.py"]), _listed(["a.py", "b.py", "c.py", "d.py"]), _listed([])
    ('a.py has', 'a.py, b.py, c.py and 1 more have', '')
    """
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return f"{', '.join(files[:most])}{more} {'has' if len(files) == 1 else 'have'}" if files else ""


def _finished_checkpoint(folder: Path, done: dict[str, Any]) -> Path:
    """By its name inside the stage: a run directory may have been moved since the path was written."""
    checkpoint = done.get("checkpoint")
    path = checkpoint.get("path") if isinstance(checkpoint, dict) else None
    return folder / Path(path if isinstance(path, str) else "model").name


def _newest_checkpoint(folder: Path) -> str | None:
    """The last complete one: `manifest.json` is what is written last."""
    complete = [path.parent.name for path in folder.glob("checkpoints/step-*/manifest.json")]
    return max(complete, default=None, key=lambda name: (len(name), name))


# --- evaluations ---------------------------------------------------------------------------------------------------


def _evals(recipe: Recipe, root: Path, stages: list[StagePlan]) -> list[EvalPlan]:
    if recipe.eval is None or not stages:
        return []
    targets = _targets(recipe, recipe.eval, stages)
    at_end = {stages[-1].directory: targets}
    targets_after = at_end if recipe.eval.when == "end" else {target: [target] for target in targets}
    results = read_object(root / "results.json") or {}
    fresh = {stage.directory: _fingerprint(root, stage) for stage in stages if stage.state == "skip"}
    files = files_of_tasks(recipe.eval.tasks)
    return [
        _eval_plan(recipe.eval, group, after, results, fresh, files) for after, group in targets_after.items() if group
    ]


def _targets(recipe: Recipe, wanted: Eval, stages: list[StagePlan]) -> list[str]:
    """The checkpoints to measure, in the order of the story. A model from scratch has no base worth asking."""
    if wanted.stages == "last":
        return [stages[-1].directory]
    names = [BASE, *STAGES] if wanted.stages == "all" else wanted.stages
    base = [BASE] if recipe.model.path and BASE in names else []
    return base + [stage.directory for stage in stages if stage.name in names]


def _fingerprint(root: Path, stage: StagePlan) -> str | None:
    checkpoint = (RunDir(root).done(stage.name) or {}).get("checkpoint")
    return checkpoint.get("fingerprint") if isinstance(checkpoint, dict) else None


def _eval_plan(
    wanted: Eval, targets: list[str], after: str, results: dict[str, Any], fresh: dict[str, str | None], files: Files
) -> EvalPlan:
    tasks = [task.name for task in wanted.tasks]
    missing = {target: why for target in targets if (why := _why_missing(wanted, target, results, fresh, files))}
    return EvalPlan(
        targets=list(missing) or targets,
        tasks=tasks,
        after=after,
        files=files,
        state="run" if missing else "skip",
        why=_reasons(missing) or "measured, and the checkpoint is the same",
    )


def _reasons(missing: dict[str, str]) -> str:
    """`not measured yet`, or which target for which reason where the reasons differ."""
    targets_of: dict[str, list[str]] = {}
    for target, why in missing.items():
        targets_of.setdefault(why, []).append(target)
    if len(targets_of) == 1:
        return next(iter(targets_of))
    return "; ".join(f"{', '.join(targets)}: {why}" for why, targets in targets_of.items())


def _why_missing(
    wanted: Eval, target: str, results: dict[str, Any], fresh: dict[str, str | None], files: Files
) -> str | None:
    """Why a target has to be measured; None when its results stand."""
    found = results.get(target)
    if not isinstance(found, dict):
        return "not measured yet"
    if target != BASE and (target not in fresh or fresh[target] != found.get("fingerprint")):
        return "measured on another checkpoint"
    tasks = found.get("tasks")
    measured: dict[str, Any] = tasks if isinstance(tasks, dict) else {}
    asked = [task for task in wanted.tasks if asked_of(task, target)]
    absent = [task.name for task in asked if task.name not in measured]
    if absent:
        return f"{', '.join(absent)} not measured yet"
    other = [task.name for task in asked if measured[task.name].get("samples") != wanted.samples]
    if other:
        return f"{', '.join(other)} measured with other samples"
    edited = _listed(changed(found.get("files"), files))
    return f"{edited} changed since it was measured" if edited else None
