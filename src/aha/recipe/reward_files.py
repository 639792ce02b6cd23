"""Where rewards are found on disk. Looking is all that is done here: importing them is `rewards/`'s."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

SOURCE_FOLDER = Path(__file__).resolve().parents[3] / "reward_fns"


def reward_folder() -> Path:
    """AHA_REWARD_FNS if set, else the working directory's `reward_fns/`, else the source checkout's."""
    if os.environ.get("AHA_REWARD_FNS"):
        return Path(os.environ["AHA_REWARD_FNS"])
    here = Path("reward_fns")
    return here if here.is_dir() else SOURCE_FOLDER


def reward_names() -> list[str]:
    """The rewards of the library, by name."""
    return sorted(file.stem for file in reward_folder().glob("*.py") if not file.stem.startswith("_"))


def reward_exists(name: str) -> bool:
    """Whether there is such a thing as `name`, `path/to/file.py[:function]` or `package.module:function`."""
    source, colon, _ = name.rpartition(":") if ":" in name else (name, "", "")
    if source.endswith(".py"):
        return Path(source).is_file()
    return _module_exists(source) if colon else source in reward_names()


def _module_exists(module: str) -> bool:
    """Only the top-level package is looked up: looking further would import it."""
    package = module.partition(".")[0]
    try:
        return package.isidentifier() and importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
