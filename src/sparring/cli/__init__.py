"""The command line. Bad input is one sentence on standard error, exit status 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sparring import api, recipes
from sparring.cli import comparison, evaluation, figure, report, tune
from sparring.cli.arguments import named_after, path
from sparring.configuration import to_yaml
from sparring.environment import installed_version
from sparring.errors import BadInput, unknown
from sparring.experiment import train
from sparring.results.markdown import behind_recipe
from sparring.results.tables import listing
from sparring.terminal import console
from sparring.training import Interrupted, Run

_OUT = console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The exit status: 0, 2 for bad input, 130 if stopped by Ctrl-C; of doctor, 1 and 3 for what it found."""
    try:
        chosen, overrides = _parser().parse_known_args(arguments)
        if overrides and not chosen.takes_overrides:
            raise BadInput(f"{chosen.command} does not know {overrides[0]}: see sparring {chosen.command} --help.")
        status: int = chosen.run_command(chosen, overrides) or 0
    except BadInput as error:
        console(stderr=True).print(f"sparring: {error}", soft_wrap=True)
        return 2
    except Interrupted as stopped:
        console(stderr=True).print(f"\n{stopped}", soft_wrap=True)
        return 130
    except KeyboardInterrupt:
        return 130
    return status


def _train(chosen: argparse.Namespace, overrides: list[str]) -> None:
    recipe, folder = chosen.recipe, Path(chosen.run or f"runs/{named_after(chosen.recipe)}")
    if Run(Path(recipe)).config.is_file():  # the folder of a run, which is begun again or resumed
        folder = Path(chosen.run or recipe)
        recipe = str(Run(Path(recipe)).config)
    elif chosen.resume and Path(recipe).is_dir():
        raise BadInput(f"{recipe} holds no run, as there is no config.yaml in it: name a recipe and the run's --run.")
    experiment = api.recipe(recipe, overrides)
    if chosen.resume and not Run(folder).config.exists():
        _OUT.print(f"There is no run in {folder} to go on with: it begins.", soft_wrap=True)
    run = train(experiment, folder, resume=chosen.resume)
    _OUT.print(f"Done: {run.folder}. Next: sparring evaluate {run.folder}", soft_wrap=True)


def _recipes(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.action == "list":
        _OUT.print(listing("recipe", {name: recipes.title(name) for name in _listed(chosen.name)}))
    elif not chosen.name:
        raise BadInput(f"recipes {chosen.action} needs the name of a recipe: sparring recipes list shows them.")
    elif chosen.action == "show":
        sys.stdout.write(recipes.text(chosen.name, to_yaml(api.recipe(chosen.name))))
        sys.stdout.writelines(f"{line}\n" for line in behind_recipe(chosen.name))
    else:
        target = Path(chosen.file or f"{Path(chosen.name).name}.yaml")
        recipes.copy(chosen.name, target, to_yaml(api.recipe(chosen.name)))
        _OUT.print(f"Wrote {target}. Change it, then: sparring train {target}", soft_wrap=True)


def _listed(part: str) -> list[str]:
    """Return the recipes of a data set, or those with this part in their name; raises BadInput if there is none."""
    names = recipes.names()
    found = [name for name in names if name.startswith(f"{part}/")] or [name for name in names if part in name]
    if not found:
        raise unknown("recipe", part, names)
    return found


def _demo(chosen: argparse.Namespace, overrides: list[str]) -> None:
    from sparring.demo import demo

    demo(Path(chosen.run), _OUT)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        if match := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            raise unknown("command" if "command" in message else "value", match[1], re.findall(r"[\w-]+", match[2]))
        raise BadInput(f"{message[0].upper()}{message[1:]}: see {self.prog} --help.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("sparring", description="Adversarial training of image classifiers, and its honest measurement.")
    parser.add_argument("--version", action="version", version=f"sparring {installed_version()}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, action: Any, text: str, *, overrides: str = "") -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, epilog=overrides, allow_abbrev=False
        )
        child.set_defaults(run_command=action, takes_overrides=bool(overrides))
        return child

    demo = command("demo", _demo, "Train four methods on embedded data and show how robust each is.")
    demo.add_argument("--run", default="runs/demo", metavar="DIR", type=path, help="of the runs (default: runs/demo)")

    training = command(
        "train",
        _train,
        "Train a recipe, or a YAML file of your own.",
        overrides="Any key of the experiment can be changed: --optimisation.epochs 30, --method.beta 4, --data.path DIR, "
        "--data.limit 1000, --model.width 16, --threat.eps 4/255, --seed 1. sparring recipes show prints a recipe's keys.",
    )
    training.add_argument("recipe", help="such as cifar10/fgsm-mep, my.yaml, or the folder of a run to --resume")
    training.add_argument("--run", metavar="DIR", type=path, help="the run's folder (default: runs/RECIPE)")
    training.add_argument("--resume", action="store_true", help="go on where the run in the folder stopped")

    evaluation.add_evaluate(command)
    evaluation.add_doctor(command)
    comparison.add_compare(command)
    figure.add_figure(command)
    report.add_report(command)
    tune.add_tune(command)

    names = command("recipes", _recipes, "List, show or copy the recipes.")
    names.add_argument("action", choices=["list", "show", "copy"])
    names.add_argument("name", nargs="?", default="", help="a recipe's name; for list, a data set or a part of a name")
    names.add_argument("file", nargs="?", help="where to copy to (default: METHOD.yaml here)")
    return parser
