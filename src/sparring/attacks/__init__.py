"""Attacks: functions of (model, images, labels, threat) that return adversarial images."""

from sparring.attacks.ascent import Ascent, KeepGoing, Objective, ascend, input_gradient
from sparring.attacks.gradient import CW, FGSM, PGD, Attack, Restarted, draw_start
from sparring.attacks.modes import BatchNormMode, attackable, frozen_statistics
from sparring.attacks.named import named

__all__ = [
    "CW",
    "FGSM",
    "PGD",
    "Ascent",
    "Attack",
    "BatchNormMode",
    "KeepGoing",
    "Objective",
    "Restarted",
    "ascend",
    "attackable",
    "draw_start",
    "frozen_statistics",
    "input_gradient",
    "named",
]
