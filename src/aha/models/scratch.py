"""A model made from nothing: a standard architecture with random weights, and a tokenizer of whole words.

The tiny recipe starts here. One token per integer is what lets a million parameters learn to add in a minute.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from aha.recipe.schema import FromScratch

SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>")
ROLES = ("system", "user", "assistant")


def make_tokenizer(words: list[str], tags: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """One token per whitespace-separated word; `tags` (<think> and its like) and chat marks are tokens of their own."""
    tokens = [*SPECIAL, *ROLES, *tags, *words]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>", unk_token="<unk>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return fast


def make_model(spec: FromScratch, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """Random weights from `seed`, in float32."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        spec.architecture,
        vocab_size=-(-len(tokenizer) // 64) * 64,  # kernels like multiples of 64
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        max_position_embeddings=spec.context,
        tie_word_embeddings=spec.tied,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
