"""What a report is made of. `sections` fills these, `page` and `markdown` each render them: one content, two forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: list[str]


@dataclass(frozen=True)
class Table:
    """Rows of text; `words` says how many leading columns are words, the others are numbers and align right."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    words: int = 1


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG, with what it shows in words for those who cannot see it."""

    name: str
    alt: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Folded:
    """Text shown as it is, behind a line to click on."""

    title: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One completion with its verdicts. All of it is hostile text."""

    title: str
    note: str
    prompt: str
    completion: str
    facts: tuple[str, ...]
    correct: bool | None


@dataclass(frozen=True)
class Samples:
    """Completions to be read side by side."""

    title: str
    samples: list[Sample]
    marks: tuple[str, ...] = ()
    """Tags worth telling apart from the text around them, such as `<think>`."""


Block = Text | Bullets | Table | Figure | Folded | Samples


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The whole report."""

    name: str
    subtitle: str
    headline: str
    path: list[tuple[str, str, str]]
    """Stage label, key figure, status: the line from the base model to the last stage."""
    measure: str
    """What the key figures on the path are."""
    missing: list[str]
    sections: list[Section]
