"""Every diagnosis on curves drawn for it: it speaks where it should, and is silent on a healthy run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import aha
from aha.errors import RunDirError
from aha.health import Diagnosis, Evidence, diagnose, examine
from aha.recipe import Recipe, dump_recipe, load_recipe, make_plan, recipe_hash
from aha.report import write_report
from aha.rundir import RunDir, write_json, write_jsonl, write_text

ROOT = Path(__file__).resolve().parents[1]
RECIPE = """\
name: sick
model: {from_scratch: {context: 128}}
hardware: {device: cpu}
grpo:
  data: [{builtin: arithmetic/problems}]
  rewards: {think_format: 0.5, math_answer: 1.0, tag_count: 0.5}
  steps: 60
  prompts_per_step: 4
  group_size: 4
  learning_rate: 1e-4
  rollout: {max_tokens: 24, max_prompt_tokens: 40}
eval: {max_tokens: 24, tasks: [{name: problems, data: [{builtin: arithmetic/problems}], grader: math_answer}]}
"""
Change = Callable[[float, random.Random], float]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe_of(tmp_path_factory.mktemp("recipe"))


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    (folder / "sick.yaml").write_text(RECIPE)
    return load_recipe(folder / "sick.yaml", overrides)


def metrics(steps: int = 60, **changed: Change | float | None) -> list[dict[str, Any]]:
    """A healthy run: reward and length rise together, entropy and spread fall a little, all of it with noise.

    `changed` draws one metric otherwise, as a function of the share of the run that is over; None takes it out.
    """
    healthy: dict[str, Change | float | None] = {
        "reward": lambda at, draw: 0.7 + 0.6 * at + draw.gauss(0, 0.03),
        "reward/math_answer": lambda at, draw: 0.3 + 0.4 * at + draw.gauss(0, 0.03),
        "reward/think_format": lambda at, draw: min(1.0, 0.7 + 0.4 * at),
        "reward/tag_count": lambda at, draw: 0.8 + 0.1 * at,
        "reward_std": lambda at, draw: 0.4 - 0.1 * at,
        "completion_length": lambda at, draw: 12 + 6 * at + draw.gauss(0, 0.5),
        "truncated": lambda at, draw: 0.1 - 0.08 * at,
        "no_signal": lambda at, draw: 0.1 + 0.3 * at + draw.gauss(0, 0.05),
        "entropy": lambda at, draw: 0.8 - 0.4 * at + draw.gauss(0, 0.02),
        "mismatch": lambda at, draw: 0.004 + abs(draw.gauss(0, 0.001)),
        "kl": lambda at, draw: 0.05 * at,
    }
    draw, rows = random.Random(0), []
    for step in range(1, steps + 1):
        values = {
            name: made(step / steps, draw) if callable(made) else made
            for name, made in (healthy | changed).items()
            if made is not None
        }
        rows.append({"step": step, "time": 1.76e9 + step, "loss": 0.01, **values})
    return rows


def rollouts(steps: int = 5, change: Callable[[dict[str, Any], int], None] | None = None) -> list[dict[str, Any]]:
    """Completions of healthy steps, in the trainer's own format; `change` alters each, told its place in its group."""
    rows = []
    for step in range(56, 56 + steps):
        for problem in range(4):
            first, second = 10 * step % 50 + problem, 3 * problem + 2
            for place in range(4):
                right = place % 2 == 0
                shown = first + second + (0 if right else place)
                row = {
                    "step": step,
                    "problem_id": f"arithmetic-{step}-{problem}",
                    "prompt": f"Start with {first} . Add {second} . What is the result ? ({step})",
                    "answer": str(first + second),
                    "completion": f"<think> {first} + {second} = {shown} </think> <answer> {shown} </answer> {place}",
                    "tokens": 14 + place,
                    "truncated": False,
                    "rewards": {
                        "think_format": verdict(1.0, "well formed"),
                        "math_answer": verdict(float(right), "equal" if right else "another number"),
                        "tag_count": verdict(1.0, "4 of 4"),
                    },
                    "reward": 1.0 + right,
                    "advantage": 1.0 if right else -1.0,
                }
                if change:
                    change(row, place)
                rows.append(row)
    return rows


def verdict(value: float | None, reason: str) -> dict[str, Any]:
    return {"value": value, "reason": reason, "seconds": 0.001}


