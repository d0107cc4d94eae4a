"""Which kernels a GPU spends a training step in: convolutions, or what lies between them. (On a CPU, which operators.)"""

from __future__ import annotations

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import timing
from benchmarks.harness.ours import Way
from benchmarks.harness.scene import Scene
from benchmarks.speed import cost
from sparring.training.acceleration.cuda_graph import cudnn_benchmark

STEPS = 5
# Parts of kernels' names, by what they are; the first that fits counts.
KINDS = {
    "fused by the compiler": ("triton",),
    "batch norm": ("batch_norm", "bn_", "batchnorm"),
    "optimizer and foreach": ("multi_tensor", "fused_sgd", "foreach"),
    "copy and set": ("memcpy", "memset", "copy"),
    "convolution": ("conv", "wgrad", "dgrad", "fprop", "implicit_gemm", "cudnn"),
    "matrix product": ("gemm", "cublas", "cutlass"),
    "pointwise and reductions": ("elementwise", "reduce", "vectorized", "softmax", "nll"),
}


@cudnn_benchmark()
def measure(name: str, scene: Scene, way: Way) -> dict[str, object]:
    """Return the milliseconds a step by kind of kernel, how many kernels a step has, and the longest ones."""
    side = cost.prepared(name, scene, way)
    side.warm_up()
    timing.wait(side.device)
    on_gpu = side.device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as profiler:
        side.steps(STEPS)()
        timing.wait(side.device)
    place = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    spent: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    launched = 0
    for event in profiler.events():
        if event.device_type == place:
            milliseconds = event.time_range.elapsed_us() / 1e3 / STEPS
            spent[kind(event.name)] += milliseconds
            by_name[event.name] += milliseconds
            launched += 1
    return {
        "level": side.level,
        "milliseconds_by_kind": dict(spent.most_common()),
        "kernels_a_step": launched / STEPS,
        "longest": dict(by_name.most_common(12)),
    }


def kind(kernel: str) -> str:
    """Return what a kernel of this name does."""
    lowered = kernel.lower()
    return next((name for name, parts in KINDS.items() if any(part in lowered for part in parts)), "other")
