"""The tutorial of reward_fns/README.md, followed word for word, but for the training itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import aha

ROOT = Path(__file__).resolve().parents[2]


def test_word_for_word(tmp_path: Path) -> None:
    text = (ROOT / "reward_fns" / "README.md").read_text(encoding="utf-8")
    steps = re.findall(r"^ {3}```(\w+)\n(.*?)^ {3}```", text, re.MULTILINE | re.DOTALL)
    blocks = [(language, textwrap.dedent(body)) for language, body in steps]
    files = iter(["reward_fns/my_idea.py", "tests/reward_fns/test_my_idea.py"])
    for part in ("reward_fns", "recipes"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "Makefile", tmp_path)
    ran = []
    for language, body in blocks:
        if language == "python":
            path = tmp_path / next(files)
            assert path.is_file(), "the tutorial changes what `make reward` has written"
            path.write_text(body)
        else:
            ran += [line for line in body.splitlines() if follow(line, tmp_path)]
    assert [line.split()[1] for line in ran] == ["reward", "-m", "reward-check", "plan"]
    ruff = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path)]
    told = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout


def follow(line: str, folder: Path) -> bool:
    """Run a line of the tutorial with this installation in place of the one that `make setup` would make."""
    words = shlex.split(line)
    if words[:2] == ["make", "run"] or "rescore" in words:
        return False  # four minutes of training, and what comes after it
    if words[0] == "make":
        words = [*words, f"AHA={sys.executable} -m aha.cli", "PYTHON=true"]
    environment = {**os.environ, "PYTHONPATH": str(Path(aha.__file__).parents[1]), "NAME": "of-the-machine"}
    environment.pop("AHA_REWARD_FNS", None)
    words[0] = sys.executable if words[0] == ".venv/bin/python" else words[0]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return True
