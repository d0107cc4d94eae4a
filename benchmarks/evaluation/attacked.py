"""The networks that `compare.py` has attacked: our recipes, cut down or whole, trained once; two masked on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

import sparring
from sparring.norms import NormName
from sparring.threat import Ratio, Threat

HELD_OUT = 100  # training images that every epoch is evaluated on
MASKING = 1000.0  # where a margin was above 0.1, the cross-entropy of such logits is 0 in single precision
Method: TypeAlias = Literal["standard", "fgsm-rs", "pgd-at"]
STEPS = {"fgsm-rs": Fraction(5, 4), "pgd-at": Fraction(1, 4)}  # of the radius, as in the recipes


@dataclass(frozen=True)
class Size:
    """How little the small networks of a data set are trained on, and how far images are perturbed."""

    images: int
    epochs: int
    linf: str  # in training, and by attacks
    l2: str  # by attacks alone
    l1: str  # by attacks alone


SIZES = {
    "digits": Size(images=1200, epochs=10, linf="0.2", l2="0.5", l1="1"),
    "fashion_mnist": Size(images=4000, epochs=6, linf="0.2", l2="2.5", l1="10"),
    "gtsrb": Size(images=6000, epochs=10, linf="3/255", l2="1", l1="12"),
    "cifar10": Size(images=6000, epochs=8, linf="4/255", l2="1", l1="12"),
}


@dataclass(frozen=True)
class Cut:
    """What makes a training against Linf shorter: another network, fewer images, fewer epochs and no crops.

    Args:
        eps: the radius; a step keeps its share of it.
        images: to train on, those held out included.
        epochs: passes over them.
        batch_size: images in a step.
        model: see `sparring.models.names()`.
        width: channels of the first stage.
    """

    eps: Ratio
    images: int
    epochs: int
    batch_size: int = 32
    model: str = "smallconv"
    width: int = 8

    def changes(self, method: Method) -> dict[str, str]:
        """Return the settings of the method's recipe, by the names of its fields."""
        changes = {
            "data.limit": self.images,
            "data.validation": HELD_OUT,
            "data.augment.pad": 0,
            "model.name": self.model,
            "model.width": self.width,
            "threat.eps": self.eps,
            "optimisation.epochs": self.epochs,
            "optimisation.batch_size": self.batch_size,
            "optimisation.schedule": "Cyclic",
        }
        if method in STEPS:
            changes["method.attack.alpha"] = self.eps.exact * STEPS[method]
        return {name: str(value) for name, value in changes.items()}


@dataclass(frozen=True)
class Training:
    """A recipe, perhaps cut down.

    Args:
        data: the data set, and the first half of the recipe's name.
        path: the folder of its files; None for digits.
        method: the other half.
        cut: None leaves the recipe as it is.
    """

    data: str
    path: str | None
    method: Method
    cut: Cut | None = None

    def experiment(self) -> sparring.Experiment:
        """Return the recipe after these changes."""
        changes = self.cut.changes(self.method) if self.cut else {}
        if self.path is not None:
            changes["data.path"] = self.path
        words = [word for name, value in changes.items() for word in (f"--{name}", value)]
        return sparring.recipe(f"{self.data}/{self.method}", words)

    def network(self, folder: Path) -> nn.Module:
        """Return the network after its last epoch, on the CPU, trained in a folder of `folder` unless it has been.

        Raises BadInput where another training has been there.
        """
        name = f"{self.data}-{self.method}" + (f"-{self.cut.model}-{self.cut.width}" if self.cut else "")
        run = sparring.train(self.experiment(), folder / name, resume=True)
        return sparring.load(run.folder, "last")


class Masked(nn.Module):
    """A network with its logits scaled up: it decides as before, but its cross-entropy has no gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, C, H, W)."""
        return MASKING * self.network(x)


@dataclass(frozen=True)
class Target:
    """A network to be attacked: how it is trained, against how many times the radius, and whether it is masked."""

    method: Method
    radii: int = 1
    masked: bool = False
    whole: bool = False  # trained as the recipe says, however long that takes

    def training(self, data: str, path: str | None) -> Training:
        """Return the training on this data set."""
        size = SIZES[data]
        eps = Ratio(str(self.radii * Ratio(size.linf).exact))
        return Training(data, path, self.method, None if self.whole else Cut(eps, size.images, size.epochs))

    @override
    def network(self, data: str, path: str | None, folder: Path) -> nn.Module:
        network = self.training(data, path).network(folder)
        return Masked(network) if self.masked else network


TARGETS = {
    "standard": Target("standard"),
    "fgsm-rs": Target("fgsm-rs", radii=2),  # overfits catastrophically
    "pgd-at": Target("pgd-at"),
    "masked standard": Target("standard", masked=True),
    "masked pgd-at": Target("pgd-at", masked=True),
    "pgd-at in full": Target("pgd-at", whole=True),
}
QUICK = [name for name, target in TARGETS.items() if not target.whole]


def threat_on(data: str, norm: NormName) -> Threat:
    """Return what the adversary may do on this data set."""
    size = SIZES[data]
    return Threat(norm, Ratio({"Linf": size.linf, "L2": size.l2, "L1": size.l1}[norm]))


def tested(experiment: sparring.Experiment, count: int) -> sparring.data.Images:
    """Return the first test images, at most so many."""
    images = sparring.data.load(experiment.data).test
    return images.subset(torch.arange(min(count, len(images))))
