"""The layers that recipes are made of: how one changes another, and what all files of them keep to."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring import recipes
from sparring.configuration import read, to_yaml
from sparring.errors import BadInput
from sparring.experiment import Experiment
from sparring.recipes import layers
from sparring.threat import Ratio, multiple_of_radius

FOLDER = Path(recipes.__file__).parent
GUIDES = Path(__file__).parents[1] / "docs" / "guides"
FILES = sorted(FOLDER.glob("*/*.yaml"))
NAMES = recipes.names()


def of(text: str) -> layers.Layer:
    return layers.read(text, "paper")


def plain(layer: layers.Layer) -> object:
    """What a program that knows no comments reads in the layer."""
    return yaml.safe_load("\n".join(layers.write(layer)))


TRADES = """
method: # paper
  class_path: TRADES
  init_args:
    beta: 6.0 # released code: the published model's
    attack: {steps: 10, alpha: eps/4} # talk
optimisation:
  milestones: [100/110,
    105/110] # ours
"""


def test_a_layer_knows_where_its_values_come_from() -> None:
    """Behind a value, behind a section in braces, at a section's key; else the layer's own."""
    origins = {path: value.origin for path, value in settings(of(TRADES.replace("method: # paper", "method: # ours")))}
    assert origins == {
        "method.class_path": "ours",
        "method.init_args.beta": "released code: the published model's",
        "method.init_args.attack.steps": "talk",
        "method.init_args.attack.alpha": "talk",
        "optimisation.milestones": "ours",
    }
    assert {value.origin for _, value in settings(of("data: {name: cifar10}"))} == {"paper"}


def test_a_section_is_changed_key_by_key_and_a_list_as_a_whole() -> None:
    change = of("method: {init_args: {attack: {steps: 7}}}\noptimisation: {milestones: [1/2], clip: 10}")
    assert plain(layers.over(of(TRADES), change)) == {
        "method": {"class_path": "TRADES", "init_args": {"beta": 6.0, "attack": {"steps": 7, "alpha": "eps/4"}}},
        "optimisation": {"milestones": ["1/2"], "clip": 10},
    }


def test_another_class_takes_none_of_the_settings_below_it() -> None:
    change = of("method: {class_path: MART, init_args: {padding: true}}")
    assert plain(layers.over(of(TRADES), change))["method"] == {"class_path": "MART", "init_args": {"padding": True}}
    same = of("method: {class_path: TRADES, init_args: {beta: 1.0}}")
    assert plain(layers.over(of(TRADES), same))["method"]["init_args"]["attack"] == {"steps": 10, "alpha": "eps/4"}


@pytest.mark.parametrize(
    ("multiple", "eps", "number"),
    [
        ("eps", "8/255", "8/255"),
        ("eps/4", "8/255", "2/255"),
        ("5 eps/4", "8/255", "10/255"),
        ("eps/4", "1/255", "1/1020"),
        ("eps/4", "0.2", "0.05"),
        ("15 eps/8", "0.1", "0.1875"),
        ("eps/3", "0.1", "1/30"),
        ("0.007", "0.031", ""),
        ("steps", "8/255", ""),
        ("eps/0", "8/255", ""),
    ],
)
def test_multiples_of_the_radius_are_exact_and_written_as_it_is(multiple: str, eps: str, number: str) -> None:
    found = multiple_of_radius(multiple, Ratio(eps))
    assert str(found or "") == number
    (alpha,) = (value for _, value in settings(layers.with_numbers(of(f"alpha: {multiple}"), Ratio(eps))))
    assert alpha == layers.Value(multiple, f"paper ({number})" if number else "paper")


def test_a_recipe_s_steps_follow_the_radius_that_a_run_is_given() -> None:
    """FGSM-RS takes steps of 10/255 at 8/255; LAS chooses among multiples."""

    def method(name: str, *overrides: str) -> Any:
        return read(Experiment, recipes.find(name), ["--threat.eps", "4/255", *overrides]).method

    assert str(method("cifar10/fgsm-rs").attack.alpha) == "5/255"
    assert str(method("cifar10/pgd-at", "--threat.norm", "L2", "--threat.eps", "0.5").attack.alpha) == "0.125"
    assert str(method("cifar10/pgd-at", "--method.attack.alpha", "1/255").attack.alpha) == "1/255"
    assert [str(eps) for eps in method("cifar10/las-trades").actions.eps][:2] == ["1/102", "3/255"]


def test_a_recipe_is_shown_with_every_setting() -> None:
    """Those that it does not give are marked; what is shown is the same experiment."""
    for name in ("cifar10/las-awp-official", "digits/trades", "gtsrb/nuat-wa", "tiny_imagenet/fgsm-ep"):
        experiment = read(Experiment, recipes.find(name))
        shown = recipes.text(name, to_yaml(experiment))
        assert read(Experiment, shown) == experiment
        given = dict(settings(layers.read(recipes.text(name), "")))
        everything = dict(settings(layers.read(shown, "")))
        assert {path for path, value in everything.items() if value.origin != "default"} == set(given)
        assert all(everything[path] == value for path, value in given.items())
        plain = dict(settings(layers.read(to_yaml(experiment), "")))
        assert set(everything) == set(plain)


@pytest.mark.parametrize("name", ["cifar10/", "cifar10", "/trades", "protocols/cifar10", "cifar10/trades-offical"])
def test_what_is_no_recipe_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="recipe"):
        recipes.find(name)


def settings(layer: layers.Layer, path: str = "") -> Iterator[tuple[str, layers.Value]]:
    """Every value of a layer with its path."""
    for key, inside in layer.items():
        if isinstance(inside, dict):
            yield from settings(inside, f"{path}{key}.")
        else:
            yield path + key, inside


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_where_its_values_come_from(name: str) -> None:
    lines = recipes.text(name).splitlines()
    comments = [line for line in lines if line.startswith("#")]
    assert lines[0] == f"# {recipes.title(name)}"
    assert len(comments) <= 6
    assert all(len(line) <= 125 for line in lines)
    assert "{" not in "".join(comments)
    layer = layers.read(recipes.text(name), "")
    assert list(layers.write(layer)) == lines[len(comments) :]
    for path, setting in settings(layer):
        assert re.match(r"(paper|released code|talk|ours)(: | \(|$)", setting.origin), path


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_sections_for_single_data_sets_name_data_sets_of_their_layer(file: Path) -> None:
    """A misspelt one would change nothing, and nobody would know."""
    layer = layers.read(file.read_text(encoding="utf-8"), "")
    has_it = {name.partition("/")[0] for name in NAMES if name.endswith(f"/{file.stem}")}
    for key in layer:
        if key.startswith("on "):
            assert set(key.removeprefix("on ").split(", ")) < has_it


# What methods may set besides `method`: all else is the data set's, so that its recipes can be compared.
MADRY = {"optimisation.epochs", "optimisation.weight_decay", "optimisation.schedule.init_args.milestones"}
AVERAGE = {"optimisation.average.class_path", "optimisation.average.init_args.decay"}
OWN = {
    "standard": {"selection.by"},
    "cat": {"model.levels"},
    "nuat-wa": AVERAGE,
    "madry-at": MADRY,
    "las-madry-at": MADRY,
}
OWN |= {f"fgsm-{prior}": {"optimisation.clip"} for prior in ("bp", "ep", "mep")}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("methods/*.yaml")), ids=lambda file: file.stem)
def test_a_method_leaves_the_protocol_alone_and_steps_in_parts_of_the_radius(file: Path) -> None:
    own = set()
    for path, setting in settings(layers.read(file.read_text(encoding="utf-8"), "")):
        path = re.sub(r"^on [^.]*\.", "", path)
        if not path.startswith("method.") and path != "base":
            own.add(path)
        if path.endswith((".alpha", ".eps")):
            assert all(part.endswith("eps") or "eps/" in part for part in setting.text.strip("[]").split(", "))
    assert own == OWN.get(file.stem, set())


@pytest.mark.parametrize("file", sorted(FOLDER.glob("[!r]*/*.yaml")), ids=lambda file: file.stem)
def test_only_released_code_is_evaluated_on_the_test_set(file: Path) -> None:
    ours = "split" not in file.read_text(encoding="utf-8")
    assert ours or file.stem == "las-at-official-uniform"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of all layers, which recipes are made of meanwhile."""
    shutil.copytree(FOLDER, tmp_path / "recipes")
    monkeypatch.setattr(recipes, "_FOLDER", tmp_path / "recipes")
    recipes._uppermost.cache_clear()
    yield tmp_path / "recipes"
    recipes._uppermost.cache_clear()


