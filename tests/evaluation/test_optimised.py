"""The form of a network that searches run: whatever the network does, verdicts are those of the network itself."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sparring.attacks import APGD, PGD, attackable
from sparring.data import Images
from sparring.evaluation import Evaluator, evaluate, running
from sparring.evaluation.doctor import diagnose
from sparring.evaluation.optimised import ITSELF, Form, agrees, forms, logits_agree
from sparring.threat import Threat

LINF = Threat("Linf", 0.02)


class Net(nn.Module):
    """Convolution, norm, ReLU, twice, with statistics that matter."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12)]
        )
        self.head = nn.Linear(12, 4)
        with torch.no_grad():
            for norm in (self.layers[1], self.layers[3]):
                norm.running_mean.normal_(0, 0.5)
                norm.running_var.uniform_(0.3, 2)
                norm.weight.uniform_(0.5, 2)
                norm.bias.normal_()
            self.head.weight *= 8

    def forward(self, x: Tensor) -> Tensor:
        one, first, other, second = self.layers
        return self.end(second(other(first(one(x)).relu())).relu())

    def end(self, x: Tensor) -> Tensor:
        return 4 * self.head(x.mean((2, 3)))


class AsksForItsNorms(Net):
    def forward(self, x):
        for module in self.layers:
            x = module(x)
            x = x.relu() if isinstance(module, nn.BatchNorm2d) else x
        return self.end(x)


class AsksForNames(Net):
    def forward(self, x):
        for module in self.layers:
            x = module(x)
            x = x.relu() if type(module).__name__ == "BatchNorm2d" else x
        return self.end(x)


class CountsItsNorms(Net):
    def forward(self, x):
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in self.modules())
        return super().forward(x) + 3 * norms * x.mean((1, 2, 3))[:, None] * torch.tensor([1.0, -1, 0, 0])


class UsesAWeightTwice(Net):
    def forward(self, x):
        return super().forward(x) + F.conv2d(x, self.layers[0].weight, padding=1).mean((2, 3))[:, :4]


class ReadsItsNorm(Net):
    def forward(self, x):
        norm = self.layers[1]
        extra = (norm.weight * norm.running_mean / (norm.running_var + norm.eps).sqrt()).sum()
        return super().forward(x) + extra * x.mean((1, 2, 3))[:, None] * torch.tensor([0.0, 1, 0, -1])


class Strides(Net):
    """Reads a feature map as if it were NCHW."""

    def forward(self, x):
        features = self.layers[1](self.layers[0](x)).relu()
        count, channels, height, width = features.shape
        rows = features.as_strided((count, channels, width), (channels * height * width, height * width, 1))
        return self.end(features) + 2 * rows.mean(2)[:, :4]


class ViewsFeatures(Net):
    def forward(self, x):
        features = self.layers[1](self.layers[0](x)).relu()
        return self.end(features) + features.view(len(x), -1)[:, ::64][:, :4]


class ViewsImages(Net):
    def forward(self, x):
        return super().forward(x) + x.view(len(x), -1)[:, :4]


class Contiguous(Net):
    """Does something else with images as NHWC, and no error says so."""

    def forward(self, x):
        return super().forward(x) * (1 if x.is_contiguous() else -1)


class Shared(Net):
    def forward(self, x):
        one, first, other, second = self.layers
        x = first(one(x)).relu()
        return self.end(second(other(first(x).relu())).relu())


class Functional(Net):
    def forward(self, x):
        one, first, other, second = self.layers
        x = F.batch_norm(one(x), first.running_mean, first.running_var, first.weight, first.bias)
        return self.end(second(other(x.relu())).relu())


class Branches(Net):
    """On every image by itself, which no trace survives."""

    def forward(self, x):
        return torch.cat(
            [super(Branches, self).forward(image if image.mean() < 0.5 else 1 - image) for image in x.split(1)]
        )


class DependsOnTheBatch(Net):
    def forward(self, x):
        return super().forward(x) * (1 if len(x) % 2 else 2)


class Quantised(Net):
    def forward(self, x):
        rounded = (x * 31).round() / 31
        return super().forward(x + (rounded - x).detach())


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.sign()

    @staticmethod
    def backward(context, gradient):
        return gradient


class Binary(Net):
    def forward(self, x):
        one, first, other, second = self.layers
        return self.end(second(other(StraightThrough.apply(first(one(x))))).relu())


