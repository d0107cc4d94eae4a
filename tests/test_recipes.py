"""The recipes: they resolve to what they always did, and their figures are those of the method cards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch

from sparring import recipes
from sparring.attacks import PGD
from sparring.averaging import EMA
from sparring.configuration import read
from sparring.data.sources import KNOWN
from sparring.errors import BadInput
from sparring.experiment import Experiment, train
from sparring.losses import smoothing_from_kept
from sparring.methods import AWP, BP, LAS, NFGSM, SDI, PolicyNetwork, Reward, Task
from sparring.threat import Ratio
from sparring.training import checkpoint
from sparring.training.progress import Silent
from tests.recipe_digests import digests, recorded

CLASSES = {name: known.classes for name, known in KNOWN.items()} | {"digits": 10}
NAMES = recipes.names()
RELEASED_WITH_VALIDATION = {f"cifar10/{name}-official" for name in ("gat", "nuat", "nuat-wa", "nuat2", "cat")}
OFFICIAL = [name for name in NAMES if "-official" in name]  # and what is compared with one: -2022, -uniform
DATA_SETS = sorted({name.partition("/")[0] for name in NAMES})


@cache
def load(name: str) -> Experiment:
    return read(Experiment, recipes.find(name))


def value(name: str, path: str) -> object:
    """A field of a recipe by its path, such as method.attack.alpha."""
    found: object = load(name)
    for part in path.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("data", DATA_SETS)
def test_recipes_resolve_to_what_they_did(data: str) -> None:
    mine = {name for name in NAMES if name.startswith(f"{data}/")}
    before = {name: row for name, row in recorded().items() if name.startswith(f"{data}/")}
    assert mine == set(before), "recipes came or went: python tests/recipe_digests.py, if that is meant"
    for name in sorted(mine):
        now = digests(name)
        changed = sorted(section for section in now | before[name] if now.get(section) != before[name].get(section))
        assert not changed, (
            f"{name} has other values than before in {', '.join(changed)}, through its layers or through a default: "
            "if that is meant, run python tests/recipe_digests.py, and say in the commit which recipes change and why."
        )


@pytest.mark.parametrize("data", DATA_SETS)
def test_the_protocol_names_the_data_set(data: str) -> None:
    assert data in CLASSES
    assert value(f"{data}/standard", "data.name") == data


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_code_holds_out_what_it_held_out(name: str) -> None:
    held_out = name in RELEASED_WITH_VALIDATION
    assert value(name, "data.validation") == (1000 if held_out else 0)
    assert value(name, "selection.split") == ("validation" if held_out else "test")


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


@pytest.mark.parametrize(("data", "reset"), [("cifar10", 40), ("cifar100", 10), ("tiny_imagenet", 10)])
def test_the_released_fgsm_mep(data: str, reset: int) -> None:
    """Where the memory is large it is int8, which holds these perturbations exactly."""
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
        "memory": "int8" if data == "tiny_imagenet" else "fp32",
    }
    for field, setting in expected.items():
        assert value(name, f"method.{field}") == setting, field
    assert value(name, "optimisation.clip") == (10 if data == "tiny_imagenet" else None)


@pytest.mark.parametrize("data", DATA_SETS)
def test_the_paper_s_generator(data: str) -> None:
    """Plain cross-entropy and every input; the interval is shorter where an epoch has a dozen batches."""
    method = load(f"{data}/fgsm-sdi").method
    assert method == SDI(interval=4 if data == "digits" else 20, lr=1e-3, weight_decay=5e-4, smoothing=0.0)


@pytest.mark.parametrize(("suffix", "kept"), [("official", 0.5), ("official-2022", 0.9)])
def test_the_released_fgsm_sdi(suffix: str, kept: float) -> None:
    name = f"cifar10/fgsm-sdi-{suffix}"
    expected = {"alpha": None, "interval": 20, "iterations": 1, "lr": 1e-3, "weight_decay": 5e-4, "box": False}
    for field, setting in {**expected, "bn": "train", "inputs": "both"}.items():
        assert value(name, f"method.{field}") == setting, field
    assert value(name, "method.smoothing") == pytest.approx(smoothing_from_kept(kept, 10))
    assert load(name).optimisation == load("cifar10/fgsm-sdi").optimisation


# Radii, steps, step sizes, betas: first and last of the released command (card 1.6), in 255ths.
TABLES = {
    "las-at": ((3, 15), (3, 14), (1, 5), None),
    "las-trades": ((5, 9), (7, 14), (2, 4), (5, 9)),
    "las-awp": ((7, 15), (8, 16), (2, 5), None),
    ("las-at", "cifar100"): ((3, 15), (3, 12), (1, 5), None),
    ("las-trades", "cifar100"): ((5, 10), (7, 14), (2, 4), (5, 9)),
    ("las-trades", "tiny_imagenet"): ((5, 10), (7, 14), (2, 4), (5, 9)),
    ("las-awp", "cifar100"): ((7, 15), (8, 15), (2, 5), None),
    ("las-awp", "tiny_imagenet"): ((7, 15), (8, 15), (2, 5), None),
}
STRATEGIC = [name for name in NAMES if "/las-" in name]


def las(name: str) -> LAS:
    method = load(name).method
    assert isinstance(method, LAS)
    return method


@pytest.mark.parametrize("name", STRATEGIC)
def test_the_tables_of_strategies_are_the_released_command_s(name: str) -> None:
    """Scaled with the threat's radius; on MNIST below 0.5, where every image can be made the same gray."""
    data, _, recipe = name.partition("/")
    family = next((f for f in ("las-trades", "las-awp") if recipe.startswith(f)), "las-at")
    eps, steps, alpha, beta = TABLES.get((family, data), TABLES[family])
    level = Ratio(load(name).threat.eps).exact / 8
    actions = las(name).actions
    radii = [level * n for n in range(eps[0], eps[1] + 1)]
    assert [radius.exact for radius in actions.eps] == [radius for radius in radii if radius < Fraction(1, 2)]
    assert len(radii) == len(actions.eps) or data == "mnist"
    assert [size.exact for size in actions.alpha] == [level * n for n in range(alpha[0], alpha[1] + 1)]
    assert actions.steps == tuple(range(steps[0], steps[1] + 1))
    assert actions.beta == (tuple(range(beta[0], beta[1] + 1)) if beta else ())


