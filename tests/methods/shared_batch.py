"""Every method for some steps on one process or on two that share each batch; the latter as a program for torchrun.

    python -m torch.distributed.run --nproc-per-node 2 -m tests.methods.shared_batch FILE

writes what rank 0 ends with. Noise is drawn for the whole batch and cut, and networks with BatchNorm are left out or kept
from using a batch's statistics, so that two processes have to compute what one does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from sparring import ranks
from sparring.data import Batch
from sparring.learner import Learner
from sparring.methods import LAS, LBGAT, SDI, Method, Wrapper
from sparring.optimisation import Optimisation
from sparring.randomness import seed_from
from tests.methods import harness
from tests.methods.cases import CASES
from tests.methods.harness import train_on

# A rank's batch cannot reproduce the noise that one process draws for the whole of BP's first batch, int8 and fp16 round
# away the agreement to many digits, and CAT's shares are those of a rank's batch.
EXCEPTIONS = {"BP", "AWP(BP)", "EP, fp16", "MEP, int8", "MEP, fp16 as released", "CAT"}
STEPS = 6


def results(fabric: Fabric, rank: int) -> dict[str, Tensor]:
    """By case, the weights after some steps and whatever tensors the method remembers, flattened."""
    torch.set_default_dtype(torch.float64)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rand", "randn"):
            patch.setattr(torch, name, _cut(getattr(torch, name), rank))
        for name, case in CASES.items():
            if name not in EXCEPTIONS:
                found[name] = _trained(case.make(), fabric, rank)
    torch.set_default_dtype(torch.float32)
    return found


def _trained(method: Method, fabric: Fabric, rank: int) -> Tensor:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 10),
    )
    method.setup(replace(harness.task(), batch_size=harness.BATCH // ranks.count()))
    _without_batch_statistics(method)
    options = Optimisation(epochs=4, batch_size=harness.BATCH, lr=0.05)
    learner = Learner(network, options, fabric, total=10**9)
    for step in range(STEPS):
        epoch, position = divmod(step, harness.STEPS_PER_EPOCH)
        method.begin_epoch(epoch)
        torch.manual_seed(seed_from(0, step))
        train_on(method, learner, _part(harness.batches(epoch)[position], rank))
    state = _without_counts(method.state_dict())
    leaves = harness.flat([network.state_dict(), state, dict(method.metrics())])
    return torch.cat([leaf.double().flatten() for leaf in leaves if isinstance(leaf, Tensor)])


def _without_counts(state: dict) -> dict:
    """LAS and curricula count what their rank did, which the report adds up; Free and BP keep the rank's perturbations."""
    own = {"counts", "entropies", "rewards", "taken", "buffer"}
    return {
        name: _without_counts(value) if name == "inner" else value for name, value in state.items() if name not in own
    }


def _part(batch: Batch, rank: int) -> Batch:
    size = harness.BATCH // ranks.count()
    mine = slice(rank * size, (rank + 1) * size)
    return Batch(batch.x[mine].double(), batch.y[mine], batch.index[mine], batch.view[mine])


def _cut(draw: Callable[..., Tensor], rank: int) -> Callable[..., Tensor]:
    """Draws for the whole batch, of which this rank gets its rows; draws from a generator are no business of a batch."""

    def drawn(shape: torch.Size, **options: object) -> Tensor:
        if options.get("generator") is not None or ranks.count() == 1:
            return draw(shape, **options)
        whole = draw((ranks.count() * shape[0], *shape[1:]), **options)
        return whole[rank * shape[0] : (rank + 1) * shape[0]]

    return drawn


def _without_batch_statistics(method: Method) -> None:
    """A method's own network normalises by its running statistics: a rank's batch has others than the whole batch."""
    while isinstance(method, Wrapper):
        if isinstance(method, LAS) and method.network is not None:
            method.network.train = lambda mode=True: None
        method = method.inner
    if isinstance(method, SDI):
        method.generator.train = lambda mode=True: None
    if isinstance(method, LBGAT):
        method.network.eval()


def main() -> None:
    torch.set_num_threads(1)
    strategy = DDPStrategy(process_group_backend="gloo", broadcast_buffers=False)
    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy, precision="64-true")
    fabric.launch()
    found = results(fabric, fabric.global_rank)
    if fabric.global_rank == 0:
        torch.save(found, sys.argv[1])


if __name__ == "__main__":
    main()
