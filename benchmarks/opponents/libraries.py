"""PGD-50 by us, by Foolbox and by torchattacks, on the same network and images.

All take 50 steps of eps / 4 from a uniform start in Linf. Ours stops an image at its first misclassified iterate and checks
every iterate; the others take all steps and check the last one. They are given only the images that are correct to begin
with, which ours finds out for itself; that counts as part of their time, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.evaluation.parity import Question
from sparring.attacks import PGD
from sparring.errors import BadInput
from sparring.evaluation import Evaluator

STEPS = 50
Side = Callable[[Question], float]  # the accuracy that is left
Fools = Callable[[Tensor, Tensor], Tensor]  # images (B, C, H, W) and labels (B,) -> whether each was fooled, (B,)


def ours(question: Question) -> float:
    """Return an evaluation by PGD-50."""
    evaluator = Evaluator(
        question.model,
        question.images,
        question.threat,
        question.batch_size,
        question.device,
        question.seed,
        "exact",
    )
    return evaluator.under([PGD(STEPS)]).accuracy("1")


def by_foolbox(question: Question) -> float:
    """Return the accuracy under Foolbox's `LinfPGD`."""
    import foolbox  # here, because only this benchmark needs it

    model = foolbox.PyTorchModel(question.model, bounds=(0, 1), device=question.device)
    attack = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS, random_start=True)

    def fools(x: Tensor, y: Tensor) -> Tensor:
        _, _, success = attack(model, x, y, epsilons=float(question.threat.eps))
        return success

    return _accuracy(question, fools)


def by_torchattacks(question: Question) -> float:
    """Return the accuracy under torchattacks' `PGD`."""
    import torchattacks  # here, because it is not installed with the other packages: see `check`

    eps = float(question.threat.eps)
    attack = torchattacks.PGD(question.model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)

    def fools(x: Tensor, y: Tensor) -> Tensor:
        adversarial = attack(x, y)
        with torch.no_grad():
            return question.model(adversarial).argmax(1) != y

    return _accuracy(question, fools)


def check(names: Sequence[str]) -> None:
    """Raise BadInput if a library is missing."""
    if "torchattacks" in names:
        try:
            import torchattacks  # noqa: F401
        except ImportError as error:
            raise BadInput(
                f"torchattacks cannot be imported ({error}). As it asks for an old version of requests: pip install "
                "--no-deps --target FOLDER torchattacks, and put FOLDER on PYTHONPATH; or write --libraries foolbox."
            ) from error


LIBRARIES: dict[str, Side] = {"foolbox": by_foolbox, "torchattacks": by_torchattacks}


def _accuracy(question: Question, fools: Fools) -> float:
    """Return the accuracy after an attack on the images that are correct to begin with, batch by batch."""
    torch.manual_seed(question.seed)
    left = 0
    for batch in question.batches():
        with torch.no_grad():
            correct = question.model(batch.x).argmax(1) == batch.y
        if correct.any():
            left += int((~fools(batch.x[correct], batch.y[correct])).sum())
    return left / len(question.images)
