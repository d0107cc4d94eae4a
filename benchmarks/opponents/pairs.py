"""Which method of ours runs against which research step: pairs with the same mathematics, in `race.py` and its test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.harness.methods import METHODS, PGD_10, PGD_10_EVAL
from benchmarks.harness.scene import CLASSES, PAD, THREAT, Scene
from benchmarks.opponents.match import Corner, Pair
from benchmarks.opponents.research.awp import ResearchAWP
from benchmarks.opponents.research.cat import ResearchCAT
from benchmarks.opponents.research.empirical import ResearchPGD, ResearchStandard
from benchmarks.opponents.research.free import ResearchFree
from benchmarks.opponents.research.friendly import ResearchFAT
from benchmarks.opponents.research.gradalign import ResearchGradAlign
from benchmarks.opponents.research.guided import ResearchGAT, ResearchNuAT
from benchmarks.opponents.research.habits import Script
from benchmarks.opponents.research.las import ResearchLAS
from benchmarks.opponents.research.lbgat import ResearchLBGAT
from benchmarks.opponents.research.masked import ResearchDART, ResearchGAIRAT, ResearchSAT
from benchmarks.opponents.research.noise import ResearchCKPT, ResearchNFGSM
from benchmarks.opponents.research.prior import ResearchBP, ResearchEP, ResearchMEP
from benchmarks.opponents.research.sdi import ResearchSDI
from benchmarks.opponents.research.trades import ResearchMART, ResearchTRADES
from sparring.attacks import PGD
from sparring.losses import smoothing_from_kept
from sparring.methods import (
    BP,
    CKPT,
    EP,
    FAT,
    GAIRAT,
    GAT,
    LAS,
    LBGAT,
    MART,
    MEP,
    SDI,
    AdversarialTraining,
    Free,
    Method,
    NuAT,
    PolicyNetwork,
    Reward,
)
from sparring.schedule import Constant
from sparring.threat import Ratio

STEPS, ALPHA, FAR = 10, Ratio("2/255"), Ratio("10/255")  # of PGD; FAR is FGSM-RS's step size
NEVER_AGAIN = 1_000_000_000  # an interval of which only the first step, which warms up, is reached
# As in the released code of FGSM-MEP.
RELEASED = {
    "weight": 10.0,
    "regulariser": "mean",
    "smoothing": smoothing_from_kept(0.6, CLASSES),
    "initial": "rademacher",
    "reset": 40,
    "box": "final",
}


def _prior(corner: Corner, script: Callable[..., Script], **more: object) -> Script:
    """Return a script of FGSM-PGI, which has the whole training set."""
    images, device = corner.scene.images(), next(corner.network.parameters()).device
    pixels = (images.pixels.to(torch.float32) / 255).to(device, torch.get_default_dtype())
    return corner.script(script, pixels, images.labels.to(device), PAD, CLASSES, **more)


def _bp(corner: Corner) -> Script:
    side = _prior(corner, ResearchBP, batch_size=corner.scene.batch)
    assert isinstance(side, ResearchBP)
    assert isinstance(corner.method, BP)
    side.last_delta.copy_(corner.method.buffer)
    return side


def _per_sample(script: type[ResearchEP], corner: Corner) -> Script:
    side = _prior(corner, script)
    assert isinstance(side, ResearchEP)
    assert isinstance(corner.method, EP | MEP)
    side.all_delta.copy_(corner.method.perturbations.rows)
    return side


def _our_sdi(interval: int, _: Scene) -> Method:
    """Return the method as released."""
    return SDI(interval=interval, smoothing=smoothing_from_kept(0.5, CLASSES), box=False)


def _sdi(corner: Corner) -> Script:
    ours = corner.method
    assert isinstance(ours, SDI)
    generator = copy.deepcopy(ours.generator)
    optimizer = torch.optim.Adam(generator.parameters(), lr=ours.lr, weight_decay=ours.weight_decay)
    return corner.script(ResearchSDI, generator, optimizer, CLASSES, interval=ours.interval)


def _our_las(interval: int, scene: Scene) -> Method:
    """Return the method as released; the policy's network is the target's."""
    return LAS(
        AdversarialTraining(PGD(steps=14, bn="eval"), smoothing=smoothing_from_kept(0.7, CLASSES)),
        policy_network=PolicyNetwork(scene.model, scene.width, optimizer="sgd", lr=1e-4),
        reward=Reward(measure="accuracy", l2_weight=4, l3_weight=2, other=PGD_10, restarts=2),
        interval=interval,
        returns="batch",
        baseline="none",
        init_radius=THREAT.eps,
    )


def _las(corner: Corner) -> Script:
    ours = corner.method
    assert isinstance(ours, LAS)
    policy = copy.deepcopy(ours.network)
    optimizer = torch.optim.SGD(policy.parameters(), lr=ours.policy_network.lr)
    tables = {head: [float(value) for value in getattr(ours.actions, head)] for head in ours.actions.sizes}
    return corner.script(ResearchLAS, policy, optimizer, tables, CLASSES, interval=ours.interval)


def _our_fat(_: Scene) -> Method:
    """Return the method in the last stage of its schedule: with tau = 2 from the first epoch on."""
    return FAT(AdversarialTraining(PGD_10_EVAL), milestones=(Ratio(0), Ratio(0)))


def _lbgat(corner: Corner) -> Script:
    assert isinstance(corner.method, LBGAT)
    teacher = copy.deepcopy(corner.method.network)
    return corner.script(
        ResearchLBGAT, float(ALPHA), STEPS, teacher=teacher, teacher_optimizer=corner.scene.optimizer(teacher)
    )


def _free(corner: Corner) -> Script:
    assert isinstance(corner.method, Free)
    return corner.script(ResearchFree, delta=corner.method.buffer.clone(), replays=corner.method.m)


def _ours(name: str) -> Callable[[Scene], Method]:
    """Return the method as in the table of methods."""
    return lambda _: METHODS[name].make()


PAIRS = {
    "standard": Pair(_ours("standard"), lambda it: it.script(ResearchStandard)),
    "fgsm-at": Pair(
        _ours("fgsm-at"),
        lambda it: it.script(ResearchPGD, float(THREAT.eps), 1, "zero"),
    ),
    "fgsm-rs": Pair(_ours("fgsm-rs"), lambda it: it.script(ResearchPGD, float(FAR), 1)),
    "pgd-10": Pair(_ours("pgd-10"), lambda it: it.script(ResearchPGD, float(ALPHA), STEPS)),
    "trades-10": Pair(_ours("trades-10"), lambda it: it.script(ResearchTRADES, float(ALPHA), STEPS)),
    "awp(pgd-10)": Pair(_ours("awp(pgd-10)"), lambda it: it.script(ResearchAWP, float(ALPHA), STEPS)),
    "mart-10": Pair(lambda _: MART(padding=True), lambda it: it.script(ResearchMART, float(ALPHA), STEPS)),
    "bp": Pair(lambda _: BP(**RELEASED), _bp),
    "ep": Pair(lambda _: EP(**RELEASED, aligned=False), partial(_per_sample, ResearchEP)),
    "mep": Pair(
        lambda _: MEP(**RELEASED, decay=0.3, momentum="gradient", aligned=False), partial(_per_sample, ResearchMEP)
    ),
    "sdi": Pair(partial(_our_sdi, NEVER_AGAIN), _sdi),
    "sdi-update": Pair(partial(_our_sdi, 1), _sdi),
    "las": Pair(partial(_our_las, NEVER_AGAIN), _las),
    "las-update": Pair(partial(_our_las, 1), _las),
    "free-8": Pair(lambda _: Free(m=8, box="final"), _free),
    "gat": Pair(lambda _: GAT(clean_bn="eval"), lambda it: it.script(ResearchGAT, 10.0)),
    "nuat": Pair(lambda _: NuAT(ramp=Constant(), clean_bn="eval"), lambda it: it.script(ResearchNuAT, 4.5)),
    "gradalign": Pair(_ours("gradalign"), lambda it: it.script(ResearchGradAlign)),
    "fat-10": Pair(_our_fat, lambda it: it.script(ResearchFAT, float(ALPHA), STEPS, 2)),
    "sat-10": Pair(_ours("sat-10"), lambda it: it.script(ResearchSAT, float(ALPHA), STEPS, 0.0)),
    "dart-10": Pair(_ours("dart-10"), lambda it: it.script(ResearchDART, float(ALPHA), STEPS, 0.5)),
    # Two images a share, and a rest of two.
    "cat-7": Pair(_ours("cat-7"), lambda it: it.script(ResearchCAT, 7), batch=18),
    "gairat-10": Pair(
        lambda _: GAIRAT(PGD(steps=STEPS, alpha=ALPHA), begin="0"),
        lambda it: it.script(ResearchGAIRAT, float(ALPHA), STEPS, -1.0),
    ),
    "lbgat": Pair(lambda scene: LBGAT(teacher=scene.model, teacher_width=scene.width), _lbgat),
    "n-fgsm": Pair(_ours("n-fgsm"), lambda it: it.script(ResearchNFGSM, 2.0)),
    "ckpt": Pair(lambda _: CKPT(alpha=FAR), lambda it: it.script(ResearchCKPT, float(FAR), 3)),
}
