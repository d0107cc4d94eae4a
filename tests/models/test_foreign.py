"""Files as other code leaves them compute what they computed there; what cannot be read or does not fit is refused."""

from __future__ import annotations

import argparse
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sparring.data import Images
from sparring.errors import BadInput
from sparring.models import ModelDescription, adopt, create, create_from, save

RESNET = ModelDescription("resnet18", classes=5, width=2)
PREACT = ModelDescription("preactresnet18", classes=5, width=2)
WIDE = ModelDescription("wideresnet-10-1", classes=5)
MEAN, STD = (0.125, 0.25, 0.5), (0.25, 0.5, 0.75)
State = dict[str, Tensor]


def source(description: ModelDescription) -> nn.Module:
    """Another's network, which normalises outside: BatchNorm's statistics have moved and nothing is at its default."""
    torch.manual_seed(3)
    network = create_from(description).network
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network(torch.randn(8, description.channels, 32, 32))
    return network.eval()


def weights(description: ModelDescription) -> State:
    return dict(source(description).state_dict())


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def assert_adopted(path: Path, description: ModelDescription, mean: Any = 0.0, std: Any = 1.0) -> None:
    model, theirs = adopt(path, description), source(description)
    assert not model.training
    x = torch.rand(4, description.channels, 32, 32)
    mean, std = (torch.as_tensor(value).view(-1, 1, 1) for value in (mean, std))
    assert torch.equal(model(x), theirs((x - mean) / std))


