"""Whether a network and labelled images belong together at all, found out before any long work starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparring.attacks import attackable
from sparring.attacks.capacity import is_about_memory
from sparring.data import Images, batches
from sparring.errors import BadInput, NotANumber, first_line

_MOST = 64  # images at once


def check_fit(model: nn.Module, images: Images, classes: int | None, name: str, device: torch.device | str) -> None:
    """Raise BadInput if the model cannot classify the images; `classes` is their number, if it is known.

    That is: no image or fewer than two classes; a model that fails for two images, for one, or for up to 64 at once, or
    returns something else than finite logits (B, K); labels that have no logit; another number of classes than the data.
    """
    if len(images) == 0:
        raise BadInput(f"{name} has no images to evaluate on: give at least one.")
    x = next(batches(images.subset(torch.arange(min(_MOST, len(images)))), _MOST, device)).x
    logits = _logits(model, x[:2], name)
    for some in (x[:1], x):  # the last images under attack make a small batch, hours later
        try:
            _logits(model, some, name)
        except BadInput as error:
            if is_about_memory(error.__cause__):  # of so many images; fewer may fit
                continue
            raise BadInput(f"With {len(some)} images at once, unlike with 2: {error}") from error
    known = logits.shape[1]
    if known < 2:
        raise BadInput(f"The model knows {known} class: robustness needs at least two.")
    if logits.isnan().any():
        raise NotANumber(f"The model returned NaN logits for images of {name}: an accuracy would mean nothing.")
    least, most = int(images.labels.min()), int(images.labels.max())
    if classes is not None and known != classes:
        raise BadInput(f"The model knows {known} classes, but {name} has {classes}.")
    if least < 0 or most >= known:
        raise BadInput(f"Labels of {name} go from {least} to {most}, but the model knows the classes 0 to {known - 1}.")


def _logits(model: nn.Module, x: Tensor, name: str) -> Tensor:
    try:
        with torch.no_grad(), attackable(model, "eval"):
            logits = model(x)
    except BadInput:
        raise
    except Exception as error:  # the model may be anybody's: it may fail in any way
        shape, said = tuple(x.shape[1:]), f"{type(error).__name__}: {first_line(error)}"
        kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype != torch.float32}
        advice = f" Its weights are {', '.join(sorted(kinds))}: give model.float()." if kinds else ""
        raise BadInput(f"The model cannot take images of shape {shape}, those of {name} ({said}).{advice}") from error
    if not isinstance(logits, Tensor):
        raise BadInput(
            f"The model returned {type(logits).__name__} instead of a tensor of logits: wrap it so that it does."
        )
    if logits.ndim != 2 or len(logits) != len(x):
        raise BadInput(
            f"The model returned shape {tuple(logits.shape)} for {len(x)} images: logits are (images, classes)."
        )
    return logits
