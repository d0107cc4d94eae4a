"""Our steps do what the usual research steps do, so that `benchmarks/speed/race.py` compares equal with equal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.harness.ours import double_precision
from benchmarks.harness.scene import Scene
from benchmarks.opponents.match import TOLERANCE, OurDraws, Pair, apart, difference, together
from benchmarks.opponents.pairs import PAIRS
from benchmarks.opponents.research.habits import Draws, into_box
from benchmarks.opponents.research.prior import ResearchBP, ResearchEP, ResearchMEP
from benchmarks.speed import ceilings, cost, race
from sparring.attacks import PGD
from sparring.methods import FAT, AdversarialTraining, Method

SCENE = Scene(width=4, batch=8, size=16, accelerator="cpu")


@pytest.fixture
def in_double() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_a_method_is_its_research_step(pair: Pair) -> None:
    assert difference(pair, SCENE) < TOLERANCE


def otherwise(name: str, **settings: object) -> Pair:
    """A pair whose research step has other settings."""
    pair = PAIRS[name]

    def theirs(corner):
        script = pair.theirs(corner)
        for setting, value in settings.items():
            assert getattr(script, setting) != value
            setattr(script, setting, value)
        return script

    return replace(pair, theirs=theirs)


OTHERWISE = [
    ("fgsm-at", {"start": "uniform"}),
    ("fgsm-at", {"eps": 7.9 / 255}),
    ("fgsm-rs", {"alpha": 9.9 / 255}),
    ("pgd-10", {"steps": 9}),
    ("trades-10", {"beta": 5.9}),
    ("trades-10", {"alpha": 2.1 / 255}),
    ("awp(pgd-10)", {"gamma": 0.011}),
    ("mart-10", {"beta": 5.1}),
    ("bp", {"kept": 0.61}),
    ("ep", {"weight": 9.9}),
    ("mep", {"kept": 0.61}),
    ("sdi", {"kept": 0.51}),
    ("sdi", {"interval": 5}),
    ("las", {"kept": 0.71}),
    ("free-8", {"replays": 7}),
    ("gat", {"weight": 9.9}),
    ("gat", {"batches": 1}),
    ("nuat", {"weight": 4.4}),
    ("gradalign", {"weight": 0.21}),
    ("fat-10", {"tau": 1}),
    ("cat-7", {"level": 6}),
    ("cat-7", {"eps": 7.9 / 255}),
]


@pytest.mark.parametrize(("name", "settings"), OTHERWISE, ids=str)
def test_another_step_is_noticed(name: str, settings: dict[str, object]) -> None:
    assert difference(otherwise(name, **settings), SCENE) > 1e-4


def test_friendly_training_is_its_research_step_where_images_stop_at_once() -> None:
    pair = otherwise("fat-10", tau=0)
    early = Pair(lambda _: FAT(AdversarialTraining(PGD(bn="eval"))), pair.theirs)
    assert difference(early, SCENE) < TOLERANCE


def test_another_optimizer_is_noticed() -> None:
    def theirs(corner):
        corner.optimizer.param_groups[0]["weight_decay"] = 4.9e-4
        return PAIRS["standard"].theirs(corner)

    assert difference(Pair(PAIRS["standard"].ours, theirs), SCENE) > 1e-7


def test_a_difference_is_relative_to_the_way_and_finds_what_stood_still() -> None:
    def layer(weight: float, bias: float) -> nn.Module:
        found = nn.Linear(1, 1)
        nn.init.constant_(found.weight, weight)
        nn.init.constant_(found.bias, bias)
        return found

    before = layer(1, 1)
    assert apart(layer(2, 3), layer(2, 3), before) == 0
    assert apart(layer(2, 3.5), layer(2, 3), before) == pytest.approx(0.25)
    assert apart(layer(2, 1.5), layer(2, 1), before) == torch.inf
    assert torch.tensor(apart(layer(2, torch.nan), layer(2, 3), before)).isnan()


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_the_check_of_a_pair_moves_all_of_the_network(pair: Pair, in_double: None) -> None:
    ours, _ = together(pair, replace(SCENE, batch=pair.batch), steps=1)
    before = SCENE.network().state_dict()
    stood = {name for name, tensor in ours.learner.network.state_dict().items() if torch.equal(tensor, before[name])}
    assert stood == {"mean", "std"}


def both_memories(pair: Pair) -> list[tuple[Tensor, Tensor]]:
    """What is remembered after the check's steps, ours and theirs."""
    ours, rival = together(pair, SCENE)
    method, script = ours.method, rival.script
    if isinstance(script, ResearchBP):
        return [(method.buffer, script.last_delta)]
    if isinstance(script, ResearchMEP):
        return [(method.momenta.rows, script.all_momentum), (method.perturbations.rows, script.all_delta)]
    if isinstance(script, ResearchEP):
        return [(method.perturbations.rows, script.all_delta)]
    return [(method.buffer, script.delta.detach())]


@pytest.mark.parametrize("name", ["bp", "ep", "mep", "free-8"])
def test_both_sides_remember_the_same(name: str, in_double: None) -> None:
    for ours, theirs in both_memories(PAIRS[name]):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-14)


def test_another_momentum_is_noticed(in_double: None) -> None:
    for ours, theirs in both_memories(otherwise("mep", decay=0.9)):
        assert not torch.allclose(ours, theirs, rtol=1e-2)


