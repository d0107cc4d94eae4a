"""What it saves to let images whose attack is finished leave the batch: LAS's training step both ways, taking turns. CPU.

    python benchmarks/compaction.py --data ../shared/data/cifar10 --json results/compaction.json

The policy is uniform, so that the strategies are the released tables' own mixture: 3 to 14 steps, 8.5 on average.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import sparring
from sparring.environment import environment
from sparring.files import replacing
from sparring.training.cost import step_cost
from steps import Bench, exit_with


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's parquet files")
    parser.add_argument("--recipe", default="cifar10/las-at-uniform")
    parser.add_argument("--width", type=int, default=16, help="channels of the target's first stage")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    words = ["--data.path", options.data, "--data.limit", "2000", "--model.width", str(options.width)]
    benches = {
        name: Bench.of(sparring.recipe(options.recipe, [*words, "--runtime.compact", flag]))
        for name, flag in (("masked", "false"), ("compact", "true"))
    }
    batches = {name: iter(bench.data().epoch(0)) for name, bench in benches.items()}
    units = {}
    for name, bench in benches.items():  # also warms up
        bench.method.begin_epoch(0)
        bench.learner.network.train()
        units[name] = round(step_cost(bench.method, bench.learner, next(batches[name])), 2)
    seconds: dict[str, list[float]] = {name: [] for name in benches}
    for _ in range(options.pairs):
        for name, bench in benches.items():
            batch = next(batches[name])
            began = time.perf_counter()
            bench.step(batch)
            seconds[name].append(round(time.perf_counter() - began, 4))
    ratios = [masked / compact for masked, compact in zip(seconds["masked"], seconds["compact"], strict=True)]
    print(f"forward passes a step: {units}")
    print(f"compact is faster by {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} pairs")
    if options.json:
        arguments = {key: str(value) for key, value in vars(options).items()}
        record = {"arguments": arguments, "environment": environment(), "forwards": units, "seconds": seconds}
        with replacing(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
