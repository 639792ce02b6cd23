"""`aha rescore`: flips, advantages and signs, on rollouts written as a trainer writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aha
from aha.data.sources import read_problems
from aha.errors import RecipeError, RunDirError
from aha.recipe import dump_recipe, load_recipe
from aha.reward_kit.rescore import Rescoring, advantages
from aha.rewards.scorer import Scorer
from aha.rundir import read_jsonl, write_jsonl
from aha.types import Completion

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
model: {from_scratch: {}}
grpo:
  data: [{path: problems.jsonl}]
  rewards: {math_answer: 1.0}
  steps: 2
  prompts_per_step: 2
  group_size: 4
  rollout: {max_tokens: 24, max_prompt_tokens: 40}
"""
TEXTS = ["<answer>5</answer>", "\\boxed{5}", "<answer>6</answer>", "<think>5"]
"""In the eyes of math_answer right, right, wrong, wrong; with `require: boxed` only the second one is right."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AHA_REWARD_FNS", str(ROOT / "reward_fns"))
    problems = [{"prompt": f"{n} + {5 - n}?", "answer": "5", "id": f"p{n}", "nums": [n, 5 - n]} for n in range(4)]
    write_jsonl("problems.jsonl", problems)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    write_run(tmp_path / "run", [])
    return tmp_path / "run"


def write_run(root: Path, overrides: list[str], advantage: Any = None) -> None:
    """Two steps of two problems each, judged by the recipe's rewards. Advantages as TRL's code has them, by hand."""
    recipe = load_recipe("recipe.yaml", overrides)
    root.mkdir(exist_ok=True)
    (root / "recipe.yaml").write_text("# recipe 0123\n" + dump_recipe(recipe))
    assert recipe.grpo is not None
    problems = sorted(read_problems(recipe.grpo.data, recipe.seed)[0], key=lambda problem: problem.id)
    with Scorer(recipe.grpo.rewards) as scorer:
        for step in (1, 2):
            asked = [problem for problem in problems[2 * step - 2 : 2 * step] for _ in TEXTS]
            answers = [Completion(text, tokens=len(text), truncated="</" not in text) for text in TEXTS * 2]
            judged = scorer.score(answers, asked, 4)
            lines = [
                {
                    "step": step,
                    "problem_id": problem.id,
                    "prompt": problem.prompt,
                    "answer": problem.answer,
                    "completion": answer.text,
                    "tokens": answer.tokens,
                    "truncated": answer.truncated,
                    "rewards": {
                        name: {"value": verdict.value, "reason": verdict.reason, "seconds": 0.0}
                        for name, verdict in one.verdicts.items()
                    },
                    "reward": one.total,
                    "advantage": advantage if advantage is not None else HALVES[one.total],
                }
                for problem, answer, one in zip(asked, answers, judged, strict=True)
            ]
            write_jsonl(root / "3-grpo" / "rollouts" / f"step-{step:06d}.jsonl", lines)


HALVES = {1.0: 0.865875, 0.0: -0.865875}
"""Two of four are right: mean 1/2, deviation sqrt(1/3) = 0.577350, and 0.5 / (0.577350 + 0.0001)."""


def rescored(root: Path, *overrides: str) -> tuple[Rescoring, list[dict[str, Any]]]:
    rescoring = Rescoring(root, overrides)
    assert list(rescoring.run()) == [1, 2]
    return rescoring, read_jsonl(root / "rescored.jsonl")


def test_a_stricter_argument(run: Path) -> None:
    rescoring, lines = rescored(run, "grpo.rewards.math_answer.require=boxed")
    result = rescoring.result
    assert (result.compared, result.scaling, result.notes) == ([("math_answer", "math_answer")], "group", [])
    assert len(lines) == 16
    first = lines[0]
    assert (first["flip"], first["turned"]) == ("down", True)
    assert first["old"]["reward"] == 1.0 and first["old"]["advantage"] == pytest.approx(0.865875, abs=1e-6)
    assert first["new"]["reward"] == 0.0 and first["new"]["advantage"] == pytest.approx(-0.4999, abs=1e-3)
    assert [line["flip"] for line in lines[:4]] == ["down", None, None, None]
    change = result.changes["p0"]
    assert (change.completions, change.up, change.down, change.turned) == (4, 0, 1, 1)
    expected = [0.865875 + 0.4999, 1.4997 - 0.865875, 0.865875 - 0.4999, 0.865875 - 0.4999]
    assert change.moved == pytest.approx(sum(expected), abs=1e-3)
    assert len(result.flips["down"]) == 3 and result.flips["up"] == []
    flip = result.flips["down"][0]
    assert (flip.old, flip.new) == ("1, spelt like the reference", "0, no answer given")


def test_another_reward_in_its_place(run: Path) -> None:
    rescoring, lines = rescored(run, "reward=think_format")
    assert rescoring.result.compared == [("math_answer", "think_format")]
    assert {line["new"]["reward"] for line in lines} == {0.0}
    assert all(line["new"]["advantage"] == 0.0 and line["turned"] for line in lines), "nothing is left to learn"


def test_a_reward_beside_it_moves_advantages_but_flips_nothing(run: Path) -> None:
    rescoring, lines = rescored(run, "grpo.rewards.tag_count=0.5")
    assert {line["flip"] for line in lines} == {None}
    assert set(lines[0]["new"]["rewards"]) == {"math_answer", "tag_count"}
    assert all(change.moved > 0 for change in rescoring.result.changes.values())


def test_the_same_rewards_change_nothing(run: Path) -> None:
    rescoring, lines = rescored(run)
    assert [change.moved for change in rescoring.result.changes.values()] == [0.0] * 4
    assert not any(line["turned"] or line["flip"] for line in lines)


def test_rewards_see_the_columns_that_the_run_saw(run: Path) -> None:
    _, lines = rescored(run, "reward=countdown")
    assert lines[0]["new"]["rewards"]["countdown"]["reason"] == "not the given numbers"
    assert {line["flip"] for line in lines[:2]} == {"down"}


def test_data_that_are_gone_or_changed_are_told(run: Path) -> None:
    rows = read_jsonl("problems.jsonl")
    write_jsonl("problems.jsonl", [{**rows[0], "answer": "7"}, *rows[1:]])
    rescoring, lines = rescored(run, "reward=countdown")
    assert "1 of 4 problems are no longer in the run's data (p0" in rescoring.result.notes[0]
    assert lines[0]["answer"] == "5" and lines[0]["flip"] == "verdict"
    assert lines[0]["new"]["rewards"]["countdown"]["reason"] == "the problem carries no numbers"
    Path("problems.jsonl").unlink()
    rescoring, lines = rescored(run, "reward=countdown")
    assert "cannot be read again" in rescoring.result.notes[0] and "problems.jsonl" in rescoring.result.notes[0]
    assert {line["new"]["advantage"] for line in lines} == {0.0}


@pytest.mark.parametrize(("algorithm", "turned"), [("grpo", True), ("dapo", False)])
def test_what_the_loss_leaves_out_does_not_turn(algorithm: str, turned: bool, run: Path) -> None:
    write_run(run, [f"grpo.algorithm={algorithm}"])
    _, lines = rescored(run, "reward=think_format")
    assert [line["turned"] for line in lines if line["truncated"]] == [turned] * 8


def test_what_was_not_in_the_loss_does_not_turn(run: Path) -> None:
    path = run / "3-grpo" / "rollouts" / "step-000001.jsonl"
    write_jsonl(path, [{**row, "in_loss": False} for row in read_jsonl(path)])
    _, lines = rescored(run, "reward=think_format")
    assert {(line["step"], line["turned"]) for line in lines} == {(1, False), (2, True)}


def test_advantages_that_nobody_can_compute_again(run: Path) -> None:
    write_run(run, [], advantage=0.3)
    with pytest.raises(RunDirError, match="not its rewards scaled by group, batch, none"):
        Rescoring(run, [])


def test_dr_grpo_does_not_scale(run: Path) -> None:
    path = run / "3-grpo" / "rollouts" / "step-000001.jsonl"
    for each in path.parent.iterdir():
        write_jsonl(each, [{**row, "advantage": row["reward"] - 0.5} for row in read_jsonl(each)])
    rescoring, lines = rescored(run, "grpo.rewards.math_answer.require=boxed")
    assert rescoring.result.scaling == "none"
    assert [line["new"]["advantage"] for line in lines[:4]] == [-0.25, 0.75, -0.25, -0.25]


def test_advantages() -> None:
    groups = [[1.0, 0.0], [None, 1.0], [3.0, 3.0]]
    assert advantages(groups, "none") == [0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    assert advantages(groups, "group") == pytest.approx([0.70701, -0.70701, 0.0, 0.0, 0.0, 0.0], abs=1e-5)
    assert advantages(groups, "batch") == pytest.approx([0.37265, -0.37265, 0.0, 0.0, 0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize("scaling", ["group", "batch", "none"])
def test_advantages_are_those_of_trl(scaling: str) -> None:
    """TRL's own lines, on its own nanstd."""
    torch = pytest.importorskip("torch")
    from trl.trainer.utils import nanstd

    groups = [[1.0, 0.0, None, 0.25], [None, None, 0.5, None], [2.0, 2.0, 2.0, 2.0], [0.1, -0.3, 0.9, 0.2]]
    rewards = torch.tensor([[float("nan") if one is None else one for one in group] for group in groups])
    spread = nanstd(rewards) if scaling == "batch" else nanstd(rewards, dim=1).unsqueeze(1)
    expected = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    expected = expected if scaling == "none" else expected / (spread + 1e-4)
    assert advantages(groups, scaling) == pytest.approx(torch.nan_to_num(expected).flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize("scaling", ["leave_one_out", "whitened"])
def test_advantages_are_those_of_the_trainer(scaling: str) -> None:
    torch = pytest.importorskip("torch")
    from aha.train.algorithms import ESTIMATORS

    groups = [[1.0, 0.0, None, 0.25], [None, None, 0.5, None], [2.0, 2.0, 2.0, 2.0], [0.1, -0.3, 0.9, 0.2]]
    rewards = torch.tensor([[float("nan") if one is None else one for one in group] for group in groups])
    expected = torch.nan_to_num(ESTIMATORS[scaling](rewards)).flatten().tolist()
    assert advantages(groups, scaling) == pytest.approx(expected, abs=1e-5) and max(expected) > 0.5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("grpo.steps=5", "the rest has happened"),
        ("rewards=x", "nearest   reward"),
        ("reward=math_anser", "nearest   math_answer"),
        ("grpo.rewards.math_answer.requires=boxed", "nearest   require"),
    ],
)
def test_wrong_overrides(override: str, told: str, run: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        list(Rescoring(run, [override]).run())
    assert not (run / "rescored.jsonl").exists()


def test_a_run_without_rollouts(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no rollouts"):
        Rescoring(tmp_path, [])


def test_on_the_command_line(run: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1]), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "aha.cli", "rescore", "run", "grpo.rewards.math_answer.require=boxed"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "16 completions of 4 prompts; verdicts of math_answer" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("0 + 5?", "all"))]
    assert rows[0][-5:-1] == ["4", "0", "1", "25%"] and rows[1][:5] == ["all", "16", "0", "4", "25%"]
    assert "p0 at step 1 (answer 5): 1, spelt like the reference -> 0, no answer given" in done.stdout
    assert len((run / "rescored.jsonl").read_text().splitlines()) == 16
    assert json.loads((run / "rescored.jsonl").read_text().splitlines()[0])["flip"] == "down"
