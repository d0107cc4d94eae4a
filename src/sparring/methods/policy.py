"""What LAS chooses from, and the network that chooses: for each image, a distribution over each table of actions."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from sparring import ranks
from sparring.choices import check_choices
from sparring.errors import BadInput
from sparring.methods.base import Task
from sparring.models import create
from sparring.randomness import initialised, uniform
from sparring.threat import Ratio

HEADS = ("eps", "steps", "alpha", "beta")
Choice = dict[str, Int64[Tensor, " B"]]  # by head, which entry of its table


@dataclass(frozen=True)
class Actions:
    """The tables that a strategy is put together from: one entry of each for each image.

    Args:
        eps: radii, in pixel fractions.
        steps: numbers of steps.
        alpha: step sizes, in pixel fractions.
        beta: weights of the divergence, for TRADES; empty leaves the method's own.

    Raises:
        BadInput: an empty table, or an entry that is out of range.
    """

    eps: tuple[Ratio, ...] = tuple(Ratio(f"{level}/255") for level in range(3, 16))
    steps: tuple[int, ...] = tuple(range(3, 15))
    alpha: tuple[Ratio, ...] = tuple(Ratio(f"{level}/255") for level in range(1, 6))
    beta: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("eps", "alpha"):
            object.__setattr__(self, name, tuple(Ratio(value) for value in getattr(self, name)))
        for name in ("eps", "steps", "alpha"):
            table = getattr(self, name)
            if not table:
                raise BadInput(f"The table of actions {name} is empty: give at least one value.")
            if min(table) <= 0:
                raise BadInput(f"The table of actions {name} holds {min(table)}: all of its values must be positive.")
        if min(self.beta, default=0) < 0:
            raise BadInput(f"The table of actions beta holds {min(self.beta)}: none of its values may be negative.")

    @property
    def sizes(self) -> dict[str, int]:
        """How many actions each head has; a head without a table is left out."""
        return {head: len(getattr(self, head)) for head in HEADS if getattr(self, head)}

    def means(self) -> Actions:
        """Return the one strategy in the middle: the mean of every table (of the steps, rounded)."""
        middle = [(Ratio(str(sum(value.exact for value in table) / len(table))),) for table in (self.eps, self.alpha)]
        beta = (fmean(self.beta),) if self.beta else ()
        return Actions(eps=middle[0], steps=(round(fmean(self.steps)),), alpha=middle[1], beta=beta)

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        """Return the tables by head, (n,) on the device."""
        return {head: torch.tensor([float(v) for v in getattr(self, head)], device=device) for head in self.sizes}


@dataclass(frozen=True)
class PolicyNetwork:
    """The network behind a learned policy, and how its weights move.

    Args:
        network: a name of `sparring.models.names()`; the released code's is the target's own ResNet-18.
        width: channels of its first stage; None is the paper's.
        optimizer: sgd or adam.
        lr: learning rate, constant (the released schedule never takes effect with an interval of 20).
        momentum: of SGD.
        weight_decay: in L2 form.
        clip: largest gradient norm.

    Raises:
        BadInput: a rate or a norm that is not positive, a momentum outside [0, 1), a negative decay.
    """

    network: str = "resnet18"
    width: int | None = None
    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("lr", "clip"):
            if getattr(self, name) <= 0:
                raise BadInput(f"The policy network's {name} must be positive, not {getattr(self, name)}.")
        if not 0 <= self.momentum < 1:
            raise BadInput(f"The policy network's momentum must lie in [0, 1), not {self.momentum}.")
        if self.weight_decay < 0:
            raise BadInput(f"The policy network's weight_decay must be at least 0, not {self.weight_decay}.")

    def build(self, task: Task, outputs: int) -> nn.Module:
        """Return the network with an output for each action, in evaluation mode on the task's device."""
        channels, height, width = task.shape
        with initialised(task.seed):
            network = create(self.network, outputs, channels=channels, size=(height, width), width=self.width)
        return network.to(task.device).eval()

    def optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a fused optimizer, so that nothing is read on the host, which may be captured on a GPU."""
        if self.optimizer == "adam":
            weights = list(network.parameters())
            return torch.optim.Adam(
                weights, lr=self.lr, weight_decay=self.weight_decay, fused=True, capturable=weights[0].is_cuda
            )
        return torch.optim.SGD(
            network.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )

    def ascend(self, network: nn.Module, optimizer: torch.optim.Optimizer, gain: Tensor) -> None:
        """Take one step up a scalar gain."""
        optimizer.zero_grad(set_to_none=True)
        (-gain).backward()  # type: ignore[no-untyped-call]
        ranks.average_([p.grad for p in network.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(network.parameters(), self.clip, foreach=True)
        optimizer.step()


@dataclass(frozen=True)
class Distribution:
    """Independent categorical distributions, one a head, for each image of a batch."""

    log_probabilities: dict[str, Float[Tensor, "B n"]]

    @classmethod
    def of(cls, scores: Float[Tensor, "B total"], sizes: dict[str, int]) -> Distribution:
        """Return the distribution of a network's outputs, head beside head."""
        parts = torch.split(scores, list(sizes.values()), dim=1)
        return cls({head: part.log_softmax(1) for head, part in zip(sizes, parts, strict=True)})

    def sample(self) -> Choice:
        """Return one action a head and image, by Gumbel's trick: nothing is read on the host."""
        return {head: (log_p + _gumbel(log_p)).argmax(1) for head, log_p in self.log_probabilities.items()}

    def likeliest(self) -> Choice:
        """Return the action of highest probability."""
        return {head: log_p.argmax(1) for head, log_p in self.log_probabilities.items()}

    def log_probability(self, choice: Choice) -> Float[Tensor, " B"]:
        """Return the log-probability of a joint choice: the sum over the heads."""
        chosen = [log_p.gather(1, choice[head][:, None])[:, 0] for head, log_p in self.log_probabilities.items()]
        return torch.stack(chosen).sum(0)

    def entropy(self) -> Float[Tensor, "heads B"]:
        """Return the entropy of each head, in nats."""
        return torch.stack([-(log_p.exp() * log_p).sum(1) for log_p in self.log_probabilities.values()])


def _gumbel(like: Tensor) -> Tensor:
    """Return noise whose addition to log-probabilities makes their largest a sample."""
    smallest = torch.finfo(like.dtype).tiny
    return -(-uniform(like).clamp_min(smallest).log()).log()
