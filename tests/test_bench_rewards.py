"""The measurement of how answers are verified: its truth is the truth, and it ends with a figure for every grader."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from aha import bench_rewards
from aha.rewards.load import load_reward


@pytest.mark.parametrize("kind", bench_rewards.PROBLEMS)
def test_what_it_takes_for_the_truth_is_true(kind: str) -> None:
    reward = load_reward("math_answer", {})
    for seed in range(8):
        batch = bench_rewards.make_batch(kind, random.Random(seed))
        for completion, problem, truth in zip(batch.completions, batch.problems, batch.truth, strict=True):
            (score,) = reward.score_group([completion], problem)
            assert score.value == truth, (problem.answer, completion.text[-80:], score.reason)


def test_it_says_how_far_it_is_and_leaves_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rewards, "REPEATS", 1)
    monkeypatch.setattr(bench_rewards, "STEPS", 4)
    monkeypatch.setattr(bench_rewards, "PROBLEMS", {"easy": 1, "hard": 1})
    bench_rewards.main(tmp_path)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4] and json.loads((tmp_path / "config.json").read_text()) == {"steps": 4}
    for graders in json.loads((tmp_path / "figures.json").read_text()).values():
        assert len(graders) == 4
        assert all(found["answers_per_second"] > 0 and found["right"] == 1.0 for found in graders.values()), graders
