"""Liger's layer kernels against transformers in float64, and whole stages that use them, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nano import BESIDE_THE_TESTS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed here")

# The largest difference from float64, as a share of the largest value. In float32 only: of bfloat16 Triton's interpreter
# makes NaN, so that is for tests/gpu.
TOLERANCE = 3e-6


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    script = Path(__file__).with_name("kernel_differences.py")
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=BESIDE_THE_TESTS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kernel", ["rms_norm", "swiglu", "rope", "cross_entropy", "linear_cross_entropy"])
def test_a_kernel_and_its_gradients_are_torchs(found: dict[str, Any], kernel: str) -> None:
    differences = found["kernels"][f"{kernel} float32"]
    assert len(differences) > 1 and max(differences) < TOLERANCE, differences


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_kernels_are_lifted_and_come_back(found: dict[str, Any], architecture: str) -> None:
    model = found["models"][architecture]
    assert model["lifted is what was"], (
        "without its kernels the model computes what it did before it had them, bit by bit"
    )
    assert model["fused again"]
    assert 0 < model["distance"] < 1e-5 and model["loss"] < 1e-5


@pytest.mark.parametrize("stage", ["cpt", "grpo"])
def test_a_stage_with_all_kernels_begins(found: dict[str, Any], stage: str) -> None:
    gate = found["gates"][f"{stage} False"]
    assert gate["error"] is None and gate["compared"]
    assert gate["grad_norm_plain"] > 0 and gate["grad_distance"] > 0, "two computations, not the same one twice"


@pytest.mark.parametrize("stage", ["cpt", "grpo"])
def test_a_wrong_layer_kernel_stops_a_stage(found: dict[str, Any], stage: str) -> None:
    gate = found["gates"][f"{stage} True"]
    assert gate["error"] and "rms_norm (liger)" in gate["error"] and "kernels: torch" in gate["error"]
