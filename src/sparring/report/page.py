"""A report as one HTML file that asks nothing of any network: style, script and pictures are inside."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sparring.comparison import render
from sparring.report.contents import Report
from sparring.report.examples import ATTACK

_FOLDER = Path(__file__).parent


def page(report: Report) -> str:
    """Return the page."""
    # Whatever comes from a run, such as its name or the doctor's words, is escaped.
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": lambda share: f"{100 * share:.1f}%", "duration": _duration}
    tables = [(table, render.titles(table), list(render.cells(table))) for table in report.comparisons]
    return environment.get_template("page.html").render(
        report=report,
        attack=ATTACK,
        tables=tables,
        caption=render.caption,
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((_FOLDER / "page.js").read_text(encoding="utf-8")),
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"
