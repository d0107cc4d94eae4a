"""What is written is read back equal, and what cannot be read is answered in one sentence."""

from __future__ import annotations

import inspect
import os
import re
import sys
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from sparring.attacks import PGD
from sparring.averaging import EMA, SWA, Average
from sparring.configuration import read, to_yaml
from sparring.configuration.classes import choices, keys
from sparring.data import Augment, Data
from sparring.errors import BadInput
from sparring.experiment import Experiment, Model
from sparring.methods import AWP, LAS, MEP, TRADES, Actions, AdversarialTraining, Method, Standard
from sparring.optimisation import Optimisation
from sparring.schedule import Cosine, Cyclic, Schedule
from sparring.threat import Ratio, Threat
from sparring.training.diagnostics import Diagnostics
from sparring.training.runtime import Runtime
from sparring.training.trainer import Selection

METHOD = "method:\n  class_path: sparring.methods.TRADES\n"


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
        selection=Selection("pgd-20", by="clean", ties="earlier", split="test", images=9, batch_size=3),
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
    assert not re.search(r"class '|Traceback|functools|0x[0-9a-f]{6}", message), message
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


RATIOS = [Ratio(text) for text in ("0", "0.25", "1/3", "3/4", "1e-3", "1")]
TEXTS = ["resnet18", "data/c: #é", "null", "yes", "1e3", "2024-01-01", "[x]", "a\n\tb", "TRADES(beta=4)", ""]


def of(kind: Any, depth: int = 1) -> st.SearchStrategy[Any]:
    """Values that a field of this type may have; of an abstract class, all classes that can be chosen."""
    simple = {bool: st.booleans(), int: st.integers(1, 50), float: st.floats(0.01, 0.99), NoneType: st.none()}
    simple |= {str: st.sampled_from(TEXTS), Ratio: st.sampled_from(RATIOS)}
    if kind in simple:
        return simple[kind]
    if inspect.isabstract(kind):
        options = [chosen for chosen in choices(kind).values() if chosen.__module__.startswith("sparring.")]
        return st.one_of(of(chosen, depth - 1) for chosen in options if depth > 0 or kind not in keys(chosen).values())
    if is_dataclass(kind):
        return st.fixed_dictionaries({name: of(hint, depth) for name, hint in keys(kind).items()}).map(
            partial(made, kind)
        )
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return st.sampled_from(parts)
    if get_origin(kind) is UnionType:
        return st.one_of(of(part, depth) for part in parts)
    if parts[-1] is ...:
        return st.lists(of(parts[0], depth), min_size=1, max_size=3).map(tuple)
    return st.tuples(*(of(part, depth) for part in parts))


def made(kind: type, settings: dict[str, object]) -> object:
    try:
        return kind(**settings)
    except BadInput:
        reject()


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(of(Method), of(Schedule), of(Average), st.sampled_from(TEXTS))
def test_every_method_schedule_and_average_is_read_back_equal_with_any_settings(
    method: Method, schedule: Schedule, average: Average, path: str
) -> None:
    optimisation = Optimisation(schedule=schedule, average=average)
    experiment = Experiment(method, Data(path=path), optimisation=optimisation)
    text = to_yaml(experiment)
    assert read(Experiment, text) == experiment
    assert to_yaml(read(Experiment, text)) == text
    short = {"method": repr(method), "data": {"path": path}}
    short["optimisation"] = {"schedule": repr(schedule), "average": repr(average)}
    assert read(Experiment, yaml.safe_dump(short)) == experiment  # what they print is a short form


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
    for text in ("method: TRADES", "method: {class_path: TRADES}", METHOD, "method: TRADES()"):
        assert read(Experiment, text) == Experiment(TRADES())


