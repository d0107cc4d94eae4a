"""Somebody's attack as a plain function: what it returns is believed only where the network itself confirms it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sparring.attacks import CountedModel
from sparring.errors import BadInput, NotANumber
from sparring.evaluation.identity import ADDRESS
from sparring.evaluation.network import untouched
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
        """Where the function is defined; of a partial call its function, of other callables their repr or their class."""
        function = self.function
        while isinstance(function, partial):
            function = function.func
        if isinstance(function, FunctionType | MethodType):
            return f"{function.__module__}.{function.__qualname__}"
        described, kind = repr(function), type(function)
        return f"{kind.__module__}.{kind.__qualname__}" if ADDRESS in described else described

    def describe(self, outside: int, rounding: float) -> dict[str, str | int]:
        """Return what a record states, with the number of images returned that lay outside the threat, up to rounding."""
        counted = f"images within the threat, to {rounding:g}, that the network itself gets wrong in single precision"
        return {"function": self.definition, "counted": counted, "outside": outside}

    def attempt(self, model: nn.Module, verifier: CountedModel, x: Tensor, y: Tensor, threat: Threat) -> Attempt:
        """Call the function on images x (B, C, H, W) with labels y (B,) and verify what it returns.

        The model is in evaluation mode; whatever the function does to it is undone before it is asked about the images.
        Raises BadInput for anything but images of the shape of x, and for NaN logits.
        """
        with untouched(model), torch.enable_grad():
            found = self.function(model, x.clone(), y.clone(), threat)
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
            raise NotANumber("The model returned NaN logits under attack: an accuracy would mean nothing.")
        return Attempt(images, ~inside.cpu(), (inside & (logits.argmax(1) != y)).cpu())
