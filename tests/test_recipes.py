"""The recipes: all of them load, those of a data set are comparable, and the figures are those of the method cards."""

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
from sparring.configuration import read, to_yaml
from sparring.data.sources import KNOWN
from sparring.experiment import Experiment, train
from sparring.losses import smoothing_from_kept
from sparring.methods import AWP, LAS, NFGSM, SDI, Reward, Strategist, Task
from sparring.threat import Ratio
from sparring.training import checkpoint
from sparring.training.progress import Silent

METHODS = [
    *("standard", "fgsm-at", "fgsm-rs", "n-fgsm", "pgd-at", "pgd2-at", "pgd4-at", "madry-at"),
    *("trades", "awp", "trades-awp", "fgsm-bp", "fgsm-ep", "fgsm-mep", "fgsm-sdi"),
    *("las-at", "las-madry-at", "las-trades", "las-awp"),
    *("fgsm-rs-previous", "fgsm-ckpt", "fgsm-ga", "free-at", "nuat", "nuat-wa", "nuat2", "gat"),
    *("mart", "mart-awp", "fat", "fat-trades", "fat-mart", "gairat", "lbgat", "sat", "cat", "dart"),
]
CLASSES = {name: known.classes for name, known in KNOWN.items()} | {"digits": 10}
NAMES = recipes.names()
RELEASED_WITH_VALIDATION = {f"cifar10/{name}-official" for name in ("nuat", "nuat-wa", "nuat2", "cat")}
OFFICIAL = [name for name in NAMES if "-official" in name]  # and what is compared with one: -2022, -uniform
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
        # CAT's network rounds its input.
        seeing_alike = replace(experiment.model, levels=first.model.levels)
        assert (experiment.data, seeing_alike, experiment.threat) == (first.data, first.model, first.threat)
        judged_alike = replace(experiment.selection, by=first.selection.by)  # standard training goes by clean accuracy
        assert (judged_alike, experiment.runtime, experiment.seed) == (first.selection, first.runtime, first.seed)
        assert experiment.optimisation.batch_size == first.optimisation.batch_size
        assert experiment.optimisation.lr == first.optimisation.lr


@pytest.mark.parametrize("data", DATA_SETS)
def test_only_madry_has_a_schedule_of_its_own(data: str) -> None:
    plans = {
        (experiment.optimisation.epochs, experiment.optimisation.schedule, experiment.optimisation.weight_decay)
        for method in METHODS
        if "madry" not in method and (experiment := load(f"{data}/{method}"))
    }
    assert len(plans) == 1
    assert load(f"{data}/las-madry-at").optimisation == load(f"{data}/madry-at").optimisation


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_code_differs_from_the_default(name: str) -> None:
    default = name.partition("-official")[0]
    assert default in NAMES
    assert load(name) != load(default)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_released_code_holds_out_what_it_held_out(name: str) -> None:
    held_out = name in RELEASED_WITH_VALIDATION
    assert value(name, "data.validation") == (1000 if held_out else 0)
    assert value(name, "selection.split") == ("validation" if held_out else "test")


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
def test_n_fgsm_is_the_paper_s_on_every_data_set(data: str) -> None:
    assert load(f"{data}/n-fgsm").method == NFGSM(noise=2.0, alpha=None, smoothing=0.0, box=True, bn="train")


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


def test_released_smoothing_on_ten_classes_is_four_ninths() -> None:
    assert value("cifar10/fgsm-mep-official", "method.smoothing") == pytest.approx(4 / 9)


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
    assert method.inner.budgeted() == PGD(
        steps=max(method.actions.steps), start="normal" if method.inner.weighted() else "uniform"
    )
    assert method.inner.weighted() == bool(method.actions.beta) == ("las-trades" in name)
    assert isinstance(method.inner, AWP) == ("las-awp" in name)
    method.setup(task_of(name))  # refuses what cannot be chosen
    if method.policy == "learned":
        assert method.strategist.network == ("smallconv" if load(name).model.name == "smallconv" else "resnet18")


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
    assert method.strategist == Strategist("resnet18", None, "sgd", 1e-4, momentum, decay, 1.0)
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


