"""What many tests share: one finished run of the nano recipe; and that they may run two files at a time.

A test mostly waits for imports, on one core. `make test` gives the other core to another file.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from nano import NANO, aha

if "PYTEST_XDIST_WORKER" in os.environ:  # two runs of two threads each, on two cores, would wait for each other's
    os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = (
    "test_fused_is_plain.py",
    "test_check.py",
    "test_resume.py",
    "test_probes.py",
    "test_bad_input.py",
    "test_server.py",
    "test_doctor.py",
    "test_report.py",
    "test_weight_sync.py",
    "test_layer_kernels.py",
    "test_parity.py",
    "test_lora.py",
)
"""They come first, so that none of them is left over for one core in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the nano recipe, run to its end with real vLLM: once for all that run side by side."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    nano = shared / "nano"
    with FileLock(shared / "nano.lock"):
        if not (nano / "first_output.txt").exists():
            nano.mkdir(exist_ok=True)
            (nano / "nano.yaml").write_text(NANO)
            done = aha("run", "nano.yaml", cwd=nano)
            assert done.returncode == 0, done.stdout + done.stderr
            (nano / "first_output.txt").write_text(done.stdout)
    return nano / "runs" / "nano"


@pytest.fixture(scope="session")
def nano(finished: Path) -> Path:
    """The folder with the nano recipe and its run."""
    return finished.parents[1]
