"""What a report says, gathered from the folders of runs."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib import rc_context

from sparring import api, configuration, gallery
from sparring.comparison import Comparison
from sparring.data import Splits, load
from sparring.environment import installed_version
from sparring.errors import BadInput
from sparring.evaluation.doctor import diagnose
from sparring.evaluation.progress import fingerprint
from sparring.experiment import Experiment
from sparring.files import read_text
from sparring.methods import LAS
from sparring.report.examples import Example, examples
from sparring.report.verdict import Verdict, verdict
from sparring.results.record import shown_record
from sparring.training import Run

_TOGETHER = 8  # runs in one figure, at most: as many lines can be told apart
_COMMON = ("robust-accuracy", "overfitting", "attack-success", "minutes")
_OWN = ("robust-accuracy", "overfitting", "attack-success", "perturbations")
_OF_LAS = ("actions", "samples")


@dataclass(frozen=True)
class Drawing:
    """A figure as a data URL of an SVG."""

    name: str
    shows: str
    source: str


@dataclass(frozen=True)
class Section:
    """What is said of one run."""

    name: str
    folder: str
    experiment: Experiment
    verdict: Verdict
    accuracies: dict[str, float]  # of its best network, by attack, in [0, 1]
    record: Mapping[str, Any] | None
    findings: tuple[Mapping[str, str], ...]
    seconds: float  # of training
    drawings: tuple[Drawing, ...]
    examples: tuple[Example, ...]
    notes: tuple[str, ...]  # what is not shown, and why
    config: str
    environment: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The class of its method."""
        return type(self.experiment.method).__name__


@dataclass(frozen=True)
class Report:
    """One page."""

    version: str
    sections: tuple[Section, ...]
    comparisons: tuple[Comparison, ...]
    drawings: tuple[Drawing, ...]  # of all runs together
    notes: tuple[str, ...]
    differences: dict[str, tuple[str, ...]]  # by setting, its value in each run, where they are not all the same


def gathered(
    folders: Sequence[str | Path],
    comparisons: Sequence[Comparison] = (),
    *,
    shown: int = 6,
    device: str = "cpu",
    note: Callable[[str], None] = lambda text: None,
) -> Report:
    """Return what a report says of the runs in these folders, at least one, and of tables that were compared.

    Args:
        folders: of finished runs.
        comparisons: shown before the runs.
        shown: how many adversarial examples of each run; for 0 no image is read, and the doctor is not asked.
        device: where they are found.
        note: is told in a sentence what is looked at.

    Raises:
        BadInput: a folder without a run, a run that is not finished, a record that was changed by hand.
    """
    runs = gallery.named_runs(folders)
    experiments = {name: configuration.read(Experiment, run.config) for name, run in runs.items()}
    for name, run in runs.items():
        _check_finished(run, experiments[name])
    sections = []
    for name, run in runs.items():
        note(f"Looking at {run.folder}.")
        sections.append(_section(name, run, experiments[name], shown, device))
    drawings, notes = _drawn(_COMMON, [run.folder for run in runs.values()]) if 1 < len(runs) <= _TOGETHER else ((), ())
    return Report(
        installed_version(),
        tuple(sections),
        tuple(comparisons),
        drawings,
        notes,
        gallery.settings_that_differ({section.name: section.config for section in sections}),
    )


def _check_finished(run: Run, experiment: Experiment) -> None:
    done, wanted = len(run.metrics()), experiment.optimisation.epochs
    if done < wanted:
        raise BadInput(
            f"{run.folder} is not finished, {done} of {wanted} epochs: go on by {run.resuming}, or leave it out."
        )


def _section(name: str, run: Run, experiment: Experiment, shown: int, device: str) -> Section:
    network = api.load(run.folder)
    record, notes = shown_record(run, experiment.threat, fingerprint(network)[:16])
    findings: list[dict[str, str]] | None = None
    pictures: list[Example] = []
    if shown:
        try:
            splits: Splits = load(experiment.data, needs_train=False)
            network, test = network.to(device), splits.test
            said = diagnose(network, test, experiment.threat, classes=splits.classes, device=device)
            findings = [asdict(finding) for finding in said]
            pictures = examples(network, test, experiment.threat, splits.classes, shown, device)
        except BadInput as error:
            notes.append(
                f"No adversarial examples{'' if findings is not None else ', and no word of the doctor'}: {error}"
            )
    rows = run.metrics()
    own = (*_OWN, *(_OF_LAS if isinstance(experiment.method, LAS) else ()))
    drawings, missing = _drawn(own, [run.folder])
    said_so_far = list(findings or [])
    for said in record["findings"] if record else []:
        if said not in said_so_far:
            said_so_far.append(said)
    return Section(
        name,
        str(run.folder),
        experiment,
        verdict(record, experiment.threat, len(run.data()["images"]["train"]), rows, findings),
        {entry["attack"]: entry["accuracy"] for entry in record["attacks"]} if record else {},
        record,
        tuple(said_so_far),
        sum(row["train_seconds"] for row in rows),
        drawings,
        tuple(pictures),
        (*notes, *missing),
        read_text(run.config),
        yaml.safe_load(read_text(run.folder / "environment.json")),
    )


def _drawn(names: Sequence[str], folders: Sequence[Path]) -> tuple[tuple[Drawing, ...], tuple[str, ...]]:
    """Return the figures of these runs, and for those that cannot be drawn the reason."""
    drawings, missing = [], []
    for name in names:
        try:
            figure = gallery.draw(name, folders)
        except BadInput as error:
            missing.append(f"Figure {name}: {error}")
            continue
        stream = io.BytesIO()
        with rc_context({"svg.fonttype": "path", "svg.hashsalt": "sparring"}):
            figure.savefig(stream, format="svg", metadata={"Date": None})
        source = f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
        drawings.append(Drawing(name, gallery.FIGURES[name].shows, source))
    return tuple(drawings), tuple(missing)
