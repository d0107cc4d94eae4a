"""Which epoch's network is the best: how each is evaluated when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sparring.attacks import named
from sparring.choices import check_choices
from sparring.data import Images, Splits
from sparring.errors import BadInput


@dataclass(frozen=True)
class Selection:
    """How each epoch is evaluated, and so which one is the best.

    Args:
        attack: what the network is attacked with after every epoch.
        by: robust, the accuracy under the attack, or clean.
        ties: which of two equal epochs is the best, the later or, as much released code has it, the earlier.
        split: validation, images held out of the training set (the default), or test, as published "best" rows do.
        images: at most so many of them; None is all.
        batch_size: images at a time; the figures do not depend on it.
    """

    attack: str = "pgd-10"
    by: Literal["robust", "clean"] = "robust"
    ties: Literal["later", "earlier"] = "later"
    split: Literal["validation", "test"] = "validation"
    images: int | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_choices(self)
        named(self.attack)
        for name in ("images", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"selection.{name} must be at least 1, not {value}.")

    def is_best(self, values: Sequence[float]) -> bool:
        """Return whether the last of some epochs' accuracies, at least one, is the best of them."""
        *earlier, last = values
        return all(last > value or (last == value and self.ties == "later") for value in earlier)

    def pick(self, splits: Splits) -> Images:
        """Return the images to evaluate on; raises BadInput if there are none."""
        images = splits.validation if self.split == "validation" else splits.test
        if len(images) == 0:
            raise BadInput(
                "No images are held out for validation: set data.validation above 0, or selection.split: test."
            )
        return images if self.images is None else images.subset(torch.arange(min(self.images, len(images))))