SHORT_FORMS = {
    "TRADES(beta=4)": TRADES(beta=4.0),
    "sparring.methods.TRADES(beta = 4)": TRADES(beta=4.0),
    "TRADES(attack=PGD(steps=3, alpha=2/255, start='uniform', bn=train))": TRADES(
        attack=PGD(steps=3, alpha=Ratio("2/255"), start="uniform", bn="train")
    ),
    "TRADES(attack=PGD(alpha=None))": TRADES(),
    "AWP(inner=TRADES(beta=4, smoothing=1e-1), gamma=5e-3)": AWP(TRADES(beta=4.0, smoothing=0.1), gamma=0.005),
    "AWP(inner=MEP, warmup=2)": AWP(MEP(), warmup=2),
    "LAS(inner=TRADES, clip_final=True, actions=Actions(eps=(2/255, 4/255), steps=[3,]))": LAS(
        TRADES(), clip_final=True, actions=Actions((Ratio("2/255"), Ratio("4/255")), (3,))
    ),
}


@pytest.mark.parametrize(("text", "method"), SHORT_FORMS.items(), ids=SHORT_FORMS)
def test_a_short_form_gives_a_class_its_fields(text: str, method: Method) -> None:
    expected = Experiment(method)
    assert read(Experiment, f"method: {text}") == expected
    assert read(
        Experiment, f"method: {{class_path: AWP, init_args: {{inner: '{text}'}}}}".replace("'uniform'", "uniform")
    )
    assert read(Experiment, None, ["--method", text]) == expected
    assert to_yaml(read(Experiment, METHOD, ["--method", text])) == to_yaml(expected)


def test_an_override_reaches_into_a_short_form() -> None:
    changed = read(Experiment, "method: AWP(inner=TRADES(beta=4, smoothing=0.1))", ["--method.inner.beta", "2"])
    assert changed.method == AWP(TRADES(beta=2.0, smoothing=0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TRADEZ(beta=4)", "Unknown method 'TRADEZ': did you mean 'TRADES'?"),
        ("TRADES(betta=4)", "Unknown key 'betta': did you mean 'beta'?"),
        ("TRADES(beta=x)", "method.beta cannot be 'x': write a number."),
        ("TRADES(beta=-4)", "TRADES needs beta >= 0, not -4.0."),
        ("TRADES(beta=2 + 2)", "method.beta cannot be '2 + 2': write a number."),
        ("TRADES(beta=[4])", "method.beta cannot be '['4']': write a number."),
        ("TRADES(beta=float('4'))", "method.beta cannot be 'float('4')': write a number."),
        ("TRADES(beta=(lambda: 4)())", "method.beta cannot be '(lambda: 4)()': write a number."),
        (
            "TRADES(attack=TRADES(beta=3))",
            "method.attack is a section with the keys steps, alpha, start, bn, objective: ",
        ),
        ("TRADES(beta=4).loss()", "Unknown method 'TRADES(beta=4).loss': "),
        ("(lambda: 0)()", "Unknown method 'lambda: 0': "),
        ("__import__('os').system('true')", "method cannot be "),
        (
            "AWP(TRADES, 1, 2, 3)",
            "method cannot be 'AWP(TRADES, 1, 2, 3)': write a class and its fields, by name or in order, such as "
            "TRADES(beta=4).",
        ),
        ("TRADES(beta=4, beta=5)", "method cannot be 'TRADES(beta=4, beta=5)': write a class and its fields, by name"),
        ("TRADES(**x)", "method cannot be 'TRADES(**x)': write a class"),
        ("TRADES(beta=4", "method cannot be 'TRADES(beta=4': write a class and its fields, by name"),
        ("TRADES(beta=4); 1", "method cannot be "),
        ("TRADES\x00()", "method cannot be "),
    ],
)
def test_a_short_form_that_cannot_be_read_is_named(text: str, message: str) -> None:
    for answer in (refusal(METHOD, "--method", text), refusal(yaml.safe_dump({"method": text}))):
        assert answer.replace('"', "'").startswith(message)


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


