"""Records on disk: one a question and network; nothing measured is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparring import cli
from sparring.attacks import PGD
from sparring.data import Images
from sparring.errors import BadInput
from sparring.evaluation import Evaluation, evaluate, write_record
from sparring.evaluation.records import checksum, listed, whole_records
from sparring.models import Normalised, create
from sparring.threat import Threat

THREAT = Threat("Linf", "0.02")


def network(seed: int = 0) -> nn.Module:
    """One whose classes all occur."""
    torch.manual_seed(seed)
    model = create("smallconv", 4, channels=1, size=8, width=4).eval()
    (*_, head) = (module for module in model.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        head.bias -= model(pixels() / 255).mean(0)
    return model


def pixels() -> Tensor:
    return torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def images() -> Images:
    """With the labels that the first network gives them, so that some are fooled and some are not."""
    with torch.no_grad():
        return Images(pixels(), network()(pixels() / 255).argmax(1), torch.arange(40))


def asked(output: Path, attacks: Any, *, model: nn.Module | None = None, threat: Threat = THREAT, **more) -> Evaluation:
    return evaluate(model or network(), images(), threat, attacks, output=output, doctor=False, **more)


def names(path: Path) -> list[str]:
    return [entry["attack"] for entry in json.loads(path.read_text())["attacks"]]


def test_further_attacks_join_the_record_of_the_same_question(tmp_path: Path) -> None:
    first = asked(tmp_path, "square")
    second = asked(tmp_path, ["clean", "pgd-5"])
    assert first.file == second.file
    assert [path.name for path in tmp_path.iterdir()] == [first.file.name]
    assert names(first.file) == ["square", "clean", "pgd-5"]
    held = json.loads(first.file.read_text())
    assert held.pop("sha256") == checksum(held)
    assert held == second.record


def test_a_record_that_is_saved_later_joins_its_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    for attack in ("clean", "pgd-2"):
        evaluate(network(), images(), THREAT, attack, doctor=False).save(file)
    assert names(file) == ["clean", "pgd-2"]
    other = evaluate(network(1), images(), THREAT, "clean", doctor=False)
    with pytest.raises(BadInput, match="holds .* not this network on these images under this threat"):
        other.save(file)
    (tmp_path / "notes.json").write_text('{"my": "notes"}')
    with pytest.raises(BadInput, match="something that is no record of an evaluation"):
        other.save(tmp_path / "notes.json")
    with pytest.raises(BadInput, match=r"written as \.json"):
        other.save(tmp_path / "record.txt")
    assert names(file) == ["clean", "pgd-2"]
    with pytest.raises(BadInput, match="pgd-20 was not run: there are clean"):
        other.accuracy("pgd-20")


@pytest.mark.parametrize("later", [False, True], ids=["output", "saved later"])
def test_findings_that_a_record_holds_stay_and_are_said_once(later: bool, tmp_path: Path) -> None:
    file, threat = tmp_path / "record.json", Threat("L2", "8/255")
    for attack, doctor in (("clean", True), ("pgd-2", False), ("pgd-3", True)):
        found = evaluate(network(), images(), threat, attack, doctor=doctor, output=None if later else file)
        if later:
            found.save(file)
        said = [finding["check"] for finding in json.loads(file.read_text())["findings"]]
        assert said.count("radius") == 1
    assert names(file) == ["clean", "pgd-2", "pgd-3"]


def test_the_worst_of_a_record_is_over_all_its_attacks_image_by_image(tmp_path: Path) -> None:
    def half(rest: int):
        def attack(model, x, y, threat):
            chosen = torch.arange(len(x))[:, None, None, None] % 2 == rest
            return torch.where(chosen, PGD(steps=5)(model, x, y, threat), x)

        return attack

    one, other = asked(tmp_path, {"even": half(0)}), asked(tmp_path, {"odd": half(1)})
    assert 0 < other.record["worst"] < min(one.worst, other.worst)
    together = asked(tmp_path / "elsewhere", {"even": half(0), "odd": half(1)})
    assert other.record["worst"] == together.worst
    correct = [outcome.correct for outcome in (*one.outcomes, *other.outcomes)]
    held = [f"{int(entry['correct'], 16):040b}" for entry in other.record["attacks"]]
    assert held == ["".join(str(int(each)) for each in mask) for mask in correct]


def test_an_attack_that_is_run_again_takes_the_place_of_its_result_and_other_settings_do_not(tmp_path: Path) -> None:
    asked(tmp_path, {"mine": PGD(steps=2), "other": PGD(steps=3)})
    again = asked(tmp_path, {"mine": PGD(steps=2)})
    assert names(again.file) == ["other", "mine"]
    changed = asked(tmp_path, {"mine": PGD(steps=4)})
    assert [(entry["attack"], entry["steps"]) for entry in changed.record["attacks"]] == [
        ("other", 3),
        ("mine", 2),
        ("mine", 4),
    ]


def test_what_was_measured_elsewhere_says_where(tmp_path: Path) -> None:
    file = asked(tmp_path, "square").file
    content = json.loads(file.read_text())
    content["environment"] |= {"torch": "1.0"}
    write_record(content, file)
    square, clean = asked(tmp_path, "clean").record["attacks"]
    assert square["measured"]["environment"]["torch"] == "1.0"
    assert square["measured"]["device"] == "cpu"
    assert "measured" not in clean
    (kept, _, _) = asked(tmp_path, "pgd-2").record["attacks"]
    assert kept == square, "it is not said anew of a later record"


OTHERS = [
    {"threat": Threat("Linf", "0.03")},
    {"threat": Threat("L2", "0.02")},
    {"model": network(seed=1)},
    {"seed": 1},
    {"precision": "search16"},
]


@pytest.mark.parametrize("other", OTHERS, ids=["eps", "norm", "weights", "seed", "precision"])
def test_another_question_has_a_file_of_its_own_and_is_not_written_over_this_one(other, tmp_path: Path) -> None:
    first = asked(tmp_path, "clean").file
    before = first.read_bytes()
    second = asked(tmp_path, "clean", **other).file
    assert second != first
    assert first.read_bytes() == before
    with pytest.raises(BadInput, match="holds Linf eps 0.02 on 40 images: clean .*, not this network on these images"):
        asked(first, "clean", **other)
    assert first.read_bytes() == before


def test_other_images_are_another_question(tmp_path: Path) -> None:
    first = asked(tmp_path, "clean").file
    fewer = evaluate(network(), images().subset(torch.arange(20)), THREAT, "clean", output=tmp_path, doctor=False)
    assert fewer.file != first


@pytest.mark.parametrize("content", ["notes of mine", "{}", "[1]", '{"attacks": 3}'])
def test_a_file_of_something_else_is_left_alone(content: str, tmp_path: Path) -> None:
    file = tmp_path / "notes.json"
    file.write_text(content)
    with pytest.raises(BadInput, match="holds something that is no record of an evaluation"):
        asked(file, "clean")
    assert file.read_text() == content


def test_a_figure_that_was_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    file = asked(tmp_path, "clean").file
    text = file.read_text()
    assert list(whole_records(tmp_path)) == [json.loads(text)]
    content = json.loads(text)
    content["attacks"][0]["accuracy"] += 0.01
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="damaged or changed: move it away"):
        asked(tmp_path, "pgd-2")
    with pytest.raises(BadInput, match="is not as an evaluation wrote it"):
        list(whole_records(tmp_path))
    file.write_text(json.dumps(json.loads(text)))  # in other words
    assert list(whole_records(tmp_path)) == [json.loads(text)]


@pytest.mark.parametrize("key", ["searched", "attacks", "findings", "correct"])
def test_a_record_that_lacks_something_is_answered_before_the_work_begins(key: str, tmp_path: Path) -> None:
    file = asked(tmp_path, "clean").file
    content = json.loads(file.read_text())
    del content["sha256"]  # early records have none
    del (content["attacks"][0] if key == "correct" else content)[key]
    file.write_text(json.dumps(content))

    def never(*_):
        raise AssertionError("the work has begun")

    with pytest.raises(BadInput, match="a record of this question that was damaged or changed: move it away"):
        asked(tmp_path, {"never": never})


class Scaled(nn.Module):
    """Equal weights, and another answer."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = network(), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x * self.factor)


