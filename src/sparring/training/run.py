"""The folder of a run: its configuration, its figures epoch by epoch, its checkpoints and the network to use.

Nothing here computes. Every file is replaced as a whole, so that a run killed at any moment leaves readable files.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparring import models
from sparring.environment import environment
from sparring.errors import BadInput
from sparring.files import check_writable, path_of, read_text, replacing
from sparring.models import ModelDescription
from sparring.training import checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]

_WRITTEN = (  # after the configuration
    *("data.json", "environment.json", "training_images.safetensors"),
    *("metrics.csv", "model.yaml", "model.safetensors"),
    *("checkpoints/last.ckpt", "checkpoints/best.ckpt"),
)
_METHOD = re.compile("^method:", re.MULTILINE)  # no configuration of a run is without one, of whatever version


@dataclass(frozen=True)
class Run:
    """A run's folder, which may be given as a text."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", path_of("A run's folder", self.folder))

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def last(self) -> Path:
        """The newest complete checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The complete checkpoint of the best epoch."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def resuming(self) -> str:
        """The command that goes on with it, for a shell."""
        return shlex.join(["sparring", "train", str(self.folder), "--resume"])

    @property
    def weights(self) -> Path:
        """The weights to use, those of the best epoch."""
        return self.folder / "model.safetensors"

    @property
    def evaluations(self) -> Path:
        """The folder of the records of its evaluations."""
        return self.folder / "evaluations"

    @property
    def _diagnostics(self) -> Path:
        return self.folder / "diagnostics"

    def refuse(self, config: str, *, resume: bool, rewritten: Callable[[str], str] = str) -> None:
        """Raise BadInput if the folder holds another run, one that is not to be resumed, or files of no run; change nothing.

        Args:
            config: the configuration to run.
            resume: whether the folder's run is to be resumed.
            rewritten: returns a configuration, of whatever version, as this version writes it.
        """
        check_writable(self.config)
        if (foreign := self._foreign()) is not None:
            raise BadInput(
                f"{foreign} is of no run of Sparring's and would be overwritten: choose another --run, or move it away."
            )
        if not self.config.exists():
            return
        if not resume:
            raise BadInput(
                f"{self.folder} already holds a run: add --resume to go on (in Python resume=True), or choose another --run."
            )
        if (line := _difference(rewritten(read_text(self.config)), config)) is not None:
            raise BadInput(
                f"{self.folder} was started with another configuration ({line}): resume it with its own, "
                f"{self.resuming}."
            )
        self.check_checkpoint(config, rewritten)

    def check_checkpoint(self, config: str, rewritten: Callable[[str], str] = str) -> None:
        """Raise BadInput where the newest checkpoint was written with another configuration; `rewritten` as in `refuse`."""
        trained = checkpoint.configuration(self.last)
        if trained is not None and (line := _difference(rewritten(trained), config)) is not None:
            raise BadInput(
                f"{self.last} was written by a run with another configuration than {self.config} holds ({line}): undo what "
                "was changed there, or begin another --run with it."
            )

    def _foreign(self) -> Path | None:
        """Return a file of somebody else's under a name that a run writes to; a run's first file is its configuration."""
        if self.config.exists():
            return None if _METHOD.search(read_text(self.config)) else self.config
        return next((path for name in _WRITTEN if (path := self.folder / name).exists()), None)

    def configure(self, config: str) -> None:
        """Write the configuration, which makes the folder a run's."""
        self._write(self.config, config)

    def begin(self, data: dict[str, Any], seen: Tensor) -> None:
        """Write what is known before training: what the data are, which images are trained on, and where it runs.

        Args:
            data: for data.json.
            seen: the digests of the training images, see `Splits.seen`.
        """
        self._write(self.folder / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
        self._write(self.folder / "environment.json", json.dumps(environment(), indent=2) + "\n")
        models.save_seen(seen, self.folder)

    def is_described(self) -> bool:
        """Return whether all is there that `begin` writes; a run of version 0.1 may lack something."""
        return all((self.folder / name).is_file() for name in ("data.json", "environment.json"))

    def data(self) -> dict[str, Any]:
        """Return what data.json says of the images; raises BadInput if there is none."""
        path = self.folder / "data.json"
        if not path.is_file():
            raise BadInput(f"There is no {path}: the run is from before it was written, or is no run.")
        content: dict[str, Any] = json.loads(read_text(path))
        return content

    def write_metrics(self, rows: Sequence[Row]) -> None:
        """Replace metrics.csv, a row an epoch."""
        _write_rows(self.folder / "metrics.csv", rows)

    def metrics(self) -> list[Row]:
        """Return the rows of metrics.csv; raises BadInput if there is none."""
        path = self.folder / "metrics.csv"
        if not path.is_file():
            raise BadInput(f"There is no {path}: {self.folder} does not hold a run that finished an epoch.")
        return _rows(path)

    def write_diagnostic(self, name: str, rows: Sequence[Row]) -> None:
        """Replace diagnostics/NAME.csv, a row an epoch."""
        _write_rows(self._diagnostics / f"{name}.csv", rows)

    def diagnostic(self, name: str) -> list[Row]:
        """Return the rows of diagnostics/NAME.csv; raises BadInput if there is none."""
        path = self._diagnostics / f"{name}.csv"
        if not path.is_file():
            raise BadInput(f"There is no {path}: the run's method reports none, or no image was followed.")
        return _rows(path)

    def write_perturbations(self, epoch: int, tensors: Mapping[str, Tensor]) -> None:
        """Write diagnostics/perturbations-EPOCH.safetensors: what followed images were perturbed by."""
        with replacing(self._diagnostics / f"perturbations-{epoch:04}.safetensors") as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary)

    def perturbations(self) -> dict[int, dict[str, Tensor]]:
        """Return, by epoch, start (absent where a method has none), delta (B, C, H, W) in half precision and index (B,)."""
        files = sorted(self._diagnostics.glob("perturbations-*.safetensors"))
        return {int(path.stem.partition("-")[2]): load_file(path) for path in files}

    def tensorboard(self, epoch: int) -> SummaryWriter:
        """Return the TensorBoard log from this epoch on; what a resumed run had logged of it is superseded."""
        from torch.utils.tensorboard import SummaryWriter  # here, as it takes a second

        return SummaryWriter(self.folder / "tensorboard", purge_step=epoch)

    def export(self, network: nn.Module, description: ModelDescription) -> None:
        """Write `model.safetensors` and `model.yaml`, what `sparring evaluate` and users load."""
        models.save(network, self.folder, description)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the newest checkpoint."""
        checkpoint.save(state, self.last)

    def keep_as_best(self) -> None:
        """Make the newest checkpoint the best one too."""
        checkpoint.link(self.last, self.best)

    def _write(self, path: Path, text: str) -> None:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _rows(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        try:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        except (TypeError, ValueError) as error:  # a line that is too long or too short, or no numbers
            raise BadInput(f"{path} is damaged, it holds something that is no number: restore it.") from error


def _difference(kept: str, given: str) -> str | None:
    """Return the first line of the kept text that the given one has otherwise, both shown; None if they agree."""
    if kept == given:
        return None
    for old, new in zip(kept.splitlines(), given.splitlines(), strict=False):
        if old != new:
            return f"{old.strip()}, not {new.strip()}"
    return "they differ in length"
