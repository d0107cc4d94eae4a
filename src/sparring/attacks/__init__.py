"""Attacks: functions of (model, images, labels, threat) that return adversarial images."""

from typing import Any

from sparring.attacks.adaptive import BPDA, EOT
from sparring.attacks.apgd import APGD
from sparring.attacks.ascent import Ascent, KeepGoing, Objective, ascend, input_gradient
from sparring.attacks.attack import Attack, SearchAttack
from sparring.attacks.autoattack import AutoAttack
from sparring.attacks.capacity import Capacity
from sparring.attacks.fab import FAB
from sparring.attacks.gama import GAMA
from sparring.attacks.gradient import CW, FGSM, IFGSM, PGD, Restarted, draw_start
from sparring.attacks.modes import BatchNormMode, attackable, check_model, frozen_statistics
from sparring.attacks.multitargeted import MultiTargeted
from sparring.attacks.named import named
from sparring.attacks.pool import Pool, SearchInputs
from sparring.attacks.search import CountedModel, Search, SearchState, initial_fields
from sparring.attacks.square import Square
from sparring.deprecation import renamed_names

__all__ = [
    "APGD",
    "BPDA",
    "CW",
    "EOT",
    "FAB",
    "FGSM",
    "GAMA",
    "IFGSM",
    "PGD",
    "Ascent",
    "Attack",
    "AutoAttack",
    "BatchNormMode",
    "Capacity",
    "CountedModel",
    "KeepGoing",
    "MultiTargeted",
    "Objective",
    "Pool",
    "Restarted",
    "Search",
    "SearchAttack",
    "SearchInputs",
    "SearchState",
    "Square",
    "ascend",
    "attackable",
    "check_model",
    "draw_start",
    "frozen_statistics",
    "initial_fields",
    "input_gradient",
    "named",
]

_RENAMED = {"Lanes": "SearchState", "Probe": "CountedModel", "Subjects": "SearchInputs", "opened": "initial_fields"}
_present = renamed_names(__name__, _RENAMED)


def __getattr__(name: str) -> Any:
    """Return what a name of version 0.1 stands for, with a warning."""
    return globals()[_present(name)]
