"""An evaluation that is killed goes on to the same result, whatever it was doing, and shared work is the same work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sparring.evaluation import Outcomes, Stage, naming
from sparring.evaluation.progress import Checkpoint, Progress, fingerprint
from sparring.models import create
from sparring.threat import Threat
from tests.evaluation.short import ATTACKS, evaluator, named, subject


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "named", named)


@pytest.fixture(scope="module")
def whole() -> Outcomes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naming, "named", named)
        return evaluator().run(ATTACKS)


def same(found: Outcomes, expected: Outcomes) -> bool:
    """Verdicts, images, and what each stage cost, but for the time."""

    def said(evaluation: Outcomes) -> list[object]:
        return [
            (outcome.attack, outcome.correct.tolist(), outcome.settings, _stages(outcome.stages))
            for outcome in evaluation.outcomes
        ]

    images = [(one.images, other.images) for one, other in zip(found.outcomes, expected.outcomes, strict=True)]
    return said(found) == said(expected) and all(
        one is other is None or torch.equal(one, other) for one, other in images
    )


def _stages(stages: Sequence[Stage]) -> list[object]:
    return [(stage.name, stage.correct.tolist(), stage.settings) for stage in stages]


STAGES = ("clean", "pgd-3", "aa apgd-ce", "aa apgd-t", "aa fab-t", "aa square")


class Stopped(Exception):
    pass


def stopping(stage: str, when: int):
    """A progress callback that stops at the stage's call of this number."""
    calls = 0

    def tick(attack: str, done: float) -> None:
        nonlocal calls
        calls += attack == stage
        if calls == when:
            raise Stopped(stage)

    return tick


def test_these_attacks_leave_some_images_in_every_stage(whole: Outcomes) -> None:
    accuracies = [stage.accuracy for stage in whole.outcome("aa").stages]
    assert whole.accuracy("clean") > 0.9
    assert whole.accuracy("clean") > accuracies[0] > accuracies[-1] > 0.1
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("when", [1, 2, 3])
def test_it_goes_on_from_wherever_it_was_stopped(stage: str, when: int, whole: Outcomes, tmp_path: Path) -> None:
    checkpoint = evaluator().checkpoint(tmp_path / "evaluation.json", ATTACKS)
    checkpoint._every = 0.0  # at every look
    with pytest.raises(Stopped):
        evaluator().run(ATTACKS, stopping(stage, when), checkpoint)
    again = evaluator().checkpoint(tmp_path / "evaluation.json", ATTACKS)
    assert again.path == checkpoint.path
    torch.manual_seed(when)
    told: list[str] = []
    assert same(evaluator().run(ATTACKS, lambda attack, done: told.append(attack), again), whole)
    assert list(tmp_path.iterdir()) == [again.path]
    assert same(evaluator().run(ATTACKS, lambda attack, done: pytest.fail("worked again"), again), whole)
    again.remove()
    assert list(tmp_path.iterdir()) == []
    assert list(dict.fromkeys(told)) == list(STAGES[STAGES.index(stage) :])  # what was done is not done again


