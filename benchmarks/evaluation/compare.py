"""Whether our AutoAttack gives pyautoattack's verdicts, and how much faster; other libraries' attacks. CPU or GPU.

    python -m benchmarks.evaluation.compare parity --data cifar10 --data-path ../shared/data/cifar10 --norm Linf --out p.json
    python -m benchmarks.evaluation.compare others --data digits --norm L2 --out others.json
    python -m benchmarks.evaluation.compare speed --data-path ../shared/data/cifar10 --images 500 --repeats 3 --out s.json
    python -m benchmarks.evaluation.compare pgd --data-path ../shared/data/cifar10 --images 500 --out pgd.json
    python -m benchmarks.evaluation.compare table p.json --into docs/page.md

Networks are trained by our own recipes, once, into the folder --cache. `parity` lets both attack five small ones, of
which two are masked on purpose, and compares their verdicts image by image. `others` looks for images that Foolbox or ART
fool and ours does not. `speed` lets both take turns on one network. --steps and --queries cut searches short; what then
runs is not AutoAttack, and the record says so. How to read the tables: `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evaluation.attacked import MASKING, QUICK, SIZES, TARGETS, Cut, Training, tested, threat_on
from benchmarks.evaluation.parity import Answer, Question, Scale, alone, noted, ours, theirs
from benchmarks.evaluation.tables import OURS, REFERENCE, markdown, read
from benchmarks.harness.command import exit_with
from benchmarks.harness.pages import renew
from benchmarks.harness.record import write
from benchmarks.harness.timing import say
from benchmarks.opponents import libraries
from sparring.environment import environment
from sparring.errors import BadInput
from sparring.evaluation import Evaluator
from sparring.threat import Ratio

NOT_IN_RECORDS = ("command", "data_path", "cache", "out")  # no paths
PRECISIONS = ("exact", "search16")
SCALES = ("steps", "queries")
TRAINING_BATCH = 128  # of the one network; the small ones need more steps
WARMING_UP = Scale(steps=2, queries=2)


@dataclass
class Report:
    """A record, written anew whenever something was found, so that an interrupted run keeps what it has."""

    file: Path | None
    facts: dict[str, Any]
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, found: dict[str, Any]) -> None:
        """Write what was found into a file too, if one was asked for."""
        self.found.append(found)
        if self.file is not None:
            write(self.file, self.record)

    @property
    def record(self) -> dict[str, Any]:
        """As plain values."""
        return self.facts | {"found": self.found}


def begun(options: argparse.Namespace, packages: tuple[str, ...]) -> Report:
    """Return a report that says under which conditions things are about to be found."""
    threat = threat_on(options.data, options.norm)
    facts = {
        "benchmark": options.command,
        "arguments": {name: value for name, value in vars(options).items() if name not in NOT_IN_RECORDS},
        "environment": environment() | {name: version(name) for name in packages},
        "data": options.data,
        "threat": {"norm": threat.norm, "eps": str(threat.eps)},
        "scaled": {name: getattr(options, name) for name in SCALES if getattr(options, name) is not None},
    }
    return Report(options.out, facts)


def parity(options: argparse.Namespace) -> None:
    """Compare both sides on every network."""
    report = begun(options, ("pyautoattack",))
    for name, training, question in targets(options, report):
        as_trained = replace(question, threat=training.experiment().threat)
        found = {"network": name, "logits_times": MASKING if TARGETS[name].masked else 1.0, "training": plain(training)}
        found |= {"pgd-20": under_pgd(question), "pgd-20 as trained": under_pgd(as_trained)}
        report.add(found | compared(question, options))
        say(f"{name}: done")
    print(markdown([report.record]))


def targets(options: argparse.Namespace, report: Report) -> Iterator[tuple[str, Training, Question]]:
    """Yield what the chosen networks are asked, each trained when its turn comes."""
    for name in options.networks:
        target = TARGETS[name]
        training = target.training(options.data, options.data_path)
        question = asked(target.network(options.data, options.data_path, options.cache), training, options)
        report.facts["images"] = len(question.images)
        yield name, training, question


def compared(question: Question, options: argparse.Namespace) -> dict[str, Any]:
    """Return all answers to a question, and for pairs of them the images that only one has fooled."""
    answers = {REFERENCE: theirs(question), "exact": ours(question, "exact")}
    pairs = [(REFERENCE, "exact")]
    if options.precision == "search16":
        answers["search16"] = ours(question, "search16")
        pairs += [(REFERENCE, "search16"), ("exact", "search16")]
    if options.control:
        another = f"{REFERENCE}, seed {question.seed + 1}"
        answers[another] = theirs(replace(question, seed=question.seed + 1))
        pairs.append((REFERENCE, another))
    return {
        "answers": {name: noted(question, answer) for name, answer in answers.items()},
        "differences": [{"first": one, "second": other, **alone(answers[one], answers[other])} for one, other in pairs],
    }


def under_pgd(question: Question) -> float:
    """Return the accuracy under our PGD-20: who is robust to it and not to AutoAttack hides his gradients."""
    evaluator = Evaluator(question.model, question.images, question.threat, question.batch_size, question.device)
    return evaluator.run(["pgd-20"]).accuracy("pgd-20")


def others(options: argparse.Namespace) -> None:
    """Run Foolbox's and ART's attacks on every network; count the images that they fool and our AutoAttack does not."""
    from benchmarks.opponents.rivals import beside  # here, because ART is slow to import

    report = begun(options, ("foolbox", "adversarial-robustness-toolbox"))
    for name, training, question in targets(options, report):
        report.add({"network": name, "training": plain(training)} | beside(question))
        say(f"{name}: done")
    print(markdown([report.record]))


def speed(options: argparse.Namespace) -> None:
    """Time both sides in turn on one network."""
    report = begun(options, ("pyautoattack",))
    question = one_network(options, report)
    sides: Mapping[str, Callable[[Question], Answer]] = {
        REFERENCE: theirs,
        **{precision: partial(ours, precision=precision) for precision in options.precisions},
    }
    for side in sides.values():
        side(replace(first_batch(question), scale=WARMING_UP))
    for turn in range(options.repeats):
        report.add({name: noted(question, side(question)) for name, side in sides.items()})
        say(f"round {turn + 1} of {options.repeats}: done")
    print(markdown([report.record]))


def pgd(options: argparse.Namespace) -> None:
    """Time PGD-50 by several libraries in turn on one network."""
    libraries.check(options.libraries)
    report = begun(options, tuple(options.libraries))
    question = one_network(options, report)
    sides = {OURS: libraries.ours} | {name: libraries.LIBRARIES[name] for name in options.libraries}
    for side in sides.values():
        side(first_batch(question))
    for _ in range(options.repeats):
        report.add({name: timed(side, question) for name, side in sides.items()})
    print(markdown([report.record]))


def first_batch(question: Question) -> Question:
    """Return the same about few images: to warm up."""
    rows = torch.arange(min(question.batch_size, len(question.images)))
    return replace(question, images=question.images.subset(rows))


def timed(side: libraries.Side, question: Question) -> dict[str, float]:
    """Return a library's accuracy and its seconds; the accuracy is a number of the host, so the device has finished."""
    began = time.perf_counter()
    accuracy = side(question)
    return {"accuracy": accuracy, "seconds": round(time.perf_counter() - began, 3)}


