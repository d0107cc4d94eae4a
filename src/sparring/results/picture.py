"""Adversarial examples as pictures, with what the network says before and after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from sparring.results.attacked import Attacked
from sparring.threat import Threat


def pictures(found: Attacked, classes: Sequence[str], threat: Threat, attack: str) -> Figure:
    """Return a row an image: clean, the perturbation enlarged, and adversarial, with the answers and their confidences."""
    figure = Figure(figsize=(5.0, 0.3 + 1.8 * len(found.y)), layout="constrained")
    grid = figure.subplots(len(found.y), 3, squeeze=False)
    for row, line in enumerate(grid):
        for cell, pixels in zip(line, (found.x[row], found.shown[row], found.adversarial[row]), strict=True):
            cell.imshow(picture(pixels), cmap="gray", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[])
        line[0].set_title(answer(found.before[row], classes), fontsize=9)
        line[1].set_title(f"{attack}, {threat.norm} {threat.eps}", fontsize=9)
        line[2].set_title(answer(found.after[row], classes), fontsize=9)
    return figure


def picture(pixels: Tensor) -> npt.NDArray[np.float32]:
    """Return an image (C, H, W) in [0, 1] as matplotlib takes it: (H, W, 3), or (H, W) of a gray one."""
    shown: npt.NDArray[np.float32] = pixels.permute(1, 2, 0).cpu().numpy()
    return shown if shown.shape[2] == 3 else shown[:, :, 0]


def answer(likely: Tensor, classes: Sequence[str]) -> str:
    """Return the class of the largest of the probabilities (K,), with its share."""
    return f"{classes[int(likely.argmax())]}, {100 * float(likely.max()):.1f}%"
