"""What is written is read back equal, and what cannot be read is answered in one sentence."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sparring.attacks import PGD
from sparring.averaging import EMA, SWA, Average
from sparring.configuration import read, to_yaml
from sparring.data import Augment, Data
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model
from sparring.learner import Optimisation
from sparring.methods import AWP, MEP, TRADES, AdversarialTraining, Method, Standard
from sparring.schedule import Constant, Cosine, Cyclic, Linear, MultiStep, Piecewise, Schedule
from sparring.threat import Ratio, Threat
from sparring.training.diagnostics import Diagnostics
from sparring.training.runtime import Runtime
from sparring.training.trainer import Selection

METHOD = "method:\n  class_path: sparring.methods.TRADES\n"
SCHEDULES: list[Schedule] = [
    Constant(),
    MultiStep(("50/55", 0.95), gamma=0.2),
    Piecewise((("0", 0.0), ("2/5", 1.0), ("1", 0.0))),
    Linear(warmup=0.05),
    Cosine(warmup=0.1),
    Cyclic(peak=0.4, lowest_momentum=0.8),
    Cyclic(),
]


def everything() -> Experiment:
    """Nested, and no field at its default."""
    return Experiment(
        method=AWP(
            TRADES(beta=4.5, attack=PGD(steps=3, alpha=Ratio("2/255"), start="uniform", bn="train"), smoothing=0.1),
            gamma=0.005,
            warmup=3,
        ),
        data=Data(
            "cifar10", path="data/c: #é", limit=100, test_limit=50, validation=10, augment=Augment(4, True), seed=2
        ),
        model=Model("resnet18", width=8, normalise=True, pretrained=True, levels=16),
        threat=Threat("L2", Ratio("128/255")),
        optimisation=Optimisation(
            epochs=3,
            batch_size=7,
            optimizer="adamw",
            lr=3e-4,
            momentum=0.8,
            nesterov=True,
            weight_decay=1e-5,
            decay_norms=False,
            clip=1.5,
            average=EMA(0.999, warmup=False),
            schedule=Cyclic(lowest_momentum=0.8),
            drop_last=True,
        ),
        selection=Selection("pgd-20", by="clean", split="test", images=9, batch_size=3),
        diagnostics=Diagnostics(every=3, images=2, train_images=5),
        runtime=Runtime(
            "cpu", precision="bf16-mixed", level="eager", compact=True, channels_last=False, checkpoint_every=2
        ),
        seed=7,
    )


def refusal(source: Path | str | None, *overrides: str) -> str:
    """The sentence that answers a bad configuration."""
    with pytest.raises(BadInput) as caught:
        read(Experiment, source, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert not re.search(r"class '|Traceback|functools|jsonargparse|argparse|0x[0-9a-f]{6}", message), message
    return message


# What is written is read


def test_everything_that_is_written_is_read_back_equal() -> None:
    text = to_yaml(everything())
    assert read(Experiment, text) == everything()
    assert to_yaml(read(Experiment, text)) == text


def test_the_test_above_leaves_no_field_at_its_default() -> None:
    written, defaults = everything(), Experiment(Standard())
    for part in ("data", "model", "threat", "optimisation", "selection", "diagnostics", "runtime"):
        ours, usual = vars(getattr(written, part)), vars(getattr(defaults, part))
        same = {name for name in ours if ours[name] == usual[name]}
        assert same <= {"size"}, part


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_is_read_back_equal(schedule: Schedule) -> None:
    experiment = Experiment(Standard(), optimisation=Optimisation(schedule=schedule))
    assert read(Experiment, to_yaml(experiment)) == experiment


def test_the_test_above_knows_all_schedules() -> None:
    ours = {kind for kind in Schedule.__subclasses__() if kind.__module__.startswith("sparring.")}
    assert {type(schedule) for schedule in SCHEDULES} == ours


@pytest.mark.parametrize("average", [None, EMA(), EMA(0.9998, warmup=False), SWA(), SWA("1/2")], ids=str)
def test_every_average_is_read_back_equal(average: Average | None) -> None:
    experiment = Experiment(Standard(), optimisation=Optimisation(average=average))
    text = to_yaml(experiment)
    assert read(Experiment, text) == experiment
    assert to_yaml(read(Experiment, text)) == text


def test_an_average_is_written_with_its_class() -> None:
    content = yaml.safe_load(to_yaml(everything()))["optimisation"]["average"]
    assert content == {"class_path": "sparring.averaging.EMA", "init_args": {"decay": 0.999, "warmup": False}}
    swa = Experiment(Standard(), optimisation=Optimisation(average=SWA("100/110")))
    assert yaml.safe_load(to_yaml(swa))["optimisation"]["average"]["init_args"] == {"start": "100/110"}


def test_ratios_are_written_as_they_were_and_computed_as_numbers() -> None:
    text = to_yaml(everything())
    content = yaml.safe_load(text)
    assert content["threat"]["eps"] == "128/255"
    assert content["method"]["init_args"]["inner"]["init_args"]["attack"]["alpha"] == "2/255"
    again = read(Experiment, text)
    assert again.threat.eps.text == "128/255"
    assert isinstance(again.method.inner.attack.alpha, Ratio)


def test_every_field_is_written_and_state_is_not() -> None:
    content = yaml.safe_load(to_yaml(Experiment(AWP(MEP()))))
    sections = ["data", "model", "threat", "optimisation", "selection", "diagnostics", "runtime"]
    assert list(content) == ["method", *sections, "seed"]
    assert content["method"]["class_path"] == "sparring.methods.AWP"
    assert set(content["method"]["init_args"]) == {"inner", "gamma", "warmup"}
    inner = content["method"]["init_args"]["inner"]
    assert inner["class_path"] == "sparring.methods.MEP"
    assert not any(name.startswith("_") for name in inner["init_args"])
    assert content["optimisation"]["schedule"]["class_path"] == "sparring.schedule.MultiStep"
    assert content["optimisation"]["clip"] is None


def test_a_file_is_read_like_its_text(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(to_yaml(everything()), encoding="utf-8")
    assert read(Experiment, path) == everything()


def test_a_short_name_is_enough_for_a_class() -> None:
    for text in ("method: TRADES", "method: {class_path: TRADES}", METHOD):
        assert read(Experiment, text) == Experiment(TRADES())


def test_bare_numbers_are_radii_too() -> None:
    assert read(Experiment, METHOD + "threat: {norm: L2, eps: 0.5}\n").threat == Threat("L2", Ratio("0.5"))
    assert read(Experiment, METHOD + "optimisation: {lr: 1e-3}\n").optimisation.lr == 1e-3


@dataclass(frozen=True)
class Small:
    """Any dataclass can be read, not only an experiment."""

    data: Data = field(default_factory=Data)
    threat: Threat = field(default_factory=Threat)
    count: int = 3


def test_any_dataclass_can_be_read_with_nothing_given() -> None:
    assert read(Small, None) == Small()
    assert read(Small, None, ["--count", "4", "--threat.eps", "2/255"]) == Small(
        threat=Threat(eps=Ratio("2/255")), count=4
    )
    assert read(Small, to_yaml(Small(count=9))) == Small(count=9)


# Overrides


def test_overrides_win_over_the_file_and_the_later_over_the_earlier(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(to_yaml(everything()), encoding="utf-8")
    overrides = ["--optimisation.epochs", "30", "--threat.eps", "64/255", "--seed=1", "--optimisation.epochs", "31"]
    changed = read(Experiment, path, overrides)
    before = everything()
    assert changed == replace(
        before,
        optimisation=replace(before.optimisation, epochs=31),
        threat=Threat("L2", Ratio("64/255")),
        seed=1,
    )
    assert changed.threat.eps.text == "64/255"


def test_an_override_reaches_into_nested_methods() -> None:
    changed = read(Experiment, to_yaml(everything()), ["--method.inner.beta", "2", "--method.inner.attack.steps", "9"])
    inner = everything().method.inner
    assert changed.method == AWP(replace(inner, beta=2.0, attack=replace(inner.attack, steps=9)), gamma=0.005, warmup=3)


def test_an_override_can_choose_another_class() -> None:
    overrides = ["--method", "AdversarialTraining", "--method.attack.steps", "2"]
    overrides += ["--optimisation.schedule", "Cosine", "--optimisation.schedule.warmup", "0.1"]
    changed = read(Experiment, METHOD, overrides)
    assert changed.method == AdversarialTraining(PGD(steps=2, bn="train"))
    assert changed.optimisation.schedule == Cosine(warmup=0.1)


@pytest.mark.parametrize(
    ("overrides", "average"),
    [
        (["EMA"], EMA()),
        (["EMA", "--optimisation.average.decay", "0.99"], EMA(0.99)),
        (["SWA", "--optimisation.average.start", "1/2"], SWA("1/2")),
        (["sparring.averaging.EMA", "--optimisation.average.warmup", "false"], EMA(warmup=False)),
        (["null"], None),
    ],
)
def test_an_override_can_choose_an_average_or_none(overrides: list[str], average: Average | None) -> None:
    before = METHOD + "optimisation: {average: {class_path: SWA, init_args: {start: 1/4}}}"
    for text in (METHOD, before):
        assert read(Experiment, text, ["--optimisation.average", *overrides]).optimisation.average == average
    changed = read(Experiment, before, ["--optimisation.average.start", "1/3"])
    assert changed.optimisation.average == SWA("1/3")


def test_without_a_file_options_are_enough() -> None:
    overrides = ["--method", "AWP", "--method.inner", "TRADES", "--method.inner.beta", "3"]
    assert read(Experiment, None, overrides) == Experiment(AWP(TRADES(beta=3.0)))


# What cannot be read: keys and options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimization: {epochs: 3}", "Unknown key 'optimization': did you mean 'optimisation'?"),
        ("optimisation: {epocs: 3}", "Unknown key 'epocs': did you mean 'epochs'?"),
        ("optimisation: {batchsize: 3}", "Unknown key 'batchsize': did you mean 'batch_size'?"),
        ("data: {augment: {padd: 4}}", "Unknown key 'padd': did you mean 'pad'?"),
        (
            "qqq: 3",
            "Unknown key 'qqq': known: data, diagnostics, method, model, optimisation, runtime, seed, selection, threat.",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(text: str, message: str) -> None:
    assert refusal(METHOD + text) == message


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{class_path: TRADES, init_args: {betta: 3}}", "Unknown key 'betta': did you mean 'beta'?"),
        ("{class_path: TRADES, init_args: {attack: {step: 3}}}", "Unknown key 'step': did you mean 'steps'?"),
        (
            "{class_path: AWP, init_args: {inner: {class_path: TRADES, init_args: {smothing: 1}}}}",
            "Unknown key 'smothing': did you mean 'smoothing'?",
        ),
    ],
)
def test_an_unknown_key_inside_a_method_is_answered_with_the_nearest(method: str, message: str) -> None:
    assert refusal(f"method: {method}") == message


def test_a_state_field_is_not_a_key() -> None:
    assert refusal("method: {class_path: TRADES, init_args: {_threat: 1}}").startswith("Unknown key '_threat'")


@pytest.mark.parametrize(
    ("text", "key", "place"),
    [
        ("epochs: 3", "epochs", "optimisation.epochs"),
        ("beta: 3", "beta", "method.beta"),
        ("eps: 8/255", "eps", "threat.eps"),
        ("data: {pad: 4}", "pad", "data.augment.pad"),
        ("optimisation: {threat: 3}", "threat", "threat"),
    ],
)
def test_a_key_of_another_section_is_told_its_place(text: str, key: str, place: str) -> None:
    message = refusal(METHOD + text)
    assert message != f"Unknown key {key!r}: did you mean {key!r}?"
    assert repr(key) in message
    assert re.search(rf"did you mean \W?{re.escape(place)}\W", message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["--optimisation.epoch", "30"],
            "Unknown option '--optimisation.epoch': did you mean '--optimisation.epochs'?",
        ),
        (["--optimisation.epoch=30"], "Unknown option '--optimisation.epoch': did you mean '--optimisation.epochs'?"),
        (["--optimization.lr", "1"], "Unknown option '--optimization.lr': did you mean '--optimisation.lr'?"),
        (
            ["--optimisation.schedul.peak", "1/2"],
            "Unknown option '--optimisation.schedul.peak': did you mean '--optimisation.schedule.peak'?",
        ),
        (["--foo"], "Unknown option '--foo': nothing known is spelled like it."),
        (["--method.bta", "4"], "Unknown key 'bta': did you mean 'beta'?"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(overrides: list[str], message: str) -> None:
    assert refusal(METHOD, *overrides) == message


def test_an_option_without_its_value_is_named() -> None:
    assert "--optimisation.epochs" in refusal(METHOD, "--optimisation.epochs")


def test_options_are_not_abbreviated() -> None:
    assert refusal(METHOD, "--see", "1") == "Unknown option '--see': did you mean '--seed'?"


def test_a_stray_word_is_named() -> None:
    assert "stray" in refusal(METHOD, "stray")


# What cannot be read: classes


@pytest.mark.parametrize("method", ["TRADEZ", "{class_path: TRADEZ}", "{class_path: trades}"])
def test_an_unknown_method_is_answered_with_the_nearest(method: str) -> None:
    name = re.search(r"trades|TRADEZ", method)[0]
    assert refusal(f"method: {method}") == f"Unknown method {name!r}: did you mean 'TRADES'?"


def test_an_unknown_inner_method_and_schedule_are_answered_too() -> None:
    inner = refusal("method: {class_path: AWP, init_args: {inner: {class_path: TRADEZ}}}")
    assert inner == "Unknown inner 'TRADEZ': did you mean 'TRADES'?"
    schedule = refusal(METHOD + "optimisation: {schedule: {class_path: Cosin}}")
    assert schedule == "Unknown schedule 'Cosin': did you mean 'Cosine'?"
    assert refusal(METHOD, "--optimisation.schedule", "Cyclik") == "Unknown schedule 'Cyclik': did you mean 'Cyclic'?"


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ("EMMA", "Unknown average 'EMMA': did you mean 'EMA'?"),
        ("os.system", "Unknown average 'os.system': known: EMA, SWA."),
        ("sparring.methods.TRADES", "Unknown average 'sparring.methods.TRADES': known: EMA, SWA."),
        ("sparring.averaging.Average", "Unknown average 'sparring.averaging.Average': known: EMA, SWA."),
    ],
)
def test_an_unknown_average_is_answered_with_the_nearest(average: str, message: str) -> None:
    for written in (average, f"{{class_path: {average}}}"):
        assert refusal(METHOD + f"optimisation: {{average: {written}}}") == message
    if average != "sparring.averaging.Average":
        assert refusal(METHOD, "--optimisation.average", average) == message


@pytest.mark.parametrize(
    ("chosen", "key", "value", "message"),
    [
        ("EMA", "decay", "2", "The decay of EMA must lie between 0 and 1, not at 2.0: write, for example, 0.995."),
        ("EMA", "decay", "x", "optimisation.average.decay cannot be 'x': write a number."),
        ("EMA", "decy", "0.9", "Unknown key 'decy': did you mean 'decay'?"),
        ("EMA", "warmup", "3", "optimisation.average.warmup cannot be '3': write true or false."),
        (
            "SWA",
            "start",
            "1.5",
            "The start of SWA is a fraction of the run in [0, 1), not 1.5: write 100/110 for epoch 100 of 110.",
        ),
        (
            "SWA",
            "start",
            "half",
            "optimisation.average.start: 'half' is not a number: write a decimal such as 0.03 or a fraction such as 8/255.",
        ),
    ],
)
def test_a_wrong_value_inside_an_average_is_named(chosen: str, key: str, value: str, message: str) -> None:
    settings = f"{{class_path: {chosen}, init_args: {{{key}: {value}}}}}"
    assert refusal(METHOD + f"optimisation: {{average: {settings}}}") == message
    assert refusal(METHOD, "--optimisation.average", chosen, f"--optimisation.average.{key}", value) == message


def test_a_decay_alone_is_no_average_any_more() -> None:
    message = "optimisation.average needs a class_path, one of EMA, SWA: 0.99 cannot stand for it."
    assert refusal(METHOD + "optimisation: {average: 0.99}") == message
    assert refusal(METHOD, "--optimisation.average", "0.99") == "Unknown average '0.99': known: EMA, SWA."
    expected = "optimisation.average must name its class, one of EMA, SWA."
    assert refusal(METHOD, "--optimisation.average.decay", "0.99") == expected


def test_an_option_of_another_class_is_not_answered_with_itself() -> None:
    message = refusal(METHOD, "--optimisation.schedule", "MultiStep", "--optimisation.schedule.peak", "0.3")
    assert message.startswith("Unknown key 'peak': ")
    assert "'peak'?" not in message


def test_all_methods_are_listed_where_none_is_near() -> None:
    message = refusal("method: zzz")
    assert message.startswith("Unknown method 'zzz': known: AWP, AdversarialTraining, ")
    assert "Wrapper" not in message
    assert "Method" not in message.partition("known: ")[2].replace("AdversarialTraining", "").split(", ")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "sparring.schedule.Cosine"])
def test_only_methods_can_be_methods(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    for text in (f"method: {path}", f"method: {{class_path: {path}, init_args: {{command: 'true'}}}}"):
        assert refusal(text).startswith(f"Unknown method {path!r}: ")
    assert refusal(METHOD, "--method", path).startswith(f"Unknown method {path!r}: ")
    schedule = path.replace("sparring.schedule.Cosine", "sparring.methods.TRADES")
    assert refusal(METHOD, "--optimisation.schedule", schedule).startswith(f"Unknown schedule {schedule!r}: ")
    assert not called


@pytest.mark.parametrize("where", ["{}", "method: {}", "method: {{class_path: TRADES, init_args: {{beta: {}}}}}"])
def test_yaml_cannot_run_anything(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    message = refusal(where.format("!!python/object/apply:os.system ['true']"))
    assert message.startswith("the configuration is not valid YAML: ")
    assert not called


def test_a_method_of_the_users_own_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_method.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparring.methods import Standard\n"
        "@dataclass\n"
        "class Mine(Standard):\n"
        "    strength: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    experiment = read(Experiment, "method: {class_path: my_own_method.Mine, init_args: {strength: 2}}")
    assert type(experiment.method).__name__ == "Mine"
    assert experiment.method.strength == 2.0
    assert yaml.safe_load(to_yaml(experiment))["method"]["class_path"] == "my_own_method.Mine"
    assert read(Experiment, to_yaml(experiment)) == experiment
    del sys.modules["my_own_method"]


def test_a_method_that_is_only_a_base_is_refused() -> None:
    assert refusal("method: sparring.methods.Method").startswith("Unknown method 'sparring.methods.Method': ")


def test_a_missing_method_is_asked_for(tmp_path: Path) -> None:
    expected = "does not say which method: add the key method."
    assert refusal("seed: 3") == f"the configuration {expected}"
    assert refusal("method: null") == f"the configuration {expected}"
    assert refusal(None) == f"the configuration {expected}"
    path = tmp_path / "my.yaml"
    path.write_text("seed: 3")
    assert refusal(path) == f"{path} {expected}"
    assert "inner: add the key inner" in refusal("method: {class_path: AWP}")


# What cannot be read: values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimisation: {epochs: abc}", "optimisation.epochs cannot be 'abc': write a whole number."),
        ("optimisation: {epochs: 1.5}", "optimisation.epochs cannot be '1.5': write a whole number."),
        ("optimisation: {lr: fast}", "optimisation.lr cannot be 'fast': write a number."),
        ("optimisation: {nesterov: maybe}", "optimisation.nesterov cannot be 'maybe': write true or false."),
        ("optimisation: {optimizer: adam}", "optimisation.optimizer cannot be 'adam': write 'sgd' or 'adamw'."),
        ("threat: {norm: L3}", "threat.norm cannot be 'L3': write 'Linf' or 'L2'."),
        ("threat: {eps: 8}", "eps 8 is at least the whole pixel range [0, 1]: did you mean 8/255?"),
        (
            "threat: {eps: eight}",
            "threat.eps: 'eight' is not a number: write a decimal such as 0.03 or a fraction such as 8/255.",
        ),
        ("optimisation: {epochs: -1}", "optimisation.epochs must be positive, not -1."),
        ("seed: x", "seed cannot be 'x': write a whole number."),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_its_remedy(text: str, message: str) -> None:
    assert refusal(METHOD + text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {class_path: TRADES, init_args: {beta: abc}}", "method.beta cannot be 'abc': write a number."),
        (
            "method: {class_path: AWP, init_args: {inner: {class_path: TRADES, init_args: {beta: abc}}}}",
            "method.inner.beta cannot be 'abc': write a number.",
        ),
        (
            "method: {class_path: TRADES, init_args: {attack: {bn: on}}}",
            "method.attack.bn cannot be 'True': write 'eval' or 'train' or 'train_frozen_stats'.",
        ),
        ("method: {class_path: TRADES, init_args: {beta: -1}}", "TRADES needs beta >= 0, not -1.0."),
    ],
)
def test_a_wrong_value_inside_a_method_is_named_with_its_path(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("optimisation: {clip: big}", "optimisation.clip", "big"),
        ("model: {levels: fine}", "model.levels", "fine"),
        ("data: {limit: many}", "data.limit", "many"),
        ("model: {width: '1.5'}", "model.width", "1.5"),
    ],
)
def test_a_wrong_value_for_an_optional_number_is_named_with_its_remedy(text: str, key: str, value: str) -> None:
    message = refusal(METHOD + text)
    assert message.startswith(f"{key} cannot be {value!r}: write ")
    assert "number" in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("method: 3", "method"),
        ("method: {init_args: {}}", "method"),
        ("method: {class_path: TRADES, beta: 3}", "method"),
        (METHOD + "threat: 8", "threat"),
        (METHOD + "optimisation: 3", "optimisation"),
        (METHOD + "model:", "model"),
        (METHOD + "optimisation: {schedule: 3}", "optimisation.schedule"),
        (METHOD + "optimisation: {schedule: null}", "optimisation.schedule"),
    ],
)
def test_a_section_of_the_wrong_kind_is_named(text: str, key: str) -> None:
    message = refusal(text)
    assert re.search(rf"(^|\W){re.escape(key)}\W", message)
    assert "implicit class_path" not in message
    assert "abstract" not in message


def test_an_empty_value_is_named_with_its_remedy() -> None:
    assert refusal(METHOD, "--seed", "") == "seed cannot be '': write a whole number."


# What cannot be read: files


@pytest.mark.parametrize("text", ["", "3", "- 1\n- 2", "just words", "null"])
def test_what_is_not_a_mapping_is_refused(text: str, tmp_path: Path) -> None:
    expected = "does not hold a configuration: it must map keys such as method and data to values."
    assert refusal(text) == f"the configuration {expected}"
    path = tmp_path / "my.yaml"
    path.write_text(text)
    assert refusal(path) == f"{path} {expected}"


@pytest.mark.parametrize("text", ["method: [1", "a: b: c", "a:\n\t- b", "\x00", "x: 'open"])
def test_invalid_yaml_is_refused_with_its_place(text: str, tmp_path: Path) -> None:
    assert refusal(text).startswith("the configuration is not valid YAML: ")
    path = tmp_path / "my.yaml"
    path.write_text(text)
    assert refusal(path).startswith(f"{path} is not valid YAML: ")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert refusal(path).startswith(f"{path} is not valid YAML: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == f"{tmp_path / 'none.yaml'} cannot be read: No such file or directory."
    assert refusal(tmp_path) == f"{tmp_path} cannot be read: Is a directory."


def test_reading_changes_no_default() -> None:
    before = Experiment(TRADES())
    read(Experiment, to_yaml(everything()), ["--optimisation.epochs", "2"])
    assert read(Experiment, METHOD) == before == Experiment(TRADES())


def test_two_readings_share_no_method() -> None:
    one: Any = read(Experiment, METHOD)
    other: Any = read(Experiment, METHOD)
    assert one == other
    assert one.method is not other.method
    assert isinstance(one.method, Method)
