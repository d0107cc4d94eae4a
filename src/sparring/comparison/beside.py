"""Our figures beside the published ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.comparison.cost import passes
from sparring.comparison.job import Checkpoint, Entry, Job
from sparring.errors import BadInput
from sparring.results.interval import interval
from sparring.results.published import Published
from sparring.results.talk import Row, TalkTable
from sparring.training import Run


@dataclass(frozen=True)
class Figure:
    """An accuracy in percent, ours beside the published one; either may be absent.

    `deviation` is the sample deviation over seeds, None for one. `band` is half the width of the 95% interval that so many
    test images leave to the accuracy of one network (Wilson, 1927), whatever its seed.
    """

    ours: float | None
    deviation: float | None
    band: float | None
    published: float | None

    @property
    def difference(self) -> float | None:
        """Ours less the published one, in points."""
        return None if self.ours is None or self.published is None else self.ours - self.published


@dataclass(frozen=True)
class Line:
    """A row of the talk's table for one epoch, with ours."""

    row: Row
    published: Published
    checkpoint: Checkpoint  # of our network
    seeds: int  # how many of ours are measured under every attack
    settings: tuple[str, ...]  # all that ours are trained with
    figures: dict[str, Figure]  # by attack
    minutes: float | None  # of training, ours, on average
    passes: float | None  # what a step of ours costs, in forward passes of its batch


@dataclass(frozen=True)
class Comparison:
    """A table of the talk with what was measured here."""

    talk: TalkTable
    scale: str
    samples: int | None  # test images
    lines: tuple[Line, ...]


def compared(talk: TalkTable, scale: str, jobs: Sequence[Job]) -> Comparison:
    """Return the talk's table with what the jobs' folders hold; rows without a finished run have no figures of ours.

    Raises BadInput for records that were changed by hand, and for records on different images in one table.
    """
    fingerprints: dict[tuple[str, str], str] = {}
    counts: set[int] = set()
    lines = []
    for row in talk.rows:
        of_row = [job for job in jobs if job.row is row]
        finished = [job for job in of_row if job.is_trained()]
        for published in row.published:
            which: Checkpoint = "last" if published.checkpoint == "last" else "best"
            entries = [job.entries(which) for job in finished]
            measured = [
                (job, found) for job, found in zip(finished, entries, strict=True) if set(talk.attacks) <= set(found)
            ]
            for job, found in measured:
                _check_images(job, found, fingerprints)
                counts |= {entry.record["n"] for entry in found.values()}
            figures = {
                attack: _figure([found[attack] for _, found in measured], published, attack) for attack in talk.attacks
            }
            minutes = [_minutes(job) for job, _ in measured]
            lines.append(
                Line(
                    row,
                    published,
                    which,
                    len(measured),
                    of_row[0].settings if of_row else (),
                    figures,
                    statistics.mean(minutes) if minutes else None,
                    passes(measured[0][0].experiment(), measured[0][0].folder) if measured else None,
                )
            )
    return Comparison(talk, scale, counts.pop() if len(counts) == 1 else None, tuple(lines))


def _check_images(job: Job, found: dict[str, Entry], fingerprints: dict[tuple[str, str], str]) -> None:
    """Raise BadInput where a job was measured on other images than those before it."""
    for entry in found.values():
        data = entry.record["data"]
        first = fingerprints.setdefault((data["name"], "test"), data["fingerprint"])
        if first != data["fingerprint"]:
            raise BadInput(
                f"{job.folder} was measured on other images ({data['fingerprint']}) than the rows before it ({first}): "
                "train and measure all rows on the same."
            )


def _figure(entries: Sequence[Entry], published: Published, attack: str) -> Figure:
    printed = published.accuracies.get(attack)
    theirs = None if printed is None else float(printed)
    if not entries:
        return Figure(None, None, None, theirs)
    ours = [100 * entry.attack["accuracy"] for entry in entries]
    mean = statistics.mean(ours)
    low, high = interval(mean / 100, entries[0].attack["n"])
    return Figure(mean, statistics.stdev(ours) if len(ours) > 1 else None, 100 * (high - low) / 2, theirs)


def _minutes(job: Job) -> float:
    return sum(row["train_seconds"] for row in Run(job.folder).metrics()) / 60
