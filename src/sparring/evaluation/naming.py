"""The attacks of an evaluation, each under the name that its figures, its seed and its record go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import TypeAlias, cast

from sparring.attacks import Attack, named
from sparring.errors import BadInput
from sparring.evaluation.function_attack import Function, FunctionAttack
from sparring.evaluation.identity import ADDRESS, identity
from sparring.evaluation.outcome import CLEAN


@dataclass(frozen=True)
class NamedAttack:
    """An attack and its name."""

    name: str
    attack: Attack | FunctionAttack | None  # None: the clean images
    definition: str = ""  # what it is, where its name does not say so

    @property
    def identity(self) -> str | None:
        """What an evaluation that goes on must find unchanged; None where another process could not tell."""
        if isinstance(self.attack, FunctionAttack):
            known = identity(self.attack.function)
            return known and f"{self.name}={known}"
        if ADDRESS in self.definition:
            return None
        return f"{self.name}={self.definition}" if self.definition else self.name


# A name such as pgd-20, an attack, or a function (model, x, y, threat) -> adversarial images.
AnyAttack: TypeAlias = str | Attack | Function
_Unnamed: TypeAlias = AnyAttack | Iterable[AnyAttack] | Mapping[str, AnyAttack]
Attacks: TypeAlias = _Unnamed | tuple[NamedAttack, ...]


def with_names(attacks: Attacks) -> tuple[NamedAttack, ...]:
    """Return the attacks with their names: those of a mapping, or their own.

    The own name of an attack is the one that it was chosen by (`clean` among them), of an `Attack` its repr, of a function
    its `__name__`; what this function returned keeps its names. A text may hold several names, between commas, and an attack
    by itself needs no list. Raises BadInput for an unknown name, for what is no attack or has no name of its own,
    for names that are no text, for an attack that is given twice, and for a name that two attacks share, be the other one
    of Sparring's.
    """
    if attacks and isinstance(attacks, tuple) and all(isinstance(attack, NamedAttack) for attack in attacks):
        return cast(tuple[NamedAttack, ...], attacks)
    found: dict[str, NamedAttack] = {}
    for name, attack in _pairs(cast(_Unnamed, attacks)):
        one = _named(name, attack)
        if name in found and found[name] == one:
            raise BadInput(f"{name} is given twice: it would find the same again, so name each attack once.")
        if name in found:
            raise BadInput(f"Two attacks are called {name}: give them names, {{'one': ..., 'another': ...}}.")
        found[name] = one
    if not found:
        raise BadInput("No attack was named: write, for example, --attacks clean,pgd-20.")
    return tuple(found.values())


def _pairs(attacks: _Unnamed) -> Iterable[tuple[str, AnyAttack]]:
    if isinstance(attacks, Mapping):
        return attacks.items()
    if isinstance(attacks, str):
        attacks = [name.strip() for name in attacks.split(",") if name.strip()]
    listed = attacks if isinstance(attacks, Iterable) and not callable(attacks) else [attacks]
    return [(_own_name(attack), attack) for attack in listed]


def _own_name(attack: AnyAttack) -> str:
    _check(attack)
    if isinstance(attack, str):
        return attack
    name = attack.__name__ if isinstance(attack, FunctionType) else repr(attack)
    if name == "<lambda>" or ADDRESS in name:  # seeds come from the name: it must be the same in every process
        raise BadInput(f"{name} is no name for an attack: give it one, {{'mine': ...}}.")
    return name


def _named(name: str, attack: AnyAttack) -> NamedAttack:
    _check(attack)
    if not isinstance(name, str) or not name:
        raise BadInput(f"{name!r} is no name for an attack: give it a text, {{'mine': ...}}.")
    if attack != name and _is_ours(name):
        raise BadInput(f"{name} is the name of an attack of Sparring's: give yours another, {{'mine': ...}}.")
    if isinstance(attack, str):
        return NamedAttack(name, None if attack == CLEAN else named(attack), "" if attack == name else attack)
    if isinstance(attack, Attack):
        return NamedAttack(name, attack, "" if repr(attack) == name else repr(attack))
    wrapped = FunctionAttack(attack)
    return NamedAttack(name, wrapped, wrapped.definition)


def _check(attack: object) -> None:
    if isinstance(attack, type) or not isinstance(attack, str | Callable):
        raise BadInput(
            f"{attack!r} is no attack: give a name such as 'pgd-20', an attack such as PGD(steps=20), or a function "
            "(model, x, y, threat) -> images."
        )


def _is_ours(name: str) -> bool:
    try:
        return name == CLEAN or bool(named(name))
    except BadInput:
        return False
