"""The commands about a trained network: evaluate and doctor."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from sparring import api, configuration, ranks
from sparring.cli.arguments import path
from sparring.data import Data, Splits
from sparring.data import load as load_data
from sparring.errors import BadInput
from sparring.evaluation import ModelSource, evaluate, name_of, with_names
from sparring.evaluation.doctor import Finding, diagnose
from sparring.evaluation.doctor.case import said_by
from sparring.evaluation.evaluate import check_files
from sparring.evaluation.masking import probe_masking
from sparring.evaluation.network import check_device
from sparring.evaluation.records import listed
from sparring.experiment import check_unchanged
from sparring.optimisation import Optimisation
from sparring.results.tables import evaluation_table
from sparring.terminal import console
from sparring.threat import Threat
from sparring.training import Interrupted, Run
from sparring.training.progress import EvaluationProgress

_OUT = console()


@dataclass(frozen=True)
class _Question:
    """What an evaluation asks; the keys that `evaluate` takes, `--data.path` and `--threat.eps` among them."""

    data: Data = field(default_factory=Data)
    threat: Threat = field(default_factory=Threat)


@dataclass(frozen=True)
class _Length:
    """What of a run's configuration says how long it is."""

    optimisation: Optimisation = field(default_factory=Optimisation)


def _evaluate(chosen: argparse.Namespace, overrides: list[str]) -> None:
    output = Path(chosen.output) if chosen.output else _record_path(chosen.model)
    attacks = with_names(chosen.attacks)  # these are said at once; the network and the data may take a while
    check_files(output, chosen.examples or None, chosen.model)
    with ranks.joined(chosen.device) as device:
        model, splits, threat = _loaded(chosen, overrides, device)
        first = ranks.index() == 0
        with EvaluationProgress(console(stderr=True, quiet=not first)) as progress:
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
            _OUT.print(f"Adversarial images: {chosen.examples}", soft_wrap=True)
        _print_records(evaluation.file)


def _print_records(file: Path | None) -> None:
    """Say where the record is, and what else is on record beside it."""
    assert file is not None
    _OUT.print(f"Record: {file}", soft_wrap=True)
    for line in listed(file.parent, without=file):
        _OUT.print(f"Also on record: {line}", soft_wrap=True)


def _source(model: nn.Module, chosen: argparse.Namespace) -> ModelSource:
    return ModelSource(name_of(model), chosen.model, chosen.checkpoint if Path(chosen.model).is_dir() else "")


def _loaded(chosen: argparse.Namespace, overrides: list[str], device: str) -> tuple[nn.Module, Splits, Threat]:
    """Return the network on its device, the data and the threat that a command is about; they fit together."""
    check_device(device)
    if chosen.checkpoint == "last" and not Path(chosen.model).is_dir():
        raise BadInput(f"--checkpoint last is for the folder of a run: leave it out for {chosen.model}.")
    question = configuration.read(_Question, _known_of(Path(chosen.model), overrides), overrides)
    if chosen.samples is not None:
        if chosen.samples < 1:
            raise BadInput(f"--samples must be at least 1, not {chosen.samples}.")
        question = replace(question, data=replace(question.data, test_limit=chosen.samples))
    timm = chosen.model.startswith("timm:")
    model = None if timm else api.load(chosen.model, chosen.checkpoint)
    try:
        names = () if model is None else said_by(model, "class_names") or ()
        splits = load_data(question.data, needs_train=False, classes=names)
    except BadInput as error:
        if chosen.samples is None:
            raise
        raise BadInput(str(error).replace("data.test_limit", "--samples")) from error  # as it was asked for
    _say_unfinished(Run(Path(chosen.model)))
    _check_own_images(Run(Path(chosen.model)), splits, overrides)
    model = (model if model is not None else api.pretrained(chosen.model, splits)).to(device)
    return model, splits, question.threat


def _doctor(chosen: argparse.Namespace, overrides: list[str]) -> int:
    model, splits, threat = _loaded(chosen, overrides, chosen.device)
    findings = diagnose(
        model,
        splits.test,
        threat,
        classes=splits.classes,
        device=chosen.device,
        seed=chosen.seed,
    )
    if not chosen.quick and not any(finding.severity == "error" for finding in findings):
        findings += probe_masking(model, splits.test, threat, chosen.device, chosen.seed)
    _print_findings(findings)
    if not findings:
        _OUT.print("Nothing was found that would spoil an evaluation.")
    return max((_STATUS[finding.severity] for finding in findings), default=0)


