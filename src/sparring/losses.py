"""Per-sample losses of logits: attacks ascend them, methods descend them.

Losses map logits (B, K) of K classes to values (B,), larger when the prediction is worse (`kl_divergence`: the further two
predictions are apart). None takes a mean: a batch mean would scale the samples' input gradients by the batch size.
`smoothing_from_kept` converts between two notations of label smoothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparring.errors import BadInput

Logits = Float[Tensor, "B K"]
Labels = Int[Tensor, " B"]
PerSample = Float[Tensor, " B"]

_SMALL = 1e-12  # keeps the ratio of equal logits finite


def cross_entropy(logits: Logits, y: Labels, smoothing: float = 0.0) -> PerSample:
    """Return - sum_c q_c log softmax(z)_c with q = (1 - smoothing) onehot(y) + smoothing / K (PyTorch's label smoothing)."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def margin(logits: Logits, y: Labels) -> PerSample:
    """Return max_{j != y} z_j - z_y: positive where the sample is misclassified (the C&W loss of the AT literature)."""
    own = torch.zeros_like(logits).scatter(1, y[:, None], float("inf"))
    return (logits - own).amax(1) - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Logits, y: Labels) -> PerSample:
    """Return - (z_y - max_{j != y} z_j) / (z_(1) - z_(3)), sorted descending: unchanged if logits are scaled or shifted.

    The difference of logits ratio (Croce and Hein, ICML 2020, eq. 6). Raises RuntimeError for fewer than three classes.
    """
    first, _, third = logits.topk(3).values.unbind(1)
    return margin(logits, y) / (first - third + _SMALL)


def targeted_dlr(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """Return - (z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), sorted descending (Croce and Hein, ICML 2020, eq. 7).

    Raises RuntimeError for fewer than four classes.
    """
    first, _, third, fourth = logits.topk(4).values.unbind(1)
    return targeted_margin(logits, y, target) / (first - (third + fourth) / 2 + _SMALL)


def targeted_margin(logits: Logits, y: Labels, target: Labels) -> PerSample:
    """Return z_t - z_y: positive where the network prefers the target to the true class (Gowal et al., 2019)."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def boosted_cross_entropy(logits: Logits, y: Labels, padding: float = 0.0) -> PerSample:
    """Return - log p_y - log(1 + padding - max_{j != y} p_j), MART's BCE: exact without padding, however sure a mistake."""
    others = logits.scatter(1, y[:, None], float("-inf"))
    rival = others.argmax(1, keepdim=True)
    if padding:
        rest = (1 + padding - logits.softmax(1).gather(1, rival)[:, 0]).log()
    else:
        rest = logits.scatter(1, rival, float("-inf")).logsumexp(1) - logits.logsumexp(1)
    return cross_entropy(logits, y) - rest


def kl_divergence(clean: Logits, adversarial: Logits) -> PerSample:
    """Return KL(softmax(clean) || softmax(adversarial)); gradients flow through both arguments (TRADES, eq. 5)."""
    return F.kl_div(adversarial.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def smoothing_from_kept(kept: float, classes: int) -> float:
    """Return PyTorch's `label_smoothing` that leaves the mass `kept` on the true class: (1 - F) K / (K - 1).

    The released code of LAS-AT, FGSM-SDI and FGSM-PGI states F, the kept mass, as its "factor"; K is the number of
    classes. Raises BadInput for fewer than two classes, and for a mass below 1 / K, which would make the true class the
    least likely target.
    """
    if classes < 2:
        raise BadInput(f"Labels can be smoothed over at least 2 classes, not {classes}.")
    if not 1 / classes <= kept <= 1:
        raise BadInput(f"The mass kept on the true class must lie in [1/{classes}, 1], not {kept}.")
    return (1 - kept) * classes / (classes - 1)
