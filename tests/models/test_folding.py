"""A folded network says what the network says, in whatever is folded and for as long as it is."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparring.attacks import input_gradient
from sparring.models import create, fold, foldable, folded

SHAPE = (3, 32, 32)


def network(name: str, width: int | None = 4) -> nn.Module:
    """In double precision, with BatchNorm statistics that matter."""
    torch.manual_seed(0)
    return with_statistics(create(name, 7, channels=3, size=32, width=width)).double().eval()


def with_statistics(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-2, 2)
                module.bias.normal_()
    return model


def answers(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The gradient of some images, and their logits."""
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return input_gradient(model, x, lambda logits: logits.logsumexp(1))


class Norms:
    """Counts the BatchNorms that are gone through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = F.batch_norm

        def counted(*arguments, **more):
            self.count += 1
            return original(*arguments, **more)

        monkeypatch.setattr(F, "batch_norm", counted)


@pytest.mark.parametrize(
    ("name", "width", "number", "left"),
    [
        ("smallconv", 4, 4, 0),
        ("resnet18", 4, 20, 0),
        # Norms before activations follow a sum, except within a block; shortcuts have none.
        ("resnet18-gat", 4, 20, 0),
        ("preactresnet18", 4, 8, 9),
        ("preactresnet18-wong", 4, 8, 9),
        ("preactresnet18-talk", 4, 8, 8),
        ("wideresnet-28-10", None, 13, 12),
        ("timm:resnet10t", None, 14, 0),
    ],
)
def test_it_says_what_the_network_says_with_fewer_norms(
    name: str, width: int | None, number: int, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network(name, width)
    folds = foldable(model, SHAPE)
    assert len(folds) == number
    expected = answers(model)
    norms = Norms(monkeypatch)
    with folded(model, folds):
        found = answers(model)
    assert norms.count == left
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.abs().max()))
    for ours, theirs in zip(answers(model), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_folding_for_good_is_the_same_and_leaves_modules_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("resnet18")
    expected, before = answers(model), {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    fold(model, foldable(model, SHAPE))
    norms = Norms(monkeypatch)
    model(torch.rand(1, *SHAPE, dtype=torch.float64))
    assert norms.count == 0
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(answers(model), expected, rtol=1e-9, atol=1e-9)


def test_new_weights_and_statistics_are_taken_on_entering() -> None:
    model = network("smallconv")
    folds = foldable(model, SHAPE)
    for seed in range(2):
        torch.manual_seed(seed)
        with_statistics(model)
        expected = answers(model)
        with folded(model, folds):
            torch.testing.assert_close(answers(model), expected)


def test_a_block_within_a_block_changes_nothing() -> None:
    model = network("smallconv")
    folds = foldable(model, SHAPE)
    expected = answers(model)
    with folded(model, folds):
        outer = answers(model)
        with folded(model, folds):
            assert all(torch.equal(a, b) for a, b in zip(answers(model), outer, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(answers(model), outer, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(answers(model), expected, strict=True))


def test_training_mode_inside_is_an_error_and_not_a_wrong_answer() -> None:
    model = network("smallconv")
    with (
        folded(model, foldable(model, SHAPE)),
        pytest.raises(RuntimeError, match="BatchNorm in training mode is folded"),
    ):
        answers(model.train())


def test_the_network_is_put_back_also_after_an_error() -> None:
    model = network("smallconv")
    before, attributes = copy.deepcopy(model.state_dict()), [set(vars(module)) for module in model.modules()]
    with pytest.raises(KeyboardInterrupt), folded(model, foldable(model, SHAPE)):
        raise KeyboardInterrupt
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_new_weights_have_the_chosen_precision_and_the_layout_of_the_old() -> None:
    model = network("smallconv").to(memory_format=torch.channels_last)
    folds = foldable(model, SHAPE)
    with folded(model, folds, torch.bfloat16):
        for name, _ in folds:
            told = model.get_submodule(name).forward.keywords
            assert {tensor.dtype for tensor in told.values()} == {torch.bfloat16}
            assert told["weight"].is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(answers(model), answers(network("smallconv")))


class Net(nn.Module):
    """A convolution, a norm, and what a test makes of them."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 4, 3, padding=1)
        self.norm = norm or nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu().mean((2, 3))


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return (self.norm(features) + features).mean((2, 3))


class Shared(Net):
    """The convolution is used elsewhere, too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3)) + self.conv(x.flip(3)).amax((2, 3))


class Half(Shared):
    """One convolution of two is used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.first(x))


