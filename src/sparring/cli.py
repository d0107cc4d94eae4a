"""The command line: demo, train, evaluate, recipes. Bad input is one sentence on standard error and exit status 2."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console

from sparring import api, configuration, recipes
from sparring.data import Data
from sparring.data import load as load_data
from sparring.errors import BadInput, unknown
from sparring.evaluation import Examination, Subject, record, write
from sparring.experiment import Experiment, train
from sparring.results.tables import evaluation_table, recipe_table
from sparring.threat import Threat
from sparring.training import Interrupted, Run
from sparring.training.progress import EvaluationProgress

_OUT = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0, 2 for bad input, 130 if stopped by Ctrl-C."""
    try:
        chosen, overrides = _parser().parse_known_args(arguments)
        if overrides and not chosen.takes_overrides:
            raise BadInput(f"{chosen.command} does not know {overrides[0]}: see sparring {chosen.command} --help.")
        chosen.run_command(chosen, overrides)
    except BadInput as error:
        Console(stderr=True, soft_wrap=True).print(f"sparring: {error}", markup=False, highlight=False)
        return 2
    except Interrupted as stopped:
        Console(stderr=True, soft_wrap=True).print(f"\n{stopped}", markup=False, highlight=False)
        return 130
    except KeyboardInterrupt:
        return 130
    return 0


@dataclass(frozen=True)
class _Question:
    """What an evaluation asks; the keys that `evaluate` takes, `--data.path` and `--threat.eps` among them."""

    data: Data = field(default_factory=Data)
    threat: Threat = field(default_factory=Threat)


def _train(chosen: argparse.Namespace, overrides: list[str]) -> None:
    experiment = api.recipe(chosen.recipe, overrides)
    folder = Path(chosen.run or f"runs/{chosen.recipe.removesuffix('.yaml')}")
    run = train(experiment, folder, resume=chosen.resume)
    _OUT.print(f"Done: {run.folder}. Next: sparring evaluate {run.folder}", soft_wrap=True, highlight=False)


def _evaluate(chosen: argparse.Namespace, overrides: list[str]) -> None:
    subject = Path(chosen.subject)
    attacks = [name.strip() for name in chosen.attacks.split(",") if name.strip()]
    api.check_attacks(attacks)
    question = configuration.read(_Question, _known_of(subject, overrides), overrides)
    if chosen.samples is not None:
        question = replace(question, data=replace(question.data, test_limit=chosen.samples))
    model = api.load(subject, chosen.checkpoint).to(chosen.device)
    splits = load_data(question.data)
    api.check_fit(model, splits, chosen.device)
    examination = Examination(model, splits.test, question.threat, chosen.batch_size, chosen.device, chosen.seed)
    with EvaluationProgress(Console(stderr=True), len(splits.test)) as progress:
        evaluation = examination.run(attacks, progress.tick)
    _OUT.print(evaluation_table(evaluation, question.threat, splits.name))
    output = Path(chosen.output) if chosen.output else _record_path(subject)
    content = record(
        Subject(type(model.network).__name__, str(subject), chosen.checkpoint), splits, examination, evaluation
    )
    write(content, output)
    _OUT.print(f"Record: {output}", soft_wrap=True, highlight=False)


def _known_of(subject: Path, overrides: Sequence[str]) -> str | None:
    """The data and the threat that a run was trained with, as YAML; nothing is known of a mere file of weights."""
    run = Run(subject)
    if not run.config.is_file():
        return None
    experiment = configuration.read(Experiment, run.config)
    data = experiment.data
    if any(option.startswith(("--data.name", "--data.path")) for option in overrides):
        data = replace(data, limit=None, test_limit=None, validation=None)  # they were said of other images
    return configuration.to_yaml(_Question(data, experiment.threat))


def _record_path(subject: Path) -> Path:
    return Run(subject).evaluation if subject.is_dir() else subject.with_suffix(".evaluation.json")


def _recipes(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.action == "list":
        _OUT.print(recipe_table({name: recipes.title(name) for name in recipes.names() if chosen.name in name}))
    elif not chosen.name:
        raise BadInput(f"recipes {chosen.action} needs the name of a recipe: sparring recipes list shows them.")
    elif chosen.action == "show":
        sys.stdout.write(recipes.path(chosen.name).read_text(encoding="utf-8"))
    else:
        target = Path(chosen.file or f"{Path(chosen.name).name}.yaml")
        recipes.copy(chosen.name, target)
        _OUT.print(f"Wrote {target}. Change it, then: sparring train {target}", soft_wrap=True, highlight=False)


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
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, action: Any, text: str, *, overrides: str = "") -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text, epilog=overrides, allow_abbrev=False
        )
        child.set_defaults(run_command=action, takes_overrides=bool(overrides))
        return child

    demo = command("demo", _demo, "Train four methods on embedded data and show how robust each is.")
    demo.add_argument("--run", default="runs/demo", metavar="DIR", help="folder for the runs (default: runs/demo)")

    training = command(
        "train",
        _train,
        "Train a recipe, or a YAML file of your own.",
        overrides="Any key of the experiment can be changed: --optimisation.epochs 30, --method.beta 4, --data.path DIR, "
        "--data.limit 1000, --model.width 16, --threat.eps 4/255, --seed 1. sparring recipes show prints a recipe's keys.",
    )
    training.add_argument("recipe", help="such as cifar10/fgsm-mep, or my.yaml")
    training.add_argument("--run", metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    training.add_argument("--resume", action="store_true", help="go on where the run in the folder stopped")

    evaluating = command(
        "evaluate",
        _evaluate,
        "Measure a run or a .safetensors file on test images, clean and under attack.",
        overrides="Other data or threats: --data.name, --data.path, --data.limit, --threat.norm, --threat.eps.",
    )
    evaluating.add_argument("subject", metavar="run-or-model", help="a run's folder, or a .safetensors file")
    evaluating.add_argument("--attacks", default="clean,fgsm,pgd-20", help="such as clean,fgsm,pgd-20,pgd-50-10,cw-20")
    evaluating.add_argument("--samples", type=int, metavar="N", help="only so many test images, drawn at random")
    evaluating.add_argument(
        "--checkpoint", choices=["best", "last"], default="best", help="which epoch (default: best)"
    )
    evaluating.add_argument("--batch-size", type=int, default=256, metavar="N", help="images at a time (default: 256)")
    evaluating.add_argument("--seed", type=int, default=0, help="of the attacks' random starts (default: 0)")
    evaluating.add_argument("--output", metavar="FILE", help="the JSON record (default: evaluation.json in the run)")
    evaluating.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU where there is one)"
    )

    listing = command("recipes", _recipes, "List, show or copy the recipes.")
    listing.add_argument("action", choices=["list", "show", "copy"])
    listing.add_argument("name", nargs="?", default="", help="a recipe's name; for list, a part of one")
    listing.add_argument("file", nargs="?", help="where to copy to (default: METHOD.yaml here)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
