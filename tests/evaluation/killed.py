"""Evaluations that kill -9 ends in given stages, one after the other, and a last one that it does not: a program for tests.

    python -m tests.evaluation.killed FILE STAGES PORTS

STAGES and PORTS (of torch.distributed) are separated by commas; the last stage is empty. Each process of the last evaluation
writes what it finds into FILE.RANK.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from sparring import ranks
from sparring.evaluation import naming
from tests.evaluation.short import ATTACKS, evaluator, images, named


def evaluate(target: Path, kill_in: str) -> None:
    """Go on with the evaluation; the process dies at the third look into the stage `kill_in`."""
    calls = 0

    def tick(attack: str, done: float) -> None:
        nonlocal calls
        calls += attack == kill_in
        if calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with ranks.joined("cpu"):
        asked = evaluator()
        checkpoint = asked.checkpoint(target, ATTACKS)
        checkpoint._every = 0.0
        found = asked.run(ATTACKS, tick, checkpoint)
        said = {o.attack: [o.correct, o.images, [s.correct for s in o.stages]] for o in found.outcomes}
        torch.save(said, f"{target}.{ranks.index()}")


def main() -> None:
    torch.set_num_threads(1)
    naming.named = named
    images()  # before the fork: it imports much
    target, stages, ports = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3].split(",")
    for stage, port in zip(stages, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        if stage == "":
            evaluate(target, stage)
        elif (child := os.fork()) == 0:  # a process of its own, but for the last, which is not killed
            evaluate(target, stage)
            os._exit(1)
        else:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, stage


if __name__ == "__main__":
    main()