def test_what_can_be_folded_is_folded_beside_what_cannot() -> None:
    assert foldable(Half().eval(), SHAPE) == (("first.0", "first.1"),)


class Twins(nn.Module):
    """Cannot be traced, and has a block in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Module(), nn.Module()
        self.one.block = self.other.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 2:
            x = x / 2
        return self.other.block(self.one.block(x).relu()).mean((2, 3))


def test_a_block_in_two_places_is_folded_in_both() -> None:
    model = with_statistics(Twins()).double().eval()
    folds = foldable(model, SHAPE)
    assert folds == (("one.block.0", "one.block.1"),)
    expected = answers(model)
    with folded(model, folds):
        torch.testing.assert_close(answers(model), expected)


class Renamed(Net):
    """Its norm has a second name, by which it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.alias = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.alias(self.conv(x)).relu().mean((2, 3))


@pytest.mark.parametrize("kind", [Renamed, Twins])
def test_what_has_several_names_is_folded_for_good_under_all_of_them(kind: type[nn.Module]) -> None:
    model = with_statistics(kind()).double().eval()
    expected = answers(model)
    folds = foldable(model, SHAPE)
    assert len(folds) == 1
    fold(model, folds)
    torch.testing.assert_close(answers(model), expected)


class Picky(Net):
    """Refuses a single image."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(x) > 1
        return super().forward(x)


class Looking(Net):
    """Looks its images up, which no trace survives."""

    def forward(self, x: Tensor) -> Tensor:
        return {0: super().forward(x)}[x.ndim - 4 if isinstance(x, Tensor) else x]


class Telling(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return super().forward(x), "and more"


class Again(Net):
    """The norm is used twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(self.conv(x)).relu()).mean((2, 3))


class Between(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x).relu()).mean((2, 3))


class Moody(Net):
    """Does in evaluation what its trace, which is of evaluation too, sees; and something else at every second call."""

    called = 0

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        features = self.conv(x)
        return (self.norm(features) if self.called == 1 else features).mean((2, 3))


class Branching(nn.Module):
    """Cannot be traced, so that only its part is, which does not know that its convolution is used elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Net()

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 2:
            x = x / 2
        return self.part(x) + self.part.conv(x).amax((2, 3))


class Activating(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Unlike(Net):
    def __deepcopy__(self, memory):
        raise TypeError("cannot pickle a lock")


def hooked() -> nn.Module:
    model = Net()
    model.conv.register_forward_hook(lambda *_: None)
    return model


def watched() -> nn.Module:
    model = Net()
    model.norm.register_full_backward_hook(lambda *_: None)
    return model


def patched() -> nn.Module:
    model = Net()
    model.norm.forward = lambda x: x * 2
    return model


@pytest.mark.parametrize(
    "model",
    [
        Twice(),
        Shared(),
        Again(),
        Between(nn.Conv2d(3, 4, 3)),
        Moody(),
        Picky(),
        Looking(),
        Telling(),
        Branching(),
        Unlike(),
        hooked(),
        watched(),
        patched(),
        Net(norm=Activating(4)),
        Net(norm=nn.BatchNorm2d(4, affine=False)),
        Net(norm=nn.BatchNorm2d(4, track_running_stats=False)),
        Net(norm=nn.GroupNorm(2, 4)),
        Net(conv=nn.ConvTranspose2d(3, 4, 3)),
    ],
    ids=lambda model: type(model).__name__ + type(getattr(model, "norm", model)).__name__,
)
def test_what_would_change_is_left_alone(model: nn.Module) -> None:
    assert foldable(model.eval(), SHAPE) == ()


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(3, 6, 3, groups=3, stride=2),
        nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect", dilation=2),
    ],
    ids=["no bias", "groups", "reflected"],
)
def test_all_kinds_of_convolutions(conv: nn.Conv2d) -> None:
    model = with_statistics(Net(conv, nn.BatchNorm2d(conv.out_channels))).double().eval()
    folds = foldable(model, SHAPE)
    assert folds == (("conv", "norm"),)
    expected = answers(model)
    with folded(model, folds):
        torch.testing.assert_close(answers(model), expected)


def test_parts_of_a_network_that_cannot_be_traced_are_folded() -> None:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x if x.mean() < 2 else x / 2)

    assert foldable(Untraceable().eval(), SHAPE) == (("part.conv", "part.norm"),)


def test_looking_draws_no_random_numbers_and_leaves_the_network_alone() -> None:
    model = network("smallconv").train()
    before, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    foldable(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
