"""Short attacks whose results are known beforehand wherever gradients can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparring.attacks import CW, FGSM, PGD, Attack, Square, draw_start
from sparring.data import Labelled
from sparring.evaluation.doctor.case import Case, examined
from sparring.evaluation.doctor.finding import Finding, worst_first
from sparring.evaluation.doctor.gradients import NoGradient, gradients, no_gradient, zero_gradients
from sparring.evaluation.doctor.significance import outnumber
from sparring.evaluation.masking.figures import REMEDY
from sparring.losses import margin
from sparring.randomness import SampleStreams
from sparring.threat import Ratio, Threat

_STEPS = 20
_QUERIES = 200
_FACTORS = (2, 4)  # of the radius, on the way to one that no network withstands
_PART = 0.25  # of the radius, PGD's step
_LED = 0.8  # share of the images that a step along the gradient leads upwards: 1 in healthy networks, 0.6 by chance
_AT_ONCE = 64  # images
_SOME = 0.05  # share of the images: fewer may be chance, or an attack that is short
_MANY = 0.1  # C&W is often a few points stronger than PGD
_FEW, _RARE = 2, 0.02  # images, and share of them, that a random search may find alone
_DEVIATIONS = 3.0


@torch.inference_mode(False)  # which lets autograd record under no_grad, too
def probe_masking(
    model: nn.Module,
    images: Labelled,
    threat: Threat,
    device: torch.device | str = "cpu",
    seed: int = 0,
    count: int = 128,
) -> list[Finding]:
    """Return signs of gradient masking in experiments on at most `count` images, drawn at random; worst first.

    Carlini et al. (2019, "On evaluating adversarial robustness", section 3) and Athalye et al. (ICML 2018, section 3.1)
    name the experiments. In L1, where PGD is weak, only those about the gradients themselves are made. Only images that
    are classified correctly are used; without one, nothing is found. The model, which is on `device`, is left as it was;
    it should be one that the doctor finds no errors in. Raises BadInput for no images, images of a single class, a count
    below 2, and NaN logits under attack.
    """
    with examined(model, images, threat, None, device, seed, count) as case:
        right = (case.logits(case.x).argmax(1) == case.y).nonzero()[:, 0]
        if len(right) == 0:
            return []
        return worst_first(_signs(_Trial(replace(case, x=case.x[right], y=case.y[right]), seed)))


@dataclass(frozen=True, eq=False)
class _Trial:
    """Images that the network classifies correctly, and what attacks do to them."""

    case: Case
    seed: int

    def fooled(self, attack: Attack, threat: Threat | None = None, but: Tensor | None = None) -> Tensor:
        """Return which images the attack fools: (N,) bool, on the CPU. Those of `but` (N,) are spared."""
        case, everyone = self.case, torch.arange(len(self.case.x))
        streams, turned = SampleStreams(self.seed, everyone), torch.zeros(len(everyone), dtype=torch.bool)
        targets = everyone if but is None else everyone[~but]
        for start in range(0, len(targets), _AT_ONCE):
            rows = targets[start : start + _AT_ONCE]
            x, y = case.x[rows.to(case.x.device)], case.y[rows.to(case.y.device)]
            adversarial = attack(case.model, x, y, threat or case.threat, generator=streams.of(rows))
            turned[rows] = (case.logits(adversarial).argmax(1) != y).cpu()
        return turned

    def fooled_by_either(self, threat: Threat) -> Tensor:
        """Return which images PGD or C&W fools: (N,) bool, on the CPU."""
        first = self.fooled(PGD(steps=_STEPS), threat)
        return first | self.fooled(CW(steps=_STEPS), threat, but=first)

    def gradients(self, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the gradients (N, C, H, W) of a loss of logits and labels near the originals; raise NoGradient."""
        parts = []
        for x, y in zip(torch.split(images, _AT_ONCE), torch.split(self.case.y, _AT_ONCE), strict=True):
            parts.append(gradients(self.case.model, x, lambda logits, y=y: loss(logits, y)))  # type: ignore[misc]
        return torch.cat(parts)


def _signs(trial: _Trial) -> Iterator[Finding]:
    try:
        gradient = trial.gradients(margin, trial.case.x)
    except NoGradient as failure:
        yield no_gradient(failure)
        return
    if (dead := zero_gradients(gradient, "margin between label and strongest rival")) is not None:
        yield dead
    yield from _first_step(trial)
    if trial.case.threat.norm == "L1":  # what follows counts on PGD, which finds little there in any network
        return
    pgd, cw = trial.fooled(PGD(steps=_STEPS)), trial.fooled(CW(steps=_STEPS))
    yield from _fewer_steps(trial.fooled(FGSM()), pgd)
    white = pgd | cw
    yield from _without_gradients(trial.fooled(Square(queries=_QUERIES), but=white), white)
    yield from _difference_of_logits(cw, pgd)
    yield from _growing_radii(trial, white)


