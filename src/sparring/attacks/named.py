"""The names that papers, tables and the command line use for attacks: fgsm, pgd-20, pgd-50-10, cw-20, aa."""

from __future__ import annotations

import re
from collections.abc import Callable

from sparring.attacks.apgd import APGD
from sparring.attacks.attack import Attack, SearchAttack
from sparring.attacks.autoattack import TARGETS, AutoAttack
from sparring.attacks.fab import FAB
from sparring.attacks.gama import GAMA
from sparring.attacks.gradient import CW, FGSM, IFGSM, PGD, Restarted
from sparring.attacks.multitargeted import MultiTargeted
from sparring.attacks.square import Square
from sparring.errors import unknown

_FIXED: dict[str, Callable[[], Attack]] = {
    "fgsm": FGSM,
    "aa": AutoAttack,
    "aa-plus": lambda: AutoAttack("plus"),
    "aa-rand": lambda: AutoAttack("rand"),
    "aa-fast": lambda: AutoAttack("fast"),
    "apgd-ce": APGD,
    "apgd-dlr": lambda: APGD("dlr"),
    "apgd-t": lambda: APGD("dlr", targets=TARGETS),
    "fab": lambda: FAB(targets=None),
    "fab-t": lambda: FAB(targets=TARGETS),
    "square": Square,
    "mt": MultiTargeted,
}
_BY_STEPS: dict[str, Callable[[int], SearchAttack]] = {
    "pgd": lambda steps: PGD(steps=steps),
    "cw": lambda steps: CW(steps=steps),
    "ifgsm": lambda steps: IFGSM(steps=steps),
    "gama": lambda steps: GAMA(steps=steps),
}
EXAMPLES = (*_FIXED, "pgd-10", "pgd-20", "pgd-50", "pgd-50-10", "cw-20", "ifgsm-7", "gama-100")
_PATTERN = re.compile(rf"(?P<kind>{'|'.join(_BY_STEPS)})-(?P<steps>[1-9]\d*)(-(?P<restarts>[1-9]\d*))?")


def named(name: str) -> Attack:
    """Return the attack of that name: one of the fixed ones, or `pgd-<steps>[-<restarts>]`, and so `cw`, `ifgsm` and `gama`.

    PGD-20 is 20 steps of eps / 4 (2/255 at eps = 8/255) from one uniform start; aa is AutoAttack's standard version.
    Raises BadInput for any other name.
    """
    if name in _FIXED:
        return _FIXED[name]()
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise unknown("attack", name, ("clean", *EXAMPLES))  # which evaluations know besides
    attack = _BY_STEPS[match["kind"]](int(match["steps"]))
    return Restarted(attack, int(match["restarts"])) if match["restarts"] else attack
