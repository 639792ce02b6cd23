"""The prediction: memory against numbers worked out by hand, time, disk, what is refused and with which way out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aha.data import arithmetic
from aha.errors import RecipeError
from aha.models.scratch import ROLES, SPECIAL
from aha.recipe import Plan, Recipe, foretell, hardware_overrides, load_recipe, make_plan, require_fit
from aha.recipe.estimate import KEPT, StageEstimate
from aha.recipe.fit import smallest_change, verdict
from aha.recipe.hardware import GPUS, Machine, machine_of
from aha.recipe.memory import GIB, Memory, load_of, peak_memory
from aha.recipe.shapes import ARITHMETIC_TOKENS, PUBLISHED, Shape, find_shape
from aha.train.checkpoints import KEEP

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SEVEN = ROOT / "recipes" / "qwen2.5-7b-4node.yaml"
ONE_GPU = ROOT / "recipes" / "qwen2.5-1.5b-1gpu.yaml"
QWEN_7B = PUBLISHED["Qwen/Qwen2.5-7B"]
N = 7_615_616_512  # weights of Qwen2.5-7B, as its makers count them


@pytest.fixture(autouse=True)
def in_the_repository(in_a_folder_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(path: Path, *overrides: str, hardware: str | None = None) -> Plan:
    recipe = load_recipe(path, [*(hardware_overrides(hardware) if hardware else []), *overrides])
    return make_plan(recipe, "runs/not-there", str(path))


def predicted(path: Path, stage: str, *overrides: str, hardware: str | None = None) -> StageEstimate:
    prediction = planned(path, *overrides, hardware=hardware).prediction
    assert prediction is not None
    return prediction.stages[stage]


def peak(path: Path, stage: str, *overrides: str, hardware: str | None = None) -> Memory:
    return predicted(path, stage, *overrides, hardware=hardware).memory


# --- shapes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("Qwen/Qwen2.5-7B", N),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_weights_are_those_that_are_published(name: str, weights: int) -> None:
    assert PUBLISHED[name].weights == weights


def test_the_shape_of_a_model_from_nothing() -> None:
    shape, _ = find_shape(load_recipe(ROOT / "recipes" / "tiny.yaml").model)
    # two embeddings of 64 x 128; four layers of 4 x 128 x 128, 3 x 128 x 384 and two norms; one norm
    assert shape is not None and shape.weights == 2 * 64 * 128 + 4 * (4 * 128**2 + 3 * 128 * 384 + 2 * 128) + 128
    tokens = len(arithmetic.vocabulary()) + len(SPECIAL) + len(ROLES) + 4
    assert ARITHMETIC_TOKENS - 64 < tokens <= ARITHMETIC_TOKENS


def config(**changes: Any) -> str:
    numbers = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return json.dumps({"model_type": "llama", **numbers, "intermediate_size": 96, "vocab_size": 1000} | changes)


def test_the_shape_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config(tie_word_embeddings=True))
    recipe = load_recipe(ONE_GPU, [f"model={{path: {tmp_path}}}"])
    assert find_shape(recipe.model)[0] == Shape("llama", 64, 2, 4, 2, 16, 96, 1000, tied=True)


def test_the_shape_of_a_downloaded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--something"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").write_text(config())
    found, source = find_shape(load_recipe(ONE_GPU, ["model={path: someone/something}"]).model)
    assert found is not None and found.vocabulary == 1000 and "snapshots/abc" in source


@pytest.mark.parametrize(
    "text", [config(num_experts=8), config(model_type="mamba"), config(hidden_size=None), "{", "[]"]
)
def test_no_shape_is_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    plan = planned(ONE_GPU, f"model={{path: {tmp_path}}}")
    assert plan.prediction is not None and plan.prediction.stages == {}
    assert "no prediction" in foretell(plan, "1-cpt")[0]


def test_an_unknown_model_is_not_predicted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = planned(ONE_GPU, "model={path: someone/else}")
    assert foretell(plan, "3-grpo") == ["shape of someone/else unknown until downloaded: no prediction"]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


# --- memory --------------------------------------------------------------------------------------------------------


def test_seven_billion_weights_on_32_gpus() -> None:
    """The Playbook's 2 + 2 + 12 bytes per weight, shared by 32 (ZeRO-3); DeepSpeed's own buffers on top."""
    parts = peak(SEVEN, "cpt").parts
    assert parts["optimiser"] == pytest.approx(12 * N / 32 / GIB, rel=1e-3)
    assert parts["weights"] == pytest.approx((2 * N / 32 + 2 * 1e9) / GIB, rel=1e-3)  # 1e9 gathered
    assert parts["gradients"] == pytest.approx((2 * N / 32 + 2 * 5e8) / GIB, rel=1e-3)  # a bucket of 5e8
    # 4 x 4096 tokens. Kept: each layer's input. Anew: one layer, 8 and 6 values of hidden and intermediate size with
    # Liger, queries, keys, values, output of 3584, a mask of 4096. Head: 8. Going back: 3 intermediate values.
    layer = 8 * 3584 + 2 * 4 * 3584 + 6 * 18944 + 2 * 4096
    expected = 4 * 4096 * (28 * 2 * 3584 + layer + 8 * 3584 + 6 * 18944)
    assert parts["activations"] == pytest.approx(expected / GIB, rel=1e-3)


def test_who_shares_what() -> None:
    """ZeRO-2 shares gradients and optimiser, ZeRO-3 the weights too, DDP nothing."""
    on = {name: peak(SEVEN, "cpt", f"hardware.parallel={name}").parts for name in ("ddp", "zero2", "zero3")}
    assert on["zero2"]["weights"] == pytest.approx(2 * N / GIB, rel=1e-3)
    assert on["zero2"]["optimiser"] == on["zero3"]["optimiser"]
    assert on["ddp"]["gradients"] == pytest.approx(2 * 2 * N / GIB, rel=1e-3)  # and once more in its buckets
    assert on["ddp"]["weights"] == pytest.approx(2 * N / GIB, rel=1e-3)


def test_one_gpu_keeps_float32() -> None:
    """4 + 4 + 8 bytes per weight, and autocast's copy of the matrices."""
    parts = peak(ONE_GPU, "cpt").parts
    weights = PUBLISHED["Qwen/Qwen2.5-1.5B"].weights
    assert [round(parts[name] * GIB / weights, 2) for name in ("weights", "gradients", "optimiser")] == [4, 4, 8]
    assert parts["casts"] == pytest.approx(2 * 28 * (2 * 1536**2 + 2 * 1536 * 256 + 3 * 1536 * 8960) / GIB, rel=1e-3)


