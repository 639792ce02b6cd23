"""What a device can do: memory, arithmetic, bandwidth. From a table for GPUs, from this machine for CPUs.

`--hardware h100-80x8x4nodes` is short for overrides of the recipe's `hardware:` block, so what it plans is a recipe that
somebody could have written.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aha.errors import Mistake, RecipeError
from aha.recipe.batch import device_of, processes_per_node
from aha.recipe.schema import Block, Hardware
from aha.rundir import read_object


class Gpu(NamedTuple):
    """One GPU, as its vendor's data sheet has it."""

    memory_gib: float
    """As `nvidia-smi` shows it: the data sheet's GB are a little less than GiB."""
    tflops: float
    """Dense bfloat16 with float32 accumulation; the data sheets' larger figure is with sparsity."""
    memory_gbs: float
    """Bandwidth of its memory, GB/s."""
    link_gbs: float
    """To the other GPUs of the node, GB/s in one direction: NVLink, or PCIe 4.0 x16."""
    network_gbs: float
    """To other nodes, GB/s for each GPU: not the GPU's but the cluster's, so an assumption, and printed as one."""


GPUS: Mapping[str, Gpu] = {
    "h100-80": Gpu(79.6, 989, 3350, 450, 50),  # NVIDIA H100 data sheet, SXM5; DGX H100: 400 Gbit/s for each GPU
    "h200-141": Gpu(140.4, 989, 4800, 450, 50),  # NVIDIA H200 data sheet, SXM; network as DGX H200
    "a100-80": Gpu(80.0, 312, 2039, 300, 25),  # NVIDIA A100 data sheet, SXM4 80 GB; DGX A100: 200 Gbit/s each
    "a100-40": Gpu(39.6, 312, 1555, 300, 25),  # NVIDIA A100 data sheet, SXM4 40 GB
    "l40s": Gpu(45.0, 362, 864, 32, 12.5),  # NVIDIA L40S data sheet; PCIe; network: 100 Gbit/s each, assumed
    "4090-24": Gpu(24.0, 165, 1008, 32, 3),  # NVIDIA Ada GPU architecture paper, RTX 4090; network: 25 Gbit/s, assumed
}

CPU_GFLOPS = {"bfloat16": 435.0, "float32": 103.0}
"""Of one core, measured as a square product of size 2048 on 2 cores of an AMD EPYC with AVX512-BF16 (870 and 206).
`aha bench RUN` measures the machine's own; a plan of that run directory then takes it."""
CPU_MEMORY_GBS = 40.0
"""Of a server's memory, shared by its cores; order of magnitude."""


class Machine(Block):
    """One device of the plan. None is "not known": what needs it is not predicted."""

    name: str
    device: str
    memory_gib: float | None
    tflops: float | None
    memory_gbs: float | None
    link_gbs: float | None = None
    network_gbs: float | None = None
    bf16: bool
    """Whether training takes bfloat16 where it may; elsewhere it is float32."""
    source: str
    """Where these figures come from, in words."""


def machine_of(hardware: Hardware, run_dir: Path | None = None, dtype: str = "auto") -> Machine:
    """The device that a recipe's `hardware:` block plans for, at work in its `model.dtype`.

    `run_dir` may hold the figures of `aha bench`.
    """
    return _cpu(hardware, run_dir, dtype) if device_of(hardware) == "cpu" else _gpu(hardware, dtype)


def _gpu(hardware: Hardware, dtype: str) -> Machine:
    name = hardware.gpu or _gpu_of_this_machine()
    if name is None:
        source = "the recipe names no GPU (hardware.gpu), so its speed is not known"
        memory = hardware.gpu_memory_gib
        return Machine(
            name="GPU", device="cuda", memory_gib=memory, tflops=None, memory_gbs=None, bf16=True, source=source
        )
    gpu = GPUS[name]
    bf16 = dtype != "float32"
    speed = f"{gpu.tflops:g} TFLOP/s dense bfloat16" if bf16 else "its speed in float32 is not in our table"
    return Machine(
        name=name,
        device="cuda",
        memory_gib=hardware.gpu_memory_gib or gpu.memory_gib,
        tflops=gpu.tflops if bf16 else None,
        memory_gbs=gpu.memory_gbs,
        link_gbs=gpu.link_gbs,
        network_gbs=gpu.network_gbs,
        bf16=bf16,
        source=f"{name}: {speed}, {gpu.memory_gbs / 1000:g} TB/s memory (data sheet)",
    )


