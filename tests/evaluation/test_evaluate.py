"""The one pipeline: a number from Python has the record and the findings of one from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import sparring
from sparring import cli, ranks
from sparring.attacks import PGD, AutoAttack
from sparring.data import Data, load
from sparring.errors import BadInput
from sparring.evaluation import ModelSource, evaluate, name_of
from sparring.evaluation.evaluator import Evaluator
from sparring.evaluation.progress import fingerprint
from sparring.models import create
from sparring.threat import Threat

EPS = Threat("Linf", "0.2")
ATTACKS = ["clean", "fgsm", "pgd-5", "apgd-ce"]
SAMPLES = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run on digits."""
    folder = tmp_path_factory.mktemp("runs") / "pgd"
    quick = ["--optimisation.epochs", "4", "--data.limit", "400", "--model.width", "8", "--selection.images", "10"]
    assert cli.main(["train", "digits/pgd-at", "--run", str(folder), *quick]) == 0
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> nn.Module:
    return sparring.load(run)


DATA = Data(limit=400, test_limit=SAMPLES)


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    record = deepcopy(record)
    del record["environment"]["time"]
    for attack in record["attacks"]:
        for part in (attack, *attack.get("stages", ())):
            del part["seconds"]
    return record


class Noisy(nn.Module):
    """A network that the doctor has something to say about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + 0.01 * torch.randn(len(x), 10)


# The record ---------------------------------------------------------------------------------------------------------------


def written(file: Path) -> dict:
    """A record as it was written, without its checksum."""
    content = json.loads(file.read_text())
    del content["sha256"]
    return content


def test_python_and_the_command_line_give_equal_records_and_images(run: Path, model, tmp_path: Path) -> None:
    by_command, by_call = tmp_path / "command.json", tmp_path / "call.json"
    asked = ["--attacks", ",".join(ATTACKS), "--samples", str(SAMPLES), "--seed", "3"]
    files = ["--output", str(by_command), "--examples", str(tmp_path / "command.safetensors")]
    assert cli.main(["evaluate", str(run), *asked, *files]) == 0
    source = ModelSource(name_of(model), str(run), "best")
    found = evaluate(
        model, DATA, EPS, ATTACKS, seed=3, source=source, output=by_call, examples=tmp_path / "call.safetensors"
    )
    record = written(by_call)
    assert record == found.record
    assert (record["subject"]["weights"], record["subject"]["checkpoint"]) == (str(run), "best")
    assert without_times(record) == without_times(written(by_command))
    assert record["worst"] == found.worst
    assert [attack["accuracy"] for attack in record["attacks"]] == [found.accuracy(name) for name in ATTACKS]
    one, other = (load_file(tmp_path / f"{name}.safetensors") for name in ("command", "call"))
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not list(tmp_path.glob(".*partial"))


def test_a_record_can_be_saved_afterwards(model, tmp_path: Path) -> None:
    found = evaluate(model, DATA, EPS, ["clean"])
    found.save(tmp_path / "deep" / "record.json")
    assert written(tmp_path / "deep" / "record.json") == found.record
    assert found.record["subject"] | {"fingerprint": ""} == {
        "model": "SmallConv",
        "weights": "",
        "checkpoint": "",
        "fingerprint": "",
    }


def test_images_alone_are_recorded_by_their_fingerprint(model) -> None:
    images = load(DATA).test
    records = [evaluate(model, part, EPS, ["clean"]).record for part in (images, images.subset(torch.arange(20)))]
    assert [(record["data"]["name"], record["n"]) for record in records] == [(None, SAMPLES), (None, 20)]
    assert len({record["data"]["fingerprint"] for record in records}) == 2


def test_an_evaluation_that_was_stopped_goes_on_and_says_so(model, tmp_path: Path) -> None:
    told: list[str] = []

    def stop(attack: str, done: float) -> None:
        told.append(attack)
        if attack == "pgd-5":
            raise KeyboardInterrupt

    output = tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, DATA, EPS, ATTACKS, output=output, progress=stop)
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    again: list[str] = []
    notes: list[str] = []
    found = evaluate(
        *(model, DATA, EPS, ATTACKS),
        output=output,
        progress=lambda attack, done: again.append(attack),
        note=notes.append,
    )
    assert notes == ["Going on with the evaluation that was stopped."]
    assert set(told) == {"clean", "fgsm", "pgd-5"}
    assert set(again) == {"pgd-5", "apgd-ce"}
    assert list(tmp_path.iterdir()) == [output]
    assert without_times(found.record) == without_times(evaluate(model, DATA, EPS, ATTACKS).record)


def test_what_cannot_be_is_refused_before_the_data_are_loaded(model, tmp_path: Path) -> None:
    nowhere = Data("cifar10", path=str(tmp_path))  # an empty folder
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="did you mean 'pgd-20'"):
        evaluate(model, nowhere, EPS, ["pgd20"])
    with pytest.raises(BadInput, match="cannot be written"):
        evaluate(model, nowhere, EPS, output=tmp_path / "file" / "record.json")
    with pytest.raises(BadInput, match="cannot be written"):
        evaluate(model, nowhere, EPS, examples=tmp_path)


# The findings -------------------------------------------------------------------------------------------------------------


def test_an_error_of_the_doctor_stops_it_unless_it_is_told_not_to_look(model) -> None:
    probabilities = nn.Sequential(model, nn.Softmax(1))
    with pytest.raises(BadInput, match=r"probabilities, not logits.*--no-doctor, in Python doctor=False"):
        evaluate(probabilities, DATA, EPS, ["clean"])
    found = evaluate(probabilities, DATA, EPS, ["clean"], doctor=False)
    assert found.accuracy("clean") == evaluate(model, DATA, EPS, ["clean"]).accuracy("clean")
    assert found.findings == ()


def test_images_of_a_single_class_can_be_evaluated_without_the_doctor(model) -> None:
    images = load(DATA).test
    sevens = images.subset((images.labels == 7).nonzero()[:, 0])
    with pytest.raises(BadInput, match="All images are of class 7.*doctor=False"):
        evaluate(model, sevens, EPS, ["clean"])
    right = evaluate(model, images, EPS, ["clean"]).outcome("clean").correct[images.labels == 7]
    assert torch.equal(evaluate(model, sevens, EPS, ["clean"], doctor=False).outcome("clean").correct, right)


def test_warnings_of_the_doctor_and_suspicions_are_findings_and_recorded(model, monkeypatch) -> None:
    found = evaluate(Noisy(model), DATA, EPS, ["clean"])
    assert "random" in [finding.check for finding in found.findings]
    assert [finding["check"] for finding in found.record["findings"]] == [each.check for each in found.findings]

    class Stuck(nn.Module):
        """Its gradients are those of a constant: PGD finds nothing, and what one step does is chance."""

        def forward(self, x: Tensor) -> Tensor:
            return model((x * 4).round() / 4) + 0 * x.sum()

    suspicious = evaluate(Stuck(), DATA, EPS, ["clean", "pgd-5", "square"], doctor=False)
    assert "black-box-beats-white-box" in [finding.check for finding in suspicious.findings]


def test_autoattack_may_find_far_more_than_pgd_in_l1(model) -> None:
    found = evaluate(model, Data(limit=400), Threat("L1", 2), ["clean", "pgd-20", "aa-fast"])
    assert found.accuracy("aa-fast") < found.accuracy("pgd-20") - 0.1
    assert found.findings == ()


# The attacks --------------------------------------------------------------------------------------------------------------


def test_an_attack_is_called_by_its_repr_or_by_a_name_of_one_s_choice(model) -> None:
    attack = PGD(steps=5)
    found = evaluate(model, DATA, EPS, ["clean", attack, "pgd-5"])
    assert [outcome.attack for outcome in found.outcomes] == ["clean", repr(attack), "pgd-5"]
    assert found.record["attacks"][1]["steps"] == 5
    assert "definition" not in found.record["attacks"][1]
    named = evaluate(model, DATA, EPS, {"mine": attack, "strong": "pgd-5", "natural": "clean"})
    assert [outcome.attack for outcome in named.outcomes] == ["mine", "strong", "natural"]
    assert [entry.get("definition") for entry in named.record["attacks"]] == [repr(attack), "pgd-5", None]
    assert named.accuracy("natural") == found.accuracy("clean")


def test_the_name_decides_the_noise_and_nothing_else_does(model) -> None:
    attack = PGD(steps=1)
    one = evaluate(model, DATA, EPS, {"mine": attack}, batch_size=7)
    two = evaluate(model, DATA, EPS, {"other": PGD(steps=2), "mine": PGD(steps=1)})
    assert torch.equal(one.outcome("mine").correct, two.outcome("mine").correct)


Images = Tensor  # (B, C, H, W)


def signed(factor: float) -> Callable[[nn.Module, Images, Tensor, Threat], Images]:
    """FGSM by hand, with a step of so many radii."""

    def attack(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        point = x.clone().requires_grad_()
        loss = nn.functional.cross_entropy(network(point), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, point)
        return (x + factor * threat.eps * gradient.sign()).clamp(0, 1)

    return attack


def test_a_function_finds_what_the_attack_that_it_is_finds(model) -> None:
    found = evaluate(
        model, DATA, EPS, {"clean": "clean", "by hand": signed(1), "fgsm": "fgsm"}, keep=True, batch_size=9
    )
    by_hand, fgsm = found.outcome("by hand"), found.outcome("fgsm")
    assert found.accuracy("clean") > found.accuracy("by hand") > 0
    assert torch.equal(by_hand.correct, fgsm.correct)
    torch.testing.assert_close(by_hand.images, fgsm.images)
    entry = found.record["attacks"][1]
    assert entry["function"].endswith("signed.<locals>.attack")
    assert (
        entry["counted"] == "images within the threat, to 1e-06, that the network itself gets wrong in single precision"
    )
    assert entry["outside"] == 0
    assert "forwards" not in entry


def test_what_lies_outside_the_ball_or_the_box_does_not_count(model) -> None:
    """A radius and a half fools more, brighter than white too; nothing of it may be believed."""

    def too_bright(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        outside = (x + threat.eps).clamp(max=1.1)
        assert ((outside - x).abs() <= threat.eps + 1e-6).all()
        return outside

    def nothing(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        return x * torch.nan

    attacks = {"clean": "clean", "far": signed(1.5), "bright": too_bright, "nan": nothing, "near": signed(1)}
    found = evaluate(model, DATA, EPS, attacks, keep=True)
    right = int(found.outcome("clean").correct.sum())
    for name in ("far", "nan"):
        assert torch.equal(found.outcome(name).correct, found.outcome("clean").correct)
        assert found.outcome(name).settings["outside"] == right
    assert 0 < found.outcome("bright").settings["outside"] <= right
    x = load(DATA).test.pixels / 255
    for outcome in found.outcomes[1:]:
        assert ((outcome.images - x).abs() <= EPS.eps + 1e-6).all()
        assert ((outcome.images >= 0) & (outcome.images <= 1)).all()
        answers = model(outcome.images).argmax(1) == load(DATA).test.labels
        assert torch.equal(answers, outcome.correct)
    warned = [finding.seen for finding in found.findings if finding.check == "outside-threat"]
    assert len(warned) == 3
    assert warned[0] == f"far returned {right} images outside the ball or the box."


def test_rounding_beyond_the_ball_and_the_box_is_forgiven_as_for_other_attacks(model) -> None:
    def rounded(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        exact = signed(1)(network, x, y, threat)
        return exact.double() + 5e-7 * (exact - x).sign()

    found = evaluate(model, DATA, EPS, {"rounded": rounded, "exact": signed(1)}, keep=True)
    assert found.outcome("rounded").settings["outside"] == 0
    assert found.outcome("rounded").images.dtype == torch.float32
    assert found.outcome("rounded").images.max() <= 1
    assert found.accuracy("rounded") == pytest.approx(found.accuracy("exact"), abs=1 / SAMPLES)


def test_a_function_leaves_nothing_behind(model) -> None:
    """Neither a network in training mode nor changed images, and its random numbers are repeated."""
    draws: list[list[float]] = []

    def careless(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        assert not network.training
        network.train()
        draws.append([torch.rand(()).item(), *x[:, 0, 0, 0].tolist()])
        return x.zero_()

    before = torch.get_rng_state()
    attacks = {"careless": careless, "fgsm": "fgsm"}
    one, two = (evaluate(model, DATA, EPS, attacks, batch_size=15) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.outcome("careless").settings["outside"] == int(one.outcome("careless").correct.sum()) > 0  # black images
    assert draws[: len(draws) // 2] == draws[len(draws) // 2 :]
    assert len({draw[0] for draw in draws}) == len(draws) // 2 > 1  # anew for every batch
    other = evaluate(model, DATA, EPS, attacks, batch_size=15, seed=1)
    assert draws[len(draws) // 3 * 2][0] != draws[0][0]
    for found in (one, two, other):
        assert torch.equal(found.outcome("fgsm").correct, evaluate(model, DATA, EPS, ["fgsm"]).outcome("fgsm").correct)
    assert not model.training


class Batchwise(nn.Module):
    """A network with BatchNorm, a buffer of its own, and something that fits no weight."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers(x)


