"""The doctor: every check finds its planted mistake and nothing else, and healthy networks get no findings at all."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sparring.attacks import PGD
from sparring.data import Images
from sparring.errors import BadInput
from sparring.evaluation import evaluate
from sparring.evaluation.doctor import Finding, diagnose, worst_first
from sparring.evaluation.doctor.significance import beyond_chance, outnumber
from sparring.models import Normalised, create
from sparring.threat import Threat
from tests.attacks.harness import LINF, Around, digits, trained

ROOT = Path(__file__).parents[2]
MEAN, STD = 0.305, 0.376  # of the digits


@pytest.fixture(scope="module")
def images() -> Images:
    return digits()[1]


class Own(nn.Module):
    """What a user may bring."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(16 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def small(mean: float | None = None, std: float | None = None) -> Normalised:
    statistics = {} if mean is None else {"mean": [mean], "std": [std]}
    torch.manual_seed(0)
    return create("smallconv", 10, channels=1, size=8, width=8, **statistics)


@pytest.fixture(scope="module")
def standard() -> nn.Module:
    """A network that knows 19 of 20 digits, trained on pixels in [0, 1]."""
    return trained(small(), digits()[0], 4)


@pytest.fixture(scope="module")
def normalising() -> Normalised:
    """The same, trained on standardised pixels."""
    network = trained(small(MEAN, STD), digits()[0], 4)
    assert isinstance(network, Normalised)
    return network


@pytest.fixture(scope="module")
def own() -> nn.Module:
    torch.manual_seed(0)
    return trained(Own(), digits()[0], 4)


def found(model: nn.Module, images: Images, threat: Threat = LINF, classes: int | None = 10) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(model, images, threat, classes=classes)}


# Silence ---------------------------------------------------------------------------------------------------------------


def healthy(kind: str, train: Images) -> nn.Module:
    torch.manual_seed(0)
    if kind == "FGSM-RS":
        return trained(small(), train, 5, PGD(steps=1, alpha=0.125, bn="train"))
    if kind == "PGD":
        return trained(small(), train, 4, PGD(steps=3, alpha=0.05, bn="train"))
    return trained(create("timm:test_resnet", 10, channels=1, size=8), train.subset(torch.arange(900)), 3)


@pytest.mark.parametrize("threat", [LINF, Threat("L2", 0.5)], ids=["Linf", "L2"])
def test_nothing_is_found_where_nothing_is_wrong(threat: Threat, standard, own, normalising, images) -> None:
    for network in (standard, own, normalising):
        for seed in range(3):
            assert diagnose(network, images, threat, classes=10, seed=seed) == []
    assert diagnose(standard, images, threat, classes=None, count=400) == []
    assert diagnose(standard, images.subset(torch.arange(20)), threat, classes=10) == []


@pytest.mark.parametrize("kind", ["FGSM-RS", "PGD", "timm"])
def test_nothing_is_found_in_networks_of_other_methods_and_makes(kind: str, images) -> None:
    network = healthy(kind, digits()[0])
    with torch.no_grad():
        assert (network(images.pixels / 255).argmax(1) == images.labels).float().mean() > 0.7
    for seed in range(3):
        assert diagnose(network, images, LINF, classes=10, seed=seed) == []


class Checkpointed(Around):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.network, x, use_reentrant=False)