def test_another_class_takes_the_place_of_the_file_s_with_all_its_settings() -> None:
    """The same class keeps them, and what the command line says stays, wherever it stands."""
    text = "method: {class_path: AdversarialTraining, init_args: {attack: {steps: 3, start: uniform, bn: train}}}"
    assert read(Experiment, text, ["--method", "TRADES(beta=2)"]).method == TRADES(beta=2.0)
    assert read(Experiment, text, ["--method.beta", "2", "--method", "TRADES"]).method == TRADES(beta=2.0)
    kept = AdversarialTraining(PGD(3, start="uniform", bn="train"), smoothing=0.1)
    assert read(Experiment, text, ["--method", "AdversarialTraining(smoothing=0.1)"]).method == kept
    around = "method: {class_path: AWP, init_args: {inner: {class_path: TRADES, init_args: {beta: 3}}, gamma: 0.02}}"
    changed = read(Experiment, around, ["--method.inner", "AdversarialTraining"]).method
    assert changed == AWP(AdversarialTraining(), gamma=0.02)


def test_a_class_with_an_init_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "undecorated.py").write_text(
        "from sparring.methods import Standard\n\nclass Own(Standard):\n    def __init__(self, s=1):\n        pass\n\n"
        "class Plain(Standard):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    message = "method 'undecorated.Own' has an __init__ of its own: make it a @dataclass, its settings fields."
    assert refusal("method: undecorated.Own") == message
    assert type(read(Experiment, "method: undecorated.Plain").method).__name__ == "Plain"


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_has_64_bits(seed: int) -> None:
    assert refusal(METHOD, "--seed", str(seed)).startswith("seed must be a whole number of 64 bits")
    assert read(Experiment, METHOD, ["--seed", str(2**64 - 1)]).seed == 2**64 - 1


def test_null_forgets_the_class_before_it() -> None:
    text = METHOD + "optimisation: {average: {class_path: EMA, init_args: {decay: 0.9}}}"
    overrides = ["--optimisation.average", "null", "--optimisation.average", "SWA"]
    assert read(Experiment, text, overrides).optimisation.average == SWA()


def test_short_forms_take_fields_in_their_order_too() -> None:
    for text in (
        "AWP(TRADES(3, attack=PGD(5, eps/4, normal)), 0.02)",
        "AWP(TRADES(beta=3, attack=PGD(5, 0.05, normal)), gamma=0.02)",
    ):
        experiment = read(Experiment, f"method: {text}\nthreat: {{eps: 0.2}}")
        assert experiment.method == AWP(TRADES(3.0, attack=PGD(5, "0.05", "normal")), gamma=0.02)
    for text in ("TRADES(1, 2, 3, 4)", "TRADES(1, beta=2)", "TRADES(*PGD)", "TRADES(1, *PGD)"):
        assert refusal(f"method: {text}").startswith(f"method cannot be '{text}': write a class and its fields")


def test_a_radius_is_no_multiple_of_itself() -> None:
    message = "threat.eps cannot be 'eps/2', a multiple of itself: write a number such as 8/255 or 0.03."
    assert refusal(METHOD, "--threat.eps", "eps/2") == message
    assert read(Experiment, METHOD, ["--method.attack.alpha", "3 eps/4"]).method.attack.alpha == Ratio("6/255")
    assert "cannot be 'eps/0'" in refusal(METHOD, "--method.attack.alpha", "eps/0")


@pytest.mark.parametrize(("written", "value"), [("010", 10), ("1_0", 10), ("12", 12)])
def test_whole_numbers_of_a_file_are_those_of_the_command_line(written: str, value: int) -> None:
    """YAML 1.1 takes 010 for 8 and 1:30 for 90."""
    assert read(Experiment, METHOD + f"seed: {written}").seed == value
    assert read(Experiment, METHOD, ["--seed", written]).seed == value
    assert refusal(METHOD + "seed: 1:30").startswith("seed cannot be '1:30'")


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


def test_an_unknown_key_of_an_inner_method_is_answered_too() -> None:
    inner = "{class_path: TRADES, init_args: {attack: {step: 3}}}"
    message = refusal(f"method: {{class_path: AWP, init_args: {{inner: {inner}}}}}")
    assert message == "Unknown key 'step': did you mean 'steps'?"


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
        (["--method.bta", "4"], "Unknown option '--method.bta': did you mean '--method.beta'?"),
        (["--method.attack.stepz=4"], "Unknown option '--method.attack.stepz': did you mean '--method.attack.steps'?"),
        (["--seed.x", "4"], "Unknown option '--seed.x': did you mean '--seed'?"),
        (["--threat", "{epz: 4}"], "Unknown key 'epz': did you mean 'eps'?"),
        (["-seed", "1"], "'-seed' is not an option: write --KEY VALUE, such as --optimisation.epochs 30."),
        (["stray"], "'stray' is not an option: write --KEY VALUE, such as --optimisation.epochs 30."),
        (["--seed", "1", "--"], "'--' is not an option: write --KEY VALUE, such as --optimisation.epochs 30."),
        (["--optimisation.epochs"], "--optimisation.epochs needs a value."),
        (["--optimisation.epochs", "--seed", "1"], "--optimisation.epochs needs a value."),
        (["--see", "1"], "Unknown option '--see': did you mean '--seed'?"),
        (["--epochs", "3"], "Unknown option '--epochs': did you mean '--optimisation.epochs'?"),
        (["--lr", "1"], "Unknown option '--lr': did you mean '--optimisation.lr'?"),
        (["--device", "cuda"], "Unknown option '--device': did you mean '--runtime.accelerator'?"),
        (
            ["--batch-size", "3"],
            "Unknown option '--batch-size': did you mean '--optimisation.batch_size' or '--selection.batch_size'?",
        ),
        (["--eps", "1"], "Unknown option '--eps': did you mean '--threat.eps'?"),
        (["--method.eps", "1"], "Unknown option '--method.eps': did you mean '--threat.eps'?"),
        (["--method.steps", "1"], "Unknown option '--method.steps': did you mean '--method.attack.steps'?"),
    ],
)
def test_an_option_that_is_none_is_answered_with_the_nearest(overrides: list[str], message: str) -> None:
    assert refusal(METHOD, *overrides) == message


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
        ("0.99", "Unknown average '0.99': known: EMA, SWA."),
        ("os.system", "optimisation.average cannot be 'os.system', which is no Average: choose one of EMA, SWA."),
        (
            "sparring.methods.TRADES",
            "optimisation.average cannot be 'sparring.methods.TRADES', which is no Average: choose one of EMA, SWA.",
        ),
        (
            "sparring.averaging.Average",
            "optimisation.average cannot be 'sparring.averaging.Average', which is only a base: choose one of EMA, SWA.",
        ),
        ("sparring.averaging.EWA", "Unknown average 'sparring.averaging.EWA': did you mean 'sparring.averaging.SWA'?"),
        (
            "gone.EMA",
            "optimisation.average 'gone.EMA' cannot be imported: there is no module 'gone' here or where Python looks.",
        ),
    ],
)
def test_an_unknown_average_is_answered_with_the_nearest(average: str, message: str) -> None:
    for written in (f"'{average}'", f"{{class_path: '{average}'}}", f"{average}(decay=1/2)"):
        assert refusal(METHOD + f"optimisation: {{average: {written}}}") == message
    assert refusal(METHOD, "--optimisation.average", average) == message


