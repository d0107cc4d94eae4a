"""Foolbox finds the same adversarial images from the same start."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import FGSM, PGD, draw_start
from sparring.data import Data, load
from sparring.models import create
from sparring.threat import Threat
from tests.attacks.harness import trained

with warnings.catch_warnings():
    # Foolbox 3.3.4, the last release, imports its blur attack from a module that SciPy has moved.
    warnings.filterwarnings("ignore", message=".*`scipy.ndimage` namespace", category=DeprecationWarning)
    import foolbox

COUNT = 64


@pytest.fixture(scope="module")
def subject() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learnt the digits well enough to be attacked, in double precision, and digits."""
    images = load(Data(limit=256, validation=0)).train
    torch.manual_seed(0)
    model = trained(create("smallconv", 10, channels=1, size=8, width=4), images, 20).double()
    x, y = images.pixels.double() / 255, images.labels
    assert (model(x).argmax(1) == y).double().mean() > 0.95
    return model, x[:COUNT], y[:COUNT]


CASES = {
    "Linf PGD": (foolbox.attacks.LinfPGD, "Linf", 0.1, 0.02, 10),
    "Linf PGD, small steps": (foolbox.attacks.LinfPGD, "Linf", 0.05, 0.003, 7),
    "L2 PGD": (foolbox.attacks.L2PGD, "L2", 0.4, 0.1, 10),
    "L2 PGD, large steps": (foolbox.attacks.L2PGD, "L2", 0.5, 1.0, 5),
}


@pytest.mark.parametrize(("theirs", "norm", "eps", "alpha", "steps"), CASES.values(), ids=CASES.keys())
def test_pgd_from_the_image_itself_equals_foolbox_s(subject, theirs, norm: str, eps, alpha, steps) -> None:
    """Foolbox takes all steps whatever happens, as `run` does."""
    model, x, y = subject
    attack = PGD(steps=steps, alpha=alpha, start="zero")
    ours = x + attack.run(model, x, attack.objective_for(y), Threat(norm, eps))
    rival = theirs(abs_stepsize=alpha, steps=steps, random_start=False)
    _, expected, fooled = rival(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=eps)

    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    wrong = model(ours).argmax(1) != y
    assert torch.equal(wrong, fooled)
    assert 0 < wrong.sum() < COUNT
    resting = model(attack(model, x, y, Threat(norm, eps))).argmax(1) != y
    assert not (wrong & ~resting).any()  # whom the last iterate fools, some iterate fools


def test_pgd_from_another_start_equals_foolbox_s(subject) -> None:
    """Given our random start, the rest of the way is the same."""
    model, x, y = subject
    threat = Threat("Linf", 0.1)
    start = draw_start("uniform", x, threat, threat.eps, torch.Generator().manual_seed(0))

    class FromOurStart(foolbox.attacks.LinfPGD):
        def get_random_start(self, x0, epsilon):
            return x0 + foolbox.attacks.gradient_descent_base.ep.astensor(start)

    attack = PGD(steps=5, alpha=0.025)
    ours = x + attack.run(model, x, attack.objective_for(y), threat, start=start)
    rival = FromOurStart(abs_stepsize=0.025, steps=5, random_start=True)
    _, expected, _ = rival(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=0.1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_fgsm_equals_foolbox_s(subject) -> None:
    model, x, y = subject
    rival = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    _, expected, fooled = rival(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=0.08)
    ours = FGSM()(model, x, y, Threat("Linf", 0.08))
    right = model(x).argmax(1) == y  # ours leaves the others alone
    torch.testing.assert_close(ours[right], expected[right], rtol=0, atol=1e-6)
    assert torch.equal((model(ours).argmax(1) != y)[right], fooled[right])
    assert 0 < fooled.sum() < COUNT
