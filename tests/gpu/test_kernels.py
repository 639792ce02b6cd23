"""`make test-gpu`: Liger's compiled kernels against torch, then whole stages with and without them, in a table.

Qwen2.5-0.5B's shape with random weights, one row or four completions, 4k and 16k tokens. Without an NVIDIA GPU all of it
is skipped, and says so. `AHA_GPU_SUITE_ON_CPU=1` walks the same code on a CPU with a model of two layers: it shows that
the suite runs, and nothing about a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import BESIDE_THE_TESTS

GPU = torch.cuda.is_available()
WALK = not GPU and os.environ.get("AHA_GPU_SUITE_ON_CPU") == "1"
pytestmark = pytest.mark.skipif(
    not GPU and not WALK, reason="no NVIDIA GPU here: Liger's kernels were not compiled, and nothing was measured"
)
# The largest difference from float64, as a share of the largest value: a sum of rounded products. Not yet seen on a GPU.
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
TOKENS = (64, 128) if WALK else (4096, 16384)
COLUMNS = ("stage", "tokens", "kernels", "peak GiB", "tokens/s", "fused : plain")


def lengths(stage: str, tokens: int) -> tuple[int, list[int]]:
    """Sequences, and the tokens of each: one packed row, or four completions after a prompt of an eighth."""
    return (4, [tokens // 32, tokens // 4 - tokens // 32]) if stage == "grpo" else (1, [tokens])


@pytest.fixture(scope="module")
def differences() -> dict[str, Any]:
    script = Path(__file__).parents[1] / "models" / "kernel_differences.py"
    command = [sys.executable, script, "cuda"] if GPU else [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=BESIDE_THE_TESTS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kernel", ["rms_norm", "swiglu", "rope", "cross_entropy", "linear_cross_entropy"])
def test_a_kernel_and_its_gradients_are_torchs(differences: dict[str, Any], kernel: str, dtype: str) -> None:
    if WALK and dtype == "bfloat16":
        pytest.skip("Triton's interpreter gives NaN for bfloat16")
    found = differences["kernels"][f"{kernel} {dtype}"]
    assert max(found) < TOLERANCE[dtype], found


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    """Filled by the tests below, printed after the last of them."""
    rows: list[tuple[str, ...]] = []
    yield rows
    widths = [max(len(row[column]) for row in [COLUMNS, *rows]) for column in range(len(COLUMNS))]
    print("\n")
    for row in [COLUMNS, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def step(folder: Path, stage: str, tokens: int, kernels: str) -> dict[str, Any]:
    micro, each = lengths(stage, tokens)
    case = {
        "stage": stage,
        "kernels": kernels,
        "shape": "nano" if WALK else "qwen2.5-0.5b",
        "micro": micro,
        "lengths": each,
    }
    case["device"] = "cuda" if GPU else "cpu"
    command = [sys.executable, "-m", "aha.train.footprint", json.dumps(case), folder / f"{kernels}.json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=BESIDE_THE_TESTS)
    if done.returncode:
        told = folder / "failure.json"
        failure = json.loads(told.read_text()) if told.exists() else {"message": done.stderr[-3000:]}
        assert kernels == "torch" and "out of memory" in failure["message"], failure
        return {"peak_gib": float("inf"), "tokens_per_second": 0.0, "parity": {"compared": False}}
    return json.loads((folder / f"{kernels}.json").read_text())


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("stage", ["cpt", "distill", "grpo"])
def test_a_stage_with_and_without(tmp_path: Path, table: list[tuple[str, ...]], stage: str, tokens: int) -> None:
    with_liger, without = (step(tmp_path, stage, tokens, way) for way in ("auto" if WALK else "liger", "torch"))
    parity = with_liger["parity"]
    if not table:
        versions = ", ".join(f"{name} {number}" for name, number in with_liger["versions"].items())
        print(f"\n{with_liger['gpu'] or 'no GPU: the CPU'}; {versions}")
    for way, found in (("liger", with_liger), ("torch", without)):
        agree = f"gradients {found['parity']['grad_distance']:.1e} apart" if found["parity"]["compared"] else "-"
        speed = f"{found['tokens_per_second']:,.0f}"
        table.append((stage, str(tokens), way, f"{found['peak_gib']:.2f}", speed, agree))
    assert parity["compared"] and parity["grad_distance"] <= parity["tolerance"]["grad_distance"]
    assert {"rms_norm", "rope", "swiglu"} <= {one["kernel"] for one in with_liger["fused" if GPU else "plain"]}
    assert WALK or with_liger["peak_gib"] < without["peak_gib"]
