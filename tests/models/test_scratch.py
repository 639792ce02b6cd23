"""A model made from nothing: its tokenizer reads back as itself, and its weights depend on the seed alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aha.data import arithmetic
from aha.models.load import save
from aha.models.scratch import SPECIAL, make_model, make_tokenizer
from aha.recipe.schema import FromScratch

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
LINE = "Start with 7 . Add 5 . <think> 7 + 5 = 12 </think> <answer> 12 </answer>"


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "phi3"])
def test_the_tokenizer_reads_back_as_itself(tmp_path: Path, architecture: str) -> None:
    """Beside a model too: transformers picks a tokenizer class by the architecture that it finds there."""
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    spec = FromScratch(architecture=architecture, hidden_size=32, layers=1, heads=2, intermediate_size=64)
    model = make_model(spec, tokenizer, 0)
    save(model, tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again(LINE).input_ids == tokenizer(LINE).input_ids
    assert (again.eos_token, again.pad_token, again.unk_token) == ("<|im_end|>", "<|pad|>", "<unk>")
    reread = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer(LINE).input_ids])
    with torch.no_grad():
        torch.testing.assert_close(reread(ids).logits, model.eval()(ids).logits)


def test_one_token_per_word() -> None:
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    assert tokenizer.convert_ids_to_tokens(tokenizer(LINE).input_ids) == LINE.split()
    assert tokenizer.decode(tokenizer(LINE).input_ids) == LINE
    assert len(tokenizer) == len({*SPECIAL, "system", "user", "assistant", *TAGS, *arithmetic.vocabulary()})


def test_chat_marks_need_no_space_around_them() -> None:
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("<|im_start|>user\n7<|im_end|>\n").input_ids)
    assert tokens == ["<|im_start|>", "user", "7", "<|im_end|>"]


def test_a_word_from_elsewhere_is_unknown() -> None:
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    assert tokenizer("Add banana").input_ids[-1] == tokenizer.unk_token_id


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "phi3"])
def test_weights_depend_on_the_seed_alone(architecture: str) -> None:
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    spec = FromScratch(architecture=architecture, hidden_size=32, layers=1, heads=2, intermediate_size=64)
    once, again, other = (make_model(spec, tokenizer, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)
    assert all(weight.dtype == torch.float32 for weight in once.values())


def test_what_the_recipe_says_is_what_is_built() -> None:
    tokenizer = make_tokenizer(arithmetic.vocabulary(), TAGS)
    spec = FromScratch(hidden_size=48, layers=3, heads=4, intermediate_size=80, context=96, tied=True)
    config = make_model(spec, tokenizer, 0).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 3, 4)
    assert (config.intermediate_size, config.max_position_embeddings) == (80, 96)
    assert config.tie_word_embeddings and config.vocab_size % 64 == 0 and config.vocab_size >= len(tokenizer)
    assert (config.eos_token_id, config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