class Drawing(nn.Module):
    """A network that draws from the default generator, and notes what."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.drawn = network, []

    def forward(self, x: Tensor) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        return self.network(x)


@pytest.mark.parametrize("fails", [False, True])
def test_going_on_leaves_the_caller_s_random_state_alone(fails: bool, tmp_path: Path) -> None:
    asked = replace(evaluator(), model=Drawing(subject()[0]), precision=None)
    attacks = ["clean", "pgd-3"]

    def checkpoint() -> Checkpoint:
        every = replace(asked, model=subject()[0]).checkpoint(tmp_path / "evaluation.json", attacks)
        every._every = 0.0
        return every

    torch.manual_seed(3)
    asked.run(attacks)
    whole = asked.model.drawn.copy()
    asked.model.drawn.clear()
    torch.manual_seed(3)
    with pytest.raises(Stopped):
        asked.run(attacks, stopping("pgd-3", 2), checkpoint())
    stopped = len(asked.model.drawn)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    if fails:
        with pytest.raises(Stopped):
            asked.run(attacks, stopping("pgd-3", 1), checkpoint())
    else:
        asked.run(attacks, checkpoint=checkpoint())
        assert set(asked.model.drawn[stopped:]) <= set(whole)
        assert asked.model.drawn[-1] == whole[-1]
    assert torch.equal(torch.get_rng_state(), before)


def test_another_question_has_another_checkpoint(tmp_path: Path) -> None:
    asked = evaluator()
    other_images = replace(asked.images, labels=(asked.images.labels + 1) % 10)
    torch.manual_seed(5)
    other_model = create("smallconv", 10, channels=1, size=8, width=4).eval()
    path = tmp_path / "evaluation.json"
    questions = [
        (asked, ATTACKS),
        (asked, ["clean"]),
        (replace(asked, seed=1), ATTACKS),
        (replace(asked, threat=Threat("Linf", "1/9")), ATTACKS),
        (replace(asked, threat=Threat("L2", "1/10")), ATTACKS),
        (replace(asked, precision="search16"), ATTACKS),
        (replace(asked, images=other_images), ATTACKS),
        (replace(asked, model=other_model), ATTACKS),
    ]
    assert len({one.checkpoint(path, attacks).path for one, attacks in questions}) == len(questions)
    assert replace(asked, batch_size=7).checkpoint(path, ATTACKS).path == asked.checkpoint(path, ATTACKS).path


def test_a_checkpoint_that_cannot_be_read_counts_as_none(tmp_path: Path, whole: Outcomes) -> None:
    checkpoint = evaluator().checkpoint(tmp_path / "evaluation.json", ATTACKS)
    checkpoint.path.write_bytes(b"not safetensors")
    assert checkpoint.read() == Progress()
    assert same(evaluator().run(ATTACKS, checkpoint=checkpoint), whole)


@pytest.mark.parametrize("what", [b"1.5", torch.full((2, 3), 0.25).numpy().tobytes()])
def test_a_checkpoint_that_was_damaged_counts_as_none(tmp_path: Path, what: bytes) -> None:
    """In the text or in a tensor: the file can be read as before."""
    stage = Stage("aa", "square", torch.tensor([True, False]), 1.5, 10, 20)
    progress = Progress(torch.full((2, 3), 0.25), 0.5, [stage])
    checkpoint = Checkpoint(tmp_path / "evaluation.json", "0" * 64)
    checkpoint.write(progress)
    assert torch.equal(checkpoint.read().clean, progress.clean)
    content = checkpoint.path.read_bytes()
    place = content.index(what) + len(what) - 1
    checkpoint.path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    load_file(checkpoint.path)
    assert checkpoint.read() == Progress()


def test_a_fingerprint_changes_with_any_weight() -> None:
    model, _ = subject()
    before = fingerprint(model)
    assert fingerprint(subject()[0]) == before
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-6
    assert fingerprint(model) != before


def start(target: Path, kill_in: Sequence[str], **variables: str) -> subprocess.Popen[bytes]:
    """Evaluations that are killed in these stages, one after the other, and a last one that is not."""
    root = Path(__file__).parents[2]
    ports = variables.pop("ports", ",".join("0" for _ in (*kill_in, "")))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.evaluation.killed", str(target), ",".join([*kill_in, ""]), ports],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        stderr=subprocess.PIPE,
    )


def free_ports(count: int) -> str:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return ",".join(str(each.getsockname()[1]) for each in sockets)


def results(path: Path, expected: Outcomes) -> bool:
    found = torch.load(path, weights_only=True)
    return all(
        torch.equal(found[outcome.attack][0], outcome.correct)
        and (outcome.images is None or torch.equal(found[outcome.attack][1], outcome.images))
        and [stage.tolist() for stage in found[outcome.attack][2]]
        == [stage.correct.tolist() for stage in outcome.stages]
        for outcome in expected.outcomes
    )


def test_it_survives_being_killed_in_every_stage(tmp_path: Path, whole: Outcomes) -> None:
    process = start(tmp_path / "evaluation", STAGES[1:])
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint.decode()
    assert results(tmp_path / "evaluation.0", whole)


def test_two_processes_find_what_one_finds(tmp_path: Path, whole: Outcomes) -> None:
    """Also if both are killed and go on, from different places."""
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ports": free_ports(2)}
    processes = [
        start(tmp_path / "evaluation", [stage], RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank, stage in enumerate(("aa apgd-t", "aa square"))
    ]
    for process in processes:
        _, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint.decode()
    for rank in range(2):
        assert results(tmp_path / f"evaluation.{rank}", whole)


def test_a_record_of_what_was_done_survives_json(tmp_path: Path) -> None:
    stage = Stage("aa", "square", torch.tensor([True, False]), 1.5, 10, 20, {"queries": 5, "p": "0.8"})
    progress = Progress(
        torch.rand(2, 3), 0.5, [stage], {"steps": torch.arange(3)}, (2.5, 7, 8), {"aa": torch.rand(2, 1, 2, 2)}
    )
    checkpoint = Checkpoint(tmp_path / "evaluation.json", "0" * 64)
    checkpoint.write(progress)
    found = checkpoint.read()
    assert torch.equal(found.clean, progress.clean)
    assert found.spent == progress.spent
    assert torch.equal(found.running["steps"], torch.arange(3))
    assert torch.equal(found.images["aa"], progress.images["aa"])
    assert json.dumps([found.stages[0].settings, found.stages[0].seconds]) == json.dumps(
        [stage.settings, stage.seconds]
    )
    assert torch.equal(found.stages[0].correct, stage.correct)