@pytest.mark.parametrize(
    ("chosen", "key", "value", "message"),
    [
        ("EMA", "decay", "2", "The decay of EMA must lie between 0 and 1, not at 2.0: write, for example, 0.995."),
        ("EMA", "decay", "x", "optimisation.average.decay cannot be 'x': write a number."),
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
            "optimisation.average.start cannot be 'half': write a decimal such as 0.03 or a fraction such as 8/255.",
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
    expected = "optimisation.average must name its class, one of EMA, SWA."
    assert refusal(METHOD, "--optimisation.average.decay", "0.99") == expected


def test_a_key_of_another_class_is_not_answered_with_itself() -> None:
    message = refusal(METHOD, "--optimisation.schedule", "MultiStep", "--optimisation.schedule.peak", "0.3")
    assert message.startswith("Unknown option '--optimisation.schedule.peak': did you mean '--optimisation.schedule")
    assert "'--optimisation.schedule.peak'?" not in message
    message = refusal(METHOD + "optimisation: {schedule: {class_path: MultiStep, init_args: {peak: 0.3}}}")
    assert message == "Unknown key 'peak': known: gamma, milestones."
    message = refusal(METHOD + "optimisation: {schedule: Constant(peaq=3)}")
    assert message == "Unknown key 'peaq': optimisation.schedule has no keys."


def test_all_methods_are_listed_where_none_is_near() -> None:
    message = refusal("method: zzz")
    assert message.startswith("Unknown method 'zzz': known: AWP, AdversarialTraining, ")
    assert "Wrapper" not in message
    assert "Method" not in message.partition("known: ")[2].replace("AdversarialTraining", "").split(", ")


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "builtins.eval", "sparring.schedule.Cosine"])
def test_only_methods_can_be_methods(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    message = f"method cannot be {path!r}, which is no Method: choose one of AWP, "
    for text in (
        f"method: {path}",
        f"method: {{class_path: {path}, init_args: {{command: 'true'}}}}",
        f"method: {path}()",
    ):
        assert refusal(text).startswith(message)
    assert refusal(METHOD, "--method", path).startswith(message)
    assert refusal(METHOD, "--method.attack", f"{path}(command='true')").startswith("method.attack is a section with ")
    assert refusal(METHOD, "--method.beta", f"{path}('true')").startswith("method.beta cannot be ")
    assert not called


def write_module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A module my_own_method that can be imported during a test."""
    (folder / "my_own_method.py").write_text("from dataclasses import dataclass\n" + text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_own_method", raising=False)


def test_a_method_of_the_users_own_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(
        tmp_path,
        monkeypatch,
        "from sparring import methods\n"
        "@dataclass\n"
        "class TRADES(methods.Standard):\n"
        "    strength: float | str | None = 1.0\n"
        "    inner: methods.Method | None = None\n",
    )
    settings = "{class_path: my_own_method.TRADES, init_args: {strength: 2, inner: MEP}}"
    for written in (settings, "my_own_method.TRADES(strength=2, inner=MEP)"):
        experiment = read(Experiment, f"method: {written}")
        assert type(experiment.method).__module__ == "my_own_method"
        assert (experiment.method.strength, experiment.method.inner) == (2.0, MEP())
        assert read(Experiment, METHOD, ["--method", written]) == experiment
    overrides = ["--method", "my_own_method.TRADES", "--method.strength", "much", "--method.inner.beta", "3"]
    assert read(Experiment, f"method: {settings}", [*overrides[:4], "--method.inner", "null"]).method.strength == "much"
    assert refusal(f"method: {settings}", *overrides).startswith("Unknown option '--method.inner.beta'")
    assert yaml.safe_load(to_yaml(experiment))["method"]["class_path"] == "my_own_method.TRADES"
    assert read(Experiment, to_yaml(experiment)) == experiment
    assert read(Experiment, "method: TRADES") == Experiment(TRADES())  # a short name is Sparring's


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Other = 3",
            "method 'my_own_method.Mine' cannot be imported: the module my_own_method has no 'Mine' (",
        ),
        ("class Mine: ...", "method cannot be 'my_own_method.Mine', which is no Method: choose one of AWP, "),
        ("Mine = 3", "method cannot be 'my_own_method.Mine', which is no Method: choose one of AWP, "),
        (
            "from sparring.methods import Method\nclass Mine(Method): ...",
            "method cannot be 'my_own_method.Mine', which is only a base: choose one of AWP, ",
        ),
        (
            "from sparring.methods import Standard\n@dataclass\nclass Mine(Standard):\n"
            "    def __post_init__(self):\n        raise ValueError('not today')",
            "method: not today.",
        ),
        (
            "from sparring.methods import Standard\n@dataclass\nclass Mine(Standard):\n"
            "    def __post_init__(self):\n        {}['table']",
            "method my_own_method.Mine cannot be made: ",
        ),
    ],
)
def test_a_class_of_the_users_own_that_cannot_be_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, text)
    assert refusal("method: my_own_method.Mine").startswith(message)
    assert refusal(METHOD, "--method", "my_own_method.Mine").startswith(message)


def test_a_module_of_the_users_own_that_raises_is_answered_with_file_and_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, monkeypatch, "1 / 0")
    where = f"{tmp_path / 'my_own_method.py'}, line 2"
    said = f"method 'my_own_method.Mine' cannot be imported: {where}: ZeroDivisionError: division by zero."
    assert refusal("method: my_own_method.Mine") == said


def test_a_class_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "method_of_this_folder.py").write_text("from sparring.methods import TRADES as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert read(Experiment, "method: method_of_this_folder.Mine").method == TRADES()


def test_of_a_file_with_further_sections_only_those_that_are_asked_for_are_read() -> None:
    """A run's data are known where the class of its method is not there any more."""

    @dataclass(frozen=True)
    class Part:
        threat: Threat = field(default_factory=Threat)

    text = "method: gone_for_good.Mine\nthreat: {eps: 4/255}\n"
    assert read(Part, text, ["--threat.norm", "L2"], partly=True) == Part(Threat("L2", "4/255"))
    with pytest.raises(BadInput, match="Unknown key 'method'"):
        read(Part, text)


def test_nothing_is_imported_but_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_module(tmp_path, monkeypatch, "raise SystemExit('was imported')")
    for text in ("method: my_own_method", "method: .my_own_method.X", "method: TRADES\nseed: my_own_method.X"):
        refusal(text)
    refusal(METHOD, "--method.attack", "my_own_method.X()")
    assert "my_own_method" not in sys.modules


@pytest.mark.parametrize(
    "base", ["sparring.methods.Method", "sparring.methods.Wrapper", "sparring.methods.wrapper.Wrapper"]
)
def test_a_method_that_is_only_a_base_is_refused(base: str) -> None:
    assert refusal(f"method: {base}").startswith(f"method cannot be '{base}', which is only a base: ")


def test_a_missing_method_is_asked_for(tmp_path: Path) -> None:
    expected = "does not say which method: add the key method."
    assert refusal("seed: 3") == f"the configuration {expected}"
    assert refusal("method: null") == f"the configuration {expected}"
    assert refusal(None) == f"the configuration {expected}"
    path = tmp_path / "my.yaml"
    path.write_text("seed: 3")
    assert refusal(path) == f"{path} {expected}"
    assert refusal("method: AWP") == "the configuration does not say which method.inner: add the key method.inner."


# What cannot be read: values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimisation: {epochs: abc}", "optimisation.epochs cannot be 'abc': write a whole number."),
        ("optimisation: {epochs: 1.5}", "optimisation.epochs cannot be '1.5': write a whole number."),
        ("optimisation: {lr: fast}", "optimisation.lr cannot be 'fast': write a number."),
        ("optimisation: {nesterov: maybe}", "optimisation.nesterov cannot be 'maybe': write true or false."),
        ("optimisation: {optimizer: adam}", "optimisation.optimizer cannot be 'adam': write 'sgd' or 'adamw'."),
        ("threat: {norm: L3}", "threat.norm cannot be 'L3': write 'Linf' or 'L2' or 'L1'."),
        ("threat: {eps: 8}", "eps 8 is at least the whole pixel range [0, 1]: did you mean 8/255?"),
        (
            "threat: {eps: eight}",
            "threat.eps cannot be 'eight': write a decimal such as 0.03 or a fraction such as 8/255.",
        ),
        ("optimisation: {epochs: null}", "optimisation.epochs cannot be 'None': write a whole number."),
        ("optimisation: {epochs: true}", "optimisation.epochs cannot be 'True': write a whole number."),
        ("optimisation: {epochs: {a: 3}}", "Unknown key 'a': optimisation.epochs has no keys."),
        ("optimisation: {lr: .nan}", "optimisation.lr cannot be 'nan': write a number."),
        ("optimisation: {lr: true}", "optimisation.lr cannot be 'True': write a number."),
        ("optimisation: {nesterov: 1}", "optimisation.nesterov cannot be '1': write true or false."),
        ("runtime: {precision: 16}", "runtime.precision cannot be '16': write 32 or 'bf16-mixed'."),
        ("data: {name: yes}", "data.name cannot be 'True': write a text."),
        ("optimisation: {epochs: -1}", "optimisation.epochs must be positive, not -1."),
        ("seed: x", "seed cannot be 'x': write a whole number."),
        ("seed: ''", "seed cannot be '': write a whole number."),
        ("optimisation: {clip: big}", "optimisation.clip cannot be 'big': write a number or null."),
        ("model: {width: '1.5'}", "model.width cannot be '1.5': write a whole number or null."),
        ("data: {path: 2024}", "data.path cannot be '2024': write a text or null."),
        ("data: {augment: 4}", "data.augment is a section with the keys pad, flip, fill: 4 cannot stand for it."),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MultiStep(milestones=5)", "milestones cannot be '5': write a list."),
        (
            "MultiStep(milestones=(1/2, x))",
            "milestones[1] cannot be 'x': write a decimal such as 0.03 or a fraction such as",
        ),
        ("Piecewise(points=[[0, 0], [1]])", "points[1] cannot be '['1']': write a list of 2."),
        ("Piecewise(points=[[0, 0], [1, x]])", "points[1][1] cannot be 'x': write a number."),
    ],
)
def test_a_wrong_item_of_a_list_is_named_with_its_place(text: str, message: str) -> None:
    assert (
        refusal(METHOD, "--optimisation.schedule", text)
        .replace('"', "'")
        .startswith(f"optimisation.schedule.{message}")
    )


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


