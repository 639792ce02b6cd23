"""What `aha bench-memory` and the GPU suite measure is a real step, and its fused and plain gradients are worth comparing."""

from __future__ import annotations

import pytest

from aha.train.footprint import Case, measure


@pytest.mark.parametrize(("stage", "lengths"), [("distill", (64,)), ("grpo", (8, 24))])
def test_a_step_has_a_gradient_that_the_plain_step_has_too(stage: str, lengths: tuple[int, ...]) -> None:
    """In GRPO of two completions with opposite advantages, which must not cancel."""
    found = measure(Case(stage, "auto", "nano", 2, lengths, "cpu"))
    parity = found["parity"]
    assert parity["compared"] and parity["grad_norm_plain"] > 1e-3
    assert parity["grad_distance"] <= parity["tolerance"]["grad_distance"]
    assert found["peak_gib"] >= found["held_gib"] > 0 and found["tokens_per_second"] > 0