def found(recipe: Recipe, rows: list[dict[str, Any]], texts: list[dict[str, Any]] | None = None) -> list[Diagnosis]:
    return diagnose(Evidence(recipe, rows, rollouts() if texts is None else texts))


def only(diagnoses: list[Diagnosis], name: str) -> Diagnosis:
    assert [one.name for one in diagnoses] == [name], diagnoses
    return diagnoses[0]


# --- healthy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 13, 60, 300])
def test_a_healthy_run_has_no_diagnosis(recipe: Recipe, steps: int) -> None:
    assert found(recipe, metrics(steps)) == []


@pytest.mark.parametrize("seed", range(40))
def test_noise_is_no_trend(recipe: Recipe, seed: int) -> None:
    """Curves that go nowhere, with a lot of noise: forty draws, and no rule that compares ends speaks."""
    draw = random.Random(seed)

    def flat(level: float) -> Change:
        return lambda at, _: level * (1 + draw.gauss(0, 0.3))

    names = ("reward", "reward/math_answer", "reward/think_format", "completion_length", "entropy", "mismatch")
    assert found(recipe, metrics(60, **{name: flat(0.3) for name in names})) == []


def test_missing_values_are_no_evidence(recipe: Recipe) -> None:
    """A log that holds only nulls, text, absurd numbers or nothing."""
    for value in (None, "high", True, [1], 10**400):
        rows = [{"step": step, "truncated": value, "kl": value, "mismatch": value} for step in range(1, 61)]
        assert found(recipe, rows, [{"step": 1, "rewards": value, "reward": value}]) == []


# --- the curves ----------------------------------------------------------------------------------------------------


def test_truncation_starved(recipe: Recipe) -> None:
    one = only(found(recipe, metrics(truncated=0.7)), "truncation-starved")
    assert one.severity == "severe" and one.keys == ("grpo", "rollout", "max_tokens")
    assert one.evidence.startswith("70% of the completions were cut off at 24 tokens, steps 56-60")
    assert "95 % did within 17 tokens" in one.evidence
    assert one.advice == "raise it from 24 to 48"
    assert only(found(recipe, metrics(truncated=0.4)), "truncation-starved").severity == "warn"


def test_truncation_without_room_names_what_is_in_the_way(tmp_path: Path) -> None:
    full = recipe_of(tmp_path, "grpo.rollout.max_tokens=88")
    assert "raise model.from_scratch.context first" in found(full, metrics(truncated=0.7))[0].advice
    never_ends = rollouts(change=lambda row, place: row.update(truncated=True))
    assert "none ended by itself" in found(full, metrics(truncated=1.0), never_ends)[0].evidence


@pytest.mark.parametrize(("level", "word", "key"), [(0.95, "too easy", "data"), (0.03, "too hard", "group_size")])
def test_no_signal_says_whether_easy_or_hard(recipe: Recipe, level: float, word: str, key: str) -> None:
    one = only(
        found(recipe, metrics(no_signal=0.9, completion_length=12.0, **{"reward/math_answer": level})),
        "no-signal-groups",
    )
    assert word in one.advice and one.keys == ("grpo", key)
    assert "in 90% of the groups all 4 rewards were equal, steps 56-60" in one.evidence


def test_what_dynamic_sampling_chose_is_not_taken_for_the_policy(tmp_path: Path) -> None:
    """Its batch has about half of the outcomes right whatever the policy can do; the metrics are of what it chose from."""
    chosen = recipe_of(tmp_path, "grpo.dynamic_sampling=true")
    assert Evidence(chosen, metrics(), rollouts()).correct == pytest.approx(0.68, abs=0.05)
    sharp = {
        "entropy": lambda at, draw: 0.8 * 0.01**at,
        "reward/math_answer": 0.95,
        "reward": 1.5,
        "completion_length": 12.0,
    }
    assert found(chosen, metrics(**sharp), rollouts()) == [], "a policy that is right may be sure"
    assert only(found(recipe_of(tmp_path), metrics(**sharp), rollouts()), "entropy-collapse")
    one = only(
        found(chosen, metrics(no_signal=0.9, completion_length=12.0, **{"reward/math_answer": 0.03})),
        "no-signal-groups",
    )
    assert "90% of the batch stayed without signal after all rounds of dynamic sampling, steps 56-60" in one.evidence


def test_the_recipe_says_what_the_outcome_is(tmp_path: Path) -> None:
    assert Evidence(recipe_of(tmp_path), [], []).outcome == "math_answer"
    assert Evidence(recipe_of(tmp_path, "grpo.outcome=tag_count"), [], []).outcome == "tag_count"


