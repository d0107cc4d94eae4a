"""The talk's table about defences that hid their gradients: defences built here, attacked naively and adaptively."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich import box
from rich.table import Table
from torch import Tensor, nn

from sparring import api
from sparring.attacks import PGD
from sparring.comparison import render
from sparring.comparison.defences import DEFENCES, Defence
from sparring.comparison.job import Job
from sparring.comparison.run import checked
from sparring.comparison.scale import SCALES
from sparring.errors import BadInput, unknown
from sparring.evaluation import CLEAN, ModelSource, evaluate
from sparring.evaluation.progress import fingerprint
from sparring.evaluation.records import whole_records
from sparring.results.interval import interval
from sparring.results.published import BrokenDefence, broken_defences
from sparring.results.talk import Row
from sparring.threat import Threat
from sparring.training import Run

NAME, TITLE = "bpda", "Defences that hid their gradients, attacked naively and adaptively"
STEPS = 20
_RECIPE = "cifar10/standard"
_ATTACKS = (CLEAN, "naive", "adaptive")


@dataclass(frozen=True)
class Broken:
    """A defence with what was measured of it: accuracies in percent by attack, and half the width of their 95% interval."""

    defence: Defence
    published: BrokenDefence | None  # of the defence that it is built after
    accuracies: dict[str, float]  # clean, naive, adaptive; empty where nothing is measured yet
    bands: dict[str, float]


@dataclass(frozen=True)
class BrokenTable:
    """The defences built here, then those that were published and are not."""

    scale: str
    settings: tuple[str, ...]  # of the trained networks
    samples: int | None  # test images
    threat: Threat
    lines: tuple[Broken, ...]
    others: tuple[BrokenDefence, ...]


def planned(scale: str, *, path: str | None = None, out: Path) -> dict[Defence, Job]:
    """Return the run that each defence is put around, of which several share one; checked, but nothing is begun.

    Raises BadInput as `comparison.planned` does.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    jobs = {}
    for defence in DEFENCES:
        # The defence's network comes after the scale's, which it replaces.
        sized = replace(SCALES[scale], settings=(*SCALES[scale].settings, *defence.network))
        row = Row(defence.name, (), _RECIPE, defence.network)
        jobs[defence] = Job(row, sized, 0, path, out / scale, ())
    checked(list(jobs.values()))
    return jobs


def measure(jobs: dict[Defence, Job], device: str, note: Callable[[str], None]) -> None:
    """Attack each defence around its trained network, unless that is on record; raises BadInput for an unfinished run."""
    for defence, job in jobs.items():
        if _accuracies(defence, job):
            continue
        if not job.is_trained():
            raise BadInput(f"{job.folder} is not trained to its end: the same command goes on.")
        note(f"Attacking: {defence.name}.")
        defended = defence.around(api.load(job.folder, "last").to(device))
        evaluate(
            defended.answers,
            job.splits(),
            job.experiment().threat,
            {CLEAN: CLEAN, "naive": partial(_pgd, defended.naive), "adaptive": partial(_pgd, defended.adaptive)},
            device=device,
            doctor=False,  # it would refuse most of them, rightly
            output=_folder(defence, job),
            source=ModelSource(defence.name, job.folder.name, "last"),
        )


def tabulated(jobs: dict[Defence, Job], scale: str) -> BrokenTable:
    """Return the table with what is on record; raises BadInput for a record that was changed by hand."""
    published = {row.defence: row for row in broken_defences()}
    lines = []
    for defence, job in jobs.items():
        counted = _accuracies(defence, job)
        bands = {}
        for attack, (accuracy, n) in counted.items():
            low, high = interval(accuracy, n)
            bands[attack] = 50 * (high - low)
        accuracies = {attack: 100 * accuracy for attack, (accuracy, _) in counted.items()}
        lines.append(Broken(defence, published.get(defence.after), accuracies, bands))
    any_job = next(iter(jobs.values()))
    built = {defence.after for defence in jobs}
    others = tuple(row for row in published.values() if row.defence not in built)
    return BrokenTable(
        scale, any_job.settings, SCALES[scale].samples, any_job.experiment().threat, tuple(lines), others
    )


