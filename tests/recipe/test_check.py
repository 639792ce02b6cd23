"""Rules between two fields: each refusal says where, why, and what would work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from aha.errors import Mistake
from aha.recipe import Recipe, check

Load = Callable[..., Recipe]
Refused = Callable[..., str]

GPUS = ("hardware.device=cuda", "hardware.gpus_per_node=8", "hardware.parallel=zero2")


def test_the_small_recipe_is_right(load: Load) -> None:
    assert check(load()) == []


def test_without_a_file_mistakes_are_named_by_their_keys(load: Load) -> None:
    recipe = load().model_copy(update={"cpt": None, "distill": None, "grpo": None})
    assert check(recipe) == [Mistake("", "no stage", "at least one of: cpt, distill, grpo")]
    recipe = load().model_copy(update={"kernels": "liger"})
    assert [mistake.where for mistake in check(recipe)] == ["kernels"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.path=a/b"], "small.yaml:2  model\n  given     path and from_scratch\n  expected  one of the two"),
        (["model={}"], "override model={}\n  given     neither path nor from_scratch\n"),
        (
            ["model.from_scratch.heads=3"],
            "small.yaml:2  model.from_scratch.hidden_size\n  given     128\n  expected  a multiple of heads (3)\n"
            "  nearest   126 or 129",
        ),
        (
            ["cpt.data.0.hub=a/b"],
            "small.yaml:5  cpt.data.0\n  given     hub and builtin\n  expected  exactly one of: hub",
        ),
        (["grpo.data.0={}"], "override grpo.data.0={}\n  given     no origin\n"),
        (["eval.tasks.0.data.0={}"], "override eval.tasks.0.data.0={}\n  given     no origin\n"),
        (["name=../up"], "override name=../up\n  given     ../up\n  expected  letters, digits"),
        (["eval.tasks.0.name=two steps"], "override eval.tasks.0.name=two steps\n  given     two steps\n"),
        (["distill.epochs=1"], "small.yaml:9  distill\n  given     both of epochs and steps\n"),
        (["distill.steps="], "small.yaml:9  distill\n  given     neither of epochs and steps\n"),
        (
            ["eval.samples=4", "eval.ks=[1, 8]"],
            "override eval.ks=[1, 8]  eval.ks.1\n  given     8\n  expected  at most eval.samples (4)",
        ),
        (
            ["grpo=", "eval.stages=[grpo]"],
            "override eval.stages=[grpo]  eval.stages.0\n  given     grpo\n  expected  one of: cpt, distill",
        ),
        (
            ["eval.stages=[base]"],
            "override eval.stages=[base]  eval.stages.0\n  given     base\n  expected  one of: cpt, distill, grpo",
        ),
        (
            ["grpo.iterations=4", "grpo.save_every=10"],
            "override grpo.save_every=10\n  given     10\n"
            "  expected  a multiple of iterations (4): a resume starts at a fresh batch of completions\n"
            "  nearest   8 or 12",
        ),
    ],
)
def test_refused(refused: Refused, overrides: Sequence[str], message: str) -> None:
    assert refused(overrides=overrides).startswith(message)


def test_task_names_differ(refused: Refused) -> None:
    task = "{name: one_step, data: [{builtin: arithmetic/problems}]}"
    message = refused(f"tasks: [{task}]", f"tasks:\n    - {task}\n    - {task}")
    assert message.startswith("small.yaml:23  eval.tasks.1.name\n  given     one_step a second time\n")
    assert message.endswith("nearest   one_step-2")


def test_truncated_sampling_is_explained(refused: Refused) -> None:
    message = refused(overrides=["grpo.rollout.top_p=0.95"])
    assert message.startswith("override grpo.rollout.top_p=0.95\n  given     0.95\n  expected  1.0: ")
    assert "truncated distribution" in message and message.endswith("nearest   1.0")


# --- rewards -------------------------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ".venv/bin/pip install wandb" in refused(overrides=["tracking=wandb"])


def test_an_unknown_reward(refused: Refused) -> None:
    assert refused("math_answer: 1.0", "math_anwser: 1.0") == (
        "small.yaml:15  grpo.rewards.math_anwser\n"
        "  given     math_anwser\n"
        "  expected  a file in reward_fns/ (math_answer, think_format), path/to/file.py or module:function\n"
        "  nearest   math_answer"
    )


def test_an_unknown_grader(refused: Refused) -> None:
    message = refused(overrides=["eval.tasks.0.grader=math"])
    assert message.startswith("override eval.tasks.0.grader=math\n  given     math\n")
    assert message.endswith("nearest   math_answer")


def test_the_three_spellings_of_a_reward_are_looked_up_and_never_imported(load: Load, refused: Refused) -> None:
    Path("mine.py").write_text("raise RuntimeError('imported')\n")
    load(overrides=["grpo.rewards={mine.py: 1.0, 'mine.py:f': 1.0, 'json.decoder:scan': 1.0, math_answer: 1.0}"])
    for name in ("yours.py", "'no_such_package.rewards:f'", "mine"):
        assert "expected  a file in reward_fns/" in refused(overrides=[f"grpo.rewards={{{name}: 1.0}}"])


# --- batches and lengths -------------------------------------------------------------------------------------------


def test_prompts_that_do_not_divide(refused: Refused) -> None:
    assert refused(overrides=[*GPUS, "grpo.prompts_per_step=60", "grpo.micro_batch=4", "grpo.group_size=10"]) == (
        "override grpo.prompts_per_step=60\n"
        "  given     60 × group_size 10 = 600\n"
        "  expected  sequences per step that divide by 32 (8 processes × micro_batch 4)\n"
        "  nearest   48 or 64"
    )


def test_the_nearest_prompts_work(load: Load) -> None:
    for prompts in (48, 64):
        load(overrides=[*GPUS, f"grpo.prompts_per_step={prompts}", "grpo.micro_batch=4", "grpo.group_size=10"])


def test_batches_that_do_not_divide(refused: Refused) -> None:
    assert refused(overrides=[*GPUS, "cpt.batch_size=5"]) == (
        "override cpt.batch_size=5\n"
        "  given     5\n"
        "  expected  sequences per step that divide by 8 (8 processes)\n"
        "  nearest   8"
    )
    assert "micro_batch 3" in refused(overrides=["distill.micro_batch=3"])


def test_lengths_and_context(refused: Refused) -> None:
    message = refused("{context: 128}", "{context: 60}")
    assert message.split("\n\n") == [
        "small.yaml:7  cpt.max_tokens\n  given     64\n"
        "  expected  at most 60, the context of model.from_scratch\n  nearest   60",
        "small.yaml:12  distill.max_tokens\n  given     64\n"
        "  expected  at most 60, the context of model.from_scratch\n  nearest   60",
        "small.yaml:19  grpo.rollout.max_tokens\n  given     48 + max_prompt_tokens 48 = 96\n"
        "  expected  at most 60, the context of model.from_scratch\n  nearest   12",
    ]
    assert "small.yaml:22  eval.max_tokens\n  given     48\n  expected  less than 48" in refused(
        "{context: 128}", "{context: 48}"
    )


# --- hardware ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["device=cuda"],
            "small.yaml:3  hardware.gpus_per_node\n  given     0\n  expected  at least 1 with device: cuda",
        ),
        (
            ["device=cpu", "gpus_per_node=1"],
            "override hardware.gpus_per_node=1\n  given     1\n  expected  0 with device: cpu",
        ),
        (
            ["device=cuda", "gpus_per_node=8", "parallel=zero2", "processes_per_node=2"],
            "override hardware.processes_per_node=2\n  given     2\n  expected  nothing: with GPUs there is one",
        ),
        (["parallel=ddp"], "override hardware.parallel=ddp\n  given     ddp\n  expected  none: one process"),
        (["parallel=zero3", "device=cuda", "gpus_per_node=1"], "override hardware.parallel=zero3\n  given     zero3\n"),
        (
            ["nodes=2"],
            "small.yaml:3  hardware.parallel\n  given     none\n  expected  one of: ddp, zero2, zero3, fsdp2, for 2 p",
        ),
    ],
)
def test_hardware(refused: Refused, overrides: Sequence[str], message: str) -> None:
    assert refused(overrides=[f"hardware.{override}" for override in overrides]).startswith(message)


def test_layer_kernels_need_a_gpu(load: Load, refused: Refused) -> None:
    assert refused(overrides=["kernels=liger"]) == (
        "override kernels=liger\n  given     liger\n"
        "  expected  auto with device: cpu: layer kernels need a GPU; auto takes what runs\n  nearest   auto"
    )
    load(overrides=["kernels=liger", "hardware.device=auto"])


def test_rollouts_on_a_node(load: Load, refused: Refused) -> None:
    serving = [*GPUS, "hardware.nodes=2", "grpo.rollout.mode=server"]
    assert refused(overrides=[*serving, "grpo.rollout.tensor_parallel=3"]) == (
        "override grpo.rollout.tensor_parallel=3\n  given     3\n"
        "  expected  a divisor of the 8 device(s) of a node\n  nearest   2"
    )
    assert "mode: server, whose engines may be wider" in refused(overrides=[*GPUS, "grpo.rollout.tensor_parallel=2"])
    slow = [*serving, "grpo.rollout.engine=transformers", "grpo.rollout.tensor_parallel=2"]
    assert "vllm has wider ones" in refused(overrides=slow)
    assert "nodes: 2 or more" in refused(overrides=[*GPUS, "grpo.rollout.mode=server"])
    load(overrides=[*serving, "grpo.rollout.tensor_parallel=4"])
    load(overrides=[*GPUS, "grpo.rollout.mode=server", "grpo.rollout.servers=[node7:8000]"])
    assert "HOST:PORT" in refused(overrides=["grpo.rollout.mode=server", "grpo.rollout.servers=[node7]"])
    assert "server, with rollout.servers" in refused(overrides=["grpo.rollout.servers=[node7:8000]"])


# --- trainer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "key", "ours"),
    [
        ("cpt", "learning_rate", "cpt.learning_rate"),
        ("cpt", "per_device_train_batch_size", "cpt.micro_batch"),
        ("cpt", "max_steps", "cpt.tokens"),
        ("distill", "max_steps", "distill.steps"),
        ("distill", "gradient_accumulation_steps", "the plan works it out from batch_size"),
        ("grpo", "num_generations", "grpo.group_size"),
        ("grpo", "max_completion_length", "grpo.rollout.max_tokens"),
        ("grpo", "seed", "seed, at the top of the recipe"),
        ("grpo", "output_dir", "the run directory decides it"),
        ("grpo", "use_liger_kernel", "kernels"),
        ("grpo", "bf16", "model.dtype"),
    ],
)
def test_trainer_keys_that_the_recipe_decides(refused: Refused, stage: str, key: str, ours: str) -> None:
    message = refused(overrides=[f"{stage}.trainer.{key}=1"])
    assert message.startswith(f"override {stage}.trainer.{key}=1\n  given     {key}\n")
    assert f"nearest   {ours}" in message


def test_other_trainer_keys_are_left_to_the_stage(load: Load) -> None:
    recipe = load(overrides=["grpo.trainer.delta=4.0"])
    assert recipe.grpo is not None and recipe.grpo.trainer == {"delta": 4.0}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{only_if: math_anwser}",
            "small.yaml:15  grpo.rewards.think_format.only_if\n  given     math_anwser\n"
            "  expected  another reward of this block: math_answer\n  nearest   math_answer",
        ),
        ("{only_if: think_format}", "small.yaml:15  grpo.rewards.think_format.only_if\n  given     think_format\n"),
        ("{only_if: [math_answer]}", "small.yaml:15  grpo.rewards.think_format.only_if\n  given     ['math_answer']\n"),
        ("{weight: much}", "small.yaml:15  grpo.rewards.think_format.weight\n  given     much\n  expected  a number"),
        ("{weight: true}", "small.yaml:15  grpo.rewards.think_format.weight\n  given     True\n"),
    ],
)
def test_rewards_add_up(refused: Refused, entry: str, message: str) -> None:
    assert refused("{weight: 0.2}", entry).startswith(message)


def test_a_reward_may_depend_on_another(load: Load) -> None:
    recipe = load("{weight: 0.2}", "{weight: 0.2, only_if: math_answer}")
    assert recipe.grpo is not None and recipe.grpo.rewards["think_format"] == {"weight": 0.2, "only_if": "math_answer"}


def test_something_is_trained_for(refused: Refused) -> None:
    message = refused("{math_answer: 1.0, think_format: {weight: 0.2}}", "{math_answer: 0.0}")
    assert "given     only weights of 0" in message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["grpo.combine=normalize_each"], "nearest   normalise_each"),
        (
            ["grpo.combine=normalise_each", "grpo.algorithm=dr_grpo"],
            "given     normalise_each\n  expected  combine: sum",
        ),
        (
            ["grpo.combine=normalise_each", "grpo.advantage=batch"],
            "grpo.combine=normalise_each\n  given     normalise_each\n  expected  combine: sum with advantage: batch",
        ),
        (["grpo.trainer.scale_rewards=none"], "nearest   grpo.advantage"),
        (
            ["grpo.algorithm=cispo", "grpo.average=constant"],
            "grpo.average=constant\n  given     constant\n  expected  token with surrogate: cispo",
        ),
        (["grpo.algorithm=gspo", "grpo.surrogate=cispo"], "grpo.ratio\n  given     sequence\n  expected  token with"),
        (
            ["grpo.algorithm=cispo", "grpo.clip_low=0.2"],
            "grpo.clip_low=0.2\n  given     0.2\n  expected  no clip_low with",
        ),
        (["grpo.algorithm=gspo", "grpo.unbiased_kl=true"], "expected  false with ratio: sequence"),
        (["grpo.trainer.use_bias_correction_kl=true"], "nearest   grpo.unbiased_kl"),
        (["grpo.outcome=math_anwser"], "a reward of this block: math_answer, think_format\n  nearest   math_answer"),
        (["grpo.reference_sync={}"], "beta above 0: without a KL penalty there is no reference to move"),
        (["grpo.reference_sync={}", "grpo.beta=0.1", "grpo.lora={}"], "no reference_sync with lora"),
        (["grpo.reference_sync={}", "grpo.beta=0.1", *GPUS[:2], "hardware.parallel=zero3"], "zero2 or ddp, not zero3"),
        (["grpo.trainer.sync_ref_model=true"], "nearest   grpo.reference_sync"),
        (["grpo.dynamic_sampling.rounds=1"], "grpo.dynamic_sampling.rounds"),
        (["grpo.trainer.use_adaptive_entropy=true"], "nearest   grpo.entropy_bonus: TRL saves no adaptive"),
        (["grpo.trainer.multi_objective_aggregation=normalize_then_sum"], "nearest   grpo.combine"),
    ],
)
def test_combinations(refused: Refused, overrides: Sequence[str], message: str) -> None:
    assert message in refused(overrides=overrides)


@pytest.mark.parametrize(
    "key",
    [
        "entropy_bonus=0.01",
        "high_entropy_share=0.2",
        "trainer.off_policy_mask_threshold=1",
        "trainer.cast_lm_head_to_fp32=true",
    ],
)
def test_liger_is_not_demanded_for_a_loss_that_it_does_not_know(refused: Refused, load: Load, key: str) -> None:
    message = refused(overrides=["kernels=liger", "hardware.device=cuda", "hardware.gpus_per_node=1", f"grpo.{key}"])
    name = key.partition("=")[0]
    assert f"given     liger\n  expected  auto or torch: Liger's GRPO loss does not know grpo.{name}" in message
    load(overrides=[f"grpo.{key}"])
