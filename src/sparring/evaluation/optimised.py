"""A faster form of the network for searches, which is given up wherever it does not answer as the network itself does.

Three forms are tried, the fastest first: a copy with BatchNorm folded into convolutions and images as NHWC in memory, one
with NCHW, and the network itself. Logits and input gradients are compared on the very images, and the logits again on what
each search ends with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparring.attacks.agreement import SEED, answer, same_gradients, same_logits
from sparring.models import copied, fold, foldable, may_be_channels_last
from sparring.randomness import repeatable
from sparring.threat import Threat

ITSELF = "the network itself"


@dataclass(frozen=True)
class Form:
    """A way to compute what the network says: `network` on images in the memory format `layout`, None as they come."""

    name: str
    network: nn.Module
    layout: torch.memory_format | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W)."""
        logits: Tensor = self.network(x if self.layout is None else x.contiguous(memory_format=self.layout))
        return logits


def forms(model: nn.Module, sample: Tensor) -> Iterator[Form]:
    """Yield the forms of a frozen network in evaluation mode, the fastest first and the network itself last.

    `sample` are some of its images (B, C, H, W).
    """
    folds = foldable(model, sample.shape[1:])
    with suppress(RuntimeError, TypeError):
        if may_be_channels_last(model, sample.device):
            nhwc = copied(model).to(memory_format=torch.channels_last)
            fold(nhwc, folds)
            yield Form("BatchNorm folded, NHWC" if folds else "a copy, NHWC", nhwc, torch.channels_last)
        if folds:
            nchw = copied(model)
            fold(nchw, folds)
            yield Form("BatchNorm folded, NCHW", nchw)
    yield Form(ITSELF, model)


def logits_agree(form: Form, model: nn.Module, x: Tensor) -> bool:
    """Return whether a form's logits of images x (B, C, H, W) are the model's."""
    answers = []
    for network in (form, model):
        with torch.no_grad(), repeatable(SEED, x.device):
            answers.append(network(x))
    return same_logits(*answers)


def agrees(form: Form, model: nn.Module, x: Tensor, threat: Threat) -> bool:
    """Return whether a form answers as the model does: logits and input gradients of images x (B, C, H, W).

    Asked are the images themselves and points of the threat's surface, one by one, in pairs and together, as networks may
    depend on the batch's size; a size that the model itself refuses is left out. Any error of the form's is a no.
    """
    for size in sorted({1, min(2, len(x)), len(x)}):
        point = x[:size]
        for _ in range(2):
            try:
                gradient, logits = answer(model, point)
            except Exception:  # whatever anybody's network does with batches of this size
                break
            try:
                found_gradient, found_logits = answer(form, point)
            except Exception:  # such as a view of what NHWC does not allow
                return False
            if not (same_logits(found_logits, logits) and same_gradients(found_gradient, gradient)):
                return False
            point = threat.image(point, threat.eps * threat.steepest(gradient))
    return True
