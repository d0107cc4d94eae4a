"""The doctor: quick checks that find the mistakes which ruin evaluations, before hours are spent on one.

`finding` is what a check says, `case` what it looks at; `inputs`, `outputs`, `accuracy`, `normalisation`, `stability`,
`gradients` and `copies` hold the checks, which are listed in `diagnosis`.
"""

from sparring.evaluation.doctor.diagnosis import diagnose
from sparring.evaluation.doctor.finding import Finding, Severity, worst_first

__all__ = ["Finding", "Severity", "diagnose", "worst_first"]