class Ensemble(nn.Module):
    """Networks that normalise, one after the other, but side by side."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mean, self.std = ["0.5", None], "auto"  # names that mean something else here

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def test_nothing_is_found_in_parts_that_only_look_dangerous(standard, normalising, images) -> None:
    """torch.func without derivatives, compilation, rounding with gradients passed straight through, ensembles."""
    mapped = torch.func.vmap(lambda x: x * 1.0)
    quantising = Normalised(standard, 1, levels=16).eval()
    compiled = torch.compile(copy.deepcopy(standard), backend="eager")
    for network in (
        Around(standard, before=mapped),
        Checkpointed(standard),
        compiled,
        quantising,
        Normalised(normalising, 1).eval(),  # that does nothing
        Ensemble(normalising, Normalised(normalising.network, 1, [0.3], [0.4])).eval(),
    ):
        assert diagnose(network, images, LINF, classes=10) == []


# Images, labels and radius ---------------------------------------------------------------------------------------------


def test_pixel_fractions_are_taken_as_they_are(standard, images) -> None:
    assert found(standard, Images(images.pixels / 255, images.labels)) == found(standard, images) == {}


def test_images_that_are_all_but_black_are_found(standard, images) -> None:
    """Floats that were cast to bytes, and fractions that were divided by 255 once more."""
    cast, twice = (images.pixels / 255).to(torch.uint8), images.pixels / 255 / 255
    for pixels, kind, advice in ((cast, "uint8 from 0 to 1,", "Give the floats"), (twice, "float32 from 0 to", "once")):
        finding = found(standard, Images(pixels, images.labels))["pixel-range"]
        assert finding.severity == "error"
        assert kind in finding.seen
        assert "black" in finding.why
        assert advice in finding.advice


def test_the_doctor_takes_what_evaluate_takes(standard, images) -> None:
    pair = (images.pixels.numpy(), images.labels.tolist())
    assert diagnose(standard, pair, LINF, classes=10) == diagnose(standard, images, LINF, classes=10)
    with pytest.raises(BadInput, match=r"The threat is 0\.1: give the norm and the radius"):
        diagnose(standard, images, 0.1, classes=10)


def test_labels_that_count_from_one_are_found(standard, images) -> None:
    findings = found(standard, replace(images, labels=images.labels + 1))
    assert set(findings) == {"label-range", "classes", "class-order"}
    assert findings["label-range"].advice.startswith("Subtract 1")
    findings = found(standard, replace(images, labels=images.labels - 1))
    assert set(findings) == {"label-range"}
    assert "from -1 to 8" in findings["label-range"].seen


def test_classes_are_those_of_the_model(standard, images, monkeypatch) -> None:
    names = tuple("abcdefghij")
    monkeypatch.setattr(standard, "class_names", names, raising=False)
    assert diagnose(standard, images, LINF, classes=names) == []
    assert diagnose(standard, images, LINF, classes=10) == []
    (moved,) = diagnose(standard, images, LINF, classes=("b", "a", *names[2:]))
    assert (moved.check, moved.severity) == ("class-names", "error")
    assert moved.seen == "The class 'b' is number 0 of the data, but number 1 of the model (2 such)."
    (renamed,) = diagnose(standard, images, LINF, classes=("ape", *names[1:]))
    assert (renamed.check, renamed.severity) == ("class-names", "note")
    assert renamed.seen == "The model's class 'a' is called 'ape' by the data (1 such)."
    monkeypatch.setattr(standard, "class_names", {"a": 0})  # what another's attribute of that name may be
    assert diagnose(standard, images, LINF, classes=names) == []


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        (Threat("Linf", "1/2"), "plain grey"),
        (Threat("Linf", 0.7), "plain grey"),
        (Threat("Linf", "1/510"), "one grey level"),
        (Threat("L2", "8/255"), "usual size for Linf"),
        (Threat("L2", 4), "plain grey"),
        (Threat("L1", "1/2"), "a single pixel"),
        (Threat("L1", 32), "plain grey"),
    ],
    ids=str,
)
def test_a_radius_in_the_wrong_unit_is_found(threat: Threat, said: str, standard, images) -> None:
    findings = found(standard, images, threat)
    assert set(findings) == {"radius"}
    assert findings["radius"].severity == "warning"
    assert said in findings["radius"].why
    assert str(threat.eps) in findings["radius"].seen


@pytest.mark.parametrize(
    "threat",
    [
        Threat("Linf", "1/255"),
        Threat("Linf", 0.3),
        Threat("L2", 0.1),
        Threat("L2", 3),
        Threat("L1", 1),
        Threat("L1", 31),
    ],
)
def test_usual_radii_are_not_found(threat: Threat, standard, images) -> None:
    assert found(standard, images, threat) == {}


def test_the_radius_of_gray_digits_is_noted_for_colour_images(standard, images) -> None:
    colour = replace(images, pixels=images.pixels.expand(-1, 3, -1, -1))
    network = Around(standard, before=lambda x: x[:, :1])
    assert found(network, colour, Threat("Linf", "8/255")) == {}
    findings = found(network, colour, Threat("Linf", 0.3))
    assert {check: finding.severity for check, finding in findings.items()} == {"radius": "note"}


# Outputs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (lambda z: (z, z), "a tuple"),
        (lambda z: z[:, :, None], "(16, 10, 1)"),
        (lambda z: z[:1], "(1, 10)"),
        (lambda z: z[:, :1], "(16, 1)"),
        (lambda z: {"logits": z}, "a dict"),
    ],
)
def test_answers_that_are_no_rows_of_logits_are_found(after, said: str, standard, images) -> None:
    findings = found(Around(standard, after=after), images)
    assert set(findings) == {"output-shape"}
    assert said in findings["output-shape"].seen


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (float("-inf"), "infinite")])
def test_logits_that_are_not_finite_are_found(value: float, said: str, standard, images) -> None:
    broken = found(Around(standard, after=lambda z: torch.where(z > z.mean(), z, value)), images)
    assert set(broken) == {"not-finite"}
    assert said in broken["not-finite"].seen
    assert "128 of 128 images" in broken["not-finite"].seen


def test_a_number_of_classes_that_does_not_fit_is_found(standard, images) -> None:
    lacking = Around(standard, after=lambda z: z[:, :9])
    for classes in (10, None):
        assert {name: finding.severity for name, finding in found(lacking, images, classes=classes).items()} == {
            "classes": "error"
        }
    more = Around(standard, after=lambda z: torch.cat([z, z[:, :3] - 9], 1))
    assert {name: finding.severity for name, finding in found(more, images).items()} == {"classes": "warning"}
    assert found(more, images, classes=None) == {}


def test_probabilities_are_found_and_their_logarithms_noted(standard, images) -> None:
    findings = found(Around(standard, after=lambda z: z.softmax(1)), images)
    assert {check: finding.severity for check, finding in findings.items()} == {"probabilities": "error"}
    findings = found(Around(standard, after=lambda z: z.log_softmax(1)), images)
    assert {check: finding.severity for check, finding in findings.items()} == {"log-probabilities": "note"}
    assert found(Around(standard, after=torch.sigmoid), images) == {}  # in [0, 1], but not of sum 1


def test_reduced_precision_is_found(standard, images) -> None:
    coarse = copy.deepcopy(standard.network).bfloat16()
    findings = found(Around(coarse, before=lambda x: x.bfloat16(), after=lambda z: z.float()), images)
    assert set(findings) == {"precision"}
    assert re.search(r"\d+ of \d+ parameter tensors are bfloat16", findings["precision"].seen)
    findings = found(Around(standard, after=lambda z: z.half()), images)
    assert set(findings) == {"precision"}
    assert "The logits are float16" in findings["precision"].seen


def test_a_network_that_raises_is_quoted(standard, images) -> None:
    colour = replace(images, pixels=images.pixels.expand(-1, 3, -1, -1))
    findings = found(standard.network, colour)
    assert set(findings) == {"forward-fails"}
    assert re.search(
        r"shape \(3, 8, 8\), float32, on cpu, the model raised RuntimeError: .*channels", findings["forward-fails"].seen
    )
    assert set(found(copy.deepcopy(standard.network).half(), images)) == {"forward-fails"}

    def fails(x: Tensor) -> Tensor:
        raise KeyError("weights")

    broken = Around(copy.deepcopy(standard), before=fails)
    next(broken.parameters()).requires_grad_(False)
    assert "KeyError: 'weights'" in found(broken, images)["forward-fails"].seen
    assert [parameter.requires_grad for parameter in broken.parameters()].count(False) == 1


def test_a_network_that_raises_later_is_quoted_beside_what_else_was_found(standard, images) -> None:
    def fails_if_bright(x: Tensor) -> Tensor:
        if (x == 1).float().mean() > 0.15:
            raise ValueError("too bright")
        return x

    findings = found(Around(standard, before=fails_if_bright, after=lambda z: z.softmax(1)), images)
    assert set(findings) == {"probabilities", "forward-fails"}
    assert "in the check batch_dependence, the model raised ValueError: too bright." in findings["forward-fails"].seen


# Normalisation and accuracy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outer",
    [
        lambda network: Normalised(network, 1, [MEAN], [STD]),
        lambda network: nn.Sequential(torchvision.transforms.Normalize(MEAN, STD), network),
        lambda network: nn.Sequential(torchvision.transforms.Normalize([0.5], [0.5]), network),
    ],
    ids=["Normalised", "torchvision", "another"],
)
def test_two_normalisations_in_a_row_are_found(outer: Callable[[nn.Module], nn.Module], normalising, images) -> None:
    findings = found(outer(normalising).eval(), images)
    assert findings["double-normalisation"].severity == "warning"
    assert set(findings) <= {"double-normalisation", "scale"}
    assert "then with mean (0.305), std (0.376)" in findings["double-normalisation"].seen


def test_a_normalisation_too_many_shows_in_the_accuracy(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: (x - 0.5) / 0.5), images)
    assert set(findings) == {"scale"}
    assert "0.5" in findings["scale"].seen
    assert findings["scale"].advice.startswith("Remove one normalisation")


def test_a_missing_normalisation_shows_in_the_accuracy(normalising, images) -> None:
    findings = found(normalising.network, images)
    assert set(findings) == {"scale"}
    assert "the images' own mean and deviation" in findings["scale"].seen
    assert "Normalised" in findings["scale"].advice


def test_a_network_that_divides_by_255_itself_shows_in_the_accuracy(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: x / 255), images)
    assert set(findings) == {"scale"}
    assert "multiplied by 255" in findings["scale"].seen


def test_accuracies_are_stated_as_they_are(standard, images) -> None:
    dark, some = Around(standard, before=lambda x: x / 255), images.subset(torch.arange(60))
    with torch.no_grad():
        right = [network(some.pixels / 255).argmax(1) == some.labels for network in (dark, standard)]
    (finding,) = diagnose(dark, some, LINF, classes=10)
    expected = [100 * float(flags.double().mean()) for flags in right]
    assert [float(share) for share in re.findall(r"([\d.]+)%", finding.seen)] == pytest.approx(expected, abs=0.051)
    assert "of 60 images" in finding.seen
    assert "of 64 images" in found(dark, images)["scale"].seen  # no more are tried


def test_classes_in_another_order_are_found(standard, images) -> None:
    order = torch.tensor([3, 0, 4, 7, 1, 9, 2, 8, 5, 6])
    findings = found(standard, replace(images, labels=order[images.labels]))
    assert set(findings) == {"class-order"}
    assert "0 for 3, 1 for 0, 2 for 4" in findings["class-order"].seen
    two = images.subset((images.labels < 2).nonzero()[:, 0])
    assert set(found(standard, replace(two, labels=1 - two.labels), classes=None)) == {"class-order"}


def test_a_confusion_of_two_classes_is_not_called_another_order(standard, images) -> None:
    """Most of the threes are labelled eights and the other way round: 15 of 100 images."""
    swapped = torch.where(images.labels == 3, 8, torch.where(images.labels == 8, 3, images.labels))
    labels = torch.where(images.index % 7 == 0, images.labels, swapped)
    assert 0.1 < (labels != images.labels).float().mean() < 0.19
    assert diagnose(standard, replace(images, labels=labels), LINF, classes=10, count=len(images)) == []


def test_names_of_many_classes_are_not_learnt_by_heart(images) -> None:
    """A hundred classes and 128 images: nearly every answer could be given the name of its own image's label."""

    class Scattering(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            brightness = x.double().sum((1, 2, 3))
            return nn.functional.one_hot((brightness * 12345).long() % 100, 100) + 0 * brightness[:, None]

    labels = torch.randint(100, (len(images),), generator=torch.Generator().manual_seed(1))
    findings = found(Scattering(), replace(images, labels=labels), classes=100)
    assert "chance" in findings
    assert "class-order" not in findings


def test_labels_of_other_images_are_at_chance(standard, images) -> None:
    shuffled = images.labels[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    findings = found(standard, replace(images, labels=shuffled))
    assert {check: finding.severity for check, finding in findings.items()} == {"chance": "warning"}


def test_untrained_networks_are_at_chance_and_no_reason_is_made_up(images) -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        network = create("smallconv", 10, channels=1, size=8, width=8).eval()
        assert set(found(network, images)) == {"chance"}
        rare = images.labels.clamp(max=1)  # nine of ten images are of class 1
        assert set(found(network, replace(images, labels=rare), classes=None)) == {"chance"}


def test_a_bad_network_that_knows_something_is_not_at_chance(standard, images) -> None:
    """Every second image is answered as the next one is."""
    half = Around(standard, after=lambda z: torch.where(torch.arange(len(z))[:, None] % 2 == 0, z, z.roll(1, 0)))
    with torch.no_grad():
        accuracy = (half(images.pixels / 255).argmax(1) == images.labels).float().mean()
    assert 0.4 < accuracy < 0.7
    assert not {"chance", "scale", "class-order"} & set(found(half, images))


# Modes, chance, other images -------------------------------------------------------------------------------------------


def test_training_mode_is_found_where_it_matters(own, images) -> None:
    network = copy.deepcopy(own).train()
    findings = found(network, images)
    assert set(findings) == {"training-mode"}
    assert "1 BatchNorm and 1 Dropout" in findings["training-mode"].seen
    assert all(module.training for module in network.modules())
    network.eval()
    network.features[3].train()  # Dropout alone, as for Monte Carlo
    assert "0 BatchNorm and 1 Dropout" in found(network, images)["training-mode"].seen
    assert [module.training for module in network.features] == [False, False, False, True]
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert "training-mode" not in found(plain.train(), images)


class Centring(nn.Module):
    """A normalisation of one's own, whose mean moves in training mode."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("middle", torch.full((), MEAN))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.middle = x.mean() / 2
        return self.network(x - self.middle + MEAN)


def test_training_mode_is_found_in_parts_of_one_s_own(images) -> None:
    network = Centring(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))).train()
    assert "0 BatchNorm and 0 Dropout" in found(network, images)["training-mode"].seen
    assert network.middle == torch.full((), MEAN)


@pytest.mark.parametrize(
    "noise",
    [
        lambda x: x + 0.1 * torch.randn_like(x),
        lambda x: nn.functional.dropout(x, 0.1, training=True),
        lambda x: x + torch.from_numpy(np.random.normal(0, 0.1, x.shape)).to(x),
        lambda x: x * random.uniform(0.9, 1.1),
    ],
    ids=["torch", "dropout", "numpy", "python"],
)
def test_random_networks_are_found(noise, standard, images) -> None:
    findings = found(Around(standard, before=noise), images)
    assert set(findings) == {"random"}
    assert "EOT" in findings["random"].advice


def test_answers_that_depend_on_the_batch_are_found(standard, images) -> None:
    leaking = copy.deepcopy(standard)
    for module in leaking.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    assert set(found(leaking, images)) == {"batch-dependent"}
    centred = Around(standard, before=lambda x: x - 0.01 * (x.mean(0) - 0.3))
    findings = found(centred, images)
    assert set(findings) == {"batch-dependent"}
    assert "8 images" in findings["batch-dependent"].seen


class Counting(nn.Module):
    """Writes into a buffer, in place or by replacing it, in evaluation mode too."""

    def __init__(self, network: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.network, self.in_place = network, in_place
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.calls += 1
        else:
            self.calls = self.calls + 1
        return self.network(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_state_that_changes_in_evaluation_mode_is_found_and_put_back(in_place: bool, standard, images) -> None:
    network = Counting(standard, in_place)
    before = network.calls
    findings = found(network, images)
    assert set(findings) == {"changing-state"}
    assert "1 of" in findings["changing-state"].seen
    assert "calls" in findings["changing-state"].seen
    assert network.calls is before
    assert network.calls == 0


def test_images_that_are_changed_in_place_are_found(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: x.mul_(0.9)), images)
    assert set(findings) == {"changing-input", "no-gradient"}
    assert "0.1" in findings["changing-input"].seen
    assert "the forward pass raised RuntimeError: a leaf Variable" in findings["no-gradient"].seen


# Gradients -------------------------------------------------------------------------------------------------------------


class Opaque(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        raise RuntimeError("there is no derivative")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (lambda x: x.detach(), "do not require a gradient"),
        (lambda x: torch.from_numpy(x.detach().numpy().copy()), "do not require a gradient"),
        (lambda x: x.detach() + torch.zeros_like(x).requires_grad_(), "does not contain the pixels"),
        (Opaque.apply, "RuntimeError: there is no derivative"),
    ],
    ids=["detach", "numpy", "elsewhere", "raises"],
)
def test_a_network_without_gradients_is_found(before, said: str, standard, images) -> None:
    findings = found(Around(standard, before=before), images)
    assert set(findings) == {"no-gradient"}
    assert findings["no-gradient"].severity == "error"
    assert said in findings["no-gradient"].seen
    assert "BPDA" in findings["no-gradient"].advice


@pytest.mark.parametrize(
    "before", [lambda x: (8 * x).round() / 8, lambda x: (x > 0.5).to(x) + 0 * x], ids=["rounding", "threshold"]
)
def test_gradients_that_are_exactly_zero_are_found(before, standard, images) -> None:
    findings = found(Around(standard, before=before), images)
    assert set(findings) == {"zero-gradient"}
    assert "64 of 64 images" in findings["zero-gradient"].seen


def test_logits_on_a_huge_scale_saturate_cross_entropy(standard, images) -> None:
    """As many images as cross-entropy gives no gradient; and an evaluation says so, whose PGD would else look robust."""
    network = Around(standard, after=lambda z: 1e4 * z)
    finding = found(network, images, classes=10)["saturation"]
    assert finding.severity == "warning"
    x = (images.pixels / 255).requires_grad_()
    logits = network(x)
    loss = nn.functional.cross_entropy(logits, logits.argmax(1), reduction="sum")
    dead = (torch.autograd.grad(loss, x)[0].flatten(1) == 0).all(1)
    said = re.match(r"For (\d+) of 64 images", finding.seen)
    assert said is not None
    assert abs(int(said[1]) / 64 - float(dead.float().mean())) < 0.15  # 64 of them, drawn at random
    evaluation = evaluate(network, images, LINF, ["clean", "pgd-20"])
    assert "saturation" in {finding.check for finding in evaluation.findings}
    assert "saturation" not in found(standard, images, classes=10)


def test_images_without_a_gradient_are_counted(standard, images) -> None:
    def gate(x: Tensor) -> Tensor:
        return torch.where(x.mean((1, 2, 3), keepdim=True) > 0.3, x, x.detach())

    finding = found(Around(standard, before=gate), images, classes=10)["zero-gradient"]
    dead = int(re.match(r"For (\d+) of 64 images", finding.seen)[1])
    share = ((images.pixels / 255).mean((1, 2, 3)) <= 0.3).float().mean()
    assert dead / 64 == pytest.approx(float(share), abs=0.15)
    assert 0.2 < share < 0.8


def test_gradients_that_are_not_numbers_are_found(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: x.sqrt() ** 2), images)  # at black pixels, infinity times zero
    assert set(findings) == {"nan-gradient"}
    assert "64 of 64 images" in findings["nan-gradient"].seen


def purified(network: nn.Module, gradient: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Moves the images a little to where the network is surer before it looks at them."""
    return lambda x: x + 1e-3 * gradient(network, x).sign()


def by_grad(network: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        return torch.autograd.grad(network(point).logsumexp(1).sum(), point)[0]


def by_backward(network: nn.Module, x: Tensor) -> Tensor:
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        torch.autograd.backward(network(point).logsumexp(1).sum())
        return point.grad


def by_function(network: nn.Module, x: Tensor) -> Tensor:
    return torch.func.grad(lambda point: network(point).logsumexp(1).sum())(x.detach())


@pytest.mark.parametrize("gradient", [by_grad, by_backward, by_function])
@pytest.mark.parametrize("compiled", [False, True])
def test_optimisation_inside_the_forward_is_found(gradient, compiled: bool, standard, images) -> None:
    network = Around(standard, before=purified(standard, gradient))
    findings = found(torch.compile(network, backend="eager") if compiled else network, images)
    assert set(findings) == {"inner-optimisation"}


class Adapting(nn.Module):
    """Takes a step on its own weights before it answers, as test-time adaptation does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            entropy = torch.distributions.Categorical(logits=self.network(x)).entropy().mean()
            entropy.backward()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter -= 0.001 * parameter.grad
                parameter.grad = None
        return self.network(x)


def test_a_network_that_trains_itself_is_found_and_put_back(standard, images) -> None:
    network = Adapting(copy.deepcopy(standard))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    findings = found(network, images)
    assert set(findings) == {"inner-optimisation"}
    assert "gradients of the parameters" in findings["inner-optimisation"].seen
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


# What is left behind ---------------------------------------------------------------------------------------------------


class Unruly(nn.Module):
    """Draws from all generators and changes whatever it can reach."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(()) + random.random() + np.random.rand()
        with torch.no_grad():
            for parameter in self.network.parameters():
                parameter.mul_(1.001)
                parameter.grad = torch.ones_like(parameter) if parameter.grad is None else parameter.grad.mul_(2)
        self.network.mean = self.network.mean + 1
        return self.network(x) + noise


def test_the_model_and_the_random_generators_are_left_as_they_were(standard, images) -> None:
    network = Unruly(copy.deepcopy(standard)).train()
    network.network.network.stage2.eval()
    parameters = list(network.parameters())
    for parameter in parameters[::2]:
        parameter.grad = torch.full_like(parameter, 3)
    parameters[1].requires_grad_(False)
    gradients = [parameter.grad for parameter in parameters]
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    assert diagnose(network, images, LINF, classes=10)

    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is gradient for parameter, gradient in zip(parameters, gradients, strict=True))
    assert all(gradient is None or (gradient == 3).all() for gradient in gradients)
    assert [parameter.requires_grad for parameter in parameters].count(False) == 1
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]
    assert (np.random.get_state()[1] == drawn[2]).all()


def test_batchnorm_statistics_survive_a_look_at_training_mode(own, images) -> None:
    network = copy.deepcopy(own).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    diagnose(network, images, LINF, classes=10)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_graph_that_the_caller_holds_still_works_afterwards(standard, images) -> None:
    loss = standard(images.pixels[:4] / 255).sum()
    diagnose(standard, images, LINF, classes=10)
    loss.backward()
    for parameter in standard.parameters():
        parameter.grad = None


@pytest.mark.parametrize(
    "noise", [lambda: float(torch.rand(())), random.random, np.random.rand], ids=["torch", "python", "numpy"]
)
def test_the_seed_decides_everything(noise: Callable[[], float], standard, images) -> None:
    network = Around(standard, before=lambda x: x * (0.5 + noise()))
    one = diagnose(network, images, LINF, classes=10, seed=1)
    noise()
    assert one
    assert diagnose(network, images, LINF, classes=10, seed=1) == one
    assert diagnose(network, images, LINF, classes=10, seed=2) != one


def test_a_compiled_network_is_not_compiled_again(standard, images) -> None:
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        compilations.append(len(inputs))
        return graph.forward

    network = torch.compile(copy.deepcopy(standard), backend=backend)
    assert diagnose(network, images, LINF, classes=10) == []
    assert compilations == []
    with torch.no_grad():
        network(images.pixels[:3] / 255)
    assert len(compilations) == 1


def test_findings_come_worst_first_and_say_three_things(standard, images) -> None:
    network = Around(
        standard, before=lambda x: x.detach() + 0.1 * torch.randn_like(x), after=lambda z: z.log_softmax(1)
    )
    findings = diagnose(network, images, Threat("L2", "8/255"), classes=10)
    assert [finding.severity for finding in findings] == ["error", "warning", "warning", "note"]
    assert {finding.check for finding in findings} == {
        "no-gradient",
        "random",
        "radius",
        "log-probabilities",
    }
    for finding in findings:
        assert all(part.endswith(".") and part[0].isupper() for part in (finding.seen, finding.why, finding.advice))
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", finding.check)
        assert str(finding).splitlines() == [
            f"{finding.severity}: {finding.check}",
            *(f"  {part}" for part in (finding.seen, finding.why, finding.advice)),
        ]


def test_sorting_keeps_the_order_of_equals() -> None:
    findings = [
        Finding(str(number), kind, "", "", "") for number, kind in enumerate(["note", "error", "note", "error"])
    ]
    assert [finding.check for finding in worst_first(findings)] == ["1", "3", "0", "2"]


def test_images_that_tell_nothing_are_refused(standard, images) -> None:
    with pytest.raises(BadInput, match="no images"):
        diagnose(standard, images.subset(torch.arange(0)), LINF, classes=10)
    with pytest.raises(BadInput, match="All images are of class 3"):
        diagnose(standard, images.subset((images.labels == 3).nonzero()[:, 0]), LINF, classes=10)
    with pytest.raises(BadInput, match="at least 2 images to look at, not 1"):
        diagnose(standard, images, LINF, classes=10, count=1)


def test_images_that_are_sorted_by_class_are_drawn_from_all_classes(standard, images) -> None:
    order = images.labels.argsort(stable=True)
    assert diagnose(standard, images.subset(order), LINF, classes=10, count=30) == []


def test_the_guide_explains_every_finding() -> None:
    sources = (ROOT / "src/sparring/evaluation/doctor").glob("*.py")
    names = {name for source in sources for name in re.findall(r'Finding\(\s*"([^"]+)"', source.read_text())}
    assert len(names) > 20
    explained = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/guides/doctor.md").read_text(), re.MULTILINE)
    assert names <= set(explained)


# What is more than luck ------------------------------------------------------------------------------------------------

flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=300)


