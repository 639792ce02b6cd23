"""The YAML file behind a recipe: its values, and for every key the line it stands on.

PyYAML reads YAML 1.1, where `1e-5` is text and `no` is false; this room reads the core schema of YAML 1.2 instead, and
keeps the line of every node, so that whatever is wrong later can be shown where it was written. A recipe is flat:
duplicate keys and aliases are refused. Overrides from the command line are laid over the file here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from aha.errors import Mistake, RecipeError

Keys = tuple[str | int, ...]
"""Where something stands in a recipe: `("grpo", "data", 0, "hub")`."""

SUFFIXES = (".yaml", ".yml")
A_RECIPE_HOLDS = "`model:` and at least one of `cpt:`, `distill:`, `grpo:`"
_CORE = "tag:yaml.org,2002:"


def dotted(keys: Keys) -> str:
    """
    >>> dotted(("grpo", "data", 0, "hub"))
    'grpo.data.0.hub'
    """
    return ".".join(str(key) for key in keys)


@dataclass
class Document:
    """A recipe as it was written: plain values, the origin of each, and what was wrong with the writing itself."""

    source: str
    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Keys, str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def where(self, keys: Keys) -> str:
        """`recipes/tiny.yaml:14  grpo.steps`, or the override that set it; a missing key is where its block is."""
        length = next((n for n in range(len(keys), 0, -1) if keys[:n] in self.origins), 0)
        origin = self.origins.get(keys[:length], f"{self.source}:1")
        said_by_origin = origin.startswith("override ") and length == len(keys)
        return origin if said_by_origin or not keys else f"{origin}  {dotted(keys)}"


def read_document(
    path: str | Path, overrides: Sequence[str] = (), what: str = "a recipe", holding: str = A_RECIPE_HOLDS
) -> Document:
    """Read a recipe file and lay `key.path=value` overrides over it. Raises RecipeError when it is not YAML.

    `what` the file is, and what it would be `holding`, is for the person who gave another one.
    """
    text = _text(Path(path), what)
    document = Document(str(path))
    document.tree = _block(_compose(text, str(path)), document, f"{what}: {holding}")
    for override in overrides:
        _lay_over(document, override)
    return document


def read_values(settings: Sequence[str]) -> dict[str, Any]:
    """`key=value` words of a command line as plain values, read as overrides are. Raises RecipeError.

    >>> read_values(["require=boxed", "scale=1e-2"])
    {'require': 'boxed', 'scale': 0.01}
    """
    document = Document("the command line")
    for setting in settings:
        _lay_over(document, setting)
    if document.mistakes:
        raise RecipeError(*document.mistakes)
    return document.tree


# --- the file ------------------------------------------------------------------------------------------------------


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(_no_such_file(path, what)) from None
    except UnicodeDecodeError as error:
        raise RecipeError(Mistake(str(path), f"bytes that are not UTF-8 (at {error.start})", "a text file")) from None
    except OSError as error:
        raise RecipeError(Mistake(str(path), (error.strerror or "unreadable").lower(), "a readable file")) from None


def _no_such_file(path: Path, what: str) -> Mistake:
    folders = dict.fromkeys((path.parent, Path("recipes" if what == "a recipe" else "slurm")))
    recipes = {file.stem: file for folder in folders for file in _recipes_in(folder)}
    wanted = path.stem if path.suffix in SUFFIXES else path.name
    nearest = difflib.get_close_matches(wanted, recipes, n=1)
    return Mistake(str(path), "no such file", f"{what} (.yaml)", str(recipes[nearest[0]]) if nearest else None)


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES) if folder.is_dir() else []


# --- YAML ----------------------------------------------------------------------------------------------------------


class _Composer(yaml.SafeLoader):
    """Composes nodes by YAML 1.2's core schema, with `_` allowed between the digits of an integer."""

    yaml_implicit_resolvers = {}  # noqa: RUF012


