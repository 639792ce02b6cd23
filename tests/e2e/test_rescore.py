"""A run's own rollouts, scored again: with the same rewards they come out as the trainer had them."""

from __future__ import annotations

from pathlib import Path

from nano import aha

from aha.rundir import read_jsonl


def test_the_same_rewards_change_nothing(finished: Path) -> None:
    done = aha("rescore", finished, cwd=finished.parent.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_jsonl(finished / "rescored.jsonl")
    assert len(lines) == 6 * 4 * 4
    assert not any(line["flip"] or line["turned"] for line in lines)
    assert all(line["old"] == {**line["new"], "rewards": line["old"]["rewards"]} for line in lines)
    recorded = [row["advantage"] for path in sorted(finished.glob("3-grpo/rollouts/*")) for row in read_jsonl(path)]
    assert max(abs(line["new"]["advantage"] - one) for line, one in zip(lines, recorded, strict=True)) < 2e-3
    assert "no longer in the run's data" not in done.stdout, "problems are found again by their ids"


def test_another_reward_turns_gradients(finished: Path) -> None:
    done = aha("rescore", finished, "grpo.rewards={think_format: 1.0}", "--output", "other.jsonl", cwd=finished.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = read_jsonl(finished.parent / "other.jsonl")
    assert {name for line in lines for name in line["new"]["rewards"]} == {"think_format"}
    assert any(line["turned"] for line in lines)