def _pgd(model: nn.Module, answers: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    """Attack `model`, whose gradients are those that the attacker has; the network that answers decides what counts."""
    return PGD(steps=STEPS)(model, x, y, threat)


def _folder(defence: Defence, job: Job) -> Path:
    return Run(job.folder).evaluations / defence.name.replace(" ", "-").replace(",", "")


def _accuracies(defence: Defence, job: Job) -> dict[str, tuple[float, int]]:
    """Return accuracy and number of images by attack from the record of this defence; nothing where there is none."""
    folder = _folder(defence, job)
    if not (folder.is_dir() and Run(job.folder).weights.is_file()):
        return {}
    subject = fingerprint(defence.around(api.load(job.folder, "last")).answers)[:16]
    for content in whole_records(folder):
        found = {entry["attack"]: (entry["accuracy"], entry["n"]) for entry in content["attacks"]}
        if content["subject"]["fingerprint"] == subject and set(_ATTACKS) <= set(found):
            return {attack: found[attack] for attack in _ATTACKS}
    return {}


def terminal(table: BrokenTable) -> Table:
    """Return the table for the terminal."""
    shown = Table(title=caption(table), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for number, title in enumerate(titles()):
        shown.add_column(title, justify="left" if number < render.WORDS else "right")
    for row in cells(table):
        shown.add_row(*row)
    return shown


def markdown(table: BrokenTable) -> str:
    """Return the table as a page of its own."""
    return render.page(f"{NAME}: {TITLE}", caption(table), titles(), cells(table))


def latex(table: BrokenTable) -> str:
    """Return the table for LaTeX with booktabs."""
    return render.booktabs(caption(table), titles(), ([row] for row in cells(table)))


def as_csv(table: BrokenTable) -> str:
    """Return a line for each accuracy of ours, in percent and unrounded, with what was published of the defence."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "scale", "defence", "settings", "attack", "images", "ours", "band", "after", "published"])
    for line in table.lines:
        theirs = line.published.accuracy if line.published else ""
        for attack, accuracy in line.accuracies.items():
            settings = " ".join((*table.settings, *line.defence.network))
            figures = [attack, table.samples or "", accuracy, line.bands[attack]]
            writer.writerow([NAME, table.scale, line.defence.name, settings, *figures, line.defence.after, theirs])
    return stream.getvalue()


FORMATS: dict[str, Callable[[BrokenTable], str]] = {"md": markdown, "csv": as_csv, "tex": latex}


def titles() -> list[str]:
    """Return the heads of its columns, of which the first three have words below them."""
    return [
        "defence",
        "what the adaptive attack knows",
        "published",
        "clean",
        f"naive PGD-{STEPS}",
        f"adaptive PGD-{STEPS}",
    ]


def cells(table: BrokenTable) -> list[list[str]]:
    """Return the rows below the heads, as texts: defences built here, then the published ones that are not."""
    rows = []
    for line in table.lines:
        figures = [
            f"{line.accuracies[name]:.1f} ±{line.bands[name]:.1f}" if line.accuracies else "" for name in _ATTACKS
        ]
        rows.append([line.defence.name, line.defence.adaptive, _published(line.published), *figures])
    return rows + [["", "", _published(row), "", "", ""] for row in table.others]


def _published(row: BrokenDefence | None) -> str:
    return "" if row is None else f"{row.defence}, {row.dataset}, {row.norm} {row.radius}: {row.accuracy}{row.marks}"


def caption(table: BrokenTable) -> str:
    """Return what the table shows, in sentences."""
    images = f"{table.samples} test images" if table.samples else "all test images"
    networks = " ".join(table.settings) or "full size"
    return (
        "Published: accuracy of nine defences under adaptive attacks (Athalye et al., ICML 2018). Ours: defences built "
        f"here, each after the published one beside it, or none, around networks of {_RECIPE} at scale {table.scale} "
        f"({networks}), those of the last epoch, attacked within {table.threat.norm} {table.threat.eps} on {images}. Naive "
        f"is PGD-{STEPS} with the defence's own gradient, adaptive the same with what it knows. Accuracies in percent, ± "
        "half the width of the 95% interval; *: without the adversarial training that the defence proposes besides; **: 0 "
        "in principle, imperfections help it."
    )
