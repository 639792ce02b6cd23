"""Metrics: every step once, whatever was interrupted, and nothing that is not JSON."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import aha
from aha.metrics import MetricsWriter, read_metrics

SOURCE = str(Path(aha.__file__).parents[1])


class Scalar:
    """What NumPy's and torch's scalars have in common."""

    def item(self) -> float:
        return 0.25


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "1-cpt/metrics.jsonl"
    assert read_metrics(path) == []
    with MetricsWriter(path) as metrics:
        metrics.write(1, loss=2.5, tokens=4096, **{"reward/math_answer": None})
        metrics.write(2, loss=Scalar(), grad_norm=float("nan"), kl=float("inf"))
    first, second = read_metrics(path)
    assert list(first) == ["step", "time", "loss", "tokens", "reward/math_answer"]
    assert (first["step"], first["loss"], first["reward/math_answer"]) == (1, 2.5, None)
    assert (second["loss"], second["grad_norm"], second["kl"]) == (0.25, None, None)
    assert first["time"] <= second["time"]


def test_a_time_can_be_given(tmp_path: Path) -> None:
    MetricsWriter(tmp_path / "m.jsonl").write(1, time=12.0)
    assert read_metrics(tmp_path / "m.jsonl") == [{"step": 1, "time": 12.0}]


def test_resuming_drops_the_steps_that_come_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    for step in range(1, 8):
        writer.write(step, loss=float(step))
    resumed = MetricsWriter(path, resume_step=5)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    resumed.write(6, loss=60.0)
    assert [(row["step"], row["loss"]) for row in read_metrics(path)][-2:] == [(5, 5.0), (6, 60.0)]
    MetricsWriter(path)
    assert read_metrics(path) == []


def test_resuming_at_the_end_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsWriter(path).write(1, loss=1.0)
    before = path.stat().st_ino, path.read_bytes()
    MetricsWriter(path, resume_step=1)
    assert (path.stat().st_ino, path.read_bytes()) == before


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    writer = MetricsWriter(path, resume_step=1)
    assert [row["step"] for row in read_metrics(path)] == [1]
    writer.write(2, loss=2.0)
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys, os, signal; from aha.metrics import MetricsWriter\n"
        "writer = MetricsWriter(sys.argv[1])\n"
        "for step in range(1, 4): writer.write(step, loss=0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(path)], env={**os.environ, "PYTHONPATH": SOURCE}, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
