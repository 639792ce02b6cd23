"""How fast a finished run was, against what this machine can do: `aha bench RUN`.

Three figures, medians of several measurements in one process on one machine: the machine's matrix-multiplication peak,
the share of it (in the type they train in) that CPT and SFT reach, and the rollout speed of vLLM against `transformers.generate` on the same work.
Run it on a quiet machine: vLLM's threads spin, and two busy processes on two cores ruin each other.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aha.data.chat import messages_of, prompt_ids
from aha.data.sources import read_problems
from aha.metrics import read_metrics
from aha.recipe import Plan
from aha.rollout.engine import EngineLimits, Sampling, end_tokens
from aha.rollout.start import choose_engine, start_engine
from aha.rundir import RunDir, write_json
from aha.train.trainer import mixed_bf16

REPEATS = 5
SIZE = 2048
PROMPTS = 256


def measure(root: Path) -> dict[str, Any]:
    """All figures of one finished run, also written to its bench.json."""
    plan = Plan.model_validate_json((root / "plan.json").read_text())
    peak = {str(dtype).removeprefix("torch."): _matmul_peak(dtype) for dtype in (torch.float32, torch.bfloat16)}
    arithmetic = peak["bfloat16" if mixed_bf16(plan.device, plan.recipe.model.dtype) else "float32"]
    figures = {
        "matmul_gflops": peak,
        "stages": {stage.directory: _stage(RunDir(root), stage.name, arithmetic) for stage in plan.stages},
        "rollout_tokens_per_second": _rollouts(plan, root),
    }
    write_json(root / "bench.json", figures)
    return figures


def _median(seconds: Callable[[], float], warmup: int = 1) -> float:
    for _ in range(warmup):
        seconds()
    return statistics.median(seconds() for _ in range(REPEATS))


def _matmul_peak(dtype: torch.dtype) -> float:
    """GFLOP/s of a square product of size 2048."""
    a, b = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))

    def once() -> float:
        began = time.perf_counter()
        a @ b
        return time.perf_counter() - began

    return 2 * SIZE**3 / _median(once, warmup=2) / 1e9


def _stage(run: RunDir, name: str, peak: float) -> dict[str, float]:
    """Median tokens/s of a stage; GFLOP/s as 6 per weight and token (Kaplan et al. 2020), which leaves attention out."""
    speeds = [row["tokens_per_second"] for row in read_metrics(run.stage(name) / "metrics.jsonl")[1:]]
    speed = statistics.median(speeds)
    if name == "grpo":
        return {"tokens_per_second": speed}
    weights = sum(
        parameter.numel() for parameter in AutoModelForCausalLM.from_pretrained(run.stage(name) / "model").parameters()
    )
    gflops = 6 * weights * speed / 1e9
    return {"tokens_per_second": speed, "gflops": gflops, "share_of_peak": gflops / peak}


def _rollouts(plan: Plan, root: Path) -> dict[str, float]:
    """New tokens/s on the same prompts, with the last checkpoint; the completions are of the same policy."""
    block = plan.recipe.grpo
    if block is None:
        return {}
    path = str(root / plan.stages[-1].directory / "model")
    tokenizer = AutoTokenizer.from_pretrained(path)
    problems = read_problems(block.data, plan.recipe.seed)[0][:PROMPTS]
    prompts = [prompt_ids(tokenizer, messages_of(problem.prompt, plan.recipe.chat.system)) for problem in problems]
    new = block.rollout.max_tokens
    found = {"transformers.generate": _transformers(path, prompts, new)}
    choice = choose_engine("auto")
    if choice.name == "vllm":
        limits = EngineLimits(max(map(len, prompts)), new, len(prompts), block.rollout.kv_cache_gib, dtype="float32")
        engine = start_engine(choice, path, limits, 0)

        def once() -> float:
            began = time.perf_counter()
            drawn = engine.generate(prompts, Sampling(new), list(range(len(prompts))))
            return sum(len(one.token_ids) for one in drawn) / (time.perf_counter() - began)

        found["vllm"] = _median(once)
        found["ratio"] = found["vllm"] / found["transformers.generate"]
    return found


def _transformers(path: str, prompts: list[list[int]], new: int) -> float:
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ends = end_tokens(path)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    config = GenerationConfig(max_new_tokens=new, do_sample=True, top_k=0, eos_token_id=ends, pad_token_id=ends[0])

    def once() -> float:
        began = time.perf_counter()
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:]
        seconds = time.perf_counter() - began
        ended = torch.isin(out, torch.tensor(ends))
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, out.shape[1])
        return float(lengths.sum()) / seconds

    return _median(once)


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
