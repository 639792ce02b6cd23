"""Dynamic sampling in the real trainer: what is drawn again and what not, when it ends, and what the loss sees.

The policy answers by problem: odd ones get right and wrong answers, even ones are all alike in their outcome, and differ
in shaping only.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from told import ANSWERED, THOUGHT, told

from aha.rewards.scorer import Scorer
from aha.train.draws import FLOOR, Draws
from aha.train.grpo import GroupTrainer

SIZE = 4


@pytest.fixture(scope="module")
def rewards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scorer, str]]:
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "thought.py").write_text(THOUGHT)
    (folder / "answered.py").write_text(ANSWERED)
    block = {f"{folder}/answered.py": 0.5, f"{folder}/thought.py": 1.0}
    with Scorer(block, deadline=30, workers=1) as scorer:
        yield scorer, f"rewards={{{folder}/answered.py: 0.5, {folder}/thought.py: 1.0}}"


def keys_of(rewards: str, *keys: str) -> list[str]:
    folder = rewards.removeprefix("rewards={").rpartition("/answered.py")[0]
    own = [rewards, f"outcome={folder}/thought.py", "prompts_per_step=2", "group_size=4", "algorithm=dapo", *keys]
    return [f"grpo.{key}" for key in own]


def number_of(prompt: str) -> int:
    return int(prompt.split("Start with ")[1].split()[0])


def odd_ones_tell(prompt: str, number: int) -> str:
    right = number % 2 if number_of(prompt) % 2 else 0
    return f"<think> {right} </think> <answer> {number % 3} </answer> <|im_end|>"


def step(trainer: GroupTrainer, first: int = 0, second: int = 1) -> dict[str, Any]:
    """A step that starts with these two problems (by index: problem 1 has index 0)."""
    trainer.model.train()
    rows = trainer.train_dataset
    return trainer._generate_and_score_completions([rows[first]] * SIZE + [rows[second]] * SIZE)


def asked(trainer: GroupTrainer) -> list[str]:
    return [problem.id for problem, _, _ in trainer.judge.last][::SIZE]


def metric(trainer: GroupTrainer, name: str) -> float:
    values = trainer._metrics["train"][name]
    assert len(values) == 1, f"{name} is logged once a step"
    return values[0]


def test_groups_without_a_difference_in_the_outcome_are_drawn_again(rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    with told(tmp_path, keys_of(block), odd_ones_tell, scorer, problems=12) as trainer:
        output = step(trainer)  # p1 tells, p2 does not
        first, second = asked(trainer)
        assert first == "p1" and int(second[1:]) % 2 == 1 and second != "p1"
        assert output["tool_mask"].all() and output["advantages"].abs().min() > 0.1
        assert trainer.said == [] and metric(trainer, "frac_reward_zero_std") == 0.0
        rounds, sampled = metric(trainer, "rounds"), metric(trainer, "completions_sampled")
        assert rounds == len(trainer.calls) > 1 and sampled == sum(len(prompts) for prompts, _ in trainer.calls)
        problems = [tuple(prompt) for prompts, _ in trainer.calls for prompt in prompts[::SIZE]]
        assert len(set(problems)) == len(problems), "no problem is asked twice in a step"
        seeds = [seed for _, drawn in trainer.calls for seed in drawn]
        assert len(set(seeds)) == len(seeds)
        assert pickle.loads(pickle.dumps(trainer.filled)) == trainer.filled, "processes tell each other"
        told_apart = sum(number_of(trainer.processing_class.decode(one)) % 2 for one in problems)
        assert metric(trainer, "groups_kept") == pytest.approx(told_apart / len(problems))
        assert metric(trainer, "reward/thought") == 0.25, "of the first round: p1 has one half, p2 nothing"
        assert metric(trainer, "reward") == pytest.approx(0.25 + 0.5 * metric(trainer, "reward/answered"))
        lines = (tmp_path / "rollouts" / "step-000001.jsonl").read_text().splitlines()
        assert [json.loads(line)["in_loss"] for line in lines] == [True] * 8


def test_a_full_step_is_not_drawn_again(rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    with told(tmp_path, keys_of(block), odd_ones_tell, scorer, problems=12) as trainer:
        step(trainer, 0, 2)
        assert asked(trainer) == ["p1", "p3"] and metric(trainer, "rounds") == 1 and len(trainer.calls) == 1


def test_switched_off_it_changes_nothing(rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    with told(tmp_path, keys_of(block, "dynamic_sampling=false"), odd_ones_tell, scorer, problems=12) as trainer:
        output = step(trainer)
        assert asked(trainer) == ["p1", "p2"] and len(trainer.calls) == 1
        assert "rounds" not in trainer._metrics["train"] and output["advantages"][SIZE:].abs().max() > 0, "by shaping"


@pytest.mark.parametrize(("tolerance", "rounds"), [(1e-6, 1), (1.5, 3)])
def test_the_tolerance(tolerance: float, rounds: int, rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    keys = keys_of(block, f"dynamic_sampling={{rounds: 3, tolerance: {tolerance}}}")
    with told(tmp_path, keys, odd_ones_tell, scorer, problems=12) as trainer:
        step(trainer, 0, 2)
        assert metric(trainer, "rounds") == rounds


def nobody_is_judged(prompt: str, number: int) -> str:
    return f"<think> {13 if number_of(prompt) == 1 else number % 2} </think> <answer> {number} </answer> <|im_end|>"


def test_a_group_that_nobody_could_judge_says_nothing(rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    with told(tmp_path, keys_of(block), nobody_is_judged, scorer, problems=12) as trainer:
        step(trainer)
        assert asked(trainer)[0] == "p2" and "p1" not in asked(trainer) and metric(trainer, "unjudged") == SIZE


def only_the_first_tells(prompt: str, number: int) -> str:
    right = number % 2 if number_of(prompt) == 1 else 0
    return f"<think> {right} </think> <answer> {number % 3} </answer> <|im_end|>"


@pytest.mark.parametrize(
    ("problems", "rounds", "why"), [(40, 3, "the budget is 3 rounds"), (4, 2, "there are no further problems")]
)
def test_a_step_that_cannot_be_filled_is_taken_with_what_there_is(
    problems: int, rounds: int, why: str, rewards: Any, tmp_path: Path
) -> None:
    scorer, block = rewards
    keys = keys_of(block, "dynamic_sampling.rounds=3", "beta=0.5")
    with told(tmp_path, keys, only_the_first_tells, scorer, problems=min(problems, 14)) as trainer:
        output = step(trainer)
        assert metric(trainer, "rounds") == rounds and metric(trainer, "frac_reward_zero_std") == 0.5
        (remark,) = trainer.said
        assert remark.startswith("step 1: 1 of 2 groups tell their completions apart by thought") and why in remark
        assert output["tool_mask"].any(dim=1).tolist() == [True] * SIZE + [False] * SIZE
        assert output["num_items_in_batch"] == output["completion_mask"][:SIZE].sum()
        shape = output["old_per_token_logps"].shape
        output["old_per_token_logps"] += 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
        trainer.current_gradient_accumulation_steps = 1
        alone = {name: value[:SIZE] if value.ndim else value for name, value in output.items()}
        loss = trainer.compute_loss(trainer.model, output).item()
        assert loss == pytest.approx(trainer.compute_loss(trainer.model, alone).item(), rel=1e-4) and abs(loss) > 1e-3
        lines = (tmp_path / "rollouts" / "step-000001.jsonl").read_text().splitlines()
        assert [json.loads(line)["in_loss"] for line in lines] == [True] * SIZE + [False] * SIZE


def test_a_step_without_any_signal_moves_nothing(rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    alike = odd_ones_tell("Start with 2 .", 0)
    with told(tmp_path, keys_of(block), lambda prompt, number: alike, scorer, problems=8) as trainer:
        output = step(trainer)
        assert "0 of 2 groups" in trainer.said[0] and metric(trainer, "groups_kept") == 0.0
        trainer.current_gradient_accumulation_steps = 1
        trainer.compute_loss(trainer.model, output).backward()
        assert all(not p.grad.any() for p in trainer.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("keys", [["dynamic_sampling.rounds=3"], ["dynamic_sampling=false", "curriculum=pass_rate"]])
def test_a_resumed_run_draws_what_the_uninterrupted_one_drew(keys: list[str], rewards: Any, tmp_path: Path) -> None:
    scorer, block = rewards
    keys = keys_of(block, "steps=4", "save_every=2", "learning_rate=1e-2", *keys)
    with told(tmp_path, keys, odd_ones_tell, scorer, problems=12) as trainer:
        trainer.train()
        whole, weights = trainer.calls, list(trainer.model.state_dict().values())
    with told(tmp_path, keys, odd_ones_tell, scorer, problems=12, resume_step=2) as trainer:
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "step-000002"))
        again = trainer.calls
        assert again == whole[-len(again) :] and 0 < len(again) < len(whole)
        pairs = zip(weights, trainer.model.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


# --- which problems are drawn --------------------------------------------------------------------------------------


def test_draws_are_a_function_of_seed_step_and_round() -> None:
    draws = Draws(50, seed=1)
    one = draws.draw(3, 1, 10, asked={4, 5})
    assert one == Draws(50, seed=1).draw(3, 1, 10, asked={4, 5}) and not {4, 5} & set(one) and len(set(one)) == 10
    others = [draws.draw(4, 1, 10), draws.draw(3, 2, 10), Draws(50, seed=2).draw(3, 1, 10)]
    assert all(set(other) != set(one) for other in others)
    assert sorted(draws.draw(1, 1, 99, asked=range(48))) == [48, 49], "what is left"


def test_a_curriculum_prefers_what_told_most(tmp_path: Path) -> None:
    draws = Draws(30, 0, tmp_path / "rates.jsonl")
    draws.note(1, {problem: 0.5 if problem < 10 else 0.0 for problem in range(20)}, write=True)
    counts = [0] * 30
    for step_ in range(300):
        for problem in draws.draw(step_, 0, 5):
            counts[problem] += 1
    telling, silent, unknown = sum(counts[:10]), sum(counts[10:20]), sum(counts[20:])
    assert telling == pytest.approx(unknown, rel=0.15) and 0 < silent < 3 * FLOOR * telling


def test_pass_rates_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "rates.jsonl"
    draws = Draws(3, 0, path)
    draws.note(1, {0: 0.5}, write=True)
    draws.note(2, {0: 0.1, 1: 0.3}, write=True)
    draws.note(3, {1: 0.0}, write=False)
    assert Draws(3, 0, path, resume_step=2).spread == {0: 0.1, 1: 0.3} == Draws(3, 0, path, resume_step=9).spread
    assert Draws(3, 0, path, resume_step=1).spread == {0: 0.5}
    assert len(path.read_text().splitlines()) == 1, "and what comes after is written again"
