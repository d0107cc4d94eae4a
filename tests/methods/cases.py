"""The table of the contract suite: every method and composition, how many forward passes a step of it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sparring.attacks import PGD
from sparring.memory import Kind
from sparring.methods import (
    AWP,
    BP,
    CAT,
    CKPT,
    DART,
    EP,
    FAT,
    GAIRAT,
    GAT,
    LAS,
    LBGAT,
    MART,
    MEP,
    NFGSM,
    SAT,
    SDI,
    TRADES,
    Actions,
    AdversarialTraining,
    Free,
    GradAlign,
    Method,
    NuAT,
    PolicyNetwork,
    Reward,
    Standard,
    Task,
)
from sparring.schedule import Constant


@dataclass(frozen=True)
class Case:
    """A method as the suite makes it, fresh every time."""

    make: Callable[[], Method]
    units: float  # forward passes a step, a backward to the pixels counting 1 and a full one 2
    remembers: bool = False  # whether a step depends on what earlier steps left behind
    norms: tuple[str, ...] = ("Linf", "L2", "L1")  # of the balls that it accepts
    later: float | None = None  # forward passes of the second step, where that is another figure
    width: int = 16  # of the ResNet-18 that the cost is measured on; 64 is the published one
    hardens: bool = False  # whether its examples grow harder with the epochs, so that the loss on them may rise
    radius: float | None = None  # of the largest perturbation that it may choose; None: the threat's
    reach: float = 1.0  # the same in radii of the threat


def _fgsm_rs() -> Method:
    return AdversarialTraining(PGD(steps=1, alpha=0.125, bn="train"))


def _pgd(steps: int = 3) -> Method:
    return AdversarialTraining(PGD(steps=steps, alpha=0.05, bn="train"))


def _trades(steps: int = 3) -> Method:
    return TRADES(beta=6.0, attack=PGD(steps=steps, alpha=0.05, start="normal"))


def released_mep(memory: Kind = "fp32") -> MEP:
    """The steps of the authors' code (card 3.3), emptied more often."""
    return MEP(
        weight=10.0,
        regulariser="mean",
        smoothing=0.4,
        initial="rademacher",
        reset=2,
        box="final",
        decay=0.3,
        momentum="gradient",
        aligned=False,
        memory=memory,
    )


# A strategy network like the target of the cost test: a forward of it costs 1, its update 3.
LIKE_THE_TARGET = PolicyNetwork(network="resnet18", width=16)
REWARD = Reward(other=PGD(steps=2))
ACTIONS = Actions(eps=("0.05", "0.1", "0.15"), steps=(1, 2, 3), alpha=("0.03", "0.05"))
LONGEST, OTHER = 2 * 3, 2 * 2  # forward passes of the attacks
REWARDED = (
    3 + LONGEST + 1 + OTHER + 2
)  # the policy's update, the attack, L1, the other attack, L2 and L3, but not the look-ahead
# The generator has one size: it costs 0.138 of a forward of the published ResNet-18, whatever the image's size.
GENERATOR = 0.1384


def _las(inner: Method, **switches: object) -> LAS:
    chosen = {"actions": ACTIONS, "policy_network": LIKE_THE_TARGET, "reward": REWARD, "interval": 2}
    return LAS(inner, **(chosen | switches))


def _at_in_evaluation_mode() -> AdversarialTraining:
    return AdversarialTraining(PGD(steps=3, bn="eval"), smoothing=0.1)


def _released_las() -> LAS:
    reward = Reward(measure="accuracy", l2_weight=4.0, l3_weight=2.0, other=PGD(steps=2, bn="train"), restarts=2)
    policy_network = PolicyNetwork(
        network="resnet18", width=16, optimizer="sgd", lr=1e-4, momentum=0.9, weight_decay=5e-4
    )
    switches = {
        "reward": reward,
        "policy_network": policy_network,
        "returns": "batch",
        "baseline": "none",
        "init_radius": "0.1",
    }
    return _las(_at_in_evaluation_mode(), **switches)


class _Advanced(CAT):
    """CAT that has come as far as its third level."""

    def setup(self, task: Task) -> None:
        super().setup(task)
        self.level = 3


# A gradient with respect to the pixels, and the derivatives of it: 2, and 4 through both of its passes. PyTorch's second
# derivative of strided convolutions takes 0.11 more than it needs.
TWICE = 2 + 4 + 0.11


def _mart(steps: int = 3) -> MART:
    return MART(PGD(steps=steps, alpha=0.05, start="normal"))


