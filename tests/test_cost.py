"""What methods cost in forward passes: the minimum, and not more."""

from dataclasses import dataclass

import pytest
import torch
from lightning_fabric import Fabric

from sparring.attacks import PGD
from sparring.data import Augment, Batch, Images, Resident
from sparring.learner import Learner
from sparring.losses import cross_entropy
from sparring.methods import AWP, BP, EP, MEP, TRADES, AdversarialTraining, Perturbation, Standard, Task
from sparring.models import create
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training import Runtime, Session
from sparring.training.cost import Calls, step_cost
from tests.methods.cases import released_mep

SAMPLES = 4
TASK = Task(
    threat=Threat(),
    samples=SAMPLES,
    shape=(3, 32, 32),
    canvas=(3, 40, 40),
    classes=10,
    batch_size=SAMPLES,
    epochs=1,
    device=torch.device("cpu"),
)


def pgd_training(steps):
    return AdversarialTraining(PGD(steps=steps, bn="train"))


def trades(steps):
    return TRADES(attack=PGD(steps=steps, start="normal", bn="eval"))


# One forward is 1, a backward to the images 1 and a backward to the weights 2.
MINIMA = [
    (Standard(), 3),
    (pgd_training(1), 5),  # FGSM-AT, FGSM-RS
    (pgd_training(2), 2 * 2 + 3),
    (pgd_training(10), 2 * 10 + 3),
    (trades(2), 2 * 2 + 7),  # clean prediction once, and a loss of two forwards
    (trades(10), 2 * 10 + 7),
    (AWP(Standard()), 3 + 3),  # AWP: the inner loss once more
    (AWP(pgd_training(2)), 7 + 3),
    (AWP(trades(2)), 11 + 6),
    (AWP(MEP()), 8 + 6),
    (BP(), 7),  # start 1, to its pixels 1, perturbed image 1, to the weights through both 4
    (EP(), 7),
    (MEP(), 7),
    (MEP(momentum="gradient", regulariser="mean", aligned=False, box="final"), 7),
    (MEP(detach_start=True), 5),
    (MEP(weight=0), 5),
]


def cost(method):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    learner = Learner(create("resnet18", 10, width=8), Optimisation(), fabric, total=10)
    learner.network.train()
    view = Augment(pad=4, flip=True).draw(SAMPLES, (32, 32))
    batch = Batch(torch.rand(SAMPLES, 3, 32, 32), torch.arange(SAMPLES), torch.arange(SAMPLES), view)
    method.setup(TASK)
    method.begin_epoch(0)
    units = step_cost(method, learner, batch)
    assert learner.steps == 1  # a whole step was counted, the optimizer's included
    return units


@pytest.mark.parametrize(("method", "minimum"), MINIMA, ids=lambda value: str(value)[:60])
def test_a_step_costs_the_minimum(method, minimum):
    assert cost(method) == pytest.approx(minimum, rel=0.01)


@dataclass
class Wasteful(AdversarialTraining):
    """Backpropagates into the weights during the attack, as research scripts do."""

    def perturb(self, model, batch, phase=None, budget=None):
        delta = torch.zeros_like(batch.x, requires_grad=True)
        cross_entropy(model(batch.x + delta), batch.y).sum().backward()
        return Perturbation(self._threat.eps * delta.grad.sign())


def test_weight_gradients_in_the_attack_are_noticed():
    assert cost(Wasteful()) == pytest.approx(6, rel=0.01)
    assert cost(Wasteful()) > 1.1 * cost(pgd_training(1))


@dataclass
class Repetitive(TRADES):
    """Predicts the clean images again, although the prediction is already there."""

    def perturb(self, model, batch, phase=None, budget=None):
        with torch.no_grad():
            model(batch.x)
        return super().perturb(model, batch, phase, budget)


def test_one_forward_too_many_is_noticed():
    attack = trades(2).attack
    assert cost(Repetitive(attack=attack)) - cost(TRADES(attack=attack)) == pytest.approx(1)


def calls(method, batch_size: int) -> Calls:
    """Of a step of ResNet-18 as a run arranges it."""
    pixels = torch.randint(0, 256, (2 * batch_size, 3, 32, 32), dtype=torch.uint8)
    images = Images(pixels, torch.arange(len(pixels)) % 10, torch.arange(len(pixels)))
    data = Resident(images, Augment(pad=4, flip=True), batch_size, seed=0, device="cpu")
    options, runtime = Optimisation(batch_size=batch_size), Runtime(accelerator="cpu", level="eager")
    session = Session(method, create("resnet18", 10, width=8), data, Threat(), options, runtime)
    session.begin_epoch()
    first, second = session.draws()
    session.step(first)
    with Calls() as counted:
        session.step(second)
    return counted


@pytest.mark.parametrize("batch_size", [4, 16])
@pytest.mark.parametrize(
    "method",
    [MEP(momentum="sign"), MEP(), released_mep(), MEP(memory="int8")],
    ids=["printed", "default", "released", "int8"],
)
def test_a_step_of_mep_calls_few_operators_besides_the_network_s_own(method, batch_size: int) -> None:
    """Batch, attack, loss, optimizer and memory; the released code calls 1043 at 128 images, 509 of them to crop."""
    counted = calls(method, batch_size)
    assert counted.around_the_network <= 220
    # Of 20 convolutions: start and perturbed images; back to the start's pixels, and through both to the weights.
    assert counted.by_name["convolution"] == 2 * 20
    assert counted.by_name["convolution_backward"] == 3 * 20
    assert counted.total == calls(method, 2 * batch_size).total


def test_counting_leaves_modes_and_gradient_flags_alone():
    network = create("smallconv", 10, width=4)
    network.network.requires_grad_(True).train()
    learner = Learner(network, Optimisation(), Fabric(accelerator="cpu", devices=1), total=10)
    before = {name: module.training for name, module in network.named_modules()}
    view = Augment().identity(SAMPLES, (32, 32))
    batch = Batch(torch.rand(SAMPLES, 3, 32, 32), torch.arange(SAMPLES), torch.arange(SAMPLES), view)
    step_cost(Standard(), learner, batch)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert all(parameter.requires_grad for parameter in network.parameters())
