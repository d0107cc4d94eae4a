"""The training step. Every method goes through these lines; none of them knows a method's name."""

from __future__ import annotations

from dataclasses import dataclass

from sparring.data.batch import Batch
from sparring.learner import Learner
from sparring.methods.base import Loss, Method, Perturbation


@dataclass(frozen=True)
class Step:
    """What a training step did to a batch; of several replays, the last one."""

    loss: Loss
    perturbation: Perturbation


def train_step(method: Method, target: Learner, batch: Batch) -> Step:
    """Attack, descend, remember: one batch, `method.replays` optimizer steps.

    The attack goes through the bare network, only the loss through the wrapped one (design, rule 4).
    """
    for _ in range(method.replays):
        method.adapt(target, batch)
        # A kept graph would cost more than it saves where it is compiled: its backward always reaches the weights, too.
        attack = method.perturb if target.compiled else method.perturb_before_loss
        perturbation = attack(target.bare, batch)
        target.zero_grad()
        with method.shifted_weights(target.bare, batch, perturbation):
            loss = method.loss(target.model, batch, perturbation)
            target.backward(loss.total)
        target.step()
        method.commit(batch, perturbation)
    return Step(loss, perturbation)