@pytest.mark.parametrize("name", STRATEGIC)
def test_what_strategies_are_chosen_for(name: str) -> None:
    """The inner attack allows the most steps, in evaluation mode; BatchNorm's batches would mix the images' strategies."""
    method = las(name)
    assert method.inner.traits().attack == PGD(
        steps=max(method.actions.steps), start="normal" if method.inner.traits().accepts_weight else "uniform"
    )
    assert method.inner.traits().accepts_weight == bool(method.actions.beta) == ("las-trades" in name)
    assert isinstance(method.inner, AWP) == ("las-awp" in name)
    method.setup(task_of(name))  # refuses what cannot be chosen
    if method.policy == "learned":
        assert method.policy_network.network == ("smallconv" if load(name).model.name == "smallconv" else "resnet18")


def task_of(name: str) -> Task:
    data, experiment = name.partition("/")[0], load(name)
    side = {"digits": 8, "mnist": 28, "fashion_mnist": 28, "tiny_imagenet": 64}.get(data, 32)
    shape = (1 if side < 32 else 3, side, side)
    return Task(experiment.threat, 1000, shape, shape, CLASSES[data], 128, 1, torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name in STRATEGIC if name not in OFFICIAL])
def test_the_paper_s_policy(name: str) -> None:
    """Table 1's interval, an image's own return of three cross-entropies, starts inside the chosen radius."""
    method = las(name)
    assert method.interval == (4 if name.startswith("digits/") else 40)
    assert method.reward == Reward()
    assert (method.returns, method.baseline, method.entropy_bonus) == ("sample", "ema", 0)
    assert (method.init_radius, method.clip_final) == (None, False)
    smoothed = method.inner.inner if isinstance(method.inner, AWP) else method.inner
    assert smoothed.smoothing == 0


