"""The benchmark of evaluation on very little: both sides are what they claim to be, and its records and tables are right."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack as TheirAutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import nn

import sparring
from benchmarks.evaluation import attacked, compare
from benchmarks.evaluation.attacked import Cut, Masked, Size, Training
from benchmarks.evaluation.parity import (
    Answer,
    Counted,
    Question,
    Scale,
    Standard,
    alone,
    confirmed,
    correct_on,
    noted,
    ours,
    theirs,
)
from benchmarks.evaluation.parity import _limit as limit
from benchmarks.evaluation.tables import markdown, read
from benchmarks.harness.pages import renewed
from benchmarks.opponents import libraries
from sparring.attacks.autoattack import AutoAttack
from sparring.errors import BadInput
from sparring.losses import cross_entropy
from sparring.threat import Ratio, Threat

with warnings.catch_warnings():  # see tests/attacks/test_foolbox.py
    warnings.filterwarnings("ignore", message=".*`scipy.ndimage` namespace", category=DeprecationWarning)
    import foolbox  # noqa: F401

LITTLE = Scale(steps=3, queries=15)
COUNT = 30
Asked = Callable[..., Question]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """About some digits and a network that has learnt them: in Linf, within eps."""
    training = Training("digits", None, "pgd-at", Cut(Ratio("0.1"), images=600, epochs=3))
    network = training.network(tmp_path_factory.mktemp("runs"))
    images = attacked.tested(training.experiment(), COUNT)

    def about(eps: str = "0.1", change: Callable[[nn.Module], nn.Module] = lambda network: network) -> Question:
        return Question(change(network).eval(), images, Threat("Linf", Ratio(eps)), 16, "cpu", 0, LITTLE)

    return about


@pytest.fixture(scope="module")
def found(asked: Asked) -> Answer:
    """What pyautoattack finds."""
    return theirs(asked())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """Digits, and hardly any training."""
    monkeypatch.setitem(attacked.SIZES, "digits", Size(images=300, epochs=1, linf="0.05", l2="0.3", l1="0.5"))
    return ["--data", "digits", "--cache", tmp_path / "cache", "--images", 20, "--batch", 20]


# The two sides -----------------------------------------------------------------------------------------------------


def test_stage_by_stage_pyautoattack_finds_what_it_finds_in_one_run(asked: Asked, found: Answer) -> None:
    question = asked()
    whole = TheirAutoAttack(question.model, norm="Linf", eps=0.1, version="standard", seed=0)
    limit(whole, LITTLE)
    batch = question.whole()
    tracer = sys.gettrace()
    images, predicted = whole.run_standard_evaluation(batch.x, batch.y, batch_size=question.batch_size)
    sys.settrace(tracer)
    assert torch.equal(found.robust, predicted == batch.y)
    assert torch.equal(found.images, images)
    left = [int(stage.correct.sum()) for stage in found.stages]
    assert int(found.clean.sum()) > left[0] > left[-1] > 0  # the network is neither robust nor lost


def test_a_robust_image_costs_pyautoattack_what_its_code_says(asked: Asked) -> None:
    """The reference's counts for 100 steps and 5000 queries, for others: 103, 920, 1829 and 5004 forwards, for one."""
    question = asked(eps="0.0001")
    answer = theirs(question)
    robust, steps, queries, targets = int(answer.robust.sum()), 3, 15, 9
    assert torch.equal(answer.robust, answer.clean)
    forwards = {
        "apgd-ce": steps + 3,
        "apgd-t": targets * (steps + 2) + 2,
        "fab-t": targets * (2 * steps + 3) + 2,
        "square": queries + 4,
    }
    backwards = {"apgd-ce": steps + 1, "apgd-t": targets * (steps + 1), "fab-t": targets * steps, "square": 0}
    for stage, own in zip(answer.stages, ours(question, "exact").stages, strict=True):
        assert stage.forwards == forwards[stage.name] * robust
        assert stage.backwards == backwards[stage.name] * robust
        assert stage.seconds > 0
        assert own.name == stage.name
        assert 0 < own.forwards < stage.forwards
        assert own.backwards <= stage.backwards


