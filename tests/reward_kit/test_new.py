"""A new reward works as it is written, passes its own test and the check, and never lands on something that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aha
from aha.errors import RecipeError
from aha.reward_kit.check import check_reward
from aha.reward_kit.new import write_reward

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AHA_REWARD_FNS", str(tmp_path / "reward_fns"))
    return tmp_path


def test_it_works_as_it_is(library: Path) -> None:
    reward, test = write_reward("my_idea")
    assert (reward, test) == (library / "reward_fns/my_idea.py", library / "tests/reward_fns/test_my_idea.py")
    assert [finding for finding in check_reward("my_idea", {}) if finding.passed is False] == []
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)],
        env=environment,
        cwd=library,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout + done.stderr
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(ROOT / "pyproject.toml"), str(library)]
        told = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("My-Idea", "my_idea"),
        ("myIdea.py", "my_idea"),
        ("3d", "reward_3d"),
        ("class", "reward_class"),
        ("", "reward"),
        ("../escape", "escape"),
        ("json", "json_2"),
        ("yaml", "yaml_2"),
    ],
)
def test_a_bad_name_is_refused(name: str, nearest: str, library: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        write_reward(name)
    assert str(refused.value).endswith(f"nearest   {nearest}")
    assert list(library.iterdir()) == []


@pytest.mark.parametrize("there", ["reward_fns/my_idea.py", "tests/reward_fns/test_my_idea.py"])
def test_nothing_is_overwritten(there: str, library: Path) -> None:
    (library / there).parent.mkdir(parents=True)
    (library / there).write_text("mine")
    with pytest.raises(RecipeError, match="is there already"):
        write_reward("my_idea")
    assert [path for path in library.rglob("*.py") if path != library / there] == []
    assert (library / there).read_text() == "mine"
