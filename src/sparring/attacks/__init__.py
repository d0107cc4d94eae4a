"""Attacks: functions of (model, images, labels, threat) that return adversarial images."""

from sparring.attacks.adaptive import BPDA, EOT
from sparring.attacks.apgd import APGD
from sparring.attacks.ascent import Ascent, KeepGoing, Objective, ascend, input_gradient
from sparring.attacks.attack import Attack, SearchAttack
from sparring.attacks.autoattack import AutoAttack
from sparring.attacks.capacity import Capacity
from sparring.attacks.fab import FAB
from sparring.attacks.gama import GAMA
from sparring.attacks.gradient import CW, FGSM, PGD, Restarted, draw_start
from sparring.attacks.modes import BatchNormMode, attackable, frozen_statistics
from sparring.attacks.multitargeted import MultiTargeted
from sparring.attacks.named import named
from sparring.attacks.pool import Pool, Subjects
from sparring.attacks.search import Lanes, Probe, Search, opened
from sparring.attacks.square import Square

__all__ = [
    "APGD",
    "BPDA",
    "CW",
    "EOT",
    "FAB",
    "FGSM",
    "GAMA",
    "PGD",
    "Ascent",
    "Attack",
    "AutoAttack",
    "BatchNormMode",
    "Capacity",
    "KeepGoing",
    "Lanes",
    "MultiTargeted",
    "Objective",
    "Pool",
    "Probe",
    "Restarted",
    "Search",
    "SearchAttack",
    "Square",
    "Subjects",
    "ascend",
    "attackable",
    "draw_start",
    "frozen_statistics",
    "input_gradient",
    "named",
    "opened",
]
