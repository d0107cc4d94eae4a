"""Landscapes, Grad-CAM and pictures of attacked images: against closed forms on small networks, and drawn."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sparring import gallery
from sparring.cli import main
from sparring.data import Images
from sparring.errors import BadInput
from sparring.results.attacked import attacked, first_right
from sparring.results.gradcam import grad_cam
from sparring.results.landscape import landscape
from sparring.threat import NormName, Ratio, Threat

# Two classes, told apart by the sum of the pixels' products with these.
WEIGHTS = torch.linspace(-1, 1, 48, dtype=torch.float64).view(3, 4, 4) + 0.01


class Linear(nn.Module):
    """Logits 0 and w x: the cross-entropy of class 0 is log(1 + exp(w x))."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WEIGHTS.clone())

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_landscape_is_the_closed_form_on_a_linear_network(norm: NormName) -> None:
    """w r1 is eps times the sum of |w| in Linf and eps times its length in L2; w r2 follows from two corners."""
    threat = Threat(norm, Ratio("1/10"))
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    axis, losses = landscape(Linear(), x, torch.zeros(2, dtype=torch.long), threat, points=5)
    assert axis.tolist() == [-1, -0.5, 0, 0.5, 1]
    scores = (x * WEIGHTS).flatten(1).sum(1)
    slope = 0.1 * float(WEIGHTS.abs().sum() if norm == "Linf" else WEIGHTS.norm())
    signs = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    size = 0.1 if norm == "Linf" else 0.1 / math.sqrt(48)
    across = size * (signs * WEIGHTS).flatten(1).sum(1)
    for (row, a), (column, b) in itertools.product(enumerate(axis.tolist()), repeat=2):
        expected = nn.functional.softplus(scores + a * slope + b * across).mean()
        assert float(losses[row, column]) == pytest.approx(float(expected), rel=1e-6)


class Pooled(nn.Module):
    """Channels of 1 x 1 convolutions, their means, and a linear layer: Grad-CAM is relu(sum_k w_ck A_k) over its largest."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def test_grad_cam_is_the_closed_form_where_channels_are_averaged() -> None:
    torch.manual_seed(0)
    network, x, target = Pooled(), torch.rand(3, 3, 5, 6), torch.tensor([0, 1, 1])
    with torch.no_grad():
        maps = torch.einsum("bk,bkhw->bhw", network.head.weight[target], network.features(x)).relu()
    expected = maps / maps.flatten(1).amax(1).clamp_min(1e-30)[:, None, None]
    torch.testing.assert_close(grad_cam(network, x, target), expected, rtol=1e-5, atol=1e-6)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_grad_cam_takes_the_last_layer_with_a_height_and_a_width() -> None:
    """Not what a later one makes 1 x 1; of a smaller map, the picture is as large as the image."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = grad_cam(network, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    assert found.shape == (2, 8, 8)
    peaks = found.flatten(1).amax(1).tolist()  # 0 where nothing speaks for the class
    assert all(peak in (0, pytest.approx(1)) for peak in peaks)
    assert max(peaks) == pytest.approx(1)
    with pytest.raises(BadInput, match="a layer with a height and a width"):
        grad_cam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(2, 3, 2, 2), torch.tensor([0, 1]))


def test_the_first_images_that_all_networks_know_are_shown() -> None:
    class Constant(nn.Module):
        def __init__(self, bias: list[float]) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(bias))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias + 0 * x.flatten(1)[:, :1]

    images = Images(torch.zeros(4, 3, 2, 2), torch.tensor([1, 0, 1, 1]))
    x, y = first_right([Constant([0.0, 1.0]), Constant([0.0, 2.0])], images, 2, "cpu")
    assert x.shape == (2, 3, 2, 2)
    assert y.tolist() == [1, 1]
    with pytest.raises(BadInput, match="None of the first 4 test images is classified rightly"):
        first_right([Constant([0.0, 1.0]), Constant([2.0, 0.0])], images, 2, "cpu")


def test_attacked_images_are_enlarged_and_repeatable() -> None:
    x = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64)
    once, again = (
        attacked(Linear(), x, torch.ones(2, dtype=torch.long), Threat("Linf", Ratio("1/10")), "pgd-2") for _ in range(2)
    )
    assert torch.equal(once.adversarial, again.adversarial)
    assert 0.05 < float((once.adversarial - x).abs().max()) <= 0.1 + 1e-9
    farthest = (once.shown - 0.5).abs().flatten(1).amax(1)
    assert farthest.tolist() == pytest.approx([0.5, 0.5])
    assert once.after[:, 1].lt(once.before[:, 1]).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    small = ["--optimisation.epochs", "2", "--data.limit", "400"]
    for name, recipe in (("a", "digits/fgsm-mep"), ("b", "digits/fgsm-rs"), ("other", "digits/fgsm-rs")):
        more = ["--threat.eps", "0.1"] if name == "other" else []
        assert main(["train", recipe, "--run", str(folder / name), *small, *more]) == 0
    return [folder / name for name in ("a", "b", "other")]


@pytest.mark.parametrize(("name", "count"), [("landscape", 2), ("grad-cam", 2), ("picture", 1)])
def test_the_figures_are_drawn(name: str, count: int, runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / f"{name}.png"
    assert main(["figure", name, *map(str, runs[:count]), "--out", str(file)]) == 0
    assert file.stat().st_size > 5000
    figure = gallery.draw(name, runs[:count])
    pictures = [image for axes in figure.axes for image in axes.get_images()]
    assert len(pictures) == {"landscape": 0, "grad-cam": 2 * 2 * 6, "picture": 9}[name]
    if name == "landscape":
        assert [axes.get_title() for axes in figure.axes] == ["a", "b", ""]


@pytest.mark.parametrize(
    ("name", "which", "sentence"),
    [
        ("landscape", (0, 2), "is of runs on the same images against the same threat"),
        ("grad-cam", (0, 2), "is of runs on the same images against the same threat"),
        ("picture", (0, 1), "This figure is of one run, not of 2"),
    ],
)
def test_runs_that_do_not_fit_are_refused(name, which, sentence, runs: list[Path], tmp_path, capsys) -> None:
    chosen = [str(runs[number]) for number in which]
    assert main(["figure", name, *chosen, "--out", str(tmp_path / "f.png")]) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
