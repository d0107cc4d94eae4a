"""The recipes: all of them load, those of a data set are comparable, and the figures are those of the method cards."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest

from sparring import recipes
from sparring.configuration import read, to_yaml
from sparring.data.sources import KNOWN
from sparring.experiment import Experiment
from sparring.losses import smoothing_from_kept
from sparring.threat import Ratio

METHODS = [
    *("standard", "fgsm-at", "fgsm-rs", "pgd-at", "pgd2-at", "pgd4-at", "madry-at"),
    *("trades", "awp", "trades-awp", "fgsm-bp", "fgsm-ep", "fgsm-mep"),
]
CLASSES = {name: known.classes for name, known in KNOWN.items()} | {"digits": 10}
NAMES = recipes.names()
OFFICIAL = [name for name in NAMES if name.endswith("-official")]
DATA_SETS = sorted({name.partition("/")[0] for name in NAMES})


@cache
def load(name: str) -> Experiment:
    return read(Experiment, recipes.path(name))


def value(name: str, path: str) -> object:
    """A field of a recipe by its path, such as method.attack.alpha."""
    found: object = load(name)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str, tmp_path: Path) -> None:
    experiment = load(name)
    written = tmp_path / "written.yaml"
    written.write_text(to_yaml(experiment), encoding="utf-8")
    assert read(Experiment, written) == experiment


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_names_the_data_set(name: str) -> None:
    folder = name.partition("/")[0]
    assert folder in CLASSES
    assert load(name).data.name == folder


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_what_it_is(name: str) -> None:
    lines = recipes.path(name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert all(len(line) <= 125 for line in lines)
    comments = next(row for row, line in enumerate(lines) if not line.startswith("#"))
    assert 1 <= comments <= 4


@pytest.mark.parametrize("data", DATA_SETS)
def test_every_method_has_a_recipe(data: str) -> None:
    assert not {f"{data}/{method}" for method in METHODS} - set(NAMES)


@pytest.mark.parametrize("data", DATA_SETS)
def test_the_recipes_of_a_data_set_are_comparable(data: str) -> None:
    """One network, one threat, one preparation of the images, one way to choose the best epoch."""
    experiments = [load(f"{data}/{method}") for method in METHODS]
    first = experiments[0]
    for experiment in experiments:
        assert (experiment.data, experiment.model, experiment.threat) == (first.data, first.model, first.threat)
        judged_alike = replace(experiment.selection, by=first.selection.by)  # standard training goes by clean accuracy
        assert (judged_alike, experiment.runtime, experiment.seed) == (first.selection, first.runtime, first.seed)
        assert experiment.optimisation.batch_size == first.optimisation.batch_size
        assert experiment.optimisation.lr == first.optimisation.lr


@pytest.mark.parametrize("data", DATA_SETS)
def test_only_madry_has_a_schedule_of_its_own(data: str) -> None:
    plans = {
        (experiment.optimisation.epochs, experiment.optimisation.schedule, experiment.optimisation.weight_decay)
        for method in METHODS
        if method != "madry-at" and (experiment := load(f"{data}/{method}"))
    }
    assert len(plans) == 1


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_code_differs_from_the_default(name: str) -> None:
    default = name.removesuffix("-official")
    assert default in NAMES
    assert load(name) != load(default)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_code_holds_nothing_out(name: str) -> None:
    assert value(name, "data.validation") == 0
    assert value(name, "selection.split") == "test"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OFFICIAL])
def test_ours_never_choose_on_the_test_set(name: str) -> None:
    assert value(name, "selection.split") == "validation"


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize(
    ("method", "steps", "relative", "start"),
    [
        ("fgsm-at", 1, Fraction(1), "zero"),
        ("fgsm-rs", 1, Fraction(5, 4), "uniform"),
        ("pgd2-at", 2, Fraction(1, 2), "uniform"),
        ("pgd4-at", 4, Fraction(1, 4), "uniform"),
        ("madry-at", 7, Fraction(1, 4), "uniform"),
        ("pgd-at", 10, Fraction(1, 4), "uniform"),
    ],
)
def test_attacks_of_adversarial_training(data: str, method: str, steps: int, relative: Fraction, start: str) -> None:
    """Step sizes are relative to the radius, so that a change of a data set's eps cannot leave one behind."""
    name = f"{data}/{method}"
    alpha, eps = value(name, "method.attack.alpha"), value(name, "threat.eps")
    assert isinstance(alpha, Ratio)
    assert isinstance(eps, Ratio)
    assert alpha.exact == relative * eps.exact
    assert value(name, "method.attack.steps") == steps
    assert value(name, "method.attack.start") == start
    assert value(name, "method.attack.bn") == "train"


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize("method", ["trades", "trades-awp"])
def test_attack_of_trades(data: str, method: str) -> None:
    inner = "method.inner" if method == "trades-awp" else "method"
    alpha, eps = value(f"{data}/{method}", f"{inner}.attack.alpha"), value(f"{data}/{method}", "threat.eps")
    assert isinstance(alpha, Ratio)
    assert isinstance(eps, Ratio)
    assert alpha.exact == eps.exact / 4
    for field, expected in {"beta": 6.0, "attack.steps": 10, "attack.start": "normal", "attack.bn": "eval"}.items():
        assert value(f"{data}/{method}", f"{inner}.{field}") == expected


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize("method", ["fgsm-bp", "fgsm-ep", "fgsm-mep"])
def test_the_paper_s_prior_guided_methods(data: str, method: str) -> None:
    """The released weight of 10, on a mean over the classes, is 10 / classes on the paper's sum of squares."""
    name = f"{data}/{method}"
    assert value(name, "method.weight") == pytest.approx(10 / CLASSES[data])
    expected = {"alpha": None, "regulariser": "sum", "detach_start": False, "smoothing": 0.0, "initial": "uniform"}
    for field, setting in {**expected, "reset": None}.items():
        assert value(name, f"method.{field}") == setting
    assert value(name, "optimisation.clip") == (10 if data == "tiny_imagenet" else None)


