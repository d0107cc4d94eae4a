"""How large the runs of a comparison are: named sets of overrides, which every output states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scale:
    """Overrides of every recipe of a table, after those of its rows.

    Args:
        settings: of all rows.
        of_methods: of the rows whose recipe's method begins so.
        samples: how many test images; None is all.
    """

    settings: tuple[str, ...] = ()
    of_methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    samples: int | None = None

    def settings_of(self, recipe: str) -> tuple[str, ...]:
        """Return the overrides for a recipe such as cifar10/las-at."""
        method = recipe.partition("/")[2]
        own = [setting for start, some in self.of_methods.items() if method.startswith(start) for setting in some]
        return (*self.settings, *own)


_SMALL = {"las-": ("--method.policy_network.network=smallconv",), "lbgat": ("--method.teacher_width=8",)}

SCALES: Mapping[str, Scale] = {
    "smoke": Scale(
        (
            "--model.name=resnet18",
            "--model.width=4",
            "--optimisation.epochs=1",
            "--data.limit=300",
            "--data.validation=44",
        ),
        _SMALL,
        samples=50,
    ),
    "cpu": Scale(
        (
            "--model.name=resnet18",
            "--model.width=8",
            "--optimisation.epochs=15",
            "--data.limit=3300",
            "--data.validation=300",
        ),
        _SMALL,
        samples=300,
    ),
    "gpu": Scale(("--optimisation.epochs=30",), samples=1000),
    "full": Scale(),
}