def test_stages_that_nobody_is_left_for_cost_nothing(asked: Asked) -> None:
    question = asked(eps="0.9")
    for answer in (theirs(question), ours(question, "exact")):
        assert not answer.robust.any()
        reached = [stage.name for stage in answer.stages if stage.forwards > 0]
        assert reached == ["apgd-ce", "apgd-t", "fab-t", "square"][: len(reached)]
        assert len(reached) < 4
        for stage in answer.stages[len(reached) :]:
            assert stage.seconds < 0.1
            assert stage.backwards == 0


@pytest.mark.parametrize("steps", [1, 7, 40, 100])
def test_fewer_steps_are_those_of_an_apgd_made_for_them(steps: int) -> None:
    attack = TheirAutoAttack(nn.Flatten(), version="standard", eps=0.1)
    limit(attack, Scale(steps=steps, queries=9))
    for cut, made in ((attack.apgd, APGDAttack), (attack.apgd_targeted, APGDAttack_targeted)):
        expected = vars(made(nn.Flatten(), n_iter=steps, eps=0.1))
        for name in ("n_iter", "n_iter_orig", "n_iter_2", "n_iter_min", "size_decr"):
            assert getattr(cut, name) == expected[name]
    assert attack.fab.n_iter == steps
    assert attack.square.n_queries == 9


def test_without_less_effort_ours_is_autoattack_s_standard_version() -> None:
    assert Standard(Scale()).searches(10, Threat()) == AutoAttack().searches(10, Threat())
    lengths = [search.max_steps for search in Standard(LITTLE).searches(10, Threat()).values()]
    assert lengths == [3, 3, 3, 16]


