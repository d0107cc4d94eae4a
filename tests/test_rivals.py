"""Other libraries' attacks fool nobody, but for noise, whom our AutoAttack does not; and they are counted honestly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.evaluation import attacked
from benchmarks.evaluation.attacked import Cut, Training
from benchmarks.evaluation.parity import Question, Scale
from benchmarks.opponents.rivals import beside, fooled, rivals
from sparring.errors import BadInput
from sparring.threat import Ratio, Threat

COUNT = 40
LINF, L2 = Threat("Linf", "0.15"), Threat("L2", "0.5")


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    """About a network that was trained against PGD on digits, a part of which it still errs on under attack."""
    training = Training("digits", None, "pgd-at", Cut(Ratio("0.15"), images=1000, epochs=12))
    network = training.network(tmp_path_factory.mktemp("runs"))
    images = attacked.tested(training.experiment(), COUNT)
    return Question(network.eval(), images, LINF, COUNT, "cpu", 0, Scale())


def alone(found: dict[str, Any]) -> dict[str, int]:
    return {other["name"]: len(other["alone"]) for other in found["others"]}


@pytest.mark.slow
@pytest.mark.parametrize("threat", [LINF, L2], ids=["Linf", "L2"])
def test_no_attack_of_foolbox_or_art_beats_our_autoattack_by_more_than_noise(
    question: Question, threat: Threat
) -> None:
    """Noise is an image: what a seed makes of AutoAttack itself."""
    found = beside(replace(question, threat=threat))
    assert 0.2 < found["ours"] < found["clean"] - 0.1
    assert set(alone(found)) > set(rivals(threat.norm))
    assert max(alone(found).values()) <= 1
    assert all(other["accuracy"] >= found["ours"] - 1 / COUNT for other in found["others"])


def test_an_autoattack_that_hardly_searches_is_beaten(question: Question) -> None:
    found = beside(replace(question, threat=Threat("Linf", "0.25"), scale=Scale(steps=1, queries=1)))
    assert max(alone(found).values()) > 3


@pytest.mark.parametrize(
    "cheat",
    [
        lambda _, x, y: 1 - x,
        lambda _, x, y: x + 0.15001 * torch.ones_like(x),
        lambda _, x, y: (x - 0.1) * torch.ones_like(x),
    ],
    ids=["far away", "hardly outside", "below the box"],
)
def test_images_outside_the_ball_or_the_box_do_not_count(question: Question, cheat: Callable) -> None:
    assert not fooled(question, cheat).any()


def test_images_that_were_wrong_to_begin_with_do_not_count(question: Question) -> None:
    seen = []

    def lazy(_: Question, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return x

    assert not fooled(replace(question, batch_size=30), lazy).any()
    assert 0 < sum(seen) < COUNT


def test_in_l1_there_is_no_comparison() -> None:
    with pytest.raises(BadInput, match="The comparison with Foolbox and ART does not exist in L1: choose Linf or L2"):
        rivals("L1")
