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
    """Attack, descend, remember: one batch, `method.replays` optimizer steps."""
    for _ in range(method.replays):
        steer(method, target)
        step = turn(method, target, batch)
    return step


def steer(method: Method, target: Learner) -> None:
    """What the host decides of the next optimizer step."""
    target.steer()
    method.begin_step(target.steps)


def turn(method: Method, target: Learner, batch: Batch) -> Step:
    """One optimizer step: the device's work alone, which can be recorded and replayed.

    The attack goes through the bare network, only the loss through the wrapped one (design, rule 4).
    """
    method.adapt(target, batch)
    perturbation = method.perturb_before_loss(target.bare, batch)
    target.zero_grad()
    with method.shifted_weights(target.bare, batch, perturbation):
        loss = method.loss(target.model, batch, perturbation)
        target.backward(loss.total)
    target.step()
    method.commit(batch, perturbation)
    return Step(loss, perturbation)
