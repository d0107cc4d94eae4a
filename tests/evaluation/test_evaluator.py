"""The figures of an evaluation: what counts as robust, and what they must not depend on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from sparring.attacks import CW, FGSM, PGD, SearchAttack, SearchState, initial_fields
from sparring.data import Data, Images, load
from sparring.errors import BadInput
from sparring.evaluation import Evaluator, Outcome, Outcomes, naming
from sparring.models import create
from sparring.threat import Threat

COUNT = 100
LINF = Threat("Linf", 0.06)
ATTACKS = ["clean", "fgsm", "pgd-2", "cw-3", "pgd-2-3"]


@pytest.fixture(scope="module")
def images() -> Images:
    """A hundred digits; every tenth has a wrong label, so that the network below is wrong about it."""
    images = load(Data(limit=COUNT, validation=0)).train
    return replace(images, labels=(images.labels + (images.index % 10 == 0)) % 10)


@pytest.fixture(scope="module")
def model(images: Images) -> nn.Module:
    """A network that knows the digits and is far from robust."""
    torch.manual_seed(0)
    network = create("smallconv", 10, channels=1, size=8, width=4).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    known = images.index % 10 != 0
    x, y = images.pixels[known] / 255, images.labels[known]
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return network.eval()


@pytest.fixture(scope="module")
def evaluation(model: nn.Module, images: Images) -> Outcomes:
    return Evaluator(model, images, LINF).run(ATTACKS)


def flags(evaluation: Outcomes) -> dict[str, list[bool]]:
    return {outcome.attack: outcome.correct.tolist() for outcome in evaluation.outcomes}


def test_the_network_of_these_tests_is_partly_right_and_partly_robust(evaluation: Outcomes) -> None:
    assert 0.7 < evaluation.accuracy("clean") < 1
    assert all(0.1 < evaluation.accuracy(name) < evaluation.accuracy("clean") for name in ATTACKS[1:])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_no_figure_depends_on_the_batch_size(size: int, model, images, evaluation) -> None:
    assert flags(Evaluator(model, images, LINF, batch_size=size).run(ATTACKS)) == flags(evaluation)


def test_no_figure_depends_on_the_other_attacks(model, images, evaluation) -> None:
    for chosen in (["pgd-2"], ["pgd-2-3", "clean"], list(reversed(ATTACKS))):
        found = flags(Evaluator(model, images, LINF).run(chosen))
        assert list(found) == chosen
        assert found == {name: flags(evaluation)[name] for name in chosen}


def test_the_seed_decides_the_starts_and_nothing_else_does(model, images) -> None:
    def run(seed: int) -> dict[str, list[bool]]:
        return flags(Evaluator(model, images, LINF, seed=seed).run(["clean", "fgsm", "pgd-1", "pgd-1-2"]))

    one = run(0)
    torch.manual_seed(99)
    assert run(0) == one
    other = run(1)
    assert (other["clean"], other["fgsm"]) == (one["clean"], one["fgsm"])
    assert other["pgd-1"] != one["pgd-1"]
    assert other["pgd-1-2"] != one["pgd-1-2"]


@dataclass(frozen=True)
class Spy(SearchAttack):
    """Does nothing, and notes what it was given."""

    seen: list[tuple[list[int], int, int, Tensor, Tensor]] = field(default_factory=list)

    @property
    def max_steps(self) -> int:
        return 1

    def init(self, x, y, clean, attempt, streams, threat) -> SearchState:
        self.seen.append((streams.index.tolist(), streams.seed, streams.stage, x, y))
        return SearchState(**initial_fields(x, y, x))

    def step(self, counted, state, threat) -> SearchState:
        return state

    def describe(self, threat):
        return {"steps": 7}


def test_images_that_are_wrong_anyway_are_not_attacked_and_count_as_wrong(
    model, images, evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    monkeypatch.setattr(naming, "named", lambda name: spy)
    found = Evaluator(model, images, LINF, batch_size=16).run(["spy"])
    right = evaluation.outcomes[0].correct.nonzero()[:, 0]
    assert [index for seen in spy.seen for index in seen[0]] == right.tolist()
    torch.testing.assert_close(torch.cat([seen[3] for seen in spy.seen]), images.pixels[right] / 255)
    assert torch.equal(torch.cat([seen[4] for seen in spy.seen]), images.labels[right])
    assert found.outcomes[0].correct.tolist() == flags(evaluation)["clean"]
    assert found.outcomes[0].settings == {"steps": 7}


def test_every_attack_and_every_seed_has_streams_of_its_own(model, images, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for seed in (0, 1):
        for name in ("pgd-20", "pgd-50", "pgd-02"):
            spy = Spy()
            monkeypatch.setattr(naming, "named", lambda name, spy=spy: spy)
            Evaluator(model, images, LINF, batch_size=16, seed=seed).run([name])
            assert len({(seen[1], seen[2]) for seen in spy.seen}) == 1  # the same for all batches
            seeds.append(spy.seen[0][1])
    assert len(set(seeds)) == 6


class Window(nn.Module):
    """One pixel; wrong only where it lies in (0.56, 0.64), although the loss keeps growing beyond."""

    def forward(self, x: Tensor) -> Tensor:
        pixel = x[:, 0, 0, 0]
        outside = ((pixel < 0.56) | (pixel > 0.64)).to(x.dtype)  # without a gradient
        return torch.stack([10 * outside - pixel, torch.zeros_like(pixel)], 1)


def test_an_image_that_fails_at_an_earlier_iterate_is_not_robust() -> None:
    """Steps of 0.05 from somewhere below 0.56 visit the window and leave it again."""
    pixels = torch.tensor([115, 160], dtype=torch.uint8).view(2, 1, 1, 1)  # 0.45 and 0.63
    images = Images(pixels, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    found = Evaluator(Window(), images, Threat("Linf", 0.2)).run(["clean", "pgd-20", "fgsm"])
    assert flags(found) == {"clean": [True, False], "pgd-20": [False, False], "fgsm": [True, False]}


def test_the_worst_case_is_over_each_image_and_at_most_every_accuracy(evaluation: Outcomes) -> None:
    together = [all(column) for column in zip(*flags(evaluation).values(), strict=True)]
    assert evaluation.worst == pytest.approx(sum(together) / COUNT)
    assert evaluation.worst <= min(outcome.accuracy for outcome in evaluation.outcomes)

    outcomes = [Outcome(name, torch.tensor(correct), 0.0, {}) for name, correct in _complementary().items()]
    assert Outcomes(tuple(outcomes)).worst == 0.25


def _complementary() -> dict[str, list[bool]]:
    return {"one": [True, True, False, True], "other": [True, False, True, False]}


def test_an_accuracy_is_the_fraction_of_correct_images_and_is_found_by_name() -> None:
    outcomes = [Outcome(name, torch.tensor(correct), 0.0, {}) for name, correct in _complementary().items()]
    found = Outcomes(tuple(outcomes))
    assert (found.accuracy("one"), found.accuracy("other")) == (0.75, 0.5)
    with pytest.raises(BadInput, match="was not run: there are"):
        found.accuracy("pgd-20")


class Untouchable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("computed something")


def test_an_unknown_attack_is_refused_before_anything_is_computed(images: Images) -> None:
    with pytest.raises(BadInput, match="did you mean 'pgd-20'"):
        Evaluator(Untouchable(), images, LINF).run(["clean", "pgd-10", "pgd20"])


def test_the_record_s_settings_are_the_attacks(evaluation: Outcomes) -> None:
    assert [outcome.settings.get("restarts") for outcome in evaluation.outcomes] == [None, 1, 1, 1, 3]
    assert evaluation.outcomes[0].settings == {}
    assert evaluation.outcomes[2].settings["alpha"] == "3/200"
    assert all(outcome.seconds >= 0 for outcome in evaluation.outcomes)


def own_attack(model, x, y, threat):
    return x


@pytest.mark.parametrize(
    ("attacks", "name"),
    [
        (["fgsm", "clean", "fgsm"], "fgsm"),
        ("clean,pgd-20, clean", "clean"),
        ([PGD(steps=3), PGD(steps=3)], r"PGD\(steps=3, .*\)"),
        ([own_attack, own_attack], "own_attack"),
    ],
)
def test_an_attack_that_is_given_twice_is_refused(model, images, attacks, name: str) -> None:
    with pytest.raises(BadInput, match=rf"^{name} is given twice"):
        Evaluator(model, images, LINF).run(attacks)


def test_progress_is_told_in_growing_fractions_up_to_the_whole(model, images) -> None:
    told: dict[str, list[float]] = {}
    Evaluator(model, images, LINF, batch_size=16).run(
        ["clean", "fgsm", "pgd-3"], lambda attack, done: told.setdefault(attack, []).append(done)
    )
    assert list(told) == ["clean", "fgsm", "pgd-3"]
    for fractions in told.values():
        assert fractions == sorted(fractions)
        assert len(fractions) > 3
        assert 0 < fractions[0] < 0.5
        assert fractions[-1] == 1


def test_a_network_that_is_always_wrong_has_no_accuracy(model, images) -> None:
    wrong = replace(images, labels=(images.labels + 10))
    found = Evaluator(model, wrong, LINF).run(["clean", "pgd-2"])
    assert flags(found) == {"clean": [False] * COUNT, "pgd-2": [False] * COUNT}
    assert found.worst == 0


def test_the_network_is_evaluated_in_eval_mode_and_left_as_it_was(model, images, evaluation) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    modes = [True for _ in model.modules()]
    try:
        assert flags(Evaluator(model, images, LINF).run(ATTACKS)) == flags(evaluation)
        assert [module.training for module in model.modules()] == modes
    finally:
        model.eval()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_part_of_a_split_gives_the_figures_of_these_images(model, images, evaluation) -> None:
    """An image keeps its index, and with it its noise."""
    rows = torch.tensor([90, 3, 41, 55, 8])
    found = flags(Evaluator(model, images.subset(rows), LINF).run(ATTACKS))
    assert found == {name: [correct[row] for row in rows] for name, correct in flags(evaluation).items()}


UNDER = [PGD(steps=1, alpha=0.06), PGD(steps=3, alpha=0.02, bn="eval"), CW(steps=2)]


def test_attacks_that_have_no_name_are_called_by_their_numbers(model, images, evaluation) -> None:
    found = Evaluator(model, images, LINF).under(UNDER)
    assert [outcome.attack for outcome in found.outcomes] == ["clean", "1", "2", "3"]
    assert [outcome.settings.get("steps") for outcome in found.outcomes] == [None, 1, 3, 2]
    assert flags(found)["clean"] == flags(evaluation)["clean"]
    assert all(0.1 < found.accuracy(name) < found.accuracy("clean") for name in ("1", "2", "3"))
    together = [all(column) for column in zip(*flags(found).values(), strict=True)]
    assert found.worst == sum(together) / COUNT < min(found.accuracy(name) for name in ("clean", "1", "2", "3"))


def test_under_no_attack_the_clean_images_are_left(model, images, evaluation) -> None:
    found = Evaluator(model, images, LINF).under([])
    assert flags(found) == {"clean": flags(evaluation)["clean"]}
    assert found.worst == evaluation.accuracy("clean")


def test_an_attack_finds_the_same_by_its_number_as_by_its_name_where_it_draws_nothing(
    model, images, evaluation
) -> None:
    assert flags(Evaluator(model, images, LINF).under([FGSM()]))["1"] == flags(evaluation)["fgsm"]


def test_the_figures_of_numbered_attacks_depend_on_the_seed_and_on_nothing_else(model, images) -> None:
    """On the numbers of the others neither: the first is the same whatever follows."""
    found = flags(Evaluator(model, images, LINF).under(UNDER))
    torch.manual_seed(99)
    assert flags(Evaluator(model, images, LINF, batch_size=7).under(UNDER)) == found
    assert flags(Evaluator(model, images, LINF).under(UNDER[:1])) == {name: found[name] for name in ("clean", "1")}
    others = [flags(Evaluator(model, images, LINF, seed=seed).under(UNDER))["1"] for seed in (1, 2, 3)]
    assert any(other != found["1"] for other in others)


def test_an_attack_that_needs_more_classes_is_refused_before_the_others_are_run(images) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2]

    told: list[str] = []
    with pytest.raises(BadInput, match="DLR needs 3 classes, the model knows 2"):
        Evaluator(Two(), images, LINF).run(["clean", "pgd-2", "apgd-dlr"], lambda attack, done: told.append(attack))
    assert set(told) == {"clean"}
