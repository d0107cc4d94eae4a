"""The command line: demo, train, evaluate, doctor, recipes. Bad input is one sentence on standard error, exit status 2."""

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
from torch import nn

from sparring import api, configuration, ranks, recipes
from sparring.data import Data, Splits
from sparring.data import load as load_data
from sparring.errors import BadInput, unknown
from sparring.evaluation import ModelSource, evaluate, name_of, with_names
from sparring.evaluation.doctor import Finding, diagnose
from sparring.evaluation.masking import probe_masking
from sparring.experiment import Experiment, train
from sparring.files import check_writable
from sparring.results.tables import evaluation_table, recipe_table
from sparring.threat import Threat
from sparring.training import Interrupted, Run
from sparring.training.progress import EvaluationProgress

_OUT = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. The exit status: 0, 2 for bad input, 130 if stopped by Ctrl-C; of doctor, 1 and 3 for what it found."""
    try:
        chosen, overrides = _parser().parse_known_args(arguments)
        if overrides and not chosen.takes_overrides:
            raise BadInput(f"{chosen.command} does not know {overrides[0]}: see sparring {chosen.command} --help.")
        status: int = chosen.run_command(chosen, overrides) or 0
    except BadInput as error:
        Console(stderr=True, soft_wrap=True).print(f"sparring: {error}", markup=False, highlight=False)
        return 2
    except Interrupted as stopped:
        Console(stderr=True, soft_wrap=True).print(f"\n{stopped}", markup=False, highlight=False)
        return 130
    except KeyboardInterrupt:
        return 130
    return status


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
    attacks = [name.strip() for name in chosen.attacks.split(",") if name.strip()]
    output = Path(chosen.output) if chosen.output else _record_path(chosen.subject)
    with_names(attacks)  # these are said at once; the network and the data may take a while
    for path in (output, *([Path(chosen.examples)] if chosen.examples else [])):
        check_writable(path)
    with ranks.joined(chosen.device) as device:
        model, splits, threat = _subject(chosen, overrides, device)
        first = ranks.index() == 0
        with EvaluationProgress(Console(stderr=True, quiet=not first)) as progress:
            try:
                evaluation = evaluate(
                    model,
                    splits,
                    threat,
                    attacks,
                    batch_size=chosen.batch_size,
                    device=device,
                    seed=chosen.seed,
                    precision=chosen.precision,
                    doctor=not chosen.no_doctor,
                    output=output,
                    examples=chosen.examples,
                    source=_source(model, chosen),
                    progress=progress.tick,
                    note=_OUT.print if first else lambda text: None,
                )
            except KeyboardInterrupt as stop:
                raise Interrupted("Stopped: the same command goes on from half a minute ago at most.") from stop
    if first:
        _OUT.print(evaluation_table(evaluation, threat, splits.name))
        _print_findings(evaluation.findings)
        if chosen.examples:
            _OUT.print(f"Adversarial images: {chosen.examples}", soft_wrap=True, highlight=False)
        _OUT.print(f"Record: {output}", soft_wrap=True, highlight=False)


def _source(model: nn.Module, chosen: argparse.Namespace) -> ModelSource:
    return ModelSource(name_of(model), chosen.subject, chosen.checkpoint if Path(chosen.subject).is_dir() else "")


def _subject(chosen: argparse.Namespace, overrides: list[str], device: str) -> tuple[nn.Module, Splits, Threat]:
    """The network on its device, the data and the threat that a command is about; they fit together."""
    question = configuration.read(_Question, _known_of(Path(chosen.subject), overrides), overrides)
    if chosen.samples is not None:
        question = replace(question, data=replace(question.data, test_limit=chosen.samples))
    timm = chosen.subject.startswith("timm:")
    model = None if timm else api.load(chosen.subject, chosen.checkpoint)
    splits = load_data(question.data)
    model = (model if model is not None else api.pretrained(chosen.subject, splits)).to(device)
    return model, splits, question.threat


def _doctor(chosen: argparse.Namespace, overrides: list[str]) -> int:
    model, splits, threat = _subject(chosen, overrides, chosen.device)
    findings = diagnose(model, splits.test, threat, classes=len(splits.classes), device=chosen.device, seed=chosen.seed)
    if not chosen.quick and not any(finding.severity == "error" for finding in findings):
        findings += probe_masking(model, splits.test, threat, chosen.device, chosen.seed)
    _print_findings(findings)
    if not findings:
        _OUT.print("Nothing was found that would spoil an evaluation.")
    return max((_STATUS[finding.severity] for finding in findings), default=0)


_STATUS = {"note": 0, "warning": 1, "error": 3}


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        _OUT.print(f"{finding}\n", soft_wrap=True, highlight=False, markup=False)


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


def _record_path(subject: str) -> Path:
    """In the run, beside the file of weights, or here."""
    if Path(subject).is_dir():
        return Run(Path(subject)).evaluation
    if Path(subject).exists():
        return Path(subject).with_suffix(".evaluation.json")
    return Path(f"{re.sub(r'[^A-Za-z0-9_.-]', '-', subject)}.evaluation.json")


def _recipes(chosen: argparse.Namespace, overrides: list[str]) -> None:
    if chosen.action == "list":
        _OUT.print(recipe_table({name: recipes.title(name) for name in recipes.names() if chosen.name in name}))
    elif not chosen.name:
        raise BadInput(f"recipes {chosen.action} needs the name of a recipe: sparring recipes list shows them.")
    elif chosen.action == "show":
        sys.stdout.write(recipes.text(chosen.name))
    else:
        target = Path(chosen.file or f"{Path(chosen.name).name}.yaml")
        recipes.copy(chosen.name, target)
        _OUT.print(f"Wrote {target}. Change it, then: sparring train {target}", soft_wrap=True, highlight=False)


def _demo(chosen: argparse.Namespace, overrides: list[str]) -> None:
    from sparring.demo import demo

    demo(Path(chosen.run), _OUT)


_QUESTION = "Other data or threats: --data.name, --data.path, --data.limit, --threat.norm, --threat.eps."


def _add_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject",
        metavar="model",
        help="a run's folder, a .safetensors file, timm:NAME (pretrained), or module:function, which returns a network",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="only so many test images, drawn at random")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which epoch (default: best)")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks' random starts (default: 0)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU where there is one)"
    )


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
        "Measure a network on test images, clean and under attack. An evaluation that was stopped goes on.",
        overrides=_QUESTION,
    )
    _add_subject(evaluating)
    evaluating.add_argument(
        "--attacks", default="clean,fgsm,pgd-20", help="such as clean,fgsm,pgd-20,pgd-50-10,cw-20,aa (AutoAttack)"
    )
    evaluating.add_argument(
        "--precision",
        choices=["exact", "search16"],
        default="exact",
        help="of the search: single, or 16 bits, where single precision still confirms every success (default: exact)",
    )
    evaluating.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: what fits)")
    evaluating.add_argument("--output", metavar="FILE", help="the JSON record (default: evaluation.json in the run)")
    evaluating.add_argument("--no-doctor", action="store_true", help="go on whatever sparring doctor would say")
    evaluating.add_argument("--examples", metavar="FILE", help="save the adversarial images, as .safetensors")

    examining = command(
        "doctor",
        _doctor,
        "Look for the mistakes that ruin evaluations. Exit status: 0 nothing or notes, 1 warnings, 3 errors.",
        overrides=_QUESTION,
    )
    _add_subject(examining)
    examining.add_argument(
        "--quick", action="store_true", help="without the experiments that look for masked gradients"
    )

    listing = command("recipes", _recipes, "List, show or copy the recipes.")
    listing.add_argument("action", choices=["list", "show", "copy"])
    listing.add_argument("name", nargs="?", default="", help="a recipe's name; for list, a part of one")
    listing.add_argument("file", nargs="?", help="where to copy to (default: METHOD.yaml here)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
