"""How three methods attack a point of two numbers: PGD-AT, FGSM-RS and FGSM-SDI in one landscape (FGSM-SDI, Fig. 1).

The "images" have two channels and one pixel, and everything else is the library's own: the generator and the classifier are
trained together by FGSM-SDI, and the other methods attack the same classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Augment, Batch, Images, Resident
from sparring.methods import SDI, AdversarialTraining, Method
from sparring.optimisation import Optimisation
from sparring.threat import Ratio, Threat
from sparring.training import Runtime, Session

_THREAT = Threat("Linf", Ratio("1/10"))
_POINTS, _EPOCHS, _STEPS = 512, 40, 10
_GRID = 101


class _Classifier(nn.Module):
    """Two hidden layers; a point (B, 2, 1, 1) -> logits (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(10 * (x - 0.5))
        return logits


@dataclass(frozen=True)
class Toy:
    """A classifier, a point (2,) of a class, and by method the points (S, 2) of its attack: the start, then every step."""

    classifier: nn.Module
    point: Tensor
    label: int
    paths: dict[str, Tensor]


def toy(seed: int = 0) -> Toy:
    """Train and attack; a few seconds, and the same every time."""
    points = _crescents(seed)
    torch.manual_seed(seed)
    network = _Classifier()
    session = _session(SDI(interval=1), network, points, seed)
    for epoch in range(_EPOCHS):
        session.begin_epoch()
        for draw in session.data.draws(epoch):
            session.step(draw)
        session.end_epoch()
    batch = _nearest(network, session.data.show(next(session.data.draws(0))))
    paths = {
        "PGD-AT": _path(
            [AdversarialTraining(PGD(steps=steps)) for steps in range(1, _STEPS + 1)], network, points, batch, seed
        ),
        "FGSM-RS": _path([AdversarialTraining(PGD(steps=1, alpha=Ratio("1/8")))], network, points, batch, seed),
    }
    learned = session.method.perturb(session.learner.attack_model, batch, False)
    assert learned.start is not None
    paths["FGSM-SDI"] = _flat(torch.cat([batch.x + learned.start, batch.x + learned.delta]))
    return Toy(network, _flat(batch.x)[0], int(batch.y), paths)


def _crescents(seed: int) -> Images:
    """Return two crescents, one in the other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(_POINTS) % 2
    angle = math.pi * torch.rand(_POINTS, generator=generator) + math.pi * labels
    x = torch.stack([angle.cos() + labels - 0.5, angle.sin() + 0.5 * labels - 0.25], 1)
    x = 0.5 + 0.22 * (x + 0.1 * torch.randn(x.shape, generator=generator))
    return Images((255 * x.clamp(0, 1)).round().byte()[:, :, None, None], labels)


def _session(method: Method, network: nn.Module, points: Images, seed: int) -> Session:
    data = Resident(points, Augment(0, flip=False), 64, seed, "cpu")
    optimisation = Optimisation(epochs=_EPOCHS, lr=0.05)
    return Session(method, network, data, _THREAT, optimisation, Runtime("cpu", channels_last=False), seed=seed)


def _nearest(network: nn.Module, batch: Batch) -> Batch:
    """Return the point of a batch that is classified rightly by the smallest margin."""
    with torch.no_grad():
        logits = network(batch.x)
    right = logits.gather(1, batch.y[:, None])[:, 0] - logits.gather(1, 1 - batch.y[:, None])[:, 0]
    row = int(torch.where(right > 0, right, math.inf).argmin())
    x, y, index = (tensor[row : row + 1] for tensor in (batch.x, batch.y, batch.index))
    return Batch(x, y, index, batch.view)


def _path(methods: list[AdversarialTraining], network: nn.Module, points: Images, batch: Batch, seed: int) -> Tensor:
    """Return the start of methods that differ in their number of steps, and where each of them ends."""
    found = []
    for method in methods:
        session = _session(method, network, points, seed)
        torch.manual_seed(seed)  # the same start
        found.append(session.method.perturb(session.learner.attack_model, batch))
    start = found[0].start
    assert start is not None
    return _flat(torch.cat([batch.x + start, *(batch.x + one.delta for one in found)]))


def _flat(points: Tensor) -> Tensor:
    return points.detach().flatten(1)


def drawn(found: Toy) -> Figure:
    """Return a panel a method: the loss around the point, the ball, and the way from the start to the last step."""
    eps = float(_THREAT.eps)
    sides = [torch.linspace(float(middle) - 1.4 * eps, float(middle) + 1.4 * eps, _GRID) for middle in found.point]
    across, along = torch.meshgrid(*sides, indexing="xy")
    with torch.no_grad():
        logits = found.classifier(torch.stack([across, along], -1).view(-1, 2, 1, 1))
        labels = torch.full((len(logits),), found.label)
        losses = nn.functional.cross_entropy(logits, labels, reduction="none").view(_GRID, _GRID)
    figure = Figure(figsize=(3.0 * len(found.paths), 3.2), layout="constrained")
    panels = figure.subplots(1, len(found.paths), squeeze=False)[0]
    for axes, (name, path) in zip(panels, found.paths.items(), strict=True):
        filled = axes.contourf(across, along, losses, levels=14, cmap=colormaps["cividis"])
        axes.contour(across, along, losses, levels=[math.log(2)], colors="white", linestyles="--")
        corner = (float(found.point[0]) - eps, float(found.point[1]) - eps)
        axes.add_patch(Rectangle(corner, 2 * eps, 2 * eps, fill=False, edgecolor="white"))
        axes.plot(
            *found.point.tolist(), marker="*", markersize=11, color="white", markeredgecolor="black", linestyle=""
        )
        axes.plot(*path.T.tolist(), color="#D55E00", marker=".", linewidth=1.5)
        axes.plot(*path[0].tolist(), marker="o", color="#D55E00", markeredgecolor="black", linestyle="")
        axes.set(title=f"{name}: {_steps(len(path) - 1)}", xlabel="first number", aspect="equal")
    panels[0].set_ylabel("second number")
    figure.colorbar(filled, ax=list(panels), label="cross-entropy")
    return figure


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
