"""The plan: batch arithmetic, steps, and what a run directory says is already done."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aha.recipe import Plan, Recipe, StagePlan, batch, describe, make_plan
from aha.recipe.overlaps import in_words

Load = Callable[..., Recipe]
RUN = Path("runs/small")


@pytest.fixture
def plan(load: Load) -> Callable[..., Plan]:
    def planner(*overrides: str) -> Plan:
        return make_plan(load(overrides=overrides), RUN, "small.yaml")

    return planner


Planner = Callable[..., Plan]


def finish(stage: StagePlan, fingerprint: str = "f1") -> None:
    """What a stage leaves behind."""
    folder = RUN / stage.directory
    (folder / "model").mkdir(parents=True, exist_ok=True)
    checkpoint = {"path": f"elsewhere/{stage.directory}/model", "fingerprint": fingerprint}
    (folder / "done.json").write_text(json.dumps({"inputs_hash": stage.inputs_hash, "checkpoint": checkpoint}))


def save(stage: StagePlan, step: int, complete: bool = True) -> None:
    """A checkpoint on the way; `manifest.json` is written last."""
    folder = RUN / stage.directory / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True)
    if complete:
        (folder / "manifest.json").write_text("{}")


def measure(fingerprints: dict[str, str], tasks: Sequence[str] = ("one_step",), samples: int = 4) -> None:
    found: dict[str, Any] = {
        target: {"fingerprint": fingerprint, "tasks": {task: {"task": task, "samples": samples} for task in tasks}}
        for target, fingerprint in fingerprints.items()
    }
    (RUN / "results.json").write_text(json.dumps(found))


def states(plan: Plan) -> list[tuple[str, str]]:
    return [(stage.state, stage.why) for stage in plan.stages]


# --- arithmetic ----------------------------------------------------------------------------------------------------


def test_a_plan_on_one_cpu(plan: Planner) -> None:
    cpt, distill, grpo = plan().stages
    assert [stage.directory for stage in (cpt, distill, grpo)] == ["1-cpt", "2-distill", "3-grpo"]
    assert [stage.parent for stage in (cpt, distill, grpo)] == ["base", "1-cpt", "2-distill"]
    assert (cpt.batch_size, cpt.tokens_per_step, cpt.steps) == (64, 4096, 245)  # ceil(1e6 / 4096)
    assert (distill.batch_size, distill.tokens_per_step, distill.steps) == (32, 32 * 64, 400)
    assert (grpo.batch_size, grpo.tokens_per_step, grpo.steps) == (256, 256 * 96, 80)
    assert (grpo.world_size, grpo.micro_batch, grpo.accumulation) == (1, 64, 4)  # 128 would be 12,288 tokens


@pytest.mark.parametrize("prompts", [6, 8, 32, 50])
@pytest.mark.parametrize(
    "hardware", ["device: cpu", "gpus_per_node: 8, parallel: ddp", "nodes: 2, gpus_per_node: 4, parallel: zero3"]
)
def test_the_product_is_the_batch(plan: Planner, prompts: int, hardware: str) -> None:
    for stage in plan(f"grpo.prompts_per_step={prompts}", f"hardware={{{hardware}}}").stages:
        assert stage.world_size * stage.micro_batch * stage.accumulation == stage.batch_size


def test_a_forward_pass_holds_so_many_tokens(plan: Planner) -> None:
    cpt = plan("cpt.max_tokens=100", "cpt.batch_size=100").stages[0]
    assert cpt.micro_batch == 50  # 100 × 100 tokens are more than 8,192
    cpt = plan("cpt.max_tokens=100", "cpt.batch_size=100", "hardware={device: cuda, gpus_per_node: 1}").stages[0]
    assert cpt.micro_batch == 100  # and less than 16,384
    cpt = plan("model=org/name", "cpt.max_tokens=100000", "cpt.batch_size=2").stages[0]
    assert (cpt.micro_batch, cpt.accumulation) == (1, 2)


def test_the_recipe_has_the_last_word(plan: Planner) -> None:
    stage = plan("cpt.micro_batch=4", "cpt.save_every=7").stages[0]
    assert (stage.micro_batch, stage.accumulation, stage.save_every) == (4, 16, 7)


def test_saving(plan: Planner) -> None:
    assert [stage.save_every for stage in plan().stages] == [25, 40, 8]
    assert plan("grpo.iterations=3").stages[2].save_every == 9
    assert plan("grpo.steps=3", "grpo.iterations=2").stages[2].save_every == 2
    by_epochs = plan("distill.steps=", "distill.epochs=2").stages[1]
    assert (by_epochs.steps, by_epochs.save_every) == (None, None)


def test_a_rollout_server_takes_a_node(plan: Planner) -> None:
    hardware = "hardware={nodes: 3, gpus_per_node: 4, parallel: zero2}"
    sizes = ["cpt.batch_size=24", "distill.batch_size=24", "grpo.prompts_per_step=24", "grpo.rollout.mode=server"]
    assert [stage.world_size for stage in plan(hardware, *sizes).stages] == [12, 12, 8]


def test_the_device(plan: Planner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batch, "NVIDIA", tmp_path / "nvidia0")
    assert plan("hardware={}").device == "cpu"
    assert plan("hardware={gpus_per_node: 2, parallel: ddp}").device == "cuda"
    (tmp_path / "nvidia0").touch()
    found = plan("hardware={}")
    assert (found.device, found.stages[0].world_size) == ("cuda", 1)
    assert plan("hardware={device: cpu}").device == "cpu"


# --- what is already there -----------------------------------------------------------------------------------------


def test_nothing_is_there(plan: Planner) -> None:
    assert states(plan()) == [
        ("run", "not run yet"),
        ("run", "1-cpt, which it starts from, runs first"),
        ("run", "2-distill, which it starts from, runs first"),
    ]
    assert not RUN.exists(), "planning writes nothing"


def test_what_is_finished_is_skipped(plan: Planner) -> None:
    for stage in plan().stages:
        finish(stage)
    assert {state for state, _ in states(plan())} == {"skip"}
    assert plan().stages[0].why == "finished, and its inputs are the same"


@pytest.mark.usefixtures("every_tracker_is_installed")
def test_a_changed_stage_runs_again_with_those_behind_it(plan: Planner) -> None:
    for stage in plan().stages:
        finish(stage)
    assert states(plan("distill.steps=10")) == [
        ("skip", "finished, and its inputs are the same"),
        ("run", "its inputs have changed since it last ran"),
        ("run", "2-distill, which it starts from, runs first"),
    ]
    assert {state for state, _ in states(plan("seed=1"))} == {"run"}
    assert {state for state, _ in states(plan("expect.minutes=3", "tracking=wandb", "eval.samples=9"))} == {"skip"}


def test_a_finished_stage_without_its_checkpoint(plan: Planner) -> None:
    finish(plan().stages[0])
    (RUN / "1-cpt/model").rmdir()
    assert states(plan())[0] == ("run", "finished, but its checkpoint is gone")


def test_a_damaged_done_file_is_no_done_file(plan: Planner) -> None:
    finish(plan().stages[0])
    (RUN / "1-cpt/done.json").write_text('{"inputs_hash": "')
    assert states(plan())[0] == ("run", "not run yet")


def test_an_interrupted_stage_resumes_from_its_newest_complete_checkpoint(plan: Planner) -> None:
    finish(plan().stages[0])
    distill = plan().stages[1]
    save(distill, 40)
    save(distill, 80)
    save(distill, 120, complete=False)
    assert states(plan())[1] == ("resume", "interrupted after step-000080")
    assert states(plan())[2] == ("run", "2-distill, which it starts from, runs first")


def test_checkpoints_of_other_inputs_are_not_resumed(plan: Planner) -> None:
    cpt = plan().stages[0]
    save(cpt, 25)
    (RUN / "1-cpt/config.json").write_text(json.dumps({"inputs_hash": cpt.inputs_hash}))
    assert states(plan())[0][0] == "resume"
    assert states(plan("cpt.tokens=2e6"))[0] == ("run", "its inputs have changed since it last ran")


def test_a_stage_that_runs_again_and_is_interrupted_resumes(plan: Planner) -> None:
    finish(plan("cpt.tokens=2e6").stages[0])
    cpt = plan().stages[0]
    assert cpt.state == "run"
    save(cpt, 25)
    (RUN / "1-cpt/config.json").write_text(json.dumps({"inputs_hash": cpt.inputs_hash}))
    assert states(plan())[0][0] == "resume"


# --- evaluations ---------------------------------------------------------------------------------------------------


def evals(plan: Plan) -> list[tuple[str, list[str], str]]:
    return [(one.after, one.targets, one.state) for one in plan.evals]


def test_after_each_stage_or_at_the_end(plan: Planner) -> None:
    assert evals(plan()) == [
        ("1-cpt", ["1-cpt"], "run"),
        ("2-distill", ["2-distill"], "run"),
        ("3-grpo", ["3-grpo"], "run"),
    ]
    assert evals(plan("eval.when=end")) == [("3-grpo", ["1-cpt", "2-distill", "3-grpo"], "run")]
    assert evals(plan("eval.stages=last")) == [("3-grpo", ["3-grpo"], "run")]
    assert evals(plan("eval.stages=[distill]", "eval.when=end")) == [("3-grpo", ["2-distill"], "run")]
    assert evals(plan("eval=", "cpt=")) == []


def test_a_pretrained_base_is_measured_too(plan: Planner) -> None:
    assert evals(plan("model=org/name"))[0] == ("base", ["base"], "run")
    assert evals(plan("model=org/name", "eval.when=end"))[0][1] == ["base", "1-cpt", "2-distill", "3-grpo"]
    assert ("base", ["base"], "run") not in evals(plan("model=org/name", "eval.stages=[grpo]"))


def test_what_is_measured_is_skipped(plan: Planner) -> None:
    for stage in plan().stages:
        finish(stage, fingerprint=stage.name)
    measure({"1-cpt": "cpt", "2-distill": "distill", "3-grpo": "grpo"})
    assert {(one.state, one.why) for one in plan().evals} == {("skip", "measured, and the checkpoint is the same")}
    assert plan("eval.when=end").evals[0].targets == ["1-cpt", "2-distill", "3-grpo"]


def test_only_what_is_missing_is_measured(plan: Planner) -> None:
    for stage in plan().stages:
        finish(stage, fingerprint=stage.name)
    measure({"1-cpt": "cpt", "2-distill": "another"})
    (evaluation,) = plan("eval.when=end").evals
    assert evaluation.targets == ["2-distill", "3-grpo"]
    assert evaluation.why == "2-distill: measured on another checkpoint; 3-grpo: not measured yet"


def test_other_tasks_or_samples_are_measured_again(plan: Planner) -> None:
    cpt = ("distill=", "grpo=")
    finish(plan(*cpt).stages[0])
    measure({"1-cpt": "f1"})
    assert plan(*cpt).evals[0].state == "skip"
    assert plan(*cpt, "eval.samples=8").evals[0].why == "one_step measured with other samples"
    assert plan(*cpt, "eval.tasks.0.name=two").evals[0].why == "two not measured yet"


def test_a_stage_that_runs_again_is_measured_again(plan: Planner) -> None:
    finish(plan().stages[0])
    measure({"1-cpt": "f1"})
    assert plan().evals[0].state == "skip"
    assert plan("seed=5").evals[0].why == "measured on another checkpoint"


# --- on paper ------------------------------------------------------------------------------------------------------


def test_round_trip(plan: Planner) -> None:
    made = plan("model=org/name", "eval.ks=[1, 2]", "eval.tasks=[math500]")
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_the_same_recipe_makes_the_same_plan(plan: Planner) -> None:
    assert plan() == plan()


def test_in_words(plan: Planner) -> None:
    rows = describe(plan("hardware={gpus_per_node: 8, parallel: zero2}"))
    assert [row.stage for row in rows] == ["1-cpt", "eval", "2-distill", "eval", "3-grpo", "eval"]
    assert rows[0].input == "llama from scratch" and rows[2].input == "1-cpt"
    assert rows[0].batch == "64 packed sequences = 8 processes × 8 × 1 accumulated"
    assert rows[4].batch == "32 prompts × 8 = 256 completions = 8 processes × 32 × 1 accumulated"
    assert rows[4].device == "8 × cuda" and rows[4].steps == "80" and rows[4].tokens_per_step == "24,576"
    assert rows[5].input == "3-grpo" and rows[5].batch == "one_step × 4 samples"
    assert describe(plan("distill.steps=", "distill.epochs=1"))[2].steps == "once packed"


TOGETHER = "; all {} of a server are drawn at a time, and end nearly together: try grpo.rollout.max_sequences={}"


@pytest.mark.parametrize(
    ("rollout", "where", "end"),
    [
        ("mode=colocate", "in the trainer's process, synchronous", "waits for all completions of a step"),
        ("server_count=2 overlap=async", "2 servers of the stage's own, asynchronous", "one step older"),
        ("overlap=pipelined max_sequences=64", "1 server of the stage's own, pipelined", "are drawn"),
        ("overlap=pipelined", "1 server of the stage's own, pipelined", TOGETHER.format(256, 64)),
        ("overlap=pipelined server_count=16", "16 servers", TOGETHER.format(16, 8)),
        ("overlap=pipelined servers=[a:1,b:1]", "servers a:1, b:1", TOGETHER.format(128, 32)),
    ],
)
def test_how_completions_are_drawn(plan: Planner, rollout: str, where: str, end: str) -> None:
    grpo = plan("grpo.rollout.mode=server", *(f"grpo.rollout.{one}" for one in rollout.split())).recipe.grpo
    assert grpo is not None
    words = in_words(grpo)
    assert words.startswith(where) and words.endswith(end), words