@pytest.mark.parametrize("method", ["fgsm-sdi", "las-at", "las-trades", "las-awp"])
def test_learned_methods_train_on_digits(method: str, tmp_path: Path) -> None:
    few = ["--data.limit", "200", "--data.test_limit", "20"]
    short = ["--optimisation.epochs", "2", "--optimisation.batch_size", "50"]
    run = train(read(Experiment, recipes.path(f"digits/{method}"), [*few, *short]), tmp_path, report=Silent())
    assert [math.isfinite(row["train_loss"]) for row in run.metrics()] == [True, True]


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
    ("cifar10/n-fgsm-official", "optimisation.epochs", 30),
    ("cifar10/n-fgsm-official", "optimisation.lr", 0.2),
    ("cifar10/n-fgsm-official", "optimisation.schedule.lowest_momentum", 0.8),
    ("cifar10/n-fgsm-official", "model.name", "preactresnet18"),
    ("cifar10/n-fgsm-official", "model.normalise", True),
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


def test_the_recipe_for_a_released_script_that_cannot_run_runs(shared: Callable[[str], str], tmp_path: Path) -> None:
    """FGSM-MEP on Tiny ImageNet as released: two epochs on a hundred of its images, remembered in int8."""
    narrow = ["--model.width", "8", "--optimisation.epochs", "2", "--optimisation.batch_size", "50"]
    few = ["--data.limit", "100", "--data.test_limit", "10", "--data.path", shared("tiny_imagenet")]
    experiment = read(Experiment, recipes.path("tiny_imagenet/fgsm-mep-official"), [*narrow, *few])
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


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize(
    ("method", "path", "start"),
    [
        ("mart", "method", "normal"),
        ("mart-awp", "method.inner", "normal"),
        ("fat", "method.inner", "uniform"),
        ("fat-trades", "method.inner", "normal"),
        ("fat-mart", "method.inner", "normal"),
        ("gairat", "method", "uniform"),
        ("lbgat", "method", "normal"),
        ("sat", "method.inner", "uniform"),
        ("dart", "method.inner", "uniform"),
    ],
)
def test_ten_step_attacks_of_the_baselines(data: str, method: str, path: str, start: str) -> None:
    """The TRADES family attacks in evaluation mode, in steps of a quarter of the radius."""
    name = f"{data}/{method}"
    alpha, eps = value(name, f"{path}.attack.alpha"), value(name, "threat.eps")
    assert isinstance(alpha, Ratio)
    assert isinstance(eps, Ratio)
    assert alpha.exact == eps.exact / 4
    for field, expected in {"steps": 10, "start": start, "bn": "eval"}.items():
        assert value(name, f"{path}.attack.{field}") == expected


BASELINES = {
    "fgsm-ckpt": {"points": 3, "alpha": None},
    "fgsm-ga": {"weight": 0.2, "alpha": None},
    "free-at": {"m": 8, "box": "all"},
    "nuat": {"weight": 4.5, "steps": 1},
    "nuat-wa": {"weight": 4.0, "steps": 1},
    "nuat2": {"weight": 4.5, "steps": 2},
    "gat": {"weight": 10.0},
    "mart": {"beta": 5.0, "padding": False},
    "fat": {"milestones": (Ratio("50/120"), Ratio("90/120"))},
    "fat-trades": {"milestones": (Ratio("30/85"), Ratio("50/85"), Ratio("70/85")), "inner.beta": 6.0},
    "fat-mart": {"milestones": tuple(Ratio(f"{epoch}/90") for epoch in (20, 40, 60, 80)), "inner.beta": 5.0},
    "gairat": {"shift": -1.0, "begin": Ratio("60/120")},
    "lbgat": {"beta": 0.0},
    "dart": {"threshold": 0.5, "until": Ratio("100/120"), "origin": "image"},
}


@pytest.mark.parametrize("data", DATA_SETS)
@pytest.mark.parametrize("method", BASELINES)
def test_settings_of_the_baselines(data: str, method: str) -> None:
    for field, expected in BASELINES[method].items():
        assert value(f"{data}/{method}", f"method.{field}") == expected, field


@pytest.mark.parametrize("data", DATA_SETS)
def test_fgsm_rs_from_the_last_batch_is_fgsm_bp_without_its_regulariser(data: str) -> None:
    name = f"{data}/fgsm-rs-previous"
    assert value(name, "method.alpha") == value(f"{data}/fgsm-rs", "method.attack.alpha")
    expected = {"weight": 0.0, "initial": "zero", "box": "final", "bn": "train", "reset": None}
    for field, setting in expected.items():
        assert value(name, f"method.{field}") == setting


