"""Whether LAS's policy learns: on a toy whose best action is known, and while it trains a network. CPU.

    python -m benchmarks.accuracy.policy toy --json results/policy-toy.json
    python -m benchmarks.accuracy.policy training --json results/policy-training.json

The toy: a network trained on digits stays as it is, the return is L1 alone, and the strategies differ in their radius only,
so that the largest radius is the best by construction. Each variant of the update is given the number of updates that the
released CIFAR-10 run has (110 epochs of 391 steps, every 20th). The training: LAS-AT on digits; after each epoch, strategies
are drawn for training images from the policy and from the uniform one, and compared on the same network.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import sparring
from benchmarks.harness.command import exit_with
from benchmarks.harness.record import write_found
from benchmarks.harness.steps import Bench, held_out
from sparring.methods import LAS, Actions, AdversarialTraining, PolicyNetwork, Reward
from sparring.methods.policy import Distribution

RELEASED_UPDATES = 110 * 391 // 20
RADII = Actions(eps=("0.02", "0.05", "0.1", "0.2"), steps=(1,), alpha=("0.2",))
SMALL = PolicyNetwork(network="smallconv", width=8)
RELEASED = replace(SMALL, optimizer="sgd", lr=1e-4, clip=1.0)
HARDNESS = Reward(terms=("L1",))
CONTROLS = ("uniform", "fixed")
VARIANTS: dict[str, dict[str, Any]] = {
    "ours: own return, EMA, Adam 1e-3": {"policy_network": SMALL, "reward": HARDNESS},
    "ours, no baseline": {"policy_network": SMALL, "reward": HARDNESS, "baseline": "none"},
    "ours, batch return": {"policy_network": SMALL, "reward": HARDNESS, "returns": "batch"},
    "ours, SGD 1e-3": {"policy_network": replace(RELEASED, lr=1e-3), "reward": HARDNESS},
    "released: batch return, SGD 1e-4": {
        "policy_network": RELEASED,
        "reward": HARDNESS,
        "returns": "batch",
        "baseline": "none",
    },
    "released, SGD 1e-2": {
        "policy_network": replace(RELEASED, lr=1e-2),
        "reward": HARDNESS,
        "returns": "batch",
        "baseline": "none",
    },
}


def toy(variant: dict[str, Any], seed: int, updates: int) -> dict[str, Any]:
    """Return the probability of the best action, and how far the policy's weights moved, over the updates."""
    experiment = sparring.recipe("digits/standard", ["--optimisation.epochs", "5", "--seed", str(seed)])
    target = Bench(experiment)
    target.finish()
    inner = AdversarialTraining(sparring.attacks.PGD(steps=1, bn="eval"))
    method = LAS(inner, actions=RADII, interval=1, **variant)
    learner = target.beside(method).learner
    batch = held_out(target.splits.train, 64)[0]
    begun = weights(method)
    probabilities = []
    for update in range(updates + 1):
        if update % 50 == 0 or update == updates:
            probabilities.append([update, round(best(method, batch.x), 4)])
        torch.manual_seed(update)
        method.adapt(learner, batch, method.phase(0, update))
    return {
        "probability": probabilities,
        "reached_0.8": next((update for update, p in probabilities if p > 0.8), None),
        "moved": round((weights(method) - begun).norm().item(), 4),
    }


def best(method: LAS, x: torch.Tensor) -> float:
    """Return the mean probability of the largest radius, by the batch's own statistics as in an update."""
    method.network.train()
    with torch.no_grad():
        found = method.strategies(x).log_probabilities["eps"].exp()[:, -1].mean().item()
    method.network.eval()
    return found


def weights(method: LAS) -> torch.Tensor:
    """Return the policy's, in one vector."""
    return torch.cat([weight.detach().flatten() for weight in method.network.parameters()])