def hooked() -> nn.Module:
    model = Net()
    model.layers[0].register_forward_hook(lambda module, inputs, output: output * 0.5)
    model.layers[3].register_forward_pre_hook(lambda module, inputs: (inputs[0] + 0.3,))
    return model


def parametrised() -> nn.Module:
    model = Net()
    weight_norm(model.layers[0])
    return model


def frozen() -> nn.Module:
    return torch.jit.trace(Net().eval(), torch.rand(2, 3, 8, 8))


def compiled() -> nn.Module:
    return torch.compile(Net(), backend="eager")


class Locked(Net):
    def __deepcopy__(self, memory):
        raise TypeError("cannot pickle a lock")


FOLDED = [Net, AsksForItsNorms, AsksForNames, CountsItsNorms, UsesAWeightTwice, ReadsItsNorm, Quantised, Binary]
NOT_NHWC = [Strides, ViewsFeatures, ViewsImages, Contiguous]
OTHERS = [Shared, Functional, Branches, DependsOnTheBatch, hooked, parametrised, frozen, compiled, Locked]


class Balanced(nn.Module):
    """A network with an offset, so that all its classes occur."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("offset", torch.cat([model(image) for image in x.split(1)]).mean(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) - self.offset


def trained(make) -> tuple[nn.Module, Images]:
    """A network and images with the labels that it gives them, many of them only just."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (96, 3, 8, 8), dtype=torch.uint8)
    model = Balanced(make().eval(), pixels.float() / 255).eval()
    with torch.no_grad():
        labels = torch.cat([model(image) for image in (pixels.float() / 255).split(1)]).argmax(1)
    return model, Images(pixels, labels, torch.arange(96))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("make", [*FOLDED, *NOT_NHWC, *OTHERS])
def test_every_verdict_is_that_of_the_network_itself(make) -> None:
    model, images = trained(make)
    attacks = {"one": PGD(5), "two": APGD("dlr", steps=12), "three": APGD("dlr", targets=2, steps=12)}
    batch = 96 if make is not DependsOnTheBatch else 1
    found = Evaluator(model, images, LINF, batch_size=batch, precision="exact").run(attacks)
    expected = Evaluator(model, images, LINF, batch_size=batch).run(attacks)
    for name in attacks:
        assert 0.05 < expected.accuracy(name) < 0.95, "this test would see nothing"
        assert torch.equal(found.outcome(name).correct, expected.outcome(name).correct)


def accepted(model: nn.Module, x: Tensor) -> Form:
    with attackable(model, "eval"):
        return next(form for form in forms(model, x) if form.name == ITSELF or agrees(form, model, x, LINF))


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        (FOLDED, "BatchNorm folded, NHWC"),
        ([Strides], "BatchNorm folded, NCHW"),
        ([Branches, hooked], "a copy, NHWC"),
        ([ViewsFeatures, ViewsImages, Contiguous], ITSELF),  # their graphs cannot be traced
    ],
)
def test_what_can_be_faster_is(kinds, name: str) -> None:
    for make in kinds:
        torch.manual_seed(0)
        assert accepted(make().eval(), torch.rand(16, 3, 8, 8)).name == name


def test_what_cannot_be_copied_is_used_as_it_is() -> None:
    model = Locked().eval()
    form = accepted(model, torch.rand(4, 3, 8, 8))
    assert (form.name, form.network) == (ITSELF, model)


def test_wrong_gradients_are_seen_where_logits_agree() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(16, 3, 8, 8)

    class Masked(Net):
        def forward(self, x):
            return super().forward(x.detach() + 0.1 * (x - x.detach()))

    masked = Masked().eval()
    masked.load_state_dict(model.state_dict())
    assert logits_agree(Form("masked", masked), model, x)
    with attackable(model, "eval"):
        assert not agrees(Form("masked", masked), model, x, LINF)


def test_wrong_logits_are_seen_where_gradients_agree() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.rand(16, 3, 8, 8)

    class Shifted(Net):
        def forward(self, x):
            return super().forward(x) + torch.tensor([0.05, 0, 0, 0])

    shifted = Shifted().eval()
    shifted.load_state_dict(model.state_dict())
    with attackable(model, "eval"), attackable(shifted, "eval"):
        assert not agrees(Form("shifted", shifted), model, x, LINF)
        assert not logits_agree(Form("shifted", shifted), model, x)
        assert agrees(Form("the same", copy.deepcopy(model)), model, x, LINF)


