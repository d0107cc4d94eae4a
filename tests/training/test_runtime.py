"""Where finished images leave an attack's batch: where it costs nothing to know them, unless somebody says otherwise."""

from __future__ import annotations

import pytest
import torch

from sparring.training import Runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("runtime", "device", "expected"),
    [
        (Runtime(), CPU, True),
        (Runtime(), GPU, False),
        (Runtime(compile="model"), CPU, False),
        (Runtime(compact=False), CPU, False),
        (Runtime(compact=True), GPU, True),
        (Runtime(compact=True, compile="model"), GPU, True),
    ],
)
def test_finished_images_leave_where_nobody_waits_for_the_device(
    runtime: Runtime, device: torch.device, expected: bool
) -> None:
    assert runtime.compacts(device) is expected
