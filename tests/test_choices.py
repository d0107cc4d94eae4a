"""A setting takes what its annotation says and nothing else, in whichever class it is and whoever makes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from inspect import isabstract
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import sparring
from sparring.attacks import PGD, Attack, AutoAttack, attackable, draw_start
from sparring.attacks.apgd import SparseAPGD
from sparring.averaging import Average
from sparring.choices import check_choices
from sparring.configuration.classes import choices
from sparring.data import Augment, Images, Resident
from sparring.errors import BadInput
from sparring.evaluation import Evaluator
from sparring.evaluation.doctor import diagnose
from sparring.experiment import Experiment, Model
from sparring.methods import AWP, TRADES, AdversarialTraining, Method, PolicyNetwork, Reward
from sparring.methods.policy import Actions
from sparring.models import ModelDescription, create
from sparring.optimisation import Optimisation
from sparring.schedule import MultiStep, Schedule
from sparring.threat import Ratio, Threat
from sparring.training import Diagnostics, Runtime, Selection, Session

OTHERS = [  # Augment's types are checked in tests anyway
    *(
        PolicyNetwork,
        Reward,
        Actions,
        Optimisation,
        Runtime,
        Selection,
        Diagnostics,
        Experiment,
        Model,
        ModelDescription,
    ),
]
NEEDED = {  # by the constructors
    "inner": AdversarialTraining(),
    "method": AdversarialTraining(),
    "attack": PGD(),
    "restarts": 2,
    "name": "smallconv",
    "classes": 3,
    "points": ((Ratio(0), 1.0), (Ratio(1), 0.0)),
}
WRONG = ("foo", 2.5, True, None, float("nan"), [None], object(), Threat)


def derived(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("sparring.") and is_dataclass(kind) and not isabstract(kind):
            yield kind
        yield from derived(kind)


def settings() -> list[type]:
    """Every class of settings."""
    methods = [kind for kind in choices(Method).values() if kind.__module__.startswith("sparring.")]
    found = [kind for base in (Attack, Schedule, Average) for kind in derived(base) if kind is not SparseAPGD]
    return [*dict.fromkeys(found), *methods, *OTHERS]


def made(kind: type, **given: object) -> object:
    needed = [f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING]
    return kind(**{name: NEEDED[name] for name in needed} | given)


def allows(hint: object, value: object) -> bool:
    """Whether an annotation allows one of WRONG, said by hand."""
    if get_origin(hint) in (Union, UnionType):
        return any(allows(part, value) for part in get_args(hint))
    if hint is Ratio:
        return value == 2.5
    if hint is float:
        return value == 2.5
    if hint in (str, bool, NoneType):
        return value == {str: "foo", bool: True, NoneType: None}[hint]
    return False


def with_choices() -> Iterator[tuple[type, str]]:
    """Every field of type Literal, found by hand."""
    for kind in settings():
        hints = get_type_hints(kind)
        for f in fields(kind):
            hint = get_args(hints[f.name])[0] if get_origin(hints[f.name]) is tuple else hints[f.name]
            if f.init and get_origin(hint) is Literal:
                yield kind, f.name


CASES = list(with_choices())


def test_there_are_such_settings() -> None:
    assert len(CASES) > 35
    assert {(PGD, "objective"), (PGD, "start"), (PGD, "bn"), (AutoAttack, "version")} <= set(CASES)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_another_text_is_refused_with_the_choices(kind: type, name: str) -> None:
    value = ("foo",) if name == "terms" else "foo"
    with pytest.raises(BadInput, match=f"^{kind.__name__}'s {name} cannot be 'foo': write .+ or .+"):
        made(kind, **{name: value})


@pytest.mark.parametrize("kind", settings(), ids=lambda kind: kind.__name__)
def test_a_value_of_another_kind_is_refused_before_it_is_compared(kind: type) -> None:
    made(kind)
    hints = get_type_hints(kind)
    for f in (f for f in fields(kind) if f.init):
        for value in WRONG:
            if not allows(hints[f.name], value):
                with pytest.raises(BadInput):
                    made(kind, **{f.name: value})


def test_the_sentence_lists_the_choices() -> None:
    with pytest.raises(BadInput, match=r"^PGD's objective cannot be 'foo': write 'ce' or 'margin'\.$"):
        PGD(objective="foo")


def test_functions_refuse_other_choices_too() -> None:
    with pytest.raises(BadInput, match="bn cannot be 'foo'"), attackable(nn.Identity(), "foo"):
        pass
    with pytest.raises(BadInput, match="start cannot be 'foo'"):
        draw_start("foo", torch.rand(1, 1, 2, 2), Threat(), 0.1)
    with pytest.raises(BadInput, match="checkpoint_name cannot be 'newest': write 'best' or 'last'"):
        sparring.load("runs/mine", "newest")


def test_a_class_whose_annotations_cannot_be_resolved_is_passed_over() -> None:
    class Local:
        pass

    @dataclass
    class Settings:
        kind: Literal["one", "two"]
        other: Local | None = None

    check_choices(Settings("foo"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PGD(steps=2.5), "PGD's steps must be a whole number, not 2.5"),
        (lambda: PGD(steps=True), "PGD's steps must be a whole number, not True"),
        (lambda: Optimisation(epochs=1.5), "Optimisation's epochs must be a whole number, not 1.5"),
        (lambda: Selection(images=9.0), "Selection's images must be a whole number, not 9.0"),
        (lambda: PGD(steps="3"), "^PGD's steps must be a whole number, not '3'.$"),
        (lambda: Optimisation(lr="fast"), "Optimisation's lr must be a number, not 'fast'"),
        (lambda: Optimisation(clip=math.nan), "Optimisation's clip must be a number, not nan"),
        (lambda: Optimisation(nesterov=1), "Optimisation's nesterov must be True or False, not 1"),
        (lambda: MultiStep("0.5"), "MultiStep's milestones must be a list, not '0.5'"),
        (lambda: AWP(PGD()), "AWP's inner must be of type Method, not of type PGD"),
        (lambda: Experiment(TRADES), r"Experiment's method must be of type Method, not the class TRADES: make one"),
        (lambda: Experiment(TRADES(), seed=1.5), "Experiment's seed must be a whole number, not 1.5"),
        (lambda: Experiment(TRADES(), seed=2**70), "seed must be a whole number of 64 bits"),
        (lambda: Threat(["Linf"]), r"Unknown norm \['Linf'\]"),
    ],
)
def test_a_value_of_another_kind_is_named(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


def images() -> Images:
    return Images(torch.rand(8, 1, 8, 8), torch.arange(8) % 4)


def network() -> nn.Module:
    return create("smallconv", 4, channels=1, size=8, width=4).eval()


class Moves(Protocol):
    def move(self) -> None: ...


@dataclass
class Own:
    """As a user may annotate settings."""

    free: Any = None
    listed: list[int] = field(default_factory=list)
    protocol: Moves | None = None
    called: Callable[[int], int] = abs
    several: tuple[float | str, ...] = ()


def test_annotations_that_are_not_known_take_anything() -> None:
    for value in (1, "a", None, [2]):
        check_choices(Own(free=value, listed=value, protocol=value))  # type: ignore[arg-type]
    check_choices(Own(several=(1, "a")))
    with pytest.raises(BadInput, match=r"^Own's called must be a function, not 3\.$"):
        check_choices(Own(called=3))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"^Own's several must be a number or a text, not None\.$"):
        check_choices(Own(several=(1, None)))  # type: ignore[arg-type]


def resident() -> Resident:
    some = images()
    return Resident(Images(some.pixels.round(), some.labels), Augment(), 4, 0, "cpu")


SEEDS = [(value, "seed must be a whole number") for value in (1.5, "a", 2**70, True, None)]
BATCHES = [(2.5, "batch_size must be a whole number"), ("a", "a whole number"), (True, "not True"), (0, "at least 1")]
PATHS = [(value, "must be a path, as a text or a pathlib.Path") for value in (5, b"x", "", "a\0b", ["a"])]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(("seed", *case) for case in SEEDS),
        *(("batch_size", *case) for case in BATCHES),
        *((name, *case) for name in ("output", "examples") for case in PATHS),
        ("doctor", "no", "doctor must be True or False, not 'no'"),
        ("keep", 1, "keep must be True or False, not 1"),
        ("source", "mine.pt", "source must be of type ModelSource, not 'mine.pt'"),
        ("progress", 5, "progress must be a function, not 5"),
        ("note", None, "note must be a function, not None"),
    ],
)
def test_arguments_of_evaluate_are_of_their_kinds(name: str, value: object, said: str) -> None:
    model = network()
    model.register_forward_pre_hook(lambda *_: pytest.fail("began"))
    with pytest.raises(BadInput, match=said):
        sparring.evaluate(model, images(), Threat(), "fgsm", **{name: value})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        *((lambda value=value: sparring.load(value), said) for value, said in PATHS),
        *((lambda value=value: sparring.recipe(value), said) for value, said in PATHS),
        *((lambda value=value: sparring.train(Experiment(TRADES()), value), said) for value, said in PATHS),
        *((lambda value=value: sparring.Run(value), said) for value, said in PATHS),
        *((lambda value=value: sparring.models.adopt(value, ModelDescription("resnet18", 2)), s) for value, s in PATHS),
        *((lambda value=value: sparring.benchmark(network(), 8, "none", seed=value), said) for value, said in SEEDS),
        *((lambda value=v: sparring.benchmark(network(), 8, "none", batch_size=value), said) for v, said in BATCHES),
        *((lambda value=value: Evaluator(network(), images(), Threat(), seed=value), said) for value, said in SEEDS),
        (lambda: Resident(images(), Augment(), 4, 2**70, "cpu"), "seed must be a whole number of 64 bits"),
        (lambda: Session(TRADES(), network(), resident(), Threat(), Optimisation(), seed="a"), "seed must be a whole"),
        (lambda: Evaluator(network(), images(), Threat(), device="gpu"), "There is no device 'gpu'"),
        (lambda: sparring.recipe("digits/trades", "--seed 3"), "overrides must be a list, not '--seed 3'"),
        (lambda: sparring.recipe("digits/trades", ["--seed", 3]), "overrides must be a text, not 3"),
        (
            lambda: sparring.train("digits/trades", "run"),
            "The experiment must be of type Experiment, not 'digits/trades'",
        ),
        (lambda: sparring.train(Experiment(TRADES()), "run", resume="no"), "resume must be True or False"),
        (lambda: sparring.train(Experiment(TRADES()), "run", report=print), "report must be of type Reporter"),
        (
            lambda: PGD()(network(), images().pixels, images().labels, Threat(), generator=3),
            "generator must be of type",
        ),
        (lambda: PGD()(lambda x: x, images().pixels, images().labels, Threat()), "The model is of type function: give"),
        (
            lambda: PGD()(network(), images().pixels.to_sparse(), images().labels, Threat()),
            "The images are a sparse tensor: give a dense one",
        ),
        (lambda: sparring.models.create("smallconv", "a"), "classes must be a whole number, not 'a'"),
        (lambda: sparring.models.create("smallconv", 4, mean=0.5), "mean must be a list, not 0.5"),
        (lambda: sparring.models.save(network(), "x", "smallconv"), "The description must be of type ModelDescription"),
        (
            lambda: diagnose(network(), images(), Threat(), classes="4"),
            "classes must be a whole number or a list, not '4'",
        ),
    ],
)
def test_arguments_of_other_functions_are_of_their_kinds(call, said: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=said):
        call()
    assert not list(tmp_path.iterdir())


def test_whole_numbers_of_other_libraries_will_do_and_none_where_it_may_be() -> None:
    assert PGD(steps=np.int64(3)).steps == 3
    assert Selection(images=None).images is None