def trap(factor: float) -> type[Net]:
    """A network whose copies have no gradient between whole levels of grey, and logits that are multiplied there."""

    class Trap(Net):
        def __init__(self) -> None:
            super().__init__()
            self.copied = False

        def __deepcopy__(self, memory):
            made = Trap()
            made.load_state_dict(self.state_dict())
            made.copied = True
            return made.eval().requires_grad_(False)

        def forward(self, x):
            logits = super().forward(x)
            between = ((255 * x - (255 * x).round()).abs() > 0.1).flatten(1).double().mean(1) > 0.5
            return torch.where((between & self.copied)[:, None], factor * logits.detach(), logits)

    return Trap


@pytest.mark.parametrize("factor", [3, 1])
def test_a_form_that_errs_only_where_searches_go_is_seen_and_given_up(factor: float) -> None:
    """It agrees on images and on the threat's surface, whose pixels are whole levels.

    Logits that are wrong in between are seen where searches end; where gradients alone are missing, no success is wrong,
    and only a failure that is tried again shows it.
    """
    model, images = trained(trap(factor))
    x = images.pixels / 255
    threat, attacks = Threat("Linf", "51/255"), {"mine": PGD(20, "1/255")}
    with attackable(model, "eval"):
        assert agrees(next(forms(model, x)), model, x, threat)
    found = Evaluator(model, images, threat, precision="exact").run(attacks)
    expected = Evaluator(model, images, threat).run(attacks)
    assert found.form == ITSELF
    assert expected.accuracy("mine") < 0.9
    assert torch.equal(found.outcome("mine").correct, expected.outcome("mine").correct)


def test_failures_are_tried_again_on_the_network_itself_and_counted() -> None:
    model, images = trained(Net)
    attacks = {"mine": PGD(5), "two": APGD("dlr", targets=2, steps=12)}
    found = Evaluator(model, images, LINF, precision="exact").run(attacks)
    for outcome in found.outcomes:
        first = outcome.stages[0]
        assert (first.retried, first.confirmed) == (8, 8)
        assert all(stage.retried == 0 for stage in outcome.stages[1:])
    slow = Evaluator(model, images, LINF).run(attacks)
    assert all(stage.retried == 0 for outcome in slow.outcomes for stage in outcome.stages)
    assert [stage.forwards for outcome in found.outcomes for stage in outcome.stages] == [
        stage.forwards for outcome in slow.outcomes for stage in outcome.stages
    ], "trying again is not counted"


def test_the_record_says_how_many_failures_are_confirmed() -> None:
    model, images = trained(Net)
    evaluation = evaluate(model, images, LINF, ["clean", PGD(5)], device="cpu")
    clean, pgd = evaluation.record["attacks"]
    assert pgd["failures"] == {"retried": 8, "confirmed": 8}
    assert "failures" not in clean
    assert "refuted-failures" not in [finding.check for finding in evaluation.findings]


def test_failures_that_are_not_confirmed_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_UNLUCKY", 1)  # however many there are, the form is not given up
    model, images = trained(trap(1))
    evaluation = evaluate(model, images, Threat("Linf", "51/255"), [PGD(20, "1/255")], device="cpu", doctor=False)
    (failures,) = (attack["failures"] for attack in evaluation.record["attacks"])
    refuted = failures["retried"] - failures["confirmed"]
    assert refuted >= 2
    (said,) = (finding.seen for finding in evaluation.findings if finding.check == "refuted-failures")
    assert f"did not fool, {refuted} were fooled when" in said


@pytest.mark.parametrize(("make", "said"), [(Net, False), (ViewsImages, True)])
def test_the_doctor_says_that_a_slower_form_is_run(make, said: bool) -> None:
    model, images = trained(make)
    found = diagnose(model, images, LINF, classes=4)
    assert ("slower-form" in [finding.check for finding in found]) is said


class Itself(Net):
    def __deepcopy__(self, memory):
        return self


class PartlyItself(Net):
    def __deepcopy__(self, memory):
        made = PartlyItself()
        made.layers = self.layers
        return made.eval()


@pytest.mark.parametrize("make", [Itself, PartlyItself])
def test_a_copy_that_is_none_is_neither_changed_nor_believed(make) -> None:
    model, images = trained(make)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Evaluator(model, images, LINF, precision="exact").run({"mine": PGD(5)})
    expected = Evaluator(model, images, LINF).run({"mine": PGD(5)})
    assert found.form == ITSELF
    assert torch.equal(found.outcome("mine").correct, expected.outcome("mine").correct)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())