def test_pyautoattack_leaves_no_trace(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("auto-attack")
    monkeypatch.setattr(logger, "level", logging.INFO)
    monkeypatch.setattr(logger, "propagate", True)
    monkeypatch.setattr(logger, "handlers", [])
    earlier = sys.gettrace()

    def tracer(*_: object) -> None:
        return None

    sys.settrace(tracer)
    try:
        probabilities = asked(change=lambda network: nn.Sequential(network, nn.Softmax(1)))
        answer = theirs(probabilities)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(earlier)
    assert (logger.level, logger.propagate, logger.handlers) == (logging.INFO, True, [])
    assert capsys.readouterr() == ("", "")
    assert any("probability distribution" in warning for warning in answer.warnings)


def test_masking_hides_the_gradient_and_nothing_else(asked: Asked) -> None:
    plain, masked = asked().model, asked(change=Masked).model
    batch = asked().whole()
    x = batch.x.clone().requires_grad_()
    logits = masked(x)
    top, second = plain(batch.x).topk(2).values.unbind(1)
    clear = (logits.argmax(1) == batch.y) & (top - second > 0.11)
    assert int(clear.sum()) > 15
    assert torch.equal(logits.argmax(1), plain(batch.x).argmax(1))
    (gradient,) = torch.autograd.grad(cross_entropy(logits, batch.y).sum(), x)
    assert bool((gradient[clear] == 0).all())


def test_masked_targets_are_the_others_masked(tiny: list[object], tmp_path: Path) -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = {name: attacked.TARGETS[name].network("digits", None, tmp_path)(x) for name in attacked.QUICK}
    for name in ("standard", "pgd-at"):
        assert torch.equal(logits[f"masked {name}"], attacked.MASKING * logits[name])
    eps = {
        name: attacked.TARGETS[name].training("digits", None).experiment().threat.eps.exact for name in attacked.QUICK
    }
    assert eps["fgsm-rs"] == 2 * eps["pgd-at"] == Fraction(1, 10)
    steps = {
        name: attacked.TARGETS[name].training("digits", None).experiment().method.attack
        for name in ("fgsm-rs", "pgd-at")
    }
    assert steps["fgsm-rs"].alpha.exact == Fraction(5, 4) * eps["fgsm-rs"]
    assert steps["pgd-at"].alpha.exact == eps["pgd-at"] / 4


def test_a_whole_target_is_the_recipe_as_it_is() -> None:
    (name,) = set(attacked.TARGETS) - set(attacked.QUICK)
    assert attacked.TARGETS[name].training("digits", None).experiment() == sparring.recipe("digits/pgd-at")


def test_gradients_are_counted_however_they_are_asked_for(asked: Asked) -> None:
    counted = Counted(asked().model)
    x = asked().whole().x[:7].clone().requires_grad_()
    counted(x).sum().backward()
    torch.autograd.grad(counted(x)[:, 0].sum(), x)
    with torch.no_grad():
        counted(x)
    assert (counted.forwards, counted.backwards) == (21, 14)


# What is made of their answers ---------------------------------------------------------------------------------------


def test_only_images_that_fool_the_network_within_the_threat_are_confirmed(asked: Asked, found: Answer) -> None:
    question = asked()
    (rows,) = found.fooled.nonzero(as_tuple=True)
    assert confirmed(question, found) == len(rows) > 4
    x, images = question.whole().x, found.images.clone()
    images[rows[0]] = x[rows[0]]  # classified correctly
    far = torch.where(images[rows[1]] > 0.5, images[rows[1]] - 0.15, images[rows[1]] + 0.15)
    images[rows[1]] = torch.where((far - x[rows[1]]).abs() > 0.1, far, images[rows[1]])  # too far
    images[rows[2], 0, 0, 0] = -1e-6  # outside of the box; within the radius unless the pixel is bright
    x0 = float(x[rows[2], 0, 0, 0])
    assert x0 < 0.05
    spoiled = replace(found, images=images)
    assert confirmed(question, spoiled) == len(rows) - 3


def test_whom_only_one_side_fooled_is_told_apart() -> None:
    def answer(robust: list[bool]) -> Answer:
        stage = sparring.evaluation.Stage("", "square", torch.tensor(robust), 1.0, 0, 0)
        return Answer(torch.ones(4, dtype=torch.bool), (stage,), torch.empty(0), 1.0)

    found = alone(answer([True, False, False, True]), answer([False, False, True, True]))
    assert found == {"fooled_by_first_alone": [2], "fooled_by_second_alone": [0]}


def test_a_note_keeps_who_was_correct_after_every_stage(asked: Asked) -> None:
    question = asked()
    answer = ours(question, "search16")
    note = noted(question, answer)
    for written, stage in zip(note["stages"], answer.stages, strict=True):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(written["correct"]), np.uint8))[:COUNT]
        assert bits.astype(bool).tolist() == stage.correct.tolist()
        assert written["accuracy"] == int(stage.correct.sum()) / COUNT
    assert note["confirmed"] == note["fooled"] == int((answer.clean & ~answer.robust).sum())
    assert note["seconds"] >= sum(stage["seconds"] for stage in note["stages"]) - 0.01


# Commands ------------------------------------------------------------------------------------------------------------


