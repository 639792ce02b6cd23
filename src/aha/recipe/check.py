"""What the grammar cannot say: rules between two fields of a recipe, each with the way out.

A rule is a function of the recipe that yields `Finding`s; `check` runs them all, so that a person sees every problem
at once. Nothing here touches data, models or GPUs: whether a reward's arguments or a trainer's fields are right is
asked further up, where they are known.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from aha.errors import Mistake
from aha.recipe.algorithms import algorithm_of, plain_loss
from aha.recipe.batch import (
    Stage,
    batch_size,
    device_of,
    micro_batch,
    processes_per_node,
    sequence_length,
    stages_of,
    world_size,
)
from aha.recipe.document import Keys, dotted
from aha.recipe.engines import server_nodes, started
from aha.recipe.reward_files import reward_exists, reward_folder, reward_names
from aha.recipe.schema import Cpt, Grpo, Recipe, Source
from aha.recipe.trainer_keys import PLANNED, RECIPE_KEYS

ORIGINS = ("hub", "path", "builtin", "reasoning_gym", "debian")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Finding(NamedTuple):
    """A mistake that does not know its line yet."""

    keys: Keys
    given: str
    expected: str
    nearest: str | None = None


Findings = Iterator[Finding]


def check(recipe: Recipe, where: Callable[[Keys], str] = dotted) -> list[Mistake]:
    """Everything that is wrong between the fields of a recipe; `where` turns keys into a place (`Document.where`)."""
    return [
        Mistake(where(finding.keys), finding.given, finding.expected, finding.nearest)
        for rule in RULES
        for finding in rule(recipe)
    ]


# --- what is there -------------------------------------------------------------------------------------------------


def _has_a_stage(recipe: Recipe) -> Findings:
    if not any(stages_of(recipe)):
        yield Finding((), "no stage", "at least one of: cpt, distill, grpo")


def _model_has_one_origin(recipe: Recipe) -> Findings:
    model = recipe.model
    if model.path and model.from_scratch:
        yield Finding(("model",), "path and from_scratch", "one of the two")
    if not model.path and not model.from_scratch:
        yield Finding(("model",), "neither path nor from_scratch", "path: org/name, a folder, or from_scratch: {…}")


def _heads_divide(recipe: Recipe) -> Findings:
    scratch = recipe.model.from_scratch
    if scratch and scratch.hidden_size % scratch.heads:
        keys = ("model", "from_scratch", "hidden_size")
        nearest = _nearest_multiples(scratch.hidden_size, scratch.heads)
        yield Finding(keys, str(scratch.hidden_size), f"a multiple of heads ({scratch.heads})", nearest)


def _sources_have_one_origin(recipe: Recipe) -> Findings:
    for keys, source in _sources(recipe):
        given = [name for name in ORIGINS if getattr(source, name)]
        if len(given) != 1:
            yield Finding(keys, " and ".join(given) or "no origin", f"exactly one of: {', '.join(ORIGINS)}")


def _sources(recipe: Recipe) -> Iterator[tuple[Keys, Source]]:
    for name, stage in stages_of(recipe):
        yield from (((name, "data", i), source) for i, source in enumerate(stage.data))
    for number, task in enumerate(recipe.eval.tasks if recipe.eval else ()):
        yield from ((("eval", "tasks", number, "data", i), source) for i, source in enumerate(task.data))


def _tracker_is_installed(recipe: Recipe) -> Findings:
    if recipe.tracking != "none" and importlib.util.find_spec(recipe.tracking) is None:
        way_out = f"an installed package: .venv/bin/pip install {recipe.tracking}; or none"
        yield Finding(("tracking",), recipe.tracking, way_out)


def _names_are_file_names(recipe: Recipe) -> Findings:
    names: list[tuple[Keys, str]] = [(("name",), recipe.name)] if recipe.name is not None else []
    names += [(keys, name) for keys, name in _task_names(recipe)]
    for keys, name in names:
        if not FILE_NAME.fullmatch(name):
            safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or None
            yield Finding(keys, name or "nothing", "letters, digits, dot, dash, underscore: it names files", safe)


def _task_names_differ(recipe: Recipe) -> Findings:
    seen: Counter[str] = Counter()
    for keys, name in _task_names(recipe):
        seen[name] += 1
        if seen[name] > 1:
            yield Finding(keys, f"{name} a second time", "each task's name once", f"{name}-{seen[name]}")


def _task_names(recipe: Recipe) -> Iterator[tuple[Keys, str]]:
    for number, task in enumerate(recipe.eval.tasks if recipe.eval else ()):
        yield ("eval", "tasks", number, "name"), task.name


def _rewards_exist(recipe: Recipe) -> Findings:
    names: list[tuple[Keys, str]] = [
        (("grpo", "rewards", name), name) for name in (recipe.grpo.rewards if recipe.grpo else ())
    ]
    for number, task in enumerate(recipe.eval.tasks if recipe.eval else ()):
        names.append((("eval", "tasks", number, "grader"), task.grader))
    for keys, name in names:
        if not reward_exists(name):
            yield Finding(keys, name, _rewards_expected(), _nearest(name, reward_names()))


def _rewards_expected() -> str:
    names = ", ".join(reward_names()) or "empty"
    return f"a file in {reward_folder().name}/ ({names}), path/to/file.py or module:function"


def _rewards_add_up(recipe: Recipe) -> Findings:
    """Weights are numbers, not all 0, and `only_if` names another reward of the block."""
    rewards = recipe.grpo.rewards if recipe.grpo else {}
    weights = {name: entry.get("weight", 1.0) if isinstance(entry, dict) else entry for name, entry in rewards.items()}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            yield Finding(("grpo", "rewards", name, "weight"), str(weight), "a number")
    if rewards and not any(weights.values()):
        yield Finding(("grpo", "rewards"), "only weights of 0", "a weight other than 0: nothing would be trained for")
    for name, entry in rewards.items():
        others = [other for other in rewards if other != name]
        if isinstance(entry, dict) and "only_if" in entry and entry["only_if"] not in others:
            gate = str(entry["only_if"])
            expected = f"another reward of this block: {', '.join(others) or 'there is none'}"
            yield Finding(("grpo", "rewards", name, "only_if"), gate, expected, _nearest(gate, others))


# --- the algorithm -------------------------------------------------------------------------------------------------


def _combining_fits_the_algorithm(recipe: Recipe) -> Findings:
    grpo = recipe.grpo
    if grpo is None or grpo.combine == "sum":
        return
    advantage = algorithm_of(grpo).advantage
    if advantage != "group":
        expected = (
            f"combine: sum with advantage: {advantage} (algorithm {grpo.algorithm}): normalise_each divides each reward "
            "by the deviation of its group; or advantage: group"
        )
        yield Finding(("grpo", "combine"), grpo.combine, expected, "sum")


def _the_loss_exists(recipe: Recipe) -> Findings:
    """A surrogate of cispo has one ratio, one average and no lower bound."""
    if recipe.grpo is None or algorithm_of(recipe.grpo).surrogate != "cispo":
        return
    for key, wanted in (("average", "token"), ("ratio", "token")):
        given = getattr(algorithm_of(recipe.grpo), key)
        if given != wanted:
            expected = f"{wanted} with surrogate: cispo, which is defined for single tokens; or surrogate: clip"
            yield Finding(("grpo", key), given, expected, wanted)
    if recipe.grpo.clip_low is not None:
        expected = "no clip_low with surrogate: cispo, which bounds the ratio from above only; or surrogate: clip"
        yield Finding(("grpo", "clip_low"), str(recipe.grpo.clip_low), expected)


def _the_kl_has_a_ratio(recipe: Recipe) -> Findings:
    grpo = recipe.grpo
    if grpo and algorithm_of(grpo).unbiased_kl and algorithm_of(grpo).ratio == "sequence":
        expected = "false with ratio: sequence: the gradient is unbiased for the ratios of single tokens only"
        yield Finding(("grpo", "unbiased_kl"), "true", expected, "false")


def _liger_knows_the_loss(recipe: Recipe) -> Findings:
    why = plain_loss(recipe.grpo) if recipe.grpo else None
    if why and recipe.kernels == "liger":
        yield Finding(("kernels",), "liger", f"auto or torch: {why}, and auto takes the plain one", "auto")


def _reference_can_move(recipe: Recipe) -> Findings:
    grpo, keys = recipe.grpo, ("grpo", "reference_sync")
    if grpo is None or grpo.reference_sync is None:
        return
    given = f"every {grpo.reference_sync.every} steps"
    if grpo.beta == 0:
        yield Finding(
            keys, given, "beta above 0: without a KL penalty there is no reference to move; or no reference_sync"
        )
    if grpo.lora:
        expected = "no reference_sync with lora: its reference is the model without the adapter; or full fine-tuning"
        yield Finding(keys, given, expected)
    if recipe.hardware.parallel in ("zero3", "fsdp2"):
        expected = (
            f"hardware.parallel: zero2 or ddp, not {recipe.hardware.parallel}, under which a checkpoint cannot hold the "
            "reference; or no reference_sync"
        )
        yield Finding(keys, given, expected)


def _outcome_is_a_reward(recipe: Recipe) -> Findings:
    grpo = recipe.grpo
    if grpo and grpo.outcome is not None and grpo.outcome not in grpo.rewards:
        expected = f"a reward of this block: {', '.join(grpo.rewards)}"
        yield Finding(("grpo", "outcome"), grpo.outcome, expected, _nearest(grpo.outcome, grpo.rewards))


# --- batches and lengths -------------------------------------------------------------------------------------------


def _batches_divide(recipe: Recipe) -> Findings:
    for name, stage in stages_of(recipe):
        processes = world_size(stage, recipe.hardware)
        unit = processes * (stage.micro_batch or 1)
        if batch_size(stage) % unit:
            by = f"{processes} processes" + (f" × micro_batch {stage.micro_batch}" if stage.micro_batch else "")
            yield _indivisible(name, stage, f"sequences per step that divide by {unit} ({by})", unit)


def _indivisible(name: str, stage: Stage, expected: str, unit: int) -> Finding:
    if not isinstance(stage, Grpo):
        return Finding(
            (name, "batch_size"), str(stage.batch_size), expected, _nearest_multiples(stage.batch_size, unit)
        )
    given = f"{stage.prompts_per_step} × group_size {stage.group_size} = {batch_size(stage)}"
    nearest = _nearest_multiples(stage.prompts_per_step, unit // math.gcd(unit, stage.group_size))
    return Finding((name, "prompts_per_step"), given, expected, nearest)


def _nearest_multiples(value: int, unit: int) -> str:
    """
    >>> _nearest_multiples(60, 16), _nearest_multiples(5, 16)
    ('48 or 64', '16')
    """
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def _lengths_fit_the_context(recipe: Recipe) -> Findings:
    if not recipe.model.from_scratch:
        return
    context = recipe.model.from_scratch.context
    limit = f"at most {context}, the context of model.from_scratch"
    for name, stage in stages_of(recipe):
        if sequence_length(stage) > context:
            yield _too_long(name, stage, context, limit)
    if recipe.eval and recipe.eval.max_tokens >= context:
        expected = f"less than {context}, the context of model.from_scratch: the prompt needs room too"
        yield Finding(("eval", "max_tokens"), str(recipe.eval.max_tokens), expected)


def _too_long(name: str, stage: Stage, context: int, limit: str) -> Finding:
    if not isinstance(stage, Grpo):
        return Finding((name, "max_tokens"), str(stage.max_tokens), limit, str(context))
    rollout = stage.rollout
    given = f"{rollout.max_tokens} + max_prompt_tokens {rollout.max_prompt_tokens} = {sequence_length(stage)}"
    room = context - rollout.max_prompt_tokens
    return Finding((name, "rollout", "max_tokens"), given, limit, str(room) if room > 0 else None)


# --- hardware ------------------------------------------------------------------------------------------------------


def _devices_agree(recipe: Recipe) -> Findings:
    hardware = recipe.hardware
    if hardware.device == "cuda" and not hardware.gpus_per_node:
        yield Finding(("hardware", "gpus_per_node"), "0", "at least 1 with device: cuda", "1")
    if hardware.device == "cpu" and hardware.gpus_per_node:
        keys = ("hardware", "gpus_per_node")
        yield Finding(keys, str(hardware.gpus_per_node), "0 with device: cpu; or device: cuda", "0")
    if device_of(hardware) == "cuda" and hardware.processes_per_node:
        keys = ("hardware", "processes_per_node")
        yield Finding(keys, str(hardware.processes_per_node), "nothing: with GPUs there is one process for each GPU")
    if hardware.device == "cpu" and recipe.kernels == "liger":
        yield Finding(
            ("kernels",), "liger", "auto with device: cpu: layer kernels need a GPU; auto takes what runs", "auto"
        )


def _parallel_fits_the_processes(recipe: Recipe) -> Findings:
    hardware = recipe.hardware
    keys = ("hardware", "parallel")
    processes = hardware.nodes * processes_per_node(hardware)
    if processes == 1 and hardware.parallel != "none":
        yield Finding(keys, hardware.parallel, "none: one process has nothing to share", "none")
    elif processes > 1 and hardware.parallel == "none":
        yield Finding(keys, "none", f"one of: ddp, zero2, zero3, fsdp2, for {processes} processes", "zero2")


def _rollout_fits_the_node(recipe: Recipe) -> Findings:
    if not recipe.grpo:
        return
    rollout, hardware = recipe.grpo.rollout, recipe.hardware
    on_gpu, wide = device_of(hardware) == "cuda", ("grpo", "rollout", "tensor_parallel")
    gpus = processes_per_node(hardware)
    if rollout.tensor_parallel == 1:
        pass
    elif rollout.mode == "colocate":
        expected = "1: each training process has an engine of its own; or mode: server, whose engines may be wider"
        yield Finding(wide, str(rollout.tensor_parallel), expected, "1")
    elif rollout.engine == "transformers":
        yield Finding(wide, str(rollout.tensor_parallel), "1 with engine: transformers; vllm has wider ones", "1")
    elif on_gpu and gpus % rollout.tensor_parallel:
        expected = f"a divisor of the {gpus} device(s) of a node"
        nearest = max(size for size in range(1, gpus + 1) if gpus % size == 0 and size <= rollout.tensor_parallel)
        yield Finding(wide, str(rollout.tensor_parallel), expected, str(nearest))
    alone = rollout.mode == "server" and not rollout.servers and hardware.nodes == 1
    if alone and hardware.gpus_per_node > 1 and on_gpu:
        expected = "colocate on one node; or nodes: 2 or more: one serves, the others train"
        yield Finding(("grpo", "rollout", "mode"), "server", expected, "colocate")
    serving = started(recipe.grpo) if server_nodes(recipe.grpo, hardware) else 0
    if serving >= hardware.nodes:
        expected = f"more nodes than the {serving} that serve: the others train"
        yield Finding(("hardware", "nodes"), str(hardware.nodes), expected, str(serving + 1))


def _servers_have_addresses(recipe: Recipe) -> Findings:
    if not recipe.grpo:
        return
    rollout, keys = recipe.grpo.rollout, ("grpo", "rollout")
    if rollout.servers and rollout.mode != "server":
        yield Finding((*keys, "mode"), rollout.mode, "server, with rollout.servers", "server")
    for index, address in enumerate(rollout.servers):
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            yield Finding((*keys, "servers", index), address, "HOST:PORT, as `aha serve` says it")


def _overlap_fits(recipe: Recipe) -> Findings:
    """Drawing while training takes a second process; and a micro-batch of its own is trained before the others exist."""
    grpo = recipe.grpo
    if grpo is None or grpo.rollout.overlap == "none":
        return
    keys, overlap = ("grpo", "rollout", "overlap"), grpo.rollout.overlap
    if grpo.rollout.mode != "server":
        yield Finding(("grpo", "rollout", "mode"), "colocate", f"server, with overlap: {overlap}", "server")
    if algorithm_of(grpo).dynamic_sampling.enabled:
        expected = (
            f"false with overlap: {overlap}: drawing again takes the verdicts of the whole step; or overlap: none"
        )
        yield Finding(("grpo", "dynamic_sampling"), "enabled", expected, "false")
    if overlap == "async":
        if grpo.iterations > 1:
            expected = "1 with overlap: async: completions would be older than one step"
            yield Finding(("grpo", "iterations"), str(grpo.iterations), expected, "1")
        return
    share = batch_size(grpo) // world_size(grpo, recipe.hardware)
    size = micro_batch(grpo, recipe.hardware)
    if size % grpo.group_size or size >= share:
        fitting = [n for n in range(grpo.group_size, share, grpo.group_size) if share % n == 0]
        expected = (
            f"with overlap: pipelined, whole groups (of {grpo.group_size}) in each of several micro-batches of the "
            f"{share} sequences of a process"
            + ("" if fitting else ": none fits, so overlap: none, or more prompts_per_step")
        )
        nearest = min(fitting, key=lambda n: abs(n - size)) if fitting else None
        yield Finding(("grpo", "micro_batch"), str(size), expected, str(nearest) if nearest else None)
    for needs, found in _whole_steps(grpo, recipe.hardware.parallel).items():
        if found:
            expected = f"none or async: {needs} needs the whole step before its first gradient"
            yield Finding(keys, overlap, expected, "none")


def _whole_steps(grpo: Grpo, parallel: str) -> dict[str, bool]:
    """What a pipelined step cannot have, since its first micro-batches are trained before the last are drawn."""
    algorithm = algorithm_of(grpo)
    over_tokens = algorithm.average == "token"  # the gradient is rescaled at the end of the step
    return {
        "combine: normalise_each": grpo.combine == "normalise_each",
        f"advantage: {algorithm.advantage}": algorithm.advantage in ("batch", "whitened"),
        "an entropy_bonus beside average: token": over_tokens and grpo.entropy_bonus != 0,
        f"average: token under parallel: {parallel}": over_tokens and parallel in ("zero2", "zero3"),
    }


# --- stages --------------------------------------------------------------------------------------------------------


def _distill_has_one_length(recipe: Recipe) -> Findings:
    if recipe.distill and (recipe.distill.epochs is None) == (recipe.distill.steps is None):
        given = "neither" if recipe.distill.epochs is None else "both"
        yield Finding(("distill",), f"{given} of epochs and steps", "exactly one of: epochs, steps")


def _sampling_is_the_policy(recipe: Recipe) -> Findings:
    if recipe.grpo and recipe.grpo.rollout.top_p < 1:
        expected = (
            "1.0: below it the engine samples from a truncated distribution and reports its log-probabilities, while "
            "the loss is of the whole one; every importance ratio would be off (lower rollout.temperature instead)"
        )
        yield Finding(("grpo", "rollout", "top_p"), str(recipe.grpo.rollout.top_p), expected, "1.0")


def _saves_between_generations(recipe: Recipe) -> Findings:
    """A checkpoint inside a generation cycle resumes onto another path: the batch in flight is not saved."""
    grpo = recipe.grpo
    if grpo and grpo.save_every and grpo.save_every % grpo.iterations:
        expected = f"a multiple of iterations ({grpo.iterations}): a resume starts at a fresh batch of completions"
        nearest = _nearest_multiples(grpo.save_every, grpo.iterations)
        yield Finding(("grpo", "save_every"), str(grpo.save_every), expected, nearest)


def _trainer_keys_are_free(recipe: Recipe) -> Findings:
    for name, stage in stages_of(recipe):
        for key in stage.trainer:
            ours = _who_decides(key, name, stage)
            if ours:
                yield Finding((name, "trainer", key), key, "a field that the recipe does not decide itself", ours)


def _who_decides(key: str, name: str, stage: Stage) -> str | None:
    """The recipe's word for a trainer's field, as a full path; None when the field is free."""
    fields = type(stage).model_fields
    word = key if key in fields else RECIPE_KEYS.get(key, "")
    if word.partition(".")[0] in fields:
        return f"{name}.{word}"
    if word.partition(".")[0] in Recipe.model_fields:
        return word
    if isinstance(stage, Cpt) and word in ("steps", "epochs"):
        return "cpt.tokens"
    return PLANNED.get(key)


# --- evaluation ----------------------------------------------------------------------------------------------------


def _ks_have_samples(recipe: Recipe) -> Findings:
    for index, k in enumerate(recipe.eval.ks if recipe.eval else ()):
        if recipe.eval and k > recipe.eval.samples:
            yield Finding(("eval", "ks", index), str(k), f"at most eval.samples ({recipe.eval.samples})")


def _evaluated_stages_exist(recipe: Recipe) -> Findings:
    if not recipe.eval or isinstance(recipe.eval.stages, str):
        return
    present = [*(["base"] if recipe.model.path else []), *(name for name, _ in stages_of(recipe))]
    for index, stage in enumerate(recipe.eval.stages):
        if stage not in present:
            yield Finding(("eval", "stages", index), stage, f"one of: {', '.join(present)}", _nearest(stage, present))


def _nearest(given: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)), None)


RULES: Sequence[Callable[[Recipe], Findings]] = (
    _has_a_stage,
    _model_has_one_origin,
    _heads_divide,
    _sources_have_one_origin,
    _tracker_is_installed,
    _names_are_file_names,
    _task_names_differ,
    _rewards_exist,
    _rewards_add_up,
    _combining_fits_the_algorithm,
    _the_loss_exists,
    _the_kl_has_a_ratio,
    _liger_knows_the_loss,
    _outcome_is_a_reward,
    _reference_can_move,
    _batches_divide,
    _lengths_fit_the_context,
    _devices_agree,
    _parallel_fits_the_processes,
    _rollout_fits_the_node,
    _servers_have_addresses,
    _overlap_fits,
    _distill_has_one_length,
    _sampling_is_the_policy,
    _saves_between_generations,
    _trainer_keys_are_free,
    _ks_have_samples,
    _evaluated_stages_exist,
)
