"""The toy of two numbers: what the three methods do to it, and that it is drawn and the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparring.cli import main
from sparring.toy import Toy, drawn, toy

EPS = 0.1


@pytest.fixture(scope="module")
def found() -> Toy:
    return toy()


def loss(found: Toy, point: Tensor) -> float:
    with torch.no_grad():
        logits = found.classifier(point.view(1, 2, 1, 1))
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([found.label])))


def test_a_learnt_start_makes_one_step_better_than_a_random_one(found: Toy) -> None:
    """As the figure claims: FGSM-SDI ends between FGSM-RS and PGD-AT, of the same classifier and point."""
    ends = {name: loss(found, path[-1]) for name, path in found.paths.items()}
    assert loss(found, found.point) < 0.7  # classified rightly
    assert ends["FGSM-RS"] < ends["FGSM-SDI"] < ends["PGD-AT"]


def test_the_paths_are_the_methods(found: Toy) -> None:
    """In the ball and the box; PGD-AT by a quarter of the radius, FGSM-RS by 1.25 times it; the same random start."""
    lengths = {name: len(path) for name, path in found.paths.items()}
    assert lengths == {"PGD-AT": 11, "FGSM-RS": 2, "FGSM-SDI": 2}
    for path in found.paths.values():
        assert float((path - found.point).abs().max()) <= EPS + 1e-6
        assert 0 <= float(path.min()) <= float(path.max()) <= 1
    assert torch.equal(found.paths["PGD-AT"][0], found.paths["FGSM-RS"][0])
    steps = found.paths["PGD-AT"].diff(dim=0).abs()
    assert float(steps.max()) == pytest.approx(EPS / 4, abs=1e-6)
    assert float(found.paths["FGSM-RS"].diff(dim=0).abs().max()) <= 1.25 * EPS + 1e-6


def test_it_is_the_same_every_time(found: Toy) -> None:
    again = toy()
    assert torch.equal(again.point, found.point)
    for name, path in found.paths.items():
        assert torch.equal(again.paths[name], path)


def test_it_is_drawn_without_a_run(found: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [axes.get_title() for axes in drawn(found).axes] == [
        "PGD-AT: 10 steps",
        "FGSM-RS: 1 step",
        "FGSM-SDI: 1 step",
        "",
    ]
    assert main(["figure", "toy", "--out", str(tmp_path / "toy.svg")]) == 0
    assert "<svg" in (tmp_path / "toy.svg").read_text()
    assert main(["figure", "toy", "runs/mine", "--out", str(tmp_path / "other.svg")]) == 2
    assert "The figure toy is of no run: leave runs/mine out." in capsys.readouterr().err
