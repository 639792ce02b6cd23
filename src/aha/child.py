"""The end of a stage's or an evaluation's process: it says what went wrong, and exits 0 only when its work is done."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from aha.errors import AhaError
from aha.rundir import write_json


def finish(work: Callable[[], None], failure: Path) -> NoReturn:
    """Do the work and end this process. What goes wrong is in `failure`, for the process that watches."""
    code = _attempt(work, failure)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # native libraries would take seconds to leave, and print about their leaks


def _attempt(work: Callable[[], None], failure: Path) -> int:
    failure.unlink(missing_ok=True)
    try:
        work()
    except AhaError as error:
        write_json(failure, {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        return error.exit_code
    except BaseException as error:
        told = {"kind": type(error).__name__, "message": str(error), "exit_code": 1}
        write_json(failure, told | {"traceback": traceback.format_exc()})
        traceback.print_exc()
        return 1
    return 0
