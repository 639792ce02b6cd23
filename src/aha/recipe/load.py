"""A recipe from its file: read, overridden, validated and checked, with every problem reported at once.

A `Recipe` that comes from here is a valid one. `read_document` beside it keeps the lines, for later rooms that have
something to say about a key (a reward's arguments, a trainer's fields).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aha.errors import Mistake, RecipeError
from aha.recipe.check import check
from aha.recipe.document import Document, Dumper, read_document
from aha.recipe.explain import block_at, explain, nothing_in
from aha.recipe.schema import Recipe

DOES_NOT_CHANGE_THE_RUN: dict[str, Any] = {
    "name": True,
    "expect": True,
    "tracking": True,
    "hardware": {"gpu", "deadlines"},
    "grpo": {"health"},
}


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file with `key.path=value` overrides laid over it. Raises RecipeError with all problems."""
    document = read_document(path, overrides)
    recipe = _validated(document)
    mistakes = check(recipe, document.where)
    if mistakes:
        raise RecipeError(*mistakes)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """The YAML of what the recipe sets; `load_recipe` reads an equal recipe back from it."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    written = {key: value for key, value in values.items() if value is not None}
    return yaml.dump(written, Dumper=Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over everything in a recipe that changes what is computed: not its name, promises, tracking or watchdog."""
    return hash_of(recipe.model_dump(mode="json", exclude=DOES_NOT_CHANGE_THE_RUN))


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _validated(document: Document) -> Recipe:
    mistakes = [*document.mistakes, *_empty_blocks(document)]
    try:
        recipe = Recipe.model_validate({"name": Path(document.source).stem, **document.tree})
    except ValidationError as error:
        mistakes += explain(error, document.tree, document.where)
        raise RecipeError(*mistakes) from None
    if mistakes:
        raise RecipeError(*mistakes)
    return recipe


def _empty_blocks(document: Document) -> Iterator[Mistake]:
    """`cpt:` with nothing below it could mean "no CPT" or "not written yet": refused, and taken out of the tree."""
    for key in [key for key, value in document.tree.items() if value is None]:
        block = block_at((key,))
        if key in Recipe.model_fields and block is not Recipe:
            del document.tree[key]
            yield Mistake(document.where((key,)), "an empty block", nothing_in(block))