def _gpu_of_this_machine() -> str | None:
    """The table's name of the GPU that the driver shows here, without asking CUDA."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"Model:\s*(.*)", path.read_text(errors="replace"))
        words = model.group(1).lower() if model else ""
        for mark, name in (("h200", "h200-141"), ("h100", "h100-80"), ("l40s", "l40s"), ("4090", "4090-24")):
            if mark in words and "pcie" not in words and "nvl" not in words:
                return name
        if "a100" in words and "pcie" not in words:
            return "a100-80" if "80gb" in words else "a100-40"
    return None


def _cpu(hardware: Hardware, run_dir: Path | None, wanted: str) -> Machine:
    processes = processes_per_node(hardware)
    cores = max(1, cores_of_this_machine() // processes)
    threads = min(hardware.threads or cores, cores)
    bf16 = wanted != "float32" and _has_avx512_bf16()
    dtype = "bfloat16" if bf16 else "float32"
    measured = ((read_object(run_dir / "bench.json") if run_dir else None) or {}).get("matmul_gflops", {}).get(dtype)
    gflops = float(measured) if measured else threads * CPU_GFLOPS[dtype]
    how = "measured by `aha bench`" if measured else "a default, not measured here"
    memory = _memory_of_this_machine()
    return Machine(
        name="cpu",
        device="cpu",
        memory_gib=memory / processes if memory else None,
        tflops=gflops / 1000,
        memory_gbs=CPU_MEMORY_GBS,
        bf16=bf16,
        source=f"{threads} CPU threads: {gflops:,.0f} GFLOP/s {dtype} ({how}); memory of this machine{f', shared by its {processes} processes' if processes > 1 else ''}",
    )


def cores_of_this_machine() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_avx512_bf16() -> bool:
    """As torch asks it before a stage takes bfloat16 on a CPU."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


def _memory_of_this_machine() -> float | None:
    """GiB of this machine, or of the container that this process lives in."""
    found = []
    try:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (OSError, ValueError):
        return None
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return min(found) / 2**30


# --- --hardware ----------------------------------------------------------------------------------------------------

_SPELLING = re.compile(r"(?P<gpu>.+?)(?:x(?P<gpus>[1-9]\d*)(?:x(?P<nodes>[1-9]\d*)nodes?)?)?")


def hardware_overrides(text: str) -> list[str]:
    """`--hardware` as overrides of the recipe. Raises RecipeError with the nearest device when it is none.

    >>> hardware_overrides("h200-141x8x4nodes")
    ['hardware.device=cuda', 'hardware.processes_per_node=null', 'hardware.gpu=h200-141', 'hardware.gpu_memory_gib=140.4', 'hardware.gpus_per_node=8', 'hardware.nodes=4']
    """
    if text == "cpu":
        return ["hardware.device=cpu", "hardware.gpu=null", "hardware.gpus_per_node=0", "hardware.nodes=1"]
    found = _SPELLING.fullmatch(text)
    name = found["gpu"] if found else text
    if found is None or name not in GPUS:
        expected = f"cpu, or a GPU with how many: one of {', '.join(GPUS)}; for example h100-80x8 or h100-80x8x4nodes"
        nearest = difflib.get_close_matches(name, ["cpu", *GPUS], n=1, cutoff=0.3)
        raise RecipeError(Mistake("--hardware", text, expected, nearest[0] if nearest else None))
    return [
        "hardware.device=cuda",
        "hardware.processes_per_node=null",
        f"hardware.gpu={name}",
        f"hardware.gpu_memory_gib={GPUS[name].memory_gib:g}",
        f"hardware.gpus_per_node={found['gpus'] or 1}",
        f"hardware.nodes={found['nodes'] or 1}",
    ]
