"""One virtual cluster for all tests of this folder, or one plain line that says why there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.cluster import Cluster, why_not
from slurm.desk import Desk

LEFT_OUT: list[str] = []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four nodes of eight fake GPUs: what the largest recipe asks for."""
    if why := why_not():
        LEFT_OUT.append(why)
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("cluster") / "root", nodes=4) as running:
        yield running


@pytest.fixture
def desk(cluster: Cluster, tmp_path: Path) -> Desk:
    """A user with a folder."""
    return Desk(cluster, tmp_path / "desk")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A skipped cluster is said out loud, also where skips are not listed."""
    if LEFT_OUT:
        terminalreporter.section("NOT TESTED: Slurm")
        terminalreporter.write_line(f"{len(LEFT_OUT)} tests of tests/slurm had no cluster: {LEFT_OUT[0]}")
