"""Signs of gradient masking: networks that stop attacks without being robust (Athalye et al., ICML 2018).

`figures` finds them in the accuracies of an evaluation that is done, `experiments` runs short attacks of its own.
"""

from sparring.evaluation.masking.experiments import probe_masking
from sparring.evaluation.masking.figures import suspicions

__all__ = ["probe_masking", "suspicions"]