class Dumper(yaml.SafeDumper):
    """Writes what `_Composer` reads: the text "1e5" is quoted, because here it would be a number."""

    yaml_implicit_resolvers = _Composer.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+(?:_[0-9]+)*", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
):
    _Composer.add_implicit_resolver(_CORE + _tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark else source
        raise RecipeError(Mistake(where, error.problem or str(error), "valid YAML")) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(Mistake(f"{source}:{line}", error.reason, "valid YAML")) from None


def _block(node: yaml.Node | None, document: Document, expected: str) -> dict[str, Any]:
    """The whole file, which has to be a block of keys."""
    if node is None:
        raise RecipeError(Mistake(document.source, "an empty file", expected))
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(Mistake(f"{document.source}:{node.start_mark.line + 1}", _kind(node), expected))
    tree: dict[str, Any] = _Values(document).of(node, ())
    return tree


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a block"
    return "a list" if isinstance(node, yaml.SequenceNode) else "plain text"


class _Values:
    """Turns YAML nodes into plain values, noting in the document where each key stood."""

    def __init__(self, document: Document, origin: str | None = None) -> None:
        self.document = document
        self.origin = origin
        self.seen: set[int] = set()

    def of(self, node: yaml.Node, keys: Keys) -> Any:
        if id(node) in self.seen:
            return self._mistake(node, keys, "an alias (*name)", "the value itself: a recipe is flat")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self._entry(child, child, (*keys, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, keys)

    def _mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(key, keys, f"{_kind(key)} as a key", "a word")
            elif key.value in values:
                earlier = self.document.where((*keys, key.value)).split("  ")[0]
                self._mistake(
                    key, (*keys, key.value), f"{key.value} a second time", f"each key once (it is at {earlier})"
                )
            else:
                values[key.value] = self._entry(key, child, (*keys, key.value))
        return values

    def _entry(self, at: yaml.Node, node: yaml.Node, keys: Keys) -> Any:
        self.document.origins[keys] = self._origin(at)
        return self.of(node, keys)

    def _scalar(self, node: yaml.Node, keys: Keys) -> Any:
        convert = _CONVERT.get(node.tag)
        try:
            if convert is not None:
                return convert(node.value)
        except ValueError:
            pass
        return self._mistake(node, keys, f"{node.value} tagged {node.tag}", "plain text, a number, true or false")

    def _origin(self, node: yaml.Node) -> str:
        return self.origin or f"{self.document.source}:{node.start_mark.line + 1}"

    def _mistake(self, node: yaml.Node, keys: Keys, given: str, expected: str) -> None:
        where = self.origin or f"{self._origin(node)}  {dotted(keys)}".rstrip()
        self.document.mistakes.append(Mistake(where, given, expected))


_CONVERT: dict[str, Any] = {
    _CORE + "str": str,
    _CORE + "null": lambda text: None,
    _CORE + "bool": lambda text: text.lower() == "true",
    _CORE + "int": int,
    _CORE + "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
}


# --- overrides -----------------------------------------------------------------------------------------------------


def _lay_over(document: Document, override: str) -> None:
    """Set one `key.path=value`; the value is YAML, and an empty one (or `null`) takes the key away."""
    origin = f"override {override}"
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        document.mistakes.append(Mistake(origin, override, "key.path=value, for example grpo.steps=50"))
        return
    node = _compose(text, origin)
    value = None if node is None else _Values(Document(origin), origin).of(node, ())
    parent = _parent(document, path.split("."), origin)
    if parent is not None:
        _set(document, *parent, value, origin)


def _parent(document: Document, parts: list[str], origin: str) -> tuple[Any, Keys] | None:
    """The block or list that holds the last part, made where it is missing, and the keys that lead to the value."""
    holder: Any = document.tree
    keys: Keys = ()
    for part in parts:
        if keys:
            holder = _opened(holder, keys)
        key = _key(holder, part)
        if key is None:
            document.mistakes.append(Mistake(origin, part, _expected_below(holder, keys)))
            return None
        keys = (*keys, key)
        if isinstance(holder, dict) and len(keys) < len(parts) and holder.get(str(key)) is None:
            holder[str(key)] = {}
            document.origins[keys] = origin
    return holder, keys


def _opened(holder: Any, keys: Keys) -> Any:
    """What stands below `keys`; the bare weight of a reward becomes a block, so that arguments can be set beside it."""
    below = holder[keys[-1]]
    if keys[:-1] == ("grpo", "rewards") and isinstance(below, int | float) and not isinstance(below, bool):
        below = holder[keys[-1]] = {"weight": below}
    return below


def _key(holder: Any, part: str) -> str | int | None:
    if isinstance(holder, dict):
        return part
    fits = isinstance(holder, list) and part.isdecimal() and int(part) < len(holder)
    return int(part) if fits else None


def _expected_below(holder: Any, keys: Keys) -> str:
    if isinstance(holder, list):
        return f"an index of {dotted(keys)}: 0 to {len(holder) - 1}" if holder else f"nothing: {dotted(keys)} is empty"
    return f"no further key: {dotted(keys)} is not a block"


def _set(document: Document, holder: Any, keys: Keys, value: Any, origin: str) -> None:
    document.origins = {at: line for at, line in document.origins.items() if at[: len(keys)] != keys}
    if value is None and isinstance(holder, dict):
        holder.pop(keys[-1], None)
        return
    holder[keys[-1]] = value
    document.origins[keys] = origin
