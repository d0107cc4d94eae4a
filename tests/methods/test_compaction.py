"""Images whose attack is finished leave the batch: what is found and counted stays the same, and costs what it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import PGD, BatchNormMode
from sparring.methods import AWP, CKPT, DART, FAT, GAIRAT, LAS, SAT, AdversarialTraining, Method, Reward
from sparring.methods.las import StrategicPerturbation
from sparring.threat import Budget
from sparring.training.cost import step_cost
from tests.methods import harness
from tests.methods.curricula import K, at, constantly, dart, mart, trades, trades_from_afar
from tests.methods.harness import train_on
from tests.methods.reference import batches, experienced
from tests.methods.strategies import ACTIONS, OTHER, SMALL


def _sat(inner: Method) -> SAT:
    return SAT(inner, gap=constantly(0.2))


def _las(inner: Method, **switches: object) -> LAS:
    chosen = {"actions": ACTIONS, "policy_network": SMALL, "reward": Reward(other=OTHER), "interval": 2}
    return LAS(inner, **(chosen | switches))


COMPOSITIONS: dict[str, Callable[[], Method]] = {
    "FAT(AT)": lambda: FAT(at()),
    "FAT(TRADES)": lambda: FAT(trades()),
    "FAT(MART)": lambda: FAT(mart()),
    "SAT(AT)": lambda: _sat(at()),
    "SAT(TRADES)": lambda: _sat(trades()),
    "SAT(MART)": lambda: _sat(mart()),
    "DART(AT)": lambda: dart(at()),
    "DART(AT), from the start": lambda: DART(at(), threshold=2.0, origin="start"),
    "DART(TRADES)": lambda: DART(trades_from_afar(), threshold=0.5),
    "DART(MART)": lambda: dart(mart()),
    "FAT(SAT(AT))": lambda: FAT(_sat(at()), milestones=("0",)),
    "SAT(FAT(MART))": lambda: _sat(FAT(mart(), milestones=("0",))),
    "AWP(FAT(AT))": lambda: AWP(FAT(at())),
    "FAT(AWP(TRADES))": lambda: FAT(AWP(trades())),
    "LAS(FAT(AT))": lambda: _las(FAT(at())),
    "LAS(SAT(TRADES))": lambda: _las(_sat(trades()), actions=replace(ACTIONS, beta=(3.0, 5.0))),
    "LAS(DART(MART)), uniform": lambda: _las(dart(mart()), policy="uniform"),
    "LAS(FAT(SAT(AT)))": lambda: _las(FAT(_sat(at()), milestones=("0",))),
}


@pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
@pytest.mark.usefixtures("double_precision")
def test_two_epochs_are_the_same_whether_stopped_images_leave_or_stay(make: Callable[[], Method]) -> None:
    """Perturbations and steps of each image to 1e-12, what is reported, and the networks after eight steps."""
    methods = {compact: make() for compact in (False, True)}
    subjects = {compact: experienced()[0] for compact in methods}
    for compact, method in methods.items():
        torch.manual_seed(0)
        method.setup(harness.task(compact=compact))
    sizes, taken = [], set()
    for epoch in (1, 2):
        for method in methods.values():
            method.begin_epoch(epoch)
        for number, batch in enumerate(batches(epoch)):
            found = {}
            for compact, method in methods.items():
                subject = subjects[compact]
                torch.manual_seed(number)
                with attacked_batches(subject.attack_model) as seen:
                    found[compact] = method.perturb(subject.attack_model, batch)
                if compact:
                    sizes += seen
                torch.manual_seed(number)
                train_on(method, subject, batch)
            torch.testing.assert_close(found[True].delta, found[False].delta, rtol=0, atol=1e-12)
            assert torch.equal(found[True].steps, found[False].steps)
            taken |= set(found[True].steps.tolist())
        for name, value in methods[False].metrics().items():
            torch.testing.assert_close(methods[True].metrics()[name], value, rtol=0, atol=1e-10, equal_nan=True)
    for name, value in subjects[False].network.state_dict().items():
        torch.testing.assert_close(subjects[True].network.state_dict()[name], value, rtol=0, atol=1e-10)
    assert len(taken) >= 3
    assert min(sizes) < harness.BATCH


@pytest.mark.parametrize("name", ["FAT(AT)", "FAT(TRADES)", "FAT(MART)", "LAS(FAT(SAT(AT)))"])
def test_images_leave_in_mixed_precision_too(name: str) -> None:
    subject = harness.bench(COMPOSITIONS[name](), precision="bf16-mixed", compact=True)
    with attacked_batches(subject.learner.attack_model) as sizes:
        losses = [loss.total for loss in subject.steps(0, 3)]
    assert all(loss.isfinite() for loss in losses)
    assert min(sizes) < harness.BATCH


@contextmanager
def attacked_batches(model: nn.Module) -> Iterator[list[int]]:
    """How many images each forward pass with a gradient to the images had."""
    sizes: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            sizes.append(len(inputs[0]))

    handle = model.register_forward_pre_hook(note)
    yield sizes
    handle.remove()


# What it costs ---------------------------------------------------------------------------------------------------------

# The method, and what a step costs but for the passes of the attack. A network hardly trained is steep: a high threshold.
COSTS = {
    "FAT(AT)": (COMPOSITIONS["FAT(AT)"], 3),
    "FAT(TRADES)": (COMPOSITIONS["FAT(TRADES)"], 1 + 6),
    "FAT(MART)": (COMPOSITIONS["FAT(MART)"], 6),
    "SAT(AT)": (COMPOSITIONS["SAT(AT)"], 3),
    "DART(AT)": (lambda: DART(at(), threshold=400.0), 3),
    "FAT(SAT(AT))": (COMPOSITIONS["FAT(SAT(AT))"], 3),
    "LAS(FAT(AT)), uniform": (lambda: _las(FAT(at()), policy="uniform"), 3),
}


@pytest.mark.parametrize(("make", "rest"), COSTS.values(), ids=COSTS.keys())
def test_a_step_costs_what_its_attacks_need(make: Callable[[], Method], rest: float) -> None:
    """Within 1%: an image is looked at once more than it moves, unless it has no steps left. Masked, all always are."""
    costs = {}
    for compact in (False, True):
        subject = harness.bench(make(), name="resnet18", width=16, compact=compact)
        subject.steps(0, 8)
        subject.method.begin_epoch(2)
        batch = harness.batches(2)[0]
        torch.manual_seed(0)
        found = subject.method.perturb(subject.learner.attack_model, batch)
        torch.manual_seed(0)
        costs[compact] = step_cost(subject.method, subject.learner, batch)
        rounds, most = K, torch.tensor(K)
        if isinstance(found, StrategicPerturbation):
            rounds, most = max(ACTIONS.steps), torch.tensor(ACTIONS.steps)[found.choice["steps"]]
        needed = torch.minimum(found.steps + 1, most).mean().item() if compact else rounds
        assert costs[compact] == pytest.approx(rest + 2 * needed, rel=0.01)
    assert costs[True] < 0.8 * costs[False]


# Where nobody leaves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [FAT, _sat, dart, lambda inner: _las(FAT(inner))], ids=["FAT", "SAT", "DART", "LAS"])
@pytest.mark.parametrize("bn", ["train", "train_frozen_stats"])
@pytest.mark.usefixtures("double_precision")
def test_where_images_influence_each_other_none_leaves(wrap: Callable[[Method], Method], bn: BatchNormMode) -> None:
    """Bit for bit the masked attack: with batch statistics a smaller batch would be another network."""
    found = []
    for compact in (False, True):
        model, method = experienced()[0].attack_model, wrap(AdversarialTraining(replace(at().attack, bn=bn)))
        torch.manual_seed(0)
        method.setup(harness.task(compact=compact))
        method.begin_epoch(1)
        with attacked_batches(model) as sizes:
            found.append(method.perturb(model, batches()[0], method.phase(1, 0)))
        assert set(sizes) == {harness.BATCH}
    assert torch.equal(found[0].delta, found[1].delta)
    assert len(found[1].steps.unique()) > 1


@pytest.mark.parametrize("make", [lambda: GAIRAT(PGD(steps=K, alpha=0.04)), CKPT], ids=["GAIRAT", "CKPT"])
def test_a_rule_that_only_watches_sends_nobody_away(make: Callable[[], Method]) -> None:
    """GAIRAT counts correct iterates, CKPT looks at the start: of all images, also where those could leave."""
    subject, batch, found = harness.bench(make()), harness.batches()[0], []
    for compact in (False, True):
        torch.manual_seed(0)
        with attacked_batches(subject.learner.attack_model) as sizes:
            budget = Budget(0.1, 0.04, K, compact=compact)
            found.append(subject.method.perturb(subject.learner.attack_model, batch, budget=budget))
        assert set(sizes) == {harness.BATCH}
    assert harness.identical(*map(vars, found))
