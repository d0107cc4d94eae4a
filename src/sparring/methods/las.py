"""LAS: adversarial training whose attack on each image is chosen by a network that learns which attacks train best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from sparring import ranks
from sparring.attacks import PGD
from sparring.data.batch import Batch
from sparring.errors import BadInput
from sparring.learner import Learner, LookAhead
from sparring.methods.base import Loss, Perturbation, Phase, Review, Task, Traits, state
from sparring.methods.policy import Actions, Choice, Distribution, PolicyNetwork
from sparring.methods.reward import Reward
from sparring.methods.wrapper import Layered, Wrapper, within
from sparring.threat import Budget, Ratio, Threat

REPORTED = ("reward_l1", "reward_l2", "reward_l3", "reward")


@dataclass(frozen=True)
class StrategicPerturbation(Perturbation):
    """A perturbation with the strategy that led to it."""

    choice: Choice = field(kw_only=True)
    entropy: Float[Tensor, "heads B"] = field(kw_only=True)  # of the policy, in nats


class LASPhase(NamedTuple):
    """What LAS's own part of a step depends on."""

    due: bool  # whether the policy moves in this step
    first: bool  # whether it is the run's first


@dataclass
class LAS(Wrapper):
    """A learnable attack strategy around adversarial training (Jia et al., CVPR 2022).

    A policy draws for each image a radius, a number of steps, a step size, and for TRADES a beta. Every `interval` steps it
    moves up the expected return of its choices, grad J = mean_i (R_i - baseline) grad log p(choice_i | x_i) (REINFORCE).

    Args:
        inner: AdversarialTraining, TRADES, or AWP around either; its attack's steps are the most that may be chosen.
        actions: what there is to choose from.
        policy: learned; uniform, every action equally likely; or fixed, the mean of each table for every image.
        policy_network: the network behind a learned policy.
        reward: what a strategy's return is made of.
        interval: target steps between two updates of the policy, k.
        returns: an image's own return (the paper), or the batch's mean for all its images (the released code).
        baseline: what is subtracted from the return, which changes the variance of the update and not its mean: none, ema
            (a moving average of returns), or greedy (the return of the likeliest strategies, at twice the cost).
        entropy_bonus: weight of the policy's entropy, which keeps it from settling early.
        init_radius: of the attack's random start; None is the radius chosen for the image.
        clip_final: whether the perturbation is finally clipped to the threat's radius (released LAS-AWP).

    Raises:
        BadInput: a number out of range; in `setup`, an inner method whose attack cannot be chosen, actions beyond its
            steps, a table of beta for a method without, a radius of the whole pixel range.
    """

    actions: Actions = field(default_factory=Actions)
    policy: Literal["learned", "uniform", "fixed"] = "learned"
    policy_network: PolicyNetwork = field(default_factory=PolicyNetwork, metadata={"formerly": "strategist"})
    reward: Reward = field(default_factory=Reward)
    interval: int = 40
    returns: Literal["sample", "batch"] = "sample"
    baseline: Literal["none", "ema", "greedy"] = "ema"
    entropy_bonus: float = 0.0
    init_radius: Ratio | None = None
    clip_final: bool = False
    network: nn.Module = state()
    optimizer: torch.optim.Optimizer = state()
    epoch: int = state()
    usual_return: Tensor = state()  # (), a moving average over the updates
    counts: Tensor = state()  # (actions,), how often each was taken in this epoch by this rank, head after head
    entropies: Tensor = state()  # (heads,), sums over this epoch's images
    rewards: Tensor = state()  # (5,), sums over this epoch's updates: L1, L2, L3, return, updates
    _ahead: LookAhead | None = field(init=False, repr=False, compare=False, default=None)
    _threat: Threat = field(init=False, repr=False, compare=False)
    _compact: bool = field(init=False, repr=False, compare=False)
    _tables: dict[str, Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_radius is not None:
            self.init_radius = Ratio(self.init_radius)
            if self.init_radius <= 0:
                raise BadInput(f"LAS needs init_radius above 0, not {self.init_radius}.")
        if self.interval < 1:
            raise BadInput(f"LAS needs an interval of at least 1 step, not {self.interval}.")
        if self.entropy_bonus < 0:
            raise BadInput(f"LAS needs entropy_bonus >= 0, not {self.entropy_bonus}.")
        if self.reward.hardness == "objective" and self.returns == "sample":
            raise BadInput(
                "The inner objective is one number a batch: reward.hardness: objective needs returns: batch."
            )
        self._chosen_from = self.actions.means() if self.policy == "fixed" else self.actions
        self._sizes = self._chosen_from.sizes

    @override
    def traits(self) -> Traits:
        return replace(super().traits(), accepts_budget=False, shrinks=True)  # the attack is chosen already

    @override
    def setup(self, task: Task) -> None:
        attack = self._attack_to_choose(task.threat)
        super().setup(task)
        self._threat, self._ahead = task.threat, None
        # Where the attack uses the batch's statistics, samples influence each other: none may leave.
        self._compact = task.compact and attack.bn == "eval"
        self._tables = self._chosen_from.tables(task.device)
        actions = sum(self._sizes.values())
        self.network = self.optimizer = None  # type: ignore[assignment]  # other policies have none and ask for none
        if self.policy == "learned":
            self.network = self.policy_network.build(task, actions)
            self.optimizer = self.policy_network.optimiser(self.network)
        self.epoch = -1
        self.usual_return = torch.zeros((), device=task.device)
        self.counts = torch.zeros(actions, device=task.device)
        self.entropies = torch.zeros(len(self._sizes), device=task.device)
        self.rewards = torch.zeros(len(REPORTED) + 1, device=task.device)

    def begin_epoch(self, epoch: int, review: Review | None = None) -> None:
        """Count anew; once an epoch, also after a resume."""
        super().begin_epoch(epoch, review)
        if epoch != self.epoch:
            self.epoch = epoch
            for sums in (self.counts, self.entropies, self.rewards):
                sums.zero_()

    @override
    def own_phase(self, epoch: int, step: int) -> LASPhase:
        return LASPhase(step % self.interval == 0, step == 0)

    @override
    def adapt(self, target: Learner, batch: Batch, phase: Layered | None = None) -> Batch:
        """Take, every `interval` steps, one step of REINFORCE up the return of strategies drawn for this batch."""
        phase = phase or self.phase(0, 0)
        batch = super().adapt(target, batch, phase)
        if self.policy == "learned" and phase.own.due:
            self.network.train()
            policy = self.strategies(batch.x)
            choice = policy.sample()
            terms = self.reward_terms(target, batch, choice, phase)
            self.rewards += torch.cat([terms.mean(1), torch.ones_like(terms[0, :1])])
            advantage = self._credited(terms) - self._baseline(target, batch, policy, terms, phase)
            gain = (advantage * policy.log_probability(choice)).mean()
            gain = gain + self.entropy_bonus * policy.entropy().sum(0).mean()
            self.policy_network.ascend(self.network, self.optimizer, gain)
            self.network.eval()
        return batch

    @override
    def perturb(
        self, model: nn.Module, batch: Batch, phase: Layered | None = None, budget: Budget | None = None
    ) -> Perturbation:
        """Attack as the inner method with a strategy drawn for each image; a budget from outside goes before the policy."""
        if budget is not None:
            return super().perturb(model, batch, phase, budget)
        with torch.no_grad():
            policy = self.strategies(batch.x)
        choice = policy.sample()
        found = self._attacked(model, batch, choice, within(phase))
        return StrategicPerturbation(
            found.delta, found.start, found.weight, found.steps, choice=choice, entropy=policy.entropy()
        )

    def commit(self, batch: Batch, perturbation: Perturbation, loss: Loss) -> None:
        """Count the actions."""
        super().commit(batch, perturbation, loss)
        if isinstance(perturbation, StrategicPerturbation):
            for counts, choice in zip(self._by_head(self.counts), perturbation.choice.values(), strict=True):
                counts.index_add_(0, choice, torch.ones_like(choice, dtype=counts.dtype))
            self.entropies += perturbation.entropy.sum(1)

    def metrics(self) -> Mapping[str, Tensor]:
        """Return each head's shares of its actions, their mean, and the policy's entropy; then the mean return and its
        terms, NaN in an epoch without an update.
        """
        found = dict(super().metrics())
        counts, entropies, rewards = (ranks.total(sums) for sums in (self.counts, self.entropies, self.rewards))
        for head, taken, entropy in zip(self._sizes, self._by_head(counts), entropies, strict=True):
            shares = taken / taken.sum()
            found[f"actions_{head}"] = shares
            found[f"{head}_mean"] = shares @ self._tables[head]
            found[f"{head}_entropy"] = entropy / taken.sum()
        return found | dict(zip(REPORTED, rewards[:-1] / rewards[-1], strict=True))

    def inspect(self, batch: Batch) -> Mapping[str, Tensor]:
        """Return the radius that the policy expects to take for each image, and the likeliest one."""
        with torch.no_grad():
            policy = self.strategies(batch.x)
        table = self._tables["eps"]
        return {
            **super().inspect(batch),
            "eps_expected": policy.log_probabilities["eps"].exp() @ table,
            "eps_likeliest": table[policy.likeliest()["eps"]],
        }

    def strategies(self, x: Tensor) -> Distribution:
        """Return what may be chosen for each image; the network is shown what the target is."""
        if self.policy != "learned":
            return Distribution.of(torch.zeros(len(x), sum(self._sizes.values()), device=x.device), self._sizes)
        weight = next(self.network.parameters())
        return Distribution.of(self.network(x.to(weight.dtype)), self._sizes)

    def _attacked(self, model: nn.Module, batch: Batch, choice: Choice, inner: Phase) -> Perturbation:
        """Return the inner method's perturbation under the chosen strategies."""
        taken = {head: table.to(batch.x.dtype)[choice[head]] for head, table in self._tables.items()}  # (B,) each
        budget = Budget(
            taken["eps"],
            taken["alpha"],
            taken["steps"],
            rounds=max(self._chosen_from.steps),
            start=self.init_radius,
            compact=self._compact,
        )
        found = self.inner.perturb(model, batch, inner, budget)
        delta = self._threat.confine(batch.x, found.delta) if self.clip_final else found.delta
        return Perturbation(delta, found.start, taken.get("beta"), found.steps)

    def reward_terms(
        self, target: Learner, batch: Batch, choice: Choice, phase: Layered | None = None
    ) -> Float[Tensor, "4 B"]:
        """Return L1, L2, L3 and the return of strategies for this batch."""
        inner = within(phase)
        if self._ahead is None:
            self._ahead = target.look_ahead()
        perturbation = self._attacked(target.attack_model, batch, choice, inner)
        return self.reward.of(perturbation, batch, self.inner, inner, target, self._ahead, self._threat)

    def _credited(self, terms: Float[Tensor, "4 B"]) -> Float[Tensor, " B"]:
        """Return the return that each image's choice answers for: its own, or the batch's."""
        return terms[3] if self.returns == "sample" else _mean(terms[3]).expand_as(terms[3])

    def _baseline(self, target: Learner, batch: Batch, policy: Distribution, terms: Tensor, phase: Layered) -> Tensor:
        """Return what was to be returned anyway, () or (B,)."""
        if self.baseline == "none":
            return torch.zeros_like(terms[3, 0])
        if self.baseline == "greedy":
            return self._credited(self.reward_terms(target, batch, policy.likeliest(), phase))
        mean = _mean(terms[3])
        # The first step is the first update.
        usual = mean if phase.own.first else self.usual_return.to(mean.dtype, copy=True)
        self.usual_return.copy_(0.9 * usual + 0.1 * mean)
        return usual

    def _by_head(self, values: Tensor) -> tuple[Tensor, ...]:
        """Return views of a vector over all actions, a head each."""
        return torch.split(values, list(self._sizes.values()))

    def _attack_to_choose(self, threat: Threat) -> PGD:
        """Return the inner method's attack; raises BadInput if it cannot take these strategies."""
        traits = self.inner.traits()
        attack = traits.attack
        if attack is None or not traits.accepts_budget:
            raise BadInput(
                f"LAS chooses every image's attack, and {type(self.inner).__name__} leaves it nothing to choose: put it "
                "around AdversarialTraining, TRADES, or AWP around one of them; a method of your own must honour budgets "
                "and say so: Traits(attack=..., accepts_budget=True)."
            )
        if max(self._chosen_from.steps) > attack.steps:
            raise BadInput(
                f"The table of actions allows {max(self._chosen_from.steps)} steps, more than the {attack.steps} of the "
                "inner attack: raise its steps, or leave longer strategies out."
            )
        if self.actions.beta and not traits.accepts_weight:
            raise BadInput("A table of beta needs an inner method that has one: TRADES, or AWP around it.")
        if max(self._chosen_from.eps) >= threat.geometry.limit:
            raise BadInput(
                f"The table of radii holds {max(self._chosen_from.eps)}, the whole pixel range: write 8/255, not 8."
            )
        return attack


def _mean(value: Tensor) -> Tensor:
    """Return the mean over all images of all ranks, ()."""
    return ranks.total(value.mean()) / ranks.count()