def test_adapters_need_little() -> None:
    whole, adapters = peak(ONE_GPU, "cpt"), peak(ONE_GPU, "cpt", "cpt.lora={rank: 16}")
    trained = predicted(ONE_GPU, "cpt", "cpt.lora={rank: 16}").trained
    assert trained == 28 * 16 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
    assert adapters.parts["optimiser"] == pytest.approx(8 * trained / GIB, rel=1e-2)
    assert adapters.total < whole.total / 2 + whole.parts["activations"]


def test_the_engine_takes_its_share() -> None:
    memory = peak(ONE_GPU, "grpo")
    assert memory.moment == "sampling" and memory.parts["engine"] == pytest.approx(0.3 * 80)
    aside = peak(ONE_GPU, "grpo", "grpo.rollout.memory_share=0.1")
    # of 4 completions of 3584 tokens x 151,936 words a piece at a time, four times in float32; twice the head's gradient
    assert aside.moment == "forward"
    assert aside.parts["logits"] == pytest.approx((16 * 2048 * 4096 + 8 * 151_936 * 1536) / GIB, rel=1e-3)


def test_on_a_cpu_the_imports_count() -> None:
    memory = peak(ROOT / "recipes" / "tiny.yaml", "grpo", hardware="cpu")
    assert memory.allocated == memory.total and memory.parts["runtime"] > 0.5
    assert memory.parts["engine"] > 1  # its cache of a gibibyte
    on_gpu = peak(SEVEN, "cpt")
    assert on_gpu.allocated == pytest.approx(on_gpu.total - on_gpu.parts["runtime"])


