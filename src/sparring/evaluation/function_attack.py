"""Somebody's attack as a plain function: what it returns is believed only where the network itself confirms it."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sparring.attacks import CountedModel
from sparring.errors import BadInput
from sparring.threat import Threat, per_sample

# model, x (B, C, H, W) in [0, 1], y (B,), threat -> adversarial images (B, C, H, W)
Function: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]
_BOX = 1e-6  # how far rounding may carry a pixel beyond [0, 1]


@dataclass(frozen=True)
class Attempt:
    """What a function returned for some images, verified."""

    images: Tensor  # (B, C, H, W) in [0, 1], the originals in place of what lay outside the threat
    outside: Tensor  # (B,) bool, on the CPU: what was returned lay outside the ball or the box, or was not a number
    fooled: Tensor  # (B,) bool, on the CPU: inside, and misclassified


@dataclass(frozen=True)
class FunctionAttack:
    """A function of (model, images, labels, threat) that returns adversarial images."""

    function: Function

    @property
    def definition(self) -> str:
        """Where the function is defined; of another callable, its repr."""
        if isinstance(self.function, FunctionType):
            return f"{self.function.__module__}.{self.function.__qualname__}"
        return repr(self.function)

    @property
    def code(self) -> str:
        """Digits that change with the function's own code, though not with what it calls."""
        function = self.function if isinstance(self.function, FunctionType) else type(self.function).__call__
        if not isinstance(function, FunctionType):
            return ""
        return hashlib.sha256(marshal.dumps(function.__code__)).hexdigest()[:12]

    def describe(self, outside: int, rounding: float) -> dict[str, str | int]:
        """Return what a record states, with the number of images returned that lay outside the threat, up to rounding."""
        counted = f"images within the threat, to {rounding:g}, that the network itself gets wrong in single precision"
        return {"function": self.definition, "counted": counted, "outside": outside}

    def attempt(self, model: nn.Module, verifier: CountedModel, x: Tensor, y: Tensor, threat: Threat) -> Attempt:
        """Call the function on images x (B, C, H, W) with labels y (B,) and verify what it returns.

        The model is in evaluation mode; it is put back into it. Raises BadInput for anything but images of the shape of x,
        and for NaN logits.
        """
        with torch.enable_grad():
            found = self.function(model, x.clone(), y.clone(), threat)
        model.eval()
        if not isinstance(found, Tensor) or found.shape != x.shape:
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BadInput(
                f"The attack {self.definition} returned {got} for images of shape {tuple(x.shape)}: return one image each."
            )
        found = found.detach().to(x)
        box = found.clamp(0, 1)
        allowed = threat.eps + threat.geometry.rounding(x.shape[1:].numel())
        inside = (threat.size(found - x) <= allowed) & ((found - box).abs().flatten(1).amax(1) <= _BOX)  # False for NaN
        images = torch.where(per_sample(inside, x), box, x)
        logits = verifier.logits(images)
        if bool(logits.isnan().any()):
            raise BadInput("The model returned NaN logits under attack: an accuracy would mean nothing.")
        return Attempt(images, ~inside.cpu(), (inside & (logits.argmax(1) != y)).cpu())
