"""The training step, the same lines for every method; all on the device, so that it can be captured and replayed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparring.data.batch import Batch
from sparring.learner import Learner
from sparring.methods.base import Loss, Method, Perturbation, Phase


@dataclass(frozen=True)
class Step:
    """What one optimizer step did to a batch."""

    batch: Batch
    perturbation: Perturbation
    loss: Loss


def train_step(method: Method, target: Learner, batch: Batch, phase: Phase = None) -> Step:
    """Take one optimizer step on a batch: attack, descend, remember.

    Attacks differentiate `target.attack_model`, and only the loss goes through `target.model`, which a wrapper may hold: its
    hooks, such as averaging gradients over the ranks, belong to the update. A loss that differentiates the network twice
    goes through `attack_model` too, as wrappers do not support that.

    Random numbers come from PyTorch's default generators: seed them for a step that can be repeated. `Session.step` does
    that, finds the phase and takes all of the method's replays.

    Args:
        method: set up already (`Method.setup`, which `Session` calls), and told that the epoch has begun.
        target: the network to train, in training mode, with its optimizer.
        batch: images x (B, C, H, W) in [0, 1] with labels, indices and view, on the network's device.
        phase: `method.phase(epoch, target.steps)`; None stands for the first step's.

    Returns:
        The batch as `adapt` returned it, the perturbation, and the loss before the step.
    """
    traits = method.traits()
    attacked, model = target.attack_model, target.attack_model if traits.double_backward else target.model
    batch = method.adapt(target, batch, phase)
    target.zero_grad()
    if traits.shifts_weights:
        perturbation = method.perturb(attacked, batch, phase)
        with method.shifted_weights(attacked, batch, perturbation, phase):
            loss = method.loss(model, batch, perturbation, phase)
            target.backward(loss.total, around_model=traits.double_backward)
    else:
        perturbation, loss = method.perturb_and_loss(attacked, model, batch, phase)
        target.backward(loss.total, around_model=traits.double_backward)
    target.step()
    if traits.clean_forward:
        with torch.no_grad():
            model(batch.x)
    method.commit(batch, perturbation, loss)
    return Step(batch, perturbation, loss)
