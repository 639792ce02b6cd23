"""The report as one HTML page: no script, nothing fetched, readable by day, by night and on a telephone.

Everything that comes from a run passes through `html.escape`; only the figures, which this house drew, go in as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from aha.report.blocks import Block, Bullets, Figure, Folded, Report, Sample, Samples, Section, Table, Text
from aha.report.plots import COLOURS
from aha.report.read import LABELS, clean

STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d2126; --soft: #5b636d; --line: #e2e0db;
  --note: #fff6e3; --note-line: #e6b450; --code: #f4f2ee; --right: #00755a; --wrong: #a83a00;
  --mono: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1c2024; --ink: #e6e6e3; --soft: #9aa3ad; --line: #30363c;
  --note: #2b2415; --note-line: #a67c2d; --code: #14171a; --right: #4cc9a4; --wrong: #ff9a5c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.6 Charter, "Bitstream Charter", "Iowan Old Style", "Source Serif 4",
  Georgia, "DejaVu Serif", serif; }
main { max-width: 58rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
h1, h2, h3, nav, table, .kicker, .path, .facts, .sample header, summary, figcaption, footer { font-family: system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: .2rem 0 .3rem; letter-spacing: -.02em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .8rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.8rem 0 .6rem; overflow-wrap: anywhere; }
p, li { max-width: 42rem; overflow-wrap: anywhere; }
.kicker { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.headline { font-size: 1.35rem; line-height: 1.45; margin: 1.4rem 0 1.6rem; max-width: 48rem; }
nav { font-size: .85rem; display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: 1.6rem 0 0; }
nav a { color: var(--soft); text-decoration: none; border-bottom: 1px solid var(--line); }
nav a:hover { color: var(--ink); border-color: currentColor; }
.path { display: flex; flex-wrap: wrap; gap: .7rem; padding: 0; margin: 0; list-style: none; }
.path + .kicker { margin-top: .6rem; }
.path li { flex: 1 1 9rem; background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--stage); border-radius: 8px;
  padding: .6rem .9rem .7rem; font-size: .85rem; color: var(--soft); line-height: 1.35; }
.path b { display: block; color: var(--ink); font-size: .95rem; }
.path .figure { display: block; font-size: 1.7rem; line-height: 1.3; color: var(--ink); font-variant-numeric: tabular-nums; letter-spacing: -.02em; }
.missing { background: var(--note); border-left: 4px solid var(--note-line); border-radius: 0 8px 8px 0; padding: .8rem 1.2rem; margin: 1.6rem 0; }
.missing p { margin: 0 0 .3rem; font-weight: 600; } .missing ul { margin: 0; padding-left: 1.2rem; }
figure { margin: 1.2rem 0 1.6rem; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .9rem .7rem; overflow-x: auto; }
.card svg { display: block; width: 100%; min-width: 34rem; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; line-height: 1.45; margin: .55rem .2rem 0; max-width: 46rem; }
.wide { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; font-variant-numeric: tabular-nums; min-width: 100%; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1.5px solid var(--line); vertical-align: bottom; }
th, td { padding: .42rem .9rem .42rem 0; } th:last-child, td:last-child { padding-right: 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
.n { text-align: right; white-space: nowrap; overflow-wrap: normal; } th.n { white-space: normal; }
td.w { min-width: 5.5rem; } .words th:first-child, .words td:first-child { width: 9rem; }
.dot { display: inline-block; width: .62rem; height: .62rem; border-radius: 50%; margin-right: .45rem; background: var(--stage); }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16.5rem), 1fr)); gap: .9rem; align-items: start; }
.sample { background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; min-width: 0; }
.sample header { padding: .7rem .9rem .1rem; font-size: .82rem; color: var(--soft); line-height: 1.4; }
.sample header b { color: var(--ink); font-size: .95rem; }
.verdict { float: right; font-weight: 600; } .right { color: var(--right); } .wrong { color: var(--wrong); }
pre { font: .78rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; overflow: auto; max-height: 26rem; }
.sample pre { padding: .6rem .9rem; } .sample .prompt { color: var(--soft); max-height: 9rem; }
.sample .completion { background: var(--code); border-block: 1px solid var(--line); }
.tag { color: var(--soft); font-weight: 600; }
.facts { list-style: none; margin: 0; padding: .6rem .9rem .8rem; font-size: .78rem; line-height: 1.5; color: var(--soft); }
.facts li:first-child { color: var(--ink); font-weight: 600; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .7rem 1rem; margin: 1.2rem 0; }
summary { cursor: pointer; font-size: .9rem; font-weight: 600; } details pre { margin-top: .8rem; max-height: none; }
footer { margin-top: 4rem; border-top: 1px solid var(--line); padding-top: .8rem; color: var(--soft); font-size: .8rem; }
@media (max-width: 40rem) { body { font-size: 16px; } main { padding-top: 1.8rem; } h1 { font-size: 1.65rem; } .headline { font-size: 1.15rem; }
  .path li { flex-basis: 7.5rem; } .path .figure { font-size: 1.4rem; } }
@media print { .card, details, .sample { break-inside: avoid; } pre { max-height: none; } nav { display: none; } }
"""
# Beside the page's own style sheet and its figures' inline styles nothing is allowed to load or to run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
COLOUR_OF = {label: COLOURS[directory] for directory, label in LABELS.items()}


