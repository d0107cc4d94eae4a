"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from sparring.evaluation import Outcomes
from sparring.threat import Threat


def evaluation_table(evaluation: Outcomes, threat: Threat, data: str) -> Table:
    """Return a row an attack with its settings, and the worst case over all of them."""
    count = len(evaluation.outcomes[0].correct)
    table = Table(
        title=f"{data}: {count} test images, {threat.norm} eps {threat.eps}", box=box.SIMPLE_HEAD, title_justify="left"
    )
    table.add_column("attack")
    for name in ("accuracy", "alpha", "steps", "start", "restarts", "seconds"):
        table.add_column(name, justify="right")
    for outcome in evaluation.outcomes:
        if len(outcome.stages) > 1:
            for stage in outcome.stages:
                table.add_row(
                    f"  {stage.name}", f"{stage.accuracy:.2%}", *_said(stage.settings), f"{stage.seconds:.1f}"
                )
        table.add_row(outcome.attack, f"{outcome.accuracy:.2%}", *_said(outcome.settings), f"{outcome.seconds:.1f}")
    table.add_section()
    table.add_row("worst of these", f"{evaluation.worst:.2%}")
    return table


def _said(settings: Mapping[str, str | int]) -> list[str]:
    return [str(settings.get(name, "")) for name in ("alpha", "steps", "start", "restarts")]


def comparison_table(title: str, evaluations: Mapping[str, Outcomes], seconds: Mapping[str, float]) -> Table:
    """Return a row a method: accuracy under each attack, and its training time."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("method")
    for outcome in next(iter(evaluations.values())).outcomes:
        table.add_column(outcome.attack, justify="right")
    table.add_column("training s", justify="right")
    for name, evaluation in evaluations.items():
        accuracies = [f"{outcome.accuracy:.1%}" for outcome in evaluation.outcomes]
        table.add_row(name, *accuracies, f"{seconds[name]:.1f}")
    return table


def listing(what: str, titles: Mapping[str, str]) -> Table:
    """Return a row a recipe, or whatever they are: its name and what it is."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(what, no_wrap=True)
    table.add_column("what it is")
    for name, title in titles.items():
        table.add_row(name, title)
    return table
