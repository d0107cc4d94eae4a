"""Figures show what the rows hold."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from sparring.errors import BadInput
from sparring.results import figures


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were saved."""
    kept: list[Figure] = []
    save = figures._save

    def watched(figure: Figure, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(figures, "_save", watched)
    return kept


def rows(**columns: list[float]) -> list[dict[str, float]]:
    length = len(next(iter(columns.values())))
    return [{"epoch": float(e), **{name: values[e] for name, values in columns.items()}} for e in range(length)]


def lines(figure: Figure) -> list[list[float]]:
    return [list(line.get_ydata()) for line in figure.axes[0].get_lines()]


def names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_robust_curves(drawn, tmp_path) -> None:
    histories = {"weak": rows(robust=[0.1, 0.2]), "strong": rows(robust=[0.1, 0.4])}
    figures.robust_curves(histories, tmp_path / "figure.png")
    assert is_png(tmp_path / "figure.png")
    assert names(drawn[0]) == ["strong", "weak"]
    assert lines(drawn[0]) == [[10, 40], [10, 20]]
    assert list(drawn[0].axes[0].get_lines()[0].get_xdata()) == [1, 2]


def test_train_test_curves(drawn, tmp_path) -> None:
    histories = {"mep": rows(robust=[0.1, 0.2], train_robust=[0.3, 0.5])}
    figures.train_test_curves(histories, tmp_path / "figure.png")
    assert is_png(tmp_path / "figure.png")
    assert lines(drawn[0]) == [[10, 20], [30, 50]]
    held_out, training = drawn[0].axes[0].get_lines()
    assert held_out.get_color() == training.get_color()
    assert (held_out.get_linestyle(), training.get_linestyle()) == ("-", "--")
    assert names(drawn[0]) == ["mep", "held out", "training"]
    with pytest.raises(BadInput, match="metrics.csv of at has no column train_robust: .*diagnostics.train_images"):
        figures.train_test_curves({"at": rows(robust=[0.1])}, tmp_path / "other.png")


def test_norms_stand_beside_the_three_of_the_proposition(drawn, tmp_path) -> None:
    eps, components = 8 / 255, 3072
    figures.norms({"rs": rows(delta_l2=[1.5, 1.4])}, eps, components, tmp_path / "figure.png")
    assert is_png(tmp_path / "figure.png")
    run, largest, uniform, printed = lines(drawn[0])
    assert run == pytest.approx([math.log(1.5), math.log(1.4)])
    everywhere, noise = torch.full((components,), eps), eps * (2 * torch.rand(components) - 1)
    assert largest == pytest.approx([everywhere.norm().log().item()] * 2, rel=1e-4)
    assert uniform == pytest.approx([noise.norm().log().item()] * 2, abs=0.05)
    assert printed == pytest.approx([math.log(eps / math.sqrt(components))] * 2)
    with pytest.raises(BadInput, match="metrics.csv of rs has no column delta_l2"):
        figures.norms({"rs": rows(robust=[0.1])}, eps, components, tmp_path / "other.png")


def test_action_shares_are_stacked(drawn, tmp_path) -> None:
    shares = [{"epoch": 0.0, "0": 0.25, "1": 0.75}, {"epoch": 1.0, "0": 0.5, "1": 0.5}]
    figures.action_shares(shares, ["3/255", "4/255"], "Radius", tmp_path / "figure.png")
    assert is_png(tmp_path / "figure.png")
    lower, upper = (area.get_paths()[0].vertices for area in drawn[0].axes[0].collections)
    assert {tuple(corner) for corner in lower} >= {(1, 0), (1, 25), (2, 50)}
    assert {tuple(corner) for corner in upper} >= {(1, 25), (1, 100), (2, 50), (2, 100)}
    assert names(drawn[0]) == ["4/255", "3/255"]
    with pytest.raises(BadInput, match="2 actions and 3 labels"):
        figures.action_shares(shares, ["3/255", "4/255", "5/255"], "Radius", tmp_path / "other.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_perturbation_panels(channels, drawn, tmp_path) -> None:
    """Two images, three epochs: four rows, three columns; the ball's range becomes that of a picture."""
    eps = 0.1
    level = torch.tensor([-eps, 0.0, eps, 2 * eps]).expand(2, channels, 4, 4)
    snapshot = {"start": torch.zeros(2, channels, 4, 4).half(), "delta": level.half(), "index": torch.tensor([0, 7])}
    figures.perturbation_panels(dict.fromkeys((4, 5, 6), snapshot), eps, tmp_path / "figure.png")
    assert is_png(tmp_path / "figure.png")
    panels = drawn[0].axes
    assert [panel.get_ylabel() for panel in panels[::3]] == ["start 0", "delta 0", "start 7", "delta 7"]
    assert [panel.get_title() for panel in panels[:3]] == ["epoch 5", "epoch 6", "epoch 7"]
    shown = torch.as_tensor(panels[3].images[0].get_array())
    assert shown.shape == ((4, 4) if channels == 1 else (4, 4, 3))
    expected = torch.tensor([0.0, 0.5, 1.0, 1.0])
    torch.testing.assert_close(shown[0] if channels == 1 else shown[0, :, 0], expected, atol=1e-3, rtol=0)


def test_panels_of_a_method_without_start_show_the_final_perturbation_only(drawn, tmp_path) -> None:
    snapshot = {"delta": torch.zeros(2, 1, 4, 4).half(), "index": torch.arange(2)}
    figures.perturbation_panels({0: snapshot}, 0.1, tmp_path / "figure.png")
    assert [panel.get_ylabel() for panel in drawn[0].axes] == ["delta 0", "delta 1"]
    with pytest.raises(BadInput, match="diagnostics.images above 0"):
        figures.perturbation_panels({}, 0.1, tmp_path / "other.png")
