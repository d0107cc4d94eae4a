"""A setting that is one of several texts takes no other, in whichever class it is and whoever makes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from torch import nn

import sparring
from sparring.attacks import PGD, Attack, AutoAttack, attackable, draw_start
from sparring.choices import check_choices
from sparring.configuration.classes import choices
from sparring.errors import BadInput
from sparring.methods import AdversarialTraining, Method, PolicyNetwork, Reward
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training import Runtime, Selection

OTHERS = [PolicyNetwork, Reward, Optimisation, Runtime, Selection]  # Augment's types are checked in tests anyway


def attacks(base: type = Attack) -> Iterator[type]:
    for kind in base.__subclasses__():
        if kind.__module__.startswith("sparring.") and is_dataclass(kind):
            yield kind
        yield from attacks(kind)


def with_choices() -> Iterator[tuple[type, str]]:
    """Every field of type Literal, found by hand."""
    methods = [kind for kind in choices(Method).values() if kind.__module__.startswith("sparring.")]
    for kind in [*dict.fromkeys(attacks()), *methods, *OTHERS]:
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
    needed = {"inner": AdversarialTraining()} if "inner" in {f.name for f in fields(kind)} else {}
    value = ("foo",) if name == "terms" else "foo"
    with pytest.raises(BadInput, match=f"^{kind.__name__}'s {name} cannot be 'foo': write .+ or .+"):
        kind(**needed, **{name: value})


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
    ],
)
def test_a_fraction_is_no_whole_number(make, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()


def test_whole_numbers_of_other_libraries_will_do_and_none_where_it_may_be() -> None:
    assert PGD(steps=np.int64(3)).steps == 3
    assert Selection(images=None).images is None