def test_smollm2_on_a_cpu_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden 576, 30 layers, 9 and 3 heads of 64, intermediate 1536, 49,152 words; the head is tied."""
    monkeypatch.setattr("aha.recipe.hardware._has_avx512_bf16", lambda: True)
    path, weights, head = ROOT / "recipes" / "smollm2-135m.yaml", 134_515_008, 49_152 * 576
    cpt = peak(path, "cpt", hardware="cpu").parts
    assert cpt["logits"] == pytest.approx(
        (18 * 256 * 49_152 + 8 * head) / GIB, rel=1e-3
    )  # a chunk; the head's gradient
    assert cpt["heap"] == pytest.approx(0.12 * cpt["activations"], rel=1e-2)
    assert cpt["data"] == pytest.approx((60 + 12) * 2e4 / GIB, abs=1e-4)
    assert cpt["runtime"] == pytest.approx(0.58 + 1200 * 49_152 / GIB, abs=1e-4)
    grpo = peak(path, "grpo", hardware="cpu").parts
    # weights twice and the head; a cache of 1 GiB; 64 prompts of 168 tokens at once, in bfloat16
    batch = 64 * 168 * 2 * (4 * 576 + 2 * 576 + 2 * 192 + 3 * 1536)
    assert grpo["engine"] == pytest.approx(1 + (2 * (2 * weights + head) + batch) / GIB, rel=1e-3)
    assert grpo["logits"] == pytest.approx((16 * 72 * 4096 + 8 * head) / GIB, rel=1e-3)  # one completion; the head


@pytest.mark.parametrize(
    ("stage", "less", "more"),
    [
        ("cpt", "cpt.micro_batch=1", "cpt.micro_batch=8"),
        ("cpt", "cpt.gradient_checkpointing=true", "cpt.gradient_checkpointing=false"),
        ("cpt", "kernels=liger", "kernels=torch"),
        ("cpt", "model={path: Qwen/Qwen2.5-1.5B, dtype: bfloat16}", "model={path: Qwen/Qwen2.5-1.5B, dtype: float32}"),
        (
            "cpt",
            "model={path: Qwen/Qwen2.5-1.5B, attention: flash_attention_2}",
            "model={path: Qwen/Qwen2.5-1.5B, attention: sdpa}",
        ),
        ("distill", "distill.max_tokens=4096", "distill.max_tokens=32768"),
        ("grpo", "grpo.rollout.memory_share=0.3", "grpo.rollout.memory_share=0.6"),
        ("grpo", "grpo.beta=0", "grpo.beta=0.1"),
    ],
)
def test_more_is_more(stage: str, less: str, more: str) -> None:
    assert peak(ONE_GPU, stage, less).total < peak(ONE_GPU, stage, more).total


def test_a_loss_that_liger_does_not_know_holds_all_logits() -> None:
    memory = peak(ONE_GPU, "grpo", "kernels=auto", "grpo.entropy_bonus=0.01")
    assert memory.moment == "forward"
    assert memory.parts["logits"] == pytest.approx(16 * 4 * 3584 * 151_936 / GIB, rel=1e-3)


def test_more_devices_hold_less_each() -> None:
    totals = [peak(SEVEN, "cpt", hardware=f"h100-80x8x{nodes}nodes").total for nodes in (2, 4, 8)]
    assert totals == sorted(totals, reverse=True)


# --- time and disk -------------------------------------------------------------------------------------------------


def test_a_step_is_its_operations() -> None:
    """2 per matrix weight, 4 x hidden x length for attention with a mask, four passes; 32 GPUs at 40 % of 989 TFLOP/s."""
    found = predicted(SEVEN, "cpt")
    assert found.time is not None and found.tokens == 4769 * 512 * 4096
    forward = 2 * QWEN_7B.matrices + 4 * 28 * 3584 * 4096
    seconds = 4 * 512 * 4096 * forward / (32 * 0.4 * 989e12)
    assert found.time.parts["arithmetic"] == pytest.approx(seconds, rel=1e-3)
    assert found.time.total == pytest.approx(found.time.start + 4769 * found.time.step, rel=1e-3)


def test_small_batches_wait_for_the_network() -> None:
    """One sequence on each of 512 GPUs: 3 x 2 bytes per weight at 80 % of 50 GB/s take longer than the arithmetic."""
    found = predicted(SEVEN, "cpt", "distill.batch_size=512", hardware="h100-80x8x64nodes")
    assert found.time is not None
    assert found.time.parts["communication"] == pytest.approx(6 * N * 511 / 512 / 40e9, rel=1e-3)


def test_a_stage_of_unknown_steps_has_a_step_but_no_end() -> None:
    plan = planned(SEVEN)
    assert plan.prediction is not None
    found = plan.prediction.stages["distill"]
    assert found.tokens is None and found.time is not None and found.time.total is None and found.time.step > 0
    assert "for each billion tokens" in foretell(plan, "2-distill")[1]


def test_longer_completions_take_longer() -> None:
    short, long = (predicted(ONE_GPU, "grpo", f"grpo.rollout.max_tokens={length}").time for length in (1024, 3584))
    assert short is not None and long is not None and short.parts["sampling"] < long.parts["sampling"]


def test_a_checkpoint_is_weights_and_moments() -> None:
    disk = predicted(ONE_GPU, "cpt").disk
    weights = PUBLISHED["Qwen/Qwen2.5-1.5B"].weights
    assert disk.checkpoint == pytest.approx(12 * weights / GIB, rel=1e-3)
    assert disk.model == pytest.approx(4 * weights / GIB, rel=1e-3)
    assert disk.kept == KEPT == KEEP
    assert disk.rows == pytest.approx(12 * 1e8 / GIB, rel=1e-3)  # ids, labels and positions of 1e8 tokens


# --- what fits -----------------------------------------------------------------------------------------------------


def test_verdicts() -> None:
    assert [verdict(total, 80) for total in (79.9, 80.1, 91.9, 92.1)] == ["fits", "tight", "tight", "too large"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_what_it_is_planned_for(path: Path) -> None:
    recipe = load_recipe(path, ["hardware.device=cpu"] if path.stem in ("tiny", "smollm2-135m") else [])
    plan = make_plan(recipe, "runs/not-there", str(path))
    assert plan.prediction is not None and plan.prediction.missing is None
    assert set(plan.prediction.stages) == {stage.name for stage in plan.stages}
    for stage in plan.stages:
        found = plan.prediction.stages[stage.name]
        limit = found.memory.available if plan.device == "cuda" else 16.0
        assert limit is not None and found.memory.total < limit
        assert sum(found.memory.parts.values()) == pytest.approx(found.memory.total, abs=1e-3)
        assert found.time is not None and found.time.step > 0
        assert len(foretell(plan, stage.directory)) == 3
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def refusal(*overrides: str, hardware: str, path: Path = ONE_GPU) -> str:
    recipe = load_recipe(path, [*hardware_overrides(hardware), *overrides])
    with pytest.raises(RecipeError) as refused:
        require_fit(recipe, machine_of(recipe.hardware), ["grpo"])
    return str(refused.value)


LONG_AND_KEPT = ["grpo.micro_batch=1", "grpo.gradient_checkpointing=false", "grpo.rollout.max_tokens=7168"]


@pytest.mark.parametrize(
    ("overrides", "hardware", "change"),
    [
        (["grpo.micro_batch=64"], "h100-80", "grpo.micro_batch=32"),
        (["grpo.micro_batch=16", "kernels=torch"], "h100-80", "grpo.micro_batch=4"),
        (["grpo.rollout.memory_share=0.95"], "h100-80", "grpo.rollout.memory_share=0.75"),
        (LONG_AND_KEPT, "a100-40", "grpo.gradient_checkpointing=true"),
    ],
)
def test_the_smallest_change_is_named_and_is_enough(overrides: list[str], hardware: str, change: str) -> None:
    told = refusal(*overrides, hardware=hardware)
    assert told.startswith("grpo\n  given     ") and "GiB per device" in told
    assert told.endswith(f"  nearest   {change}")
    recipe = load_recipe(ONE_GPU, [*hardware_overrides(hardware), *overrides, change])
    require_fit(recipe, machine_of(recipe.hardware), ["grpo"])


def test_changes_on_top_of_each_other_are_enough_and_all_needed() -> None:
    overrides = [*hardware_overrides("4090-24x8"), "hardware.parallel=zero2"]
    recipe = load_recipe(SEVEN, overrides)
    machine = machine_of(recipe.hardware)
    changes = smallest_change(recipe, "cpt", QWEN_7B, machine).split()
    assert changes == ["cpt.micro_batch=1", "hardware.parallel=zero3"]

    def fits(*taken: str) -> bool:
        changed = load_recipe(SEVEN, [*overrides, *taken])
        block = changed.cpt
        assert block is not None
        return peak_memory(load_of(changed, block, QWEN_7B, machine)).total <= 24

    assert fits(*changes) and not any(fits(change) for change in changes)


def test_an_engine_without_room_is_refused() -> None:
    told = refusal("grpo.rollout.memory_share=0.1", hardware="h100-80x8x4nodes", path=SEVEN)
    assert told.startswith("grpo.rollout.memory_share\n  given     0.1 of 79.6 GiB")
    assert "weights (14.2 GiB)" in told and told.endswith("nearest   grpo.rollout.memory_share=0.2")


def test_what_cannot_be_helped_is_said() -> None:
    recipe = load_recipe(SEVEN, [*hardware_overrides("4090-24"), "hardware.parallel=none"])
    assert smallest_change(recipe, "grpo", QWEN_7B, machine_of(recipe.hardware)).startswith("more or larger devices")


def test_finished_stages_and_unknown_devices_are_not_refused() -> None:
    recipe = load_recipe(ONE_GPU, hardware_overrides("4090-24"))
    require_fit(recipe, machine_of(recipe.hardware), [])
    nameless = load_recipe(ONE_GPU, ["hardware.gpu=null", "hardware.gpu_memory_gib=null"])
    machine = Machine(
        name="GPU", device="cuda", memory_gib=None, tflops=None, memory_gbs=None, bf16=True, source="nobody knows"
    )
    require_fit(nameless, machine, ["cpt", "distill", "grpo"])


# --- hardware ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GPUS)
def test_every_gpu_can_be_planned_for(name: str) -> None:
    recipe = load_recipe(ONE_GPU, hardware_overrides(name))
    machine = machine_of(recipe.hardware)
    assert (machine.name, machine.memory_gib, machine.tflops) == (name, GPUS[name].memory_gib, GPUS[name].tflops)


@pytest.mark.parametrize("text", ["", "x8", "h100-80x0", "h100-80x8x", "h100-80x8x2", "h100", "gpu", "h100-80 x 8"])
def test_other_words_for_hardware_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="--hardware"):
        hardware_overrides(text)


def test_a_gpu_without_a_name_has_no_speed(load: Callable[..., Recipe]) -> None:
    plan = planned(ONE_GPU, "hardware.gpu=null")
    assert plan.prediction is not None
    if plan.prediction.machine.name == "GPU":  # unless this machine has one that the table knows
        assert "no prediction" in foretell(plan, "1-cpt")[1]
        assert plan.prediction.stages["cpt"].memory.available == 80


def test_a_measured_peak_is_taken(tmp_path: Path) -> None:
    recipe = load_recipe(ROOT / "recipes" / "tiny.yaml", ["hardware.device=cpu"])
    (tmp_path / "bench.json").write_text(json.dumps({"matmul_gflops": {"float32": 111.0, "bfloat16": 111.0}}))
    machine = machine_of(recipe.hardware, tmp_path)
    assert machine.tflops == pytest.approx(0.111) and "measured by `aha bench`" in machine.source


def test_the_kind_of_gpu_changes_no_hash() -> None:
    here, there = planned(ONE_GPU), planned(ONE_GPU, "hardware.gpu=a100-80")
    assert [stage.inputs_hash for stage in here.stages] == [stage.inputs_hash for stage in there.stages]


# --- the README ----------------------------------------------------------------------------------------------------


def projection() -> list[str]:
    """The rows of the README's table of four and of 64 nodes."""
    rows = []
    for hardware, overrides in ((None, []), ("h100-80x8x64nodes", ["distill.batch_size=512"])):
        plan = planned(SEVEN, *overrides, hardware=hardware)
        for stage in plan.stages:
            memory, time, _ = foretell(plan, stage.directory)
            cells = (
                re.match(r"memory ([\d.]+) of ([\d.]+) GiB", memory),
                re.match(r"step (\S+ s) \(.*?\), (.*) \(", time),
            )
            assert cells[0] and cells[1]
            devices = f"{stage.world_size} × h100-80"
            rows.append(
                f"| `{stage.name}` | {devices} | {cells[0][1]} of {cells[0][2]} GiB | {cells[1][1]} | {cells[1][2]} |"
            )
    return rows


def test_the_projection_in_the_readme_is_the_planners() -> None:
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [row for row in projection() if row not in shown] == []


def test_the_refusal_in_the_readme_is_the_planners() -> None:
    told = refusal("grpo.micro_batch=64", hardware="h100-80")
    assert told in (ROOT / "README.md").read_text(encoding="utf-8"), told