def test_both_sides_train_the_generator_alike(in_double: None) -> None:
    start, _ = together(PAIRS["sdi-update"], SCENE, steps=0)
    ours, rival = together(PAIRS["sdi-update"], SCENE, steps=3)
    assert apart(ours.method.generator, rival.script.generator, start.method.generator) < TOLERANCE


def policies_apart(**settings: object) -> float:
    """After some updates, unclipped: a clipped gradient does not show how large the reward was."""
    pair = otherwise("las-update", clip=1e9, **settings)

    def unclipped(scene: Scene) -> Method:
        method = pair.ours(scene)
        method.policy_network = replace(method.policy_network, clip=1e9)
        return method

    start, _ = together(Pair(unclipped, pair.theirs), SCENE, steps=0)
    ours, rival = together(Pair(unclipped, pair.theirs), SCENE, steps=3)
    return apart(ours.method.network, rival.script.policy, start.method.network)


def test_both_sides_train_the_policy_alike(in_double: None) -> None:
    assert policies_apart() < TOLERANCE


@pytest.mark.parametrize("weights", [(4.0, 2.1), (4.1, 2.0)], ids=["clean", "robust"])
def test_another_reward_is_noticed_by_the_policy(weights: tuple[float, float], in_double: None) -> None:
    assert policies_apart(weights=weights) > 1e-4


def test_the_released_initial_prior_is_the_radius_with_random_signs() -> None:
    _, rival = together(PAIRS["ep"], SCENE, steps=0)
    noise = rival.script.noise(torch.zeros(64, 3, 8, 8))
    assert torch.equal(noise.abs(), torch.full_like(noise, 8 / 255))
    assert abs(noise.sign().mean()) < 0.05


@pytest.mark.parametrize("draws", [Draws(), OurDraws()], ids=["theirs", "ours"])
def test_both_sides_draw_from_the_same_distributions(draws: Draws) -> None:
    torch.manual_seed(0)
    like = torch.zeros(100, 3, 16, 16)
    uniform, normal, signs = draws.uniform(like, 0.5), draws.normal(like, 0.1), draws.signs(like, 0.25)
    assert uniform.abs().max() <= 0.5
    assert uniform.std() == pytest.approx(1 / 12**0.5, rel=0.02)
    assert normal.std() == pytest.approx(0.1, rel=0.02)
    assert signs.abs().unique().tolist() == [0.25]
    for drawn in (uniform, normal, signs):
        assert abs(drawn.mean()) < 0.01
    fractions = torch.tensor(draws.fractions(like, 20_000))
    assert fractions.min() >= 0
    assert fractions.max() < 1
    torch.testing.assert_close(fractions.sort().values, torch.linspace(0, 1, 20_000), rtol=0, atol=0.02)
    scores = torch.tensor([0.1, 0.2, 0.7]).log().expand(20_000, 3) + 2  # not normalised
    shares = draws.actions(scores).bincount() / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.7]), rtol=0, atol=0.02)


def test_into_the_box_is_what_is_left_of_a_perturbation() -> None:
    x, delta = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([-0.25, 0.25, 0.25])
    assert into_box(x, delta).tolist() == [0, 0.25, 0]


TINY = ["--width", "8", "--size", "8", "--batch", "6", "--device", "cpu"]


def test_the_race_compares_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "race.json"
    words = [*TINY, "--pairs", "2", "--methods", "mep", "las", "--variants", "channels-last", "--json", str(file)]
    assert race.main(words) == 0
    record = json.loads(file.read_text())
    assert record["benchmark"] == "race"
    assert [found["method"] for found in record["against_research"]] == ["mep", "las"]
    for found in record["against_research"]:
        assert found["difference"] < TOLERANCE
        assert len(found["research"]) == 2
        assert {name: len(times) for name, times in found["ours"].items()} == {"fp32": 2, "channels-last": 2}
    assert str(tmp_path) not in file.read_text()
    assert "research ms" in capsys.readouterr().out


def test_unequal_sides_are_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(race.PAIRS, "mep", otherwise("mep", weight=9.0))
    monkeypatch.setattr(race.timing, "seconds", None)
    assert race.main([*TINY, "--methods", "mep"]) == 1
    assert "differ" in capsys.readouterr().err


@pytest.mark.parametrize("script", [race, cost])
def test_bad_input_is_one_sentence(script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "measure", lambda device: pytest.fail("minutes of measuring began"))
    assert script.main(["--model", "resnet19", "--methods", "standard", "--device", "cpu"]) == 2
    assert "did you mean 'resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "option"), [(race, "pairs"), (race, "batch"), (cost, "steps")])
def test_counts_below_one_are_refused(script, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main([f"--{option}", "0", "--methods", "standard", "--device", "cpu"])
    assert f"--{option} must be at least 1, not 0" in capsys.readouterr().err


def test_the_script_measures_methods_and_records(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        ceilings, "SIDE", {"cpu": 64}
    )  # 16 bits take minutes on processors without instructions for them
    file = tmp_path / "speed.json"
    assert cost.main([*TINY, "--steps", "2", "--methods", "standard", "mep", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert [(row["method"], len(row["seconds"])) for row in record["methods"]] == [("standard", 2), ("mep", 2)]
    assert str(tmp_path) not in file.read_text()
    assert "forwards" in capsys.readouterr().out