# Card 1.6: k, the weights of R2 and R3, the policy's momentum and decay, epochs, drops, the target's clip.
PLAIN, MOVING = (0.0, 0.0), (0.9, 5e-4)
RELEASED = {
    "cifar10/las-at": (20, 4, 2, PLAIN, 110, ("99/110", "104/110"), None),
    "cifar100/las-at": (20, 4, 2, MOVING, 110, ("99/110", "104/110"), None),
    "tiny_imagenet/las-at": (1, 4, 2, PLAIN, 110, ("99/110", "104/110"), 10),
    "cifar10/las-trades": (1, 8, 4, MOVING, 100, ("75/100", "90/100"), None),
    "cifar100/las-trades": (1, 8, 2, MOVING, 100, ("75/100", "90/100"), None),
    "tiny_imagenet/las-trades": (1, 8, 2, PLAIN, 110, ("165/220", "99/110"), 10),
    "cifar10/las-awp": (1, 1, 1, PLAIN, 200, ("1/2", "3/4"), None),
    "cifar100/las-awp": (10, 4, 2, MOVING, 200, ("1/2", "3/4"), None),
    "tiny_imagenet/las-awp": (10, 8, 2, PLAIN, 200, ("1/2", "3/4"), 10),
}
KEPT = {"cifar10": 0.7, "cifar100": 0.6, "tiny_imagenet": 0.8}


@pytest.mark.parametrize("default", RELEASED)
def test_the_released_las(default: str) -> None:
    interval, l2, l3, (momentum, decay), epochs, drops, clip = RELEASED[default]
    data, _, family = default.partition("/")
    experiment, method = load(f"{default}-official"), las(f"{default}-official")
    assert method.interval == interval
    assert (method.policy, method.returns, method.baseline, method.entropy_bonus) == ("learned", "batch", "none", 0)
    assert method.policy_network == PolicyNetwork("resnet18", None, "sgd", 1e-4, momentum, decay, 1.0)
    other = PGD(10, Ratio("2/255"), "uniform", "train")
    hardness = "objective" if family == "las-trades" else "ce"
    assert method.reward == Reward(("L1", "L2", "L3"), "accuracy", hardness, l2, l3, other, 2)
    assert method.init_radius == (None if family == "las-trades" else Ratio("8/255"))
    assert method.clip_final == (family == "las-awp")
    smoothed = method.inner.inner if isinstance(method.inner, AWP) else method.inner
    kept = KEPT[data] if family == "las-at" else 1.0
    assert smoothed.smoothing == pytest.approx(smoothing_from_kept(kept, CLASSES[data]))
    if isinstance(method.inner, AWP):
        assert (method.inner.gamma, method.inner.warmup) == (0.01, 10 if data == "tiny_imagenet" else 0)
    plan = experiment.optimisation
    assert (plan.epochs, plan.clip, plan.weight_decay) == (epochs, clip, 5e-4)
    assert [drop.exact for drop in plan.schedule.milestones] == [Ratio(drop).exact for drop in drops]
    assert experiment.model.name == ("preactresnet18-talk" if data == "tiny_imagenet" else "wideresnet-34-10")
    on_normalised_pixels = default == "cifar10/las-awp"
    assert experiment.model.normalise == on_normalised_pixels
    assert experiment.data.augment.fill == ("reflect" if on_normalised_pixels else "zero")
    assert experiment.selection.attack == ("pgd-20" if family == "las-awp" else "pgd-10")


