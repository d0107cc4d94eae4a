"""A small real task: sixty-four digits, a narrow network, and the training step on them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sparring.data import Augment, Batch, Data, Images, Resident, load
from sparring.data.resident import batches as evaluation_batches
from sparring.learner import Learner
from sparring.methods import Loss, Method, Task
from sparring.models import create
from sparring.optimisation import Optimisation
from sparring.threat import Threat
from sparring.training import Runtime, Session, Step, train_step
from sparring.training.acceleration.cuda_graph import Capturer

LINF = Threat("Linf", "25/255")  # whole pixel levels, for memories of int8
L2 = Threat("L2", 0.5)
L1 = Threat("L1", 2)
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


def part(batch: Batch, rows: slice) -> Batch:
    """These images of a batch only; `slice(5)` is like the smaller last batch of an epoch."""
    return Batch(batch.x[rows], batch.y[rows], batch.index[rows], batch.view[rows])


class InDefaultPrecision(Resident):
    """Shows its images in PyTorch's default precision."""

    def show(self, draw: Tensor) -> Batch:
        batch = super().show(draw)
        return replace(batch, x=batch.x.to(torch.get_default_dtype()))


def data(samples: int = BATCH * STEPS_PER_EPOCH, device: torch.device | str = "cpu") -> Resident:
    return InDefaultPrecision(digits(samples), AUGMENT, BATCH, seed=0, device=device, classes=10)


@dataclass
class Bench:
    """A session whose steps are numbered through."""

    session: Session

    @property
    def method(self) -> Method:
        return self.session.method

    @property
    def learner(self) -> Learner:
        return self.session.learner

    def steps(self, first: int, last: int) -> list[Loss]:
        losses = []
        for number in range(first, last):
            self.session.epoch, self.session.batch = divmod(number, STEPS_PER_EPOCH)
            self.session.begin_epoch()
            losses.append(self.session.step(next(self.session.draws())).loss)
        return losses

    def state(self) -> dict:
        return {"method": self.method.state_dict(), "learner": self.learner.state_dict()}

    def load(self, state: dict) -> None:
        self.method.load_state_dict(state["method"])
        self.learner.load_state_dict(state["learner"])


def session(
    method: Method,
    threat: Threat = LINF,
    model: nn.Module | None = None,
    *,
    samples: int = BATCH * STEPS_PER_EPOCH,
    fabric: Fabric | None = None,
    compact: bool = False,
    capturer: Capturer | None = None,
    **optimisation: object,
) -> Session:
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    options = Optimisation(**{"epochs": 4, "batch_size": BATCH, "lr": 0.05} | optimisation)
    return Session(
        method,
        model or network(),
        data(samples, fabric.device),
        threat,
        options,
        Runtime(accelerator="cpu", level="eager", compact=compact),
        held_out=BATCH,
        fabric=fabric,
        capturer=capturer,
    )


NO_LOSS = Loss(torch.zeros(()), torch.zeros(0))  # for methods whose `commit` does not look at it


def train_on(method: Method, learner: Learner, batch: Batch, epoch: int = 0) -> Step:
    """Train on one batch, all its replays."""
    for _ in range(method.traits().replays):
        step = train_step(method, learner, batch, method.phase(epoch, learner.steps))
    return step


def bench(
    method: Method,
    threat: Threat = LINF,
    seed: int = 0,
    name: str = "smallconv",
    width: int = 4,
    precision: str = "32-true",
    compact: bool = False,
    **optimisation: object,
) -> Bench:
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return Bench(session(method, threat, network(seed, name, width), fabric=fabric, compact=compact, **optimisation))


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
