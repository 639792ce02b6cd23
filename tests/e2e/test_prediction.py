"""What the plan foretold of a real run: its memory within 15 %, and the report that says so."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from aha.recipe.memory import UNCERTAINTY
from aha.report.wording import count

STAGES = {"CPT": ("cpt", "1-cpt"), "Distill": ("distill", "2-distill"), "GRPO": ("grpo", "3-grpo")}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel counts memory otherwise")
@pytest.mark.parametrize("label", STAGES)
def test_peak_memory_is_what_was_predicted(finished: Path, label: str) -> None:
    """At this size it is imports, engine and cache: the numbers of recipe/measured.py."""
    name, directory = STAGES[label]
    said = json.loads((finished / "plan.json").read_text())["prediction"]["stages"][name]["memory"]["allocated"]
    seen = json.loads((finished / directory / "done.json").read_text())["memory"]["gib"]
    assert said == pytest.approx(seen, rel=UNCERTAINTY)


def observed(markdown: str, label: str, what: str) -> tuple[str, str]:
    """The predicted and the observed cell of one row."""
    found = re.search(rf"^\| {label} \| {what} \| (.*?) \| (.*?) \|", markdown, re.MULTILINE)
    assert found, f"the report has no row for {label}, {what}"
    return found[1], found[2]


@pytest.mark.parametrize("label", STAGES)
def test_the_report_sets_it_beside_what_was_seen(finished: Path, label: str) -> None:
    markdown = (finished / "report.md").read_text()
    name, directory = STAGES[label]
    done = json.loads((finished / directory / "done.json").read_text())
    said = json.loads((finished / "plan.json").read_text())["prediction"]["stages"][name]
    predicted, seen = f"{said['memory']['allocated']:.2f} GiB", f"{done['memory']['gib']:.2f} GiB"
    assert observed(markdown, label, "peak memory") == (predicted, seen)
    predicted, seen = count(said["tokens"]), count(done["tokens"])
    assert observed(markdown, label, "tokens") == (predicted, seen)
    assert 0 < done["tokens"] <= said["tokens"]
    assert "–" not in observed(markdown, label, "one step")
