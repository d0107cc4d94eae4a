"""AutoAttack: a fixed succession of attacks, each on the images that all before it left correct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from typing_extensions import override

from sparring.attacks.apgd import APGD
from sparring.attacks.attack import Attack, SearchAttack
from sparring.attacks.fab import FAB
from sparring.attacks.search import Search
from sparring.attacks.square import Square
from sparring.norms import NormName, by_norm
from sparring.threat import Threat

TARGETS = 9  # the likeliest wrong classes
_PLUS_RESTARTS = 5
_EOT = 20
_STANDARD: dict[NormName, tuple[APGD, APGD]] = {  # on cross-entropy; on targeted DLR
    "Linf": (APGD("ce"), APGD("dlr", targets=TARGETS)),
    "L2": (APGD("ce"), APGD("dlr", targets=TARGETS)),
    "L1": (APGD("ce", restarts=5, shrinking=True), APGD("dlr", targets=5, shrinking=True)),
}


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack (Croce and Hein, ICML 2020): no parameters but its version.

    standard is APGD on cross-entropy, APGD on targeted DLR, targeted FAB and Square; plus adds untargeted APGD-DLR and FAB,
    with five restarts; rand, for randomised networks, is APGD on cross-entropy and DLR with gradients averaged over 20
    passes. Targets are the 9 likeliest wrong classes, or all where there are fewer. `fast` is not AutoAttack: only the
    first two attacks of standard, an upper bound on it, and its name says so wherever it is printed.

    In L1 the first two attacks of standard (and of fast) shrink their balls; the first has five restarts, the second only 5
    targets. Those of plus and rand are what they are in other norms, as in the released code.

    Targeted DLR does not exist for fewer than 4 classes, nor DLR for fewer than 3: there the difference of logits, which
    DLR divides by a scale, takes its place.

    Raises BadInput for another version.
    """

    version: Literal["standard", "plus", "rand", "fast"] = "standard"

    @override
    def searches(self, classes: int, threat: Threat) -> Mapping[str, Search]:
        untargeted: Literal["dlr", "margin"] = "dlr" if classes >= 3 else "margin"
        targeted: Literal["dlr", "margin"] = "dlr" if classes >= 4 else "margin"
        first, second = by_norm(_STANDARD, threat.norm, "AutoAttack")
        if self.version == "rand":
            chosen: dict[str, SearchAttack] = {"apgd-ce": APGD("ce", eot=_EOT), "apgd-dlr": APGD(untargeted, eot=_EOT)}
        elif self.version == "plus":
            chosen = {
                "apgd-ce": APGD("ce", restarts=_PLUS_RESTARTS),
                "apgd-dlr": APGD(untargeted, restarts=_PLUS_RESTARTS),
                "fab": FAB(targets=None, restarts=_PLUS_RESTARTS),
                "square": Square(),
                "apgd-t": APGD(targeted, targets=TARGETS),
                "fab-t": FAB(targets=TARGETS),
            }
        else:
            chosen = {"apgd-ce": first, "apgd-t": replace(second, objective=targeted)}
            if self.version == "standard":
                chosen |= {"fab-t": FAB(targets=TARGETS), "square": Square()}
        return {name: attack.searches(classes, threat)[""] for name, attack in chosen.items()}

    @override
    def describe(self, threat: Threat) -> dict[str, str | int]:  # each attack's settings are those of its paper
        return {"version": self.version}
