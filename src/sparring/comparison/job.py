"""One run of a table: a row and a seed, trained in a folder of its own and measured there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sparring import api, configuration
from sparring.comparison.cost import passes
from sparring.comparison.scale import Scale
from sparring.data import Splits, load
from sparring.evaluation import ModelSource, evaluate, name_of
from sparring.evaluation.progress import fingerprint
from sparring.evaluation.records import whole_records
from sparring.experiment import Experiment, train
from sparring.results.talk import Row
from sparring.threat import Threat
from sparring.training import Run, checkpoint
from sparring.training.progress import Reporter

Checkpoint = Literal["best", "last"]


@dataclass(frozen=True)
class Job:
    """A row's recipe at a scale, with a seed; `root` is the folder of all runs.

    Rows of several tables that are trained alike share a folder, so nothing is trained twice.
    """

    row: Row
    scale: Scale
    seed: int
    path: str | None  # of the images, or of a folder of such by data set; None is the hub, or what is embedded
    root: Path
    attacks: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides of the recipe, without seed and place of the images."""
        assert self.row.recipe is not None
        return (*self.row.settings, *self.scale.settings_of(self.row.recipe))

    @property
    def folder(self) -> Path:
        """Where it lives, named after the recipe, the row's settings and the seed."""
        words = " ".join([str(self.row.recipe), *self.row.settings]).replace("--", "")
        return self.root / f"{re.sub(r'[^A-Za-z0-9_.=]+', '-', words).strip('-')}-seed{self.seed}"

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Which networks its row asks for; where none is said, that of the best epoch."""
        named = {line.checkpoint for line in self.row.published}
        both: tuple[Checkpoint, ...] = ("best", "last")
        return tuple(which for which in both if which in named) or ("best",)

    def experiment(self) -> Experiment:
        """Return what is trained; raises BadInput for settings that cannot be."""
        assert self.row.recipe is not None
        path: tuple[str, ...] = ()
        if self.path is not None:
            own = Path(self.path) / self.row.recipe.partition("/")[0]
            path = (f"--data.path={own if own.is_dir() else self.path}",)
        return api.recipe(self.row.recipe, (*self.settings, *path, f"--seed={self.seed}"))

    def threat(self) -> Threat:
        """Return the threat of the row's figures, which a row may not have been trained with."""
        trained_with = self.experiment().threat
        printed = self.row.published[0].eps
        return trained_with if printed is None else Threat("Linf", printed)

    def is_trained(self) -> bool:
        """Return whether its folder holds the finished run; raises BadInput where it holds another one."""
        run, experiment = Run(self.folder), self.experiment()
        if not run.config.is_file():
            return False
        held = configuration.read(Experiment, run.config)
        # Another machine's images lie elsewhere.
        held = replace(held, data=replace(held.data, path=experiment.data.path))
        run.refuse(configuration.to_yaml(experiment), resume=True, rewritten=lambda _: configuration.to_yaml(held))
        epochs: int = checkpoint.load(run.last, needed=["epoch"])["epoch"] if run.last.is_file() else 0
        return epochs >= experiment.optimisation.epochs

    def work(self, device: str, report: Reporter, note: Callable[[str], None]) -> None:
        """Train and measure what has not been yet. Stopped at any moment, it goes on from there."""
        if not self.is_trained():
            note(f"Training {self.folder.name}.")
            train(self.experiment(), self.folder, resume=True, report=report)
        passes(self.experiment(), self.folder)
        for which in self.checkpoints:
            if missing := [attack for attack in self.attacks if attack not in self.entries(which)]:
                note(f"Measuring {self.folder.name}, {which} epoch: {', '.join(missing)}.")
                model = api.load(self.folder, which).to(device)
                evaluate(
                    model,
                    self.splits(),
                    self.threat(),
                    missing,
                    device=device,
                    doctor=False,  # a network that has collapsed is measured, too
                    output=Run(self.folder).evaluations,
                    source=ModelSource(name_of(model), self.folder.name, which),  # which is copied to other machines
                )

    def splits(self) -> Splits:
        """Return the images, of which as many test images as the scale takes; raises BadInput where they cannot be had."""
        return load(replace(self.experiment().data, test_limit=self.scale.samples))

    def entries(self, which: Checkpoint) -> dict[str, Entry]:
        """Return what is on record of a network of this run, by attack; raises BadInput for a record that was changed."""
        weights = fingerprint(api.load(self.folder, which))[:16]
        found: dict[str, Entry] = {}
        threat = self.threat()
        for content in whole_records(Run(self.folder).evaluations):
            asked = content["threat"] == {"norm": threat.norm, "eps": str(threat.eps)}
            if asked and content["subject"]["fingerprint"] == weights and self.scale.samples in (None, content["n"]):
                found |= {entry["attack"]: Entry(content, entry) for entry in content["attacks"]}
        return found


class Entry(NamedTuple):
    """An attack's entry in a record, and the record."""

    record: dict[str, Any]
    attack: dict[str, Any]
