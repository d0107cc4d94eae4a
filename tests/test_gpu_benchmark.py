"""What is owed of a GPU can be measured in one command: its dry run on the CPU goes through, and resumes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.harness import timing
from benchmarks.harness.methods import METHODS
from benchmarks.harness.ours import Ours, Way
from benchmarks.harness.scene import Scene
from benchmarks.speed import captured, ceilings, cost, gpu, passes, profiled, race
from benchmarks.speed.cost import Cost
from sparring.training.acceleration.plan import Plan
from sparring.training.acceleration.replay import Replayer
from tests.training.acceleration.tape import TapeCapturer

ROOT = Path(__file__).parents[1]


def test_the_dry_run_writes_every_stage_and_repeats_none(
    cifar10: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(cifar10), "--out", str(tmp_path), "--dry"]
    assert gpu.main(words) == 0
    records = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert not [name for name, record in records.items() if "failed" in record], records
    steps = {"step-mep-eager", "step-las-eager", "step-las-compact"}
    assert {"ceilings", "passes-8-eager", "race-mep", "epochs-fgsm-mep"} | steps < set(records)
    assert records["step-mep-eager"]["step"]["units"] == pytest.approx(7, rel=0.05)
    assert records["race-mep"]["race"]["difference"] < 1e-9
    assert records["epochs-fgsm-mep"]["seconds_of_110_epochs"] > 0
    whole = records["run-fgsm-mep-fast-quick-seed0"]
    assert 0 <= whole["accuracy"]["pgd-20"] <= whole["accuracy"]["clean"] <= 1
    assert all(record["environment"]["torch"] for record in records.values())
    assert str(cifar10) not in "".join(file.read_text() for file in tmp_path.glob("*.json"))
    capsys.readouterr()
    monkeypatch.setattr(ceilings, "measure", None)  # from here on nothing may be measured
    monkeypatch.setattr(gpu.sparring, "train", None)
    assert gpu.main(words) == 0
    assert capsys.readouterr().err.strip() == "All is measured."


def _stage(name: str, seconds: float = 0.0, fails: bool = False) -> gpu.Stage:
    def work() -> dict:
        if fails:
            raise RuntimeError("out of memory")
        return {"value": 1}

    return gpu.Stage(name, seconds, work)


def test_a_stage_that_would_not_end_in_time_is_left_with_all_behind_it(tmp_path: Path) -> None:
    """In the order of importance: a later, shorter one does not take its place."""
    chosen = [_stage("one"), _stage("two", 1e9), _stage("three")]
    assert gpu.run(chosen, tmp_path, gpu.time.monotonic() + 60) == 2
    assert [file.stem for file in tmp_path.glob("*.json")] == ["one"]
    assert gpu.run(chosen, tmp_path, gpu.time.monotonic() + 1e10) == 0
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_a_stage_that_fails_says_so_and_stops_no_other(tmp_path: Path) -> None:
    assert gpu.run([_stage("a(b)+c", fails=True), _stage("d")], tmp_path, gpu.time.monotonic() + 60) == 0
    assert json.loads((tmp_path / "a-b-c.json").read_text())["failed"] == "RuntimeError: out of memory"
    assert json.loads((tmp_path / "d.json").read_text())["value"] == 1


def test_nothing_else_is_measured_in_a_process_whose_device_is_lost(tmp_path: Path) -> None:
    def work() -> dict:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    chosen = [gpu.Stage("one", 0.0, work), _stage("two")]
    assert gpu.run(chosen, tmp_path, gpu.time.monotonic() + 60) == 2
    assert not (tmp_path / "two.json").exists()
    assert gpu.run(chosen, tmp_path, gpu.time.monotonic() + 60) == 0


def test_on_a_gpu_all_that_is_owed_is_asked_for(tmp_path: Path) -> None:
    """Names only: what the list holds, in which order, without a GPU."""
    names = [stage.name for stage in gpu.stages(tmp_path, "cuda", gpu.Size())]
    assert len(names) == len(set(names))
    order = [
        "ceilings",
        "passes-128-graph",
        "passes-1024-compile",
        "captured-mep",
        "captured-cat-7",
        "step-mep-graph",
        "step-mep-compile+graph",
        "step-las-graph",
        "step-las-compact",
        "step-fat-10-graph",
        "step-fat-10-compact",
        "race-mep",
        "profile-mep-graph",
        "epochs-las-at",
        "run-fgsm-mep-fast-quick-seed0",
        "run-fgsm-mep-fast-fp32-eager-seed2",
        "run-trades-awp-best-seed0",
    ]
    places = [names.index(name) for name in order]
    assert places == sorted(places)
    assert {f"step-{name}-graph" for name in METHODS} < set(names)
    compact = {name for name in names if name.endswith("-compact")}
    assert compact == {f"step-{name}-compact" for name in ("las", "fat-10", "sat-10", "dart-10")}


def test_on_a_gpu_images_leave_where_a_stage_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(name: str, scene: Scene, rounds: int, way: Way) -> Cost:
        asked.append((way.level, way.compact))
        return Cost(name, way.level, 1.0, 1.0, 1.0, 1, 0, 0, "", [1.0])

    monkeypatch.setattr(cost, "measure", measure)
    for stage in gpu.stages(tmp_path, "cuda", gpu.Size()):
        if stage.name in ("step-las-graph", "step-las-compact"):
            stage.work()
    assert asked == [("graph", None), ("eager", True)]


def test_whether_images_leave_is_counted() -> None:
    """A policy like the published ResNet-18 weighs much here: the strategies' 3 to 14 steps are in the difference."""
    scene = Scene(width=4, batch=8, size=16, accelerator="cpu")
    masked, compact = (cost._counted("las", scene, Way(compact=flag))["units"] for flag in (False, True))
    assert 4 < masked - compact < 2 * (14 - 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--data", "nowhere", "--dry"], "There is no folder nowhere"),
        pytest.param(
            ["--data", "."],
            "PyTorch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(words, sentence, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_script_hands_its_words_and_its_status_on() -> None:
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--data", "nowhere", "--dry"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "There is no folder nowhere" in done.stderr


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
    monkeypatch.setattr(Ours, "step", lambda side: (steps.append(side.learner.steps), step(side)))
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
        assert group["lr"] == pytest.approx(0.1)


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