def test_mismatch_drift(recipe: Recipe) -> None:
    """The curve of a stale tied head: 0.004 to 0.038."""
    one = only(found(recipe, metrics(mismatch=lambda at, draw: 0.004 + 0.034 * at)), "mismatch-drift")
    assert one.severity == "severe" and "(steps 1-20)" in one.evidence and "(steps 41-60)" in one.evidence
    assert found(recipe, metrics(mismatch=lambda at, draw: 1e-6 + 1e-5 * at)) == [], "rounding is no drift"


def test_entropy_collapse(recipe: Recipe) -> None:
    collapse = metrics(entropy=lambda at, draw: 0.8 * 0.01**at)
    one = only(found(recipe, collapse), "entropy-collapse")
    assert one.severity == "severe" and one.keys == ("grpo", "clip_high") and "math_answer of 0.50" in one.evidence

    def solve(row: dict[str, Any], place: int) -> None:
        row["rewards"]["math_answer"] = verdict(0.0 if place == 3 and row["step"] == 56 else 1.0, "equal")

    assert found(recipe, collapse, rollouts(change=solve)) == [], "a policy that is right may be sure"


def test_entropy_collapse_is_seen_in_the_texts_where_it_is_not_logged(recipe: Recipe) -> None:
    same = rollouts(change=lambda row, place: row.update(completion=f"7 for {row['problem_id']}"))
    one = only(found(recipe, metrics(entropy=None), same), "entropy-collapse")
    assert "a group of 4 holds 1.0 different completions on average" in one.evidence
    assert "entropy is not logged" in one.evidence
    assert found(recipe, metrics(), same) == [], "where entropy is logged, it decides"
    assert found(recipe, metrics(entropy=None)) == []


def test_length_hack(recipe: Recipe) -> None:
    longer = {"completion_length": lambda at, draw: 12 + 20 * at, "reward/math_answer": lambda at, draw: 0.4}
    one = only(found(recipe, metrics(**longer)), "length-hack")
    assert "from 16 (steps 1-20) to 29 (steps 41-60)" in one.evidence and "math_answer went from 0.40" in one.evidence
    assert one.keys == ("grpo", "rewards", "think_format"), "the reward that rose with the length"
    constant = {"reward/think_format": 1.0, "reward/tag_count": 1.0}
    assert only(found(recipe, metrics(**longer, **constant)), "length-hack").keys == ("grpo", "algorithm")


def test_length_hack_that_begins_half_way(recipe: Recipe) -> None:
    late = {
        "completion_length": lambda at, draw: 12 if at < 0.5 else 48 * at - 12,
        "reward/math_answer": lambda at, draw: min(0.6, 0.2 + at),
    }
    assert only(found(recipe, metrics(120, **late)), "length-hack").evidence.count("steps 101-120")


def test_reward_hack(recipe: Recipe) -> None:
    falling = {"reward/math_answer": lambda at, draw: 0.5 - 0.4 * at + draw.gauss(0, 0.03)}
    rows = metrics(completion_length=12.0, **falling)
    one = only(found(recipe, rows), "reward-hack")
    assert one.severity == "severe" and one.keys == ("grpo", "rewards", "think_format")
    assert "math_answer went from 0.4" in one.evidence


@pytest.mark.parametrize(("kl", "severity"), [(0.8, "warn"), (5.0, "severe")])
def test_kl_blow_up(recipe: Recipe, kl: float, severity: str) -> None:
    one = only(found(recipe, metrics(kl=lambda at, draw: kl if at > 0.9 else 0.01)), "kl-blow-up")
    assert one.severity == severity and one.keys == ("grpo", "learning_rate")
    assert "it was 0.01 at step 1" in one.evidence and "from 0.0001 to 5e-05" in one.advice


# --- the completions -----------------------------------------------------------------------------------------------


def test_dead_reward_that_is_constant(recipe: Recipe) -> None:
    def fail(row: dict[str, Any], place: int) -> None:
        row["rewards"]["math_answer"] = verdict(0.0, "no answer found")
        row["reward"] = 0.9 + 0.01 * place

    one = only(found(recipe, metrics(), rollouts(change=fail)), "dead-reward")
    assert one.evidence == "math_answer was 0 for all 80 completions of steps 56-60; mostly: no answer found"
    assert one.keys == ("grpo", "rewards", "math_answer") and "nothing passes" in one.advice
    assert found(recipe, metrics(), rollouts(4, fail)) == [], "four steps are no diagnosis yet"