@pytest.mark.parametrize(
    ("control", "of", "policy"),
    [
        ("cifar10/las-at-uniform", "cifar10/las-at", "uniform"),
        ("cifar10/las-at-fixed", "cifar10/las-at", "fixed"),
        ("cifar10/las-at-official-uniform", "cifar10/las-at-official", "uniform"),
    ],
)
def test_a_control_differs_in_its_policy_alone(control: str, of: str, policy: str) -> None:
    """What only a learned policy reads is left out of the control."""
    for field in ("data", "model", "threat", "optimisation", "selection"):
        assert getattr(load(control), field) == getattr(load(of), field)
    learned = las(of)
    expected = LAS(
        learned.inner, learned.actions, policy, init_radius=learned.init_radius, clip_final=learned.clip_final
    )
    assert las(control) == expected


def test_the_fixed_strategy_is_the_one_that_its_recipe_names() -> None:
    mean = las("cifar10/las-at-fixed").actions.means()
    assert (mean.eps[0].exact, mean.steps, mean.alpha[0].exact) == (Fraction(9, 255), (8,), Fraction(3, 255))


def test_the_smoothed_control_is_pgd_at_with_las_at_s_smoothing() -> None:
    smoothing = value("cifar10/las-at-official", "method.inner.smoothing")
    assert value("cifar10/pgd-at-smoothed", "method.smoothing") == smoothing
    control, plain = load("cifar10/pgd-at-smoothed"), load("cifar10/pgd-at")
    assert replace(control, method=replace(control.method, smoothing=0.0)) == plain


@pytest.mark.parametrize("data", DATA_SETS)
def test_las_madry_at_is_las_at_in_the_protocol_of_madry_at(data: str) -> None:
    assert load(f"{data}/las-madry-at") == replace(
        load(f"{data}/las-at"), optimisation=load(f"{data}/madry-at").optimisation
    )


@pytest.mark.parametrize("method", ["fgsm-sdi", "las-at", "las-trades", "las-awp"])
def test_learned_methods_train_on_digits(method: str, tmp_path: Path) -> None:
    few = ["--data.limit", "200", "--data.test_limit", "20"]
    short = ["--optimisation.epochs", "2", "--optimisation.batch_size", "50"]
    run = train(read(Experiment, recipes.find(f"digits/{method}"), [*few, *short]), tmp_path, report=Silent())
    assert [math.isfinite(row["train_loss"]) for row in run.metrics()] == [True, True]


SCHEDULE, MILESTONES = "optimisation.schedule", "optimisation.schedule.milestones"
WONG = {"model.name": "preactresnet18-wong", "model.normalise": True}
PREACT = {"model.name": "preactresnet18", "model.normalise": True}
SMALLER = {"threat.eps": Ratio("0.031")}
IFGSM = {"method.clean_bn": "train", "method.divisor": 64, "selection.attack": "ifgsm-7"}
FIRST_BY_PGD_20 = {"selection.attack": "pgd-20", "selection.ties": "earlier"}


def attack(path: str, steps: int, alpha: str, start: str, bn: str) -> dict[str, object]:
    return {f"{path}attack": PGD(steps, Ratio(alpha), start, bn)}


