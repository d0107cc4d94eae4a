"""The scene of a measurement: network, batch and device. Images are synthetic, which costs what photographs cost.

Noise in 8 bits with random labels; the same weights and the same batches in the same order for everybody.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring.data import Augment, Batch, Images, Resident
from sparring.models import create
from sparring.optimisation import Optimisation
from sparring.schedule import Constant
from sparring.threat import Ratio, Threat

CLASSES = 10
PAD = 4
SEED = 0
THREAT = Threat(eps=Ratio("8/255"))
# SGD with momentum 0.9 and weight decay 5e-4, as in the scripts; at a rate that never falls, however many steps are timed.
OPTIMISATION = Optimisation(lr=0.1, schedule=Constant())


@dataclass(frozen=True)
class Scene:
    """What all measurements of a run share: network, batch, device."""

    model: str = "resnet18"
    width: int | None = None
    batch: int = 128
    size: int = 32
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    optimisation: Optimisation = OPTIMISATION

    def network(self) -> nn.Module:
        """Return the same weights every time, in PyTorch's default precision."""
        torch.manual_seed(SEED)
        return create(self.model, CLASSES, size=self.size, width=self.width).to(torch.get_default_dtype())

    def images(self) -> Images:
        """Return four batches of noise in 8 bits, labelled at random."""
        generator = torch.Generator().manual_seed(SEED)
        samples = 4 * self.batch
        pixels = torch.randint(0, 256, (samples, 3, self.size, self.size), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, CLASSES, (samples,), generator=generator)
        return Images(pixels, labels, torch.arange(samples))

    def data(self, device: torch.device) -> Resident:
        """Return the same batches in the same order for everybody."""
        augment = Augment(PAD, flip=True)
        return _InDefaultPrecision(self.images(), augment, self.batch, SEED, device, classes=CLASSES)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield these batches, for ever."""
        data = self.data(device)
        return (batch for epoch in count() for batch in data.epoch(epoch))

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return PyTorch's plain SGD with our settings."""
        options = self.optimisation
        return torch.optim.SGD(
            network.parameters(), lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
        )


class _InDefaultPrecision(Resident):
    """Shows its images in PyTorch's default precision, as comparisons in float64 need them."""

    @override
    def show(self, draw: Tensor) -> Batch:
        batch = super().show(draw)
        return replace(batch, x=batch.x.to(torch.get_default_dtype()))


def add_scene(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe a scene."""
    add = parser.add_argument
    add("--model", default="resnet18", help="any name of sparring.models.create (default: %(default)s)")
    add("--width", type=int, help="channels of the first stage (default: the paper's, 64 for resnet18)")
    add("--size", type=int, default=32, help="side of an image in pixels (default: %(default)s)")
    add("--batch", type=int, default=128, help="images a step (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: %(default)s)")


def scene_of(arguments: argparse.Namespace) -> Scene:
    """Return the scene that the options describe."""
    return Scene(arguments.model, arguments.width, arguments.batch, arguments.size, arguments.device)
