"""The arguments of a reward: a mapping from YAML becomes its frozen `Params`, with every mistake named at once."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any

from aha.errors import Mistake, RecipeError


def build_params(cls: type | None, given: Mapping[str, Any], where: str) -> Any:
    """An instance of a reward's `Params` (None when it has none); RecipeError with all that is wrong."""
    fields = {field.name: field for field in dataclasses.fields(cls)} if cls is not None else {}
    hints = typing.get_type_hints(cls) if cls is not None else {}
    mistakes = [_unknown(key, list(fields), where) for key in given if key not in fields]
    mistakes += [
        _missing(name, hints[name], where)
        for name, field in fields.items()
        if name not in given and _is_required(field)
    ]
    mistakes += [
        Mistake(f"{where}.{key}", repr(value), describe_type(hints[key]), nearest_value(value, hints[key]))
        for key, value in given.items()
        if key in fields and not fits(value, hints[key])
    ]
    if mistakes:
        raise RecipeError(*mistakes)
    if cls is None:
        return None
    try:
        return cls(**{key: _frozen(value) for key, value in given.items()})
    except (TypeError, ValueError) as error:  # a Params that checks more than types, in its __post_init__
        raise RecipeError(Mistake(where, repr(dict(given)), str(error))) from error


def fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value is of the type that a field is annotated with.

    >>> fits(3, float), fits(True, int), fits(["a", "b"], tuple[str, str]), fits(None, int | None)
    (True, False, True, True)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in arguments)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return isinstance(value, list | tuple) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(each, arguments[0]) for each in value)
    if isinstance(value, bool) and hint is not bool:
        return False
    return isinstance(value, int | float if hint is float else origin or hint)


def describe_type(hint: Any) -> str:
    """A type as a person writes it.

    >>> describe_type(typing.Literal["a", "b"]), describe_type(tuple[str, str]), describe_type(float)
    ('one of: a, b', 'tuple[str, str]', 'float')
    """
    if typing.get_origin(hint) is typing.Literal:
        return "one of: " + ", ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def nearest_value(value: Any, hint: Any) -> str | None:
    """The allowed word that was probably meant."""
    choices = [str(each) for each in typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else []
    close = difflib.get_close_matches(str(value), choices, n=1)
    return close[0] if close else None


def _unknown(key: str, names: list[str], where: str) -> Mistake:
    nearest = difflib.get_close_matches(key, names, n=1)
    expected = f"one of: {', '.join(['weight', 'only_if', *names])}"
    return Mistake(f"{where}.{key}", key, expected, nearest[0] if nearest else None)


def _missing(name: str, hint: Any, where: str) -> Mistake:
    return Mistake(f"{where}.{name}", "nothing", f"{describe_type(hint)}: it has no default")


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
