"""The list of all checks, and the function that runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from sparring.attacks import check_model
from sparring.choices import check_kind
from sparring.data import Labelled
from sparring.evaluation.doctor import accuracy, copies, gradients, inputs, normalisation, outputs, stability
from sparring.evaluation.doctor.case import Case, examined
from sparring.evaluation.doctor.finding import Finding, worst_first
from sparring.evaluation.network import check_device
from sparring.randomness import check_seed
from sparring.threat import Threat

# Each returns None where there is nothing to say.
BEFORE: tuple[Callable[[Case], Finding | None], ...] = (
    inputs.pixel_range,
    inputs.label_range,
    inputs.class_names,
    inputs.seen_images,
    inputs.image_size,
    inputs.radius,
)
AFTER: tuple[Callable[[Case, Tensor], Finding | None], ...] = (  # of the case and the logits (N, K) of its images
    outputs.classes,
    outputs.probabilities,
    outputs.precision,
    normalisation.double_normalisation,
    accuracy.right_answers,
    stability.training_mode,
    stability.random_answers,
    stability.batch_dependence,
    stability.changing_state,
    stability.changing_input,
    gradients.useful_gradients,
    gradients.saturation,
    gradients.inner_optimisation,
    copies.faster_form,
)


@torch.inference_mode(False)  # which lets autograd record under no_grad, too
def diagnose(
    model: nn.Module,
    images: Labelled,
    threat: Threat,
    *,
    classes: int | Sequence[str] | None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    count: int = 128,
) -> list[Finding]:
    """Return what is, or may be, wrong with an evaluation of the model on the images, worst first; empty if nothing is.

    The model is left as it was: modes, parameters, gradients, buffers, and the states of the random generators.

    Args:
        model: returns logits (B, K) of images (B, C, H, W) in [0, 1]; it is on `device`.
        images: of which at most `count` are looked at, drawn at random.
        threat: what the adversary of the evaluation may do.
        classes: the names of the data's classes, or how many there are; None if that is not known. Names are compared with
            those that the model has, as what `sparring.load` returns does.
        device: where the model is.
        seed: of the choice of images, and of the generators meanwhile.
        count: at least 2.

    Raises:
        BadInput: no images, images of a single class, too small a count, or a device that is not there; arguments
            of other types.
    """
    check_model(model)
    check_device(device)
    check_seed(seed)
    check_kind("classes", classes, int | tuple[str, ...] | None)
    check_kind("count", count, int)
    with examined(model, images, threat, classes, device, seed, count) as case:
        return worst_first(_findings(case))


def _findings(case: Case) -> Iterator[Finding]:
    yield from (finding for check in BEFORE if (finding := check(case)) is not None)
    try:
        with torch.no_grad():
            answer = case.model(case.few.clone())
        misshapen = outputs.shape(case, answer)
        logits = None if misshapen else case.logits(case.x)
    except Exception as error:  # whatever the user's code raises is what there is to say
        yield _raised(case, error)
        return
    if logits is None:
        yield from () if misshapen is None else (misshapen,)
    elif (broken := outputs.finite(case, logits)) is not None:
        yield broken
    else:
        yield from (finding for check in AFTER if (finding := _checked(check, case, logits)) is not None)


def _checked(check: Callable[[Case, Tensor], Finding | None], case: Case, logits: Tensor) -> Finding | None:
    try:
        return check(case, logits)
    except Exception as error:  # of the user's code, which has answered before: it may depend on the batch's size
        return _failed(case, error, f", in the check {check.__name__},")


def _raised(case: Case, error: Exception) -> Finding:
    if gradients.trains_inside(case):
        return gradients.optimises("it needs gradients of the parameters, which attacks freeze")
    return _failed(case, error)


def _failed(case: Case, error: Exception, where: str = "") -> Finding:
    kind = f"{tuple(case.x.shape[1:])}, {str(case.x.dtype).removeprefix('torch.')}, on {case.x.device}"
    return Finding(
        "forward-fails",
        "error",
        f"For images of shape {kind}{where or ','} the model raised {gradients.said(error)}.",
        "Without an answer there is nothing to evaluate.",
        "Check channels, size, precision and device: parameters in single precision, on the device that is named.",
    )
