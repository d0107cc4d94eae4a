"""A name that is not known is answered with the nearest one, or with all of them."""

from __future__ import annotations

import pytest

from sparring.errors import BadInput, unknown


def test_bad_input_is_a_value_error() -> None:
    assert issubclass(BadInput, ValueError)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("trades", "TRADES"), ("TRADE", "TRADES"), ("awp", "AWP")],
)
def test_the_nearest_name_is_suggested_whatever_its_case(name: str, nearest: str) -> None:
    error = unknown("thing", name, ["TRADES", "AWP", "resnet18"])
    assert type(error) is BadInput
    assert str(error) == f"Unknown thing {name!r}: did you mean {nearest!r}?"


def test_without_a_similar_name_all_are_listed_in_order() -> None:
    assert str(unknown("norm", "zzz", iter(["Linf", "L2"]))) == "Unknown norm 'zzz': known: L2, Linf."


def test_names_that_do_not_fit_in_a_sentence_are_not_listed() -> None:
    many = [f"option-number-{number}" for number in range(100)]
    assert str(unknown("key", "zzz", many)) == "Unknown key 'zzz': nothing known is spelled like it."


def test_nothing_known_is_still_a_sentence() -> None:
    assert str(unknown("key", "zzz", [])).startswith("Unknown key 'zzz': ")