# What the method cards say, of CIFAR-10 where no data set is named.
CARDS: dict[str, dict[str, object]] = {
    "fgsm-at": attack("method.", 1, "8/255", "zero", "train"),
    "fgsm-rs": attack("method.", 1, "10/255", "uniform", "train"),
    "pgd2-at": attack("method.", 2, "4/255", "uniform", "train"),
    "pgd4-at": attack("method.", 4, "2/255", "uniform", "train"),
    "pgd-at": attack("method.", 10, "2/255", "uniform", "train"),
    "madry-at": attack("method.", 7, "2/255", "uniform", "train")
    | {"optimisation.epochs": 205, "optimisation.weight_decay": 2e-4},
    "trades": attack("method.", 10, "2/255", "normal", "eval") | {"method.beta": 6.0},
    "awp": attack("method.inner.", 10, "2/255", "uniform", "train") | {"method.gamma": 0.01, "method.warmup": 0},
    "trades-awp": attack("method.inner.", 10, "2/255", "normal", "eval")
    | {"method.inner.beta": 6.0, "method.gamma": 0.005, "method.warmup": 10},
    "mart": attack("method.", 10, "2/255", "normal", "eval") | {"method.beta": 5.0, "method.padding": False},
    "mart-awp": attack("method.inner.", 10, "2/255", "normal", "eval"),
    "fat": attack("method.inner.", 10, "2/255", "uniform", "eval")
    | {"method.milestones": (Ratio("50/120"), Ratio("90/120"))},
    "fat-trades": attack("method.inner.", 10, "2/255", "normal", "eval")
    | {"method.milestones": (Ratio("30/85"), Ratio("50/85"), Ratio("70/85")), "method.inner.beta": 6.0},
    "fat-mart": attack("method.inner.", 10, "2/255", "normal", "eval")
    | {"method.milestones": tuple(Ratio(f"{n}/90") for n in (20, 40, 60, 80)), "method.inner.beta": 5.0},
    "gairat": attack("method.", 10, "2/255", "uniform", "eval")
    | {"method.shift": -1.0, "method.begin": Ratio("60/120")},
    "lbgat": attack("method.", 10, "2/255", "normal", "eval") | {"method.beta": 0.0},
    "sat": attack("method.inner.", 10, "2/255", "uniform", "eval"),
    "dart": attack("method.inner.", 10, "2/255", "uniform", "eval")
    | {"method.threshold": 0.5, "method.until": Ratio("100/120"), "method.origin": "image"},
    "cat": {"model.levels": 16},
    "n-fgsm": {"method": NFGSM(noise=2.0, alpha=None, smoothing=0.0, box=True, bn="train")},
    "fgsm-mep": {"method.decay": 0.3, "method.momentum": "gradient", "method.aligned": True},
    "fgsm-mep-printed": {"method.decay": 0.3, "method.momentum": "sign", "method.aligned": True},
    "fgsm-rs-previous": {"method": BP(Ratio("10/255"), weight=0.0, initial="zero", box="final", bn="train")},
    "fgsm-ckpt": {"method.points": 3, "method.alpha": None},
    "fgsm-ga": {"method.weight": 0.2, "method.alpha": None},
    "free-at": {"method.m": 8, "method.box": "all"},
    "nuat": {"method.weight": 4.5, "method.steps": 1},
    "nuat-wa": {"method.weight": 4.0, "method.steps": 1},
    "nuat2": {"method.weight": 4.5, "method.steps": 2},
    "gat": {"method.weight": 10.0},
    "standard": {
        "optimisation.epochs": 110,
        "optimisation.weight_decay": 5e-4,
        MILESTONES: (Ratio("100/110"), Ratio("105/110")),
        "model.name": "resnet18",
        "model.normalise": False,
    },
    "fgsm-rs-official": WONG
    | attack("method.", 1, "10/255", "uniform", "train")
    | {"optimisation.epochs": 15, "optimisation.lr": 0.2, f"{SCHEDULE}.lowest_momentum": 0.8},
    "n-fgsm-official": WONG | {"optimisation.epochs": 30, "optimisation.lr": 0.2, f"{SCHEDULE}.lowest_momentum": 0.8},
    "pgd-at-official": PREACT
    | {"optimisation.epochs": 200, MILESTONES: (Ratio("1/2"), Ratio("3/4")), "data.augment.fill": "reflect"}
    | {"method.extra_forwards": True},
    "madry-at-official": {"method.attack.steps": 10},
    "trades-official": SMALLER
    | attack("method.", 10, "0.007", "normal", "eval")
    | {"method.beta": 6.0, "optimisation.epochs": 76, "optimisation.weight_decay": 2e-4}
    | {"method.forwards": "clean-adversarial-clean"}
    | {"model.name": "wideresnet-34-10"},
    "awp-official": {"method.gamma": 0.01, "optimisation.epochs": 200}
    | {"method.inner.extra_forwards": True}
    | FIRST_BY_PGD_20,
    "trades-awp-official": {"optimisation.weight_decay": 5e-4, "method.warmup": 9}
    | {"method.inner.forwards": "adversarial-clean-clean"},
    "fgsm-ga-official": {
        "method.halves_edges": True,
        "model.name": "preactresnet18-gradalign",
        "optimisation.epochs": 30,
        "optimisation.lr": 0.3,
    },
    "free-at-official": WONG | {"method.box": "final", "optimisation.epochs": 10, "optimisation.lr": 0.04},
    "nuat-official": {
        "model.name": "resnet18-gat",
        "optimisation.batch_size": 64,
        "optimisation.epochs": 100,
        "method.weight": 4.5,
    }
    | IFGSM,
    "nuat-wa-official": IFGSM
    | {
        "model.name": "resnet18-gat",
        f"{SCHEDULE}.lowest_momentum": 0.8,
        "optimisation.average": EMA(0.9998, warmup=False),
        "method.weight": 4.0,
    },
    "nuat2-official": {"method.alpha": Ratio("8/255"), "method.clean_bn": "eval", "method.weight": 4.0}
    | {"method.divisor": 64, "selection.attack": "ifgsm-7"},
    "gat-official": {
        "method.clean_bn": "train",
        "selection.attack": "ifgsm-7",
        "model.name": "resnet18-gat",
        "optimisation.batch_size": 64,
        "optimisation.epochs": 100,
    },
    "mart-official": {"optimisation.lr": 0.01, "optimisation.weight_decay": 3.5e-3, "method.padding": True},
    "fat-official": SMALLER | {"model.name": "wideresnet-32-10"},
    "fat-trades-official": SMALLER | {"model.name": "wideresnet-34-10", "optimisation.epochs": 85},
    "gairat-official": SMALLER | FIRST_BY_PGD_20 | {"model.name": "wideresnet-32-10", "optimisation.epochs": 120},
    "cifar100/lbgat-official": {"method.teacher": "resnet18", "optimisation.weight_decay": 2e-4},
    "cat-official": {
        "method.judged_by": "longest",
        "threat.eps": 0.032,
        "optimisation.optimizer": "adamw",
        "optimisation.batch_size": 200,
    },
    "dart-official": {"method.origin": "start", "optimisation.lr": 0.01, "optimisation.weight_decay": 4e-3}
    | {"model.name": "wideresnet-32-10", "optimisation.schedule.decay": 1e-4}
    | {"optimisation.schedule.schedule.milestones": (Ratio("59/120"), Ratio("99/120"))},
    "fgsm-ckpt-official": {"model.name": "preactresnet18-talk", f"{SCHEDULE}.lowest_momentum": 0.8}
    | {"optimisation.drop_last": True, "optimisation.lr": 0.3, "method.points": 3},
    "tiny_imagenet/standard": {
        "model.name": "preactresnet18-talk",
        "data.augment.pad": 0,
        "data.augment.flip": False,
    },
    "gtsrb/standard": {"data.augment.flip": False, "data.size": 32},
    "mnist/standard": {"threat.eps": Ratio("0.3")},
    "fashion_mnist/standard": {"threat.eps": Ratio("0.1")},
}


