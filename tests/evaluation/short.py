"""A short evaluation of digits, in which every stage of AutoAttack leaves some images to the next."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import torch
from torch import nn

from sparring.attacks import APGD, FAB, Attack, AutoAttack, Square
from sparring.data import Data, Images, load
from sparring.evaluation import Evaluator, naming
from sparring.models import create
from sparring.threat import Threat

LINF = Threat("Linf", "1/24")
COUNT = 40
ATTACKS = ["clean", "pgd-3", "aa"]


class Short(AutoAttack):
    """All four stages at a fraction of their steps."""

    def searches(self, classes: int, threat: Threat):
        return {
            "apgd-ce": APGD(steps=6),
            "apgd-t": APGD("dlr", targets=3, steps=6),
            "fab-t": FAB(targets=2, steps=5),
            "square": Square(queries=25),
        }


_named = naming.named


def named(name: str) -> Attack:
    """The attack of this name, of which AutoAttack's is `Short`."""
    return Short() if name == "aa" else _named(name)


@cache
def images() -> Images:
    """Digits, read once."""
    return load(Data(limit=COUNT, validation=0)).train


def subject() -> tuple[nn.Module, Images]:
    """A network that knows the digits and is partly robust, a copy of its own for each caller, and digits."""
    return deepcopy(_trained()), images()


@cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    network = create("smallconv", 10, channels=1, size=8, width=4).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    x, y = images().pixels / 255, images().labels
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


def evaluator(**more) -> Evaluator:
    return Evaluator(*subject(), LINF, batch_size=16, precision="exact", keep=True, **more)