def moves_statistics(network: Batchwise) -> None:
    network.train()
    network(torch.rand(4, 1, 8, 8))
    network.eval()


def zeroes_weights(network: Batchwise) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def replaces_a_layer(network: Batchwise) -> None:
    network.layers[4] = nn.Linear(16, 10)
    network.scale = torch.zeros(())
    network.register_buffer("more", torch.ones(1))


def hooks(network: Batchwise) -> None:
    network.layers[1].register_forward_hook(lambda module, x, y: 0 * y)


def doubles(network: Batchwise) -> None:
    network.double().requires_grad_(True)
    network(torch.rand(4, 1, 8, 8).double()).sum().backward()


def patches_methods(network: Batchwise) -> None:
    network.forward = lambda x: torch.zeros(len(x), 10)  # as one does for BPDA
    network.layers[1].forward = torch.zeros_like


@pytest.mark.parametrize(
    "tampering", [moves_statistics, zeroes_weights, replaces_a_layer, hooks, doubles, patches_methods]
)
def test_a_function_cannot_change_the_network(tampering: Callable[[Batchwise], None]) -> None:
    def attack(network: Batchwise, x: Images, y: Tensor, threat: Threat) -> Images:
        tampering(network)
        return x

    network = Batchwise().train()
    network.layers[1].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    attacks = {"clean": "clean", "mine": attack, "pgd": "pgd-3"}
    found = evaluate(network, DATA, EPS, attacks, batch_size=15, doctor=False)
    alone = evaluate(network, DATA, EPS, {"clean": "clean", "pgd": "pgd-3"}, doctor=False)
    assert torch.equal(found.outcome("mine").correct, found.outcome("clean").correct)
    for name in ("clean", "pgd"):
        assert torch.equal(found.outcome(name).correct, alone.outcome(name).correct)
    assert found.record["subject"]["fingerprint"] == fingerprint(Batchwise())[:16]
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in after.items())
    assert [p.requires_grad for p in network.parameters()] == [False, *[True] * 5]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(module.training and not module._forward_hooks for module in network.modules())


