"""Comparing algorithms: which runs are planned, and what is made of their curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from aha.bench_algorithms import HEAD, Bench, write_up
from aha.errors import RecipeError
from aha.rundir import write_jsonl

TINY = Path(__file__).resolve().parents[1] / "recipes" / "tiny.yaml"


def test_each_algorithm_starts_from_one_distilled_model_per_seed(tmp_path: Path) -> None:
    bench = Bench(TINY, tmp_path, ["grpo", "dapo"], [0, 7], ["grpo.steps=2", "cpt.tokens=1e4"])
    plans = list(bench.plans())
    names = [Path(plan.run_dir).name for plan in plans]
    assert names == ["start-0", "grpo-0", "dapo-0", "start-7", "grpo-7", "dapo-7"]
    assert [[stage.name for stage in plan.stages] for plan in plans[:3]] == [["cpt", "distill"], ["grpo"], ["grpo"]]
    assert plans[0].recipe.cpt is not None and plans[0].recipe.cpt.tokens == 10_000
    first, second = plans[4].recipe, plans[5].recipe
    assert first.model.path == str(tmp_path / "start-7" / "2-distill" / "model") and first.seed == 7
    assert first.grpo is not None and second.grpo is not None and first.grpo.steps == 2
    assert second.grpo == first.grpo.model_copy(update={"algorithm": "dapo"}), "and in nothing else"
    assert not any(tmp_path.iterdir()), "a plan writes nothing"


def test_an_algorithm_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ppo\n  expected  some of: grpo"):
        next(Bench(TINY, tmp_path, ["ppo"], [0]).plans())


def test_the_table_and_the_plot(tmp_path: Path) -> None:
    bench = Bench(TINY, tmp_path, ["grpo", "dapo"], [0, 1, 2])
    for name, level, sampled in (("grpo", 0.5, None), ("dapo", 0.6, 300)):
        for seed in bench.seeds:
            extra = {"completions_sampled": sampled} if sampled else {}
            rows = [
                {
                    "step": step,
                    "reward/math_answer": level + 0.1 * seed if step > 10 else 0.0,
                    "completion_length": 12.0,
                }
                | {"seconds/rollout": 0.25, "seconds/reward": 0.05, "seconds/train": 0.45, **extra}
                for step in range(1, 21)
            ]
            write_jsonl(tmp_path / f"{name}-{seed}" / "3-grpo" / "metrics.jsonl", rows)
    rows = write_up(bench)
    # Over 0.5, 0.6, 0.7: mean 0.6, deviation 0.1, and 4.303 x 0.1 / sqrt(3) = 0.248.
    assert rows[0] == ["grpo", "0.60 ± 0.25", "+0.000 ± 0.000", "12.0 ± 0.0", "as planned", "0.75 ± 0.00"]
    assert rows[1] == ["dapo", "0.70 ± 0.25", "+0.100 ± 0.000", "12.0 ± 0.0", "300 ± 0", "0.75 ± 0.00"]
    text = (tmp_path / "algorithms.md").read_text()
    assert f"| {' | '.join(HEAD)} |" in text and "seeds 0, 1, 2" in text and "| dapo | 0.70 ± 0.25 |" in text
    assert (tmp_path / "algorithms.png").read_bytes().startswith(b"\x89PNG")
