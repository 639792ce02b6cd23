"""The plan in words: rows of text for whoever prints them."""

from __future__ import annotations

from typing import NamedTuple

from aha.recipe.plan import BASE, EvalPlan, Plan, StagePlan


class Row(NamedTuple):
    """One line of the plan as people read it."""

    stage: str
    input: str
    steps: str
    tokens_per_step: str
    batch: str
    device: str
    state: str
    why: str


def describe(plan: Plan) -> list[Row]:
    """The plan as rows of text, evaluations after the stages they wait for."""
    rows = [_eval_row(plan, one) for one in plan.evals if one.after == BASE]
    for stage in plan.stages:
        rows.append(_stage_row(plan, stage))
        rows += [_eval_row(plan, one) for one in plan.evals if one.after == stage.directory]
    return rows


def _stage_row(plan: Plan, stage: StagePlan) -> Row:
    return Row(
        stage=stage.directory,
        input=_input(plan, stage.parent),
        steps=f"{stage.steps:,}" if stage.steps is not None else "once packed",
        tokens_per_step=f"{stage.tokens_per_step:,}",
        batch=_batch_in_words(plan, stage),
        device=f"{stage.world_size} × {plan.device}",
        state=stage.state,
        why=stage.why,
    )


def _input(plan: Plan, parent: str) -> str:
    if parent != BASE:
        return parent
    model = plan.recipe.model
    return model.path or f"{model.from_scratch.architecture if model.from_scratch else 'a model'} from scratch"


def _batch_in_words(plan: Plan, stage: StagePlan) -> str:
    """`64 prompts × 16 = 1,024 completions = 8 processes × 16 × 8 accumulated`."""
    grpo = plan.recipe.grpo
    asked = f"{stage.batch_size:,} packed sequences"
    if stage.name == "grpo" and grpo is not None:
        asked = f"{grpo.prompts_per_step} prompts × {grpo.group_size} = {stage.batch_size:,} completions"
    processes = "1 process" if stage.world_size == 1 else f"{stage.world_size} processes"
    return f"{asked} = {processes} × {stage.micro_batch} × {stage.accumulation} accumulated"


def _eval_row(plan: Plan, evaluation: EvalPlan) -> Row:
    samples = plan.recipe.eval.samples if plan.recipe.eval else 0
    asked = f"{', '.join(evaluation.tasks)} × {samples} samples"
    targets = ", ".join(evaluation.targets)
    return Row("eval", targets, "", "", asked, plan.device, evaluation.state, evaluation.why)
