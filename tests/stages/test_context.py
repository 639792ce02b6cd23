"""What a stage says of itself when it is done."""

from __future__ import annotations

import sys

import pytest

from aha.stages.context import peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_peak_memory_is_what_was_held_not_what_is_held() -> None:
    before = peak_memory("cpu")
    assert before["measure"] == "VmHWM" and before["gib"] > 0.1  # torch alone is more
    held = bytearray(b"x") * (int(before["gib"] * 2**30) + 2**28)
    del held
    assert peak_memory("cpu")["gib"] > before["gib"] + 0.2