def training(seed: int, epochs: int, interval: int) -> dict[str, Any]:
    """Return by epoch how much more the learned strategies return than uniform ones on the same network; and controls."""
    words = ["--optimisation.epochs", str(epochs), "--seed", str(seed)]
    bench = Bench(sparring.recipe("digits/las-at", [*words, "--method.interval", str(interval)]))
    rows = [{"epoch": epoch} | compare(bench, epoch) | reported(bench.method) for epoch in bench.epochs()]
    accuracies = {"learned": bench.accuracies(("clean", "pgd-20"))}
    for policy in CONTROLS:
        control = Bench(sparring.recipe("digits/las-at", [*words, "--method.policy", policy]))
        control.finish()
        accuracies[policy] = control.accuracies(("clean", "pgd-20"))
    late = rows[len(rows) // 2 :]
    return {
        "seed": seed,
        "by_epoch": rows,
        "learned_minus_uniform": round(sum(row["difference"] for row in late) / len(late), 4),
        "epochs_above": sum(row["difference"] > 0 for row in rows),
        "accuracies": accuracies,
    }


def compare(bench: Bench, epoch: int) -> dict[str, float]:
    """Return the mean return of both policies' strategies over 768 training images, and their difference."""
    method, target = bench.method, bench.learner
    assert isinstance(method, LAS)
    returns: dict[str, list[float]] = {"learned": [], "uniform": []}
    for number, batch in enumerate(held_out(bench.splits.train, 128)[:6]):
        with torch.no_grad():
            learned = method.strategies(batch.x)
        uniform = Distribution(
            {head: torch.zeros_like(p).log_softmax(1) for head, p in learned.log_probabilities.items()}
        )
        for name, policy in (("learned", learned), ("uniform", uniform)):
            torch.manual_seed(1000 * epoch + number)
            returns[name].append(method.reward_terms(target, batch, policy.sample())[3].mean().item())
    target.network.train()
    means = {name: sum(values) / len(values) for name, values in returns.items()}
    return {name: round(value, 4) for name, value in means.items()} | {
        "difference": round(means["learned"] - means["uniform"], 4)
    }


def reported(method: sparring.methods.Method) -> dict[str, float]:
    """Return what the method says of its epoch, the single numbers."""
    return {name: round(value.item(), 4) for name, value in method.metrics().items() if value.ndim == 0}


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["toy", "training"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=RELEASED_UPDATES, help="of the toy")
    parser.add_argument("--epochs", type=int, default=30, help="of the training")
    parser.add_argument("--interval", type=int, default=2, help="k of the training: digits have 11 steps an epoch")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)  # images of 8x8 pixels
    if options.what == "toy":
        found: Any = {
            name: [toy(variant, seed, options.updates) for seed in options.seeds] for name, variant in VARIANTS.items()
        }
        rows = [
            [
                name,
                *[", ".join(str(run[key]) for run in runs) for key in ("reached_0.8", "moved")],
                ", ".join(f"{run['probability'][0][1]:.2f} -> {run['probability'][-1][1]:.2f}" for run in runs),
            ]
            for name, runs in found.items()
        ]
        show(
            f"Probability of the best of four actions over {options.updates} updates, by seed",
            ["variant", "updates to 0.8", "weights moved", "probability"],
            rows,
        )
    else:
        found = [training(seed, options.epochs, options.interval) for seed in options.seeds]
        rows = [
            [
                str(run["seed"]),
                f"{run['learned_minus_uniform']:+.4f}",
                f"{run['epochs_above']} of {len(run['by_epoch'])}",
                *[f"{run['accuracies'][policy]['pgd-20']:.1%}" for policy in ("learned", *CONTROLS)],
            ]
            for run in found
        ]
        show(
            "Return of learned minus uniform strategies on the same network, second half of the epochs; PGD-20",
            ["seed", "difference", "epochs above", "learned", *CONTROLS],
            rows,
        )
    write_found(options, found=found)
    return 0


if __name__ == "__main__":
    exit_with(main)
