"""Attacks of Foolbox and of ART on the networks of `compare.py`: whom do they fool that our AutoAttack does not?

Who counts as fooled is misclassified by the network itself, within the radius and in the box, whatever a library says.
They take 100 to 500 steps or 2,000 queries; ART's ascents have five restarts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.evaluation import parity
from benchmarks.evaluation.parity import Question, share, within
from sparring.norms import NormName, by_norm

with warnings.catch_warnings():
    # Foolbox 3.3.4, the last release, imports its blur attack from a module that SciPy has moved.
    warnings.filterwarnings("ignore", message=".*`scipy.ndimage` namespace", category=DeprecationWarning)
    import foolbox
from art.attacks.evasion import AutoConjugateGradient, AutoProjectedGradientDescent, SquareAttack
from art.estimators.classification import PyTorchClassifier

STEPS = 100
QUERIES = 2000
Rival = Callable[[Question, Tensor, Tensor], Tensor]  # images (B, C, H, W), labels (B,) -> adversarial images


def rivals(norm: NormName) -> dict[str, Rival]:
    """Return the attacks of both libraries in this norm, by name."""
    by_foolbox = {f"Foolbox {name}": _by_foolbox(attack) for name, attack in _foolbox_attacks(norm).items()}
    by_art = {
        "ART APGD, cross-entropy": _by_art(AutoProjectedGradientDescent, loss_type="cross_entropy", **_ASCENT),
        "ART APGD, DLR": _by_art(AutoProjectedGradientDescent, loss_type="difference_logits_ratio", **_ASCENT),
        "ART ACG, DLR": _by_art(AutoConjugateGradient, loss_type="difference_logits_ratio", **_ASCENT),
    }
    if norm == "Linf":  # in L2, ART 1.20 divides by 0 once its squares have a side of 1
        by_art["ART Square"] = _by_art(SquareAttack, max_iter=QUERIES)
    return by_foolbox | by_art


def fooled(question: Question, rival: Rival) -> Tensor:
    """Return which images a rival fooled the network on, that it was right about: (N,) bool, on the CPU."""
    found = []
    for batch in question.batches():
        with torch.no_grad():
            right = question.model(batch.x).argmax(1) == batch.y
        wrong = torch.zeros_like(right)
        if right.any():
            x, y = batch.x[right], batch.y[right]
            torch.manual_seed(question.seed)
            np.random.seed(question.seed)  # ART knows no other way
            adversarial = rival(question, x, y)
            with torch.no_grad():
                wrong[right] = (question.model(adversarial).argmax(1) != y) & within(question.threat, adversarial, x)
        found.append(wrong.cpu())
    return torch.cat(found)


def beside(question: Question) -> dict[str, Any]:
    """Return the accuracies under our AutoAttack, its next seed, every rival and all of them, and whom each fools alone."""
    ours, again = (parity.ours(replace(question, seed=question.seed + more), "exact") for more in (0, 1))
    won = {name: fooled(question, rival) for name, rival in rivals(question.threat.norm).items()}
    together = torch.stack([*won.values()]).any(0)
    found = {"ours, next seed": again.fooled, **won, "Foolbox and ART together": together}
    return {
        "clean": share(ours.clean),
        "ours": share(ours.robust),
        "others": [
            {
                "name": name,
                "accuracy": share(ours.clean & ~rows),
                "alone": (ours.robust & rows).nonzero()[:, 0].tolist(),
                "missed": int((ours.fooled & ~rows).sum()),
            }
            for name, rows in found.items()
        ],
    }


def _foolbox_attacks(norm: NormName) -> dict[str, foolbox.attacks.base.Attack]:
    attacks = foolbox.attacks
    chosen: dict[NormName, dict[str, foolbox.attacks.base.Attack]] = {
        "Linf": {
            "PGD": attacks.LinfPGD(steps=STEPS, rel_stepsize=0.1),
            "Adam PGD": attacks.LinfAdamPGD(steps=STEPS, rel_stepsize=0.1),
            "FMN": attacks.LInfFMNAttack(steps=5 * STEPS),
            "DeepFool": attacks.LinfDeepFoolAttack(steps=STEPS),
        },
        "L2": {
            "PGD": attacks.L2PGD(steps=STEPS, rel_stepsize=0.1),
            "DDN": attacks.DDNAttack(steps=3 * STEPS),
            "FMN": attacks.L2FMNAttack(steps=5 * STEPS),
            "DeepFool": attacks.L2DeepFoolAttack(steps=STEPS),
        },
    }
    return by_norm(chosen, norm, "The comparison with Foolbox and ART")


def _by_foolbox(attack: foolbox.attacks.base.Attack) -> Rival:
    def attacked(question: Question, x: Tensor, y: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(question.model, bounds=(0, 1), device=question.device)
        images: Tensor = attack(model, x, y, epsilons=float(question.threat.eps))[1]
        return images

    return attacked


_ASCENT = {"max_iter": STEPS, "nb_random_init": 5}


def _by_art(attack: type, **settings: str | int) -> Rival:
    def attacked(question: Question, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            classes = question.model(x[:1]).shape[1]
        eps, (norm, device) = float(question.threat.eps), _in_their_words(question)
        estimator = PyTorchClassifier(
            question.model,
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(x.shape[1:]),
            nb_classes=classes,
            clip_values=(0, 1),
            device_type=device,
        )
        sizes = {"eps_step": 2 * eps} if "nb_random_init" in settings else {}
        crafting = attack(estimator, norm=norm, eps=eps, batch_size=len(x), verbose=False, **sizes, **settings)
        return torch.from_numpy(crafting.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)

    return attacked


def _in_their_words(question: Question) -> tuple[float, str]:
    """Return the norm and the device."""
    return math.inf if question.threat.norm == "Linf" else 2, "gpu" if question.device.startswith("cuda") else "cpu"