def _gairat(begin: str) -> GAIRAT:
    return GAIRAT(PGD(steps=3, alpha=0.05), begin=begin)


def _lbgat(beta: float) -> LBGAT:
    """A teacher like the target of the cost test: a whole pass of it costs 3."""
    return LBGAT(beta=beta, attack=PGD(steps=3, alpha=0.05, start="normal"), teacher="resnet18", teacher_width=16)


CASES = {
    "Standard": Case(Standard, 3),
    "PGD-3 as Rice et al. released it": Case(
        lambda: AdversarialTraining(PGD(steps=3, alpha=0.05, bn="train"), extra_forwards=True), 6 + 1 + 3 + 1
    ),
    "FGSM-AT": Case(lambda: AdversarialTraining(PGD(steps=1, alpha=0.1, start="zero", bn="train")), 5),
    "FGSM-RS": Case(_fgsm_rs, 5),
    "N-FGSM": Case(NFGSM, 5, reach=3),  # noise of two radii and a step of one
    "N-FGSM, no box": Case(lambda: NFGSM(noise=1.5, alpha=0.05, smoothing=0.1, box=False), 5, reach=2.5),
    "AWP(N-FGSM)": Case(lambda: AWP(NFGSM()), 8, reach=3),
    "PGD-3": Case(_pgd, 9),
    "PGD-3, eval, Bernoulli": Case(
        lambda: AdversarialTraining(PGD(steps=3, alpha=0.05, start="bernoulli", bn="eval"), smoothing=0.1), 9
    ),
    "PGD-3, margin, frozen statistics": Case(
        lambda: AdversarialTraining(PGD(steps=3, alpha=0.05, bn="train_frozen_stats", objective="margin")), 9
    ),
    "TRADES-3": Case(_trades, 13),
    "AWP(PGD-3)": Case(lambda: AWP(_pgd()), 12),
    "AWP(TRADES-3)": Case(lambda: AWP(_trades(), gamma=0.005), 19),
    "AWP, warming up": Case(lambda: AWP(_fgsm_rs(), warmup=1), 5),
    "BP": Case(BP, 7, remembers=True),
    "EP": Case(EP, 7, remembers=True),
    "EP, crop coordinates, no box": Case(lambda: EP(aligned=False, box="none"), 7, remembers=True),
    "MEP": Case(MEP, 7, remembers=True),
    "MEP as released": Case(released_mep, 7, remembers=True),
    "EP, fp16": Case(lambda: EP(memory="fp16"), 7, remembers=True),
    "MEP, int8": Case(lambda: MEP(memory="int8"), 7, remembers=True, norms=("Linf",)),
    "MEP, fp16 as released": Case(lambda: released_mep("fp16"), 7, remembers=True),
    "MEP, detached start": Case(lambda: MEP(detach_start=True), 5, remembers=True),
    "MEP, no regulariser": Case(lambda: MEP(weight=0.0, bn="train"), 5, remembers=True),
    "AWP(MEP)": Case(lambda: AWP(MEP()), 14, remembers=True),
    "AWP(BP)": Case(lambda: AWP(BP()), 14, remembers=True),
    "SDI": Case(lambda: SDI(interval=2), 7 + 4 + 4 * GENERATOR, remembers=True, later=7 + GENERATOR, width=64),
    "SDI as released, no box": Case(
        lambda: SDI(interval=2, smoothing=0.5, box=False),
        7 + 4 + 4 * GENERATOR,
        remembers=True,
        later=7 + GENERATOR,
        width=64,
    ),
    "SDI, gradient, m = 2": Case(
        lambda: SDI(inputs="gradient", iterations=2),
        7 + 8 + 7 * GENERATOR,
        remembers=True,
        later=7 + GENERATOR,
        width=64,
    ),
    "BP, no regulariser, from zero": Case(
        lambda: BP(alpha="0.12", weight=0.0, initial="zero", box="final", bn="train"), 5, remembers=True
    ),
    "CKPT": Case(CKPT, 7),
    "CKPT, one point": Case(lambda: CKPT(points=1, alpha="0.1", bn="train"), 5),
    "GradAlign": Case(GradAlign, 2 + 3 + TWICE),
    "Free": Case(lambda: Free(m=3), 9, remembers=True, hardens=True),
    "Free, first unclamped, no box": Case(lambda: Free(m=2, box="final"), 6, remembers=True, hardens=True),
    "AWP(GradAlign)": Case(lambda: AWP(GradAlign()), 2 + 2 * (3 + TWICE)),
    "GAT": Case(lambda: GAT(ramp=Constant()), 2 + 6, later=1 + 2 + 6),
    "NuAT": Case(lambda: NuAT(ramp=Constant()), 2 + 6, later=1 + 2 + 6),
    "NuAT2": Case(lambda: NuAT(steps=2, ramp=Constant()), 1 + 4 + 6),
    "MART-3": Case(_mart, 12),
    "MART-3, padded": Case(lambda: MART(PGD(steps=3, start="normal"), padding=True), 12),
    "AWP(MART-3)": Case(lambda: AWP(_mart(), gamma=0.005), 18),
    "GAIRAT-3": Case(lambda: _gairat("0"), 9),
    "GAIRAT-3, before it begins": Case(lambda: _gairat("1"), 9),
    "LBGAT-3": Case(lambda: _lbgat(6.0), 1 + 6 + 6 + 3, remembers=True),
    "LBGAT-3, no divergence": Case(lambda: _lbgat(0.0), 1 + 6 + 1 + 3 + 3, remembers=True),
    # Images that stop are masked here: cost does not depend on what the network makes of them.
    "FAT(PGD-3)": Case(lambda: FAT(_at_in_evaluation_mode()), 9, hardens=True),
    "FAT(TRADES-3)": Case(lambda: FAT(_trades(), milestones=("0", "1/2")), 13, hardens=True),
    "FAT(MART-3)": Case(lambda: FAT(_mart()), 12, hardens=True),
    "SAT(PGD-3)": Case(lambda: SAT(_at_in_evaluation_mode()), 9, hardens=True),
    "DART(PGD-3)": Case(lambda: DART(_at_in_evaluation_mode()), 9, hardens=True),
    "DART(PGD-3), from the start": Case(lambda: DART(_at_in_evaluation_mode(), origin="start"), 9, hardens=True),
    "AWP(FAT(PGD-3))": Case(lambda: AWP(FAT(_at_in_evaluation_mode())), 12, hardens=True),
    "CAT, not begun": Case(CAT, 3),
    # Four images a share take 0, 1, 2, 3 steps: half of 3 on average.
    "CAT": Case(_Advanced, 3 + 3),
    "LAS(FAT(AT))": Case(
        lambda: _las(FAT(_at_in_evaluation_mode())),
        REWARDED + 3 + 1 + LONGEST + 3,
        True,
        later=1 + LONGEST + 3,
        radius=0.15,
    ),
    "LAS(MART)": Case(
        lambda: _las(_mart(), actions=replace(ACTIONS, beta=(3.0, 5.0))),
        REWARDED + 6 + 1 + LONGEST + 6,
        remembers=True,
        later=1 + LONGEST + 6,
        radius=0.15,
    ),
    "LAS(AT)": Case(
        lambda: _las(_at_in_evaluation_mode()), REWARDED + 3 + 1 + LONGEST + 3, True, later=1 + LONGEST + 3, radius=0.15
    ),
    "LAS(AT), greedy": Case(
        lambda: _las(_at_in_evaluation_mode(), baseline="greedy", entropy_bonus=0.01),
        REWARDED + 3 + REWARDED + 1 + LONGEST + 3,
        remembers=True,
        later=1 + LONGEST + 3,
        radius=0.15,
    ),
    "LAS(AT) as released": Case(
        _released_las, REWARDED + 3 + OTHER + 2 + 1 + LONGEST + 3, True, later=1 + LONGEST + 3, radius=0.15
    ),
    "LAS(AT), uniform": Case(lambda: _las(_at_in_evaluation_mode(), policy="uniform"), LONGEST + 3, radius=0.15),
    "LAS(AT), fixed": Case(lambda: _las(_at_in_evaluation_mode(), policy="fixed"), 2 * 2 + 3, radius=0.15),
    "LAS(TRADES)": Case(
        lambda: _las(_trades(), actions=replace(ACTIONS, beta=(5.0, 7.0, 9.0))),
        REWARDED + 1 + 6 + 1 + 1 + LONGEST + 6,
        remembers=True,
        later=1 + 1 + LONGEST + 6,
        radius=0.15,
    ),
    "LAS(AWP(TRADES))": Case(
        lambda: _las(AWP(_trades()), clip_final=True),
        REWARDED + 1 + 12 + 1 + 1 + LONGEST + 12,
        remembers=True,
        later=1 + 1 + LONGEST + 12,
    ),
    "AWP(SDI)": Case(lambda: AWP(SDI(interval=2)), 7 + 3 + 4 + 4 * GENERATOR, True, later=7 + 3 + GENERATOR, width=64),
}