@pytest.mark.parametrize("name", CARDS)
def test_facts_of_the_cards(name: str) -> None:
    for path, expected in CARDS[name].items():
        assert value(name if "/" in name else f"cifar10/{name}", path) == expected, path


def test_the_recipe_for_a_released_script_that_cannot_run_runs(shared: Callable[[str], str], tmp_path: Path) -> None:
    """FGSM-MEP on Tiny ImageNet as released: two epochs on a hundred of its images, remembered in int8."""
    narrow = ["--model.width", "8", "--optimisation.epochs", "2", "--optimisation.batch_size", "50"]
    few = ["--data.limit", "100", "--data.test_limit", "10", "--data.path", shared("tiny_imagenet")]
    experiment = read(Experiment, recipes.find("tiny_imagenet/fgsm-mep-official"), [*narrow, *few])
    run = train(experiment, tmp_path, report=Silent())
    assert [math.isfinite(row["train_loss"]) for row in run.metrics()] == [True, True]
    method = checkpoint.load(run.last)["method"]
    assert method["perturbations"]["rows"].shape == (100, 3, 64, 64)
    levels = method["perturbations"]["rows"].abs().unique()
    assert levels.dtype == torch.int8
    assert levels.max() == 8
    assert method["momenta"]["rows"].dtype == torch.float16


