"""What the adversary may do: a ball of a norm around each image, in pixel units, and the budget spent inside it.

Knows nothing about networks. Radii are fractions of the pixel range [0, 1] and may be written as text such as 8/255.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sparring.deprecation import renamed_names
from sparring.errors import BadInput, shown
from sparring.norms import Norm, NormName, norm_named, per_sample
from sparring.randomness import Generator

__all__ = [
    "Budget",
    "ImageBatch",
    "PerSample",
    "Ratio",
    "Threat",
    "box",
    "check_step",
    "check_threat",
    "per_sample",
    "step_size",
]

ImageBatch = Float[Tensor, "B C H W"]
PerSample = Float[Tensor, " B"]


class Ratio(float):
    """A number that remembers how it was written: `Ratio("8/255")` computes as 0.0313... and prints as 8/255."""

    text: str
    exact: Fraction

    def __new__(cls, value: str | float) -> Ratio:
        """Raise BadInput if `value` is not a finite decimal number or a fraction of two."""
        text = value.text if isinstance(value, Ratio) else str(value)
        try:
            exact = Fraction(re.sub(r"\s*/\s*", "/", text))  # Fraction itself strips the ends
            ratio = super().__new__(cls, exact)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise BadInput(
                f"{text!r} is not a number: write a decimal such as 0.03 or a fraction such as 8/255."
            ) from None
        ratio.text, ratio.exact = text, exact
        return ratio

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def __reduce__(self) -> tuple[type[Ratio], tuple[str]]:
        return Ratio, (self.text,)


_MULTIPLE = re.compile(r"(?:(\d+) )?eps(?:/(\d+))?")


def multiple_of_radius(text: str, eps: Ratio) -> Ratio | None:
    """Return what `eps`, `eps/4` or `5 eps/4` is at a radius, exactly and in its notation; None for any other text.

    A quarter of 8/255 is 2/255, of 0.2 it is 0.05, and of 1/255 it is 1/1020.
    """
    if (found := _MULTIPLE.fullmatch(text)) is None or found[2] == "0":
        return None
    factor = Fraction(int(found[1] or 1), int(found[2] or 1))
    numerator, _, denominator = eps.text.partition("/")
    scaled = factor * Fraction(numerator)
    if denominator and scaled.denominator == 1:
        return Ratio(f"{scaled}/{denominator.strip()}")
    exact = factor * eps.exact
    decimal = repr(float(exact))
    return Ratio(decimal if Fraction(decimal) == exact else str(exact))


@dataclass(frozen=True)
class Threat:
    """All images within `eps` of the original in `norm`, and inside the pixel box [0, 1].

    Args:
        norm: Linf, L2 or L1.
        eps: the radius as a fraction of the pixel range, for example 8/255 for Linf, 0.5 for L2 or 12 for L1.

    Raises:
        BadInput: unknown norm; eps that is not positive; Linf eps of 1 or more.
    """

    norm: NormName = "Linf"
    eps: Ratio = field(default_factory=lambda: Ratio("8/255"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", Ratio(self.eps))
        norm_named(self.norm)
        if self.eps <= 0:
            raise BadInput(
                f"eps must be positive, not {self.eps}: for training without an attack choose the method Standard."
            )
        if self.eps >= self.geometry.limit:
            raise BadInput(f"eps {self.eps} is at least the whole pixel range [0, 1]: did you mean {self.eps}/255?")

    @property
    def geometry(self) -> Norm:
        """The norm itself."""
        return norm_named(self.norm)

    def size(self, delta: ImageBatch) -> PerSample:
        """Return the norm of each perturbation (B, C, H, W) -> (B,)."""
        return self.geometry.size(delta)

    def project(self, delta: ImageBatch, eps: float | Tensor | None = None) -> ImageBatch:
        """Return the nearest perturbations (B, C, H, W) within `eps`: a number, (B,) radii, or None for the threat's own."""
        return self.geometry.project(delta, self.eps if eps is None else eps)

    def image(self, x: ImageBatch, delta: ImageBatch, eps: float | Tensor | None = None) -> ImageBatch:
        """Return x + delta brought back within `eps` of x and into the box, (B, C, H, W); in L1 the nearest such images."""
        return self.geometry.image(x, delta, self.eps if eps is None else eps)

    def confine(self, x: ImageBatch, delta: ImageBatch, eps: float | Tensor | None = None) -> ImageBatch:
        """Return the perturbations of those images, (B, C, H, W)."""
        return self.image(x, delta, eps) - x

    def steepest(self, gradient: ImageBatch) -> ImageBatch:
        """Return the step of unit norm that an ascent along this gradient takes, (B, C, H, W).

        In Linf and L2 no other step raises a linear function with this gradient more: the gradient's sign, or the gradient
        over its norm. In L1 the hundredth of the numbers with the largest slopes (at least one number) move equally far,
        as SLIDE's do (Tramèr and Boneh, NeurIPS 2019): the steepest step would move a single number, which can change by
        no more than 1.
        """
        return self.geometry.steepest(gradient)

    def draw(self, like: ImageBatch, eps: float | Tensor | None = None, generator: Generator = None) -> ImageBatch:
        """Return perturbations drawn uniformly from the ball, (B, C, H, W); the pixel box is not applied."""
        return self.geometry.draw(like, self.eps if eps is None else eps, generator)


