"""A compiled network trains as an uncompiled one does."""

from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

from sparring.learner import Learner, Optimisation
from sparring.methods import MEP
from tests.methods.harness import BATCH, Bench, network, task


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own code
def test_a_compiled_run_has_the_losses_of_an_eager_one() -> None:
    """Attack, two forwards in one loss, and the optimizer's step; a minute of compiling, mostly."""
    losses = []
    for compiled in (False, True):
        method = MEP()
        method.setup(task())
        options = Optimisation(epochs=4, batch_size=BATCH, lr=0.05)
        fabric = Fabric(accelerator="cpu", devices=1)
        bench = Bench(method, Learner(network(), options, fabric, total=16, compiled=compiled))
        losses.append(torch.stack([loss.total.detach() for loss in bench.steps(0, 6)]))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    assert losses[0][-1] != losses[0][0]
