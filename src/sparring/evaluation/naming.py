"""The attacks of an evaluation, each under the name that its figures, its seed and its record go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import TypeAlias

from sparring.attacks import Attack, named
from sparring.errors import BadInput
from sparring.evaluation.function_attack import Function, FunctionAttack
from sparring.evaluation.outcome import CLEAN

# A name such as pgd-20, an attack, or a function (model, x, y, threat) -> adversarial images.
AnyAttack: TypeAlias = str | Attack | Function
Attacks: TypeAlias = Sequence[AnyAttack] | Mapping[str, AnyAttack]


@dataclass(frozen=True)
class NamedAttack:
    """An attack and its name."""

    name: str
    attack: Attack | FunctionAttack | None  # None: the clean images
    definition: str = ""  # what it is, where its name does not say so

    @property
    def identity(self) -> str:
        """What an evaluation that goes on must find unchanged."""
        code = self.attack.code if isinstance(self.attack, FunctionAttack) else ""
        return "=".join(part for part in (self.name, self.definition, code) if part)


def with_names(attacks: Attacks) -> tuple[NamedAttack, ...]:
    """Return the attacks with their names, each once: those of a mapping, or their own.

    The own name of an attack is the one that it was chosen by (`clean` among them), of an `Attack` its repr, of a function
    its `__name__`. Raises BadInput for an unknown name, for what is no attack or has no name of its own, and for a name that
    two attacks share, be the other one of Sparring's.
    """
    if not attacks:
        raise BadInput("No attack was named: write, for example, --attacks clean,pgd-20.")
    pairs = attacks.items() if isinstance(attacks, Mapping) else [(_own_name(attack), attack) for attack in attacks]
    found: dict[str, NamedAttack] = {}
    for name, attack in pairs:
        one = _named(name, attack)
        if found.setdefault(name, one) != one:
            raise BadInput(f"Two attacks are called {name}: give them names, {{'one': ..., 'another': ...}}.")
    return tuple(found.values())


def _own_name(attack: AnyAttack) -> str:
    _check(attack)
    if isinstance(attack, str):
        return attack
    name = attack.__name__ if isinstance(attack, FunctionType) else repr(attack)
    if name == "<lambda>" or " at 0x" in name:  # seeds come from the name: it must be the same in every process
        raise BadInput(f"{name} is no name for an attack: give it one, {{'mine': ...}}.")
    return name


def _named(name: str, attack: AnyAttack) -> NamedAttack:
    _check(attack)
    if isinstance(attack, str):
        return NamedAttack(name, None if attack == CLEAN else named(attack), "" if attack == name else attack)
    if _is_ours(name):
        raise BadInput(f"{name} is the name of an attack of Sparring's: give yours another, {{'mine': ...}}.")
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
