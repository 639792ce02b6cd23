"""From pydantic's errors to what a person can act on: where it stands, what was given, what was expected, what is near.

Unknown keys come first, wrong values next and missing keys last: a missing key is often an unknown one misspelt.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aha.errors import Mistake
from aha.recipe.document import Keys
from aha.recipe.schema import Block, Recipe
from aha.recipe.trainer_keys import RECIPE_KEYS

Where = Callable[[Keys], str]

_EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (quote it)",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block of keys",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "too_short": "at least one entry",
    "too_long": "at most {max_length}",
}
_UNKNOWN, _WRONG, _MISSING = range(3)


def explain(error: ValidationError, tree: dict[str, Any], where: Where, root: type[Block] = Recipe) -> list[Mistake]:
    """One mistake per place, in the order in which they are best read; `root` is the grammar of the file."""
    places: dict[tuple[int, Keys], list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        places.setdefault((_rank(detail), _keys(detail, tree)), []).append(detail)
    innermost = [place for place in places if not _wraps_another(place, places)]
    ordered = sorted(innermost, key=lambda place: (place[0], _position(place[1], tree)))
    return [_mistake(keys, places[rank, keys], where, root) for rank, keys in ordered]


def nothing_in(block: type[Block]) -> str:
    """What could be written in an empty block."""
    required = [name for name, field in block.model_fields.items() if field.is_required()]
    return f"its keys ({', '.join(required or block.model_fields)}), or no such line"


def block_at(keys: Keys, root: type[Block] = Recipe) -> type[Block]:
    """The block of the grammar that stands at these keys; indices of lists lead nowhere further."""
    block = root
    for key in keys:
        if isinstance(key, str) and key in block.model_fields:
            block = next(_blocks_in(block.model_fields[key].annotation), block)
    return block


def _blocks_in(annotation: Any) -> Iterator[type[Block]]:
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation
    for argument in get_args(annotation):
        yield from _blocks_in(argument)


def _rank(detail: ErrorDetails) -> int:
    return {"extra_forbidden": _UNKNOWN, "missing": _MISSING}.get(detail["type"], _WRONG)


def _keys(detail: ErrorDetails, tree: Any) -> Keys:
    """The keys of the recipe in pydantic's location, which also names the members of unions."""
    keys: list[str | int] = []
    for part in detail["loc"]:
        held = (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and part in range(len(tree)))
        if held:
            tree = tree[part]
            keys.append(part)
        elif detail["type"] == "missing":
            keys.append(part)
    return tuple(keys)


def _position(keys: Keys, tree: Any) -> list[int]:
    """Where in the file the keys stand, for sorting; a missing key stands at the end of its block."""
    position: list[int] = []
    for key in keys:
        present = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if key not in present:
            return [*position, len(present)]
        position.append(present.index(key))
        tree = tree[key]
    return position


def _wraps_another(place: tuple[int, Keys], places: Any) -> bool:
    """Of a union's complaints the innermost is the one that was meant."""
    rank, keys = place
    return rank == _WRONG and any(other[: len(keys)] == keys and len(other) > len(keys) for _, other in places)


def _mistake(keys: Keys, details: list[ErrorDetails], where: Where, root: type[Block]) -> Mistake:
    detail = details[0]
    if detail["type"] == "extra_forbidden":
        return _unknown_key(keys, where, root)
    if detail["type"] == "missing":
        return Mistake(where(keys), "nothing", _described(keys, root))
    expected = " or ".join(dict.fromkeys(_expected(one, keys, root) for one in details))
    given = shown(detail["input"], quoted=detail["type"].endswith("_type"))
    return Mistake(where(keys), given, expected, _nearest_value(details))


def _unknown_key(keys: Keys, where: Where, root: type[Block]) -> Mistake:
    block = block_at(keys[:-1], root)
    expected = f"one of: {', '.join(block.model_fields)}"
    return Mistake(where(keys), str(keys[-1]), expected, _nearest_key(str(keys[-1]), block, root))


def _nearest_key(key: str, block: type[Block], root: type[Block]) -> str | None:
    """A trainer's word translated, else the key in a block below, else one spelt alike, else the key elsewhere."""
    below = [f"{name}.{key}" for name, inner in _inner_blocks(block) if key in inner.model_fields]
    alike = difflib.get_close_matches(key, block.model_fields, n=1)
    elsewhere = [f"{name}.{key}" for name, inner in _inner_blocks(root) if key in inner.model_fields]
    translated = [RECIPE_KEYS[key]] if root is Recipe and key in RECIPE_KEYS else []
    return next(iter([*translated, *below, *alike, *elsewhere]), None)


def _inner_blocks(block: type[Block]) -> list[tuple[str, type[Block]]]:
    return [(name, inner) for name, field in block.model_fields.items() for inner in _blocks_in(field.annotation)]


def _described(keys: Keys, root: type[Block]) -> str:
    """What a missing key is for."""
    field = block_at(keys[:-1], root).model_fields.get(str(keys[-1]))
    described = field.description if field else None
    return f"{keys[-1]}: {described}" if described else "one more entry"


def _expected(detail: ErrorDetails, keys: Keys, root: type[Block]) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "literal_error":
        return f"one of: {', '.join(_choices(detail))}"
    if detail["type"].startswith("model_"):
        return f"a block of keys: {', '.join(block_at(keys, root).model_fields)}"
    template = _EXPECTED.get(detail["type"])
    return template.format(**context) if template else detail["msg"]


def _choices(detail: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", detail.get("ctx", {}).get("expected", ""))


def _nearest_value(details: list[ErrorDetails]) -> str | None:
    given = str(details[0]["input"])
    choices = [choice for detail in details if detail["type"] == "literal_error" for choice in _choices(detail)]
    named = [name for detail in details for name in detail.get("ctx", {}).get("nearest", [])]
    return next(iter([*named, *difflib.get_close_matches(given, choices, n=1)]), None)


def shown(value: Any, quoted: bool = False, limit: int = 60) -> str:
    """A value as a recipe would write it, cut to one short line; text is quoted where its type is what is wrong.

    >>> shown(None), shown("fast"), shown("5", quoted=True), shown({"steps": True})
    ('nothing', 'fast', '"5"', '{"steps": true}')
    """
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, str) and not quoted:
        text = text[1:-1]
    return text if len(text) <= limit else text[: limit - 1] + "…"
