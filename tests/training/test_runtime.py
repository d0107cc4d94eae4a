"""Which level a run has and why, where finished images leave the batch, and what is done to a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparring.attacks import PGD
from sparring.errors import BadInput
from sparring.methods import (
    AWP,
    FAT,
    GAT,
    LAS,
    MEP,
    TRADES,
    AdversarialTraining,
    GradAlign,
    Method,
    NuAT,
)
from sparring.models import create, foldable
from sparring.training import Runtime
from sparring.training.acceleration.compile import Compiler
from sparring.training.acceleration.cuda_graph import CudaCapturer
from sparring.training.acceleration.plan import Plan, units
from sparring.training.cost import forward_operations, step_cost
from tests.methods import harness

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LONG, SHORT = 1e21, 1e12  # operations of a run that takes weeks, and of one of seconds


def plan(runtime: Runtime, device: torch.device, method: Method | None = None, operations: float = LONG) -> Plan:
    method = method or MEP()
    return runtime.plan(device, method, create("resnet18", 10, width=8), lambda: operations / units(method.traits()))


@pytest.mark.parametrize(
    ("runtime", "device", "operations", "expected"),
    [
        (Runtime(), CPU, LONG, "compile"),
        (Runtime(), CPU, SHORT, "eager"),
        (Runtime(precision="bf16-mixed"), CPU, LONG, "eager"),  # compiling gains nothing there
        (Runtime(), GPU, LONG, "compile+graph"),
        (Runtime(), GPU, SHORT, "graph"),
        (Runtime(level="eager"), GPU, LONG, "eager"),
        (Runtime(level="compile"), GPU, SHORT, "compile"),
        (Runtime(level="graph"), GPU, LONG, "graph"),
        (Runtime(level="compile+graph"), GPU, SHORT, "compile+graph"),
        (Runtime(compact=True), GPU, LONG, "eager"),
    ],
)
def test_the_level_is_the_fastest_that_pays(runtime: Runtime, device: torch.device, operations, expected) -> None:
    assert plan(runtime, device, operations=operations).name == expected


@pytest.mark.parametrize(
    ("method", "device", "expected", "why"),
    [
        (GradAlign(), CPU, "eager", "GradAlign differentiates the network twice"),
        (AWP(GradAlign()), GPU, "graph", "AWP differentiates the network twice"),
        (NuAT(), GPU, "compile", "pays"),
        (GAT(), GPU, "compile+graph", "pays"),
        (FAT(AdversarialTraining()), CPU, "eager", "leave the batch"),
        (FAT(AdversarialTraining()), GPU, "compile+graph", "pays"),
        (AWP(LAS(AdversarialTraining())), CPU, "eager", "leave the batch"),
        (TRADES(), GPU, "compile+graph", "pays"),
    ],
)
def test_what_a_method_cannot_have_is_left_out(method: Method, device: torch.device, expected: str, why: str) -> None:
    chosen = plan(Runtime(), device, method)
    assert chosen.name == expected
    assert why in chosen.reason


@pytest.mark.parametrize(
    ("method", "name", "expected"),
    [
        (TRADES(), "resnet18", "eager"),
        (AWP(AdversarialTraining(PGD(bn="eval"))), "resnet18", "eager"),
        (TRADES(), "preactresnet18", "compile"),  # half of its norms are no convolution's
        (TRADES(attack=PGD(steps=1, start="normal")), "resnet18", "compile"),
        (GAT(), "resnet18", "compile"),  # one step, and a loss of two passes
        (AdversarialTraining(PGD(bn="train")), "resnet18", "compile"),
    ],
)
def test_where_an_attack_folds_batchnorm_away_compiling_has_little_to_gain(method, name, expected) -> None:
    network = create(name, 10, width=8)
    chosen = Runtime().plan(CPU, method, network, lambda: LONG, foldable(network, (3, 32, 32)))
    assert chosen.name == expected
    assert ("fold BatchNorm away" in chosen.reason) == (expected == "eager")
    assert Runtime().plan(CPU, method, network, lambda: LONG).name == "compile"  # nothing is folded


def test_a_level_that_was_asked_for_falls_back_with_the_reason() -> None:
    chosen = plan(Runtime(level="compile+graph"), GPU, NuAT())
    assert chosen.name == "compile"
    assert "NuAT makes the host wait" in chosen.reason
    chosen = plan(Runtime(level="compile"), CPU, GradAlign())
    assert chosen.name == "eager"
    assert "differentiates the network twice" in chosen.reason


def test_operations_are_counted_only_where_the_answer_depends_on_them() -> None:
    def never() -> float:
        raise AssertionError

    network = create("smallconv", 10, width=4)
    for runtime in (Runtime(level="eager"), Runtime(level="compile"), Runtime(compact=True)):
        runtime.plan(CPU, MEP(), network, never)
    Runtime().plan(CPU, GradAlign(), network, never)


def test_who_keeps_all_images_may_have_them_compiled() -> None:
    assert plan(Runtime(compact=False), CPU, FAT(AdversarialTraining(PGD(bn="train")))).name == "compile"


def test_the_arithmetic_is_said() -> None:
    reason = plan(Runtime(), GPU, operations=6e17).reason
    # 0.6 EFLOP at the GPU's estimated 60 TFLOP/s are 10,000 s, of which a fifth is saved; 3 s for each of 21 layers.
    assert reason == (
        "compiling pays: it takes about 63 s and saves about 2000 s of 10000 s (600 PFLOP at 60 TFLOP/s, 1.25x when "
        "compiled)"
    )


def test_without_a_compiler_of_cpp_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    chosen = plan(Runtime(), CPU)
    assert chosen.name == "eager"
    assert "no C++ compiler 'no-such-compiler'" in chosen.reason


def test_a_graph_needs_a_gpu() -> None:
    for level in ("graph", "compile+graph"):
        with pytest.raises(BadInput, match=rf"runtime.level {level.replace('+', '.')} needs a GPU"):
            plan(Runtime(level=level), CPU)


def test_leaving_the_batch_and_a_fixed_batch_exclude_each_other() -> None:
    for level in ("compile", "graph", "compile+graph"):
        with pytest.raises(BadInput, match="leave one of the two out"):
            Runtime(level=level, compact=True)


@pytest.mark.parametrize(
    ("compact", "device", "chosen", "expected"),
    [
        (None, CPU, Plan(), True),
        (None, CPU, Plan(compiled=True), False),
        (None, GPU, Plan(), False),
        (False, CPU, Plan(), False),
        (True, GPU, Plan(), True),
    ],
)
def test_finished_images_leave_where_nobody_waits_for_the_device(compact, device, chosen, expected) -> None:
    assert Runtime(compact=compact).compacts(device, chosen) is expected


def test_a_plan_makes_what_it_names() -> None:
    assert Plan().compiler() is None
    assert Plan().capturer(GPU) is None
    assert isinstance(Plan(compiled=True).compiler(), Compiler)
    if torch.cuda.is_available():
        assert isinstance(Plan(captured=True).capturer(GPU), CudaCapturer)


def test_batches_are_not_counted_where_nothing_reads_the_count() -> None:
    network = Runtime(accelerator="cpu").arrange(create("smallconv", 10, width=4)).train()
    network(torch.rand(2, 3, 32, 32))
    assert not [name for name in network.state_dict() if name.endswith("num_batches_tracked")]
    counted = nn.BatchNorm2d(3, momentum=None)  # its running statistics are means over the batches seen
    Runtime(accelerator="cpu").arrange(counted.train())(torch.rand(2, 3, 4, 4))
    assert counted.num_batches_tracked == 1


def test_planning_takes_no_step() -> None:
    """Weights, statistics and random numbers are what they would be without."""
    subject = harness.network()
    before = {name: value.clone() for name, value in subject.state_dict().items()}
    torch.manual_seed(3)
    count = forward_operations(subject, (1, 8, 8))
    drawn = torch.rand(())
    torch.manual_seed(3)
    assert drawn == torch.rand(())
    assert all(torch.equal(value, before[name]) for name, value in subject.state_dict().items())
    assert forward_operations(harness.network(width=8), (1, 8, 8)) > 2 * count


@pytest.mark.parametrize("method", [AdversarialTraining(), AdversarialTraining(PGD(steps=1)), TRADES(), GAT(), MEP()])
def test_the_estimate_of_a_step_is_near_what_it_costs(method: Method) -> None:
    """It only decides whether a minute of compiling pays: within a third."""
    subject = harness.bench(method, name="resnet18", width=16)
    subject.session.begin_epoch()
    exact = step_cost(method, subject.learner, harness.batches()[0])
    assert units(method.traits()) == pytest.approx(exact, rel=1 / 3)