@pytest.mark.parametrize("data", DATA_SETS)
def test_the_paper_s_momentum(data: str) -> None:
    for field, expected in {"decay": 0.3, "momentum": "sign", "aligned": True}.items():
        assert value(f"{data}/fgsm-mep", f"method.{field}") == expected


@pytest.mark.parametrize(("data", "reset"), [("cifar10", 40), ("cifar100", 10), ("tiny_imagenet", 10)])
def test_the_released_fgsm_mep(data: str, reset: int) -> None:
    name = f"{data}/fgsm-mep-official"
    expected = {
        "alpha": None,
        "weight": 10.0,
        "regulariser": "mean",
        "detach_start": False,
        "smoothing": smoothing_from_kept(0.6, CLASSES[data]),
        "initial": "rademacher",
        "reset": reset,
        "box": "final",
        "decay": 0.3,
        "momentum": "gradient",
        "aligned": False,
    }
    for field, setting in expected.items():
        assert value(name, f"method.{field}") == setting, field
    assert value(name, "optimisation.clip") == (10 if data == "tiny_imagenet" else None)


def test_released_smoothing_on_ten_classes_is_four_ninths() -> None:
    assert value("cifar10/fgsm-mep-official", "method.smoothing") == pytest.approx(4 / 9)


FACTS = [
    ("cifar10/fgsm-rs", "method.attack.alpha", Ratio("10/255")),
    ("cifar10/fgsm-rs", "optimisation.epochs", 110),
    ("cifar10/fgsm-rs", "model.name", "resnet18"),
    ("cifar10/fgsm-rs", "model.normalise", False),
    ("cifar10/fgsm-rs", "optimisation.weight_decay", 5e-4),
    ("cifar10/fgsm-rs", "optimisation.schedule.milestones", (Ratio("100/110"), Ratio("105/110"))),
    ("cifar10/fgsm-rs-official", "method.attack.alpha", Ratio("10/255")),
    ("cifar10/fgsm-rs-official", "optimisation.epochs", 15),
    ("cifar10/fgsm-rs-official", "optimisation.lr", 0.2),
    ("cifar10/fgsm-rs-official", "optimisation.schedule.lowest_momentum", 0.8),
    ("cifar10/fgsm-rs-official", "model.name", "preactresnet18"),
    ("cifar10/fgsm-rs-official", "model.normalise", True),
    ("cifar10/pgd-at-official", "optimisation.epochs", 200),
    ("cifar10/pgd-at-official", "optimisation.schedule.milestones", (Ratio("1/2"), Ratio("3/4"))),
    ("cifar10/pgd-at-official", "data.augment.fill", "reflect"),
    ("cifar10/pgd-at-official", "model.normalise", True),
    ("cifar10/madry-at", "optimisation.epochs", 205),
    ("cifar10/madry-at", "optimisation.weight_decay", 2e-4),
    ("cifar10/madry-at-official", "method.attack.steps", 10),
    ("cifar10/trades-official", "threat.eps", Ratio("0.031")),
    ("cifar10/trades-official", "method.attack.alpha", Ratio("0.007")),
    ("cifar10/trades-official", "method.beta", 6.0),
    ("cifar10/trades-official", "optimisation.epochs", 76),
    ("cifar10/trades-official", "optimisation.weight_decay", 2e-4),
    ("cifar10/trades-official", "model.name", "wideresnet-34-10"),
    ("cifar10/awp", "method.gamma", 0.01),
    ("cifar10/awp", "method.warmup", 0),
    ("cifar10/awp-official", "method.gamma", 0.01),
    ("cifar10/awp-official", "optimisation.epochs", 200),
    ("cifar10/trades-awp", "method.gamma", 0.005),
    ("cifar10/trades-awp", "method.warmup", 10),
    ("cifar10/trades-awp-official", "optimisation.weight_decay", 5e-4),
    ("cifar10/trades-awp-official", "method.warmup", 9),
    ("tiny_imagenet/fgsm-mep", "model.name", "preactresnet18-talk"),
    ("tiny_imagenet/fgsm-mep", "data.augment.pad", 0),
    ("tiny_imagenet/fgsm-mep", "data.augment.flip", False),
    ("gtsrb/pgd-at", "data.augment.flip", False),
    ("gtsrb/pgd-at", "data.size", 32),
    ("mnist/pgd-at", "threat.eps", Ratio("0.3")),
    ("fashion_mnist/pgd-at", "threat.eps", Ratio("0.1")),
]


@pytest.mark.parametrize(("name", "path", "expected"), FACTS, ids=[f"{name}:{path}" for name, path, _ in FACTS])
def test_facts_of_the_cards(name: str, path: str, expected: object) -> None:
    assert value(name, path) == expected


@pytest.mark.parametrize(("epoch", "factor"), [(73, 1.0), (74, 0.1), (75, 0.1)])
def test_the_released_trades_drops_for_its_last_two_epochs(epoch: int, factor: float) -> None:
    schedule = load("cifar10/trades-official").optimisation.schedule
    assert schedule.factor(epoch * 391, 76 * 391) == pytest.approx(factor)