def one_network(options: argparse.Namespace, report: Report) -> Question:
    """Return what a PGD-AT network is asked, after its training; the report says what was trained."""
    eps = Ratio(SIZES[options.data].linf)
    cut = Cut(eps, options.train_images, options.epochs, TRAINING_BATCH, options.model, options.width)
    training = Training(options.data, options.data_path, "pgd-at", cut)
    question = asked(training.network(options.cache), training, options)
    report.facts |= {"training": plain(training), "images": len(question.images)}
    return question


def asked(network: nn.Module, training: Training, options: argparse.Namespace) -> Question:
    """Return the question about this network, on the device."""
    return Question(
        network.to(options.device).eval(),
        tested(training.experiment(), options.images),
        threat_on(options.data, options.norm),
        options.batch,
        options.device,
        options.seed,
        Scale(options.steps, options.queries),
    )


def plain(training: Training) -> dict[str, Any]:
    """Return a training as a record states it."""
    facts: dict[str, Any] = {"data": training.data, "method": training.method, "whole": training.cut is None}
    return facts | (asdict(training.cut) | {"eps": str(training.cut.eps)} if training.cut else {})


def train(options: argparse.Namespace) -> None:
    """Add the options that `parity` needs, and no other command."""
    for name in options.networks:
        TARGETS[name].network(options.data, options.data_path, options.cache)


