"""Comparing the ways to draw completions: which runs are planned, what is made of their timelines, and one real comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nano import NANO, aha

from aha.bench_overlap import Bench, table, write_up
from aha.errors import RecipeError, StageError
from aha.recipe import load_recipe
from aha.recipe.overlaps import WAYS
from aha.recipe.plan import make_plan
from aha.rundir import RunDir, write_json, write_jsonl, write_text


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run that ends with a finished GRPO stage, as far as files tell."""
    root = tmp_path / "run"
    write_text(root / "recipe.yaml", NANO)
    plan = make_plan(load_recipe(root / "recipe.yaml"), root, str(root / "recipe.yaml"))
    write_text(root / "plan.json", plan.model_dump_json())
    write_json(RunDir(root).stage("distill") / "model" / "config.json", {})
    RunDir(root).mark_done("grpo", {})
    return root


def test_the_ways_take_turns_on_the_same_steps(finished: Path) -> None:
    write_text(finished / "overlap" / "colocate-1" / "of-an-earlier-bench", "")
    plans = list(Bench(finished, steps=5, repeats=2, overrides=["hardware.threads=1"]).plans())
    ways = ["colocate", "server-synchronous", "server-pipelined", "server-asynchronous"]
    assert [Path(plan.run_dir).name for plan in plans] == [f"{way}-{turn}" for turn in (1, 2) for way in ways]
    for plan in plans:
        recipe = plan.recipe
        assert [stage.name for stage in plan.stages] == ["grpo"] and recipe.eval is None
        assert recipe.model.path == str(finished / "2-distill" / "model") and recipe.hardware.threads == 1
        assert recipe.grpo is not None and recipe.grpo.steps == 5
    assert [plan.recipe.grpo.rollout.overlap for plan in plans[:4] if plan.recipe.grpo] == [
        "none",
        "none",
        "pipelined",
        "async",
    ]
    assert not (finished / "overlap").exists(), "an earlier bench is gone, and a plan writes nothing"


def test_what_cannot_be_compared(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no finished GRPO stage"):
        next(Bench(tmp_path / "nowhere").plans())
    with pytest.raises(RecipeError, match="dynamic_sampling"):
        next(Bench(finished, overrides=["grpo.dynamic_sampling=true"]).plans())
    (RunDir(finished).stage("grpo") / "done.json").unlink()
    with pytest.raises(StageError, match="no finished GRPO stage"):
        next(Bench(finished).plans())


def test_medians_of_turns_and_ratios_within_each(finished: Path) -> None:
    bench = Bench(finished, steps=4, repeats=3)
    for turn, slow in enumerate((1.0, 4.0, 1.0)):  # in the second, the whole machine was slow
        for way, seconds in zip(WAYS, (2.0, 2.0, 1.6, 1.0), strict=True):
            lasts = slow * seconds
            rows = [
                {
                    "step": step,
                    "policy_step": step - 1,
                    "spans": [
                        ["server 0", "draw", step * lasts, step * lasts + lasts / 4],
                        ["trainer", "train", step * lasts + lasts / 8, (step + 1) * lasts],
                    ],
                }
                for step in range(1, 5)
            ]
            write_jsonl(bench.run_dir(way, turn) / "3-grpo" / "timeline.jsonl", rows)
    figures = write_up(bench)
    assert [found["seconds_per_step"] for found in figures.values()] == pytest.approx([2.0, 2.0, 1.6, 1.0])
    assert [found["times_as_fast"] for found in figures.values()] == pytest.approx([1.0, 1.0, 1.25, 2.0])
    assert figures["server, asynchronous"]["overlap"] == pytest.approx(0.5)
    assert json.loads((finished / "overlap.json").read_text()) == figures
    assert "<svg" in (finished / "overlap.svg").read_text()
    shown = {row[0]: row[3] for row in table(figures)[:-1]}
    assert shown[""] == "server\npipelined" and shown["seconds of a step"] == "1.600"
    assert shown["times as fast"] == "1.25" and table(figures)[-1][3] == "1.25 to 1.25"


@pytest.mark.long
def test_a_real_comparison(tmp_path: Path) -> None:
    recipe = tmp_path / "nano.yaml"
    recipe.write_text(NANO)
    small = ("eval=", "cpt=", "grpo.rollout.engine=transformers")
    ran = aha("run", recipe, *small, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    done = aha("bench-overlap", "runs/nano", "--steps", "5", "--repeats", "1", "grpo.micro_batch=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "runs/nano/overlap.json").read_text())
    assert list(figures) == list(WAYS)
    for way, found in figures.items():
        assert found["seconds_per_step"] > 0 and found["times_as_fast"] > 0, way
        assert way.rpartition(" ")[2] in done.stdout
    assert figures["server, synchronous"]["times_as_fast"] == 1.0 and figures["server, synchronous"]["overlap"] == 0.0
    assert figures["server, asynchronous"]["overlap"] > 0.0