def test_a_reason_that_quotes_a_hostile_text_stays_on_its_line(recipe: Recipe) -> None:
    def fail(row: dict[str, Any], place: int) -> None:
        row["rewards"]["math_answer"] = verdict(0.0, "got \x1b[31m\nhealth: all is well\udc80")

    one = only(found(recipe, metrics(), rollouts(change=fail)), "dead-reward")
    assert one.evidence.endswith("mostly: got ·[31m·health: all is well·")


def test_dead_reward_that_judges_nothing(recipe: Recipe) -> None:
    def decline(row: dict[str, Any], place: int) -> None:
        row["rewards"]["tag_count"] = verdict(None, "no tags given")

    one = only(found(recipe, metrics(), rollouts(change=decline)), "dead-reward")
    assert one.evidence == "tag_count judged none of the 80 completions of steps 56-60; mostly: no tags given"


def test_a_dead_total_is_not_called_no_signal_too(recipe: Recipe) -> None:
    equal = rollouts(change=lambda row, place: row.update(reward=1.0))
    one = only(found(recipe, metrics(no_signal=1.0, reward_std=0.0), equal), "dead-reward")
    assert one.evidence.startswith("the total was 1 for all 80 completions")


def test_one_text_that_fits_all_problems(recipe: Recipe) -> None:
    def hack(row: dict[str, Any], place: int) -> None:
        if place == 0:
            row["completion"] = "<answer> whatever you say </answer>"

    one = only(found(recipe, metrics(), rollouts(change=hack)), "reward-hack")
    assert one.evidence.startswith("20 of 80 completions, steps 56-60, have full marks of math_answer")
    assert "whatever you say" in one.evidence and one.severity == "severe"


def test_the_same_right_answer_to_two_problems_is_no_hack(recipe: Recipe) -> None:
    def alike(row: dict[str, Any], place: int) -> None:
        row.update(completion=f"<answer> 12 </answer> {place}", answer="12")

    assert found(recipe, metrics(), rollouts(change=alike)) == []


def test_unjudged(recipe: Recipe) -> None:
    def slow(row: dict[str, Any], place: int) -> None:
        if place == 3:
            row["reward"] = None
            row["rewards"]["math_answer"] = verdict(None, "deadline of 5.0 s passed")

    one = only(found(recipe, metrics(), rollouts(change=slow)), "unjudged")
    assert one.severity == "warn" and one.keys == ("grpo", "reward_deadline")
    assert "20 of 80 completions of steps 56-60 had no verdict; math_answer declined 20" in one.evidence


def test_duplicate_prompts(recipe: Recipe) -> None:
    def copy(row: dict[str, Any], place: int) -> None:
        if row["problem_id"].endswith("-0"):
            row["prompt"] = "Start with 4. Add 2." if row["step"] % 2 else "start with 4.  Add 2"

    one = only(found(recipe, metrics(), rollouts(change=copy)), "duplicate-prompts")
    assert one.evidence.startswith("5 of 20 groups, steps 56-60") and "arithmetic-56-0" in one.evidence
    assert one.keys == ("grpo", "data")


def test_a_problem_that_comes_back_in_a_later_epoch_is_no_duplicate(recipe: Recipe) -> None:
    again = rollouts(
        change=lambda row, place: row.update(problem_id=row["problem_id"][-1], prompt=row["problem_id"][-1])
    )
    assert found(recipe, metrics(), again) == []


# --- a run directory -----------------------------------------------------------------------------------------------


def run_of(root: Path, recipe: Recipe, rows: list[dict[str, Any]], texts: list[dict[str, Any]]) -> Path:
    """What the pipeline and the trainer leave, with the recipe as a person wrote it."""
    RunDir(root).claim(dump_recipe(recipe), recipe_hash(recipe))
    write_text(root / "plan.json", make_plan(recipe, root, "sick.yaml").model_dump_json())
    write_jsonl(root / "3-grpo" / "metrics.jsonl", rows)
    for step in {row["step"] for row in texts}:
        write_jsonl(root / f"3-grpo/rollouts/step-{step:06d}.jsonl", [row for row in texts if row["step"] == step])
    return root


