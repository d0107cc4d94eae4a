"""Figures show what the rows hold."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.figure import Figure

from sparring.errors import BadInput
from sparring.results import figures


def rows(**columns: list[float]) -> list[dict[str, float]]:
    length = len(next(iter(columns.values())))
    return [{"epoch": float(e), **{name: values[e] for name, values in columns.items()}} for e in range(length)]


def lines(figure: Figure) -> list[list[float]]:
    return [list(line.get_ydata()) for line in figure.axes[0].get_lines()]


def names(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_robust_curves() -> None:
    figure = figures.robust_curves({"weak": rows(robust=[0.1, 0.2]), "strong": rows(robust=[0.1, 0.4])})
    assert names(figure) == ["strong", "weak"]
    assert lines(figure) == [[10, 40], [10, 20]]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 2]


def test_train_test_curves() -> None:
    figure = figures.train_test_curves({"mep": rows(robust=[0.1, 0.2], train_robust=[0.3, 0.5])})
    assert lines(figure) == [[10, 20], [30, 50]]
    held_out, training = figure.axes[0].get_lines()
    assert held_out.get_color() == training.get_color()
    assert (held_out.get_linestyle(), training.get_linestyle()) == ("-", "--")
    assert names(figure) == ["mep", "held out", "training"]
    with pytest.raises(BadInput, match="metrics.csv of at has no column train_robust: .*diagnostics.train_images"):
        figures.train_test_curves({"at": rows(robust=[0.1])})


def test_attack_success_and_minutes() -> None:
    columns = {"attack_success": [0.9, 0.5], "robust": [0.1, 0.3], "train_seconds": [60.0, 90.0]}
    figure = figures.attack_success({"rs": rows(**columns)})
    assert lines(figure) == [[90, 50]]
    figure = figures.accuracy_and_minutes({"rs": rows(**columns)})
    assert lines(figure) == [[10, 30]]
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 2.5]


def test_bands_are_the_range_over_runs() -> None:
    figure = figures.bands({"rs": [rows(robust=[0.1, 0.2, 0.9]), rows(robust=[0.3, 0.6])], "at": [rows(robust=[0.5])]})
    assert lines(figure) == [pytest.approx([20, 40]), [50]]
    assert names(figure) == ["rs (2 runs)", "at (1 run)"]
    edges = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {(x, round(y, 6)) for x, y in edges} == {(1.0, 10.0), (1.0, 30.0), (2.0, 20.0), (2.0, 60.0)}


def test_gradient_means_beside_the_rate_of_the_theorem() -> None:
    figure = figures.gradient_means({"las": rows(gradient_square_mean=[8.0, 5.0], steps=[100.0, 400.0])})
    measured, rate = figure.axes[0].get_lines()
    assert list(measured.get_xdata()) == [100, 400]
    assert list(measured.get_ydata()) == [8, 5]
    assert list(rate.get_ydata()) == pytest.approx([8, 4])
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")


def test_strengths_of_samples_are_in_units_of_the_radius() -> None:
    figure = figures.sample_strengths(rows(**{"7": [0.1, 0.3], "9": [0.2, 0.2]}), 0.2)
    assert lines(figure) == [pytest.approx([0.5, 1.5]), [1, 1]]
    assert names(figure) == ["image 7", "image 9"]


def test_runs_are_told_apart_without_colours() -> None:
    figure = figures.robust_curves({str(number): rows(robust=[0.1]) for number in range(12)})
    styles = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()]
    assert len(set(styles)) == 12
    assert {stroke for _, stroke in styles[:4]} == {"-", "--", "-.", ":"}


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("SVG", b"<?xml")])
def test_a_figure_is_written_by_its_name_and_always_the_same(suffix, begins, tmp_path) -> None:
    for name in ("one", "two"):
        figures.save(figures.robust_curves({"at": rows(robust=[0.1, 0.2])}), tmp_path / f"{name}.{suffix}")
    content = (tmp_path / f"one.{suffix}").read_bytes()
    assert content.startswith(begins)
    assert content == (tmp_path / f"two.{suffix}").read_bytes()
    with pytest.raises(BadInput, match=r"written as \.png or \.svg: name the file so, not .*figure\.pdf"):
        figures.save(figures.robust_curves({"at": rows(robust=[0.1])}), tmp_path / "figure.pdf")


def test_norms_stand_beside_the_three_of_the_proposition() -> None:
    eps, components = 8 / 255, 3072
    figure = figures.norms({"rs": rows(delta_l2=[1.5, 1.4])}, eps, components)
    run, largest, uniform, printed = lines(figure)
    assert run == pytest.approx([math.log(1.5), math.log(1.4)])
    everywhere, noise = torch.full((components,), eps), eps * (2 * torch.rand(components) - 1)
    assert largest == pytest.approx([everywhere.norm().log().item()] * 2, rel=1e-4)
    assert uniform == pytest.approx([noise.norm().log().item()] * 2, abs=0.05)
    assert printed == pytest.approx([math.log(eps / math.sqrt(components))] * 2)
    with pytest.raises(BadInput, match="metrics.csv of rs has no column delta_l2"):
        figures.norms({"rs": rows(robust=[0.1])}, eps, components)


def test_action_shares_are_stacked() -> None:
    shares = [{"epoch": 0.0, "0": 0.25, "1": 0.75}, {"epoch": 1.0, "0": 0.5, "1": 0.5}]
    figure = figures.action_shares({"eps": shares, "steps": shares}, {"eps": ["3/255", "4/255"], "steps": ["1", "2"]})
    for axes, labels in zip(figure.axes, (["4/255", "3/255"], ["2", "1"]), strict=True):
        lower, upper = (area.get_paths()[0].vertices for area in axes.collections)
        assert {tuple(corner) for corner in lower} >= {(1, 0), (1, 25), (2, 50)}
        assert {tuple(corner) for corner in upper} >= {(1, 25), (1, 100), (2, 50), (2, 100)}
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
    with pytest.raises(BadInput, match="2 actions and 3 labels"):
        figures.action_shares({"eps": shares}, {"eps": ["3/255", "4/255", "5/255"]})


@pytest.mark.parametrize("channels", [1, 3])
def test_perturbation_panels(channels) -> None:
    """Two images, three epochs: four rows, three columns; the ball's range becomes that of a picture."""
    eps = 0.1
    level = torch.tensor([-eps, 0.0, eps, 2 * eps]).expand(2, channels, 4, 4)
    snapshot = {"start": torch.zeros(2, channels, 4, 4).half(), "delta": level.half(), "index": torch.tensor([0, 7])}
    panels = figures.perturbation_panels(dict.fromkeys((4, 5, 6), snapshot), eps).axes
    assert [panel.get_ylabel() for panel in panels[::3]] == ["start 0", "delta 0", "start 7", "delta 7"]
    assert [panel.get_title() for panel in panels[:3]] == ["epoch 5", "epoch 6", "epoch 7"]
    shown = torch.as_tensor(panels[3].images[0].get_array())
    assert shown.shape == ((4, 4) if channels == 1 else (4, 4, 3))
    expected = torch.tensor([0.0, 0.5, 1.0, 1.0])
    torch.testing.assert_close(shown[0] if channels == 1 else shown[0, :, 0], expected, atol=1e-3, rtol=0)


def test_panels_of_a_method_without_start_show_the_final_perturbation_only() -> None:
    snapshot = {"delta": torch.zeros(2, 1, 4, 4).half(), "index": torch.arange(2)}
    figure = figures.perturbation_panels({0: snapshot}, 0.1)
    assert [panel.get_ylabel() for panel in figure.axes] == ["delta 0", "delta 1"]
    with pytest.raises(BadInput, match="diagnostics.images above 0"):
        figures.perturbation_panels({}, 0.1)
