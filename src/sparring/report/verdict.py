"""What a run's records and curves come to: is the network robust, can the number be trusted, did the training collapse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparring.results.interval import interval
from sparring.threat import Threat
from sparring.training.run import Row

_COLLAPSED = 0.5  # of the best robust accuracy before, ...
_LEAST = 0.1  # ... and at least so much less, which a hundred held-out images do not lose by luck
_MANY = 1000  # images, whose 95% interval is at most 6.2 points wide


@dataclass(frozen=True)
class Mark:
    """A sentence, and whether it speaks for the network."""

    state: Literal["good", "bad", "open"]
    text: str


@dataclass(frozen=True)
class Robustness:
    """The lowest robust accuracy on record, of all attacks together, in [0, 1]."""

    accuracy: float
    low: float  # the ends of its 95% interval
    high: float
    images: int
    attacks: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What is on top of a report."""

    robust: Mark
    trust: tuple[Mark, ...]
    training: tuple[Mark, ...]
    robustness: Robustness | None

    @property
    def trusted(self) -> bool:
        """Whether nothing speaks against the number, and nothing is open."""
        return self.robustness is not None and all(mark.state == "good" for mark in self.trust)


def verdict(
    record: Mapping[str, Any] | None,
    threat: Threat,
    classes: int,
    rows: Sequence[Row],
    findings: Sequence[Mapping[str, str]] | None,
) -> Verdict:
    """Return what a run comes to.

    Args:
        record: of its best network under its own threat, as an evaluation wrote it; None if there is none.
        threat: that it was trained against.
        classes: how many; always giving the same answer is right on one in so many.
        rows: of metrics.csv, at least one.
        findings: what the doctor said of the network just now; None if it was not asked.
    """
    training = tuple(_training(rows))
    attacks = [entry for entry in record["attacks"] if entry["attack"] != "clean"] if record else []
    if record is None or not attacks:
        unknown = Mark("open", "Not known: no attack on its best network is on record (sparring evaluate RUN).")
        return Verdict(unknown, (), training, None)
    low, high = interval(record["worst"], record["n"])
    found = Robustness(record["worst"], low, high, record["n"], tuple(entry["attack"] for entry in attacks))
    return Verdict(_robust(found, threat, classes), tuple(_trust(found, record, findings)), training, found)


def collapses(robust: Sequence[float]) -> list[int]:
    """Return the epochs in which catastrophic overfitting shows: robust accuracy is half of its best before, or less."""
    return [
        epoch
        for epoch in range(1, len(robust))
        if robust[epoch] <= _COLLAPSED * max(robust[:epoch]) and max(robust[:epoch]) - robust[epoch] >= _LEAST
    ]


def _robust(found: Robustness, threat: Threat, classes: int) -> Mark:
    withstands = (
        f"It withstands {_listed(found.attacks)} on {found.accuracy:.1%} of {found.images:,} test images "
        f"({threat.norm}, eps {threat.eps}; 95% interval {found.low:.1%} to {found.high:.1%})"
    )
    if found.low > 1 / classes:
        return Mark("good", f"{withstands}.")
    return Mark("bad", f"{withstands}, which is no more than always giving the same answer, {1 / classes:.1%}.")


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _trust(
    found: Robustness, record: Mapping[str, Any], findings: Sequence[Mapping[str, str]] | None
) -> Iterator[Mark]:
    if "aa" in found.attacks:
        yield Mark("good", "Attacked by AutoAttack, standard version.")
    else:
        yield Mark("bad", "Not attacked by AutoAttack: stronger attacks would find more (--attacks aa).")
    if found.images >= _MANY:
        yield Mark("good", f"Measured on {found.images:,} test images.")
    else:
        yield Mark("open", f"Measured on {found.images:,} test images only: see the width of the interval.")
    # The doctor's and the figures' findings of that time, and what the doctor says now.
    serious = {
        (said["check"], said["seen"])
        for said in (*record["findings"], *(findings or ()))
        if said["severity"] in ("error", "warning")
    }
    for check, seen in sorted(serious):
        yield Mark("bad", f"{check}: {seen}")
    if findings is None:
        yield Mark("open", "The doctor was not asked (sparring doctor RUN).")
    elif not serious:
        yield Mark("good", "The doctor finds nothing wrong, and the figures show no sign of masked gradients.")


def _training(rows: Sequence[Row]) -> Iterator[Mark]:
    robust = [row["robust"] for row in rows]
    if fallen := collapses(robust):
        yield Mark(
            "bad",
            f"Catastrophic overfitting: robust accuracy on held-out images was {max(robust[: fallen[0]]):.1%} at best "
            f"and {robust[fallen[0]]:.1%} in epoch {fallen[0] + 1}.",
        )
    else:
        yield Mark("good", "No catastrophic overfitting: robust accuracy on held-out images was never halved.")
    best = max(range(len(robust)), key=robust.__getitem__)
    yield Mark(
        "good" if robust[best] - robust[-1] < _LEAST / 2 else "bad",
        f"Best in epoch {best + 1} of {len(robust)} ({robust[best]:.1%} on held-out images), {robust[-1]:.1%} in the last.",
    )
