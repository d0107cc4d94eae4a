"""The benchmarks of what methods learn run, on very little, and write the records that the log quotes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

import sparring
from benchmarks.accuracy import averaging, comparison, fast, generator, overfitting, policy, setting, tables
from benchmarks.harness.methods import RECIPES
from benchmarks.harness.steps import Bench, held_out
from benchmarks.speed import compaction
from sparring.data import Batch
from sparring.errors import BadInput
from sparring.learner import Learner
from sparring.methods import Method
from sparring.training import checkpoint
from sparring.training.cost import step_cost


def _call(module, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    assert module.main() == 0


def test_the_policy_s_benchmark_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "policy.json"
    monkeypatch.setattr(policy, "held_out", lambda images, size: held_out(images.subset(torch.arange(64)), size))
    monkeypatch.setattr(policy, "CONTROLS", ("uniform",))
    _call(policy, monkeypatch, "training", "--seeds", 0, "--epochs", 1, "--json", file)
    (found,) = json.loads(file.read_text())["found"]
    row = found["by_epoch"][0]
    assert row["difference"] == pytest.approx(row["learned"] - row["uniform"], abs=2e-4)
    assert set(found["accuracies"]) == {"learned", "uniform"}
    ours = next(iter(policy.VARIANTS.values()))
    toy = policy.toy(ours, seed=0, updates=3)
    assert [update for update, _ in toy["probability"]] == [0, 3]
    assert toy["moved"] > 0


def test_the_generator_s_benchmark_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "generator.json"
    _call(generator, monkeypatch, "--inputs", "gradient", "--seeds", 0, "--epochs", 1, "--json", file)
    (run,) = json.loads(file.read_text())["runs"]
    assert run["by_epoch"][0]["generator"] > 0
    assert 0 <= run["last"]["pgd-20"] <= run["last"]["clean"] <= 1


def test_the_benchmark_of_overfitting_resumes_and_repeats_nothing(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--images", 256, "--held-out", 16, "--test-images", 16, "--epochs", 1, "--attacks", "clean", "fgsm"]
    words = ["--data", cifar10, "--methods", "fgsm-rs", "--eps", 16, "--runs", tmp_path / "runs", *small]
    _call(overfitting, monkeypatch, *words, "--json", tmp_path / "one.json")
    monkeypatch.setattr(overfitting.sparring, "train", None)  # the second call must not train
    _call(overfitting, monkeypatch, *words, "--json", tmp_path / "two.json")
    one, two = (json.loads((tmp_path / name).read_text())["runs"] for name in ("one.json", "two.json"))
    assert one == two
    assert one[0]["eps"] == "16/255"
    assert any("alpha: 20/255" in line for line in one[0]["config"])


def test_the_benchmark_of_compaction_writes_a_record(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "compaction.json"
    small = ["--images", 32, "--epochs", 1, "--width", 8, "--batch", 16, "--pairs", 1, "--at", 0, 0.8]
    _call(compaction, monkeypatch, "--data", cifar10, *small, "--json", file)
    found = {(row["recipe"], row["at"]): row for row in json.loads(file.read_text())["found"]}
    assert [*found] == [(recipe, at) for recipe in ("las-at-uniform", "fat", "sat", "dart") for at in (0, 0.8)]
    for (recipe, _), row in found.items():
        masked = 14 if recipe == "las-at-uniform" else 10
        assert row["forwards"]["masked"] == pytest.approx(3 + 2 * masked, rel=0.02)
        assert 0 <= row["attack_steps"] <= masked
        assert row["forwards"]["compact"] <= row["forwards"]["masked"]
        assert len(row["seconds"]["masked"]) == len(row["seconds"]["compact"]) == 1
    for begun in (("las-at-uniform", 0), ("fat", 0), ("sat", 0)):
        assert found[begun]["forwards"]["compact"] < 0.75 * found[begun]["forwards"]["masked"]
    # SAT's gap is 1 by then: nobody stops.
    assert found["sat", 0.8]["attack_steps"] == 10
    assert found["sat", 0.8]["forwards"]["compact"] == found["sat", 0.8]["forwards"]["masked"]


def test_the_benchmark_of_accuracy_repeats_nothing_and_refuses_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--images", 300, "--held-out", 20, "--test-images", 32, "--width", 8, "--seeds", 0]
    small += ["--attacks", "clean", "pgd-20", "--methods", "fgsm-rs", "trades", "--runs", tmp_path / "runs"]
    words = ["run", "--data-set", "digits", *small]
    _call(comparison, monkeypatch, *words, "--epochs", 1, "--json", tmp_path / "one.json")
    monkeypatch.setattr(comparison.sparring, "train", None)  # from here on nothing may be trained
    _call(comparison, monkeypatch, *words, "--epochs", 1, "--json", tmp_path / "two.json")
    one, two = (tables.read(tmp_path / name) for name in ("one.json", "two.json"))
    assert one == two
    assert [(run["method"], run["seed"]) for run in one] == [("fgsm-rs", 0), ("trades", 0)]
    # As in test_cost.py; the first layer, which spares its share, is a larger part of this network.
    assert [run["passes"] for run in one] == pytest.approx([5, 2 * 10 + 7], rel=0.05)
    for run in one:
        assert run["last"] == run["best"]  # the only epoch
        assert 0 <= run["last"]["pgd-20"] <= run["last"]["clean"] <= 1
        assert run["train_seconds"] > 0

    with pytest.raises(BadInput, match="epochs: 1, not epochs: 2"):
        _call(comparison, monkeypatch, *words, "--epochs", 2)


def test_the_benchmark_of_accuracy_evaluates_a_trained_run_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--data-set", "digits", "--methods", "standard", "--seeds", 0, "--epochs", 1, "--width", 8]
    words += ["--images", 200, "--held-out", 20, "--test-images", 32, "--runs", tmp_path / "runs"]
    _call(comparison, monkeypatch, *words, "--attacks", "clean")
    trained = (tmp_path / "runs/digits/standard-seed0/environment.json").read_text()
    monkeypatch.setattr(comparison.sparring, "train", None)
    _call(comparison, monkeypatch, *words, "--attacks", "clean", "fgsm", "--json", tmp_path / "record.json")
    (run,) = tables.read(tmp_path / "record.json")
    assert [*run["last"]] == ["clean", "fgsm"]
    assert run["environment"] == json.loads(trained)


def test_passes_are_counted_where_training_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data.limit=300", "--data.validation=20", "--model.width=8", "--optimisation.epochs=2"]
    words += ["--optimisation.schedule=Cyclic", "--runtime.accelerator=cpu"]
    sparring.train(sparring.recipe("digits/standard", words), tmp_path)
    trained = sparring.load(tmp_path, "last").state_dict()
    seen, begun = [], []

    def cost(method: Method, learner: Learner, batch: Batch, epoch: int) -> float:
        for name, weights in learner.network.named_parameters():
            assert torch.equal(weights, trained[name])
        seen.append((learner.steps, len(batch.y)))
        assert epoch == 1
        return step_cost(method, learner, batch, epoch) + 2 * (len(seen) % 2)

    monkeypatch.setattr(comparison, "step_cost", cost)
    monkeypatch.setattr(sparring.methods.Standard, "begin_epoch", lambda method, epoch, review: begun.append(epoch))
    assert comparison.passes(sparring.recipe("digits/standard", words), tmp_path) == pytest.approx(3 + 1, rel=0.06)
    steps = 2 * 3  # epochs of two whole batches and a third one
    assert seen == [(steps + number, 128) for number in range(40)]
    assert begun == [1]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "standard", "nonsense"], "Unknown recipe 'digits/nonsense'"),
        (["--attacks", "pgd"], "Unknown attack 'pgd'"),
        (["--images", 140, "--held-out", 20], "There are 120 images to train on"),
        (["--test-images", 0], "--test-images at least 1"),
        (["--epochs", 0], "optimisation.epochs must be positive"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_benchmark_of_accuracy_refuses_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], sentence: str
) -> None:
    monkeypatch.setattr(comparison.sparring, "train", None)
    runs = ["--methods", "standard", "--seeds", 0, "--runs", tmp_path]
    with pytest.raises(BadInput, match=sentence):
        _call(comparison, monkeypatch, "run", "--data-set", "digits", *runs, *words)


def test_the_recipes_of_a_comparison_share_one_protocol() -> None:
    names = [name for name in RECIPES if f"digits/{name}" in sparring.recipes.names()]
    options = argparse.Namespace(data=None, images=500, held_out=50, width=8, epochs=3)
    experiments = [comparison.Setting("digits", name, 1).experiment(options) for name in names]
    for part in ("data", "threat", "runtime", "seed"):
        assert len({repr(getattr(experiment, part)) for experiment in experiments}) == 1, part
    for name in ("name", "width", "normalise"):
        assert len({getattr(experiment.model, name) for experiment in experiments}) == 1, name
    for name in ("epochs", "batch_size", "optimizer", "lr", "momentum", "weight_decay", "schedule"):
        assert len({getattr(experiment.optimisation, name) for experiment in experiments}) == 1, name


def _noted(method: str, seed: int, *, pgd: float, best: float, seconds: float) -> dict[str, object]:
    last = {"clean": 0.9, "pgd-20": pgd, "cw-20": 0.25}
    best_epoch = {"clean": 0.9, "pgd-20": best, "cw-20": 0.25}
    return {
        "method": method,
        "seed": seed,
        "last": last,
        "best": best_epoch,
        "passes": 4.96,
        "train_seconds": seconds,
    }


NOTED = [
    _noted("weak", 0, pgd=0.30, best=0.41, seconds=10.4),
    _noted("strong", 0, pgd=0.40, best=0.40, seconds=20.2),
    _noted("weak", 1, pgd=0.32, best=0.43, seconds=11.4),
    _noted("strong", 1, pgd=0.44, best=0.40, seconds=20.2),
]
# Two values a and b deviate by |a - b| / sqrt(2) from their mean.
TABLE = """\
| method | clean | PGD-20 | CW-20 | PGD-20, best epoch | passes a step | seconds |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| weak | 90.0 ± 0.0 | 31.0 ± 1.4 | **25.0 ± 0.0** | **42.0 ± 1.4** | 5.0 | 11 |
| strong | 90.0 ± 0.0 | **42.0 ± 2.8** | **25.0 ± 0.0** | 40.0 ± 0.0 | 5.0 | 20 |"""


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    record = tmp_path / "by-hand.json"
    record.write_text(json.dumps({"arguments": {}, "runs": NOTED}))
    return record


def test_a_record_of_accuracies_is_rendered(
    noted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _call(comparison, monkeypatch, "table", noted)
    assert capsys.readouterr().out == TABLE + "\n"
    _call(comparison, monkeypatch, "table", noted, "--methods", "strong")
    assert capsys.readouterr().out.splitlines()[2:] == [TABLE.splitlines()[3].replace("40.0 ± 0.0", "**40.0 ± 0.0**")]
    assert "| strong | 90.0 | **40.0** | **25.0** | **40.0** | 5.0 | 20 |" in tables.markdown([NOTED[1]])
    with pytest.raises(BadInput, match="no run of other"):
        tables.markdown(NOTED, ["weak", "other"])


@pytest.mark.parametrize("content", ["", "[]", '{"runs": []}', '{"runs": [{"method": "weak", "seed": 0}]}'])
def test_what_is_no_record_of_accuracies_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "record.json"
    with pytest.raises(BadInput, match="not a record of this benchmark"):
        tables.read(file)
    file.write_text(content)
    with pytest.raises(BadInput, match="not a record of this benchmark"):
        tables.read(file)


def test_tables_of_accuracies_are_renewed_between_their_markers(
    noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    end = "<!-- end of accuracy -->"
    begun = f"# Title\n\n<!-- accuracy: by-hand -->\nold\n{end}\n\nText.\n"
    foreign = f"<!-- accuracy: another-record -->\nkept\n{end}\n"
    page.write_text(f"{begun}<!-- accuracy: by-hand -->\n{end}\n{foreign}")
    _call(comparison, monkeypatch, "table", noted, "--into", page)
    assert page.read_text(encoding="utf-8") == (
        f"# Title\n\n<!-- accuracy: by-hand -->\n\n{TABLE}\n\n{end}\n\nText.\n"
        f"<!-- accuracy: by-hand -->\n\n{TABLE}\n\n{end}\n{foreign}"
    )

    once = page.read_text(encoding="utf-8")
    _call(comparison, monkeypatch, "table", noted, "--into", page)
    assert page.read_text(encoding="utf-8") == once


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Text.\n", "no line <!-- accuracy: by-hand -->"),
        ("<!-- accuracy: another -->\n<!-- end of accuracy -->\n", "no line <!-- accuracy: by-hand -->"),
        ("<!-- accuracy: by-hand -->\nText.\n", "without a line <!-- end of accuracy -->"),
        (
            "<!-- accuracy: by-hand -->\nText.\n<!-- accuracy: by-hand -->\n<!-- end of accuracy -->\n",
            "without a line <!-- end of accuracy -->",
        ),
        ("<!-- accuracy: by-hand other -->\n<!-- end of accuracy -->\n", "names other, too: give all of them"),
    ],
)
def test_pages_without_whole_markers_are_refused_and_stay(
    noted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str
) -> None:
    good, page = tmp_path / "good.md", tmp_path / "page.md"
    marked = "<!-- accuracy: by-hand -->\n<!-- end of accuracy -->\n"
    good.write_text(marked)
    page.write_text(text)
    with pytest.raises(BadInput, match=sentence):
        _call(comparison, monkeypatch, "table", noted, "--into", good, page)
    assert page.read_text() == text
    assert good.read_text() == marked


def test_a_setting_is_compared_with_the_recipe_without_it_on_the_same_seeds(tmp_path, monkeypatch, capsys) -> None:
    file = tmp_path / "setting.json"
    few = ["optimisation.epochs=1", "data.limit=200", "data.test_limit=20"]
    words = ["digits/fgsm-rs", "--with", "optimisation.lr=1e-9", "--both", *few, "--seeds", 2]
    _call(setting, monkeypatch, *words, "--json", file)
    runs = json.loads(file.read_text())["runs"]
    assert [run["seed"] for run in runs] == [0, 1]
    assert any(run["with"] != run["without"] for run in runs), "a rate of next to nothing learns nothing"
    assert "standard error" in capsys.readouterr().out


def test_the_benchmark_of_averages_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "averaging.json"
    _call(averaging, monkeypatch, "--method", "fgsm-rs", "--epochs", 2, "--seeds", 0, "--json", file)
    (run,) = json.loads(file.read_text())["runs"]
    assert set(run["accuracies"]) == {"last", "average", "average, last statistics"}
    assert len({tuple(found.items()) for found in run["accuracies"].values()}) == 3  # three networks


SHORT = ["--images", 256, "--held-out", 16, "--test-images", 16, "--passes", 5]


def test_the_benchmark_of_short_trainings_repeats_nothing_and_refuses_other_settings(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = ["base", "batch 128, rate 0.2"]
    words = ["--data", cifar10, "--variants", *variants, "--runs", tmp_path / "runs", *SHORT]
    _call(fast, monkeypatch, *words, "--json", tmp_path / "one.json")
    monkeypatch.setattr(fast.sparring, "train", None)  # from here on nothing may be trained
    _call(fast, monkeypatch, *words, "--json", tmp_path / "two.json")
    _call(fast, monkeypatch, *words, "--seeds", 0, 1, "--finished", "--json", tmp_path / "three.json")
    one, two, three = (json.loads((tmp_path / f"{name}.json").read_text())["runs"] for name in ("one", "two", "three"))
    assert one == two == three  # the third call asked for a seed of which nothing is finished
    assert [(run["variant"], run["seed"], run["epochs"], run["steps"]) for run in one] == [
        ("base", 0, 1, 8),
        ("batch 128, rate 0.2", 0, 1, 2),
    ]
    for run in one:
        assert all(
            0 <= run[name][attack] <= run[name]["clean"] <= 1 for name in fast.NETWORKS for attack in ("pgd-20",)
        )
    assert str(tmp_path) not in (tmp_path / "one.json").read_text()
    assert str(cifar10) not in (tmp_path / "one.json").read_text()

    with pytest.raises(BadInput, match="epochs: 1, not epochs: 2"):
        _call(fast, monkeypatch, *words, "--passes", 10)


def test_the_two_networks_of_a_short_training_are_its_last_step_and_its_average(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", cifar10, "--variants", "base", "--runs", tmp_path / "runs", *SHORT]
    _call(fast, monkeypatch, *words)
    folder = tmp_path / "runs" / "base-seed0"
    learner = checkpoint.load(sparring.Run(folder).last)["learner"]
    found = {name: fast.network(folder, name).state_dict() for name in fast.NETWORKS}
    for name, trained in (("last", learner["network"]), ("average", learner["average"])):
        assert all(torch.equal(found[name][key], value) for key, value in trained.items())
    assert any(not torch.equal(value, found["average"][name]) for name, value in found["last"].items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--variants", "base", "nonsense"], "no variant 'nonsense': choose from base"),
        (["--variants", "base", "--attacks", "pgd"], "Unknown attack 'pgd'"),
        (["--variants", "base", "--decay", "1"], "decay of EMA must lie between 0 and 1"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_the_benchmark_of_short_trainings_refuses_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[object], sentence: str
) -> None:
    monkeypatch.setattr(fast.sparring, "train", None)
    with pytest.raises(BadInput, match=sentence):
        _call(fast, monkeypatch, "--data", tmp_path, "--runs", tmp_path / "runs", *words)


@pytest.mark.parametrize("name", fast.VARIANTS)
def test_every_variant_changes_what_its_name_says_and_costs_what_it_may(name: str) -> None:
    """All variants can be read; units are those that the step is counted to have, and nobody spends a tenth more."""
    options = argparse.Namespace(data=None, images=500, held_out=50, width=8, passes=100, decay=0.99)
    variant, base = fast.VARIANTS[name], fast.Setting("base", 0).experiment(options)
    experiment = fast.Setting(name, 0).experiment(options)
    assert variant.units * experiment.optimisation.epochs == pytest.approx(100, rel=0.1)
    assert (experiment.optimisation.average, experiment.data) == (base.optimisation.average, base.data)
    assert (experiment == base) == (name == "base")


@pytest.mark.parametrize("name", sorted(fast.UNITS))
def test_the_units_of_short_trainings_are_those_that_are_counted(name: str) -> None:
    bench = Bench(sparring.recipe(f"digits/{name}"))
    bench.session.epoch = bench.experiment.optimisation.epochs - 1  # past AWP's warm-up
    bench.session.begin_epoch()
    batch = bench.show(next(bench.draws(0)))
    units = step_cost(bench.method, bench.learner, batch, bench.session.epoch)
    assert units == pytest.approx(fast.UNITS[name], rel=0.05)
