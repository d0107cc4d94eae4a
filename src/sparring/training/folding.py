"""Compare the network with BatchNorm folded with the network itself, on images that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.attacks.agreement import answer, same_gradients, same_logits
from sparring.models import Fold, folded
from sparring.precision import full_precision


def folding_agrees(network: nn.Module, folds: Sequence[Fold], x: Tensor) -> bool:
    """Return whether the network in evaluation mode answers images x (B, C, H, W) alike with these folded and without.

    Logits and input gradients are compared, in full precision. What the network itself cannot answer, or answers with
    numbers that are not finite, says nothing about folding.
    """
    with full_precision(), attackable(network, "eval"):
        try:
            gradient, logits = answer(network, x)
        except Exception:  # whatever anybody's network does: the step says so
            return True
        if not bool(logits.isfinite().all() & gradient.isfinite().all()):
            return True
        try:
            with folded(network, folds):
                found_gradient, found_logits = answer(network, x)
        except Exception:
            return False
    return same_logits(found_logits, logits) and same_gradients(found_gradient, gradient)