def test_a_network_that_changes_itself_is_left_as_it_was_and_recorded_as_it_came() -> None:
    class Counting(Batchwise):
        def forward(self, x: Tensor) -> Tensor:
            self.scale += 1
            return super().forward(x)

    network = Counting().eval()
    for attacks in (["clean", "pgd-3"], [signed(1)]):
        found = evaluate(network, DATA, EPS, attacks, doctor=False)
        assert found.record["subject"]["fingerprint"] == fingerprint(Counting().eval())[:16]
        assert network.scale == 1


def test_two_processes_share_the_images_of_a_function(model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, attacks = Evaluator(model, load(DATA).test, EPS), {"clean": "clean", "far": signed(1.5), "near": signed(1)}
    whole = asked.run(attacks)
    parts = []
    for index in (0, 1):  # each without what the other adds
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "index", lambda index=index: index)
        monkeypatch.setattr(ranks, "total", lambda value: value)
        parts.append(asked.run(attacks))
    for name in attacks:
        one, other = (part.outcome(name) for part in parts)
        assert torch.equal(one.correct | other.correct, whole.outcome(name).correct)
        assert not (one.correct & other.correct).any()
    outside = [part.outcome("far").settings["outside"] for part in parts]
    assert min(outside) > 0
    assert sum(outside) == whole.outcome("far").settings["outside"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [(lambda x: x[:1], r"shape \(1, 1, 8, 8\)"), (lambda x: None, "NoneType")],
    ids=["shape", "type"],
)
def test_a_function_that_returns_something_else_is_refused(model, answer, said: str) -> None:
    with pytest.raises(BadInput, match=f"returned {said} for images of shape"):
        evaluate(model, DATA, EPS, {"mine": lambda network, x, y, threat: answer(x)})