def check_threat(threat: object) -> None:
    """Raise BadInput for what is no `Threat`, such as the radius alone."""
    if not isinstance(threat, Threat):
        raise BadInput(f"The threat is {shown(threat)}: give the norm and the radius, such as Threat('Linf', '8/255').")


def box(x: ImageBatch, delta: ImageBatch) -> ImageBatch:
    """Return the part of `delta` that keeps x + delta in [0, 1], (B, C, H, W)."""
    return (x + delta).clamp(0, 1) - x


@dataclass(frozen=True)
class Budget:
    """How hard to attack: radius, step size and number of steps, each one number or one value per sample (B,).

    `rounds` is the number of turns of the attack's loop, a Python number: with per-sample `steps` it must be given,
    since finding the largest of them would make the host wait for the device. `start` is the radius that a random start
    is drawn from, None that of `eps`. `keep_going` is asked before every step which samples take it: it maps the attack's
    `Ascent` to (B,) bool, and the samples' start is then put inside the threat, as some may never move.

    `compact` lets samples leave the batch instead of being masked, once they have no steps left or the rule has said no:
    the same perturbations for less work, where samples do not influence each other (BatchNorm in evaluation mode). But
    the host reads the numbers of steps and the rule's answers. A sample that has left does not come back, whatever the
    rule says later of what it last showed: a rule that lets samples pause must not be compacted. One that only watches,
    true for all, sends nobody away.
    """

    eps: float | Tensor
    alpha: float | Tensor
    steps: int | Tensor
    rounds: int | None = None
    start: float | Tensor | None = None
    compact: bool = False
    keep_going: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.rounds is None:
            if isinstance(self.steps, Tensor):
                raise BadInput("A Budget with per-sample steps needs rounds, the largest number of steps.")
            object.__setattr__(self, "rounds", self.steps)


def step_size(alpha: Ratio | str | float | None) -> Ratio | None:
    """Return a step size that keeps how it was written; None, the usual one, stays. Raises BadInput unless positive."""
    if alpha is None:
        return None
    size = Ratio(alpha)
    if size <= 0:
        raise BadInput(f"The step size alpha must be positive, not {size}.")
    return size


def check_step(alpha: Ratio | None, threat: Threat) -> None:
    """Raise BadInput for steps that are longer than the ball is wide, which is what grey levels taken for fractions give."""
    if alpha is not None and alpha > 2 * threat.eps:
        raise BadInput(
            f"The step size alpha is {alpha}, more than twice the radius, {threat.eps}: no step inside the ball is so long. "
            f"Did you mean {alpha}/255?"
        )


_RENAMED = {"Images": "ImageBatch", "spread": "per_sample"}
_present = renamed_names(__name__, _RENAMED)


def __getattr__(name: str) -> Any:
    """Return what a name of version 0.1 stands for, with a warning."""
    return globals()[_present(name)]
