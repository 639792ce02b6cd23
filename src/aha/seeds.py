"""One seed for each thing that is drawn, made of what it is: run, step, problem, sample.

A seed that is derived, and not taken from a stream, does not depend on what was drawn before it; so a resumed run draws
what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """A number below 2**32 that is the same for the same parts, on every machine.

    >>> seed_of(0, "arithmetic", 17) == seed_of(0, "arithmetic", 17) != seed_of(0, "arithmetic", 18)
    True
    """
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")