def _first_step(trial: _Trial) -> Iterator[Finding]:
    """Yield what the margin becomes where PGD's first step leads, from a random point within the radius."""
    case = trial.case
    everyone = SampleStreams(trial.seed, torch.arange(len(case.x)))
    start = case.x + draw_start("uniform", case.x, case.threat, case.threat.eps, everyone)
    gradient = trial.gradients(margin, start)
    step = _PART * case.threat.eps * case.threat.steepest(gradient)
    before, after = (margin(case.logits(x), case.y) for x in (start, (start + step).clamp(0, 1)))
    moved = (gradient != 0).flatten(1).any(1)
    led, count = int((moved & (after > before)).sum()), int(moved.sum())
    if led < _LED * count:
        yield Finding(
            "misleading-gradient",
            "error",
            f"A step of a quarter of the radius along the gradient raises the margin that it is the gradient of in {led} "
            f"of {count} images.",
            "It does in nearly all images where gradients are the network's own; these are shattered, random, or those of "
            "a substitute.",
            REMEDY,
        )


def _fewer_steps(fgsm: Tensor, pgd: Tensor) -> Iterator[Finding]:
    if outnumber(fgsm, pgd, _SOME):
        yield Finding(
            "one-step-beats-many",
            "warning",
            f"One step of the whole radius fools {_share(fgsm)} of {len(fgsm)} images, {_STEPS} steps of a quarter of "
            f"it fool {_share(pgd)}.",
            "Many steps can do what one does; that they find less shows that gradients away from the images mislead.",
            REMEDY,
        )


def _without_gradients(alone: Tensor, white: Tensor) -> Iterator[Finding]:
    """Yield what Square fooled of the images that the others, `white`, had left."""
    if int(alone.sum()) > max(_FEW, _RARE * len(white)):
        yield Finding(
            "black-box-beats-white-box",
            "error",
            f"{_STEPS} steps of PGD and of C&W leave {int((~white).sum())} of {len(white)} images correct, of which a "
            f"random search with {_QUERIES} queries fools {int(alone.sum())}.",
            "It sees the logits and no gradients: that it finds what they do not shows that they are of little use.",
            REMEDY,
        )


def _difference_of_logits(cw: Tensor, pgd: Tensor) -> Iterator[Finding]:
    if outnumber(cw, pgd, _MANY):
        yield Finding(
            "margin-beats-cross-entropy",
            "warning",
            f"{_STEPS} steps on the margin fool {_share(cw)} of {len(cw)} images, as many on cross-entropy {_share(pgd)}.",
            "Cross-entropy is masked, as that of networks whose training weighted samples or scaled logits.",
            "Never report PGD on cross-entropy alone for this network; add C&W or AutoAttack.",
        )


def _growing_radii(trial: _Trial, fooled: Tensor) -> Iterator[Finding]:
    """Check that larger balls hold smaller ones, and the largest holds plain grey, whatever the image."""
    threat, numbers = trial.case.threat, math.prod(trial.case.x.shape[1:])
    grey = max(Ratio(threat.geometry.to_grey(numbers)), threat.eps)
    radii = [Ratio(str(factor * threat.eps.exact)) for factor in _FACTORS]
    threats = [threat, *(Threat(threat.norm, eps) for eps in [*(eps for eps in radii if eps < grey), grey])]
    curve = [fooled, *(trial.fooled_by_either(wider) for wider in threats[1:])]
    said = ", ".join(f"{_share(~part)} at {wide.eps:.3g}" for wide, part in zip(threats, curve, strict=True))
    seen = f"Under {_STEPS} steps of PGD and C&W these shares of {len(fooled)} images stay correct: {said} ({threat.norm})."
    if any(outnumber(narrow, wide, _SOME) for narrow, wide in pairwise(curve)):
        why = "Whatever fools the network within a radius is within every larger one, so the attacks fail to find it."
        yield Finding("grows-with-radius", "warning", seen, why, REMEDY)
    survivors, chance = int((~curve[-1]).sum()), _SOME * len(fooled)
    if survivors > chance + _DEVIATIONS * math.sqrt(chance):
        why = "The last radius turns every image into plain grey: where an image survives it, gradients were of no use."
        yield Finding("withstands-everything", "error", seen, why, REMEDY)


def _share(flags: Tensor) -> str:
    return f"{100 * int(flags.sum()) / len(flags):.1f}%"
