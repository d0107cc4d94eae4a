"""The benchmarks of what methods learn run, on very little, and write the records that the log quotes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import compaction
import generator
import overfitting
import policy
from steps import held_out


def _call(module, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    assert module.main() == 0


def test_the_policy_s_benchmark_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "policy.json"
    monkeypatch.setattr(policy, "held_out", lambda images, size: held_out(images.subset(torch.arange(64)), size))
    monkeypatch.setattr(policy, "CONTROLS", ("uniform",))
    _call(policy, monkeypatch, "training", "--seeds", 0, "--epochs", 1, "--json", file)
    (found,) = json.loads(file.read_text())["found"]
    row = found["by_epoch"][0]
    assert row["difference"] == pytest.approx(row["learned"] - row["uniform"], abs=2e-4)
    assert set(found["accuracies"]) == {"learned", "uniform"}
    ours = next(iter(policy.VARIANTS.values()))
    toy = policy.toy(ours, seed=0, updates=3)
    assert [update for update, _ in toy["probability"]] == [0, 3]
    assert toy["moved"] > 0


def test_the_generator_s_benchmark_writes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "generator.json"
    _call(generator, monkeypatch, "--inputs", "gradient", "--seeds", 0, "--epochs", 1, "--json", file)
    (run,) = json.loads(file.read_text())["runs"]
    assert run["by_epoch"][0]["generator"] > 0
    assert 0 <= run["last"]["pgd-20"] <= run["last"]["clean"] <= 1


def test_the_benchmark_of_overfitting_resumes_and_repeats_nothing(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["--images", 256, "--held-out", 16, "--test-images", 16, "--epochs", 1, "--attacks", "clean", "fgsm"]
    words = ["--data", cifar10, "--methods", "fgsm-rs", "--eps", 16, "--runs", tmp_path / "runs", *small]
    _call(overfitting, monkeypatch, *words, "--json", tmp_path / "one.json")
    monkeypatch.setattr(overfitting.sparring, "train", None)  # the second call must not train
    _call(overfitting, monkeypatch, *words, "--json", tmp_path / "two.json")
    one, two = (json.loads((tmp_path / name).read_text())["runs"] for name in ("one.json", "two.json"))
    assert one == two
    assert one[0]["eps"] == "16/255"
    assert any("alpha: 20/255" in line for line in one[0]["config"])


def test_the_benchmark_of_compaction_writes_a_record(
    tmp_path: Path, cifar10: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "compaction.json"
    _call(compaction, monkeypatch, "--data", cifar10, "--width", 8, "--pairs", 1, "--json", file)
    forwards = json.loads(file.read_text())["forwards"]
    assert forwards["masked"] == pytest.approx(31, rel=0.02)
    assert forwards["compact"] < 0.75 * forwards["masked"]