@pytest.mark.parametrize(("epoch", "factor"), [(73, 1.0), (74, 0.1), (75, 0.1)])
def test_the_released_trades_drops_for_its_last_two_epochs(epoch: int, factor: float) -> None:
    schedule = load("cifar10/trades-official").optimisation.schedule
    assert schedule.factor(epoch * 391, 76 * 391) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nuat", [0, 1 / 90, 45 / 90, 1, 1]),
        ("nuat-wa", [0, 1 / 100, 45 / 100, 90 / 100, 99 / 100]),
        ("gat", [1, 1, 1, 4, 4]),
    ],
)
def test_ramps_of_the_guided_methods(name: str, expected: list[float]) -> None:
    ramp = value(f"cifar10/{name}", "method.ramp")
    assert [ramp.factor(epoch, 100) for epoch in (0, 1, 45, 90, 99)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "epochs", "factors"),
    [
        ("cifar10/mart-official", 120, {0: 1.0, 73: 1.0, 74: 0.1, 88: 0.1, 89: 0.01, 98: 0.01, 99: 0.001}),
        ("cifar10/fat-official", 120, {0: 1.0, 58: 1.0, 59: 0.1, 88: 0.1, 89: 0.01, 108: 0.01, 109: 0.005, 119: 0.005}),
        ("cifar10/fat-trades-official", 85, {0: 1.0, 73: 1.0, 74: 0.1, 84: 0.1}),
        ("cifar10/gairat-official", 120, {0: 1.0, 58: 1.0, 59: 0.1, 88: 0.1, 89: 0.01, 108: 0.01, 109: 0.005}),
        ("cifar10/gat-official", 100, {0: 1.0, 70: 1.0, 71: 0.1, 85: 0.1, 86: 0.01}),
        ("cifar10/fgsm-ckpt-official", 30, {0: 0.0, 15: 1.0, 30: 0.0}),
        ("cifar10/nuat-official", 100, {0: 0.0, 20: 0.5, 40: 1.0, 60: 0.6, 85: 0.2, 86: 0.02, 90: 0.02, 91: 0.002}),
        ("cifar10/nuat2-official", 55, {0: 0.0, 20: 1.0, 35: 0.25, 40: 0.25, 41: 0.025, 46: 0.0025}),
        ("cifar10/nuat-wa-official", 100, {0: 0.0, 25: 1.0, 100: 0.0}),
        ("cifar100/lbgat-official", 100, {0: 0.2, 1: 1.0, 74: 1.0, 75: 0.1, 89: 0.1, 90: 0.01}),
        ("cifar10/fgsm-ga-official", 30, {0: 0.0, 12: 1.0, 30: 0.0}),
    ],
)
def test_released_rates_by_epoch(name: str, epochs: int, factors: dict[int, float]) -> None:
    schedule = value(name, "optimisation.schedule")
    steps = 391
    for epoch, factor in factors.items():
        assert schedule.factor(epoch * steps, epochs * steps) == pytest.approx(factor), epoch


