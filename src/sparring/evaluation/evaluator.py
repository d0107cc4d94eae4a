"""How often a network is right: on clean images, under each attack, and under the worst of them for each image.

Noise belongs to the image, not to the batch, so the figures do not depend on the batch size, on the other attacks, or on
how many processes share the images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sparring.attacks import Attack, attackable
from sparring.choices import check_choices
from sparring.data import Images, batches
from sparring.errors import BadInput, shown
from sparring.evaluation.naming import Attacks, NamedAttack, with_names
from sparring.evaluation.network import Precision, check_batch_size, check_device, check_precision
from sparring.evaluation.outcome import CLEAN, OnProgress, Outcomes, silent
from sparring.evaluation.progress import Checkpoint, fingerprint
from sparring.evaluation.running import EvaluationRun
from sparring.models.weights import tensor_bytes
from sparring.precision import full_precision
from sparring.randomness import check_seed, repeatable
from sparring.threat import Threat, check_threat

_ASKED = 16  # images whose logits tell a network from others


@dataclass(frozen=True)
class Evaluator:
    """A network, the images that it is evaluated on, and what the adversary may do: figures without a record.

    `evaluate` is the whole of it, with the checks before, the record and what is suspicious after. Several processes
    (`torch.distributed`) share the images, and all of them get the whole result.

    Args:
        model: returns logits (B, K) of images in [0, 1]; its modes are left as they were.
        images: the split; an image's noise is a function of its index in it.
        threat: what the adversary may do.
        batch_size: images at a time, fewer where they do not fit into memory; no figure depends on it.
        device: where the model is.
        seed: of the attacks' random starts.
        precision: exact searches in single precision, search16 in 16 bits, both on a faster form of the network that has
            been compared with it (`optimised.py`), and the network itself confirms every success in single precision; None
            searches the network as it is.
        keep: whether the outcomes hold the adversarial images.
    """

    model: nn.Module
    images: Images
    threat: Threat
    batch_size: int = 256
    device: torch.device | str = "cpu"
    seed: int = 0
    precision: Precision | None = None
    keep: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.images, Images):
            raise BadInput(f"The images are {shown(self.images)}: give Images(pixels, labels).")
        check_threat(self.threat)
        if len(self.images) == 0:
            raise BadInput("There are no images to evaluate on: give at least one.")
        check_precision(self.precision)
        check_choices(self)
        check_batch_size(self.batch_size)
        check_device(self.device)
        check_seed(self.seed)

    def run(self, attacks: Attacks, progress: OnProgress = silent, checkpoint: Checkpoint | None = None) -> Outcomes:
        """Return the accuracy under each of the attacks, `clean` among them.

        An attack is run on the images that are classified correctly to begin with; the others count as wrong. `progress`
        is told how far each attack is. With a checkpoint the evaluation goes on where an earlier process was stopped,
        with that one's random states, and puts back the caller's at the end; the caller removes it once the result is
        safe. Raises BadInput for what is no attack, before anything is computed, for attacks that need more classes, and
        for a network whose logits are not numbers.
        """
        return EvaluationRun(self, progress, checkpoint).outcomes(with_names(attacks))

    def under(self, attacks: Sequence[Attack]) -> Outcomes:
        """Return the accuracy on clean images and under each of these attacks, which are called by their numbers from 1."""
        numbered = [NamedAttack(str(number), attack) for number, attack in enumerate(attacks, 1)]
        return EvaluationRun(self, silent, None).outcomes([NamedAttack(CLEAN, None), *numbered])

    def predictions(self, x: Tensor) -> Tensor:
        """Return the classes (N,) that the network gives images (N, C, H, W), both on the CPU."""
        parts = []
        with attackable(self.model, "eval"), torch.no_grad(), full_precision():
            for part in torch.split(x, self.batch_size):
                parts.append(self.model(part.to(self.device)).argmax(1).cpu())
        return torch.cat(parts)

    def answers(self) -> str:
        """Return hexadecimal digits that stand for the network's logits of some images.

        They tell apart networks of the same weights that compute differently, by a constant in their code for instance.
        """
        x = next(batches(self.images, min(_ASKED, len(self.images)), self.device)).x
        with attackable(self.model, "eval"), torch.no_grad(), repeatable(self.seed, x.device), full_precision():
            logits: Tensor = self.model(x)
        return hashlib.sha256(tensor_bytes(logits)).hexdigest()[:16]

    def checkpoint(self, path: Path, attacks: Attacks) -> Checkpoint | None:
        """Return where to keep this evaluation by these attacks while it runs, beside the file `path`.

        None where a function among the attacks holds what another process cannot recognise, such as a generator, a lock or
        a lazily filled cache: an evaluation that goes on might go on with another function.
        """
        chosen = [named.identity for named in with_names(attacks)]
        if None in chosen:
            return None
        pixels = hashlib.sha256(self.images.pixels.numpy().tobytes()).hexdigest()
        said = [str(value) for value in (self.threat, self.seed, self.precision, self.keep, chosen)]
        labels = [str(value.tolist()) for value in (self.images.labels, self.images.index)]
        return Checkpoint(path, fingerprint(self.model, pixels, *labels, *said, self.answers()))
