"""From a run directory to its diagnoses, each with the line of the recipe where its remedy stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aha.errors import AhaError, RunDirError
from aha.health.completions import COMPLETION_RULES
from aha.health.curves import CURVE_RULES
from aha.health.evidence import LATELY, Diagnosis, Evidence, Row
from aha.metrics import read_metrics
from aha.recipe.document import Keys, dotted, read_document
from aha.recipe.schema import Recipe
from aha.rundir import STAGES, RunDir, read_jsonl, read_object

NONFINITE = "nonfinite*.json"
"""What a stage leaves that met a non-finite loss or gradient; one file for each process that did."""


@dataclass(frozen=True)
class Examination:
    """What was looked at, and what was found."""

    root: Path
    looked_at: str
    diagnoses: list[Diagnosis]
    notes: list[str] = field(default_factory=list)
    """What could not be judged, and why."""

    def place(self, keys: Keys) -> str:
        """`runs/tiny/recipe.yaml:31  grpo.rollout.max_tokens`; a key that is not set is where its block is."""
        return place(self.root, keys)


def diagnose(evidence: Evidence) -> list[Diagnosis]:
    """All rules, the severe findings first."""
    found = [one for rule in (*CURVE_RULES, *COMPLETION_RULES) for one in rule(evidence)]
    return sorted(found, key=lambda one: one.severity != "severe")


def examine_grpo(folder: Path, recipe: Recipe) -> tuple[Evidence, list[Diagnosis]]:
    """What the rules say of a GRPO stage's folder as it is now. Raises RunDirError when a file there is damaged."""
    evidence = Evidence(recipe, _objects(read_metrics(folder / "metrics.jsonl")), _newest_rollouts(folder))
    return evidence, diagnose(evidence)


def examine(root: Path) -> Examination:
    """Every stage of a run, finished or not. Raises RunDirError when it is no run, or too damaged to read."""
    recipe = _recipe(root)
    run = RunDir(root)
    unfinished = [stage for stage in STAGES if run.done(stage) is None]
    diagnoses = [one for stage in unfinished for one in _non_finite(stage, run.stage(stage))]
    folder = run.stage("grpo")
    if recipe.grpo is None or not (folder / "metrics.jsonl").is_file():
        why = "the recipe has no grpo stage" if recipe.grpo is None else "grpo has not logged a step yet"
        return Examination(root, "non-finite steps only", diagnoses, [f"{why}: most rules have nothing to look at"])
    evidence, found = examine_grpo(folder, recipe)
    looked_at = f"{len(evidence.metrics)} logged steps, {len(evidence.rollouts)} completions of the newest {len(evidence.steps)}"
    return Examination(root, looked_at, diagnoses + found, _not_judged(evidence))


def in_words(one: Diagnosis, root: Path) -> str:
    """A diagnosis on one line, for a log."""
    return f"health: {one.name} ({one.severity}): {one.evidence}. {place(root, one.keys)}: {one.advice}"


def place(root: Path, keys: Keys) -> str:
    """Where a key stands in the run's own copy of the recipe."""
    try:
        return read_document(root / "recipe.yaml").where(keys)
    except AhaError:
        return dotted(keys)


def _recipe(root: Path) -> Recipe:
    plan = read_object(root / "plan.json")
    if plan is None:
        raise RunDirError(f"{root} is not a run directory: it has no plan.json that can be read")
    try:
        return Recipe.model_validate_json(json.dumps(plan.get("recipe")))
    except ValueError:
        raise RunDirError(f"{root}/plan.json holds no recipe that this version of aha can read") from None


def _newest_rollouts(folder: Path) -> list[Row]:
    """The completions of the newest steps; a step has one file for each process."""
    files: dict[str, list[Path]] = {}
    for path in sorted((folder / "rollouts").glob("step-*.jsonl")):
        files.setdefault(path.stem[: len("step-000000")], []).append(path)
    newest = sorted(files)[-LATELY:]
    return [row for step in newest for path in files[step] for row in _objects(read_jsonl(path))]


def _objects(rows: list[Any]) -> list[Row]:
    return [row for row in rows if isinstance(row, Mapping)]


def _non_finite(stage: str, folder: Path) -> list[Diagnosis]:
    found = [(path, read_object(path) or {}) for path in sorted(folder.glob(NONFINITE))]
    return [
        Diagnosis(
            "non-finite",
            "severe",
            f"{folder.name} met loss {facts.get('loss')} and gradient norm {facts.get('grad_norm')} at step "
            f"{facts.get('step')}; the batch is in {path}",
            (stage, "learning_rate"),
            "read the batch; if it is honest data, lower the learning rate",
        )
        for path, facts in found
    ]


def _not_judged(evidence: Evidence) -> list[str]:
    """The rules that had nothing to look at."""
    notes = []
    if not evidence.curve("entropy"):
        notes.append(
            "entropy is not logged (Liger's fused GRPO loss does not compute it): collapse is judged by the texts"
        )
    if not evidence.curve("kl"):
        notes.append("KL is not logged, because grpo.beta is 0: how far the policy went is not judged")
    if len(evidence.metrics) < LATELY:
        notes.append(f"fewer than {LATELY} steps are logged: no rule can speak yet")
    elif len(evidence.steps) < LATELY:
        notes.append(f"completions of fewer than {LATELY} steps are there: rewards and texts are not judged")
    return notes