def bomb(pattern: str) -> str:
    """YAML of a few hundred bytes that stands for 9^40 items."""
    lines = [f"a0: &a0 {pattern.replace('*', '3')}"]
    lines += [f"a{n}: &a{n} " + pattern.replace("*", ", ".join([f"*a{n - 1}"] * 9)) for n in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2", "not valid YAML: the key 'seed' is given twice in line 2, column 1"),
        ("threat: {eps: 1/255, eps: 8/255}", "not valid YAML: the key 'eps' is given twice in line 1, column 22"),
        (
            "seed: &a 1\noptimisation: {epochs: *a}",
            "not valid YAML: aliases are not read, write the value out in line 2",
        ),
        ("seed: &a [*a]", "not valid YAML: aliases are not read"),
        (bomb("[*]"), "not valid YAML: aliases are not read"),
        (bomb("{<<: [*]}"), "not valid YAML: aliases are not read"),
        ("seed: " + "[" * 2_000 + "]" * 2_000, "nested too deeply."),
        ("a: {" * 1_000 + "}" * 1_000, "nested too deeply."),
        ("\n".join(" " * n + "seed:" for n in range(1_000)), "nested too deeply."),
        ("method: !!python/object/apply:os.system ['true']", "not valid YAML: could not determine a constructor"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML: could not determine a constructor"),
        ("seed: !!python/name:os.system", "not valid YAML: could not determine a constructor"),
        ("method: {class_path: !!python/object:os.x {}}", "not valid YAML: could not determine a constructor"),
        ("seed: !!int ''", "not valid YAML: "),
        ("seed: !!bool maybe", "not valid YAML: "),
        ("seed: !!timestamp now", "not valid YAML: "),
        (f"seed: {'9' * 5000}", "not valid YAML: "),
    ],
)
def test_hostile_yaml_is_refused_at_once(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(os, "system", lambda command: called.append(command))
    for answer in (refusal(text), refusal(METHOD, "--threat", "{" + text.replace("\n", ", ") + "}")):
        assert len(answer) < 1000
    assert message in refusal(text)
    assert not called


@pytest.mark.parametrize(
    "method",
    [
        "TRADES(" * 5_000 + ")" * 5_000,
        "TRADES(beta=" + "-" * 100_000 + "1)",
        "TRADES(beta=" + "(" * 10_000 + "1" + ")" * 10_000 + ")",
        "AWP(inner=" * 90 + "TRADES" + ")" * 90 + ")",
        "TRADES" + ".x" * 50_000 + "()",
        "TRADES(beta=" + "1+" * 50_000 + "1)",
    ],
    ids=range(6),
)
def test_hostile_short_forms_are_refused_at_once(method: str) -> None:
    refusal(METHOD, "--method", method)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    assert refusal(path).startswith(f"{path} is not UTF-8 text: ")


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
