"""The training step. Every method goes through these lines; none of them knows a method's name."""

from __future__ import annotations

from sparring.data.batch import Batch
from sparring.learner import Learner
from sparring.methods.base import Loss, Method


def train_step(method: Method, target: Learner, batch: Batch) -> Loss:
    """Attack, descend, remember: one batch, `method.replays` optimizer steps. Returns the last loss.

    The attack goes through the bare network, only the loss through the wrapped one (design, rule 4).
    """
    for _ in range(method.replays):
        method.adapt(target, batch)
        perturbation = method.perturb(target.bare, batch)
        target.zero_grad()
        with method.shifted_weights(target.bare, batch, perturbation):
            loss = method.loss(target.model, batch, perturbation)
            target.backward(loss.total)
        target.step()
        method.commit(batch, perturbation)
    return loss
