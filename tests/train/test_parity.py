"""Before step 1 the first micro-batch is computed fused and plain: they agree, or the stage does not begin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import BESIDE_THE_TESTS, BF16
from small import completions, group, logprobs, supervised
from trl import GRPOTrainer
from trl.trainer import sft_trainer

from aha.errors import KernelError
from aha.models.kernels import choose
from aha.train import parity
from aha.train.grpo import GroupTrainer
from aha.train.logprobs import Logprobs

SUPERVISED, GROUP, PLAIN = (
    choose(*chosen, "cpu", "llama") for chosen in (("cpt", "auto"), ("grpo", "auto"), ("cpt", "torch"))
)
PRESETS = ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]


def recorded(folder: Path) -> dict[str, Any]:
    return json.loads(next(folder.glob("run/*/kernels.json")).read_text())["parity"]


def test_the_chunked_loss_agrees_and_is_written_down(tmp_path: Path) -> None:
    supervised(tmp_path, SUPERVISED, 1).train()
    found = recorded(tmp_path)
    assert found["compared"] and found["step"] == 1 and found["tokens"] == 60 and found["processes"] == 1
    assert found["dtype"] == ("bfloat16" if BF16 else "float32")
    assert found["grad_norm_plain"] > 0 and found["loss_plain"] == pytest.approx(found["loss_fused"], rel=1e-2)
    assert found["grad_distance"] <= found["tolerance"]["grad_distance"]


def test_the_comparison_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, metrics and random numbers are those of a run without it, bit by bit; dropout draws in both."""
    runs = {}
    for name in ("with", "without"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "without":
            monkeypatch.setattr(parity.Parity, "_compared", True)
        trainer = supervised(folder, SUPERVISED, 3, "cpt.lora={rank: 4, dropout: 0.5}")
        trainer.train()
        lines = map(json.loads, next(folder.glob("run/*/metrics.jsonl")).read_text().splitlines())
        timed = ("time", "tokens_per_second")
        metrics = [{key: value for key, value in line.items() if key not in timed} for line in lines]
        runs[name] = (trainer.model.state_dict(), metrics, torch.rand(4))
    assert (tmp_path / "with/run/1-cpt/kernels.json").exists() and not (
        tmp_path / "without/run/1-cpt/kernels.json"
    ).exists()
    (one, metrics, drawn), (other, expected, also) = runs["with"], runs["without"]
    assert all(torch.equal(one[key], other[key]) for key in other) and torch.equal(drawn, also)
    assert metrics == expected and len(metrics) == 3


def test_nothing_fused_is_said(tmp_path: Path) -> None:
    supervised(tmp_path, PLAIN, 1).train()
    assert recorded(tmp_path) == {"compared": False, "why": "nothing is fused"}


def refused(folder: Path) -> str:
    """What a CPT stage says that must not take a step."""
    trainer = supervised(folder, SUPERVISED, 2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    with pytest.raises(KernelError) as caught:
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    assert recorded(folder)["compared"]
    return str(caught.value)


def test_a_wrong_loss_stops_the_stage_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk's loss that is 5 % too large."""
    right = sft_trainer._chunk
    monkeypatch.setattr(sft_trainer, "_chunk", lambda *given: (right(*given)[0] * 1.05, *right(*given)[1:]))
    told = refused(tmp_path)
    assert "kernels: auto" in told and "linear_cross_entropy (trl)" in told and "Write kernels: torch" in told


class Turned(torch.autograd.Function):
    """A value whose gradient comes back with every second entry's sign changed: of the same norm."""

    @staticmethod
    def forward(context: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        turned = gradient.clone()
        turned[..., ::2] *= -1
        return turned


def test_a_gradient_that_points_elsewhere_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and norm stay right: only the head's gradient is turned."""
    right = sft_trainer._chunk
    monkeypatch.setattr(sft_trainer, "_chunk", lambda hidden, head, *rest: right(hidden, Turned.apply(head), *rest))
    refused(tmp_path)
    found = recorded(tmp_path)
    assert found["loss_fused"] == pytest.approx(found["loss_plain"], rel=1e-2)
    assert found["grad_norm_fused"] == pytest.approx(found["grad_norm_plain"], rel=1e-2)
    assert found["grad_distance"] > 0.1


@pytest.mark.parametrize("algorithm", PRESETS)
def test_every_preset_agrees(tmp_path: Path, algorithm: str) -> None:
    trainer = group(tmp_path, GROUP, f"grpo.algorithm={algorithm}", "grpo.beta=0.04")
    batch = completions(trainer)
    batch["ref_per_token_logps"] = batch["old_per_token_logps"] - 0.1
    trainer.compute_loss(trainer.model_wrapped, batch)
    found = recorded(tmp_path)
    assert found["compared"] and found["grad_norm_plain"] > 0


def test_a_batch_without_a_signal_gets_one(tmp_path: Path) -> None:
    trainer = group(tmp_path, GROUP)
    batch = completions(trainer) | {"advantages": torch.zeros(4)}
    trainer.compute_loss(trainer.model_wrapped, batch)
    assert recorded(tmp_path)["grad_norm_plain"] > 0 and not batch["advantages"].any()


def test_without_a_gradient_the_next_batch_is_compared(tmp_path: Path) -> None:
    trainer = group(tmp_path, GROUP)
    batch = completions(trainer)
    trainer.compute_loss(trainer.model_wrapped, batch | {"tool_mask": torch.zeros_like(batch["completion_mask"])})
    assert not recorded(tmp_path)["compared"]
    trainer.compute_loss(trainer.model_wrapped, batch)
    assert recorded(tmp_path)["compared"]


def test_what_has_no_room_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = group(tmp_path, GROUP)
    words = trainer.model.config.vocab_size
    for room, rows, tokens in ((words * 30, 2, 24), (words * 7, 1, 7)):
        monkeypatch.setattr(parity, "MOST_LOGITS", room)
        trainer._compared = False
        trainer.compute_loss(trainer.model_wrapped, completions(trainer))
        assert (recorded(tmp_path)["rows"], recorded(tmp_path)["tokens"]) == (rows, tokens)
    monkeypatch.setattr(parity, "MOST_LOGITS", words * 5)
    (tmp_path / "cpt").mkdir()
    supervised(tmp_path / "cpt", SUPERVISED, 1).train()
    found = recorded(tmp_path / "cpt")
    assert found["compared"] and (found["rows"], found["tokens"]) == (1, 5)


TWO = """
import os, sys
from pathlib import Path
from small import supervised
from trl.trainer import sft_trainer
from aha.errors import KernelError
from aha.models.kernels import choose

rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])
for name, wrong in (("right", 1.0), ("wrong", 1.05)):
    right = sft_trainer._chunk
    if rank == 1:
        sft_trainer._chunk = lambda *given: (right(*given)[0] * wrong, *right(*given)[1:])
    there = folder / name / str(rank)
    there.mkdir(parents=True)
    trainer = supervised(there, choose("cpt", "auto", "cpu", "llama"), 1)
    trainer.parallel = "ddp"  # two processes; a recipe says it
    try:
        trainer.train()
        print(f"{name}: trained, {trainer.accelerator.num_processes} processes")
    except KernelError:
        print(f"{name}: refused at step {trainer.state.global_step}")
    sft_trainer._chunk = right
sys.stdout.flush()
os._exit(0)
"""


def test_two_processes_decide_together(tmp_path: Path) -> None:
    """A kernel that is wrong in the second process only stops the first one too, and neither waits for ever."""
    (tmp_path / "two.py").write_text(TWO)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        tmp_path / "two.py",
    ]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True, timeout=300, env=BESIDE_THE_TESTS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("right: trained, 2 processes") == 2 and done.stdout.count("wrong: refused at step 0") == 2
    record = json.loads((tmp_path / "wrong/0/run/1-cpt/kernels.json").read_text())["parity"]
    assert record["processes"] == 2 and record["loss_fused"] == pytest.approx(1.05 * record["loss_plain"], rel=1e-2)


# --- old and new logprobs ------------------------------------------------------------------------------------------


def test_scores_come_from_the_loss_that_is_trained(tmp_path: Path) -> None:
    """On the first pass every ratio is 1. TRL's own two ways are two computations, in bfloat16 by far."""
    trainer = group(tmp_path, GROUP)
    batch = completions(trainer, rows=4)
    batch |= {"importance_sampling_ratio": torch.ones(4, 12), "advantages": torch.tensor([1.0, 1.0, -1.0, -1.0])}
    trainer._compared = True
    loss = trainer.compute_loss(trainer.model_wrapped, batch)
    assert float(loss) == pytest.approx(0.0, abs=1e-6), "the mean advantage, at ratio 1"
    trainer.use_liger_kernel = False
    apart = (logprobs(trainer, batch) - batch["old_per_token_logps"])[batch["completion_mask"].bool()].abs()
    assert float(apart.max()) < (0.05 if BF16 else 1e-5), "and it is the policy's logprob"


@pytest.mark.skipif(not BF16, reason="without AVX512-BF16 everything here is float32, and TRL's way is consistent")
def test_trls_mixture_of_two_precisions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Liger's loss as TRL 1.13 calls it: float32 logprobs against bfloat16 ones."""
    for name in ("_get_last_hidden_state", "_get_per_token_logps_and_entropies"):
        monkeypatch.setattr(Logprobs, name, getattr(GRPOTrainer, name))
    trainer: GroupTrainer = group(tmp_path, GROUP, "grpo.algorithm=gspo")
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.mul_(
            20
        )  # fresh weights are timid: logits as large as a trained model's
        trainer.model.get_output_embeddings().weight.mul_(20)
    with pytest.raises(KernelError, match=r"grpo_loss \(liger\)"):
        trainer.compute_loss(trainer.model_wrapped, completions(trainer))
