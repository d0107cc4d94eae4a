"""An attack, for evaluation, as a search: attempts on images that are advanced together, one a row, and never meet.

A search says how an attempt begins and what one turn of it does. Which attempts are under way, when an attempt ends and
whether it has found anything is the pool's business (`pool.py`): so fooled images can leave and others take their place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sparring.attacks.ascent import Objective, input_gradient
from sparring.randomness import SampleStreams
from sparring.threat import Threat, spread


@dataclass(frozen=True)
class Lanes:
    """Attempts under way, a row each; every field is a tensor whose first dimension is L. Searches add fields.

    `step`, `found` and `candidate` are kept by the pool: a search writes `found` and `candidate` for its turn alone.
    """

    x: Tensor  # (L, C, H, W), the original images; never changes
    y: Tensor  # (L,), their labels; never changes
    step: Tensor  # (L,) int64, the turns taken
    point: Tensor  # (L, C, H, W), where the attempt stands: what is judged if it ends without having found anything
    found: Tensor  # (L,) bool, the search holds that `candidate` is misclassified, within the threat
    candidate: Tensor  # (L, C, H, W), meaningful where found

    def rows(self, which: Tensor) -> Self:
        """Some of the attempts: `which` are their rows."""
        return replace(self, **{name: value[which] for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The attempts of all parts, one part after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})


@dataclass(frozen=True)
class AimedLanes(Lanes):
    """Attempts each of which may aim at a class."""

    target: Tensor  # (L,), the class; the label where the attack aims at none; never changes


def opened(x: Tensor, y: Tensor, point: Tensor) -> dict[str, Tensor]:
    """The fields that all attempts share, as they are before the first turn: to begin with, nothing is found."""
    return {
        "x": x,
        "y": y,
        "step": torch.zeros(len(x), dtype=torch.int64, device=x.device),
        "point": point,
        "found": torch.zeros(len(x), dtype=torch.bool, device=x.device),
        "candidate": point,
    }


def ranked(clean: Tensor, rank: int) -> Tensor:
    """The class (L,) with the `rank`-th greatest of the clean logits (L, K); 0 is the prediction, so targets begin at 1."""
    return clean.topk(rank + 1).indices[:, rank]


class Probe:
    """A network as a search sees it: logits, and gradients to the pixels. Counts the images it is asked about.

    The caller sees to it that the network is in evaluation mode with frozen parameters (`attackable`).
    """

    def __init__(
        self, model: nn.Module, low_precision: torch.dtype | None = None, layout: torch.memory_format | None = None
    ) -> None:
        """Asks the model in a 16-bit type where one is given, with images in the given memory format."""
        self._model, self._low_precision, self._layout = model, low_precision, layout
        self.forwards = 0
        self.backwards = 0

    def logits(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, C, H, W) in [0, 1], without a graph, at least in single precision."""
        self.forwards += len(x)
        with torch.no_grad():
            return self._forward(x)

    def gradient(self, x: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
        """The gradient (B, C, H, W) of the objective's values, and the logits (B, K), both detached."""
        self.forwards += len(x)
        self.backwards += len(x)
        return (input_gradient if self._low_precision is None else _scaled_gradient)(self._forward, x, objective)

    def jacobian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients (B, K, C, H, W) of all K logits, and the logits (B, K): one forward, K backwards."""
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            logits = self._forward(point)
            classes = logits.shape[1]
            gradients = [
                torch.autograd.grad(logits[:, label].sum(), point, retain_graph=label + 1 < classes)[0]
                for label in range(classes)
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
    """What `input_gradient` returns, for a network that computes in 16 bits.

    Its backward pass starts from slopes of size 1, image by image: those of a sure network would vanish in 16 bits, those of
    a steep objective overflow. Their true size is multiplied in afterwards, in single precision.
    """
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        logits = network(point)
        answers = logits.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(objective(answers).sum(), answers)  # (B, K)
        size = slopes.abs().amax(1).clamp_min(torch.finfo(slopes.dtype).tiny)
        (gradient,) = torch.autograd.grad(logits, point, slopes / size[:, None])
    return gradient * spread(size, x), logits.detach()


class Search(ABC):
    """An iterative attack that treats images separately."""

    lanes: ClassVar[type[Lanes]] = Lanes  # what `open` returns

    @property
    @abstractmethod
    def length(self) -> int:
        """The turns of an attempt; `point` is judged after the last."""

    def attempts(self, classes: int) -> int:
        """How often an image may be tried: restarts, times targets where there are some."""
        return 1

    @abstractmethod
    def open(self, x: Tensor, y: Tensor, clean: Tensor, attempt: int, streams: SampleStreams, threat: Threat) -> Lanes:
        """The attempts of that number on images x (L, C, H, W) with labels y (L,), before their first turn.

        `clean` (L, K) are the network's logits of x, and `streams` these images' random numbers, of this attempt.
        """

    @abstractmethod
    def advance(self, probe: Probe, lanes: Lanes, threat: Threat) -> Lanes:
        """One turn of each attempt, `step` of which have been taken; no row may depend on another.

        The result is new: nothing is changed in place. It reads no tensor's value on the host. Where the search holds
        that an image within the threat is misclassified it sets `found` and puts the image into `candidate`.
        """

    @abstractmethod
    def describe(self, threat: Threat) -> dict[str, str | int]:
        """What a record must state to repeat the search: its step size, steps, start, restarts."""
