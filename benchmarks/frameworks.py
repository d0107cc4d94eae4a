"""Our step against the training loops of other libraries for the same method, in turn. CPU or GPU.

    python benchmarks/frameworks.py --json results/frameworks.json
    python benchmarks/frameworks.py --opponents art-pgd-10 mair-pgd-10 --rounds 1 --width 16 --batch 32

ART runs through its public trainers (`art_trainers.py`), MAIR's step is written after its trainers (`mair.py`): what each
does stands there. Same network, attack settings and number of images, in batches of the same size. Where the mathematics
is another than ours the table says how; the ratio then compares what users get under one name, not two ways to compute it.
"""

from __future__ import annotations

import argparse
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from rich.console import Console
from rich.table import Table

import art_trainers
import timing
from art_trainers import Gym
from command import add_names, read, status
from mair import MairAT, MairAWP, MairMART, MairStep, MairTRADES
from race import TOLERANCE, Unequal
from research.habits import Draws
from scene import THREAT, Scene, add_scene, scene_of
from sides import VARIANTS, Ours, Pair, Rival, add_variants, difference, in_variants
from sparring.attacks import PGD
from sparring.environment import environment
from sparring.methods import AWP, MART, TRADES, AdversarialTraining, Method
from sparring.threat import Ratio
from sparring.training import Runtime
from timing import Work

STEPS = 10
PGD_10 = PGD(steps=STEPS, bn="eval")  # both libraries attack in evaluation mode


@dataclass(frozen=True)
class Opponent(ABC):
    """Another library's loop for a method of ours."""

    loop: str
    method: str
    ours: Callable[[], Method]
    unlike: str = field(default="", kw_only=True)  # how its mathematics differs from ours

    @abstractmethod
    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        """What prepares a round, which is not timed, and gives its work: as many batches."""

    @abstractmethod
    def difference(self, scene: Scene) -> float | None:
        """How far apart some steps of both end, where the mathematics is the same and this can be measured here."""


@dataclass(frozen=True)
class ByArt(Opponent):
    """A trainer of ART."""

    trainer: Callable[[Gym], Work]

    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        """See `Opponent`."""
        work = self.trainer(Gym(scene, ours.device, batches))
        return lambda: work

    def difference(self, scene: Scene) -> None:
        """None: it draws in NumPy, and computes in single precision; the tests compare it without draws."""


@dataclass(frozen=True)
class ByMair(Opponent):
    """A step of MAIR."""

    script: type[MairStep]

    def enter(self, scene: Scene, ours: Ours, batches: int) -> Callable[[], Work]:
        """See `Opponent`."""
        rival = Rival(self.pair, scene, ours, Draws())

        def ready() -> Work:
            return partial(_each, [rival.ready() for _ in range(batches)])

        return ready

    def difference(self, scene: Scene) -> float | None:
        """See `Opponent`."""
        return None if self.unlike else difference(self.pair, scene)

    @property
    def pair(self) -> Pair:
        """The two steps."""
        return Pair(lambda _: self.ours(), lambda it: it.script(self.script, float(THREAT.eps) / 4, STEPS))


def _each(steps: Sequence[Work]) -> None:
    for step in steps:
        step()


def _fgsm_rs() -> Method:
    return AdversarialTraining(PGD(steps=1, alpha=Ratio("10/255"), bn="train"))


def _pgd() -> Method:
    return AdversarialTraining(PGD_10)


def _awp() -> Method:
    return AWP(AdversarialTraining(PGD_10))


def _mart() -> Method:
    return MART(PGD_10, padding=True)