def test_functions_go_on_between_and_not_inside(model, tmp_path: Path) -> None:
    def first(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        return signed(1)(network, x, y, threat)

    def second(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        return x

    calls: list[str] = []

    def stop(attack: str, done: float) -> None:
        calls.append(attack)
        if calls.count("second") == 2:
            raise KeyboardInterrupt

    whole = evaluate(model, DATA, EPS, [first], batch_size=8, progress=lambda attack, done: calls.append(attack))
    batches = calls.count("first")
    assert batches > 2
    calls.clear()
    output = tmp_path / "record.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, DATA, EPS, [first, second], output=output, batch_size=8, progress=stop)
    assert (calls.count("first"), calls.count("second")) == (batches, 2)
    again: list[str] = []
    found = evaluate(
        *(model, DATA, EPS, [first, second]),
        output=output,
        batch_size=8,
        progress=lambda attack, done: again.append(attack),
    )
    assert again == ["second"] * batches
    assert [outcome.attack for outcome in found.outcomes] == ["first", "second"]
    assert torch.equal(found.outcome("first").correct, whole.outcome("first").correct)


def test_a_function_of_other_values_does_not_go_on_from_the_first_one_s_checkpoint(model, tmp_path: Path) -> None:
    evaluator = Evaluator(model, load(DATA).test, EPS)
    attacks = (signed(1), signed(1), signed(1.5), partial(signed(1), threat=EPS), partial(signed(1), threat=None))
    paths = [evaluator.checkpoint(tmp_path / "record.json", {"mine": attack}).path for attack in attacks]
    assert paths[0] == paths[1]
    assert len(set(paths)) == 4


def test_there_is_no_checkpoint_of_what_could_not_be_recognised(model, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        return x + threat.eps * torch.rand(x.shape, generator=generator)

    def stop(attack: str, done: float) -> None:
        if attack == "noisy":
            raise KeyboardInterrupt

    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, DATA, EPS, ["clean", noisy], output=tmp_path / "r.json", progress=stop, note=notes.append)
    assert list(tmp_path.iterdir()) == []
    assert "starts again" in notes[0]
    assert Evaluator(model, load(DATA).test, EPS).checkpoint(tmp_path / "r.json", {"mine": Undescribed()}) is None


class Undescribed(AutoAttack):
    """An attack whose repr is where it lies in memory."""

    __repr__ = object.__repr__


def test_records_name_functions_and_not_addresses(model) -> None:
    attacks = {"partial": partial(signed(1)), "object": Nameless(), "method": Nameless().__call__}
    entries = evaluate(model, DATA, EPS, attacks).record["attacks"]
    assert [entry["function"].removeprefix("tests.evaluation.test_evaluate.") for entry in entries] == [
        "signed.<locals>.attack",
        "Nameless",
        "Nameless.__call__",
    ]


def test_a_function_of_other_code_does_not_go_on_from_the_first_one_s_checkpoint(model, tmp_path: Path) -> None:
    def version(number: int) -> Callable[..., Any]:
        if number == 1:

            def attack(network, x, y, threat):
                return x

        else:

            def attack(network, x, y, threat):
                return x * 0.99

        return attack

    evaluator = Evaluator(model, load(DATA).test, EPS)
    paths = [
        evaluator.checkpoint(tmp_path / "record.json", {"mine": attack}).path
        for attack in (version(1), version(1), version(2), PGD(5), PGD(6))
    ]
    assert paths[0] == paths[1]
    assert len(set(paths)) == 4


class Nameless:
    def __call__(self, network, x, y, threat):
        return x


REFUSED = {
    "none": ([], "No attack was named"),
    "no attack": ([3], "3 is no attack"),
    "a class": ([PGD], "PGD'> is no attack: give a name such as 'pgd-20', an attack such as PGD"),
    "in a mapping": ({"mine": 3}, "3 is no attack"),
    "a lambda": ([lambda network, x, y, threat: x], "<lambda> is no name for an attack: give it one"),
    "an object without a repr": ([Nameless()], "is no name for an attack: give it one"),
    "two of a name": ([signed(1), signed(2)], "Two attacks are called attack"),
    "ours": ({"aa": PGD(steps=1)}, "aa is the name of an attack of Sparring's"),
    "clean": ({"clean": PGD(steps=1)}, "clean is the name of an attack of Sparring's"),
    "unknown in a mapping": ({"mine": "pgd20"}, "did you mean 'pgd-20'"),
    "ours for another of ours": ({"aa": "fgsm"}, "aa is the name of an attack of Sparring's"),
    "clean for another of ours": ({"clean": "pgd-20"}, "clean is the name of an attack of Sparring's"),
    "a number as a name": ({1: "pgd-2"}, "1 is no name for an attack: give it a text"),
    "a number as a function's name": ({1: signed(1)}, "1 is no name for an attack: give it a text"),
    "nothing as a name": ({None: signed(1)}, "None is no name for an attack: give it a text"),
    "an empty name": ({"": "fgsm"}, "'' is no name for an attack: give it a text"),
    "an empty text": (" , ", "No attack was named"),
    "an empty generator": ((name for name in ()), "No attack was named"),
    "nothing": (None, "None is no attack"),
    "a number": (3, "3 is no attack"),
}


@pytest.mark.parametrize(("attacks", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_attack_or_has_no_name_is_refused(model, attacks, sentence: str, tmp_path: Path) -> None:
    """Before the data are loaded: the folder is empty."""
    with pytest.raises(BadInput) as refused:
        evaluate(model, Data("cifar10", path=str(tmp_path)), EPS, attacks)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        (PGD(steps=2), [repr(PGD(steps=2))]),
        (signed(1), ["attack"]),
        ("clean", ["clean"]),
        ("clean, pgd-2,", ["clean", "pgd-2"]),
        (iter(["clean", "pgd-2"]), ["clean", "pgd-2"]),
        ({"clean": 1, "fgsm": 1}.keys(), ["clean", "fgsm"]),
        ({"aa-fast": "aa-fast", "natural": "clean"}, ["aa-fast", "natural"]),
    ],
)
def test_what_plainly_means_attacks_is_taken(model, attacks, names: list[str], tmp_path: Path) -> None:
    found = evaluate(model, DATA, EPS, attacks, output=tmp_path / "record.json")
    assert [outcome.attack for outcome in found.outcomes] == names


# The arguments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"precision": "foo"}, "Unknown precision 'foo'"),
        ({"data": "digits"}, "The data are 'digits': give Data('digits')"),
        ({"data": torch.rand(3, 1, 8, 8)}, "The data are of type Tensor"),
        ({"data": (torch.rand(3, 1, 8, 8), torch.eye(3))}, "Labels have shape (3, 3), as one-hot ones do"),
        ({"threat": 0.2}, "The threat is 0.2: give the norm and the radius, such as Threat('Linf', '8/255')"),
        ({"model": "runs/mine"}, "The model is 'runs/mine': give a torch.nn.Module"),
        ({"model": None}, "The model is None"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_a_sentence(model, changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        evaluate(**{"model": model, "data": Data("nowhere"), "threat": EPS} | changed)
    assert sentence in str(refused.value)


def test_images_are_taken_as_people_have_them(model) -> None:
    images = load(DATA).test
    x, y = images.pixels / 255, images.labels
    plain = evaluate(model, images, EPS, ATTACKS)
    for data in (
        (images.pixels, y),
        (x, y[:, None].int()),
        (x.numpy(), y.numpy()),
        TensorDataset(x, y),
        DataLoader(TensorDataset(x, y), batch_size=7),
    ):
        found = evaluate(model, data, EPS, ATTACKS)
        for name in ATTACKS:
            assert torch.equal(found.outcome(name).correct, plain.outcome(name).correct)


def test_fractions_between_the_levels_are_attacked_as_they_are(model, tmp_path: Path) -> None:
    """Neither rounded to 8 bits nor written into, and resumed and recorded like bytes."""
    images = load(DATA).test
    x = (images.pixels / 255 + 0.3 / 255).clamp(0, 1)
    before, seen = x.clone(), []

    def nothing(network: nn.Module, x: Images, y: Tensor, threat: Threat) -> Images:
        seen.append(x.clone())
        return x

    found = evaluate(model, (x, images.labels), EPS, {"clean": "clean", "nothing": nothing}, output=tmp_path / "record")
    correct = found.outcome("clean").correct
    assert torch.equal(correct, model(x).argmax(1) == images.labels)
    assert torch.equal(torch.cat(seen), x[correct])
    assert torch.equal(x, before)
    of_bytes = evaluate(model, images, EPS, ["clean"])
    assert found.record["data"]["fingerprint"] != of_bytes.record["data"]["fingerprint"]


def test_the_doctor_looks_at_images_from_python(model) -> None:
    images = load(DATA).test
    with pytest.raises(BadInput, match="probabilities, not logits"):
        evaluate(nn.Sequential(model, nn.Softmax(1)), (images.pixels / 255, images.labels), EPS, ["clean"])


def test_a_precision_that_there_is_not_is_refused_without_evaluate_as_well(model) -> None:
    with pytest.raises(BadInput, match="Unknown precision 'foo'"):
        Evaluator(model, load(DATA).test, EPS, precision="foo")


def test_an_evaluator_takes_images_and_a_threat(model) -> None:
    images = load(DATA).test
    with pytest.raises(BadInput, match=r"The images are of type tuple: give Images\(pixels, labels\)"):
        Evaluator(model, (images.pixels, images.labels), EPS)
    with pytest.raises(BadInput, match=r"The threat is 0\.1"):
        Evaluator(model, images, 0.1)


def test_no_file_is_written_over_another(model, run: Path, tmp_path: Path) -> None:
    one, weights = tmp_path / "one", tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    nowhere = Data("cifar10", path=str(tmp_path / "empty"))
    with pytest.raises(BadInput, match="one would be overwritten"):
        evaluate(model, nowhere, EPS, output=one, examples=tmp_path / "folder" / ".." / "one")
    with pytest.raises(BadInput, match="weights.safetensors would be overwritten"):
        evaluate(model, nowhere, EPS, examples=weights, source=ModelSource("mine", str(weights)))
    assert cli.main(["evaluate", str(run), "--output", str(one), "--examples", str(one)]) == 2
    assert cli.main(["evaluate", str(weights), "--examples", str(weights)]) == 2
    assert weights.read_bytes() == b"weights"
    assert not one.exists()


def test_results_are_printed_in_a_few_lines(model) -> None:
    found = evaluate(model, DATA, EPS, ["clean", "fgsm"], keep=True)
    clean, fgsm = (f"{100 * found.accuracy(name):.2f}%" for name in ("clean", "fgsm"))
    assert str(found) == repr(found) == f"clean: {clean}\nfgsm: {fgsm}\nworst: {fgsm} of {SAMPLES} images"
    assert "tensor" not in repr(found.outcome("fgsm"))
    assert "Evaluation(" not in repr([found])


def test_images_of_another_number_of_channels_are_refused(model) -> None:
    with pytest.raises(BadInput, match=r"images of 3 channel\(s\), not of 1"):
        evaluate(create("smallconv", 10, size=8, width=8).eval(), DATA, EPS, ["clean"])
