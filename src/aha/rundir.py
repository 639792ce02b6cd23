"""The run directory: where everything of a run is kept, and how it is written so that a crash cannot tear it.

A file is replaced whole or not at all; a JSON-lines file may lose its last line in a crash, and nothing else. One
process at a time works in a directory (or, for the jobs of a cluster, in one part of it), and a directory belongs to
one recipe.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from aha.errors import RunDirError

STAGES = {"cpt": "1-cpt", "distill": "2-distill", "grpo": "3-grpo"}
"""Block of the recipe -> directory of the run."""

_HASH_LINE = "# recipe "


class RunDir:
    """One run's directory.

    >>> RunDir(Path("runs/tiny")).stage("grpo").as_posix()
    'runs/tiny/3-grpo'
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def stage(self, name: str) -> Path:
        """The directory of a stage, by the name of its block."""
        return self.root / STAGES[name]

    def done(self, stage: str) -> dict[str, Any] | None:
        """What a stage wrote when it finished; None when it did not, or when that file is damaged."""
        return read_object(self.stage(stage) / "done.json")

    def mark_done(self, stage: str, facts: dict[str, Any]) -> None:
        """Say that a stage has finished. The last thing a stage writes."""
        write_json(self.stage(stage) / "done.json", facts)

    @contextmanager
    def lock(self, part: str | None = None, patience: float = 0.0) -> Iterator[None]:
        """Keep every other process out, or, with a `part`, those that want the same part or the whole.

        The kernel lets go when this process ends, however it ends. Raises RunDirError when somebody is in there, and
        still is after `patience` seconds.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + patience
        with ExitStack() as held:
            held.enter_context(_locked(self.root / ".lock", self.root, until, shared=part is not None))
            if part is not None:
                held.enter_context(_locked(self.root / f".lock-{part}", self.root / part, until))
            yield

    def claim(self, recipe: str, recipe_hash: str) -> None:
        """Make this the directory of a recipe (its resolved YAML); RunDirError when it is another recipe's already."""
        path = self.root / "recipe.yaml"
        claimed = f"{_HASH_LINE}{recipe_hash}\n{recipe}"
        present = path.read_text(encoding="utf-8") if path.is_file() else None
        if present is not None and present.partition("\n")[0] != _HASH_LINE + recipe_hash:
            raise RunDirError(_other_recipe(self.root, present, claimed))
        if present != claimed:
            write_text(path, claimed)


@contextmanager
def _locked(file: Path, what: Path, until: float, shared: bool = False) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, until)
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # said out loud: a forked child may still hold the descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, what: Path, kind: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.2)
                continue
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
        raise RunDirError(f"{what} is in use by {holder}; wait for it, or choose another run directory")
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _other_recipe(root: Path, present: str, claimed: str, most: int = 8) -> str:
    lines = difflib.unified_diff(present.splitlines()[1:], claimed.splitlines()[1:], n=0, lineterm="")
    changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    shown = "\n".join(f"  {line}" for line in changed[:most]) + ("\n  …" if len(changed) > most else "")
    if not changed:
        shown = (
            "  the same words, begun by a version of aha in which a knob that they do not name is another or missing"
        )
    return (
        f"{root} belongs to a different recipe (- there, + given):\n{shown}\nchoose another run directory, or delete it"
    )


# --- files ---------------------------------------------------------------------------------------------------------


def write_text(path: str | Path, text: str, lasting: bool = True) -> None:
    """Replace a file whole: a reader, or a crash, finds the old text or the new one.

    `lasting`: through a power cut too, which takes milliseconds.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if lasting:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any, lasting: bool = True) -> None:
    """Replace a JSON file whole; `lasting` as for `write_text`."""
    write_text(path, json.dumps(finite(value), indent=2, allow_nan=False) + "\n", lasting)


def read_json(path: str | Path) -> Any:
    """A JSON file; RunDirError when it is damaged."""
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise RunDirError(f"{path} is damaged: {error}") from None


def read_object(path: str | Path) -> dict[str, Any] | None:
    """A JSON object where one can be read, else None: for files whose absence has a meaning."""
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError, RunDirError):
        return None
    return value if isinstance(value, dict) else None


def append_jsonl(path: str | Path, value: Any) -> None:
    """Append one line, in one write; what a crash left of an earlier line is cut off first."""
    line = _line(value).encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        last = _last_piece(file)
        if _torn(last):
            file.truncate(file.seek(0, os.SEEK_END) - len(last))
        file.write(line if not last or _torn(last) else b"\n" + line)


def write_jsonl(path: str | Path, values: Iterable[Any]) -> None:
    """Replace a JSON-lines file whole: for what is known all at once, where `append_jsonl` would look back each time."""
    write_text(path, "".join(map(_line, values)))


def _line(value: Any) -> str:
    return json.dumps(finite(value), allow_nan=False) + "\n"


def _last_piece(file: FileIO) -> bytes:
    """What follows the last newline: nothing in a whole file."""
    start = end = file.seek(0, os.SEEK_END)
    tail = b""
    while start and b"\n" not in tail:
        start = max(0, start - 65536)
        file.seek(start)
        tail = file.read(end - start)
    return tail.rpartition(b"\n")[2]


def _torn(piece: bytes) -> bool:
    """Whether a crash cut this line short: objects and lists parse only when they are whole."""
    try:
        json.loads(piece or b"null")
    except ValueError:
        return True
    return False


def read_jsonl(path: str | Path) -> list[Any]:
    """The values of a JSON-lines file; none when there is no file. A torn last line is left out, any other refused."""
    path = Path(path)
    if not path.is_file():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    if not _torn(last):
        lines.append(last)
    return [_parsed(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]


def _parsed(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise RunDirError(f"{path}:{number} is damaged: {error}") from None


def finite(value: Any) -> Any:
    """The value as JSON can hold it: NaN and the infinities are null.

    >>> finite({"loss": float("nan"), "steps": [1, float("inf")]})
    {'loss': None, 'steps': [1, None]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
