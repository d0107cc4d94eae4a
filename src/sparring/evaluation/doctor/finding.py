"""What a check has to say: what it saw, why that matters, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that is, or may be, wrong with an evaluation.

    Args:
        check: the name of the check, in words with hyphens.
        severity: error: figures will be wrong or mean nothing; warning: they may mislead; note: good to know.
        seen: what was seen, with numbers, in a sentence.
        why: why it matters, in a sentence.
        advice: what to do about it, in a sentence.
    """

    check: str
    severity: Severity
    seen: str
    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}\n  {self.seen}\n  {self.why}\n  {self.advice}"


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort errors first, then warnings, then notes; equals stay in their order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