def render_page(report: Report) -> str:
    """The whole page."""
    links = "".join(f'<a href="#{_anchor(section)}">{_text(section.title)}</a>' for section in report.sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(report.name)}: report of the run</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<div class="kicker">Report of the run</div>\n<h1>{_text(report.name)}</h1>\n<div class="kicker">{_text(report.subtitle)}</div>\n'
        f'<p class="headline">{_text(report.headline)}</p>\n{_path(report)}{_missing(report)}<nav>{links}</nav>\n'
        + "".join(_section(section) for section in report.sections)
        + "<footer>Written by aha from the files of the run directory.</footer>\n</main>\n</body>\n</html>\n"
    )


def _text(text: object) -> str:
    return escape(clean(text), quote=True)


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z]+", "-", section.title.lower()).strip("-")


def _path(report: Report) -> str:
    stops = "".join(
        f'<li style="--stage: {COLOUR_OF.get(label, "#888")}"><b>{_text(label)}</b>'
        f'<span class="figure">{_text(figure)}</span>{_text(how)}</li>'
        for label, figure, how in report.path
    )
    measure = f'<div class="kicker">Large figures: {_text(report.measure)}.</div>\n' if report.measure else ""
    return f'<ol class="path">{stops}</ol>\n{measure}' if stops else ""


def _missing(report: Report) -> str:
    if not report.missing:
        return ""
    return f'<aside class="missing"><p>What is missing</p>{_list(report.missing)}</aside>\n'


def _list(items: Iterable[str], kind: str = "") -> str:
    opening = f'<ul class="{kind}">' if kind else "<ul>"
    return opening + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>\n"


def _section(section: Section) -> str:
    blocks = "".join(_block(block) for block in section.blocks)
    return f'<section id="{_anchor(section)}">\n<h2>{_text(section.title)}</h2>\n{blocks}</section>\n'


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{_text(block.text)}</p>\n"
    if isinstance(block, Bullets):
        return _list(block.items)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Figure):
        return _figure(block)
    if isinstance(block, Folded):
        return f"<details><summary>{_text(block.title)}</summary><pre>{_text(block.text)}</pre></details>\n"
    return _samples(block)


def _figure(figure: Figure) -> str:
    drawing = figure.svg.replace("<svg ", f'<svg role="img" aria-label="{_text(figure.alt)}" ', 1)
    return f'<figure><div class="card">{drawing}</div><figcaption>{_text(figure.caption)}</figcaption></figure>\n'


def _table(table: Table) -> str:
    kinds = ["w" if at < table.words else "n" for at in range(len(table.columns))]
    head = "".join(
        f'<th class="{kind}" scope="col">{_text(column)}</th>'
        for kind, column in zip(kinds, table.columns, strict=False)
    )
    body = "".join(
        f"<tr>{''.join(_cell(*cell) for cell in zip(kinds, table.columns, row, strict=False))}</tr>\n"
        for row in table.rows
    )
    shape = "words" if table.words == len(table.columns) else "numbers"
    rows = f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody>"
    return f'<div class="wide"><table class="{shape}">{rows}</table></div>\n'


def _cell(kind: str, column: str, text: str) -> str:
    known = column == "stage" and text in COLOUR_OF
    dot = f'<span class="dot" style="--stage: {COLOUR_OF[text]}"></span>' if known else ""
    return f'<td class="{kind}">{dot}{_text(text)}</td>'


def _samples(block: Samples) -> str:
    cards = "".join(_sample(sample, block.marks) for sample in block.samples)
    return f'<h3>{_text(block.title)}</h3>\n<div class="samples">{cards}</div>\n'


def _sample(sample: Sample, marks: tuple[str, ...]) -> str:
    verdict = {True: ("right", "correct"), False: ("wrong", "wrong"), None: ("", "not judged")}[sample.correct]
    completion = _text(sample.completion)
    for mark in marks:
        completion = completion.replace(_text(mark), f'<span class="tag">{_text(mark)}</span>')
    return (
        f'<article class="sample"><header><span class="verdict {verdict[0]}">{verdict[1]}</span><b>{_text(sample.title)}</b><br>'
        f'{_text(sample.note)}</header><pre class="prompt">{_text(sample.prompt)}</pre>'
        f'<pre class="completion">{completion}</pre>{_list(sample.facts, "facts")}</article>\n'
    )
