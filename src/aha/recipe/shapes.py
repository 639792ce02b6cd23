"""The shape of a model before it is loaded: what its memory and its arithmetic follow from.

A recipe's own model says its shape; a folder says it in config.json; for the hub models of the shipped recipes it stands
here. Of any other hub model nothing is known until it is downloaded, and then nothing is predicted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aha.recipe.schema import FromScratch, Model

DENSE = ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "smollm3")
"""Architectures that are a plain stack of attention and SwiGLU: what the formulas here are true of."""

ARITHMETIC_TOKENS = 64
"""Of the tokenizer that `vocabulary: arithmetic` makes, rounded up to 64 as models/scratch does."""


@dataclass(frozen=True)
class Shape:
    """A dense decoder.

    >>> Shape("llama", 576, 30, 9, 3, 64, 1536, 49152, tied=True).weights  # SmolLM2-135M
    134515008
    """

    architecture: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def query_width(self) -> int:
        """Width of all query heads together: the hidden size in most models."""
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        """Width of all key heads together; the values have the same."""
        return self.kv_heads * self.head_size

    @property
    def layer_matrices(self) -> int:
        """Weights in the matrices of one layer: queries, keys, values, output; gate, up, down."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.kv_width
        return attention + 3 * self.hidden * self.intermediate

    @property
    def matrices(self) -> int:
        """Weights that a token is multiplied with: all layers' matrices, and the output head."""
        return self.layers * self.layer_matrices + self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All of them, embeddings, norms and biases included."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        small = 2 * self.hidden
        if self.architecture == "qwen2":
            small += self.query_width + 2 * self.kv_width  # biases of queries, keys and values
        if self.architecture == "qwen3":
            small += 2 * self.head_size  # norms of queries and keys
        return embeddings + self.layers * (self.layer_matrices + small) + self.hidden

    def adapter_weights(self, rank: int) -> int:
        """Weights of low-rank adapters on all linear layers but the head: rank × (in + out) each (arXiv:2106.09685)."""
        attention = 2 * (self.hidden + self.query_width) + 2 * (self.hidden + self.kv_width)
        return self.layers * rank * (attention + 3 * (self.hidden + self.intermediate))

    @property
    def kv_values(self) -> int:
        """Numbers that the KV cache holds for one token."""
        return 2 * self.layers * self.kv_width


_QWEN_7B = Shape("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, tied=False)
_QWEN_1_5B = Shape("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, tied=True)

PUBLISHED: Mapping[str, Shape] = {
    "Qwen/Qwen2.5-7B": _QWEN_7B,
    "Qwen/Qwen2.5-1.5B": _QWEN_1_5B,
    "open-r1/Qwen2.5-Math-7B-RoPE-300k": _QWEN_7B,  # of Qwen/Qwen2.5-Math-7B: another RoPE base, the same shape
    "HuggingFaceTB/SmolLM2-135M-Instruct": Shape("llama", 576, 30, 9, 3, 64, 1536, 49152, tied=True),
}
"""The hub models of the shipped recipes, as the config.json that their makers publish on the hub says."""


def find_shape(model: Model) -> tuple[Shape | None, str]:
    """The shape of a recipe's model, and where it stands; or None, and why it is not known."""
    if model.from_scratch:
        return _of_scratch(model.from_scratch), "the recipe"
    name = str(model.path)
    if Path(name).is_dir():
        return _of_config(Path(name) / "config.json")
    if name in PUBLISHED:
        return PUBLISHED[name], "its published config.json"
    cached = _in_hub_cache(name, model.revision)
    if cached is None:
        return None, f"shape of {name} unknown until downloaded: no prediction"
    return _of_config(cached)


def _of_scratch(spec: FromScratch) -> Shape:
    size = spec.hidden_size // spec.heads
    shape = (spec.hidden_size, spec.layers, spec.heads, spec.heads, size, spec.intermediate_size)
    return Shape(spec.architecture, *shape, ARITHMETIC_TOKENS, spec.tied)


def _of_config(path: Path) -> tuple[Shape | None, str]:
    """A Hugging Face config.json as a shape, where its architecture is one that the formulas are true of."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        architecture = config["model_type"]
        if architecture not in DENSE or config.get("num_experts") or config.get("num_local_experts"):
            return None, f"{path}: {architecture} is not a dense decoder that the planner knows: no prediction"
        heads = config["num_attention_heads"]
        shape = Shape(
            architecture=architecture,
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path} says no shape ({type(error).__name__}: {error}): no prediction"
    return shape, str(path)


def _in_hub_cache(name: str, revision: str | None) -> Path | None:
    """config.json of a downloaded hub model, in the folder where huggingface_hub keeps it."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    folder = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    try:
        commit = (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision or ""
    path = folder / "snapshots" / commit / "config.json"
    return path if commit and path.is_file() else None