_STATUS = {"note": 0, "warning": 1, "error": 3}


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        _OUT.print(f"{finding}\n", soft_wrap=True)


def _known_of(model: Path, overrides: Sequence[str]) -> str | None:
    """Return the data and the threat that a run was trained with, as YAML; nothing is known of a mere file of weights.

    Its method is not looked at: a class of the user's own need not be there any more.
    """
    run = Run(model)
    if not run.config.is_file():
        _check_said(run, overrides)
        return None
    check_unchanged(run)
    known = configuration.read(_Question, run.config, partly=True)
    data = known.data
    if any(option.startswith(("--data.name", "--data.path")) for option in overrides):
        data = replace(data, limit=None, test_limit=None, validation=None)  # they were said of other images
    return configuration.to_yaml(replace(known, data=data))


def _say_unfinished(run: Run) -> None:
    """Say of a run that was stopped how far it came: its best epoch may be to come, and its rate is still high."""
    if not run.config.is_file() or not (run.folder / "metrics.csv").is_file():
        return
    done, wanted = len(run.metrics()), configuration.read(_Length, run.config, partly=True).optimisation.epochs
    if done < wanted and ranks.index() == 0:
        _OUT.print(f"{run.folder} is not finished, {done} of {wanted} epochs: its figures are of now.", soft_wrap=True)


def _check_own_images(run: Run, splits: Splits, overrides: Sequence[str]) -> None:
    """Raise BadInput where a run is to be evaluated on its own images, and its training images are not what they were."""
    if not (run.config.is_file() and run.is_described()) or any(word.startswith("--data.") for word in overrides):
        return
    trained = run.data().get("train_fingerprint")
    if len(splits.train) and trained not in (None, splits.train_fingerprint):
        raise BadInput(
            f"The training images of {splits.name} are not those that {run.folder} was trained on, so its test images may "
            "be others, too: restore them, or say by --data.name and --data.path which images to test."
        )


def _check_said(run: Run, overrides: Sequence[str]) -> None:
    """Raise BadInput for a run that has lost its configuration, unless its images and its threat are said on the line."""
    keys = {option.partition("=")[0] for option in overrides}
    if run.weights.is_file() and not {"--data.name", "--threat.norm", "--threat.eps"} <= keys:
        raise BadInput(
            f"{run.config} is missing, which said what {run.folder} was trained on and against which threat: restore it, "
            "or give --data.name (for files --data.path, too), --threat.norm and --threat.eps."
        )


def _record_path(model: str) -> Path:
    """Return the folder of the records: in the run, beside the file of weights, or here."""
    if Path(model).is_dir():
        return Run(Path(model)).evaluations
    if Path(model).exists():
        return Path(f"{Path(model).with_suffix('')}.evaluations")
    return Path(f"{re.sub(r'[^A-Za-z0-9_.-]', '-', model)}.evaluations")


_QUESTION = "Other data or threats: --data.name, --data.path, --data.limit, --threat.norm, --threat.eps."


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        help="a run's folder, a .safetensors file, timm:NAME (pretrained), or module:function, which returns a network",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="only so many test images, drawn at random")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which epoch (default: best)")
    parser.add_argument("--seed", type=int, default=0, help="of the attacks' random starts (default: 0)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: a GPU where there is one)"
    )


def add_evaluate(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command(
        "evaluate",
        _evaluate,
        "Measure a network on test images, clean and under attack. An evaluation that was stopped goes on.",
        overrides=_QUESTION,
    )
    _add_model(parser)
    parser.add_argument(
        "--attacks", default="clean,fgsm,pgd-20", help="such as clean,fgsm,pgd-20,pgd-50-10,cw-20,aa (AutoAttack)"
    )
    parser.add_argument(
        "--precision",
        choices=["exact", "search16"],
        default="exact",
        help="of the search: single, or 16 bits, where single precision still confirms every success (default: exact)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="images at a time (default: what fits)")
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=path,
        help="the record, a .json file or a folder of them (default: evaluations in the run)",
    )
    parser.add_argument("--no-doctor", action="store_true", help="go on whatever sparring doctor would say")
    parser.add_argument("--examples", metavar="FILE", type=path, help="save the adversarial images, as .safetensors")


def add_doctor(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the parser; `command` takes its name, its function and its help."""
    parser = command(
        "doctor",
        _doctor,
        "Look for the mistakes that ruin evaluations. Exit status: 0 nothing or notes, 1 warnings, 3 errors.",
        overrides=_QUESTION,
    )
    _add_model(parser)
    parser.add_argument("--quick", action="store_true", help="without the experiments that look for masked gradients")