def table(options: argparse.Namespace) -> None:
    """Print records in Markdown, or write them into pages."""
    records = {file.stem: read(file) for file in options.records}
    if options.into:
        renew(options.into, "evaluation", records, markdown)
    else:
        print(markdown([*records.values()]))


def arguments(words: list[str] | None) -> argparse.Namespace:
    """Return the command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data, network, images, scale = _about_data(), _about_a_network(), _about_images(), _about_scale()
    training = commands.add_parser("train", parents=[data], help="train the networks of parity")
    comparing = commands.add_parser("parity", parents=[data, images, scale], help="verdicts beside pyautoattack's")
    meeting = commands.add_parser("others", parents=[data, images, scale], help="our AutoAttack beside other attacks")
    for command in (training, comparing, meeting):
        command.add_argument("--networks", nargs="+", choices=TARGETS, default=QUICK)
    comparing.add_argument("--precision", choices=PRECISIONS, default="exact", help="search16: after exact")
    comparing.add_argument("--control", action="store_true", help="also pyautoattack beside itself with the next seed")
    racing = commands.add_parser("speed", parents=[data, network, images, scale], help="seconds beside pyautoattack's")
    racing.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    other = commands.add_parser("pgd", parents=[data, network, images], help="PGD-50 beside other libraries'")
    other.add_argument("--libraries", nargs="+", choices=libraries.LIBRARIES, default=[*libraries.LIBRARIES])
    other.set_defaults(norm="Linf", steps=None, queries=None)
    showing = commands.add_parser("table", help="records in Markdown")
    showing.add_argument("records", nargs="+", type=Path)
    showing.add_argument("--into", nargs="+", type=Path, help="pages whose tables of these records are renewed")
    return parser.parse_args(words)


def _about_data() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--data", choices=SIZES, default="cifar10")
    parser.add_argument("--data-path", help="folder of its files; digits has none")
    parser.add_argument("--cache", type=Path, default=Path("runs/evaluation"), help="where trained networks are kept")
    return parser


def _about_a_network() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--model", default="resnet18", help="any name of sparring.models.create")
    parser.add_argument("--width", type=_count, default=16, help="channels of the first stage")
    parser.add_argument("--train-images", type=_count, default=4000, help="to train on, those held out included")
    parser.add_argument("--epochs", type=_count, default=4, help="of training")
    parser.add_argument("--repeats", type=_count, default=3, help="rounds in which everybody has a turn")
    return parser


def _about_images() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--images", type=_count, default=1000, help="test images, at most")
    parser.add_argument("--batch", type=_count, default=250, help="images at a time, on all sides")
    parser.add_argument("--seed", type=int, default=0, help="of all attacks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write a record")
    return parser


def _about_scale() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--norm", choices=("Linf", "L2", "L1"), default="Linf")
    parser.add_argument("--steps", type=_count, help="of APGD and FAB, for a quick look")
    parser.add_argument("--queries", type=_count, help="of Square, for a quick look")
    return parser


def _count(word: str) -> int:
    if (count := int(word)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {count}")
    return count


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; raises BadInput where it cannot be done."""
    options = arguments(words)
    if options.command != "table" and (options.data == "digits") != (options.data_path is None):
        raise BadInput("--data-path names the folder of the data set: give it for all but digits.")
    commands = {"train": train, "parity": parity, "others": others, "speed": speed, "pgd": pgd, "table": table}
    commands[options.command](options)
    return 0


if __name__ == "__main__":
    exit_with(main)
