"""What it saves to let images whose attack is finished leave the batch: training steps both ways, taking turns. CPU.

    python -m benchmarks.speed.compaction --data ../shared/data/cifar10 --json results/compaction.json

LAS's policy is uniform, so that the strategies are the released tables' own mixture: 3 to 14 steps, 8.5 on average. How long
FAT, SAT and DART attack depends on what the network knows, and on how much of the run is over: all are measured on one
network, which FGSM-RS has trained for a few epochs, with the rules of several moments of their recipe's run.
"""

from __future__ import annotations

import argparse
import time
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write_found
from benchmarks.harness.steps import Bench
from sparring.training.cost import step_cost

WAYS = {"masked": "false", "compact": "true"}


def main() -> int:
    """Measure and print."""
    options = _options()
    words = ["--data.path", options.data, "--data.limit", str(options.images), "--data.validation", "0"]
    words += ["--data.test_limit", "256", "--model.width", str(options.width)]
    words += ["--optimisation.batch_size", str(options.batch)]
    schooled = ["--optimisation.epochs", str(options.epochs), "--optimisation.schedule", "Cyclic"]
    teacher = Bench(sparring.recipe("cifar10/fgsm-rs", [*words, *schooled]))
    teacher.finish()
    network = teacher.learner.network.state_dict()
    accuracies = teacher.accuracies(("clean", "pgd-10"))
    print(f"the network: {accuracies}", flush=True)
    found = []
    for recipe in options.recipes:
        # The steps that are timed leave the network what it was, but for its running statistics.
        still = [*words, "--optimisation.lr", "1e-6"]
        benches = {
            way: Bench(sparring.recipe(f"cifar10/{recipe}", [*still, "--runtime.compact", flag]))
            for way, flag in WAYS.items()
        }
        for at in options.at:
            found.append({"recipe": recipe, "at": at, **measured(benches, network, at, options.pairs)})
            print(line(found[-1]), flush=True)
    write_found(options, paths=("data",), network=accuracies, found=found)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's parquet files")
    parser.add_argument("--recipes", nargs="+", default=["las-at-uniform", "fat", "sat", "dart"])
    parser.add_argument("--at", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.8], help="fractions of the run")
    parser.add_argument("--images", type=int, default=10_000, help="that the network is trained on")
    parser.add_argument("--epochs", type=int, default=5, help="of the network's training")
    parser.add_argument("--width", type=int, default=16, help="channels of the network's first stage")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3, help="steps of either way, at each moment")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured(benches: dict[str, Bench], network: dict[str, torch.Tensor], at: float, pairs: int) -> dict[str, Any]:
    """Return forward passes of a step, seconds of `pairs` others, and the attacks' mean number of steps in all of them."""
    draws, forwards = {}, {}
    for way, bench in benches.items():
        bench.learner.network.load_state_dict(network)
        bench.session.epoch = int(at * bench.experiment.optimisation.epochs)
        bench.session.begin_epoch()
        draws[way] = cycle(bench.draws(0))
        torch.manual_seed(0)
        batch = bench.show(next(draws[way]))
        forwards[way] = round(step_cost(bench.method, bench.learner, batch, bench.session.epoch), 2)  # also warms up
    seconds: dict[str, list[float]] = {way: [] for way in benches}
    for _ in range(pairs):
        for way, bench in benches.items():
            draw = next(draws[way])
            began = time.perf_counter()
            bench.step(draw)
            seconds[way].append(round(time.perf_counter() - began, 4))
    metrics = benches["compact"].method.metrics()
    steps = metrics["attack_steps"] if "attack_steps" in metrics else metrics["steps_mean"]
    return {"attack_steps": round(steps.item(), 2), "forwards": forwards, "seconds": seconds}


def line(row: dict[str, Any]) -> str:
    """Return a row of `measured` in words."""
    masked, compact = row["seconds"]["masked"], row["seconds"]["compact"]
    ratios = [one / other for one, other in zip(masked, compact, strict=True)]
    return (
        f"{row['recipe']} at {row['at']}: {row['attack_steps']} attack steps, forward passes {row['forwards']}, "
        f"compact is faster by {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} pairs"
    )


if __name__ == "__main__":
    exit_with(main)