@pytest.mark.parametrize(
    ("gained", "lost", "least", "expected"),
    [
        (20, 5, 0.1, True),
        (19, 5, 0.1, False),
        (19, 0, 0.2, False),
        (20, 0, 0.2, True),
        (8, 0, 0, False),
        (9, 0, 0, True),
    ],
)
def test_three_deviations_and_the_least_share_are_needed(gained: int, lost: int, least: float, expected: bool) -> None:
    """Of 100 images; 20 gained and 5 lost differ by 15, three times the square root of 25."""
    more = torch.arange(100) < gained
    fewer = torch.arange(100) >= 100 - lost
    more[50:60] = fewer[50:60] = True  # no difference
    assert outnumber(more, fewer, least) == expected


@settings(deadline=None, derandomize=True)
@given(flags, st.floats(0, 0.5))
def test_at_most_one_of_two_outnumbers_the_other(pairs: list[tuple[bool, bool]], least: float) -> None:
    one, other = torch.tensor(pairs).unbind(1)
    assert not (outnumber(one, other, least) and outnumber(other, one, least))
    assert not outnumber(one, one, least)
    if outnumber(one, other, least):
        gained = sum(a > b for a, b in pairs)
        lost = sum(b > a for a, b in pairs)
        # The sign test: as many gains of so many changes are rarer than 1 in 200.
        tail = sum(_binomial(gained + lost, k) for k in range(gained, gained + lost + 1)) / 2.0 ** (gained + lost)
        assert tail < 0.005 or gained + lost < 10
        assert gained - lost >= least * len(pairs)


def _binomial(n: int, k: int) -> float:
    result = 1.0
    for i in range(k):
        result = result * (n - i) / (i + 1)
    return result


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=200), st.integers(0, 9))
def test_a_constant_answer_is_never_beyond_chance(labels: list[int], answer: int) -> None:
    y = torch.tensor(labels)
    assert not beyond_chance(torch.full_like(y, answer), y)


def test_independent_answers_are_rarely_beyond_chance_and_right_ones_always() -> None:
    generator = torch.Generator().manual_seed(0)
    beyond = 0
    for trial in range(1000):
        classes = (2, 10, 100)[trial % 3]
        predicted, y = torch.randint(classes, (2, 128), generator=generator)
        beyond += beyond_chance(predicted, y)
        assert beyond_chance(y, y)
    assert beyond <= 15  # 1 in 200 on average, a little more for the rare hits among many classes
