"""The report as Markdown, for reading where the run was made and for pasting into an issue; figures are files beside it."""

from __future__ import annotations

import re

from aha.report.blocks import Block, Bullets, Figure, Folded, Report, Sample, Samples, Table, Text
from aha.report.read import clean

VERDICTS = {True: "correct", False: "wrong", None: "not judged"}


def render_markdown(report: Report, folder: str) -> str:
    """The whole report; `folder` is where its figures lie, relative to it."""
    parts = [f"# {_line(report.name)}", _line(report.subtitle), f"**{_line(report.headline)}**"]
    if report.path:
        parts.append(_table(Table(("stage", report.measure or "pass@1", "status"), report.path, words=3)))
    if report.missing:
        parts.append("## What is missing\n\n" + _list(report.missing))
    for section in report.sections:
        parts.append(f"## {_line(section.title)}")
        parts += [_block(block, folder) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(text: object) -> str:
    """Text on one line that starts no markup: neither HTML, nor a link, nor a table cell, nor code."""
    flat = re.sub(r"\s+", " ", clean(text)).strip()
    return re.sub(r"([\\`|]|\](?=[(\[:]))", r"\\\1", flat).replace("&", "&amp;").replace("<", "&lt;")


def _fenced(text: str) -> str:
    """Text as it is, in a fence longer than any inside it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{clean(text)}\n{fence}"


def _list(items: list[str]) -> str:
    return "\n".join(f"- {_line(item)}" for item in items)


def _table(table: Table) -> str:
    rules = ["---" if at < table.words else "--:" for at in range(len(table.columns))]
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(_line(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join(rules) + "|", *lines[1:]])


def _block(block: Block, folder: str) -> str:
    if isinstance(block, Text):
        return _line(block.text)
    if isinstance(block, Bullets):
        return _list(block.items)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        return f"![{_line(block.alt).replace(']', ')').replace('[', '(')}]({folder}/{block.name}.svg)\n\n*{_line(block.caption)}*"
    if isinstance(block, Folded):
        return f"<details><summary>{_line(block.title)}</summary>\n\n{_fenced(block.text)}\n\n</details>"
    return _samples(block)


def _samples(block: Samples) -> str:
    return "\n\n".join([f"### {_line(block.title)}", *(_sample(sample) for sample in block.samples)])


def _sample(sample: Sample) -> str:
    title = f"**{_line(sample.title)}: {VERDICTS[sample.correct]}.** {_line(sample.note)}."
    text = f"{sample.prompt}\n\n--- completion ---\n{sample.completion}"
    return f"{title}\n\n{_fenced(text)}\n\n{_list(list(sample.facts))}"
