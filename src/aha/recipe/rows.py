"""The plan in words: rows of text for whoever prints them."""

from __future__ import annotations

from typing import NamedTuple

from aha.recipe.engines import Servers
from aha.recipe.estimate import Disk, StageEstimate, Time
from aha.recipe.fit import verdict
from aha.recipe.memory import UNCERTAINTY, Memory
from aha.recipe.overlaps import in_words
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


# --- the prediction ------------------------------------------------------------------------------------------------

WORDS = {
    "fits": "",
    "tight": f": more than it has, by less than the prediction may be wrong ({UNCERTAINTY:.0%})",
    "too large": ": does not fit",
    "unknown": "",
}


def foretell(plan: Plan, directory: str) -> list[str]:
    """What a stage is predicted to take, in three lines: memory, time, disk; and one of its rollout servers, if it has any.

    None for what is no stage.

    Before them, where servers draw: which, and what happens at the same time.
    """
    stage = next((stage for stage in plan.stages if stage.directory == directory), None)
    if stage is None:
        return []
    grpo = plan.recipe.grpo if stage.name == "grpo" else None
    served = [f"rollouts from {in_words(grpo)}"] if grpo and grpo.rollout.mode == "server" else []
    if plan.prediction is None:
        return served
    found = plan.prediction.stages.get(stage.name)
    if found is None:
        return [*served, plan.prediction.missing or "no prediction"]
    serving = [_servers_in_words(found.servers, plan.recipe.hardware.nodes)] if found.servers else []
    lines = [_memory_in_words(found.memory), _time_in_words(found, stage), _disk_in_words(found.disk)]
    return [*served, *lines, *serving]


def _memory_in_words(memory: Memory) -> str:
    """`memory 41.7 of 80 GiB per device, peak in sampling: engine 23.9 · optimiser 11.5 · …`, the largest part first."""
    of = "" if memory.available is None else f" of {memory.available:.1f}"
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])
    listed = " · ".join(f"{name} {_gib(size)}" for name, size in parts if _gib(size) != "0.00")
    warning = WORDS[verdict(memory.total, memory.available)]
    return f"memory {_gib(memory.total)}{of} GiB per device, peak in {memory.moment}{warning}: {listed}"


def _servers_in_words(servers: Servers, of: int) -> str:
    """`servers 1 node, the last of 4: 8 engines × 1 device, of each weights 14.2 GiB and cache 56.4 GiB, for 256 …, 61 at a time`."""
    several = "s" if servers.nodes > 1 else ""
    nodes = f"{servers.nodes} node{several}, the last of {of}" if servers.nodes else "no node of their own"
    devices = f"{servers.devices_per_engine} device{'s' if servers.devices_per_engine > 1 else ''}"
    memory = f"of each weights {_gib(servers.weights)} GiB and cache {_gib(servers.cache)} GiB"
    return (
        f"servers {nodes}: {servers.engines} engines × {devices}, {memory}, "
        f"for {servers.completions:.0f} completions, {servers.running:.0f} at a time"
    )


def _gib(size: float) -> str:
    return f"{size:.1f}" if size >= 10 else f"{size:.2f}"


def _time_in_words(found: StageEstimate, stage: StagePlan) -> str:
    time = found.time
    if time is None:
        return "time: no prediction, the GPU is not known (hardware.gpu, or --hardware)"
    parts = sorted(time.parts.items(), key=lambda part: -part[1])
    listed = " · ".join(f"{name} {_seconds(seconds)}" for name, seconds in parts if seconds >= 0.01 * time.step)
    peak = f"{time.tflops:.0f} TFLOP/s" if time.tflops >= 10 else f"{1000 * time.tflops:.0f} GFLOP/s"
    return f"step {_seconds(time.step)} ({listed}), {_whole(time, found, stage)} ({time.efficiency:.0%} of {peak})"


def _whole(time: Time, found: StageEstimate, stage: StagePlan) -> str:
    """The stage's hours and tokens; where its steps are not known yet, hours for each billion tokens."""
    if time.total is None or found.tokens is None:
        amount, words = (1e9, "billion") if stage.tokens_per_step > 1e5 else (1e6, "million")
        return f"{_hours(amount / stage.tokens_per_step * time.step)} for each {words} tokens"
    return f"{_hours(time.total)} for at most {_tokens(found.tokens)} tokens"


def _disk_in_words(disk: Disk) -> str:
    rows = f", packed rows {_gib(disk.rows)} GiB until it has finished" if disk.rows >= 0.01 else ""
    kept = f"{disk.kept} checkpoints × {_gib(disk.checkpoint)} GiB (one more while saving)"
    return f"disk {kept}, model {_gib(disk.model)} GiB{rows}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def _hours(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _tokens(count: float) -> str:
    """
    >>> _tokens(1e10), _tokens(24_576)
    ('10.0 G', '24.6 k')
    """
    size, unit = next((size, unit) for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")) if count >= size)
    return f"{count / size:.1f} {unit}".strip()
