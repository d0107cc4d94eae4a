"""Signs of gradient masking: networks that stop attacks without being robust (Athalye et al., ICML 2018).

`figures` finds them in the accuracies of an evaluation that is done, `experiments` runs short attacks of its own.
"""

from sparring.evaluation.masking.experiments import probe_masking
from sparring.evaluation.masking.figures import accuracies_of, suspicions

__all__ = ["accuracies_of", "probe_masking", "suspicions"]
