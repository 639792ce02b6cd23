"""How the command line writes: one console for what was asked, one for errors, and lines that are wrapped to be read."""

from __future__ import annotations

import textwrap

from rich.console import Console

WIDEST = 100  # columns: a wider terminal does not make lines easier to read

console = Console()
errors = Console(stderr=True)


def say(line: str, indent: int = 0, style: str = "none") -> None:
    """One line as it is; what does not fit goes on below, `indent` columns in."""
    width = min(console.width, WIDEST)
    indented = " " * indent
    wrapped = textwrap.fill(line, width, subsequent_indent=indented, break_long_words=False, break_on_hyphens=False)
    console.print(wrapped, style=style, markup=False, highlight=False, soft_wrap=True)
