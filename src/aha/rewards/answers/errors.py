"""Why a formula has no value that could be compared. None of these is anybody's mistake: they are findings."""

from __future__ import annotations


class Unreadable(Exception):
    """Text that is not a formula in the grammar below."""


class Undefined(Exception):
    """A formula without a value, such as 1/0."""


class TooLarge(Exception):
    """A formula whose value is not worth computing."""


class Irrational(Exception):
    """A formula whose value is not (known to be) a rational number."""