# Forward passes a step (docs/methods/cost.md), and epochs, of the recipes that are ours for time to accuracy.
SPENT = {
    "cifar10/n-fgsm-fast": (5, 20),
    "cifar10/fgsm-mep-fast": (7, 30),
    "cifar10/pgd-at-fast": (23, 15),
    "cifar10/trades-awp-best": (33, 60),
}
TRAINED = 49_000  # of CIFAR-10's images, the others being held out
GFLOP = 1.111  # a forward pass of the ResNet-18 on one of them


def test_every_recipe_for_time_to_accuracy_is_known() -> None:
    assert {name for name in NAMES if name.endswith(("-fast", "-best"))} == set(SPENT)


@pytest.mark.parametrize("name", SPENT)
def test_the_arithmetic_of_a_recipe_for_time_to_accuracy(name: str) -> None:
    """Its comment says what it costs and that its accuracy is owed; 120 PFLOP are what ten minutes hold."""
    passes, epochs = SPENT[name]
    text = " ".join(recipes.text(name).split())
    assert value(name, "optimisation.epochs") == epochs
    petaflop = passes * TRAINED * GFLOP * epochs / 1e6
    assert petaflop <= 120
    cost = f"{passes} passes x 49,000 images x {GFLOP} GFLOP x {epochs} epochs = {petaflop:.1f} PFLOP"
    assert f"{cost}, {petaflop / 0.237:.0f} s at 237 TFLOP/s" in text
    assert "not yet measured at full size" in text


@pytest.mark.parametrize("name", SPENT)
def test_what_the_recipes_for_time_to_accuracy_share(name: str) -> None:
    """The siblings' images, network and threat; batches of one size, a rate that ends at 0, and averaged weights."""
    experiment, sibling = load(name), load(name.rpartition("-")[0])
    for field in ("data", "model", "threat", "selection"):
        assert getattr(experiment, field) == getattr(sibling, field), field
    assert experiment.runtime.precision == "bf16-mixed"
    assert experiment.runtime.channels_last
    plan = experiment.optimisation
    assert plan.drop_last
    assert plan.schedule.factor(10**6 - 1, 10**6) < 1e-5
    assert isinstance(plan.average, EMA)
    steps = plan.epochs * (TRAINED // plan.batch_size)
    assert 0.01 < 1 / (1 - plan.average.decay) / steps < 0.2  # how far back the average looks, as a part of the run


def test_the_fast_fgsm_mep_remembers_exactly() -> None:
    """Rademacher noise of whole levels is the only start that a memory of int8 does not round."""
    method = load("cifar10/fgsm-mep-fast").method
    assert (method.memory, method.initial, method.aligned) == ("int8", "rademacher", True)


@pytest.mark.parametrize("name", SPENT)
def test_the_recipes_for_time_to_accuracy_train(name: str, shared: Callable[[str], str], tmp_path: Path) -> None:
    """Two epochs on a few real images; AWP, which waits for its warm-up, begins in the second."""
    few = ["--data.limit", "90", "--data.validation", "10", "--data.test_limit", "10", "--data.path", shared("cifar10")]
    narrow = ["--model.width", "8", "--optimisation.epochs", "2", "--optimisation.batch_size", "32"]
    awp = ["--method.warmup", "1"] if "awp" in name else []
    experiment = read(Experiment, recipes.find(name), [*few, *narrow, *awp])
    run = train(experiment, tmp_path, report=Silent())
    assert [math.isfinite(row["train_loss"]) for row in run.metrics()] == [True, True]
    assert [row["steps"] for row in run.metrics()] == [2, 4]  # 80 images: the half batch is left out
    state = checkpoint.load(run.last)
    assert state["learner"]["average"] is not None
    if "mep" in name:
        assert state["method"]["perturbations"]["rows"].dtype == torch.int8


def test_a_recipe_is_copied_to_a_yaml_file_alone(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"A recipe is a \.yaml file: name the file so, not .*my\.txt"):
        recipes.copy("digits/pgd-at", tmp_path / "my.txt")
    assert not list(tmp_path.iterdir())
