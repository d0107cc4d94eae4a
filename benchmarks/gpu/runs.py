"""Whole runs of CIFAR-10's recipes: trained, attacked, and how long that took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import torch
from torch import nn
from typing_extensions import override

import sparring
from benchmarks.gpu.setting import Setting
from sparring.configuration import to_yaml
from sparring.data import Data, Images
from sparring.evaluation import Precision
from sparring.evaluation.progress import fingerprint
from sparring.training.progress import Silent

TESTED = 1000  # images that AutoAttack is run on after most runs
COMPARED = 500  # images of the comparison with pyautoattack
ATTACKED = "run-fgsm-mep-fast-seed0"  # the run whose network both AutoAttacks are compared on
# The state of a run is large where a method remembers every image: it is written at the end, and when the run is stopped.
# A smaller last batch would be captured, and its algorithms chosen, for one step an epoch.
TIMED = ("runtime.checkpoint_every=1000", "optimisation.drop_last=true")
QUICK = ("runtime.precision=bf16-mixed",)
PLAIN = ("runtime.precision=32", "runtime.level=eager")
# The talk's runs of 30 epochs; the momentum stays, as one that moved with every step could not be captured.
TALK = (*QUICK, "optimisation.epochs=30", "optimisation.schedule=Cyclic")

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True)
class Run:
    """A recipe of CIFAR-10, and what is changed in it."""

    recipe: str
    changes: tuple[str, ...] = ()
    seed: int = 0
    checkpoints: tuple[Checkpoint, ...] = ("best",)


RUNS = {
    **{f"run-{name}-seed0": Run(name) for name in ("pgd-at-fast", "trades-awp-best")},
    **{f"run-fgsm-mep-fast-seed{seed}": Run("fgsm-mep-fast", QUICK, seed) for seed in range(3)},
    **{f"run-fgsm-mep-fast-fp32-seed{seed}": Run("fgsm-mep-fast", PLAIN, seed) for seed in range(3)},
    **{
        f"run-{name}-seed0": Run(name, QUICK, checkpoints=("best", "last"))
        for name in ("fgsm-mep", "fgsm-sdi", "fgsm-rs", "las-at")
    },
    **{
        f"talk-{name}": Run(name, TALK, checkpoints=("best", "last"))
        for name in (
            "fgsm-rs",
            "fgsm-ckpt",
            "fgsm-ga",
            "fgsm-sdi",
            "fgsm-bp",
            "fgsm-ep",
            "fgsm-mep",
            "pgd-at",
            "free-at",
        )
    },
}


class Noting(Silent):
    """Keeps what a run says of itself: its images, and the level of its steps."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @override
    def note(self, text: str) -> None:
        self.notes.append(text)


def finished(name: str, setting: Setting) -> dict[str, Any]:
    """Return how a run went and how robust its networks are; it goes on where it was stopped."""
    run, experiment = RUNS[name], _experiment(name, setting)
    folder, began = _folder(name, setting), time.perf_counter()
    resumed, said = folder.exists(), Noting()
    trained = sparring.train(experiment, folder, resume=True, report=said)
    seconds = time.perf_counter() - began
    images = _tested(setting, min(TESTED, setting.size.tested))
    columns = ("train_seconds", "validation_seconds", "train_accuracy", "clean", "robust")
    return {
        "recipe": f"cifar10/{run.recipe}",
        "seed": run.seed,
        "config": to_yaml(experiment).replace(str(setting.data), "DATA").splitlines(),
        "images": _encoding(setting.data),
        "notes": said.notes,
        "seconds": seconds,
        "resumed": resumed,  # so that the seconds are not those of all of it
        "epochs": [{column: row[column] for column in columns} for row in trained.metrics()],
        "tested": len(images),
        **_accuracies(run.checkpoints, folder, images, setting),
    }


def attacked_in_full(setting: Setting) -> dict[str, Any]:
    """Return what AutoAttack finds on all test images, and the seconds of its stages."""
    network, images = _network(setting), _tested(setting, setting.size.tested)
    began = time.perf_counter()
    found = sparring.evaluate(
        network,
        images,
        _threat(setting),
        setting.size.attacks[-1:],
        device=setting.device,
        precision=_precision(setting),
        doctor=False,
    )
    return {
        "network": ATTACKED,
        "images": _encoding(setting.data),
        "seconds": time.perf_counter() - began,
        "record": found.record,
    }