@pytest.mark.parametrize("data", DATA_SETS)
def test_cat_sees_sixteen_levels_and_the_others_all(data: str) -> None:
    assert value(f"{data}/cat", "model.levels") == 16
    assert all(value(f"{data}/{method}", "model.levels") is None for method in METHODS if method != "cat")


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


RELEASED_BASELINES = {
    "cifar10/fgsm-ga-official": {"model.name": "preactresnet18", "optimisation.epochs": 30, "optimisation.lr": 0.3},
    "cifar10/free-at-official": {"method.box": "final", "optimisation.epochs": 10, "optimisation.lr": 0.04},
    "cifar10/nuat-official": {"optimisation.batch_size": 64, "optimisation.epochs": 100, "method.weight": 4.5},
    "cifar10/nuat-wa-official": {"optimisation.average": EMA(0.9998, warmup=False), "method.weight": 4.0},
    "cifar10/nuat2-official": {"method.alpha": Ratio("8/255"), "method.clean_bn": "eval", "method.weight": 4.0},
    "cifar10/gat-official": {"optimisation.batch_size": 64, "optimisation.epochs": 100},
    "cifar10/mart-official": {"optimisation.lr": 0.01, "optimisation.weight_decay": 3.5e-3, "method.padding": True},
    "cifar10/fat-official": {"threat.eps": 0.031, "model.name": "wideresnet-32-10"},
    "cifar10/fat-trades-official": {"threat.eps": 0.031, "model.name": "wideresnet-34-10", "optimisation.epochs": 85},
    "cifar10/gairat-official": {"threat.eps": 0.031, "model.name": "wideresnet-32-10", "optimisation.epochs": 120},
    "cifar100/lbgat-official": {"method.teacher": "resnet18", "optimisation.weight_decay": 2e-4},
    "cifar10/cat-official": {"threat.eps": 0.032, "optimisation.optimizer": "adamw", "optimisation.batch_size": 200},
    "cifar10/dart-official": {"method.origin": "start", "optimisation.lr": 0.01, "optimisation.weight_decay": 1e-4},
    "cifar10/fgsm-ckpt-official": {"optimisation.drop_last": True, "optimisation.lr": 0.3, "method.points": 3},
}


@pytest.mark.parametrize("name", RELEASED_BASELINES)
def test_the_released_baselines(name: str) -> None:
    for path, expected in RELEASED_BASELINES[name].items():
        assert value(name, path) == expected, path


@pytest.mark.parametrize(
    ("name", "epochs", "factors"),
    [
        ("cifar10/fat-official", 120, {0: 1.0, 59: 1.0, 60: 0.1, 90: 0.01, 109: 0.01, 110: 0.005, 119: 0.005}),
        ("cifar10/nuat-official", 100, {0: 0.0, 20: 0.5, 40: 1.0, 60: 0.6, 85: 0.2, 86: 0.02, 90: 0.02, 91: 0.002}),
        ("cifar10/nuat2-official", 55, {0: 0.0, 20: 1.0, 35: 0.25, 40: 0.25, 41: 0.025, 46: 0.0025}),
        ("cifar10/nuat-wa-official", 100, {0: 0.0, 25: 1.0, 100: 0.0}),
        ("cifar100/lbgat-official", 100, {0: 0.2, 1: 1.0, 75: 1.0, 76: 0.1, 91: 0.01}),
        ("cifar10/fgsm-ga-official", 30, {0: 0.0, 12: 1.0, 30: 0.0}),
    ],
)
def test_released_rates_by_epoch(name: str, epochs: int, factors: dict[int, float]) -> None:
    schedule = value(name, "optimisation.schedule")
    steps = 391
    for epoch, factor in factors.items():
        assert schedule.factor(epoch * steps, epochs * steps) == pytest.approx(factor), epoch


# Forward passes a step (docs/methods.md), and epochs, of the recipes that are ours for time to accuracy.
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
    text = " ".join(recipes.path(name).read_text(encoding="utf-8").split())
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
    experiment = read(Experiment, recipes.path(name), [*few, *narrow, *awp])
    run = train(experiment, tmp_path, report=Silent())
    assert [math.isfinite(row["train_loss"]) for row in run.metrics()] == [True, True]
    assert [row["steps"] for row in run.metrics()] == [2, 4]  # 80 images: the half batch is left out
    state = checkpoint.load(run.last)
    assert state["learner"]["average"] is not None
    if "mep" in name:
        assert state["method"]["perturbations"]["rows"].dtype == torch.int8
