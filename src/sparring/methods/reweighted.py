"""MART and GAIRAT: images count for more the closer they are to being misclassified."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import PGD, Ascent
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.losses import boosted_cross_entropy, cross_entropy, kl_divergence
from sparring.methods.base import Loss, Perturbation, Phase, Task, Traits
from sparring.methods.empirical import Attacked
from sparring.threat import Budget, Ratio


@dataclass
class MART(Attacked):
    """Misclassification-aware adversarial training (Wang et al., ICLR 2020).

    BCE(f(x + delta), y) + beta KL(f(x) || f(x + delta)) (1 - p_y(x)), with gradients through all of it;
    BCE = -log p_y - log(1 - max_{k != y} p_k).

    Args:
        attack: see `Attacked`.
        beta: weight of the divergence, at least 0.
        padding: the released code's constants: 1.0001 for 1 in the logarithm, and 1.0000001 in the weight.

    Raises:
        BadInput: a negative beta.
    """

    attack: PGD = field(default_factory=lambda: PGD(start="normal", bn="eval"))
    beta: float = 5.0
    padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise BadInput(f"MART needs beta >= 0, not {self.beta}.")

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: Phase = None) -> Loss:
        """Return the loss above."""
        clean = model(batch.x)
        adversarial = model(batch.x + perturbation.delta)
        boosted = boosted_cross_entropy(adversarial, batch.y, 1e-4 if self.padding else 0.0).mean()
        certainty = clean.softmax(1).gather(1, batch.y[:, None])[:, 0]  # (B,), p_y(x)
        doubt = (1.0000001 if self.padding else 1.0) - certainty
        divergence = kl_divergence(clean, adversarial) * doubt
        beta = self.beta if perturbation.weight is None else perturbation.weight
        terms = {"boosted": boosted.detach(), "divergence": divergence.detach().mean()}
        return Loss(boosted + (beta * divergence).mean(), adversarial, terms)

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), accepts_weight=True)


@dataclass(frozen=True)
class CountedPerturbation(Perturbation):
    """A perturbation, and how long its image held out."""

    kappa: Tensor = field(kw_only=True)  # (B,), how many of the attack's iterates were classified correctly


@dataclass
class GAIRAT(Attacked):
    """Geometry-aware instance-reweighted adversarial training (Zhang et al., ICLR 2021).

    kappa counts the iterates of a K-step attack, its start among them and its end not, that are classified correctly. From
    the fraction `begin` of the run on, an image's cross-entropy is weighted by
    w = (1 + tanh(shift + 5 (1 - 2 kappa / K))) / 2, over the batch's mean of w; before, all count alike.

    Args:
        attack: see `Attacked`.
        shift: lambda, in [-20, 20]; the larger, the flatter the weights.
        begin: as a fraction of the run, in [0, 1].

    Raises:
        BadInput: a `begin` or a shift outside these.
    """

    attack: PGD = field(default_factory=lambda: PGD(bn="eval"))
    shift: float = -1.0
    begin: Ratio = field(default_factory=lambda: Ratio("60/120"))
    _epochs: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.begin = Ratio(self.begin)
        if not 0 <= self.begin <= 1:
            raise BadInput(f"GAIRAT's begin is a fraction of the run in [0, 1], not {self.begin}: write 60/120.")
        if not -20 <= self.shift <= 20:  # beyond, float32 has no weights left
            raise BadInput(f"GAIRAT's shift must lie in [-20, 20], not {self.shift}.")

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), accepts_budget=False)  # kappa is of attacks of one length

    @override
    def setup(self, task: Task) -> None:
        super().setup(task)
        self._epochs = task.epochs

    @override
    def phase(self, epoch: int, step: int) -> bool:
        """Return whether images are weighted in this epoch."""
        return epoch >= self.begin.exact * self._epochs

    def perturb(
        self, model: nn.Module, batch: Batch, phase: Phase = None, budget: Budget | None = None
    ) -> CountedPerturbation:
        """Return the attack of adversarial training, which counts kappa on its way."""
        kappa = torch.zeros_like(batch.x[:, 0, 0, 0])

        def count(ascent: Ascent) -> Tensor:
            kappa.add_(ascent.logits.argmax(1) == batch.y)
            return torch.ones_like(batch.y, dtype=torch.bool)

        budget = replace(budget or self.attack.budget(self._threat), keep_going=count)
        found = super().perturb(model, batch, phase, budget)
        return CountedPerturbation(found.delta, found.start, kappa=kappa)

    def loss(self, model: nn.Module, batch: Batch, perturbation: Perturbation, phase: bool | None = None) -> Loss:
        """Compute the weighted cross-entropy above."""
        assert isinstance(perturbation, CountedPerturbation)
        logits = model(batch.x + perturbation.delta)
        values = cross_entropy(logits, batch.y)
        if self.phase(0, 0) if phase is None else phase:
            values = values * self.weights(perturbation.kappa)
        return Loss(values.mean(), logits)

    def weights(self, kappa: Tensor) -> Tensor:
        """Return what images with these kappa (B,) count, (B,); the mean over the batch, of all ranks, is 1."""
        # (1 + tanh(a)) / 2 = sigmoid(2 a), which does not cancel where tanh is close to -1.
        weight = torch.sigmoid(2 * (self.shift + 5 * (1 - 2 * kappa / self.attack.steps)))
        return weight * ranks.count() / ranks.total(weight.mean())
