"""An attack, for evaluation, as a search: attempts on images that go on side by side, a row each, and never meet.

A search says how an attempt begins and what one step of it does. Which attempts are under way, when an attempt ends and
whether it has found anything is decided by the pool (`pool.py`), so fooled images can leave and others take their place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sparring.attacks.ascent import WRITES, Objective, gradient_to, input_gradient, logits_with_graph
from sparring.deprecation import renamed_overrides
from sparring.errors import BadInput
from sparring.randomness import SampleStreams
from sparring.threat import Threat, per_sample


@dataclass(frozen=True)
class SearchState:
    """The state of L attempts, a row each; every field is a tensor whose first dimension is L. Searches add fields.

    The pool keeps `step`, `found` and `candidate`: a search writes `found` and `candidate` for its present step alone.
    """

    x: Tensor  # (L, C, H, W), the original images; never changes
    y: Tensor  # (L,), their labels; never changes
    step: Tensor  # (L,) int64, the steps taken
    point: Tensor  # (L, C, H, W), where the attempt stands: what is verified if it ends without having found anything
    found: Tensor  # (L,) bool, the search holds that `candidate` is misclassified, within the threat
    candidate: Tensor  # (L, C, H, W), meaningful where found

    def rows(self, which: Tensor) -> Self:
        """Return the attempts in these rows."""
        return replace(self, **{name: value[which] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the attempts of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


@dataclass(frozen=True)
class TargetedState(SearchState):
    """The state of attempts that may aim at a class each."""

    target: Tensor  # (L,), the class; the label where the attack aims at none; never changes


def initial_fields(x: Tensor, y: Tensor, point: Tensor) -> dict[str, Tensor]:
    """Return the fields that all searches share, as they are before the first step: nothing is found yet."""
    return {
        "x": x,
        "y": y,
        "step": torch.zeros(len(x), dtype=torch.int64, device=x.device),
        "point": point,
        "found": torch.zeros(len(x), dtype=torch.bool, device=x.device),
        "candidate": point,
    }


def ranked(clean: Tensor, rank: int) -> Tensor:
    """Return the class (L,) of the `rank`-th greatest clean logit (L, K); rank 0 is the prediction, targets begin at 1."""
    return clean.topk(rank + 1).indices[:, rank]


class CountedModel:
    """A network as a search uses it: logits, and gradients with respect to the pixels. Counts the images of each pass.

    The caller puts the network into evaluation mode and freezes its parameters (`attackable`).
    """

    def __init__(
        self, model: nn.Module, low_precision: torch.dtype | None = None, layout: torch.memory_format | None = None
    ) -> None:
        """Run the model in a 16-bit type, and on images in a memory format, where they are given."""
        self._model, self._low_precision, self._layout = model, low_precision, layout
        self.forwards = 0
        self.backwards = 0

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images (B, C, H, W) in [0, 1], without a graph, at least in single precision."""
        self.forwards += len(x)
        with torch.no_grad():
            return self._forward(x)

    def clean_logits(self, x: Tensor) -> Tensor:
        """Return the logits of original images; raises BadInput for a network that writes into them. The host waits."""
        before = x.clone()
        logits = self.logits(x)
        if not torch.equal(before, x):
            raise BadInput(WRITES)
        return logits

    def gradient(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """Return the gradient (B, C, H, W) of the objective's values, and the logits (B, K), both detached."""
        self.forwards += len(x)
        self.backwards += len(x)
        return (input_gradient if self._low_precision is None else _scaled_gradient)(self._forward, x, objective)

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients (B, K, C, H, W) of all K logits, and the logits (B, K): one forward, K backwards."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = logits_with_graph(self._forward, point)
            classes = logits.shape[1]
            gradients = [
                gradient_to(point, logits[:, label].sum(), again=label + 1 < classes) for label in range(classes)
            ]
        self.forwards += len(x)
        self.backwards += classes * len(x)
        return torch.stack(gradients, 1), logits.detach()

    def _forward(self, x: Tensor) -> Tensor:
        if self._layout is not None:
            x = x.contiguous(memory_format=self._layout)
        if self._low_precision is None:
            return self._model(x)
        with torch.autocast(x.device.type, dtype=self._low_precision):
            logits: Tensor = self._model(x)
        return logits.float()


def _scaled_gradient(network: Callable[[Tensor], Tensor], x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Return what `input_gradient` does, for a network that computes in 16 bits.

    The backward pass starts from slopes scaled to size 1, image by image: a confident network's would vanish in 16 bits, a
    steep objective's would overflow. Their true size is multiplied in afterwards, in single precision.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        logits = logits_with_graph(network, point)
        answers = logits.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(objective(answers).sum(), answers)  # (B, K)
        size = slopes.abs().amax(1).clamp_min(torch.finfo(slopes.dtype).tiny)
        gradient = gradient_to(point, logits, slopes / size[:, None])
    return gradient * per_sample(size, x), logits.detach()


class Search(ABC):
    """An iterative attack that treats images separately."""

    state_type: ClassVar[type[SearchState]] = SearchState  # what `init` returns

    def __init_subclass__(cls) -> None:
        renamed_overrides(cls, {"open": "init", "advance": "step", "length": "max_steps", "lanes": "state_type"})

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """The steps of an attempt; `point` is verified after the last."""

    def attempts(self, classes: int) -> int:
        """Return how often an image may be tried: restarts, times targets where there are some."""
        return 1

    @abstractmethod
    def init(
        self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat
    ) -> SearchState:
        """Return the attempts of that number on images x (L, C, H, W) with labels y (L,), before their first step.

        `clean` (L, K) are the network's logits of x, and `streams` these images' random numbers for this attempt.
        """

    @abstractmethod
    def step(self, model: CountedModel, state: SearchState, threat: Threat) -> SearchState:
        """Return the state after one more step of each attempt; no row may depend on another.

        Change nothing in place, and read no tensor's value on the host. Where an image within the threat is misclassified,
        set `found` and put the image into `candidate`.
        """

    @abstractmethod
    def describe(self, threat: Threat) -> dict[str, str | int]:
        """Return what a record must state to repeat the search: its step size, steps, start, restarts."""
