"""The command that searches for settings of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from sparring.cli.arguments import named_after, path
from sparring.errors import BadInput
from sparring.terminal import console
from sparring.training.progress import reporter
from sparring.tuning import Trial, Tuning, parameter

_OUT = console()


def _tune(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if not chosen.tries:
        raise BadInput("tune needs to know what to try: --try KEY VALUE VALUE, or --try KEY LOW..HIGH.")
    space = tuple(parameter(words) for words in chosen.tries)
    for number, one in enumerate(space):
        if one.key in {other.key for other in space[:number]}:
            raise BadInput(f"--try {one.key} is given twice: give it once, with all its values.")
    folder = Path(chosen.out or f"runs/tune/{named_after(chosen.recipe)}")
    tuning = Tuning(chosen.recipe, tuple(overrides), space, folder, chosen.search, chosen.search_seed)
    errors = console(stderr=True)
    trials = tuning.run(
        chosen.trials, report=lambda: reporter(errors), note=lambda text: errors.print(text, soft_wrap=True)
    )
    ranked = sorted(trials, key=lambda trial: -1.0 if trial.robust is None else trial.robust, reverse=True)
    _OUT.print(_table(ranked, [one.key for one in space]))
    best = folder / ranked[0].folder
    if ranked[0].robust is not None:
        _OUT.print(f"Best on held-out images: {best}. Next: sparring evaluate {best}", soft_wrap=True)


def _table(ranked: Sequence[Trial], keys: Sequence[str]) -> Table:
    table = Table(title="Best epoch on held-out images, in percent", box=box.SIMPLE_HEAD, title_justify="left")
    for title in ("trial", *keys):
        table.add_column(title)
    for title in ("robust", "clean", "minutes"):
        table.add_column(title, justify="right")
    for trial in ranked:
        robust = "diverged" if trial.robust is None else f"{100 * trial.robust:.1f}"
        clean = "" if trial.clean is None else f"{100 * trial.clean:.1f}"
        table.add_row(trial.folder, *(trial.settings[key] for key in keys), robust, clean, f"{trial.minutes:.1f}")
    return table


def add_tune(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command(
        "tune",
        _tune,
        "Search for settings: train a recipe again and again, and rank by accuracy under attack on held-out images. Goes on "
        "where it stopped. Needs Optuna: pip install 'sparring[tune]'.",
        overrides="Any key of the experiment can be changed for all trials, as in train.",
    )
    parser.add_argument("recipe", help="such as cifar10/pgd-at, or a YAML file")
    parser.add_argument(
        "--try",
        dest="tries",
        action="append",
        nargs="+",
        default=[],
        metavar=("KEY", "VALUE"),
        help="a key and what it may be: several values, LOW..HIGH, or log:LOW..HIGH; repeatable",
    )
    parser.add_argument("--trials", type=int, default=20, metavar="N", help="how many in all (default: 20)")
    parser.add_argument(
        "--search",
        choices=["bayes", "random"],
        default="bayes",
        help="by what was found so far (a tree-structured Parzen estimator), or at random (default: bayes)",
    )
    parser.add_argument("--search-seed", type=int, default=0, metavar="N", help="of what is tried (default: 0)")
    parser.add_argument("--out", metavar="DIR", type=path, help="folder (default: runs/tune/RECIPE)")
