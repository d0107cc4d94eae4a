"""The names that papers, tables and the command line use for attacks: fgsm, pgd-20, pgd-50-10, cw-20."""

from __future__ import annotations

import re

from sparring.attacks.gradient import CW, FGSM, PGD, Attack, Restarted
from sparring.errors import unknown

EXAMPLES = ("fgsm", "pgd-10", "pgd-20", "pgd-50", "pgd-50-10", "cw-20")
_PATTERN = re.compile(r"(?P<kind>pgd|cw)-(?P<steps>[1-9]\d*)(-(?P<restarts>[1-9]\d*))?")


def named(name: str) -> Attack:
    """The attack of that name: `fgsm`, `pgd-<steps>[-<restarts>]` or `cw-<steps>[-<restarts>]`.

    PGD-20 is 20 steps of eps / 4 (2/255 at eps = 8/255) from one uniform start. Raises BadInput for any other name.
    """
    if name == "fgsm":
        return FGSM()
    match = _PATTERN.fullmatch(name)
    if match is None:
        raise unknown("attack", name, EXAMPLES)
    attack = (PGD if match["kind"] == "pgd" else CW)(steps=int(match["steps"]))
    return Restarted(attack, int(match["restarts"])) if match["restarts"] else attack
