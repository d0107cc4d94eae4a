"""ART's adversarial trainers through their public interface, as a user would set them up for our methods.

Each trains on NumPy arrays of raw images, without crops and flips, by `fit` for one epoch of a few batches. What they do:

- AdversarialTrainerMadryPGD: PGD in evaluation mode in parts of 32 images, whose backward computes weight gradients; then
  two predictions of everything for a log's success rate; images go to the host and back. The mathematics is ours.
- AdversarialTrainerFBFPyTorch: FGSM-RS, but the network stays in evaluation mode, in the loss too; gradients are clipped to
  0.5, the rate follows a schedule of its own, and the random start may leave the box.
- AdversarialTrainerTRADESPyTorch: TRADES's loss, but on what the attack that the user chose finds, and there is none in ART
  that climbs the divergence: PGD on the cross-entropy.
- AdversarialTrainerAWPPyTorch in PGD mode: AT-AWP, but weight decay is taken at the perturbed weights.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import (
    AdversarialTrainerAWPPyTorch,
    AdversarialTrainerFBFPyTorch,
    AdversarialTrainerMadryPGD,
    AdversarialTrainerTRADESPyTorch,
)
from art.defences.trainer.trainer import Trainer
from art.estimators.classification import PyTorchClassifier
from torch import nn

from benchmarks.harness.scene import CLASSES, THREAT, Scene
from benchmarks.harness.timing import Work

EPS = float(THREAT.eps)
PGD = {"eps": EPS, "eps_step": EPS / 4, "max_iter": 10, "num_random_init": 1}
PROXY_RATE = 0.01  # cancels, but for a constant that keeps a norm from 0


@dataclass(frozen=True)
class Gym:
    """Where a trainer of ART works: the scene's network and images, in ART's terms."""

    scene: Scene
    device: torch.device
    batches: int  # of one call of `fit`

    def classifier(self, optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None) -> PyTorchClassifier:
        """Return the scene's network, always with the same weights; the optimizer is the scene's unless given."""
        network = self.scene.network().to(self.device)
        optimizer = optimizer or self.scene.optimizer
        return PyTorchClassifier(
            network,
            loss=nn.CrossEntropyLoss(),
            optimizer=optimizer(network),
            input_shape=(3, self.scene.size, self.scene.size),
            nb_classes=CLASSES,
            clip_values=(0, 1),
            device_type="gpu" if self.device.type == "cuda" else "cpu",
        )

    def proxy(self) -> PyTorchClassifier:
        """Return a second network for AWP."""
        return self.classifier(lambda network: torch.optim.SGD(network.parameters(), lr=PROXY_RATE))

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """Return some batches of the scene's images, (N, C, H, W) in [0, 1], and their labels, one hot."""
        images = self.scene.images()
        rows = torch.arange(self.batches * self.scene.batch) % len(images)
        return images.pixels[rows].numpy().astype(np.float32) / 255, np.eye(CLASSES, dtype=np.float32)[
            images.labels[rows]
        ]

    def session(self, trainer: Trainer) -> Work:
        """Call `fit` once; its progress bars are kept from the terminal."""
        x, y = self.images()

        def work() -> None:
            with contextlib.redirect_stderr(io.StringIO()):
                trainer.fit(x, y, batch_size=self.scene.batch, nb_epochs=1)

        return work

    def attack(self, classifier: PyTorchClassifier) -> ProjectedGradientDescent:
        """Return PGD-10 on the cross-entropy."""
        return ProjectedGradientDescent(classifier, **PGD, batch_size=self.scene.batch, verbose=False)


def madry(gym: Gym) -> Work:
    """Return the work of AdversarialTrainerMadryPGD."""
    return gym.session(AdversarialTrainerMadryPGD(gym.classifier(), **PGD))


def fbf(gym: Gym) -> Work:
    """Return the work of AdversarialTrainerFBFPyTorch."""
    return gym.session(AdversarialTrainerFBFPyTorch(gym.classifier(), eps=EPS))


def trades(gym: Gym) -> Work:
    """Return the work of AdversarialTrainerTRADESPyTorch."""
    classifier = gym.classifier()
    return gym.session(AdversarialTrainerTRADESPyTorch(classifier, gym.attack(classifier), beta=6.0))


def awp(gym: Gym) -> Work:
    """Return the work of AdversarialTrainerAWPPyTorch."""
    classifier = gym.classifier()
    trainer = AdversarialTrainerAWPPyTorch(
        classifier, gym.proxy(), gym.attack(classifier), mode="PGD", gamma=0.01, beta=6.0, warmup=0
    )
    return gym.session(trainer)
