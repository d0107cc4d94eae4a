"""The table of defences that hide gradients: what they compute, what they let attacks see, and what the table shows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sparring import cli
from sparring.attacks import PGD
from sparring.comparison import bpda
from sparring.comparison.defences import DEFENCES, RandomResizing, compressed, rounded
from sparring.data import Data, load
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model, train
from sparring.methods import Standard
from sparring.models.thermometer import Thermometer
from sparring.optimisation import Optimisation
from sparring.results.published import broken_defences
from sparring.threat import Threat
from sparring.training.progress import Silent
from tests.comparison.images import write_images
from tests.comparison.written import lines


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_rounding_gives_eight_levels() -> None:
    x = torch.tensor([0.0, 0.07, 0.08, 0.5, 1.0]).view(1, 1, 1, 5)
    assert torch.allclose(rounded(x).flatten(), torch.tensor([0, 0, 1 / 7, 4 / 7, 1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_is_read_back_image_by_image(channels: int) -> None:
    smooth = torch.nn.functional.interpolate(noise(2, channels, 4, 4), 32, mode="bilinear")
    ours = (compressed(smooth) * 255).round()
    for image, found in zip(smooth, ours, strict=True):
        levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        stream = io.BytesIO()
        Image.fromarray(levels[..., 0] if channels == 1 else levels).save(stream, "JPEG", quality=75)
        theirs = np.asarray(Image.open(stream)).reshape(32, 32, channels).transpose(2, 0, 1)
        assert np.array_equal(found.numpy(), theirs)
    assert (compressed(smooth) - smooth).abs().max() > 1 / 255
    with pytest.raises(BadInput, match="one or three channels, not 2"):
        compressed(noise(1, 2, 8, 8))


def test_a_resized_image_is_the_image_in_a_black_frame() -> None:
    x = noise(2, 3, 32, 32) / 2 + 0.5
    shapes = set()
    for seed in range(20):
        torch.manual_seed(seed)
        found = RandomResizing()(x)
        assert found.shape == x.shape
        rows, columns = (found[0, 0].amax(dim) > 0 for dim in (1, 0))
        shapes.add((int(rows.sum()), int(rows.nonzero()[0]), int(columns.nonzero()[0])))
        assert 28 <= int(rows.sum()) == int(columns.sum()) <= 32
        assert found[0].sum() / x[0].sum() == pytest.approx((int(rows.sum()) / 32) ** 2, rel=0.1)
    assert len(shapes) > 10


def test_a_thermometer_is_coded_number_by_number_and_has_the_smooth_code_s_gradient() -> None:
    x = noise(2, 3, 2, 2).requires_grad_()
    code = Thermometer(16)(x)
    for channel in range(3):
        for k in range(16):
            assert torch.equal(code[:, 16 * channel + k], (x[:, channel] > k / 16).float())
    weights = torch.randn(code.shape)
    (gradient,) = torch.autograd.grad((code * weights).sum(), x)
    y = x.detach().clone().requires_grad_()
    smooth = torch.stack([(y - k / 16).clamp(0, 1) for k in range(16)], dim=2).flatten(1, 2)
    (expected,) = torch.autograd.grad((smooth * weights).sum(), y)
    assert torch.allclose(gradient, expected)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], nn.Module]:
    """Networks for digits, by what a defence asks of them."""
    found = {}
    for defence in DEFENCES:
        name = "resnet18-thermometer" if defence.network else "smallconv"
        if defence.network not in found:
            experiment = Experiment(
                Standard(),
                data=Data(limit=800, validation=100),
                model=Model(name, width=8),
                optimisation=Optimisation(epochs=8 if defence.network else 4, lr=0.1),
            )
            run = train(experiment, tmp_path_factory.mktemp("run") / name, report=Silent())
            found[defence.network] = cli.api.load(run.folder)
    return found


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda defence: defence.name)
def test_the_three_forms_answer_alike_and_only_the_adaptive_attack_breaks_the_defence(defence, networks) -> None:
    images = load(Data(test_limit=40)).test
    x, y = images.pixels / 255, images.labels
    threat = Threat("Linf", 0.2)
    defended = defence.around(networks[defence.network].eval())
    forms = [defended.answers, defended.adaptive, *([] if defence.name == "random resizing" else [defended.naive])]
    answers = []
    for form in forms:
        torch.manual_seed(0)
        answers.append(form(x))
    assert all(torch.allclose(answer, answers[0], atol=1e-5) for answer in answers)
    accuracies = {}
    for name in ("naive", "adaptive"):
        torch.manual_seed(0)
        found = PGD(steps=10)(getattr(defended, name), x, y, threat)
        accuracies[name] = (defended.answers(found).argmax(1) == y).float().mean()
    clean = (answers[0].argmax(1) == y).float().mean()
    assert clean > 0.7
    assert accuracies["adaptive"] < 0.3
    if defence.name not in ("none", "random resizing"):
        assert accuracies["naive"] > accuracies["adaptive"] + 0.3


def test_the_table_is_trained_and_measured_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    images = write_images(tmp_path / "images")
    words = ["compare", "bpda", "--scale", "smoke", "--data.path", str(images), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--no-training"]) == 0
    assert lines(tmp_path / "out/bpda-smoke.csv") == []
    assert cli.main(words) == 0
    rows = lines(tmp_path / "out/bpda-smoke.csv")
    assert [row["defence"] for row in rows[::3]] == [defence.name for defence in DEFENCES]
    for row in rows:
        assert row["images"] == "50"
        assert 0 <= float(row["ours"]) <= 100
    for number in range(0, len(rows), 3):
        clean, naive, adaptive = (float(row["ours"]) for row in rows[number : number + 3])
        assert clean >= max(naive, adaptive)
    page = (tmp_path / "out/bpda-smoke.md").read_text()
    for row in broken_defences():
        assert f"{row.defence}, {row.dataset}, {row.norm} {row.radius}: {row.accuracy}{row.marks}" in page
    assert r"\begin{tabular}{lllrrr}" in (tmp_path / "out/bpda-smoke.tex").read_text()
    monkeypatch.setattr(bpda, "evaluate", None)  # from here on nothing may be measured
    capsys.readouterr()
    assert cli.main(words) == 0
    assert "thermometer" in capsys.readouterr().out
    assert lines(tmp_path / "out/bpda-smoke.csv") == rows
    (record,) = (tmp_path / "out/smoke/cifar10-standard-seed0/evaluations/JPEG-quality-75").glob("*.json")
    record.write_text(record.read_text().replace('"accuracy": 0', '"accuracy": 1'))
    assert cli.main(words) == 2
    assert "is not as an evaluation wrote it" in capsys.readouterr().err


def test_what_the_table_does_not_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--seeds", "2"], ["--only", "JPEG"]):
        assert cli.main(["compare", "bpda", "--scale", "smoke", *words]) == 2
        assert "leave out --only and --seeds" in capsys.readouterr().err
    assert cli.main(["compare", "bpba"]) == 2
    assert "did you mean 'bpda'" in capsys.readouterr().err