def beside_pyautoattack(setting: Setting) -> dict[str, Any]:
    """Return the verdicts of pyautoattack and of ours on the same images, and the seconds of both."""
    from benchmarks.evaluation.parity import Question, Scale, alone, noted, ours, theirs  # pyautoattack only here

    images = _tested(setting, min(COMPARED, setting.size.tested))
    scale = Scale(setting.size.searched, setting.size.searched)
    question = Question(_network(setting), images, _threat(setting), len(images), setting.device, 0, scale)
    answers = {"pyautoattack": theirs(question), "ours": ours(question, _precision(setting))}
    return {
        "network": ATTACKED,
        "images": _encoding(setting.data),
        "scale": asdict(scale),
        "answers": {name: noted(question, answer) for name, answer in answers.items()},
        "differences": alone(*answers.values()),
    }


def decoded(setting: Setting) -> dict[str, Any]:
    """Return how long it takes to decode all images, which are then at hand for runs."""
    began = time.perf_counter()
    splits = sparring.data.load(Data("cifar10", path=str(setting.data)))
    return {"counts": splits.counts(), "seconds": time.perf_counter() - began, "images": _encoding(setting.data)}


def _experiment(name: str, setting: Setting) -> sparring.Experiment:
    run, size = RUNS[name], setting.size
    words = [*run.changes, *TIMED, f"data.path={setting.data}", f"runtime.accelerator={setting.device}"]
    words.append(f"seed={run.seed}")
    if size.images:
        words += [f"data.limit={size.images}", "data.validation=16", f"model.width={size.width}"]
        words += ["optimisation.batch_size=32", f"optimisation.epochs={size.epochs}", "runtime.precision=32"]
    return sparring.recipe(f"cifar10/{run.recipe}", [f"--{word}" for word in words])


def _folder(name: str, setting: Setting) -> Path:
    return setting.folder / "runs" / name


def _network(setting: Setting) -> nn.Module:
    """Return the network of `ATTACKED`, trained here unless it has been."""
    folder = _folder(ATTACKED, setting)
    sparring.train(_experiment(ATTACKED, setting), folder, resume=True, report=Silent())
    return sparring.load(folder).to(setting.device)


def _accuracies(
    checkpoints: Sequence[Checkpoint], folder: Path, images: Images, setting: Setting
) -> dict[str, dict[str, float]]:
    """Return the accuracies of each; where the last epoch was the best, its network is attacked once."""
    found: dict[str, dict[str, float]] = {}
    by_weights: dict[str, dict[str, float]] = {}
    for one in checkpoints:
        weights = fingerprint(sparring.load(folder, one))
        if weights not in by_weights:
            by_weights[weights] = _attacked(folder, one, images, setting)
        found[f"{one}_accuracy"] = by_weights[weights]
    return found


def _attacked(folder: Path, one: Checkpoint, images: Images, setting: Setting) -> dict[str, float]:
    attacks = setting.size.attacks
    evaluation = sparring.evaluate(
        sparring.load(folder, one).to(setting.device),
        images,
        sparring.recipe(str(folder / "config.yaml")).threat,
        attacks,
        device=setting.device,
        precision=_precision(setting),
        doctor=False,
        output=folder / f"{one}.json",  # with a checkpoint beside it, from which another call goes on
    )
    return {attack: evaluation.accuracy(attack) for attack in attacks}


def _tested(setting: Setting, count: int) -> Images:
    images = sparring.data.load(_experiment(ATTACKED, setting).data).test
    return images.subset(torch.arange(min(count, len(images))))


def _threat(setting: Setting) -> sparring.Threat:
    return _experiment(ATTACKED, setting).threat


def _precision(setting: Setting) -> Precision:
    return "search16" if setting.device == "cuda" else "exact"


def _encoding(data: Path) -> str:
    """Return how the images are stored, and what that means for accuracies."""
    (row,) = next(pq.ParquetFile(min(data.glob("test*.parquet"))).iter_batches(1)).to_pylist()
    content = next(value["bytes"] for value in row.values() if isinstance(value, dict))
    if content.startswith(b"\xff\xd8"):
        return "stored as JPEG, about 7.7/255 from the original: no accuracy stands beside a published one"
    return "as published"
