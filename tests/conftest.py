"""What many tests share: one finished run of the nano recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from nano import NANO, aha


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the nano recipe in it."""
    folder = tmp_path_factory.mktemp("nano")
    (folder / "nano.yaml").write_text(NANO)
    return folder


@pytest.fixture(scope="session")
def finished(nano: Path) -> Path:
    """The run directory of the nano recipe, run to its end with real vLLM."""
    done = aha("run", "nano.yaml", cwd=nano)
    assert done.returncode == 0, done.stdout + done.stderr
    (nano / "first_output.txt").write_text(done.stdout)
    return nano / "runs" / "nano"