OPPONENTS: dict[str, Opponent] = {
    "art-fgsm-rs": ByArt(
        "ART FBF",
        "fgsm-rs",
        _fgsm_rs,
        art_trainers.fbf,
        unlike="BatchNorm in evaluation mode throughout, gradients clipped, a rate of its own",
    ),
    "art-pgd-10": ByArt("ART MadryPGD", "pgd-10", _pgd, art_trainers.madry),
    "art-trades-10": ByArt(
        "ART TRADES",
        "trades-10",
        TRADES,
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
        TRADES,
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


@dataclass(frozen=True)
class Bout:
    """Seconds a batch in every round, ours by variant."""

    loop: str
    method: str
    unlike: str
    difference: float | None  # relative, after some steps of each in double precision
    theirs: list[float]
    ours: dict[str, list[float]]


def bout(opponent: Opponent, scene: Scene, rounds: int, batches: int, variants: Sequence[str]) -> Bout:
    """Theirs, ours, theirs, ours, ...: each round some batches of everybody. The first round is thrown away.

    Raises Unequal where some steps of both leave them with different networks, although they should compute the same.
    """
    found = opponent.difference(scene)
    if found is not None and not found <= TOLERANCE:  # also refuses nan
        raise Unequal(f"{opponent.loop} differs by {found:.1e} after some steps, more than {TOLERANCE:.0e}.")
    ours = in_variants(scene, opponent.ours, variants)
    ready = opponent.enter(scene, ours["fp32"], batches)
    work = {variant: partial(_each, [side.step] * batches) for variant, side in ours.items()}
    theirs, mine = timing.in_turn(ready, work, ours["fp32"].device, rounds)
    times = {variant: [seconds / batches for seconds in rounds_] for variant, rounds_ in mine.items()}
    theirs = [seconds / batches for seconds in theirs]
    return Bout(opponent.loop, opponent.method, opponent.unlike, found, theirs, times)


def bout_table(bouts: Sequence[Bout]) -> Table:
    """A row a loop and variant of ours; a star marks what is not the same mathematics."""
    words, numbers = ("their loop", "ours in"), ("theirs ms", "ours ms", "faster", "least-most")
    table = timing.table("Our step against other libraries' loops, a batch", words, numbers)
    for result in bouts:
        theirs, _ = timing.milliseconds(result.theirs)
        loop = result.loop + "*" * bool(result.unlike)
        for variant, seconds in result.ours.items():
            mine, _ = timing.milliseconds(seconds)
            name = variant + VARIANTS[variant].mark
            table.add_row(loop, name, theirs, mine, *timing.faster(result.theirs, seconds))
    notes = [f"{result.loop}: {result.unlike}" for result in bouts if result.unlike]
    table.caption = "\n".join(["* not equal mathematics", *notes])
    return table


def arguments_from(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line; exits with status 2 where it makes no sense."""
    parser = argparse.ArgumentParser(
        description="How our training steps compare with other libraries' training loops. Images are synthetic noise. "
        "Close other programs first; read ratios, not absolute times.",
    )
    add_names(parser, "--opponents", OPPONENTS)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds of theirs and ours (default: %(default)s)")
    add("--batches", type=int, default=2, help="batches a round, one call of a trainer of ART (default: %(default)s)")
    add_scene(parser)
    add_variants(parser)
    return read(parser, words, "batch", "rounds", "batches")


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Measure what was asked for, record it, and print the table."""
    scene = scene_of(arguments)
    facts = environment()
    place = timing.hardware(facts, Runtime(scene.accelerator))
    console.print(f"{scene.model}, batch {scene.batch}, {place}", highlight=False)
    bouts: list[Bout] = []
    for name in arguments.opponents:
        timing.say(f"{name}: {arguments.rounds} rounds of {arguments.batches} batches and one to warm up")
        bouts.append(bout(OPPONENTS[name], scene, arguments.rounds, arguments.batches, arguments.variants))
        timing.save("frameworks", arguments, facts, against_libraries=[asdict(bout) for bout in bouts])
    console.print(bout_table(bouts), highlight=False)


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 1 where two sides that should be equal are not, 2 for bad input."""
    return status(lambda: run(arguments_from(words), Console()), Unequal)


if __name__ == "__main__":
    sys.exit(main())
