"""The names of attacks."""

from __future__ import annotations

import pytest

from sparring.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    GAMA,
    IFGSM,
    PGD,
    AutoAttack,
    MultiTargeted,
    Restarted,
    Square,
    named,
)
from sparring.attacks.named import EXAMPLES
from sparring.errors import BadInput
from sparring.threat import Ratio, Threat


@pytest.mark.parametrize(
    ("name", "attack"),
    [
        ("fgsm", FGSM()),
        ("pgd-1", PGD(steps=1)),
        ("pgd-20", PGD(steps=20)),
        ("pgd-50-10", Restarted(PGD(steps=50), 10)),
        ("cw-20", CW(steps=20)),
        ("cw-30-2", Restarted(CW(steps=30), 2)),
        ("ifgsm-7", IFGSM(steps=7)),
        ("aa", AutoAttack("standard")),
        ("aa-plus", AutoAttack("plus")),
        ("aa-rand", AutoAttack("rand")),
        ("aa-fast", AutoAttack("fast")),
        ("apgd-ce", APGD("ce")),
        ("apgd-dlr", APGD("dlr")),
        ("apgd-t", APGD("dlr", targets=9)),
        ("fab", FAB(targets=None)),
        ("fab-t", FAB(targets=9)),
        ("square", Square()),
        ("mt", MultiTargeted()),
        ("gama-100", GAMA(steps=100)),
        ("gama-50-3", Restarted(GAMA(steps=50), 3)),
    ],
)
def test_a_name_means_its_attack(name: str, attack: object) -> None:
    found = named(name)
    assert found == attack
    assert type(found) is type(attack)
    if isinstance(found, Restarted):
        assert type(found.attack) is type(attack.attack)


def test_the_attacks_of_the_tables_take_the_papers_defaults() -> None:
    assert named("pgd-20") == PGD(steps=20, alpha=None, start="uniform", bn="eval", objective="ce")
    assert named("cw-20") == CW(steps=20, alpha=None, start="uniform", bn="eval", objective="margin")


def test_ifgsm_takes_steps_that_add_up_to_the_radius_from_the_image_itself() -> None:
    described = named("ifgsm-7").describe(Threat("Linf", "8/255"))
    assert (described["steps"], described["start"]) == (7, "zero")
    assert Ratio(described["alpha"]).exact * 7 == Ratio("8/255").exact
    assert IFGSM(steps=7, alpha=Ratio("1/255")).describe(Threat("Linf", "8/255"))["alpha"] == "1/255"


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_name(name: str) -> None:
    named(name)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("pgd20", "pgd-20"),
        ("PGD-20", "pgd-20"),
        ("pgd-50-010", "pgd-50-10"),
        ("cw20", "cw-20"),
        ("fsgm", "fgsm"),
        ("fgsm-1", "fgsm"),
        ("pgd-10 ", "pgd-10"),
        ("AA", "aa"),
        ("aa-standard", "aa-rand"),
        ("apgdt", "apgd-t"),
    ],
)
def test_another_name_is_refused_with_the_nearest_one(name: str, suggestion: str) -> None:
    with pytest.raises(BadInput, match=f"Unknown attack '{name}': did you mean '{suggestion}'"):
        named(name)


@pytest.mark.parametrize("name", ["pgd", "pgd-0", "pgd-020", "pgd--1", "pgd-20-0", "pgd-20-", "pgd-1-2-3", "pgd-2.5"])
def test_numbers_that_make_no_sense_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="Unknown attack"):
        named(name)


@pytest.mark.parametrize("name", ["", "deepfool", "boundary"])
def test_a_name_like_no_other_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(
        BadInput,
        match="known: aa, aa-fast, aa-plus, aa-rand, apgd-ce, apgd-dlr, apgd-t, clean, cw-20, fab, fab-t, fgsm",
    ):
        named(name)
