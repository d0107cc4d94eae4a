"""Short real runs for tests: what they train, what they end with, and ways to interrupt them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from sparring.averaging import EMA
from sparring.data import Augment, Data
from sparring.experiment import Experiment, Model
from sparring.methods import Method
from sparring.optimisation import Optimisation
from sparring.schedule import Cyclic
from sparring.threat import Threat
from sparring.training import Run, Selection, checkpoint
from sparring.training.progress import Silent


def experiment(method: Method, epochs: int = 3, **changes: object) -> Experiment:
    """A real run on digits that takes a second or two."""
    parts = {
        "data": Data(limit=300, validation=44, augment=Augment(pad=1, flip=True)),
        "model": Model(width=4),
        "threat": Threat(eps=0.2),
        "optimisation": Optimisation(epochs=epochs, batch_size=64, schedule=Cyclic(), average=EMA(0.99)),
        "selection": Selection(attack="pgd-2"),
    }
    return Experiment(method=method, **(parts | changes))


def final_state(folder: Path) -> dict:
    state = checkpoint.load(Run(folder).last)
    del state["history"]  # its seconds differ from run to run
    return state


def same(one: object, other: object) -> bool:
    """Whether two states agree bit for bit, keys and all."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


class Interrupts(Silent):
    """Sends the process a signal at a given step: by default the one of Ctrl-C."""

    def __init__(self, at: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = at, number

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def killed_at(step: int, config: Path, folder: Path) -> None:
    """Run the experiment in a process of its own, which kill -9 ends at that step."""
    program = (
        "import signal, sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from sparring import configuration; from sparring.experiment import Experiment, train\n"
        "from tests.training.runs import Interrupts\n"
        "report = Interrupts(int(sys.argv[3]), signal.SIGKILL)\n"
        "train(configuration.read(Experiment, Path(sys.argv[1])), sys.argv[2], report=report)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, config, folder, str(step)], cwd=root, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
