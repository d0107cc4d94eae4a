"""A few images under attack, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks import attackable, named
from sparring.data import Images, batches
from sparring.errors import BadInput
from sparring.randomness import repeatable
from sparring.threat import Threat

_SEARCHED = 256  # images, of which the first ones that are classified rightly are shown
_SEED = 0


@dataclass(frozen=True)
class Attacked:
    """Images (B, C, H, W) in [0, 1] with labels (B,), and a network's probabilities (B, K) before and after an attack."""

    x: Tensor
    y: Tensor
    adversarial: Tensor
    before: Tensor
    after: Tensor

    @property
    def shown(self) -> Tensor:
        """Return the perturbations as pictures, enlarged until the largest value of each is 0 or 1; 0.5 is none."""
        delta = self.adversarial - self.x
        largest = delta.abs().flatten(1).amax(1).clamp_min(torch.finfo(delta.dtype).tiny)[:, None, None, None]
        return (delta / largest / 2 + 0.5).clamp(0, 1)


def first_right(networks: Sequence[nn.Module], images: Images, count: int, device: str) -> tuple[Tensor, Tensor]:
    """Return the first `count` images that all networks, on `device`, classify rightly, and their labels; or fewer.

    Raises BadInput where none of the first 256 is.
    """
    (batch,) = batches(images.subset(torch.arange(min(_SEARCHED, len(images)))), _SEARCHED, torch.device(device))
    right = torch.ones_like(batch.y, dtype=torch.bool)
    for network in networks:
        right &= probabilities(network, batch.x).argmax(1) == batch.y
    if not right.any():
        raise BadInput(f"None of the first {len(right)} test images is classified rightly: there is nothing to show.")
    rows = right.nonzero().flatten()[:count]
    return batch.x[rows], batch.y[rows]


def probabilities(network: nn.Module, x: Tensor) -> Tensor:
    """Return the softmax (B, K) of the network's logits in evaluation mode."""
    with torch.no_grad(), attackable(network, "eval"):
        return network(x).float().softmax(1)


def attacked(network: nn.Module, x: Tensor, y: Tensor, threat: Threat, attack: str) -> Attacked:
    """Return images under an attack by name, with the same random numbers every time."""
    with repeatable(_SEED, x.device):
        adversarial = named(attack)(network, x, y, threat)
    return Attacked(x, y, adversarial, probabilities(network, x), probabilities(network, adversarial))
