"""A recipe is read whole, or refused with every problem, its line, and what was probably meant."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from aha.errors import RecipeError
from aha.recipe import Recipe, dump_recipe, load_recipe, read_document, recipe_hash

Load = Callable[..., Recipe]
Refused = Callable[..., str]


def test_the_small_recipe_loads(load: Load) -> None:
    recipe = load()
    assert recipe.name == "small"
    assert recipe.cpt is not None and recipe.cpt.tokens == 1_000_000
    assert recipe.grpo is not None and recipe.grpo.rewards == {"math_answer": 1.0, "think_format": {"weight": 0.2}}


@pytest.mark.parametrize(
    ("written", "meant"),
    [("1e-5", 1e-5), ("1E-5", 1e-5), ("5e-06", 5e-6), (".5", 0.5), ("1.", 1.0), ("3", 3.0), ("+1.5e+2", 150.0)],
)
def test_numbers_are_yaml_1_2(load: Load, written: str, meant: float) -> None:
    recipe = load("steps: 80", f"steps: 80\n  learning_rate: {written}")
    assert recipe.grpo is not None and recipe.grpo.learning_rate == meant


def test_counts_may_be_written_as_people_write_them(load: Load) -> None:
    for written in ("1e9", "1_000_000_000", "1000000000", "1.0e+9"):
        recipe = load("tokens: 1e6", f"tokens: {written}")
        assert recipe.cpt is not None and recipe.cpt.tokens == 10**9


def test_no_and_dates_and_octals_are_what_they_look_like(load: Load) -> None:
    recipe = load("# line 1", "name: 2024-01-01\nseed: 010\nexpect: {result: no}")
    assert (recipe.name, recipe.seed, recipe.expect.result) == ("2024-01-01", 10, "no")


def test_short_spellings(load: Load) -> None:
    recipe = load("{from_scratch: {context: 128}}", "Qwen/Qwen2.5-1.5B")
    assert recipe.model.path == "Qwen/Qwen2.5-1.5B"

    Path("here").mkdir()
    Path("here/texts").write_text("")
    names = "[open-r1/Mixture-of-Thoughts, here/texts, docs/*.jsonl, data/rows.parquet, a/b/c, /data]"
    recipe = load("[{builtin: arithmetic/traces}]", names)
    assert recipe.distill is not None
    found = [(source.hub, source.path) for source in recipe.distill.data]
    assert found == [
        ("open-r1/Mixture-of-Thoughts", None),
        (None, "here/texts"),
        (None, "docs/*.jsonl"),
        (None, "data/rows.parquet"),
        (None, "a/b/c"),
        (None, "/data"),
    ]


def test_known_tasks_by_name(load: Load, refused: Refused) -> None:
    task = "{name: one_step, data: [{builtin: arithmetic/problems}]}"
    recipe = load(task, "math500, aime24, aime25, gsm8k")
    assert recipe.eval is not None
    assert [one.name for one in recipe.eval.tasks] == ["math500", "aime24", "aime25", "gsm8k"]
    math500, gsm8k = recipe.eval.tasks[0].data[0], recipe.eval.tasks[3].data[0]
    assert (math500.hub, math500.split) == ("HuggingFaceH4/MATH-500", "test")
    assert math500.columns == {"prompt": "problem", "answer": "answer"}
    assert gsm8k.answer_after == "####"

    message = refused(task, "math50")
    assert "small.yaml:21  eval.tasks.0\n  given     math50\n" in message
    assert message.endswith("nearest   math500")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_an_unknown_key_in_full(refused: Refused) -> None:
    assert refused("rollout: {", "rollout: {temprature: 1.0, ") == (
        "small.yaml:19  grpo.rollout.temprature\n"
        "  given     temprature\n"
        "  expected  one of: engine, mode, temperature, top_p, max_tokens, max_prompt_tokens, tensor_parallel, "
        "memory_share, kv_cache_gib, max_sequences, servers, server_count, server_silence, server_deadline, overlap, on_mismatch, correction_cap\n"
        "  nearest   temperature"
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "nearest"),
    [
        ("hardware:", "hardwear:", "small.yaml:3  hardwear", "hardware"),
        ("{builtin: arithmetic/texts}", "{builtins: x}", "small.yaml:5  cpt.data.0.builtins", "builtin"),
        ("steps: 80", "steps: 80\n  temperature: 1", "small.yaml:17  grpo.temperature", "rollout.temperature"),
        ("steps: 80", "steps: 80\n  num_generations: 8", "small.yaml:17  grpo.num_generations", "group_size"),
        ("steps: 80", "steps: 80\n  prompts_per_stp: 8", "small.yaml:17  grpo.prompts_per_stp", "prompts_per_step"),
        ("# line 1", "gpus_per_node: 8", "small.yaml:1  gpus_per_node", "hardware.gpus_per_node"),
    ],
)
def test_the_nearest_key(refused: Refused, old: str, new: str, line: str, nearest: str) -> None:
    message = refused(old, new)
    assert message.startswith(line)
    assert f"nearest   {nearest}" in message


@pytest.mark.parametrize(
    ("old", "new", "where", "given", "expected"),
    [
        ("steps: 80", 'steps: "80"', "small.yaml:16  grpo.steps", '"80"', "a whole number"),
        ("steps: 80", "steps: 1.5", "small.yaml:16  grpo.steps", "1.5", "a whole number"),
        ("steps: 80", "steps: true", "small.yaml:16  grpo.steps", "true", "a whole number"),
        ("steps: 80", "steps: 0", "small.yaml:16  grpo.steps", "0", "a number above 0"),
        ("steps: 80", "steps:", "small.yaml:16  grpo.steps", "nothing", "a whole number"),
        ("group_size: 8", "group_size: 1", "small.yaml:18  grpo.group_size", "1", "a number of at least 2"),
        (
            "steps: 80",
            "steps: 80\n  learning_rate: .inf",
            "small.yaml:17  grpo.learning_rate",
            "Infinity",
            "a finite number",
        ),
        ("steps: 80", "steps: 80\n  warmup: 3", "small.yaml:17  grpo.warmup", "3", "a number of at most 1"),
        ("[{builtin: arithmetic/texts}]", "[]", "small.yaml:5  cpt.data", "[]", "at least one entry"),
        ("[{builtin: arithmetic/texts}]", "7", "small.yaml:5  cpt.data", "7", "a list"),
        (
            "steps: 400",
            "gradient_checkpointing: yes",
            "small.yaml:11  distill.gradient_checkpointing",
            '"yes"',
            "true or false",
        ),
        (
            "math_answer: 1.0",
            "math_answer: high",
            "small.yaml:15  grpo.rewards.math_answer",
            '"high"',
            "a number or a block",
        ),
        ("{device: cpu}", "cpu", "small.yaml:3  hardware", '"cpu"', "a block of keys: device, nodes, gpus_per_node"),
        ("# line 1", "name: 7", "small.yaml:1  name", "7", "text (quote it)"),
    ],
)
def test_wrong_values(refused: Refused, old: str, new: str, where: str, given: str, expected: str) -> None:
    message = refused(old, new)
    assert f"{where}\n  given     {given}\n  expected  {expected}" in message


def test_wrong_choices_name_the_choices(refused: Refused) -> None:
    assert refused("steps: 80", "steps: 80\n  algorithm: dappo") == (
        "small.yaml:17  grpo.algorithm\n"
        "  given     dappo\n"
        "  expected  one of: grpo, dr_grpo, dapo, gspo, cispo, rloo, reinforce_pp\n"
        "  nearest   dapo"
    )
    message = refused("max_tokens: 48\n", "max_tokens: 48\n  stages: [cptt]\n")
    assert (
        "small.yaml:23  eval.stages.0\n  given     cptt\n  expected  one of: base, cpt, distill, grpo\n  nearest   cpt"
        in message
    )
    assert message.count("given") == 1, "a union complains once"


def test_all_problems_at_once_unknown_before_wrong_before_missing(refused: Refused, small: str) -> None:
    text = small.replace("steps: 80", "stepz: 80").replace("tokens: 1e6", "tokens: -1")
    message = refused(text=text + "kernls: auto\n")
    places = [line for line in message.splitlines() if line.startswith("small.yaml")]
    assert places == [
        "small.yaml:16  grpo.stepz",
        "small.yaml:23  kernls",
        "small.yaml:6  cpt.tokens",
        "small.yaml:13  grpo.steps",
    ]
    assert "given     nothing\n  expected  steps: optimiser steps" in message


def test_duplicate_keys(refused: Refused) -> None:
    assert refused("steps: 80", "steps: 80\n  steps: 90") == (
        "small.yaml:17  grpo.steps\n  given     steps a second time\n  expected  each key once (it is at small.yaml:16)"
    )


def test_aliases_and_tags(refused: Refused) -> None:
    message = refused("steps: 80", "steps: &n 80\n  reward_workers: *n")
    assert "small.yaml:16  grpo.reward_workers\n  given     an alias (*name)" in message
    message = refused("steps: 80", "steps: !!python/name:os.system 80")
    assert "small.yaml:16  grpo.steps\n  given     80 tagged tag:yaml.org,2002:python/name:os.system" in message


def test_an_empty_stage(refused: Refused, small: str) -> None:
    body = small[small.index("cpt:\n") + 5 : small.index("distill:")]
    assert refused(body, "") == (
        "small.yaml:4  cpt\n  given     an empty block\n  expected  its keys (data, tokens), or no such line"
    )


@pytest.mark.parametrize(
    ("text", "where", "given"),
    [
        ("model: [1, 2\ncpt: 3\n", "small.yaml:2", "expected ',' or ']'"),
        ("model: a\n\tcpt: 3\n", "small.yaml:2", "found character '\\t'"),
        ("model: a\n---\nmodel: b\n", "small.yaml:2", "but found another document"),
        ("model: a\n\x07\n", "small.yaml:2", "special characters are not allowed"),
        ("", "small.yaml", "an empty file"),
        ("# only a comment\n", "small.yaml", "an empty file"),
        ("- model\n", "small.yaml:1", "a list"),
        ("[a]: 1\nmodel: a/b\n", "small.yaml:1", "a list as a key"),
    ],
)
def test_what_is_no_recipe(refused: Refused, text: str, where: str, given: str) -> None:
    first, second, *_ = refused(text=text).splitlines()
    assert first == where
    assert given in second


def test_files_that_cannot_be_read(small: str) -> None:
    Path("recipes").mkdir()
    Path("recipes/tiny.yaml").write_text(small)
    for name in ("recipes/tinny.yaml", "tiny.yaml", "recipes/tiny", "tiny.yml"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(name)
        assert str(caught.value) == (
            f"{name}\n  given     no such file\n  expected  a recipe (.yaml)\n  nearest   recipes/tiny.yaml"
        )
    with pytest.raises(RecipeError, match="given     is a directory"):
        load_recipe("recipes")
    Path("bytes.yaml").write_bytes(b"model: \xff")
    with pytest.raises(RecipeError, match=r"bytes that are not UTF-8 \(at 7\)"):
        load_recipe("bytes.yaml")


# --- overrides -----------------------------------------------------------------------------------------------------


def test_overrides_are_yaml_and_reach_into_lists(load: Load) -> None:
    overrides = [
        "grpo.steps=50",
        "grpo.learning_rate=1e-6",
        "cpt.data.0.weight=2",
        "grpo.rewards={math_answer: 2.0}",
        "hardware.threads=1",
        "expect.minutes=5",
        "distill.steps=",
        "distill.epochs=2",
    ]
    recipe = load(overrides=overrides)
    assert recipe.grpo is not None and recipe.distill is not None and recipe.cpt is not None
    assert (recipe.grpo.steps, recipe.grpo.learning_rate) == (50, 1e-6)
    assert recipe.cpt.data[0].weight == 2
    assert recipe.grpo.rewards == {"math_answer": 2.0}
    assert recipe.expect.minutes == 5
    assert (recipe.distill.steps, recipe.distill.epochs) == (None, 2)


def test_an_argument_can_be_set_beside_the_bare_weight_of_a_reward(load: Load) -> None:
    recipe = load(overrides=["grpo.rewards={math_answer: 0.5}", "grpo.rewards.math_answer.require=boxed"])
    assert recipe.grpo and recipe.grpo.rewards == {"math_answer": {"weight": 0.5, "require": "boxed"}}


def test_an_override_can_take_a_stage_away(load: Load) -> None:
    recipe = load(overrides=["grpo=null"])
    assert recipe.grpo is None and recipe.distill is not None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.stepz=50", "override grpo.stepz=50\n  given     stepz\n"),
        ("grpo.steps=many", 'override grpo.steps=many\n  given     "many"\n  expected  a whole number'),
        ("grpo={steps: 5, stepz: 6}", "override grpo={steps: 5, stepz: 6}  grpo.stepz\n  given     stepz"),
        ("grpo.steps", "override grpo.steps\n  given     grpo.steps\n  expected  key.path=value"),
        (
            "cpt.data.3.weight=2",
            "override cpt.data.3.weight=2\n  given     3\n  expected  an index of cpt.data: 0 to 0",
        ),
        (
            "cpt.tokens.x=2",
            "override cpt.tokens.x=2\n  given     x\n  expected  no further key: cpt.tokens is not a block",
        ),
        ("grpo.steps=[1", "override grpo.steps=[1:1\n"),
        ("hardware.device=cuda", "small.yaml:3  hardware.gpus_per_node\n  given     0"),
    ],
)
def test_wrong_overrides(refused: Refused, override: str, message: str) -> None:
    assert refused(overrides=[override]).startswith(message)


def test_where_points_at_lines_and_overrides(load: Load) -> None:
    load()
    document = read_document("small.yaml", ["grpo.steps=5"])
    assert document.where(("grpo", "rewards", "think_format")) == "small.yaml:15  grpo.rewards.think_format"
    assert (
        document.where(("grpo", "rewards", "think_format", "weight"))
        == "small.yaml:15  grpo.rewards.think_format.weight"
    )
    assert document.where(("grpo", "steps")) == "override grpo.steps=5"
    assert document.where(("grpo", "trainer", "x")) == "small.yaml:13  grpo.trainer.x"
    assert document.where(()) == "small.yaml:1"


# --- writing it down again -----------------------------------------------------------------------------------------


def test_dump_loads_back_equal(load: Load) -> None:
    options = '{a: "1e5", b: null, c: "no", d: "2024-01-01", e: [1, 2.5e-7], f: "", g: "½ ✓", h: "true", i: "012"}'
    recipe = load("{builtin: arithmetic/problems}", f"{{builtin: arithmetic/problems, options: {options}}}")
    text = dump_recipe(recipe)
    Path("again.yaml").write_text(text, encoding="utf-8")
    again = load_recipe("again.yaml")
    assert again == recipe
    assert dump_recipe(again) == text
    assert "top_p" not in text, "what the recipe leaves to the defaults stays unsaid"


def test_dump_is_plain_yaml(load: Load) -> None:
    assert yaml.safe_load(dump_recipe(load()))["grpo"]["steps"] == 80


@pytest.mark.usefixtures("every_tracker_is_installed")
def test_hash_follows_what_is_computed(load: Load) -> None:
    recipe = load()
    assert recipe_hash(load("steps: 80", "steps: 81")) != recipe_hash(recipe)
    assert recipe_hash(load("# line 1", "name: other\nexpect: {minutes: 5}\ntracking: wandb")) == recipe_hash(recipe)
    assert recipe_hash(load("grpo:", "seed: 0\ngrpo:")) == recipe_hash(recipe), (
        "a default written out is the same recipe"
    )


def test_no_torch() -> None:
    source = str(Path(sys.modules["aha"].__file__ or "").parents[1])
    code = "import aha.recipe, aha.rundir, aha.metrics, sys; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})
