"""What a run notes of itself besides its accuracy: perturbations and gradients, what its method reports, followed images.

Nothing here moves a weight, a memory or a random generator of the run: it ends bit for bit as it would without. A step that
is measured leaves sums on the device, and the rest happens when an epoch has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sparring.attacks import frozen_statistics
from sparring.choices import check_choices
from sparring.data import Augment, Batch, Images, batches
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.methods import Method, Perturbation
from sparring.randomness import seed_from
from sparring.threat import Threat
from sparring.training.run import Row, Run
from sparring.training.statistics import StepStatistics


@dataclass(frozen=True)
class Diagnostics:
    """What a run writes down beside its accuracy; docs/guides/diagnostics.md explains the columns and files.

    Args:
        every: measure the sizes of perturbations and gradients in the first step of an epoch and in every `every`-th step
            after it. 0 measures none and leaves their columns out of metrics.csv.
        images: how many training images to follow, the first ones in the data set's order, at most one batch. After every
            epoch the perturbation that the method would find for them, not augmented, is stored, with the numbers that it
            reports about them (`Method.inspect`).
        train_images: how many training images to attack as well after every epoch, by the selection's attack; not
            augmented, and drawn at random once for the whole run. 0 attacks none.

    Raises:
        BadInput: a negative number.
    """

    every: int = 20
    images: int = 0
    train_images: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("every", "images", "train_images"):
            if getattr(self, name) < 0:
                raise BadInput(f"diagnostics.{name} must be at least 0, not {getattr(self, name)}.")

    def pick(self, train: Images, seed: int) -> Images:
        """Return the training images to attack after every epoch, `train_images` of them or all there are."""
        generator = torch.Generator().manual_seed(seed_from(seed, *b"train_images"))
        drawn = torch.randperm(len(train), generator=generator)[: self.train_images]
        return train.subset(drawn.sort().values)

    def follow(self, train: Images, augment: Augment, batch_size: int, device: torch.device) -> Batch | None:
        """Return the followed images as one batch, uncropped and unflipped; None if there are none.

        Raises BadInput for more images than a batch has: some methods remember one batch of perturbations.
        """
        if self.images > batch_size:
            raise BadInput(
                f"diagnostics.images is {self.images}, but at most one batch can be followed: write "
                f"{batch_size} or less, or raise optimisation.batch_size."
            )
        if self.images == 0:
            return None
        (batch,) = batches(train.subset(torch.arange(min(self.images, len(train)))), self.images, device)
        height, width = batch.x.shape[2:]
        return replace(batch, view=augment.identity(len(batch.y), (height, width), device))


class Observer:
    """Takes the measurements of one run and writes its files."""

    def __init__(self, every: int, followed: Batch | None, threat: Threat, seed: int, run: Run, device: torch.device):
        self._every, self._followed = every, followed
        self._threat, self._seed, self._run, self._device = threat, seed, run, device
        self._measured = StepStatistics(threat, device)
        self._tables: dict[str, list[Row]] = {}  # by file, its rows

    def look(self, step: int, perturbation: Perturbation, target: Learner) -> None:
        """Measure step `step` of an epoch, from 0, if it is one of those to be measured."""
        if self._every and step % self._every == 0:
            self._measured.add(perturbation, target.gradient_norm())

    def conclude(self, row: Row, history: Sequence[Row], method: Method, target: Learner) -> Row:
        """Write the epoch's files; return its row with the measurements added. `history` holds the rows before.

        Raises BadInput if the method reports a number under a name that the row has already.
        """
        found = dict(method.metrics())
        if self._followed is not None:
            found |= self._visit(self._followed, int(row["epoch"]), method, target)
        numbers, lists = _read(found)
        notes = self._means(history) | numbers
        if taken := sorted(row.keys() & notes.keys()):
            raise BadInput(f"{type(method).__name__} reports {taken[0]!r}, a column that every run has: rename it.")
        for name, values in lists.items():
            cells = {str(column): value for column, value in enumerate(values)}
            self._tables.setdefault(name, []).append({"epoch": row["epoch"]} | cells)
            self._run.write_diagnostic(name, self._tables[name])
        self._measured = StepStatistics(self._threat, self._device)
        return row | notes

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch's sums so far and the files' rows, for the run's checkpoint."""
        return {"looks": self._measured.sums, "tables": self._tables}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._measured.sums, self._tables = state["looks"], state["tables"]

    def _means(self, history: Sequence[Row]) -> Row:
        """Return the means over the epoch's measured steps, and the mean over those of all epochs so far.

        Every epoch has equally many, so the mean of the epochs' means is that over the steps.
        """
        if not self._every:
            return {}
        row = self._measured.row()
        squares = [before["gradient_square"] for before in history] + [row["gradient_square"]]
        return row | {"gradient_square_mean": fmean(squares)}

    def _visit(self, followed: Batch, epoch: int, method: Method, target: Learner) -> Mapping[str, Tensor]:
        """Store the followed images' perturbations and return what the method reports about them; nothing else changes."""
        devices, model = [self._device] if self._device.type == "cuda" else [], target.raw_model
        with torch.random.fork_rng(devices), frozen_statistics(model):
            torch.manual_seed(seed_from(self._seed, epoch, *b"followed"))
            perturbation = method.perturb(model, followed, method.phase(epoch, target.steps - 1))
            said = method.inspect(followed)
        start = {} if perturbation.start is None else {"start": perturbation.start}
        # Half precision errs by 2^-11 of a value, less than a display's 256 shades can show.
        stored = {name: value.half() for name, value in (start | {"delta": perturbation.delta}).items()}
        self._run.write_perturbations(epoch, stored | {"index": followed.index})
        return said


def _read(values: Mapping[str, Tensor]) -> tuple[Row, dict[str, list[float]]]:
    """Return tensors of no and of one dimension as numbers and lists, by name, in one transfer."""
    if not values:
        return {}, {}
    flat = torch.cat([value.detach().double().flatten() for value in values.values()]).tolist()
    numbers: Row = {}
    lists: dict[str, list[float]] = {}
    for name, value in values.items():
        part, flat = flat[: value.numel()], flat[value.numel() :]
        if value.ndim == 0:
            numbers[name] = part[0]
        else:
            lists[name] = part
    return numbers, lists