def test_one_file_adds_a_data_set_and_one_a_method(folder: Path) -> None:
    """Those of the guides: a recipe of every method, and a recipe on every data set."""
    own_data, new_method = ((GUIDES / page).read_text() for page in ("own-data.md", "new-method.md"))
    (folder / "protocols/parts.yaml").write_text(re.findall(r"```yaml\n(# our parts.*?)```", own_data, re.DOTALL)[0])
    (folder / "methods/shared-start.yaml").write_text(re.findall(r"```yaml\n(.*?)```", new_method, re.DOTALL)[0])
    methods = {file.stem for file in folder.glob("methods/*.yaml")}
    data_sets = {file.stem for file in folder.glob("protocols/*.yaml")}
    new = set(recipes.names()) - set(NAMES)
    assert new == {f"parts/{method}" for method in methods} | {f"{data}/shared-start" for data in data_sets}
    text = recipes.text("parts/shared-start")
    assert text.startswith("# SharedStart on our parts: two steps")
    whole = yaml.safe_load(text)
    assert whole["method"]["init_args"]["attack"]["alpha"] == "eps/2"
    assert whole["data"]["path"] == "data/parts"
    assert read(Experiment, recipes.find("parts/las-at")).threat.eps == Ratio("4/255")


def test_a_protocol_is_not_claimed_for_released_code() -> None:
    """Which replaces much of it; what stays says behind it where it comes from."""
    assert "protocol of FGSM-SDI" in recipes.text("cifar10/trades")
    assert "protocol of FGSM-SDI" not in recipes.text("cifar10/trades-official")
