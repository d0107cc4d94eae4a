"""Signs of gradient masking: planted ways to mislead attacks are found, and networks that can be attacked give none."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparring.attacks import PGD
from sparring.data import Images
from sparring.errors import BadInput
from sparring.evaluation.doctor import Finding
from sparring.evaluation.masking import probe_masking, suspicions
from sparring.evaluation.records import figures
from sparring.models import Normalised
from sparring.threat import Threat
from tests.attacks.harness import LINF, Around, digits, trained

ROOT = Path(__file__).parents[2]
L2 = Threat("L2", "1/2")
L1 = Threat("L1", 4)

# Figures ---------------------------------------------------------------------------------------------------------------


def checks(accuracies: dict[str, float], n: int = 10_000) -> list[str]:
    return [finding.check for finding in suspicions(accuracies, n)]


# AT-AWP with a WideResNet-34-10 and with a PreActResNet-18 on CIFAR-100, from the logs of its authors.
WIDE = {"clean": 0.8623, "aa apgd-ce": 0.5761, "aa apgd-t": 0.5399, "aa fab-t": 0.5397, "aa square": 0.5397}
NARROW = {"clean": 0.5571, "aa apgd-ce": 0.2997, "aa apgd-t": 0.2534, "aa fab-t": 0.2534, "aa square": 0.2534}


@pytest.mark.parametrize("stages", [WIDE, NARROW], ids=["wide", "narrow"])
def test_nothing_is_suspected_of_networks_that_are_robust(stages: dict[str, float]) -> None:
    aa = stages["aa square"]
    whole = stages | {"fgsm": aa + 0.08, "pgd-20": aa + 0.04, "pgd-50-10": aa + 0.038, "cw-20": aa + 0.02, "aa": aa}
    whole |= {"square": aa + 0.06, "apgd-ce": stages["aa apgd-ce"]}
    for n in (100, 1000, 10_000):
        assert suspicions(whole, n) == []
    assert suspicions({"clean": 0.9}, 10) == suspicions({}, 1) == []


def test_catastrophic_overfitting_is_seen_only_where_fgsm_finds_more() -> None:
    """FGSM-trained networks that collapse are robust to FGSM and not to PGD: that is no masking by this sign."""
    assert checks({"clean": 0.85, "fgsm": 0.8, "pgd-20": 0.02}) == []
    assert checks({"clean": 0.85, "fgsm": 0.3, "pgd-20": 0.45}) == ["one-step-beats-many"]


def test_the_strongest_pgd_counts() -> None:
    assert checks({"fgsm": 0.4, "pgd-10": 0.45, "pgd-50-10": 0.39}) == []
    (finding,) = suspicions({"fgsm": 0.4, "pgd-10": 0.47, "pgd-50-10": 0.45}, 10_000)
    assert finding.seen == "fgsm leaves 40.00% correct, pgd-50-10 45.00%."


@pytest.mark.parametrize("white", ["pgd-20", "cw-20", "apgd-ce", "apgd-t", "fab-t", "mt", "gama-100", "fgsm"])
def test_a_random_search_that_beats_all_gradients_is_suspicious(white: str) -> None:
    (finding,) = suspicions({"clean": 0.9, white: 0.6, "square": 0.3}, 1000)
    assert (finding.check, finding.severity) == ("black-box-beats-white-box", "error")
    assert checks({"clean": 0.9, white: 0.6, "square": 0.3, "pgd-7": 0.3}) == []


def test_margins_and_autoattack_may_be_a_little_stronger_and_not_far() -> None:
    gairat = {"clean": 0.86, "pgd-20": 0.62, "cw-20": 0.41, "aa": 0.4}
    assert set(checks(gairat)) == {"margin-beats-cross-entropy", "aa-far-below-pgd"}
    assert checks({"clean": 0.86, "pgd-20": 0.5, "cw-20": 0.42, "aa": 0.41}) == []
    assert checks({"clean": 0.86, "pgd-20": 0.5, "aa-fast": 0.35}) == ["aa-far-below-pgd"]
    assert checks({"clean": 0.86, "pgd-20": 0.5, "aa apgd-t": 0.35}) == []  # only whole attacks are compared


def test_square_may_find_two_in_a_thousand_after_the_other_attacks() -> None:
    def after(found: int, n: int) -> list[str]:
        return checks({"clean": 0.9, "aa fab-t": 0.5, "aa square": 0.5 - found / n, "aa": 0.5 - found / n}, n)

    # Twice the deviation of a rare event: sqrt(20) = 4.5 of 10,000, sqrt(2) = 1.4 of 1000 images.
    assert after(28, 10_000) == []
    assert after(29, 10_000) == ["square-finds-more"]
    assert after(4, 1000) == []
    assert after(5, 1000) == ["square-finds-more"]
    assert after(1, 100) == []
    assert after(2, 100) == ["square-finds-more"]
    kang = {"clean": 0.937, "aa apgd-t": 0.85, "aa fab-t": 0.85, "aa square": 0.642, "aa": 0.642, "pgd-20": 0.66}
    (finding,) = suspicions(kang, 1000)
    assert finding.check == "square-finds-more"
    assert "Square alone fooled 208 images" in finding.seen


def test_square_is_compared_with_the_search_before_it_in_the_same_attack() -> None:
    assert checks({"aa-plus fab": 0.5, "aa-plus square": 0.5, "aa-plus apgd-t": 0.4}) == []
    assert checks({"aa fab-t": 0.5, "aa-plus square": 0.3}) == []
    assert checks({"aa square": 0.3, "aa apgd-t": 0.3}) == []


@pytest.mark.parametrize(
    ("weak", "strong", "sign"), [("pgd-20", "fgsm", "one-step-beats-many"), ("pgd-20", "square", "black-box-beats")]
)
def test_equally_strong_attacks_are_rarely_suspected(weak: str, strong: str, sign: str) -> None:
    """Attacks that fool each image by a toss of their own: the error that is assumed is then exact, the share 2.3%."""
    generator = torch.Generator().manual_seed(0)
    for n in (100, 2000):
        for rate in (0.1, 0.5):
            left = (torch.rand(4000, 2, n, generator=generator) < rate).double().mean(2).tolist()
            raised = sum(len(suspicions({weak: a, strong: b}, n)) for a, b in left)
            assert 0.01 < raised / 4000 < 0.035


@settings(deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["clean", "fgsm", "pgd-20", "square", "cw-20", "aa", "aa square"]), st.floats(0, 1)
    ),
    st.integers(1, 100_000),
)
def test_more_images_only_add_suspicions(accuracies: dict[str, float], n: int) -> None:
    fewer = {finding.check for finding in suspicions(accuracies, n)}
    assert fewer <= {finding.check for finding in suspicions(accuracies, 4 * n)}
    assert "one-step-beats-many" not in fewer or accuracies["fgsm"] < accuracies["pgd-20"]


def test_nothing_is_expected_of_pgd_in_l1() -> None:
    """Accuracies of a network trained normally on digits, in L1 at 4: PGD moves too few pixels, and too many at once."""
    weak = {"clean": 0.911, "fgsm": 0.814, "pgd-20": 0.797, "cw-20": 0.767, "gama-100": 0.767}
    strong = {"square": 0.222, "apgd-ce": 0.019, "apgd-t": 0.003, "fab-t": 0.003, "mt": 0.003, "aa": 0.003}
    assert suspicions(weak | strong, 360, "L1") == []
    assert suspicions(weak | {"square": 0.222}, 360, "L1") == suspicions(weak | {"aa": 0.003}, 360, "L1") == []
    for norm in ("Linf", "L2", None):
        assert "aa-far-below-pgd" in [finding.check for finding in suspicions(weak | strong, 360, norm)]
    for masked in (
        {"square": 0.2, "apgd-t": 0.5},
        {"apgd-ce": 0.5, "apgd-t": 0.2},
        {"aa fab-t": 0.5, "aa square": 0.2},
    ):
        assert len(suspicions(weak | masked, 360, "L1")) == 1


def test_the_figures_of_an_evaluation_are_those_of_its_attacks_and_of_their_searches() -> None:
    stages = [{"attack": "apgd-ce", "accuracy": 0.3}, {"attack": "square", "accuracy": 0.1}]
    entries = [
        {"attack": "clean", "accuracy": 0.4},
        {"attack": "pgd-20", "accuracy": 0.3, "forwards": 1},
        {"attack": "aa", "accuracy": 0.1, "stages": stages},
    ]
    accuracies = figures({"attacks": entries})
    assert list(accuracies.items()) == [
        ("clean", 0.4),
        ("pgd-20", 0.3),
        ("aa apgd-ce", 0.3),
        ("aa square", 0.1),
        ("aa", 0.1),
    ]
    assert checks(accuracies, 10) == ["square-finds-more"]


def test_of_two_attacks_of_one_name_the_figures_of_the_stronger_one_count() -> None:
    stages = [{"attack": "apgd-ce", "accuracy": 0.3}, {"attack": "square", "accuracy": 0.1}]
    one = [{"attack": "aa", "accuracy": 0.1, "stages": stages}, {"attack": "pgd-20", "accuracy": 0.2}]
    other = [{"attack": "aa", "accuracy": 0.4, "stages": []}, {"attack": "pgd-20", "accuracy": 0.3}]
    expected = {"aa apgd-ce": 0.3, "aa square": 0.1, "aa": 0.1, "pgd-20": 0.2}
    for entries in ([*one, *other], [*other, *one]):
        accuracies = figures({"attacks": entries})
        assert accuracies == expected
        assert checks(accuracies, 1000) == ["square-finds-more"]


def test_figures_that_are_none_are_refused() -> None:
    with pytest.raises(BadInput, match="of 0 images"):
        suspicions({"clean": 0.9}, 0)
    for accuracy in (55.2, -0.1, float("nan")):
        with pytest.raises(BadInput, match=r"under pgd-20 is .* fraction in \[0, 1\]"):
            suspicions({"clean": 0.9, "pgd-20": accuracy}, 100)


# Experiments -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images() -> Images:
    return digits()[1]


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


@pytest.fixture(scope="module")
def standard() -> nn.Module:
    return trained(perceptron(), digits()[0], 4)


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    return trained(perceptron(), digits()[0], 4, PGD(steps=3, alpha=0.05, bn="train"))


@pytest.fixture(scope="module")
def one_step() -> nn.Module:
    return trained(perceptron(), digits()[0], 4, PGD(steps=1, alpha=0.125, bn="train"))


def found(model: nn.Module, images: Images, threat: Threat = LINF, count: int = 64) -> dict[str, Finding]:
    return {finding.check: finding for finding in probe_masking(model, images, threat, count=count)}


@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=["Linf", "L2", "L1"])
def test_nothing_is_found_where_gradients_lead_to_the_goal(threat, standard, robust, one_step, images) -> None:
    for seed, network in enumerate((standard, robust, one_step, Normalised(standard, 1, levels=16).eval())):
        assert probe_masking(network, images, threat, seed=seed) == []


class Backwards(torch.autograd.Function):
    """The identity, with a gradient of one's own making."""

    @staticmethod
    def forward(ctx, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(ctx.saved_tensors[0], gradient), None


def misleading(network: nn.Module, change: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    return Around(network, before=lambda x: Backwards.apply(x, change))


@pytest.mark.parametrize("threat", [LINF, L2, L1], ids=["Linf", "L2", "L1"])
def test_shattered_gradients_are_found(threat: Threat, standard, images) -> None:
    findings = found(misleading(standard, lambda x, g: torch.randn_like(g)), images, threat)
    assert {finding.severity for finding in findings.values()} == {"error"}
    assert "misleading-gradient" in findings
    led, count = map(int, re.search(r"in (\d+) of (\d+) images", findings["misleading-gradient"].seen).groups())
    assert count > 50
    assert 0.3 < led / count < 0.8


def test_gradients_that_are_exactly_zero_are_found(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: (16 * x).round() / 16), images)
    assert {"zero-gradient", "black-box-beats-white-box", "withstands-everything"} == set(findings)
    assert found(misleading(standard, lambda x, g: 0 * g), images)["zero-gradient"].seen == (
        found(Around(standard, before=lambda x: (16 * x).round() / 16), images)["zero-gradient"].seen
    )


def test_gradients_that_lead_only_from_the_images_themselves_are_found(standard, images) -> None:
    """Elsewhere, where no pixel is a byte, they point the other way."""

    def there(x: Tensor) -> Tensor:
        return ((x * 255 - (x * 255).round()).abs() < 1e-3).all(-1).all(-1).all(-1).view(-1, 1, 1, 1)

    findings = found(misleading(standard, lambda x, g: torch.where(there(x), g, -g)), images)
    assert {"one-step-beats-many", "misleading-gradient", "withstands-everything"} <= set(findings)
    assert "One step of the whole radius" in findings["one-step-beats-many"].seen


def test_logits_on_a_huge_scale_mask_cross_entropy_only(standard, images) -> None:
    findings = found(Around(standard, after=lambda z: 1e4 * z), images)
    assert set(findings) == {"margin-beats-cross-entropy"}
    assert findings["margin-beats-cross-entropy"].severity == "warning"


class Window(nn.Module):
    """One pixel, 0.5 or 0 to begin with; wrong only where it lies in a window that large steps pass over."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        inside = ((pixel > 0.52) & (pixel < 0.56)).to(x.dtype)
        zero = (pixel < 0.25).to(x.dtype)
        return torch.stack([5 * zero + 5 * inside + 0 * pixel, 5 * (1 - zero) - pixel], 1)


def test_an_accuracy_that_grows_with_the_radius_is_found() -> None:
    pixels = torch.tensor([128, 128, 128, 0], dtype=torch.uint8).repeat(16).view(64, 1, 1, 1)
    images = Images(pixels, (pixels.flatten() > 0).long(), torch.arange(64))
    findings = found(Window(), images, Threat("Linf", 0.05))
    assert {"grows-with-radius", "withstands-everything"} <= set(findings)
    assert "at 0.05" in findings["grows-with-radius"].seen
    assert "at 0.5 (Linf)" in findings["grows-with-radius"].seen


def test_a_network_without_gradients_is_not_attacked(standard, images) -> None:
    findings = found(Around(standard, before=lambda x: x.detach()), images)
    assert set(findings) == {"no-gradient"}


def test_a_constant_answer_is_robust_and_without_gradients(images) -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0, 0.5]).expand(len(x), 3) + 0 * x.flatten(1)[:, :1]

    few = images.subset((images.labels < 3).nonzero()[:, 0])
    assert set(found(Constant(), few)) == {"zero-gradient", "withstands-everything"}
    assert found(Constant(), replace(few, labels=torch.where(few.labels == 1, 2, few.labels))) == {}  # never right


def test_random_networks_do_not_stop_the_experiments(standard, images) -> None:
    noisy = Around(standard, before=lambda x: x + 0.02 * torch.randn_like(x))
    assert not {"zero-gradient", "withstands-everything"} & set(found(noisy, images))


def test_the_seed_decides_everything_and_the_model_is_left_as_it_was(standard, images) -> None:
    network = misleading(copy.deepcopy(standard).train(), lambda x, g: torch.randn_like(g) * random.random())
    network.network[0].eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    kept = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    one = probe_masking(network, images, LINF, seed=1, count=32)
    assert one
    assert torch.equal(torch.get_rng_state(), kept[0])
    assert random.getstate() == kept[1]
    assert (np.random.get_state()[1] == kept[2]).all()
    torch.manual_seed(7)
    assert probe_masking(network, images, LINF, seed=1, count=32) == one
    assert probe_masking(network, images, LINF, seed=2, count=32) != one
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_the_guide_explains_every_finding() -> None:
    sources = (ROOT / "src/sparring/evaluation/masking").glob("*.py")
    names = {name for source in sources for name in re.findall(r'Finding\(\s*"([^"]+)"', source.read_text())}
    assert len(names) >= 8
    explained = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/guides/doctor.md").read_text(), re.MULTILINE)
    assert names <= set(explained)


def test_images_that_tell_nothing_are_refused(standard, images) -> None:
    with pytest.raises(BadInput, match="no images"):
        probe_masking(standard, images.subset(torch.arange(0)), LINF)
    with pytest.raises(BadInput, match="All images are of class 3"):
        probe_masking(standard, images.subset((images.labels == 3).nonzero()[:, 0]), LINF)
