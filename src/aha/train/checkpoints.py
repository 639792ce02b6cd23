"""Checkpoints inside a stage: written aside, sealed with a manifest, renamed into place; read only if they verify.

A save that is interrupted, or that runs out of disk, leaves the one before it untouched, and the next start says
which one it took and why.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from aha.errors import CheckpointError
from aha.rundir import read_json, write_json

MANIFEST = "manifest.json"
KEEP = 2


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(partial: Path, folder: Path, step: int) -> Path:
    """Give a complete but unsealed checkpoint its manifest, and its name. Returns where it now is."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    hashes = {str(path.relative_to(partial)): _digest(path) for path in files}
    write_json(partial / MANIFEST, {"step": step, "files": hashes})
    target = folder / f"step-{step:06d}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    _sync(folder)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a sealed checkpoint; None when every file is as it was written."""
    try:
        manifest = read_json(checkpoint / MANIFEST)
    except (OSError, ValueError) as error:
        return f"its manifest cannot be read ({error})"
    for name, digest in manifest["files"].items():
        if not (checkpoint / name).exists():
            return f"{name} is missing"
        if _digest(checkpoint / name) != digest:
            return f"{name} has changed since it was written"
    return None


def newest_good(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a line for every newer one that does not.

    Raises CheckpointError when there are checkpoints and none of them verifies: starting over must be a decision.
    """
    remarks: list[str] = []
    found = sorted(folder.glob("step-*"), reverse=True)
    for checkpoint in found:
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint, remarks
        remarks.append(f"{checkpoint.name} is damaged: {wrong}")
    if found:
        raise CheckpointError(
            f"no checkpoint in {folder} is intact:\n  "
            + "\n  ".join(remarks)
            + f"\nTo start the stage over, remove {folder}"
        )
    return None, remarks