@pytest.mark.parametrize("description", [RESNET, PREACT, WIDE], ids=lambda d: d.name)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "network.", "module.model.", "model.module.network."])
def test_prefixes_are_cut_off(tmp_path: Path, description: ModelDescription, prefix: str) -> None:
    torch.save(prefixed(weights(description), prefix), tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", description)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 99, "optimizer": {"state": {}, "param_groups": []}},
        lambda state: {"epoch": 99, "model_state_dict": OrderedDict(state), "best": 0.5},
        lambda state: {"net": state, "acc": 80.0},
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": prefixed(state, "module.")}},
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pth.tar"])
def test_the_usual_dicts_are_unwrapped(tmp_path: Path, wrap: Callable[[State], object], suffix: str) -> None:
    torch.save(wrap(weights(WIDE)), tmp_path / f"a{suffix}")
    assert_adopted(tmp_path / f"a{suffix}", WIDE)


def test_of_two_wrappings_the_first_documented_is_taken(tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in weights(WIDE).items()}
    torch.save({"model": other, "net": other, "state_dict": weights(WIDE)}, tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", WIDE)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(prefixed(weights(PREACT), "module."), tmp_path / "a.safetensors")
    assert_adopted(tmp_path / "a.safetensors", PREACT)


def test_files_of_old_pytorch_are_read(tmp_path: Path) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_adopted(tmp_path / "a.pt", WIDE)


def test_our_own_files_are_read_too(tmp_path: Path) -> None:
    model = create("wideresnet-10-1", 5, mean=MEAN, std=STD).eval()
    save(model, tmp_path, WIDE)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(adopt(tmp_path / "model.safetensors", WIDE)(x), model(x))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_unused_block_of_trades_is_dropped(tmp_path: Path, prefix: str) -> None:
    state = weights(WIDE)
    unused = {f"sub_{name}": tensor + 1 for name, tensor in state.items() if name.startswith("block1.")}
    assert "sub_block1.layer.0.conv1.weight" in unused
    torch.save(prefixed(state | unused, prefix), tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", WIDE)


def test_counters_of_batches_may_be_absent(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in weights(RESNET).items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", RESNET)


@pytest.mark.parametrize(("description", "ours", "theirs"), [(RESNET, "linear", "fc"), (WIDE, "fc", "linear")])
def test_the_head_has_two_names(tmp_path: Path, description: ModelDescription, ours: str, theirs: str) -> None:
    state = {name.replace(f"{ours}.", f"{theirs}."): tensor for name, tensor in weights(description).items()}
    assert f"{theirs}.bias" in state
    torch.save(prefixed(state, "module."), tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", description)


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize(("mean", "std"), [("mu", "sigma"), ("mean", "std"), ("module.mu", "module.sigma")])
def test_statistics_become_the_normalisation(tmp_path: Path, mean: str, std: str, shape: tuple[int, ...]) -> None:
    statistics = {mean: torch.tensor(MEAN).view(shape), std: torch.tensor(STD).view(shape)}
    torch.save(prefixed(weights(PREACT), "model.") | statistics, tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", PREACT, MEAN, STD)


def test_one_statistic_leaves_the_other_at_its_default(tmp_path: Path) -> None:
    torch.save(weights(PREACT) | {"mu": torch.tensor(MEAN)}, tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", PREACT, MEAN)


def test_levels_are_the_descriptions(tmp_path: Path) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt")
    model = adopt(tmp_path / "a.pt", replace(WIDE, levels=16))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), source(WIDE)((x * 15).round() / 15))


def test_a_timm_network_that_has_a_part_of_a_prefixs_name_keeps_it(tmp_path: Path) -> None:
    description = ModelDescription("timm:volo_d1_224", classes=2, size=32)
    theirs = create("timm:volo_d1_224", 2, size=32).network.eval()
    assert any(name.startswith("network.") for name in theirs.state_dict())
    torch.save(prefixed(dict(theirs.state_dict()), "module."), tmp_path / "a.pt")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(adopt(tmp_path / "a.pt", description)(x), theirs(x))


def test_weights_in_half_precision_are_read_in_single(tmp_path: Path) -> None:
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in weights(WIDE).items()}, tmp_path / "a.pt")
    model = adopt(tmp_path / "a.pt", WIDE)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_parameter("network.fc.weight"), weights(WIDE)["fc.weight"].half().float())


def test_the_random_state_is_left_alone(tmp_path: Path) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt")
    before = torch.get_rng_state()
    adopt(tmp_path / "a.pt", WIDE)
    assert torch.equal(torch.get_rng_state(), before)


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: without(s, "bn1.weight"), r"'wideresnet-10-1': it lacks 'bn1\.weight' \(1 names differ\)"),
        (lambda s: s | {"extra.weight": torch.ones(1)}, r"it has an extra 'extra\.weight'"),
        (lambda s: s | {"module.fc.bias": torch.ones(5)}, r"'fc\.bias' twice, as 'fc\.bias' and 'module\.fc\.bias'"),
        (lambda s: s | {"mu": torch.ones(3), "mean": torch.zeros(3)}, r"'mean' twice, as 'mu' and 'mean'"),
        (lambda s: s | {"conv1.weight": torch.ones(16, 1, 3, 3)}, r"'conv1\.weight' has shape \(16, 1, 3, 3\)"),
        (lambda s: s | {"mu": torch.ones(1)}, r"a\.pt: mean \(1\.0,\) has length 1, but images have 3"),
        (lambda s: s | {"mean": torch.full((3,), 125.0)}, r"a\.pt: mean \(125\.0, .* divide 8-bit values by 255"),
        (lambda s: s | {"sigma": torch.zeros(3)}, r"a\.pt: std .* contains a zero"),
        (lambda s: s | {"epoch": 3}, r"a\.pt is not a state dict: 'epoch' is a int"),
        (lambda s: {"best": s, "last": s}, r"a\.pt is not a state dict: 'best' is a dict"),
        (lambda s: list(s.values()), r"a\.pt holds a list instead of a state dict"),
        (lambda s: {}, "it lacks"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, spoil: Callable[[State], object], said: str) -> None:
    torch.save(spoil(weights(WIDE)), tmp_path / "a.pt")
    with pytest.raises(BadInput, match=said) as caught:
        adopt(tmp_path / "a.pt", WIDE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("description", [RESNET, PREACT, WIDE], ids=lambda d: d.name)
def test_another_number_of_classes_names_both(tmp_path: Path, description: ModelDescription) -> None:
    torch.save(prefixed(weights(description), "module."), tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"a\.pt is for 5 classes, but the description says 10\."):
        adopt(tmp_path / "a.pt", replace(description, classes=10))


def test_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(weights(RESNET), tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"a\.pt does not fit the described 'preactresnet18'"):
        adopt(tmp_path / "a.pt", PREACT)


def test_a_class_in_the_file_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return os.mkdir, (tmp_path / "exploded",)

    torch.save({"state_dict": weights(WIDE), "note": Bomb()}, tmp_path / "bomb.pt")
    torch.save({"state_dict": weights(WIDE), "args": argparse.Namespace(lr=0.1)}, tmp_path / "args.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    for name in ("bomb", "args", "whole"):
        with pytest.raises(
            BadInput, match=rf"{name}\.pt is not a torch file of tensors .* save the network's"
        ) as caught:
            adopt(tmp_path / f"{name}.pt", WIDE)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_which_a_bit_was_flipped_are_refused(tmp_path: Path, suffix: str) -> None:
    """In `.safetensors` those that have a checksum, as ours have."""
    file = tmp_path / f"model{suffix}"
    network = create_from(WIDE)
    if suffix == ".pt":
        torch.save(network.network.state_dict(), file)
    else:
        save(network, file, WIDE)
    adopt(file, WIDE)
    content = bytearray(file.read_bytes())
    largest = max(network.parameters(), key=Tensor.numel)
    content[content.index(largest.detach().numpy().tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadInput, match=rf"model\{suffix} is damaged"):
        adopt(file, WIDE)


def test_torch_files_without_checksums_are_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(weights(WIDE), tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    adopt(tmp_path / "a.pt", WIDE)


@pytest.mark.parametrize(
    "content", [b"", b"hello world\n", b"# a text\n", b"<!DOCTYPE html>", b"PK\x03\x04 broken", bytes(range(256))]
)
def test_what_is_no_torch_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.pt is not a torch file"):
        adopt(tmp_path / "a.pt", WIDE)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.safetensors is not a valid safetensors file"):
        adopt(tmp_path / "a.safetensors", WIDE)


def test_a_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"a\.pt is not a torch file"):
        adopt(tmp_path / "a.pt", WIDE)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no .*none\.pt"):
        adopt(tmp_path / "none.pt", WIDE)


# Files as they are found ------------------------------------------------------------------------------------------------

STATISTICS = {"mean": torch.tensor(MEAN), "std": torch.tensor(STD)}


def robustness(state: State) -> State:
    """As MadryLab's library saves: the network twice, once behind the attack, the normalisation too."""
    statistics = {f"new_{name}": tensor.view(3, 1, 1) for name, tensor in STATISTICS.items()}
    own = prefixed(statistics, "normalizer.") | prefixed(state, "model.")
    attacker = prefixed(statistics, "attacker.normalize.") | prefixed(state, "attacker.model.")
    return prefixed(own | attacker, "module.")


FOUND: dict[str, Callable[[State], State]] = {
    "torch.compile": lambda s: prefixed(s, "_orig_mod."),
    "torch.compile in DataParallel": lambda s: prefixed(s, "module._orig_mod."),
    "DataParallel in torch.compile": lambda s: prefixed(s, "_orig_mod.module."),
    "AveragedModel": lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(7)},
    "an attack around the network": lambda s: prefixed(s, "module.basic_net."),
}
NORMALISED: dict[str, Callable[[State], State]] = {
    "RobustBench": lambda s: prefixed(s, "model.") | prefixed(STATISTICS, "normalize."),
    "a sequence": lambda s: prefixed(s, "1.") | prefixed(STATISTICS, "0."),
    "a sequence in DataParallel": lambda s: prefixed(prefixed(s, "1.") | prefixed(STATISTICS, "0."), "module."),
    "a compiled sequence": lambda s: prefixed(prefixed(s, "1.") | prefixed(STATISTICS, "0."), "_orig_mod."),
    "AveragedModel of a sequence": lambda s: (
        prefixed(prefixed(s, "1.") | prefixed(STATISTICS, "0."), "module.") | {"n_averaged": torch.tensor(7)}
    ),
    "robustness": robustness,
    "MAIR": lambda s: prefixed(s, "model.") | STATISTICS | {"n_classes": torch.tensor(5)},
}


@pytest.mark.parametrize("found", FOUND)
def test_files_as_they_are_found(tmp_path: Path, found: str) -> None:
    torch.save(FOUND[found](weights(WIDE)), tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", WIDE)


@pytest.mark.parametrize("found", NORMALISED)
def test_files_as_they_are_found_with_their_normalisation(tmp_path: Path, found: str) -> None:
    torch.save({"model": NORMALISED[found](weights(WIDE)), "epoch": 3}, tmp_path / "a.pt")
    assert_adopted(tmp_path / "a.pt", WIDE, MEAN, STD)


def test_copies_in_a_file_must_be_equal(tmp_path: Path) -> None:
    state = robustness(weights(WIDE))
    for name in ("module.attacker.model.conv1.weight", "module.attacker.normalize.new_mean"):
        torch.save(state | {name: state[name] + 1}, tmp_path / "a.pt")
        with pytest.raises(BadInput, match=rf"twice, as '.*' and '{name}', with other values"):
            adopt(tmp_path / "a.pt", WIDE)


def test_what_normalises_in_the_code_is_given(tmp_path: Path) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt")
    x = torch.rand(4, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal(adopt(tmp_path / "a.pt", WIDE, mean=MEAN, std=STD)(x), source(WIDE)((x - mean) / std))
    torch.save(weights(WIDE) | {"mu": torch.tensor(MEAN)}, tmp_path / "b.pt")
    with pytest.raises(BadInput, match=r"b\.pt has its own mean, \[0\.125, 0\.25, 0\.5\]: leave mean out"):
        adopt(tmp_path / "b.pt", WIDE, mean=(0.5, 0.5, 0.5))


def test_the_second_part_of_a_sequence_whose_first_left_nothing_is_refused(tmp_path: Path) -> None:
    torch.save(prefixed(weights(WIDE), "module.1."), tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"second part of an nn\.Sequential.*give its mean and std"):
        adopt(tmp_path / "a.pt", WIDE)
    x = torch.rand(4, 3, 32, 32)
    assert torch.equal(adopt(tmp_path / "a.pt", WIDE, mean=(0.0,) * 3)(x), source(WIDE)(x))


# Networks that share names and shapes -----------------------------------------------------------------------------------

TWINS = [("resnet18", "resnet18-gat"), ("preactresnet18", "preactresnet18-wong")]
TWINS += [("preactresnet18-talk", "preactresnet18-gradalign")]


def pictures(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(256, (count, 3, 1, 1), generator=generator)
    return (colours * torch.rand(count, 1, 32, 32, generator=generator)).to(torch.uint8)


def various(description: ModelDescription) -> State:
    """Weights of a network that gives all answers, about equally often."""
    network = source(description)
    with torch.no_grad():
        network.get_parameter("linear.bias").sub_(network(pictures(500) / 255).mean(0))
    return dict(network.state_dict())


def images_for(model: nn.Module, other: nn.Module | None = None) -> Images:
    """Images that the model gets right, but every fifth, and that the other one answers otherwise."""
    pixels = pictures(500)
    with torch.no_grad():
        answers = model(pixels / 255).argmax(1)
        kept = torch.ones(500).bool() if other is None else other(pixels / 255).argmax(1) != answers
    pixels, answers = pixels[kept][:100], answers[kept][:100]
    index = torch.arange(len(answers))
    return Images(pixels, torch.where(index % 5 == 0, (answers + 1) % 5, answers), index)


@pytest.mark.parametrize(("one", "other"), [*TWINS, *(pair[::-1] for pair in TWINS)])
def test_what_names_and_shapes_cannot_tell_is_said_and_an_accuracy_decides(
    tmp_path: Path, one: str, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    right, wrong = (ModelDescription(name, classes=5, width=2) for name in (one, other))
    torch.save(various(right), tmp_path / "a.pt")
    model = adopt(tmp_path / "a.pt", right)
    assert f"fits '{one}' and, by names and shapes, '{other}'" in caplog.text
    images = images_for(model, adopt(tmp_path / "a.pt", wrong))
    assert len(images) > 50
    caplog.clear()
    adopt(tmp_path / "a.pt", right, accuracy=0.8, images=images)
    assert caplog.text == ""
    with pytest.raises(
        BadInput, match=rf"as '{other}' gets .* '{one}' 8\d\.\d%; stated is 80\.0%: describe it as '{one}'"
    ):
        adopt(tmp_path / "a.pt", wrong, accuracy=0.8, images=images)


def test_a_network_that_nothing_resembles_is_taken_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(weights(WIDE), tmp_path / "a.pt")
    images = images_for(adopt(tmp_path / "a.pt", WIDE))
    assert caplog.text == ""
    with pytest.raises(BadInput, match=r"gets 80\.0% of 100 images right; stated is 99\.0%: look how its code normal"):
        adopt(tmp_path / "a.pt", WIDE, accuracy=0.99, images=images)
    for wrong in ({"accuracy": 0.8}, {"images": images}, {"accuracy": 80, "images": images}):
        with pytest.raises(BadInput, match=r"give adopt both|80 is no fraction in \[0, 1\]"):
            adopt(tmp_path / "a.pt", WIDE, **wrong)


def test_a_misfit_names_the_networks_that_the_file_fits(tmp_path: Path) -> None:
    torch.save(weights(ModelDescription("preactresnet18-gradalign", classes=5, width=2)), tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"lacks 'bn\.bias'.* fits: 'preactresnet18-gradalign', 'preactresnet18-talk'\."):
        adopt(tmp_path / "a.pt", PREACT)


def test_the_guide_lists_every_network_that_shares_names_and_shapes() -> None:
    page = (Path(__file__).parents[2] / "docs/guides/evaluation.md").read_text()
    section = page[page.index("## Weights of other code") : page.index("## Attacks")]
    assert all(f"| `{name}` |" in section for pair in TWINS for name in pair)
