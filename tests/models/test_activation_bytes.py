"""The planner's bytes per layer and token, against what autograd really keeps.

The planner runs without torch, so its formula is arithmetic on a shape. Here the same layers are built and run, and every
storage that is saved for the backward pass is counted once.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aha.recipe.hardware import Machine
from aha.recipe.memory import Load, Precision, layer_bytes
from aha.recipe.schema import Cpt, Recipe, Source
from aha.recipe.shapes import Shape

LENGTH, ROWS = 64, 2
SHAPES = [
    Shape("llama", 256, 2, 4, 2, 64, 512, 128, tied=True),
    Shape("qwen2", 384, 2, 6, 6, 64, 896, 128, tied=True),
    Shape("qwen3", 256, 2, 4, 2, 128, 1024, 128, tied=True),
]
LEFT_OUT = 4
"""Bytes, for each norm and each head: reciprocal roots and attention's log-sums, which the formula leaves out."""


def build(shape: Shape, layers: int, dtype: torch.dtype) -> Any:
    config = AutoConfig.for_model(
        shape.architecture,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_size,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").train()


def kept(shape: Shape, layers: int, precision: str, checkpointing: bool = False) -> float:
    """Bytes per token that the backward pass waits for; weights are left out, and the copies that autocast makes of them."""
    model = build(shape, layers, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if checkpointing:
        model.gradient_checkpointing_enable()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    found: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    positions = (torch.arange(LENGTH) % 32).repeat(ROWS, 1)  # two sequences packed into each row
    ids = torch.randint(0, shape.vocabulary, (ROWS, LENGTH))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model.model(input_ids=ids, position_ids=positions, use_cache=False)
    copies = 2 * layers * shape.layer_matrices if precision == "mixed" and not checkpointing else 0
    return (sum(tensor.untyped_storage().nbytes() for tensor in found.values()) - copies) / (ROWS * LENGTH)


def load(shape: Shape, precision: str) -> Load:
    block = Cpt(data=[Source(path="x.txt")], tokens=1, max_tokens=LENGTH)
    recipe = Recipe.model_validate({"model": "some/model"})
    machine = Machine(name="cpu", device="cpu", memory_gib=1, tflops=1, memory_gbs=1, bf16=True, source="a test")
    return Load(recipe, block, shape, machine, Precision(precision, 4, 4, 8), 1, ROWS, 1, LENGTH)


@pytest.mark.parametrize("precision", ["float32", "mixed", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.architecture)
def test_a_layer_keeps_what_the_planner_says(shape: Shape, precision: str) -> None:
    one_more = kept(shape, 3, precision) - kept(shape, 2, precision)
    said = layer_bytes(load(shape, precision), shape)
    assert 0 <= one_more - said <= LEFT_OUT * (shape.heads + 2 + 2 * shape.heads)


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("mixed", 4), ("bfloat16", 2)])
def test_checkpointing_keeps_each_layers_input(precision: str, width: int) -> None:
    shape = SHAPES[0]
    one_more = kept(shape, 3, precision, checkpointing=True) - kept(shape, 2, precision, checkpointing=True)
    assert one_more == width * shape.hidden
