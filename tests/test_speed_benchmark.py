"""What the benchmarks of speed measure, and that they report it as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.harness import timing
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Ours, Way
from benchmarks.harness.scene import Scene
from benchmarks.speed import captured, ceilings, cost, passes, profiled, race
from benchmarks.speed.cost import Cost
from sparring.training.acceleration.plan import Plan
from sparring.training.acceleration.replay import Replayer
from tests.training.acceleration.tape import TapeCapturer


def test_whether_images_leave_is_counted() -> None:
    """A policy like the published ResNet-18 weighs much here: the strategies' 3 to 14 steps are in the difference."""
    scene = Scene(width=4, batch=8, size=16, accelerator="cpu")
    masked, compact = (cost._counted("las", scene, Way(compact=flag))["units"] for flag in (False, True))
    assert 4 < masked - compact < 2 * (14 - 3)


def test_the_scripts_for_ceilings_and_passes_print_and_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ceilings, "BYTES", {"cpu": 2**20})
    monkeypatch.setattr(ceilings, "SIDE", {"cpu": 64})
    assert ceilings.main(["--device", "cpu", "--json", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())["ceilings"]
    assert found.keys() == {"copy_tb_per_s", "float32_tflop_per_s", "bfloat16_tflop_per_s"}
    assert min(found.values()) > 0
    words = ["--width", "4", "--batches", "2", "--rounds", "2", "--device", "cpu", "--precision", "32"]
    assert passes.main([*words, "--levels", "eager", "graph", "--json", str(tmp_path / "p.json")]) == 0
    assert "graph: needs a GPU, left out" in capsys.readouterr().err
    rows = json.loads((tmp_path / "p.json").read_text())["passes"]
    assert [row["kind"] for row in rows] == [
        "forward",
        "forward, to the pixels",
        "the same 10 times, BatchNorm at rest",
        "forward, to the weights",
    ]
    forward, pixels, attack, weights = (row["operations"] for row in rows)
    assert pixels / forward == pytest.approx(2, rel=0.01)
    assert attack == 10 * pixels
    assert weights / forward == pytest.approx(3, rel=0.1)  # of a narrow network the first layer is a large part


def test_a_time_of_steps_that_were_not_captured_is_marked() -> None:
    costs = [Cost("mep", "graph", 7.0, 7, 1e9, 200, 0, 0, reason, [1.0]) for reason in ("", "it waits")]
    table = cost.cost_table(costs, "", 128, 1.0)
    assert list(table.columns[1].cells) == ["graph", "graph*"]
    assert table.caption == "* it waits"


def test_steps_that_learn_now_and_then_are_means_over_whole_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """FGSM-SDI's step costs 7.145 forward passes and, every 20th, 4.4 more; a round is as many as are between two such."""
    rounds, clock = [], timing.seconds

    def counted(work, device):
        before = len(steps)
        seconds = clock(work, device)
        rounds.append(steps[before:])
        return seconds

    steps = []
    step = Ours.step
    monkeypatch.setattr(Ours, "step", lambda side, *draw: (steps.append(side.learner.steps), step(side, *draw)))
    monkeypatch.setattr(timing, "seconds", counted)
    scene = Scene(width=64, batch=2, size=16, accelerator="cpu")
    found = cost.measure("sdi", scene, 2, Way())
    (timed,) = rounds
    assert [number % 20 for number in timed].count(0) == 1
    assert len(timed) == 20
    assert len(found.seconds) == 1
    assert found.units == pytest.approx(7.145 + 4.4 / 20, rel=0.01)
    standard = cost.measure("standard", scene, 2, Way())
    assert len(standard.seconds) == 2


@pytest.mark.parametrize("measure", ["cost", "race", "passes"])
def test_cudnn_may_try_algorithms_from_the_first_pass_on(measure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that was met before, by a step that was counted or by the check of equality, is not tried any more."""
    seen, forward = set(), torch.nn.Conv2d.forward

    def watched(module, x):
        seen.add(torch.backends.cudnn.benchmark)
        return forward(module, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    scene = Scene(width=4, batch=4, accelerator="cpu")
    if measure == "cost":
        cost.measure("mep", scene, 1, Way())
    elif measure == "race":
        race.race("mep", scene, 1, ("channels-last",))
    else:
        passes.measure(scene, "eager", 32, 1)
    assert seen == {True}
    assert not torch.backends.cudnn.benchmark


def test_a_level_that_a_method_cannot_have_is_not_reported() -> None:
    """GradAlign is not compiled, NuAT not captured: the level that they fall back to stands beside the reason."""
    scene = Scene(width=4, batch=4, size=16, accelerator="cpu")
    found = cost.measure("gradalign", scene, 1, Way(level="compile"))
    assert found.level == "eager"
    assert "differentiates the network twice" in found.refusal
    (refused,) = race.race("gradalign", scene, 1, ("compile",)).refusals.items()
    assert refused[0] == "compile"
    assert refused[1].startswith("eager, as GradAlign differentiates")
    assert not cost.measure("standard", scene, 1, Way()).refusal


def test_a_capture_that_was_given_up_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Ours(Scene(width=4, batch=4, accelerator="cpu"), METHODS["nuat"].make(), Way())
    monkeypatch.setattr(side, "_wanted", "graph")
    monkeypatch.setattr(side.session, "plan", Plan(captured=True, reason="as asked for"))
    side.session.replayer = Replayer(side.method, side.learner, TapeCapturer())
    assert (side.level, side.refusal) == ("graph", "")
    side.session.replayer.refusal = "it waits"
    assert (side.level, side.refusal) == ("eager", "it waits")


def test_captured_steps_are_compared_with_live_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "r.json"
    words = ["--methods", "mep", "fgsm-rs", "--width", "4", "--batch", "4", "--device", "cpu", "--json", str(file)]
    assert captured.main(words) == 0
    found = json.loads(file.read_text())["comparisons"]
    assert [one["method"] for one in found] == ["mep", "fgsm-rs"]
    assert all(one["live"] == one["captured"] == one["captures"] == 0 for one in found)  # without a GPU nothing is
    assert "not captured, as" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["standard", "sdi", "lbgat"])
def test_live_steps_read_their_rate_where_captured_ones_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU an optimizer computes with a number otherwise than with a tensor: they would part with no fault at all."""
    made = []

    def kept(*arguments):
        made.append(captured_ours(*arguments))
        return made[-1]

    captured_ours = captured.Ours
    monkeypatch.setattr(captured, "Ours", kept)
    captured.compare(name, Scene(width=4, batch=4, accelerator="cpu"), steps=2)
    assert len(made) == 3
    for side in made:
        (group,) = side.learner.optimizer.param_groups
        assert isinstance(group["lr"], torch.Tensor)
        assert group["lr"] == pytest.approx(captured.RATE)


def test_captured_steps_agree_where_they_end_as_near_as_live_ones() -> None:
    def comparison(live: float, other: float) -> captured.Comparison:
        return captured.Comparison("mep", live, other, 1, "")

    assert comparison(0.0, 0.0).agrees
    assert comparison(1e-3, 2e-3).agrees
    assert not comparison(0.0, 1e-9).agrees
    assert not comparison(1e-3, 0.1).agrees
    assert not comparison(0.0, float("nan")).agrees


def test_a_captured_run_that_ends_elsewhere_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = captured._trained
    runs = []

    def third_moved(*arguments):
        side = trained(*arguments)
        runs.append(side)
        if len(runs) == 3:
            next(side.learner.network.parameters()).data += 1
        return side

    monkeypatch.setattr(captured, "_trained", third_moved)
    found = captured.compare("standard", Scene(width=4, batch=4, accelerator="cpu"))
    assert found.live == 0
    assert found.captured > 1
    assert not found.agrees
    assert list(captured.comparison_table([found]).columns[0].cells) == ["standard*"]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64", "convolution"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x32", "matrix product"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int>", "batch norm"),
        ("void at::native::batch_norm_collect_statistics_channels_last_kernel", "batch norm"),
        ("void at::native::multi_tensor_apply_kernel<FusedSgdMathFunctor>", "optimizer and foreach"),
        ("triton_poi_fused__native_batch_norm_legit_functional_relu_3", "fused by the compiler"),
        (
            "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>",
            "pointwise and reductions",
        ),
        ("Memcpy DtoD (Device -> Device)", "copy and set"),
        ("something new", "other"),
    ],
)
def test_kernels_are_sorted_by_what_they_do(kernel: str, expected: str) -> None:
    assert profiled.kind(kernel) == expected
