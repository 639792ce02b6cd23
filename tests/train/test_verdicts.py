"""From verdicts to advantages and loss, in the real trainer: several rewards, both ways to combine them, and a None.

Nothing is trained. The policy says what it is told, so each reward, advantage and token count is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from told import ANSWERED, THOUGHT, told

from aha.train.grpo import GroupTrainer

# What each completion thinks and answers: the first reward pays the thought number, the second the answered one. A
# thought of 13 is not judged.
SAID = [(1, 0), (0, 2), (1, 2), (13, 1), (0, 0), (0, 0), (3, 0), (1, 2)]
LONE = [(1, 0), (13, 2), (13, 2), (13, 1), *SAID[4:]]
EPSILON = 1e-4  # TRL's, beside each standard deviation
GROUPS = [[0, 1, 2], [4, 5, 6, 7]]  # the judged members


@pytest.fixture
def trainer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GroupTrainer]:
    """The trainer of a recipe with this `grpo` key, for a policy of two thin layers that says these things."""
    key, said = request.param
    (tmp_path / "thought.py").write_text(THOUGHT)
    (tmp_path / "answered.py").write_text(ANSWERED)
    rewards = f"{{{tmp_path}/thought.py: 1.0, {tmp_path}/answered.py: 0.5, think_format: 0.0}}"
    keys = ["prompts_per_step=2", "group_size=4", f"rewards={rewards}", key]
    texts = [f"<think> {one} </think> <answer> {other} </answer> <|im_end|>" for one, other in said]
    with told(tmp_path, [f"grpo.{key}" for key in keys], lambda prompt, number: texts[number]) as made:
        yield made


def batch(trainer: GroupTrainer) -> dict[str, Any]:
    rows = trainer.train_dataset
    trainer.model.train()
    return trainer._generate_and_score_completions([rows[0]] * 4 + [rows[1]] * 4)


def normalised(values: list[float]) -> list[float]:
    return [(value - mean(values)) / (stdev(values) + EPSILON) for value in values]


def scattered(groups: list[list[float]]) -> list[float]:
    """Values of the judged members, in their places; 0 for the one without a verdict."""
    found = [0.0] * len(SAID)
    for members, values in zip(GROUPS, groups, strict=True):
        for member, value in zip(members, values, strict=True):
            found[member] = value
    return found


@pytest.mark.parametrize("trainer", [("combine=sum", SAID)], indirect=True)
def test_the_sum_is_normalised_within_its_group(trainer: GroupTrainer) -> None:
    totals = [[1.0, 1.0, 2.0], [0.0, 0.0, 3.0, 2.0]]
    assert [[SAID[member][0] + 0.5 * SAID[member][1] for member in group] for group in GROUPS] == totals
    expected = scattered([normalised(values) for values in totals])
    assert batch(trainer)["advantages"].tolist() == pytest.approx(expected, abs=1e-5)
    assert expected[3] == 0.0 and expected[2] == pytest.approx(1.1545, abs=1e-3)


@pytest.mark.parametrize("trainer", [("combine=normalise_each", SAID)], indirect=True)
def test_each_reward_is_normalised_within_its_group_and_the_sum_over_the_batch(trainer: GroupTrainer) -> None:
    first = [normalised([SAID[member][0] for member in group]) for group in GROUPS]
    second = [normalised([SAID[member][1] for member in group]) for group in GROUPS]
    sums = [[a + 0.5 * b for a, b in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)]
    flat = normalised([value for group in sums for value in group])
    expected = scattered([flat[:3], flat[3:]])
    assert batch(trainer)["advantages"].tolist() == pytest.approx(expected, abs=1e-5)
    assert expected[3] == 0.0 and expected[2] > expected[0] > expected[1]
    metrics = trainer._metrics["train"]
    assert metrics["frac_reward_zero_std"] == [0.0] and metrics["unjudged"] == [1]
    assert metrics["reward/thought"] == [pytest.approx(6 / 7)] and metrics["reward/answered"] == [pytest.approx(7 / 8)]


@pytest.mark.parametrize("trainer", [("combine=sum", LONE), ("combine=normalise_each", LONE)], indirect=True)
def test_a_lone_verdict_teaches_nothing(trainer: GroupTrainer) -> None:
    advantages = batch(trainer)["advantages"]
    assert advantages[:4].tolist() == pytest.approx([0.0] * 4, abs=1e-6) and advantages[4:].abs().max() > 0.5


@pytest.mark.parametrize("trainer", [("algorithm=dapo", SAID), ("algorithm=cispo", SAID)], indirect=True)
def test_the_loss_is_that_of_the_batch_without_the_unjudged(trainer: GroupTrainer) -> None:
    """Also under a KL penalty, which does not look at advantages."""
    output = batch(trainer)
    lengths = output["completion_mask"].sum(dim=1)
    assert output["num_items_in_batch"] == lengths.sum() - lengths[3] and lengths[3] > 0
    assert output["completion_mask"][3].any(), "the tokens stay in the attention"
    trainer.beta = 0.5
    trainer.current_gradient_accumulation_steps = 1
    output["ref_per_token_logps"] = output["old_per_token_logps"] - 1.0
    kept = [0, 1, 2, 4, 5, 6, 7]
    without = {name: value[kept] if value.ndim else value for name, value in output.items()}
    loss = trainer.compute_loss(trainer.model, output)
    assert loss.item() == pytest.approx(trainer.compute_loss(trainer.model, without).item(), rel=1e-3)
    with_it = {name: value for name, value in output.items() if name != "tool_mask"}
    assert loss.item() != pytest.approx(trainer.compute_loss(trainer.model, with_it).item(), rel=1e-2)
