"""Check the faster form of the network that searches would run: whether it answers as the network does."""

from __future__ import annotations

from torch import Tensor

from sparring.evaluation.doctor.case import Case
from sparring.evaluation.doctor.finding import Finding
from sparring.evaluation.optimised import ITSELF, agrees, forms


def faster_form(case: Case, logits: Tensor) -> Finding | None:
    """Check whether the fastest form gives the network's logits and gradients."""
    tried = list(forms(case.model, case.few))
    used = next(form.name for form in tried if form.name == ITSELF or agrees(form, case.model, case.few, case.threat))
    if used == tried[0].name:
        return None
    return Finding(
        "slower-form",
        "note",
        f"The network answers otherwise in its fastest form ({tried[0].name}), so searches run a slower one: {used}.",
        "Figures are right either way; the evaluation takes longer.",
        "Nothing is wrong: such networks look at their own modules, at the batch, or at how images lie in memory.",
    )
