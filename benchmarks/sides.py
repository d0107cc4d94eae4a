"""The two sides of the comparison in `speed.py`: our step and the usual research step, on the same batches.

Images are synthetic: noise in 8 bits with random labels, which costs what photographs cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from research import ResearchMEP, ResearchPGD
from sparring.attacks import draw_start
from sparring.data import Augment, Batch, Images, Resident
from sparring.learner import Learner, Optimisation
from sparring.methods import MEP, AdversarialTraining, Method, Task
from sparring.models import create
from sparring.threat import Ratio, Threat
from sparring.training import Runtime, train_step
from sparring.training.tally import Tally

CLASSES = 10
PAD = 4
SEED = 0
THREAT = Threat(eps=Ratio("8/255"))
OPTIMISATION = Optimisation()  # SGD, learning rate 0.1, momentum 0.9, weight decay 5e-4: what the scripts use
ENDLESS = 1_000_000_000  # optimizer steps of the run that we pretend to be in, so that its schedule stands still

Precision: TypeAlias = Literal[32, "bf16-mixed"]


@dataclass(frozen=True)
class Scene:
    """What all measurements of a run share: network, batch, device."""

    model: str = "resnet18"
    width: int | None = None
    batch: int = 128
    size: int = 32
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    def network(self) -> nn.Module:
        """The same weights every time."""
        torch.manual_seed(SEED)
        return create(self.model, CLASSES, size=self.size, width=self.width)

    def images(self) -> Images:
        """Four batches of noise in 8 bits, labelled at random."""
        generator = torch.Generator().manual_seed(SEED)
        samples = 4 * self.batch
        pixels = torch.randint(0, 256, (samples, 3, self.size, self.size), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CLASSES, (samples,), generator=generator)
        return Images(pixels, labels, torch.arange(samples))

    def task(self, device: torch.device) -> Task:
        """What a method is told of the run."""
        side = self.size + 2 * PAD
        return Task(
            threat=THREAT,
            samples=4 * self.batch,
            shape=(3, self.size, self.size),
            canvas=(3, side, side),
            classes=CLASSES,
            batch_size=self.batch,
            epochs=OPTIMISATION.epochs,
            device=device,
            seed=SEED,
        )


class Ours:
    """Our side: a method in training, fed from a set on the device, as in a run."""

    def __init__(self, scene: Scene, method: Method, precision: Precision = 32, channels_last: bool = False) -> None:
        runtime = Runtime(scene.accelerator, precision, channels_last=channels_last)
        fabric = runtime.fabric()
        self.device, self.method = fabric.device, method
        self.learner = Learner(runtime.arrange(scene.network()), OPTIMISATION, fabric, ENDLESS)
        self.learner.network.train()
        method.setup(scene.task(self.device))
        method.begin_epoch(0)
        self.batches = _endless(scene, self.device)
        self._tally = Tally(self.device)

    def step(self) -> None:
        """Gather and augment the next batch, train on it, count loss and accuracy."""
        batch = next(self.batches)
        self._tally.add(train_step(self.method, self.learner, batch).loss, batch.y)


class Rival:
    """The research step's side, on the same batches, from the same weights and memories."""

    def __init__(self, scene: Scene, ours: Ours) -> None:
        network = scene.network().to(ours.device).train()
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=OPTIMISATION.lr,
            momentum=OPTIMISATION.momentum,
            weight_decay=OPTIMISATION.weight_decay,
        )
        self._batches = _endless(scene, ours.device)
        self.network = network
        self._side: ResearchPGD | ResearchMEP
        if isinstance(ours.method, MEP):
            self._side = _research_mep(scene, network, optimizer, ours.method)
        else:
            assert isinstance(ours.method, AdversarialTraining)
            attack = ours.method.attack
            assert attack.alpha is not None
            self._side = ResearchPGD(network, optimizer, THREAT.eps, attack.alpha, attack.steps)

    def ready(self, seed: int | None = None) -> Callable[[], None]:
        """The next step, its batch at hand; a seed makes its random start the one that ours draws under it."""
        side, batch = self._side, next(self._batches)
        if isinstance(side, ResearchMEP):
            view = batch.view
            crops = list(zip(view.top.tolist(), view.left.tolist(), view.flip.tolist(), strict=True))
            return lambda: side.step(batch.index, crops)
        if seed is None:
            return lambda: side.step(batch.x, batch.y)
        torch.manual_seed(seed)
        start = draw_start("uniform", batch.x, THREAT, THREAT.eps)
        return lambda: side.step(batch.x, batch.y, start)


def _research_mep(scene: Scene, network: nn.Module, optimizer: torch.optim.Optimizer, method: MEP) -> ResearchMEP:
    """The released MEP, with our memory's initial perturbations."""
    rows, images = method.perturbations.rows, scene.images()
    pixels, labels = (images.pixels / 255).to(rows.device), images.labels.to(rows.device)
    side = ResearchMEP(network, optimizer, pixels, labels, PAD, THREAT.eps, CLASSES)
    side.all_delta.copy_(rows)
    return side


def _endless(scene: Scene, device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order for everybody, for ever."""
    data = Resident(scene.images(), Augment(PAD, flip=True), scene.batch, SEED, device)
    return (batch for epoch in count() for batch in data.epoch(epoch))


def difference(ours: Ours, rival: Rival) -> float:
    """|ours - theirs| / |theirs| of the networks, weights and BatchNorm's statistics together, after a step of each.

    Both draw the same random start. On a GPU, TF32 is off meanwhile.
    """
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        theirs_step = rival.ready(SEED)
        torch.manual_seed(SEED)
        ours.step()
        theirs_step()
    theirs = _flat(rival.network)
    return float((_flat(ours.learner.network) - theirs).norm() / theirs.norm())


def _flat(network: nn.Module) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in network.state_dict().values()])
