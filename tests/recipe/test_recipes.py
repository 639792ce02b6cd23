"""Every shipped recipe loads, is right, can be planned, and survives being written down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aha.recipe import Plan, check, describe, dump_recipe, foretell, load_recipe, make_plan

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(in_a_folder_of_its_own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert check(recipe) == []
    plan = make_plan(recipe, tmp_path / "run", str(path))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert len(describe(plan)) == len(plan.stages) + len(plan.evals)
    written = tmp_path / path.name
    written.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(written) == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_introduces_itself(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    assert len(lines) <= 80
    for command in ("plan", "run"):
        wanted = rf"make {command}\s+RECIPE=recipes/{re.escape(path.name)}"
        assert re.search(wanted, opening), f"its own `make {command} RECIPE=recipes/{path.name}`"
    assert load_recipe(path).expect.hardware, "a recipe says what it was planned for"


GPU_RECIPES = [path for path in RECIPES if path.stem not in ("tiny", "smollm2-135m")]
WORDS = {"cpt": "CPT", "grpo": "GRPO"}


@pytest.mark.parametrize("path", GPU_RECIPES, ids=lambda path: path.stem)
def test_the_hours_that_a_recipe_claims_are_the_planners(path: Path, tmp_path: Path) -> None:
    """Its opening quotes them stage by stage; `expect.minutes` is their sum, with the tokens that it guesses."""
    recipe = load_recipe(path)
    plan = make_plan(recipe, tmp_path / "run", str(path))
    opening = re.sub(r"\s*\n# ?", " ", path.read_text(encoding="utf-8").partition("\nname:")[0])
    hours = 0.0
    for stage in plan.stages:
        said = foretell(plan, stage.directory)[1]
        if whole := re.search(r"([\d.]+) h for at most", said):
            assert f"{WORDS[stage.name]} {whole[1]} h" in opening, said
            hours += float(whole[1])
        else:
            each = re.search(r"([\d.]+) h for each billion tokens", said)
            guessed = re.search(r"for the ([\d.]+) billion", opening)
            assert each and guessed and f"{each[1]} h for each billion tokens" in opening, said
            hours += float(each[1]) * float(guessed[1])
    assert recipe.expect.minutes == pytest.approx(60 * hours, rel=0.02)
