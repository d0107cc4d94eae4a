"""Networks as a learner hands them to attacks: in the run's precision, and without BatchNorm where that may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.averaging import EMA
from sparring.learner import Learner
from sparring.models import create, foldable
from sparring.optimisation import Optimisation
from sparring.precision import InPrecision

NORMS = 4  # of the network below
SHAPE = (3, 8, 8)


@pytest.fixture
def norms(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """Counts the BatchNorms that something goes through."""
    passed = []
    original = F.batch_norm
    monkeypatch.setattr(F, "batch_norm", lambda *some, **more: passed.append(1) or original(*some, **more))

    def count(work: Callable[[], object]) -> int:
        passed.clear()
        work()
        return len(passed)

    return count


def learner(precision: str = "32-true", compiler: Callable | None = None) -> Learner:
    torch.manual_seed(0)
    network = create("smallconv", 5, size=8, width=4).train()
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    options = Optimisation(average=EMA(0.5))
    return Learner(network, options, fabric, 10, compiler=compiler, folds=foldable(network, SHAPE))


def images() -> Tensor:
    return torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("of", ["attack_model", "raw_model", "eval_model", "ahead"])
def test_attacks_in_evaluation_mode_meet_no_batchnorm(of: str, norms) -> None:
    subject = learner()
    model = subject.look_ahead().model if of == "ahead" else getattr(subject, of)

    def answer() -> Tensor:
        return model(images())

    for bn, left in (("eval", 0), ("train", NORMS), ("train_frozen_stats", NORMS)):
        with attackable(model, bn):
            assert norms(answer) == left
    assert norms(answer) == NORMS


def test_the_loss_goes_through_batchnorm(norms) -> None:
    subject = learner()
    with attackable(subject.attack_model, "eval"):
        pass
    assert norms(lambda: subject.model(images())) == NORMS


def test_compiled_networks_keep_theirs_but_not_when_evaluated(norms) -> None:
    subject = learner(compiler=lambda network: network)
    for model, left in (
        (subject.attack_model, NORMS),
        (subject.look_ahead().model, NORMS),
        (subject.eval_model, 0),
        (subject.raw_model, 0),
    ):
        with attackable(model, "eval"):
            assert norms(lambda model=model: model(images())) == left


def test_in_16_bits_the_weights_are_cast_once_for_all_passes() -> None:
    subject = learner("bf16-mixed")
    first = subject.network.get_submodule(foldable(subject.network, SHAPE)[0][0])
    with attackable(subject.attack_model, "eval"):
        assert first.forward.keywords["weight"].dtype == torch.bfloat16
        folded = subject.attack_model(images())
    assert folded.dtype == torch.float32
    assert first.weight.dtype == torch.float32
    exact = subject.network.eval()(images())
    torch.testing.assert_close(folded, exact, rtol=0.05, atol=0.05)
    assert not torch.equal(folded, exact)


def test_logits_come_back_in_the_precision_of_the_images() -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(F.linear(x.flatten(1), torch.ones(3, x[0].numel())).dtype)
            return x.flatten(1)[:, :3].bfloat16()

    logits = InPrecision(Spy(), fabric)(torch.rand(2, 1, 4, 4))
    assert seen == [torch.bfloat16]
    assert logits.dtype == torch.float32
