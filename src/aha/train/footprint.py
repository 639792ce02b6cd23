"""What one training step takes, in memory and time: with the kernels that a stage chooses, and on TRL's stock path.

`aha bench-memory` prints it for a small model on a CPU, `make test-gpu` for a larger one on a GPU. Each figure is
measured in a process of its own, on random weights and full-length sequences, through the trainers that the stages use:
the scores that GRPO takes before its loss, loss, backward pass and AdamW, in the precision that a run would have.

SmolLM2-135M, 2 x 512 tokens (GRPO: 256 + 256), mixed bfloat16, one thread of an AMD EPYC with AVX512-BF16 that other work
shared, so that the speeds say little; two and a half minutes for all four. Before the step there are the weights and the
imports, at the peak also gradients, AdamW's moments and the activations, which both paths hold:

    =======  ====================  ===================  ===============  ==============  ========
    stage    path                  GiB before the step  GiB at its peak  the step alone  tokens/s
    =======  ====================  ===================  ===============  ==============  ========
    distill  TRL, kernels: torch                  1.21             4.34            3.13       184
    distill  aha, kernels: auto                   1.20             3.93            2.73       113
    grpo     TRL, kernels: torch                  1.20             4.00            2.79       116
    grpo     aha, kernels: auto                   1.21             3.86            2.65       111
    =======  ====================  ===================  ===============  ==============  ========
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.liger import apply_liger_kernel

from aha import child
from aha.data.packing import Tokens
from aha.data.rows import packed_rows
from aha.models import kernels
from aha.models.scratch import make_tokenizer
from aha.recipe.plan import make_plan
from aha.recipe.schema import Recipe
from aha.rundir import write_json
from aha.train.bridge import Policy
from aha.train.grpo import make_grpo_trainer
from aha.train.sft import make_sft_trainer
from aha.types import Problem

STEPS = 2
"""The first makes the optimiser's state, and compiles; the last is timed."""

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "architecture": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "qwen2.5-0.5b": {
        "architecture": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "nano": {
        "architecture": "qwen2", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One step of one stage. `shape`: a name in SHAPES; `lengths`: tokens of a row, or of a prompt and its completion."""

    stage: str
    kernels: str
    shape: str
    micro: int
    lengths: tuple[int, ...]
    device: str

    @property
    def tokens(self) -> int:
        return self.micro * sum(self.lengths)


def measure(case: Case) -> dict[str, Any]:
    """GiB before and at the peak of a step, tokens/s, and what the comparison of fused and plain found."""
    with tempfile.TemporaryDirectory(prefix="aha-footprint-") as folder:
        return _measure(case, _trainer(case, Path(folder)))


def _measure(case: Case, trainer: Any) -> dict[str, Any]:
    if trainer.kernels.liger:
        apply_liger_kernel(trainer.model, trainer.kernels.liger)  # as transformers does when `train` begins
    optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=1e-6)
    model = trainer.accelerator.prepare_model(trainer.model)
    trainer.current_gradient_accumulation_steps = 1
    model.train()
    trainer._compared = True  # the comparison comes after: its plain logits are not what our path takes
    held, seconds = _forget_peak(case.device), 0.0
    for _ in range(STEPS):
        began = _now(case.device)
        batch, beside = trainer.longest_batch(case.micro, case.lengths)
        trainer.compute_loss(model, batch, **beside).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = _now(case.device) - began
    figures = {"held_gib": held, "peak_gib": _peak(case.device), "tokens_per_second": case.tokens / seconds}
    trainer.compare(model, *trainer.longest_batch(case.micro, case.lengths))
    record = json.loads((Path(trainer.args.output_dir).parents[1] / "kernels.json").read_text())
    versions = {name: version(name) for name in ("torch", "transformers", "trl", "liger-kernel")}
    gpu = torch.cuda.get_device_name() if case.device == "cuda" else None
    facts = {"versions": versions, "gpu": gpu, "threads": torch.get_num_threads()}
    return facts | figures | record


def _trainer(case: Case, folder: Path) -> Any:
    """The stage's own trainer around a model of this shape."""
    supervised = {
        "data": ["x.jsonl"],
        "max_tokens": case.lengths[0],
        "batch_size": case.micro,
        "micro_batch": case.micro,
    }
    blocks: dict[str, dict[str, Any]] = {
        "cpt": {**supervised, "tokens": case.tokens},
        "distill": {**supervised, "steps": 1},
        "grpo": {
            "data": ["x.jsonl"], "rewards": {"math_answer": 1.0}, "steps": 1, "prompts_per_step": 1,
            "group_size": case.micro, "micro_batch": case.micro,
            "rollout": {"max_prompt_tokens": case.lengths[0], "max_tokens": case.lengths[-1]},
        },
    }  # fmt: skip
    hardware = {"device": case.device, "gpus_per_node": int(case.device == "cuda"), "worst_case_first": "never"}
    recipe = Recipe.model_validate({"model": "random", "hardware": hardware, case.stage: blocks[case.stage]})
    stage = make_plan(recipe, folder, "random.yaml").stages[0]
    tokenizer = make_tokenizer(["word"], ())
    shape = dict(SHAPES[case.shape])
    architecture = shape.pop("architecture")
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, max_position_embeddings=sum(case.lengths), **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    chosen = kernels.choose(case.stage, case.kernels, case.device, architecture)
    if case.stage == "grpo":
        problems = [Problem("?", "!", "one")] * case.micro
        chats = [[{"role": "user", "content": "?"}]] * case.micro
        policy, nobody = Policy(lambda weights: None, lambda prompts, seeds: []), Any
        return make_grpo_trainer(
            recipe, stage, folder, case.device, model, tokenizer, problems, chats, nobody, policy, chosen, 0,  # type: ignore[arg-type]
        )[0]  # fmt: skip
    ids = list(range(case.lengths[0]))
    rows = packed_rows([Tokens(ids, ids)] * case.micro, [], len(ids), folder / "rows", lambda line: None)
    block: Any = getattr(recipe, case.stage)
    return make_sft_trainer(recipe, block, stage, 1, folder, case.device, model, tokenizer, rows, chosen, 0)[0]


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _forget_peak(device: str) -> float:
    """Start the peak anew; returns what is held now, GiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return _kept("VmRSS")


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else _kept("VmHWM")


def _kept(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**20


def main(given: str, found: Path) -> None:
    """`given` is a case as JSON."""
    fields = json.loads(given)
    case = Case(**fields | {"lengths": tuple(fields["lengths"])})
    write_json(found, asdict(case) | measure(case))


if __name__ == "__main__":
    child.finish(lambda: main(sys.argv[1], Path(sys.argv[2])), Path(sys.argv[2]).with_name("failure.json"))
