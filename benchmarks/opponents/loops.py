"""Other libraries' training loops, and the method of ours that each is compared with, in `frameworks.py`.

ART runs through its public trainers (`art_trainers.py`), MAIR's step is written after its trainers (`mair.py`): what each
does stands there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from typing_extensions import override

from benchmarks.harness.methods import METHODS, PGD_10_EVAL
from benchmarks.harness.ours import Ours
from benchmarks.harness.scene import THREAT, Scene
from benchmarks.harness.timing import Work
from benchmarks.opponents import art_trainers
from benchmarks.opponents.art_trainers import Gym
from benchmarks.opponents.mair import MairAT, MairAWP, MairMART, MairStep, MairTRADES
from benchmarks.opponents.match import Pair, Rival, difference
from benchmarks.opponents.research.habits import Draws
from sparring.methods import AWP, MART, AdversarialTraining, Method

STEPS = 10


@dataclass(frozen=True)
class Opponent(ABC):
    """Another library's loop for a method of ours."""

    loop: str
    method: str
    ours: Callable[[], Method]
    unlike: str = field(default="", kw_only=True)  # how its mathematics differs from ours

    @abstractmethod
    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        """Return what prepares a round, which is not timed, and gives its work: as many batches."""

    @abstractmethod
    def difference(self, scene: Scene) -> float | None:
        """Return how far apart some steps of both end, where the mathematics is the same and this can be measured here."""


@dataclass(frozen=True)
class ByArt(Opponent):
    """A trainer of ART."""

    trainer: Callable[[Gym], Work]

    @override
    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        work = self.trainer(Gym(scene, ours.device, batches))
        return lambda: work

    def difference(self, scene: Scene) -> None:
        """Do nothing: it draws in NumPy, and computes in single precision; the tests compare it without draws."""


@dataclass(frozen=True)
class ByMair(Opponent):
    """A step of MAIR."""

    script: type[MairStep]

    @override
    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        rival = Rival(self.pair, scene, ours, Draws())

        def ready() -> Work:
            return partial(each, [rival.ready() for _ in range(batches)])

        return ready

    @override
    def difference(self, scene: Scene) -> float | None:
        return None if self.unlike else difference(self.pair, scene)

    @property
    def pair(self) -> Pair:
        """The two steps."""
        return Pair(lambda _: self.ours(), lambda it: it.script(self.script, float(THREAT.eps) / 4, STEPS))


def each(steps: Sequence[Work]) -> None:
    """Take them one after the other."""
    for step in steps:
        step()


# Both libraries attack in evaluation mode.
def _pgd() -> Method:
    return AdversarialTraining(PGD_10_EVAL)


def _awp() -> Method:
    return AWP(_pgd())


def _mart() -> Method:
    return MART(PGD_10_EVAL, padding=True)


OPPONENTS: dict[str, Opponent] = {
    "art-fgsm-rs": ByArt(
        "ART FBF",
        "fgsm-rs",
        METHODS["fgsm-rs"].make,
        art_trainers.fbf,
        unlike="BatchNorm in evaluation mode throughout, gradients clipped, a rate of its own",
    ),
    "art-pgd-10": ByArt("ART MadryPGD", "pgd-10", _pgd, art_trainers.madry),
    "art-trades-10": ByArt(
        "ART TRADES",
        "trades-10",
        METHODS["trades-10"].make,
        art_trainers.trades,
        unlike="its attack climbs the cross-entropy",
    ),
    "art-awp-10": ByArt(
        "ART AWP",
        "awp(pgd-10)",
        _awp,
        art_trainers.awp,
        unlike="weight decay at the perturbed weights",
    ),
    "mair-pgd-10": ByMair("MAIR-like AT", "pgd-10", _pgd, MairAT),
    "mair-trades-10": ByMair(
        "MAIR-like TRADES",
        "trades-10",
        METHODS["trades-10"].make,
        MairTRADES,
        unlike="its attack sees BatchNorm's statistics after the clean forward, and starts in the box",
    ),
    "mair-mart-10": ByMair("MAIR-like MART", "mart-10", _mart, MairMART),
    "mair-awp-10": ByMair(
        "MAIR-like AWP",
        "awp(pgd-10)",
        _awp,
        MairAWP,
        unlike="attacks twice, one length for all weights, biases and norms perturbed too",
    ),
}