def test_networks_of_equal_weights_that_answer_otherwise_are_different_questions(tmp_path: Path) -> None:
    files = {asked(tmp_path, "clean", model=Scaled(factor).eval()).file for factor in (1.0, 0.9, 1.0)}
    assert len(files) == 2
    quantised = create("smallconv", 4, channels=1, size=8, width=4).eval()
    plain, rounded = Normalised(quantised, 1), Normalised(quantised, 1, levels=4)
    assert asked(tmp_path, "clean", model=plain.eval()).file != asked(tmp_path, "clean", model=rounded.eval()).file


def test_another_function_under_the_same_name_does_not_take_the_place_of_the_first(tmp_path: Path) -> None:
    asked(tmp_path, {"mine": lambda model, x, y, threat: x})
    again = asked(tmp_path, {"mine": lambda model, x, y, threat: (x + threat.eps).clamp(0, 1)})
    assert names(again.file) == ["mine", "mine"]
    assert names(asked(tmp_path, {"mine": lambda model, x, y, threat: x}).file) == ["mine", "mine"]


@pytest.mark.filterwarnings("ignore:torch.")
def test_quantised_networks_have_records(tmp_path: Path) -> None:
    model = torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}, dtype=torch.qint8)
    assert names(asked(tmp_path, "clean,square", model=model).file) == ["clean", "square"]


