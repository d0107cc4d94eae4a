"""A small real task: sixty-four digits, a narrow network, and the training step on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from lightning_fabric import Fabric
from torch import nn

from sparring.data import Augment, Batch, Data, Images, Resident, load
from sparring.data.resident import batches as evaluation_batches
from sparring.learner import Learner, Optimisation
from sparring.methods import Loss, Method, Task
from sparring.models import create, foldable
from sparring.randomness import seed_from
from sparring.threat import Threat
from sparring.training import train_step

LINF = Threat("Linf", "25/255")  # whole pixel levels, for memories of int8
L2 = Threat("L2", 0.5)
SHAPE = (1, 8, 8)
AUGMENT = Augment(pad=1, flip=True)
BATCH = 16
STEPS_PER_EPOCH = 4


@cache
def digits(count: int = BATCH * STEPS_PER_EPOCH) -> Images:
    return load(Data(limit=count, validation=0)).train


def network(seed: int = 0, name: str = "smallconv", width: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return create(name, 10, channels=1, size=8, width=width).train()


def task(threat: Threat = LINF, *, compact: bool = False) -> Task:
    return Task(
        threat=threat,
        samples=BATCH * STEPS_PER_EPOCH,
        shape=SHAPE,
        canvas=(1, 10, 10),
        classes=10,
        batch_size=BATCH,
        epochs=4,
        device=torch.device("cpu"),
        held_out=BATCH,
        compact=compact,
    )


def batches(epoch: int = 0) -> list[Batch]:
    return list(Resident(digits(), AUGMENT, BATCH, seed=0, device="cpu").epoch(epoch))


def batch_of(images: Images, part: slice) -> Batch:
    """Some images as they are, one batch."""
    return next(iter(evaluation_batches(images.subset(torch.arange(len(images))[part]), 10**6, "cpu")))


@dataclass
class Bench:
    """A method and a learner, trained step by step as the trainer does it."""

    method: Method
    learner: Learner

    def steps(self, first: int, last: int, dtype: torch.dtype = torch.float32) -> list[Loss]:
        losses = []
        for step in range(first, last):
            epoch, position = divmod(step, STEPS_PER_EPOCH)
            self.method.begin_epoch(epoch)
            torch.manual_seed(seed_from(0, step))
            batch = batches(epoch)[position]
            losses.append(train_step(self.method, self.learner, replace(batch, x=batch.x.to(dtype))).loss)
        return losses

    def state(self) -> dict:
        return {"method": self.method.state_dict(), "learner": self.learner.state_dict()}

    def load(self, state: dict) -> None:
        self.method.load_state_dict(state["method"])
        self.learner.load_state_dict(state["learner"])


def bench(
    method: Method,
    threat: Threat = LINF,
    seed: int = 0,
    name: str = "smallconv",
    width: int = 4,
    precision: str = "32-true",
    compact: bool = False,
    folds: bool = True,
    **optimisation: object,
) -> Bench:
    method.setup(task(threat, compact=compact))
    options = Optimisation(epochs=4, batch_size=BATCH, lr=0.05, **optimisation)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    model = network(seed, name, width)
    learner = Learner(model, options, fabric, total=16, folds=foldable(model, SHAPE) if folds else ())
    return Bench(method, learner)


def flat(tree: object) -> list[object]:
    """The leaves of nested dicts and lists, in order."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree, key=str) for leaf in flat(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for item in tree for leaf in flat(item)]
    return [tree]


def identical(one: object, other: object) -> bool:
    """Whether two states agree bit for bit."""
    pairs = list(zip(flat(one), flat(other), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
