"""Names of version 0.1 stand for the present ones, with a warning at the line that uses them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from sparring import attacks, configuration, evaluation, methods, threat
from sparring.attacks import PGD, SearchAttack, SearchState, initial_fields
from sparring.data import Augment
from sparring.errors import BadInput
from sparring.experiment import Experiment, train
from sparring.methods import LAS, MEP, AdversarialTraining
from sparring.threat import Threat
from sparring.training import Run, checkpoint
from sparring.training.progress import Silent
from tests.methods.strategies import ACTIONS, SMALL
from tests.training.runs import Interrupts, experiment, final_state, same

LINF = Threat("Linf", 0.1)


def assert_here(caught: pytest.WarningsRecorder) -> None:
    assert len(caught) == 1
    assert Path(caught[0].filename).samefile(__file__)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [(module, *names) for module in (attacks, evaluation, methods, threat) for names in module._RENAMED.items()],
)
def test_a_former_name_of_a_module(module: ModuleType, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{module.__name__}.{old} is called {new} now") as caught:
        assert getattr(module, old) is getattr(module, new)
    assert_here(caught)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_former_names_of_methods() -> None:
    attack, x, y = PGD(steps=2, start="zero"), torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with pytest.warns(DeprecationWarning, match="PGD.goal is called objective_for now") as caught:
        objective = attack.goal(y)
    assert_here(caught)
    with pytest.warns(DeprecationWarning, match="PGD.begin is called initial now"):
        assert torch.equal(attack.begin(x, LINF), attack.initial(x, LINF))
    with pytest.warns(DeprecationWarning, match="PGD.climb is called run now"):
        delta = attack.climb(network, x, objective, LINF)
    assert torch.equal(delta, attack.run(network, x, objective, LINF))
    view, canvas = Augment(pad=1).draw(3, (2, 2)), torch.rand(3, 1, 4, 4)
    with pytest.warns(DeprecationWarning, match="View.paint is called write_back now"):
        assert torch.equal(view.paint(canvas, x), view.write_back(canvas, x))


def test_a_search_that_was_written_for_former_names() -> None:
    """Moves one way by 0.1 a step; the network calls whatever is brighter than 0.75 wrong."""
    with pytest.warns(DeprecationWarning, match="Brighten") as caught:

        class Brighten(SearchAttack):
            lanes = SearchState
            length = 3

            def open(self, x, y, clean, attempt, streams, threat):
                return SearchState(**initial_fields(x, y, x))

            def advance(self, probe, lanes, threat):
                found = probe.logits(lanes.point).argmax(1) != lanes.y
                point = threat.image(lanes.x, lanes.point - lanes.x + 0.1)
                return SearchState(**lanes.tensors() | {"point": point, "found": found, "candidate": lanes.point})

            def describe(self, threat):
                return {}

    said = ["lanes is called state_type", "length is called max_steps", "open is called init", "advance is called step"]
    assert sorted(str(each.message) for each in caught) == sorted(f"Brighten.{each} now." for each in said)
    assert all(Path(each.filename).samefile(__file__) for each in caught)

    class Bright(torch.nn.Module):
        def forward(self, x):
            mean = x.flatten(1).mean(1)
            return torch.stack([0.75 - mean, mean - 0.75], 1)

    x = torch.tensor([0.3, 0.5]).view(2, 1, 1, 1)
    found = Brighten()(Bright(), x, torch.zeros(2, dtype=torch.int64), Threat("Linf", 0.3))
    torch.testing.assert_close(found, torch.tensor([0.6, 0.8]).view(2, 1, 1, 1))


# Keys of a configuration --------------------------------------------------------------------------------------------------

LAS_AT = LAS(AdversarialTraining(PGD(steps=3)), actions=ACTIONS, policy_network=SMALL, interval=2)


def former(config: str) -> str:
    assert "policy_network:" in config
    return config.replace("policy_network:", "strategist:")


def test_a_former_key_of_a_file_and_of_the_command_line() -> None:
    chosen = experiment(LAS_AT)
    said = pytest.warns(FutureWarning, match="The key strategist is called policy_network now")
    with said:
        assert configuration.read(Experiment, former(configuration.to_yaml(chosen))) == chosen
    with said:
        found = configuration.read(Experiment, configuration.to_yaml(chosen), ["--method.strategist.width", "8"])
    assert found.method.policy_network.width == 8
    with pytest.raises(BadInput, match="Unknown key 'strategists'"):
        configuration.read(Experiment, former(configuration.to_yaml(chosen)).replace("strategist:", "strategists:"))


def test_a_run_that_was_begun_with_former_names_goes_on(tmp_path: Path) -> None:
    chosen = experiment(LAS_AT, epochs=2)
    train(chosen, tmp_path / "whole", report=Silent())
    run = Run(tmp_path / "run")
    with pytest.raises(Exception, match="Stopped in epoch 1"):
        train(chosen, run.folder, report=Interrupts(6))
    run.config.write_text(former(run.config.read_text()))
    state = checkpoint.load(run.last, torch.device("cpu"))
    for row in state["history"]:
        row["judge_seconds"] = row.pop("validation_seconds")
    checkpoint.save(state, run.last)
    with pytest.warns(FutureWarning, match="strategist"):
        train(chosen, run.folder, resume=True, report=Silent())
    assert same(final_state(run.folder), final_state(tmp_path / "whole"))
    assert [sorted(row) for row in run.metrics()] == [sorted(row) for row in Run(tmp_path / "whole").metrics()]
    with pytest.raises(BadInput, match="another configuration"):
        train(experiment(MEP(), epochs=2), run.folder, resume=True, report=Silent())
