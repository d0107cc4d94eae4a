"""The state of a network while it is attacked: frozen parameters and a chosen BatchNorm behaviour, put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparring.choices import check_choice
from sparring.errors import BadInput, shown

BatchNormMode: TypeAlias = Literal["eval", "train", "train_frozen_stats"]


@runtime_checkable
class Resting(Protocol):
    """A network that can answer faster while it is in evaluation mode and its weights stay as they are."""

    def at_rest(self) -> AbstractContextManager[None]:
        """Return the time in which that is so."""


def check_model(model: object) -> None:
    """Raise BadInput for what is no `nn.Module`."""
    if not isinstance(model, nn.Module):
        raise BadInput(f"The model is {shown(model)}: give a torch.nn.Module, such as sparring.load('runs/mine').")


@contextmanager
def attackable(model: nn.Module, bn: BatchNormMode) -> Iterator[None]:
    """Prepare the network for an attack; put every mode and gradient flag back on leaving.

    Parameters are frozen: a compiled backward would otherwise compute weight gradients too, a third of the attack's
    cost. `eval` uses BatchNorm's running statistics (a network in training folds it away meanwhile, see `Resting`),
    `train` the batch's and moves the running ones, `train_frozen_stats` the batch's without moving anything.
    Raises BadInput for another `bn`, and for a network that was made under `torch.inference_mode`.
    """
    check_choice("bn", bn, get_args(BatchNormMode))
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise BadInput(
            "The model was made under torch.inference_mode, where tensors have no gradients, and attacks need them: make "
            "it outside."
        )
    modules = list(model.modules())
    modes = [module.training for module in modules]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        if bn == "train_frozen_stats":
            stack.enter_context(frozen_statistics(model))
        try:
            model.train(bn != "eval")
            for parameter in trainable:
                parameter.requires_grad_(False)
            if bn == "eval" and isinstance(model, Resting):
                stack.enter_context(model.at_rest())
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let forward passes in training mode use the batch's statistics and leave BatchNorm's running ones as they are."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
