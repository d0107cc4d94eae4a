"""Our figures beside the published ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparring.comparison.cost import passes
from sparring.comparison.job import Checkpoint, Entry, Job
from sparring.errors import BadInput
from sparring.evaluation.records import whole_records
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
    checkpoint: str  # of our network
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


def compared(talk: TalkTable, scale: str, jobs: Sequence[Job], out: Path) -> Comparison:
    """Return the talk's table with what the jobs' folders hold; rows without a finished run have no figures of ours.

    Rows of networks that RobustBench offers have those of the records in out/TABLE/MODEL, which `sparring evaluate` wrote.
    Raises BadInput for records that were changed by hand, and for records on different images in one table.
    """
    fingerprints: dict[tuple[str, str], str] = {}
    counts: set[int] = set()
    lines = []
    for row in talk.rows:
        if row.model is not None:
            found = _offered(row, talk, out / talk.name / row.model)
            counts |= {entry.record["n"] for entry in found.values()}
            lines.append(_line(row, row.published[0], talk, [found] if found else []))
            continue
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
            minutes = [_minutes(job) for job, _ in measured]
            lines.append(
                replace(
                    _line(row, published, talk, [found for _, found in measured]),
                    checkpoint=which,
                    settings=of_row[0].settings if of_row else (),
                    minutes=statistics.mean(minutes) if minutes else None,
                    passes=passes(measured[0][0].experiment(), measured[0][0].folder) if measured else None,
                )
            )
    return Comparison(talk, scale, counts.pop() if len(counts) == 1 else None, tuple(lines))


def _offered(row: Row, talk: TalkTable, folder: Path) -> dict[str, Entry]:
    """Return what the record of most images says by attack of a network whose weights can be had; nothing without one."""
    published = row.published[0]
    found: dict[str, Entry] = {}
    for content in whole_records(folder) if folder.is_dir() else ():
        entries = {entry["attack"]: Entry(content, entry) for entry in content["attacks"]}
        asked = content["threat"] == {"norm": "Linf", "eps": str(published.eps)} and content["data"]["name"] == row.data
        if asked and set(talk.attacks) <= set(entries) and content["n"] > (found["clean"].record["n"] if found else 0):
            found = entries
    return found


def _line(row: Row, published: Published, talk: TalkTable, measured: Sequence[Mapping[str, Entry]]) -> Line:
    figures = {attack: _figure([entries[attack] for entries in measured], published, attack) for attack in talk.attacks}
    return Line(row, published, published.checkpoint, len(measured), (), figures, None, None)


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
