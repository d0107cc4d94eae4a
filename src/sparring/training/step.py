"""The training step. Every method goes through these lines, live or captured; none of them knows a method's name."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Attack, descend, remember: one optimizer step, the device's work alone, which can be captured and replayed.

    The attack goes through the network as it is, only the loss through the wrapped one (design, rule 4), unless the loss
    differentiates the network twice, which wrappers refuse.
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
    method.commit(batch, perturbation, loss)
    return Step(batch, perturbation, loss)
