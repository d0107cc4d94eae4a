"""Functions, each of which is another one in some respect: a program for tests prints what they are taken for.

python -m tests.evaluation.functions
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sparring.attacks import PGD
from sparring.threat import Threat

STEPS = 3


def halved(x: int) -> int:
    return STEPS * halved(x // 2) if x > 1 else 1


def reading(network, x, y, threat):
    return halved(x), cross_entropy(network(x), y), PGD(STEPS)


def closing(over: Any) -> Callable[..., Any]:
    def attack(network, x, y, threat, *, flags=(True, None)):
        return [over for _ in range(2) if x in {"a", "b", "c"}]

    return attack


def with_default(value: Any) -> Callable[..., Any]:
    def attack(network, x, y, threat, steps=value):
        return steps

    return attack


def with_keyword(value: Any) -> Callable[..., Any]:
    def attack(network, x, y, threat, *, steps=value):
        return steps

    return attack


class Attacker:
    scale = 1

    def __init__(self, alpha: Any) -> None:
        self.alpha = alpha

    def __call__(self, network, x, y, threat):
        return self.step(x)

    def step(self, x):
        return self.alpha * self.scale * x


class Hurried(Attacker):
    scale = 2


class Slotted:
    __slots__ = ("alpha",)

    def __init__(self, alpha: Any) -> None:
        self.alpha = alpha

    def __call__(self, network, x, y, threat):
        return self.alpha


def changed(function: Callable[..., Any]) -> Callable[..., Any]:
    function.alpha = 1
    return function


DIFFERENT = {
    "globals": reading,
    "closure 1": closing(1),
    "closure 1.0": closing(1.0),
    "closure True": closing(True),
    "closure '1'": closing("1"),
    "closure None": closing(None),
    "a tuple": closing((1, 2)),
    "a list": closing([1, 2]),
    "two lists": closing([[1], [2]]),
    "a set": closing({"a", "b", "c"}),
    "another set": closing({"a", "b", "d"}),
    "a dictionary": closing({"a": 1, "b": [2]}),
    "another dictionary": closing({"a": 1, "b": [3]}),
    "ones": closing(torch.ones(2)),
    "zeros": closing(torch.zeros(2)),
    "in bf16": closing(torch.ones(2, dtype=torch.bfloat16)),
    "in a row": closing(torch.ones(1, 2)),
    "a function": closing(closing(1)),
    "another function": closing(closing(2)),
    "a threat": closing(Threat("Linf", "8/255")),
    "another threat": closing(Threat("L2", "8/255")),
    "an attack": closing(PGD(steps=2)),
    "another attack": closing(PGD(steps=3)),
    "a default": with_default(1),
    "another default": with_default(2),
    "a keyword": with_keyword(1),
    "another keyword": with_keyword(2),
    "a partial call": partial(closing(1), flags=1),
    "another partial call": partial(closing(1), flags=2),
    "an object": Attacker(1),
    "another object": Attacker(2),
    "of another class": Hurried(1),
    "a slot": Slotted(1),
    "another slot": Slotted(2),
    "a method": Attacker(1).step,
    "another object's method": Attacker(2).step,
    "an attribute": changed(closing(1)),
    "a lambda": lambda network, x, y, threat: x,
    "another lambda": lambda network, x, y, threat: y,
}
