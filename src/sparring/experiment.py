"""An experiment is one dataclass, from the data to what a run notes of itself; and it can be run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from sparring import configuration, ranks
from sparring.choices import check_choices, check_kind
from sparring.data import Data, Splits, load
from sparring.errors import BadInput
from sparring.files import path_of, read_text
from sparring.methods import Method
from sparring.models import ModelDescription, create
from sparring.optimisation import Optimisation
from sparring.randomness import check_seed
from sparring.terminal import console
from sparring.threat import Threat
from sparring.training.diagnostics import Diagnostics
from sparring.training.progress import Reporter, reporter
from sparring.training.run import Run
from sparring.training.runtime import Runtime
from sparring.training.selection import Selection
from sparring.training.trainer import Trainer


@dataclass(frozen=True)
class Model:
    """Which network to train.

    Args:
        name: see `sparring.models.names()`.
        width: channels of the first stage; None is the paper's.
        normalise: subtract the training pixels' mean and divide by their deviation inside the network. The talk's code
            does not.
        pretrained: ImageNet weights, for timm networks.
        levels: round the pixels to so many values inside the network, for training and for every evaluation (CAT: 16);
            None does not round.
    """

    name: str = "smallconv"
    width: int | None = None
    normalise: bool = False
    pretrained: bool = False
    levels: int | None = None

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class Experiment:
    """Everything that a run depends on."""

    method: Method
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    threat: Threat = field(default_factory=Threat)
    optimisation: Optimisation = field(default_factory=Optimisation)
    selection: Selection = field(default_factory=Selection)
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    runtime: Runtime = field(default_factory=Runtime)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_seed(self.seed)

    def trainer(self, run: Run, report: Reporter) -> Trainer:
        """Return the parts put together, on the device; raises BadInput for parts that cannot be or do not fit."""
        splits = load(self.data)
        description = self._describe(splits)
        torch.manual_seed(self.seed)  # the initial weights
        if self.model.normalise and 0 in splits.std:
            raise BadInput(
                f"model.normalise divides by each channel's deviation, and channel {splits.std.index(0)} of the training "
                "images is the same everywhere: set it to false."
            )
        statistics = (splits.mean, splits.std) if self.model.normalise else (None, None)
        network = create(
            self.model.name,
            description.classes,
            channels=description.channels,
            size=description.size,
            width=self.model.width,
            mean=statistics[0],
            std=statistics[1],
            levels=self.model.levels,
            pretrained=self.model.pretrained,
        )
        return Trainer(
            method=self.method,
            network=network,
            description=description,
            splits=splits,
            augment=self.data.augment,
            threat=self.threat,
            optimisation=self.optimisation,
            selection=self.selection,
            diagnostics=self.diagnostics,
            runtime=self.runtime,
            seed=self.seed,
            run=run,
            configuration=configuration.to_yaml(self),
            reporter=report,
        )

    def _describe(self, splits: Splits) -> ModelDescription:
        channels, height, width = splits.shape
        return ModelDescription(
            name=self.model.name,
            classes=len(splits.classes),
            class_names=splits.classes,
            channels=channels,
            size=height if height == width else (height, width),
            width=self.model.width,
            levels=self.model.levels,
        )


@torch.inference_mode(False)  # which lets autograd record under no_grad, too
def train(experiment: Experiment, folder: str | Path, *, resume: bool = False, report: Reporter | None = None) -> Run:
    """Run an experiment in a folder, showing progress; the run that can be evaluated and loaded.

    Args:
        experiment: what to run.
        folder: is made; a folder that holds a run is refused unless `resume`.
        resume: go on where the run in the folder stopped; a folder without one is begun.
        report: where progress goes; None is the terminal.

    Raises:
        BadInput: something in the experiment cannot be, the folder holds another run or files of none, or torchrun started
            several processes.
        Interrupted: Ctrl-C; the state is saved.
    """
    check_kind("The experiment", experiment, Experiment)
    check_kind("resume", resume, bool)
    check_kind("report", report, Reporter | None)
    run = Run(path_of("The folder", folder))
    if (processes := ranks.started()) > 1:
        raise BadInput(
            f"Training on several processes is not built yet, and torchrun started {processes}, which would all write into "
            f"{folder}: start it without torchrun."
        )
    config = configuration.to_yaml(experiment)
    run.refuse(config, resume=resume, rewritten=partial(_rewritten, path=experiment.data.path))
    trainer = experiment.trainer(run, report or reporter(console(stderr=True)))
    goes_on = resume and trainer.restore()  # which refuses other images, before anything is written
    run.configure(config)
    if not goes_on or not run.is_described():
        splits = trainer.splits
        fingerprints = {"fingerprint": splits.fingerprint, "train_fingerprint": splits.train_fingerprint}
        images = {"name": splits.name} | fingerprints | {"shape": splits.shape}
        run.begin(images | {"images": splits.counts(), "notes": splits.notes}, splits.seen())
    trainer.fit()
    return run


def check_unchanged(run: Run) -> None:
    """Raise BadInput for a run whose configuration was changed since, or that has the checkpoint of another run."""
    if run.config.is_file():
        config = read_text(run.config)
        run.check_checkpoint(_rewritten(config, None), partial(_rewritten, path=None))


def _rewritten(config: str, path: str | None) -> str:
    """Return a run's configuration as this version writes it, with its images at `path`; as it is, if it cannot be read.

    Where images lie is no matter: that they are the same is told by their fingerprint.
    """
    try:
        held = configuration.read(Experiment, config)
    except BadInput:
        return config
    return configuration.to_yaml(replace(held, data=replace(held.data, path=path)))