def doctor(run: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1]), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "aha.cli", "doctor", str(run)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_diagnosis_names_the_line_of_the_recipe(tmp_path: Path, recipe: Recipe) -> None:
    run = run_of(tmp_path / "run", recipe, metrics(truncated=0.7), rollouts())
    seen = examine(run)
    lines = (run / "recipe.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "max_tokens: 24" in text)
    assert seen.place(seen.diagnoses[0].keys) == f"{run}/recipe.yaml:{line}  grpo.rollout.max_tokens"
    block = next(number for number, text in enumerate(lines, 1) if text.startswith("grpo:"))
    assert seen.place(("grpo", "clip_high")) == f"{run}/recipe.yaml:{block}  grpo.clip_high", (
        "not set: where its block is"
    )


def test_the_command_shows_it_and_says_so_with_its_exit_code(tmp_path: Path, recipe: Recipe) -> None:
    sick = doctor(run_of(tmp_path / "sick", recipe, metrics(truncated=0.7, kl=None, entropy=None), rollouts()))
    assert (sick.returncode, sick.stderr) == (3, "")
    shown = " ".join(sick.stdout.split())
    for words in ("severe truncation-starved", "recipe.yaml:", "grpo.rollout.max_tokens", "raise it from 24 to 48"):
        assert words in shown
    assert "KL is not logged" in shown and "entropy is not logged" in shown
    well = doctor(run_of(tmp_path / "well", recipe, metrics(), rollouts()))
    assert (well.returncode, well.stderr) == (0, "") and "nothing found" in well.stdout
    none = doctor(tmp_path / "nowhere")
    assert (none.returncode, none.stdout) == (1, "")
    assert "is not a run directory" in none.stderr and "Traceback" not in none.stderr


def test_only_the_newest_steps_are_read_and_all_processes_of_them(tmp_path: Path, recipe: Recipe) -> None:
    run = run_of(tmp_path / "run", recipe, metrics(), rollouts(9))
    (run / "3-grpo/rollouts/step-000064.jsonl").rename(run / "3-grpo/rollouts/step-000064-rank0.jsonl")
    other = (run / "3-grpo/rollouts/step-000064-rank0.jsonl").read_text()
    (run / "3-grpo/rollouts/step-000064-rank1.jsonl").write_text(other)
    assert examine(run).looked_at == "60 logged steps, 96 completions of the newest 5"


def test_a_step_that_was_not_finite_is_told_until_the_stage_has_finished(tmp_path: Path, recipe: Recipe) -> None:
    run = run_of(tmp_path / "run", recipe, metrics(), rollouts())
    write_json(run / "3-grpo" / "nonfinite.json", {"step": 12, "loss": "nan", "grad_norm": "inf"})
    one = only(examine(run).diagnoses, "non-finite")
    assert "loss nan and gradient norm inf at step 12" in one.evidence and "nonfinite.json" in one.evidence
    RunDir(run).mark_done("grpo", {})
    assert examine(run).diagnoses == []


def test_a_run_before_its_first_step_and_one_too_damaged(tmp_path: Path, recipe: Recipe) -> None:
    run = run_of(tmp_path / "run", recipe, metrics(3), [])
    assert "fewer than 5 steps are logged" in " ".join(examine(run).notes)
    (run / "3-grpo" / "metrics.jsonl").unlink()
    assert "grpo has not logged a step yet" in examine(run).notes[0]
    (run / "3-grpo" / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(RunDirError, match="damaged"):
        examine(run)
    (run / "plan.json").write_text(json.dumps({"recipe": {"grpo": {}}}))
    with pytest.raises(RunDirError, match="holds no recipe"):
        examine(run)


def test_the_report_has_the_same_findings(tmp_path: Path, recipe: Recipe) -> None:
    run = run_of(tmp_path / "run", recipe, metrics(truncated=0.7), rollouts())
    write_report(run)
    markdown = (run / "report.md").read_text()
    assert "truncation-starved" in markdown and "raise it from 24 to 48" in markdown
    assert "truncation-starved" in (run / "report.html").read_text()


def test_the_watchdog_does_not_change_the_run(tmp_path: Path, recipe: Recipe) -> None:
    other = recipe_of(tmp_path, "grpo.health=stop")
    assert recipe.grpo and recipe.grpo.health == "warn" and other.grpo and other.grpo.health == "stop"
    assert recipe_hash(recipe) == recipe_hash(other)
    plans = [make_plan(one, tmp_path / "run", "sick.yaml").stages[0].inputs_hash for one in (recipe, other)]
    assert plans[0] == plans[1]
