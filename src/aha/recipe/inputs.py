"""What a run reads besides its recipe: the code of its rewards, and files on this machine. Each has a digest.

A finished stage stands for its inputs, so an edited reward, or another data set under the same name, makes it run again.
Code is a reward's file and whatever of it is no installed package: what it imports of `reward_fns/` or of a folder of the
user's, and the rewards it names (`grader("math_answer")`). Nothing is imported to find that out. The house itself and
installed packages do not count: `environment.json` has their versions, and an upgrade shall not repeat a week.

Files are read whole up to WHOLE bytes for each source. Of what is larger the size and the date of change count, which a
copy without its dates changes too: better to ask once too often than to call another data set the same.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aha.recipe.reward_files import reward_folder, reward_names
from aha.recipe.schema import Recipe, Source, Task

WHOLE = 64 << 20
"""Bytes of one source that are read for its digest: a tenth of a second."""

Files = dict[str, str]
"""A file, or a pattern of files, as a person would name it -> a digest of what is in there."""


def files_of_stage(recipe: Recipe, name: str) -> Files:
    """What the stage `name` of a recipe reads, by its own names; what is on the hub or is made is not among it."""
    stage = getattr(recipe, name)
    found = _data(stage.data)
    for place in (recipe.model.path, recipe.chat.template):
        if place and Path(place).exists():
            found[place] = _digest(f"{place}/*" if Path(place).is_dir() else place)
    for reward, entry in getattr(stage, "rewards", {}).items():
        found |= _code(reward, entry if isinstance(entry, dict) else {})
    return found


def files_of_tasks(tasks: Iterable[Task]) -> Files:
    """What evaluations read: their problems, and the code of their graders."""
    found: Files = {}
    for task in tasks:
        found |= _data(task.data) | _code(task.grader, task.params)
    return found


def changed(before: Any, now: Files) -> list[str]:
    """The files that are not as they were noted; none when nothing was noted."""
    if not isinstance(before, dict):
        return []
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


# --- data ----------------------------------------------------------------------------------------------------------


def _data(sources: Iterable[Source]) -> Files:
    return {source.path: _digest(source.path) for source in sources if source.path}


def _digest(pattern: str) -> str:
    """Of the files that a source's `path` stands for, by the same rule as `data/sources.py` opens them."""
    given = Path(pattern).expanduser()
    paths = [given] if given.is_file() else sorted(map(Path, glob.glob(str(given), recursive=True)))
    found, left = hashlib.sha256(), WHOLE
    for path in filter(Path.is_file, paths):
        status = path.stat()
        found.update(f"{path}\0{status.st_size}\0".encode())
        if status.st_size <= left and os.access(path, os.R_OK):
            left -= status.st_size
            found.update(path.read_bytes())
        else:
            found.update(str(status.st_mtime_ns).encode())
    return found.hexdigest()[:16]


# --- code ----------------------------------------------------------------------------------------------------------


def _code(reward: str, params: Mapping[str, Any]) -> Files:
    """The digests of a reward's file and of all the code that comes with it."""
    waiting = list(_start(reward))
    seen: set[Path] = set()
    found: Files = {}
    while waiting:
        path = waiting.pop()
        if path not in seen:
            seen.add(path)
            source = path.read_bytes()
            name = f"{path.parent.name}/{path.name}"
            found[name] = hashlib.sha256(found.get(name, "").encode() + source).hexdigest()[:16]
            waiting += [] if _installed(path) else _beside(source, path, params)
    return found


def _start(reward: str) -> Iterator[Path]:
    """A reward's own file, in each of the three spellings; nothing for one that is not there."""
    source = reward.rpartition(":")[0] or reward
    if source.endswith(".py"):
        yield from (path for path in [Path(source).absolute()] if path.is_file())
    elif ":" in reward:
        yield from _module(source, installed_too=True)
    else:
        yield from _named([source])


def _named(words: Iterable[str]) -> Iterator[Path]:
    """The rewards of the library among some words."""
    for name in sorted(set(words) & set(reward_names())):
        yield reward_folder().absolute() / f"{name}.py"


def _beside(source: bytes, path: Path, params: Mapping[str, Any]) -> Iterator[Path]:
    """What a file of code imports that is the user's own, and the rewards that it may ask for their verdict."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # whoever loads the reward will say so
        return
    if any(isinstance(node, ast.ImportFrom) and "grader" in {alias.name for alias in node.names} for node in nodes):
        yield from _named(map(str, params.values()))
        yield from _named(str(node.value) for node in nodes if isinstance(node, ast.Constant))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else None
            for dotted in ("", *(f".{alias.name}" for alias in node.names)):
                parts = f"{node.module or ''}{dotted}".strip(".")
                yield from _below(base, parts.split(".")) if base else _module(parts)


def _module(dotted: str, installed_too: bool = False) -> Iterator[Path]:
    """A module's file, with its packages' `__init__.py`, unless it is installed or the house's."""
    top, *rest = dotted.split(".")
    if top == reward_folder().name:
        yield from _named(rest[:1])
        return
    if top in sys.stdlib_module_names or (top == "aha" and not installed_too):
        return
    try:
        spec = importlib.util.find_spec(top)  # of a whole package: nothing is imported
    except (ImportError, ValueError):
        return
    origin = Path(spec.origin) if spec and spec.origin else None
    roots = [*map(Path, (spec and spec.submodule_search_locations) or ())] or [*filter(None, [origin])]
    for root in roots:
        if installed_too or not _installed(root):
            yield from _below(root, rest)


def _below(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    """The files that an import of `parts` under `root` reads."""
    for depth in range(len(parts) + 1):
        target = root.joinpath(*parts[:depth])
        for path in (target, target.with_name(f"{target.name}.py"), target / "__init__.py"):
            if path.suffix == ".py" and path.is_file():
                yield path


def _installed(path: Path) -> bool:
    return any(path.is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))
