"""One recipe through three real stages, real vLLM, evaluation and report; and what the run directory then holds."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

from nano import BF16, aha

from aha.data.chat import ChatFormat
from aha.models.load import fingerprint
from aha.report import write_report

STAGES = ("1-cpt", "2-distill", "3-grpo")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stage_hands_over_what_it_says(finished: Path) -> None:
    for stage in STAGES:
        done = json.loads((finished / stage / "done.json").read_text())
        assert done["checkpoint"]["fingerprint"] == fingerprint(finished / stage / "model")
    parents = [json.loads((finished / stage / "done.json").read_text())["parent"] for stage in STAGES]
    assert parents[0] == fingerprint(finished / "0-base")
    assert parents[1:] == [fingerprint(finished / stage / "model") for stage in STAGES[:2]]


def test_chat_format_travels_through_all_stages(finished: Path) -> None:
    formats = {ChatFormat.load(folder) for folder in (finished / "0-base", *(finished / s / "model" for s in STAGES))}
    assert len(formats) == 1


def test_metrics_are_whole(finished: Path) -> None:
    for stage, steps in zip(STAGES, (8, 8, 6), strict=True):
        rows = lines(finished / stage / "metrics.jsonl")
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        assert all(math.isfinite(row["loss"]) for row in rows)


def test_no_second_of_a_step_is_counted_twice(finished: Path) -> None:
    rows = lines(finished / "3-grpo" / "metrics.jsonl")
    for before, row in itertools.pairwise(rows):
        spent = {key: value for key, value in row.items() if key.startswith("seconds/")}
        assert {"seconds/rollout", "seconds/reward", "seconds/train"} <= set(spent)
        assert sum(spent.values()) <= row["time"] - before["time"], spent


def test_every_stage_moves_the_weights(finished: Path) -> None:
    for stage in STAGES:
        assert all(row["grad_norm"] > 0 for row in lines(finished / stage / "metrics.jsonl")), stage
    folders = (finished / "0-base", *(finished / stage / "model" for stage in STAGES))
    assert len({fingerprint(folder) for folder in folders}) == 4


def test_the_engine_samples_the_policy_that_is_trained(finished: Path) -> None:
    """Mean |logp of the trainer - logp of the engine| over all sampled tokens, at every step: rounding."""
    rows = lines(finished / "3-grpo" / "metrics.jsonl")
    assert all(row["mismatch"] < (5e-3 if BF16 else 1e-4) for row in rows), [row["mismatch"] for row in rows]


def test_every_rollout_is_kept_with_its_verdicts(finished: Path) -> None:
    for step in range(1, 7):
        rollouts = lines(finished / "3-grpo" / "rollouts" / f"step-{step:06d}.jsonl")
        assert len(rollouts) == 16
        for group in range(4):
            members = rollouts[4 * group : 4 * group + 4]
            assert len({row["problem_id"] for row in members}) == 1
        for row in rollouts:
            assert set(row["rewards"]) == {"math_answer", "think_format", "digit_share"}
            assert all(verdict["reason"] for verdict in row["rewards"].values())


def test_kernels_are_named_stage_by_stage(finished: Path) -> None:
    fused = {stage: json.loads((finished / stage / "kernels.json").read_text())["fused"] for stage in STAGES}
    assert [kernel["kernel"] for kernel in fused["1-cpt"]] == ["linear_cross_entropy"]
    assert [(kernel["kernel"], kernel["by"]) for kernel in fused["3-grpo"]] == [("grpo_loss", "liger")]


def test_results_cover_every_checkpoint(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    assert set(results) == set(STAGES)
    for stage in STAGES:
        for task in ("facts", "problems"):
            found = results[stage]["tasks"][task]
            samples = lines(finished / "eval" / stage / f"{task}.jsonl")
            assert len(samples) == 80
            mean = sum(row["value"] >= 1 for row in samples) / 80
            assert math.isclose(found["pass_at_1"]["value"], mean)
            assert found["pass_at_1"]["low"] <= mean <= found["pass_at_1"]["high"]


def test_report_is_written_and_named(finished: Path, nano: Path) -> None:
    assert "<svg" in (finished / "report.html").read_text()
    assert "pass@1" in (finished / "report.md").read_text()
    assert "report.html" in (nano / "first_output.txt").read_text()


def test_the_same_command_again_does_nothing(finished: Path, nano: Path) -> None:
    before = (finished / "3-grpo" / "done.json").stat().st_mtime_ns
    again = aha("run", "nano.yaml", cwd=nano)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("skipped: finished, and its inputs are the same") == 3
    assert (finished / "3-grpo" / "done.json").stat().st_mtime_ns == before


def test_a_run_directory_of_another_recipe_is_refused(finished: Path, nano: Path) -> None:
    refused = aha("run", "nano.yaml", "grpo.steps=7", cwd=nano)
    assert refused.returncode == 1
    assert "belongs to a different recipe" in refused.stderr and "steps: 7" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_task_that_a_stage_is_not_asked_is_not_missing(finished: Path, tmp_path: Path) -> None:
    """`stages: [cpt]` on a task means the same to the report as to the evaluation."""
    run = tmp_path / "run"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("model", "checkpoints", "0-base"))
    plan = json.loads((run / "plan.json").read_text())
    results = json.loads((run / "results.json").read_text())
    for stage in STAGES[1:]:
        del results[stage]["tasks"]["facts"]
    (run / "results.json").write_text(json.dumps(results))
    write_report(run)
    assert "was to be evaluated on facts" in (run / "report.md").read_text()
    plan["recipe"]["eval"]["tasks"][0]["stages"] = ["cpt"]
    (run / "plan.json").write_text(json.dumps(plan))
    write_report(run)
    assert "was to be evaluated on facts" not in (run / "report.md").read_text()
