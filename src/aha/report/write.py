"""Writing the report beside the run it is about: report.html, report.md, and the figures in report/."""

from __future__ import annotations

import os
from pathlib import Path

from aha.errors import RunDirError
from aha.report.markdown import render_markdown
from aha.report.page import render_page
from aha.report.plots import draw_figures
from aha.report.read import read_run
from aha.report.sections import build_report

FOLDER = "report"


def write_report(run_dir: Path) -> Path:
    """Write up what `run_dir` holds, finished or not; returns the path of report.html."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunDirError(f"{run_dir} is not a run directory: there is no such folder")
    run = read_run(run_dir)
    figures = draw_figures(run)
    report = build_report(run, figures)
    (run_dir / FOLDER).mkdir(exist_ok=True)
    for name, figure in figures.items():
        _replace(run_dir / FOLDER / f"{name}.svg", figure.svg)
    _replace(run_dir / "report.md", render_markdown(report, FOLDER))
    page = run_dir / "report.html"
    _replace(page, render_page(report))
    return page


def _replace(path: Path, text: str) -> None:
    """Whoever reads the report sees the old one or the new one, never half of one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    os.replace(draft, path)
