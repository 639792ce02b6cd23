"""Presets and what can be set beside them: every knob wins over its preset, and reaches it by its own name."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from aha.recipe.algorithms import ALGORITHMS, Algorithm, algorithm_of, outcome_of
from aha.recipe.schema import DynamicSampling, Eval, Grpo, Model, Recipe, Source, Task


def block(**keys: Any) -> Grpo:
    return Grpo.model_validate({"data": [Source(hub="a/b")], "rewards": {"x": 1.0}, "steps": 1, **keys})


BESIDE = {
    "advantage": "batch",
    "surrogate": "cispo",
    "ratio": "sequence",
    "average": "constant",
    "clip_low": 0.1,
    "clip_high": 0.4,
    "unbiased_kl": True,
    "mask_truncated": True,
    "dynamic_sampling": {"rounds": 7},
}


def test_the_schema_names_the_presets_and_their_knobs() -> None:
    assert set(get_args(Grpo.model_fields["algorithm"].annotation)) == set(ALGORITHMS)
    assert set(BESIDE) == {field.name for field in dataclasses.fields(Algorithm)} <= set(Grpo.model_fields)


@pytest.mark.parametrize("preset", ALGORITHMS)
def test_a_preset_is_itself_until_something_is_set_beside_it(preset: str) -> None:
    assert algorithm_of(block(algorithm=preset)) == ALGORITHMS[preset]
    for name, value in BESIDE.items():
        found = algorithm_of(block(algorithm=preset, **{name: value}))
        wanted = DynamicSampling(rounds=7) if name == "dynamic_sampling" else value
        assert found == dataclasses.replace(ALGORITHMS[preset], **{name: wanted})


def test_dynamic_sampling_is_switched() -> None:
    assert algorithm_of(block(algorithm="dapo")).dynamic_sampling.enabled
    assert not algorithm_of(block(algorithm="dapo", dynamic_sampling=False)).dynamic_sampling.enabled
    assert not algorithm_of(block(algorithm="gspo")).dynamic_sampling.enabled
    assert algorithm_of(block(algorithm="gspo", dynamic_sampling=True)).dynamic_sampling == DynamicSampling()


@pytest.mark.parametrize(
    ("rewards", "grader", "outcome"),
    [
        ({"format": 0.0, "right": 1.0, "heavy": 5.0}, None, "right"),
        ({"shaping": {"weight": 1.0, "only_if": "right"}, "right": {"weight": 0.5}}, None, "right"),
        ({"format": 0.5, "right": 1.0}, "right", "right"),
        ({"format": 0.5, "right": {"only_if": "format"}}, "right", "format"),
        ({"a": {"only_if": "b"}, "b": {"weight": 0.0}}, None, "a"),
    ],
)
def test_the_outcome_is_the_first_reward_with_weight_and_without_a_gate(
    rewards: dict[str, Any], grader: str | None, outcome: str
) -> None:
    task = Task(name="t", data=[Source(hub="a/b")], grader=grader or "other")
    recipe = Recipe(model=Model(path="a/b"), grpo=block(rewards=rewards), eval=Eval(tasks=[task]))
    assert outcome_of(recipe) == outcome
    assert outcome_of(recipe.model_copy(update={"grpo": block(rewards=rewards, outcome="b")})) == "b"