def _call(*words: object) -> None:
    assert compare.main([str(word) for word in words]) == 0


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_parity_writes_a_record_and_trains_once(
    norm: str, tiny: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, little = tmp_path / "parity.json", ["--steps", 2, "--queries", 5]
    _call("train", *tiny[:4], "--networks", "pgd-at")
    monkeypatch.setattr(sparring.training.session, "train_step", None)  # from here on nothing may be trained
    seeds = []
    monkeypatch.setattr(compare, "theirs", lambda question: seeds.append(question.seed) or theirs(question))
    words = ["--precision", "search16", "--control", "--norm", norm, "--out", file, *little]
    _call("parity", *tiny, "--networks", "pgd-at", "masked pgd-at", *words)
    printed = capsys.readouterr().out
    record = read(file)
    assert str(tmp_path) not in file.read_text()
    assert record["scaled"] == {"steps": 2, "queries": 5}
    assert record["threat"] == {"norm": norm, "eps": {"Linf": "0.05", "L2": "0.3", "L1": "0.5"}[norm]}
    assert record["images"] == 20
    assert seeds == [0, 1, 0, 1]
    plain, masked = record["found"]
    for found in (plain, masked):
        assert [*found["answers"]] == ["pyautoattack", "exact", "search16", "pyautoattack, seed 1"]
        for answer in found["answers"].values():
            accuracies = [answer["clean"], *(stage["accuracy"] for stage in answer["stages"])]
            assert accuracies == sorted(accuracies, reverse=True)
            assert answer["clean"] == plain["answers"]["exact"]["clean"]
            assert answer["confirmed"] == answer["fooled"]
        for pair in found["differences"]:
            first, second = (found["answers"][pair[side]]["fooled"] for side in ("first", "second"))
            assert first - second == len(pair["fooled_by_first_alone"]) - len(pair["fooled_by_second_alone"])
    assert (plain["logits_times"], masked["logits_times"]) == (1, attacked.MASKING)
    assert printed.strip() == markdown([record])
    assert printed.count("| digits |") == 2 * 3
    assert "2 steps and 5 queries: this is not AutoAttack." in printed


def test_speed_lets_all_sides_take_turns(tiny: list[object], tmp_path: Path) -> None:
    file = tmp_path / "speed.json"
    network = ["--model", "smallconv", "--width", 8, "--train-images", 300, "--epochs", 1, "--repeats", 2]
    _call("speed", *tiny, *network, "--steps", 2, "--queries", 5, "--out", file)
    record = read(file)
    assert [[*turn] for turn in record["found"]] == 2 * [["pyautoattack", "exact", "search16"]]
    one, two = record["found"]
    for side in one:
        for earlier, later in zip(one[side]["stages"], two[side]["stages"], strict=True):
            assert earlier["correct"] == later["correct"]  # the same seed
            assert earlier["forwards"] == later["forwards"]
    assert record["training"]["model"] == "smallconv"
    assert "path" not in record["training"]


def test_pgd_is_compared_with_other_libraries(tiny: list[object], tmp_path: Path) -> None:
    file = tmp_path / "pgd.json"
    network = ["--model", "smallconv", "--width", 8, "--train-images", 300, "--epochs", 1, "--repeats", 1]
    _call("pgd", *tiny, *network, "--libraries", "foolbox", "--out", file)
    (turn,) = read(file)["found"]
    assert [*turn] == ["ours", "foolbox"]
    assert (
        0 <= turn["ours"]["accuracy"] <= turn["foolbox"]["accuracy"] + 1 / 20
    )  # every iterate counts, and not the last


def test_pgd_by_foolbox_leaves_what_ours_leaves(asked: Asked) -> None:
    question = asked()
    assert libraries.by_foolbox(question) == pytest.approx(libraries.ours(question), abs=2 / COUNT)


def test_torchattacks_gets_the_same_settings_and_the_images_that_are_correct(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself is not installed with the tests."""
    question, settings, rows = asked(), [], []

    class Idle:
        def __init__(self, model: nn.Module, **options: object) -> None:
            settings.append(options)

        def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            rows.append(bool((question.model(x).argmax(1) == y).all()))
            return x

    monkeypatch.setitem(sys.modules, "torchattacks", SimpleNamespace(PGD=Idle))
    clean = libraries.by_torchattacks(question)
    assert settings == [{"eps": 0.1, "alpha": 0.025, "steps": 50, "random_start": True}]
    assert rows == [True, True]
    assert clean == int(correct_on(question, question.whole().x).sum()) / COUNT > 0.5


def test_a_network_that_is_never_right_is_not_attacked(asked: Asked) -> None:
    def opposed(network: nn.Module) -> nn.Module:
        turn = nn.Linear(10, 10, bias=False)
        nn.init.eye_(turn.weight).data.neg_()
        return nn.Sequential(network, turn)

    question = asked(change=opposed)
    assert not correct_on(question, question.whole().x).any()
    assert libraries.by_foolbox(question) == libraries.ours(question) == 0


def test_what_is_missing_is_named_before_anything_is_trained(
    tiny: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    monkeypatch.setattr(sparring, "train", None)
    with pytest.raises(BadInput, match="pip install --no-deps"):
        _call("pgd", *tiny)
    with pytest.raises(BadInput, match="--data-path names the folder"):
        _call("parity", "--data", "cifar10")


@pytest.mark.parametrize("word", ["--images", "--batch", "--steps", "--queries"])
def test_nothing_is_no_number(word: str, tiny: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare.main(["parity", "--data", "digits", word, "0"])
    assert "must be at least 1, not 0" in capsys.readouterr().err


# Tables --------------------------------------------------------------------------------------------------------------


def _answer(accuracies: list[float], seconds: float, forwards: int = 10, **more: object) -> dict[str, object]:
    names = ("apgd-ce", "apgd-t", "fab-t", "square")
    stages = [
        {"name": name, "accuracy": accuracy, "seconds": seconds / 4, "forwards": forwards, "backwards": 5}
        for name, accuracy in zip(names, accuracies, strict=True)
    ]
    return {"clean": 0.9, "stages": stages, "seconds": seconds, "fooled": 40, "confirmed": 40} | more


PARITY = {
    "benchmark": "parity",
    "data": "digits",
    "threat": {"norm": "Linf", "eps": "0.2"},
    "images": 80,
    "scaled": {},
    "found": [
        {
            "network": "pgd-at",
            "pgd-20": 0.5,
            "answers": {
                "pyautoattack": _answer([0.5, 0.4, 0.4, 0.4], 40.0),
                "exact": _answer([0.51, 0.41, 0.4, 0.4], 20.0, confirmed=39),
                "search16": _answer([0.51, 0.41, 0.41, 0.4], 30.0),
            },
            "differences": [
                {
                    "first": "pyautoattack",
                    "second": "exact",
                    "fooled_by_first_alone": [3, 4],
                    "fooled_by_second_alone": [5],
                },
                {"first": "exact", "second": "search16", "fooled_by_first_alone": [], "fooled_by_second_alone": []},
            ],
        }
    ],
}
PARITY_TABLE = """\
| data | threat | images | network | against | clean | PGD-20 | APGD-CE | APGD-T | FAB-T | Square | fooled by one alone | \
confirmed | seconds |
| --- | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| digits | Linf 0.2 | 80 | pgd-at | exact | 90.0 / 90.0 | 50.0 | 50.0 / 51.0 | 40.0 / 41.0 | 40.0 / 40.0 | 40.0 / 40.0 \
| 2 / 1 | 39 of 40 | 40 / 20 |"""
SPEED = {
    "benchmark": "speed",
    "scaled": {"steps": 10},
    "found": [
        {"pyautoattack": _answer([0.5, 0.4, 0.4, 0.4], 40.0), "exact": _answer([0.5, 0.4, 0.4, 0.3], 20.0, 8)},
        {"pyautoattack": _answer([0.5, 0.4, 0.4, 0.4], 60.0), "exact": _answer([0.5, 0.4, 0.4, 0.3], 20.0, 8)},
    ],
}
SPEED_TABLE = """\
| ours in | stage | seconds | faster | least to most | forwards | backwards | accuracy |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| exact | apgd-ce | 12.5 / 5.0 | 2.50 | 2.00 to 3.00 | 10 / 8 | 5 / 5 | 50.0 / 50.0 |
| exact | apgd-t | 12.5 / 5.0 | 2.50 | 2.00 to 3.00 | 10 / 8 | 5 / 5 | 40.0 / 40.0 |
| exact | fab-t | 12.5 / 5.0 | 2.50 | 2.00 to 3.00 | 10 / 8 | 5 / 5 | 40.0 / 40.0 |
| exact | square | 12.5 / 5.0 | 2.50 | 2.00 to 3.00 | 10 / 8 | 5 / 5 | 40.0 / 30.0 |
| exact | all | 50.0 / 20.0 | 2.50 | 2.00 to 3.00 | 40 / 32 | 20 / 20 |  |

Scaled down on both sides, to 10 steps: this is not AutoAttack."""
PGD = {
    "benchmark": "pgd",
    "scaled": {},
    "found": [
        {"ours": {"accuracy": 0.4, "seconds": 2.0}, "foolbox": {"accuracy": 0.41, "seconds": 3.0}},
        {"ours": {"accuracy": 0.4, "seconds": 2.0}, "foolbox": {"accuracy": 0.41, "seconds": 5.0}},
    ],
}
PGD_TABLE = """\
| library | accuracy | seconds | ours is faster by | least to most |
| --- | ---: | ---: | ---: | ---: |
| ours | 40.0 | 2.0 |  |  |
| foolbox | 41.0 | 4.0 | 2.00 | 1.50 to 2.50 |"""


@pytest.mark.parametrize(
    ("record", "table"),
    [(PARITY, PARITY_TABLE), (SPEED, SPEED_TABLE), (PGD, PGD_TABLE)],
    ids=["parity", "speed", "pgd"],
)
def test_a_record_is_rendered(
    record: dict[str, object], table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "by-hand.json"
    file.write_text(json.dumps(record))
    _call("table", file)
    assert capsys.readouterr().out == table + "\n"


def test_records_of_one_kind_share_a_table() -> None:
    assert markdown([PARITY, PARITY]).splitlines() == [*PARITY_TABLE.splitlines(), PARITY_TABLE.splitlines()[-1]]
    with pytest.raises(BadInput, match="parity and pgd make no table together"):
        markdown([PARITY, PGD])


def test_a_stage_without_anything_to_do_has_no_ratio() -> None:
    idle = _answer([0.0, 0.0, 0.0, 0.0], 0.0, 0)
    table = markdown([SPEED | {"found": [{"pyautoattack": idle, "exact": idle}]}])
    assert "| exact | square | 0.0 / 0.0 |  |  | 0 / 0 |" in table


@pytest.mark.parametrize(
    "content", ["", "[]", '{"benchmark": "parity", "found": []}', '{"benchmark": "x", "found": [1]}']
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "record.json"
    with pytest.raises(BadInput, match="not a record of this benchmark"):
        read(file)
    file.write_text(content)
    with pytest.raises(BadInput, match="not a record of this benchmark"):
        read(file)


END = "<!-- end of evaluation -->"


def test_tables_are_renewed_between_their_markers(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    for name, record in (("one", PARITY), ("two", PARITY), ("fast", SPEED)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    kept = f"<!-- evaluation: three -->\nkept\n{END}\n"
    text = f"# Title\n\n<!-- evaluation: one two -->\nold\n{END}\n\nText.\n<!-- evaluation: fast -->\n{END}\n{kept}"
    page.write_text(text)
    other.write_text(text)
    _call("table", *(tmp_path / f"{name}.json" for name in ("one", "two", "fast")), "--into", page, other)
    assert page.read_text() == (
        f"# Title\n\n<!-- evaluation: one two -->\n\n{markdown([PARITY, PARITY])}\n\n{END}\n\nText.\n"
        f"<!-- evaluation: fast -->\n\n{SPEED_TABLE}\n\n{END}\n{kept}"
    )
    assert other.read_text() == page.read_text()
    assert renewed(page.read_text(), "evaluation", {"fast": SPEED}, markdown) == page.read_text()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Text.\n", "no line <!-- evaluation: one -->"),
        (f"<!-- evaluation: another -->\n{END}\n", "no line <!-- evaluation: one -->"),
        (f"<!-- evaluation: one two -->\n{END}\n", "names two, too: give all of them"),
        ("<!-- evaluation: one -->\nText.\n", f"without a line {END}"),
        (f"<!-- evaluation: one -->\nText.\n<!-- evaluation: one -->\n{END}\n", f"without a line {END}"),
    ],
)
def test_pages_without_whole_markers_are_refused_and_stay(tmp_path: Path, text: str, sentence: str) -> None:
    record, good, page = tmp_path / "one.json", tmp_path / "good.md", tmp_path / "page.md"
    marked = f"<!-- evaluation: one -->\n{END}\n"
    record.write_text(json.dumps(PARITY))
    good.write_text(marked)
    page.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        _call("table", record, "--into", good, page)
    assert page.read_text() == text
    assert good.read_text() == marked
