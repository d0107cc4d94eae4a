"""CAT against a transcription of its card, in float64; its curriculum with a made-up evaluator, and in real runs."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sparring.attacks import PGD, Attack
from sparring.averaging import EMA
from sparring.data import load
from sparring.errors import BadInput
from sparring.evaluation import Evaluator
from sparring.experiment import train
from sparring.methods import AWP, CAT, LAS, Method, Review
from sparring.optimisation import Optimisation
from sparring.threat import Budget
from sparring.training import Interrupted, Run
from sparring.training.progress import Silent
from tests.methods import harness
from tests.methods.harness import train_on
from tests.methods.reference import (
    EPS,
    Plain,
    assert_same,
    batches,
    learner,
    linf_pgd,
    network,
    set_up,
    smoothed_cross_entropy,
    uniform,
)
from tests.training.runs import Interrupts, experiment, final_state, same


def at_level(level: int, **options: object) -> CAT:
    method = set_up(CAT(**({"steps": max(level, 7)} | options)))
    method.level = level
    return method


# The step --------------------------------------------------------------------------------------------------------------


def shares(level: int, size: int) -> list[slice]:
    """Of level + 1 equal shares, the last of which takes the rest, all but the first."""
    ends = [j * (size // (level + 1)) for j in range(1, level + 1)] + [size]
    return [slice(begin, end) for begin, end in pairwise(ends)]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    ("level", "bn"),
    [*((level, "train") for level in (0, 1, 2, 3, 20)), (3, "eval"), (11, "eval"), (2, "train_frozen_stats")],
)
def test_cat_steps_as_its_card_says(level: int, bn) -> None:
    """Share j after j steps of (2 eps / j) u, u from U(1, 10 / j) once a share, each share a batch of its own; then CE.

    Sixteen images: 5, 5 and 6 at level 2; one each and five at level 11; all of them in the last share at level 20.
    """
    method, subject, plain = at_level(level, bn=bn), learner(), Plain()
    for step, batch in enumerate(batches()[:3]):
        torch.manual_seed(step)
        loss = train_on(method, subject, batch).loss

        torch.manual_seed(step)
        u = torch.rand(level + 1)
        x_adv = batch.x.clone()
        for j, share in enumerate(shares(level, len(batch.y)), start=1):
            x, y = batch.x[share], batch.y[share]
            if len(x) > 0:
                start = uniform(x, EPS)
                alpha = 2 * EPS / j * ((1 - u[j]) * 1 + u[j] * 10 / j)
                with plain.mode(bn):
                    x_adv[share] = linf_pgd(
                        plain.network, x, start, lambda z, y=y: smoothed_cross_entropy(z, y).sum(), EPS, alpha, j
                    )
        logits = plain.network(x_adv)
        expected = smoothed_cross_entropy(logits, batch.y).mean()
        plain.descend(plain.gradients(expected))
        torch.testing.assert_close(loss.total, expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(loss.logits, logits, rtol=0, atol=1e-10)
    assert_same(subject, plain)


@pytest.mark.parametrize(("level", "size", "lengths"), [(2, 16, [5, 6]), (3, 16, [4, 4, 4]), (7, 10, [1] * 6 + [3])])
def test_the_shares_of_these_tests(level: int, size: int, lengths: list[int]) -> None:
    assert [share.stop - share.start for share in shares(level, size)] == lengths
    assert shares(level, size)[-1].stop == size


def test_only_the_first_share_is_left_as_it_is() -> None:
    for level, untouched in ((0, 16), (1, 8), (2, 5), (3, 4), (7, 2)):
        delta = at_level(level).perturb(network().float(), harness.batches()[0]).delta
        assert (delta.abs().amax((1, 2, 3)) > 0).tolist() == [False] * untouched + [True] * (16 - untouched)


def test_a_budget_replaces_the_radius_only() -> None:
    batch = harness.batches()[0]
    radius = torch.linspace(0.01, 0.2, len(batch.y))
    torch.manual_seed(0)
    found = at_level(3).perturb(network().float(), batch, budget=Budget(radius, 0.1, 1)).delta
    size = found.abs().amax((1, 2, 3))
    torch.testing.assert_close(size[4:], radius[4:])  # the steps of at least 2 eps / j add up to 2 eps
    torch.manual_seed(0)
    other = at_level(3).perturb(network().float(), batch, budget=Budget(radius, 0.003, 5)).delta
    assert torch.equal(found, other)


# The curriculum, with a made-up evaluator ----------------------------------------------------------------------------------


class MadeUp:
    """Says given accuracies, epoch after epoch, and notes what it was to attack with."""

    def __init__(self, *accuracies: float, trained: float = 0.95) -> None:
        self.accuracies, self.trained = list(accuracies), trained
        self.attacks: list[list[Attack]] = []

    def accuracy(self, attacks: list[Attack]) -> float:
        self.attacks.append(list(attacks))
        return self.accuracies.pop(0)


def bench(**options: object) -> harness.Bench:
    return harness.bench(CAT(**({"steps": 3, "patience": 2} | options)))


def review_of(subject: harness.Bench, made_up: MadeUp) -> Review:
    return Review(subject.learner, made_up.trained, made_up.accuracy)


def reviewed(subject: harness.Bench, made_up: MadeUp, epochs: int) -> list[tuple[int, int]]:
    """The level and the epochs waited after each of so many reviews, a training step between them."""
    seen = []
    for _ in range(epochs):
        steps = subject.learner.steps
        subject.steps(steps, steps + 1)
        subject.method.begin_epoch(1, review_of(subject, made_up))
        seen.append((subject.method.level, subject.method.waited))
    return seen


def test_the_level_rises_when_the_accuracy_has_not_for_as_long_as_the_patience() -> None:
    """Rises, falls, rises, stays twice: the next level; a new record there starts from nothing."""
    seen = reviewed(bench(), MadeUp(0.5, 0.4, 0.6, 0.6, 0.6, 0.1, 0.2, 0.2, 0.2), 9)
    assert seen == [(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 0), (1, 0), (1, 1), (2, 0)]


def test_it_waits_for_the_network_to_master_its_training_examples() -> None:
    subject = bench()
    assert reviewed(subject, MadeUp(*[0.5] * 5, trained=0.9), 5) == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]
    assert reviewed(subject, MadeUp(0.5, trained=0.91), 1) == [(1, 0)]


def test_the_last_level_is_never_left() -> None:
    seen = reviewed(bench(steps=1, patience=1), MadeUp(0.5, 0.5, 0.4, 0.4, 0.3, 0.3), 6)
    assert [level for level, _ in seen] == [0, 1, 1, 1, 1, 1]
    assert [waited for _, waited in seen] == [0] * 6  # nothing is kept for a way back that there is not


def test_it_is_evaluated_under_the_attacks_of_its_level_with_steps_of_two_radii_in_all() -> None:
    """At level 0 on clean images alone; in evaluation mode, whatever the mode of the training attack."""
    subject, made_up = bench(patience=1), MadeUp(*[0.5] * 6)
    reviewed(subject, made_up, 6)
    assert [[attack.steps for attack in attacks] for attacks in made_up.attacks] == [[], [], [1], [1], [1, 2], [1, 2]]
    for attack in made_up.attacks[-1]:
        assert attack == PGD(steps=attack.steps, alpha=attack.alpha, start="uniform", bn="eval")
        assert float(attack.alpha) == pytest.approx(2 * EPS / attack.steps, rel=1e-15)


def test_as_released_it_is_evaluated_under_the_longest_attack_of_its_level_alone() -> None:
    subject, made_up = bench(patience=1, judged_by="longest"), MadeUp(*[0.5] * 6)
    reviewed(subject, made_up, 6)
    assert [[attack.steps for attack in attacks] for attacks in made_up.attacks] == [[], [], [1], [1], [2], [2]]


def test_being_evaluated_leaves_the_network_as_it_was() -> None:
    """Also its running statistics, which an attack in training mode would move on the held-out images."""
    subject = bench(patience=1)
    reviewed(subject, MadeUp(0.5, 0.5, 0.5, 0.5), 4)
    assert (subject.method.level, subject.method.bn) == (2, "train")
    before = deepcopy(subject.learner.state_dict())
    evaluator = Evaluator(subject.learner.eval_model, harness.digits(), harness.LINF)
    subject.method.begin_epoch(1, Review(subject.learner, 0.95, lambda attacks: evaluator.under(attacks).worst))
    assert 0 <= subject.method.record < 1
    assert harness.identical(before, subject.learner.state_dict())


def test_to_rise_is_to_go_back_to_the_record_bit_for_bit_while_the_schedule_goes_on() -> None:
    subject = harness.bench(CAT(steps=3, patience=2), average=EMA(0.9))
    reviewed(subject, MadeUp(0.4, 0.6), 2)
    record = deepcopy(subject.learner.state_dict())
    assert harness.identical(subject.method.best, record)
    reviewed(subject, MadeUp(0.5), 1)
    assert harness.identical(subject.method.best, record), "training moved the copy"
    assert not harness.identical(subject.learner.state_dict()["network"], record["network"])
    reviewed(subject, MadeUp(0.5), 1)
    now = subject.learner.state_dict()
    assert subject.method.level == 1
    for kept in ("network", "optimizer", "average"):
        assert harness.identical(now[kept], record[kept]), kept
    assert (record["steps"], now["steps"]) == (2, 4)


def test_what_is_gone_back_to_is_not_kept_any_longer() -> None:
    """The optimizer owns its tensors from then on, and would move a copy that were kept."""
    subject = bench(patience=1)
    reviewed(subject, MadeUp(0.5, 0.5), 2)
    assert (subject.method.level, subject.method.record, subject.method.best) == (1, -1.0, {})


def test_the_curriculum_is_in_the_checkpoint() -> None:
    """The same reviews lead to the same place whether the state was put aside in between or not."""
    accuracies = [0.4, 0.6, 0.5, 0.5, 0.3, 0.2, 0.2]
    whole = bench()
    reviewed(whole, MadeUp(*accuracies), 7)
    for pause in range(1, 7):
        first, second = bench(), bench()
        reviewed(first, MadeUp(*accuracies), pause)
        second.load(deepcopy(first.state()))
        reviewed(second, MadeUp(*accuracies[pause:]), 7 - pause)
        assert harness.identical(whole.state(), second.state()), pause


def test_wrapped_cat_is_reviewed_too() -> None:
    inner = CAT(steps=2, patience=1)
    subject = harness.bench(AWP(inner))
    for _ in range(2):
        subject.method.begin_epoch(1, review_of(subject, MadeUp(0.5)))
    assert inner.level == 1


def test_the_report_is_the_level() -> None:
    assert at_level(3).metrics() == {"level": 3.0}


# Real runs ---------------------------------------------------------------------------------------------------------------


def chosen():
    optimisation = Optimisation(epochs=8, batch_size=64, lr=0.05)
    return experiment(CAT(steps=3, patience=1, mastery=0.0), optimisation=optimisation)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, int, bool]]]:
    """An uninterrupted run on digits; at each review the epoch, the level after it, and whether the record came back."""
    folder, seen, plain = tmp_path_factory.mktemp("cat") / "whole", [], CAT.begin_epoch

    def begin_epoch(method: CAT, epoch: int, review: Review | None = None) -> None:
        if review is None:
            return
        target = review.learner
        best, level, steps = deepcopy(method.best), method.level, target.steps
        plain(method, epoch, review)
        if method.level > level:
            now = target.state_dict()
            back = all(same(dict(now[kept]), dict(best[kept])) for kept in ("network", "optimizer"))
            seen.append((steps // 4, method.level, back and target.steps == steps))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CAT, "begin_epoch", begin_epoch)
        train(chosen(), folder, report=Silent())
    return folder, seen


def test_in_a_run_the_level_rises_and_the_network_goes_back_to_the_record(whole) -> None:
    folder, seen = whole
    assert len(seen) >= 2
    assert all(back for *_, back in seen)
    levels = [row["level"] for row in Run(folder).metrics()]
    assert levels == [max([level for first, level, _ in seen if first <= epoch], default=0) for epoch in range(8)]


def test_a_run_interrupted_at_the_end_of_the_epoch_before_a_level_ends_bit_for_bit_the_same(whole, tmp_path) -> None:
    """The checkpoint is of before the review, which a resumed run does again."""
    folder, seen = whole
    for first, level, _ in seen[:2]:
        run = tmp_path / str(level)
        with pytest.raises(Interrupted, match=f"epoch {first} after 0 batches"):
            train(chosen(), run, report=Interrupts(4 * first))
        train(chosen(), run, resume=True, report=Silent())
        assert same(final_state(run), final_state(folder))


def test_a_run_interrupted_every_three_batches_ends_bit_for_bit_the_same(whole, tmp_path) -> None:
    """Also in the middle of the epoch after a level has risen, when nothing may be taken back twice."""
    folder, _ = whole
    interruptions = 0
    while True:
        try:
            train(chosen(), tmp_path, resume=interruptions > 0, report=Interrupts(3))
        except Interrupted:
            interruptions += 1
        else:
            break
    assert interruptions == 10
    assert same(final_state(tmp_path), final_state(folder))
    levels = [[row["level"] for row in Run(each).metrics()] for each in (tmp_path, folder)]
    assert levels[0] == levels[1]


# Refusals --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": -1}, "last level must be at least 0 steps, not -1"),
        ({"patience": 0}, "patience must be at least 1 epoch, not 0"),
        ({"mastery": 1.0}, "mastery is an accuracy in .0, 1., not 1.0"),
        ({"mastery": -0.1}, "mastery is an accuracy in .0, 1., not -0.1"),
    ],
)
def test_values_that_cannot_be_are_refused(options: dict, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        CAT(**options)


@pytest.mark.parametrize("method", [LAS(CAT()), LAS(AWP(CAT()))], ids=["CAT", "AWP(CAT)"])
def test_las_is_told_that_cat_leaves_it_nothing_to_choose(method: Method) -> None:
    with pytest.raises(BadInput, match="leaves it nothing to choose: put it around AdversarialTraining"):
        method.setup(harness.task())


def test_the_defaults_are_the_paper_s() -> None:
    assert CAT() == CAT(steps=7, patience=10, mastery=0.9, bn="train")


def test_without_images_held_out_there_is_nothing_to_go_on_by() -> None:
    with pytest.raises(BadInput, match="set data.validation above 0"):
        CAT().setup(replace(harness.task(), held_out=0))


def test_it_goes_on_by_held_out_images_even_where_the_best_epoch_is_chosen_on_the_test_set(
    tmp_path, monkeypatch
) -> None:
    looked_at = []
    plain = Evaluator.under

    def under(evaluator: Evaluator, attacks: list[Attack]):
        looked_at.append(evaluator.images.pixels)
        return plain(evaluator, attacks)

    monkeypatch.setattr(Evaluator, "under", under)
    by_test = chosen()
    by_test = replace(
        by_test,
        selection=replace(by_test.selection, split="test"),
        optimisation=replace(by_test.optimisation, epochs=2),
    )
    train(by_test, tmp_path, report=Silent())
    held_out = replace(by_test.selection, split="validation").pick(load(by_test.data)).pixels
    assert len(looked_at) == 1
    assert torch.equal(looked_at[0], held_out)
