"""Who trains and who serves: N + M nodes, engines, what each device holds; and what cannot serve is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from aha.errors import RecipeError
from aha.recipe import engines as engines_module
from aha.recipe import foretell, load_recipe, make_plan, require_fit
from aha.recipe.engines import GIB, Servers
from aha.recipe.hardware import hardware_overrides, machine_of
from aha.recipe.plan import Plan
from aha.recipe.shapes import PUBLISHED

ROOT = Path(__file__).resolve().parents[2]
SEVEN = ROOT / "recipes" / "qwen2.5-7b-4node.yaml"
SERVING = ["grpo.rollout.mode=server", "grpo.prompts_per_step=120"]
N = PUBLISHED["Qwen/Qwen2.5-7B"].weights


@pytest.fixture(autouse=True)
def in_the_repository(in_a_folder_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(*overrides: str, path: Path = SEVEN) -> Plan:
    return make_plan(load_recipe(path, [*overrides]), "runs/not-there", str(path))


def servers(plan: Plan) -> Servers:
    assert plan.prediction is not None
    found = plan.prediction.stages["grpo"].servers
    assert found is not None
    return found


def test_one_node_serves_and_three_train() -> None:
    plan = planned(*SERVING)
    found = servers(plan)
    assert [stage.world_size for stage in plan.stages] == [32, 32, 24]
    assert (found.nodes, found.engines, found.devices_per_engine) == (1, 8, 1)
    assert found.completions == 120 * 16 / 8
    assert found.weights == pytest.approx(2 * N / GIB, abs=1e-3)
    assert found.cache == pytest.approx(0.9 * 80 - 1 - 2 * N / GIB, abs=1e-3)
    # held on average: a prompt of 512 and half of 15,872, each token 2 x 28 layers x 4 heads x 128 x 2 bytes
    assert found.running == pytest.approx(found.cache * GIB / ((512 + 7936) * 57_344), rel=1e-3)
    assert any(
        line.startswith("servers 1 node, the last of 4: 8 engines × 1 device") for line in foretell(plan, "3-grpo")
    )


def test_wide_engines_are_fewer_and_hold_less_of_each_device() -> None:
    found = servers(planned(*SERVING, "grpo.rollout.tensor_parallel=4"))
    assert (found.engines, found.devices_per_engine, found.completions) == (2, 4, 960)
    assert found.weights == pytest.approx(2 * N / 4 / GIB, abs=1e-3)


def test_a_trainer_beside_servers_holds_no_engine() -> None:
    colocated, served = (planned(*extra).prediction for extra in ([], SERVING))
    assert colocated is not None and served is not None
    assert "engine" in colocated.stages["grpo"].memory.parts
    assert "engine" not in served.stages["grpo"].memory.parts
    assert colocated.stages["grpo"].servers is None


def test_servers_take_as_many_nodes_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "started", lambda block: 2)
    plan = planned(*SERVING)
    assert plan.stages[-1].world_size == 16
    assert (servers(plan).nodes, servers(plan).engines) == (2, 16)
    for module in (engines_module, sys.modules["aha.recipe.check"]):
        monkeypatch.setattr(module, "started", lambda block: 4)
    with pytest.raises(RecipeError) as refused:
        planned(*SERVING)
    assert "more nodes than the 4 that serve" in str(refused.value) and "nearest   5" in str(refused.value)


def test_servers_of_somebody_else_take_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "addresses", lambda block: ["a:8000", "b:8000"])
    plan = planned("grpo.rollout.mode=server")
    assert plan.stages[-1].world_size == 32
    assert (servers(plan).nodes, servers(plan).engines) == (0, 16)


def test_on_one_cpu_the_server_is_beside_the_trainer() -> None:
    plan = planned("hardware.device=cpu", "grpo.rollout.mode=server", path=ROOT / "recipes" / "tiny.yaml")
    assert plan.stages[-1].world_size == 1
    assert (servers(plan).nodes, servers(plan).engines) == (0, 1)
    assert plan.prediction is not None and "engine" not in plan.prediction.stages["grpo"].memory.parts


def test_a_server_without_room_is_refused_with_a_wider_engine() -> None:
    overrides = [*hardware_overrides("4090-24x8x4nodes"), *SERVING, "model={path: Qwen/Qwen2.5-7B, dtype: float32}"]
    recipe = load_recipe(SEVEN, [*overrides, "grpo.lora={rank: 8}", "grpo.rollout.max_tokens=1024"])
    with pytest.raises(RecipeError) as refused:
        require_fit(recipe, machine_of(recipe.hardware, None, "float32"), ["grpo"])
    told = str(refused.value)
    assert told.startswith("grpo.rollout.tensor_parallel\n  given     1 with 0.9 of 24 GiB each"), told
    assert told.endswith("nearest   grpo.rollout.tensor_parallel=2"), told


def test_an_engine_is_cut_between_heads() -> None:
    recipe = load_recipe(SEVEN, [*SERVING, "grpo.rollout.tensor_parallel=8"])
    with pytest.raises(RecipeError) as refused:
        require_fit(recipe, machine_of(recipe.hardware, None, "float32"), ["grpo"])
    told = str(refused.value)
    assert "a divisor of the model's 28 attention heads" in told and told.endswith(
        "nearest   grpo.rollout.tensor_parallel=4"
    )
