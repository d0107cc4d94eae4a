"""The loss around images, over the plane of an adversarial and a random direction (FGSM-SDI, Fig. 10)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn

from sparring.attacks import attackable, input_gradient
from sparring.losses import cross_entropy
from sparring.threat import Threat

POINTS = 21  # along each direction
_TICKS = (-1, 0, 1)


def landscape(
    network: nn.Module, x: Tensor, y: Tensor, threat: Threat, points: int = POINTS, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the coordinates (P,) in [-1, 1] and the mean cross-entropy (P, P) at x + a r1 + b r2, a by row and b by column.

    r1 is the threat's steepest direction at the clean images, at its radius (eps times the gradient's signs in Linf); r2 has
    the components eps or -eps by chance in Linf, and the same length as r1 in L2 and L1. Images may leave [0, 1], as the
    published ones do: clamping would bend the plane.

    Args:
        network: returns logits (B, K) of images; it is on the device of `x`.
        x: images (B, C, H, W) in [0, 1].
        y: their labels (B,).
        threat: gives the radius.
        points: along each direction, at least 2.
        seed: of the random direction.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x.device, x.dtype) * 2 - 1
    with attackable(network, "eval"):
        gradient, _ = input_gradient(network, x, lambda logits: cross_entropy(logits, y))
        adversarial = float(threat.eps) * threat.steepest(gradient)
        lengths = adversarial.flatten(1).norm(dim=1) / signs.flatten(1).norm(dim=1)
        chance = signs * (float(threat.eps) if threat.norm == "Linf" else lengths[:, None, None, None])
        axis = torch.linspace(-1, 1, points, dtype=x.dtype, device=x.device)
        with torch.no_grad():
            rows = [
                torch.stack([cross_entropy(network(x + a * adversarial + b * chance), y).mean() for b in axis])
                for a in axis
            ]
    return axis.cpu(), torch.stack(rows).float().cpu()


def surfaces(found: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Return a surface for each network, all on one scale."""
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 3.2 * rows), layout="constrained")
    highest = max(float(losses.max()) for _, losses in found.values())
    lowest = min(float(losses.min()) for _, losses in found.values())
    for number, (name, (axis, losses)) in enumerate(found.items(), 1):
        axes = figure.add_subplot(rows, columns, number, projection="3d")
        across, along = torch.meshgrid(axis, axis, indexing="ij")
        surface = axes.plot_surface(
            across.numpy(), along.numpy(), losses.numpy(), cmap=colormaps["cividis"], vmin=lowest, vmax=highest
        )
        axes.set(
            xlabel="adversarial", ylabel="random", xticks=_TICKS, yticks=_TICKS, zlim=(lowest, highest), title=name
        )
        axes.tick_params(labelsize=7)
        axes.set_box_aspect(None, zoom=0.82)  # else the labels lie outside
    figure.colorbar(surface, ax=figure.axes, shrink=0.6, label="cross-entropy")
    return figure
