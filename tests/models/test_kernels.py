"""Which kernels a stage gets, and that a patch which did not take hold is found out."""

from __future__ import annotations

import pytest
import torch

from aha.errors import KernelError
from aha.models import kernels


def names(found: list[kernels.Kernel]) -> set[str]:
    return {kernel.kernel for kernel in found}


@pytest.mark.parametrize("stage", ["cpt", "distill"])
def test_supervised_on_cpu_takes_the_chunked_loss_and_says_what_is_plain(stage: str) -> None:
    chosen = kernels.choose(stage, "auto", "cpu", "llama")
    assert chosen.chunked_loss and chosen.liger is None
    assert names(chosen.fused) == {"linear_cross_entropy"}
    assert names(chosen.plain) == {"rope", "rms_norm", "swiglu"}
    assert all("need a GPU" in kernel.why for kernel in chosen.plain)


def test_grpo_on_cpu_takes_ligers_loss_with_every_layer_kernel_off() -> None:
    chosen = kernels.choose("grpo", "auto", "cpu", "llama")
    assert chosen.liger is not None and not any(chosen.liger.values())
    assert names(chosen.fused) == {"grpo_loss"}


@pytest.mark.parametrize("stage", ["cpt", "distill", "grpo"])
def test_a_gpu_takes_all_of_liger(stage: str) -> None:
    chosen = kernels.choose(stage, "liger", "cuda", "qwen2")
    assert not chosen.plain
    assert {"rope", "rms_norm", "swiglu"} < names(chosen.fused)
    assert chosen.liger is not None and chosen.liger["fused_linear_cross_entropy"] == (stage != "grpo")


def test_what_is_demanded_and_cannot_be_had_is_an_error() -> None:
    with pytest.raises(KernelError, match="need a GPU"):
        kernels.choose("cpt", "liger", "cpu", "llama")
    with pytest.raises(KernelError, match="no kernels for the architecture fancy"):
        kernels.choose("cpt", "liger", "cuda", "fancy")


def test_torch_takes_nothing_and_records_why() -> None:
    record = kernels.choose("grpo", "torch", "cuda", "qwen2").record()
    assert record["fused"] == [] and {row["why"] for row in record["plain"]} == {"the recipe says kernels: torch"}


def test_layer_kernels_that_are_not_in_the_model_are_found_out() -> None:
    planned = kernels.choose("cpt", "liger", "cuda", "qwen2")
    with pytest.raises(KernelError, match="planned, but the built model does not"):
        kernels.verify(planned, torch.nn.Sequential(torch.nn.Linear(2, 2)))