def test_a_record_of_a_version_that_knew_no_questions_is_left_alone_and_listed(tmp_path: Path) -> None:
    file = asked(tmp_path / "old.json", "clean").file
    content = json.loads(file.read_text())
    del content["question"], content["attacks"][0]["correct"]
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="old.json holds Linf eps 0.02"):
        asked(file, "pgd-2")
    assert list(listed(tmp_path)) == ["old.json: Linf eps 0.02 on 40 images: clean 100.00%"]


def test_the_command_line_lists_what_else_is_on_record(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--optimisation.epochs", "1", "--data.limit", "200", "--model.width", "4", "--selection.images", "10"]
    assert cli.main(["train", "digits/fgsm-rs", "--run", "net", *quick]) == 0
    few = ["net", "--samples", "20", "--no-doctor"]
    assert cli.main(["evaluate", *few, "--attacks", "clean,pgd-2"]) == 0
    assert "Also on record" not in capsys.readouterr().out
    assert cli.main(["evaluate", *few, "--attacks", "clean", "--threat.eps", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "Record: net/evaluations/Linf-0.1-20-" in out
    assert out.count("Also on record: Linf-0.2-20-") == 1
    assert "Linf eps 0.2 on 20 images: clean " in out
    assert cli.main(["evaluate", *few, "--attacks", "fgsm", "--checkpoint", "last"]) == 0
    assert len(list((tmp_path / "net" / "evaluations").glob("*.json"))) == 2, "the only epoch is the best one, too"


def test_the_name_of_another_kind_of_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"one\.txt is neither a \.json file nor a folder that exists"):
        asked(tmp_path / "one.txt", "clean")
    (tmp_path / "v1.2").mkdir()
    assert asked(tmp_path / "v1.2", "clean").file.parent == tmp_path / "v1.2"


def test_two_networks_behind_one_name_have_a_record_each(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "import torch\nfrom sparring.models import create\n\n\ndef make():\n    torch.manual_seed({seed})\n"
    source += "    return create('smallconv', 10, channels=1, size=8, width=4)\n"
    for number in (0, 1):
        module = Path(f"changing_{number}.py")
        module.write_text(source.format(seed=number))
        words = ["--samples", "20", "--no-doctor", "--attacks", "clean", "--output", "records"]
        assert cli.main(["evaluate", f"changing_{number}:make", *words]) == 0
    assert len(list(Path("records").glob("*.json"))) == 2


def test_a_printed_evaluation_says_its_warnings(tmp_path: Path) -> None:
    found = evaluate(network(), images(), Threat("L2", "8/255"), "clean")
    assert any(line.startswith("warning: The radius is L2 8/255") for line in str(found).splitlines())
    assert "warning" not in str(evaluate(network(), images(), THREAT, "clean", doctor=False))


def test_examples_hold_what_was_before_and_what_the_network_says(tmp_path: Path) -> None:
    file = tmp_path / "examples.safetensors"
    found = evaluate(network(), images(), THREAT, ["clean", "pgd-5"], doctor=False, examples=file)
    saved = load_file(file)
    data, model = images(), network()
    assert torch.equal(saved["clean"], data.pixels / 255)
    with torch.no_grad():
        assert torch.equal(saved["predicted.clean"], model(saved["clean"]).argmax(1))
        assert torch.equal(saved["predicted.pgd-5"], model(saved["images.pgd-5"]).argmax(1))
    fooled = saved["predicted.pgd-5"] != saved["labels"]
    assert torch.equal(~fooled, found.outcome("pgd-5").correct)
    assert 0 < int(fooled.sum()) < 40


def test_examples_are_written_to_no_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"written as \.safetensors: name the file so, not .*ex\.png"):
        evaluate(network(), images(), THREAT, "pgd-2", examples=tmp_path / "ex.png")
    assert list(tmp_path.iterdir()) == []


def test_examples_replace_examples_and_nothing_else(tmp_path: Path) -> None:
    file, weights = tmp_path / "examples.safetensors", tmp_path / "model.safetensors"
    save_file({"fc.weight": torch.ones(2)}, weights)
    before = weights.read_bytes()
    with pytest.raises(BadInput, match=r"model.safetensors holds no adversarial images and would be overwritten"):
        evaluate(network(), images(), THREAT, "pgd-2", doctor=False, examples=weights)
    assert weights.read_bytes() == before
    for attack in ("pgd-2", "pgd-3"):
        evaluate(network(), images(), THREAT, attack, doctor=False, examples=file)
    assert "images.pgd-3" in load_file(file)
    before = file.read_bytes()
    for other in ((network(1), THREAT), (network(), Threat("Linf", "0.03"))):
        with pytest.raises(
            BadInput, match="holds adversarial images of another network, of other images or another threat"
        ):
            evaluate(other[0], images(), other[1], "pgd-2", doctor=False, examples=file)
    assert file.read_bytes() == before


def test_files_are_readable_by_whom_the_umask_lets_read(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        file, record = tmp_path / "examples.safetensors", tmp_path / "record.json"
        evaluate(network(), images(), THREAT, "pgd-2", doctor=False, examples=file, output=record)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (file, record)} == {0o644}
