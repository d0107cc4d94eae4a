"""Weights that other code published: state dicts as RobustBench and the papers' repositories leave them, read by name."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sparring.choices import check_kind
from sparring.data import Images
from sparring.errors import BadInput
from sparring.files import path_of, zip_is_whole
from sparring.models.description import ModelDescription
from sparring.models.normalise import Normalised
from sparring.models.registry import named_architectures
from sparring.models.stated import check_accuracy
from sparring.models.weights import check_fit, create_from, read, with_counters

_LOG = logging.getLogger(__name__)

# The keys of a checkpoint that lead to the weights.
_WRAPPINGS = ("state_dict", "model_state_dict", "net", "model", "rmodel")
# Of DataParallel and AveragedModel, of torch.compile, of networks behind a normalisation, of attacks around a network.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "1.", "attacker.", "basic_net.")
_SECOND = "1."  # of these, the second part of an nn.Sequential, whose first is a normalisation
_STATISTICS = {"mean": "mean", "mu": "mean", "new_mean": "mean", "std": "std", "sigma": "std", "new_std": "std"}
_NORMALISERS = ("normalize", "normalizer", "norm", "0")  # modules of their own for the statistics
_UNUSED = ("sub_block1.", "n_averaged", "n_classes")  # the WideResNet of TRADES never calls that block; two are counts


def adopt(
    path: str | Path,
    description: ModelDescription,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    accuracy: float | None = None,
    images: Images | None = None,
) -> Normalised:
    """Return the described network with the weights of a file that other code wrote, on the CPU and in evaluation mode.

    What is done to the file's names, and nothing else:

    - as long as there is a dict under `state_dict`, `model_state_dict`, `net`, `model` or `rmodel`, in this order, it is
      taken;
    - `module.`, `_orig_mod.`, `model.`, `network.`, `net.`, `1.`, `attacker.` and `basic_net.` are cut off a name's front,
      one after the other, until the network knows it. Where two names become one, their tensors must be equal;
    - the head may be called `linear` or `fc`;
    - `mean`, `mu` or `new_mean`, and `std`, `sigma` or `new_std`, of any shape with a value a channel, also behind
      `normalize.`, `normalizer.`, `norm.` or `0.`, become the normalisation;
    - a WideResNet's `sub_block1.`, `n_averaged` and `n_classes` are dropped, and BatchNorm's `num_batches_tracked` may be
      absent.

    Some networks share all names and shapes: which of them it is, the description says, and a file cannot. Where several
    fit, their names are logged as a warning, unless an accuracy is given to compare.

    Args:
        path: a `.safetensors` file, or a torch file (`.pt`, `.pth`, `.ckpt`) of tensors and plain values. Nothing is
            unpickled.
        description: of the network; its `levels` are kept.
        mean: a value a channel in [0, 1] that the other code subtracts, where the file has none; None is 0. A repository
            that normalises with constants in its code has none in its file.
        std: a value a channel in (0, 1] that it divides by, where the file has none; None is 1.
        accuracy: on clean images in [0, 1], as the authors state it; to be compared with that on `images`.
        images: test images for that comparison; a thousand tell networks apart.

    Raises:
        BadInput: the file is missing, unreadable or would have to be unpickled, or does not fit the description; its
            normalisation is not known, or given twice; the accuracy is another one.
    """
    path = path_of("The file of weights", path)
    for what, value, kind in (
        *(("The description", description, ModelDescription), ("accuracy", accuracy, float | None)),
        *(("images", images, Images | None), ("mean", mean, tuple[float, ...] | None)),
        *(("std", std, tuple[float, ...] | None),),
    ):
        check_kind(what, value, kind)
    content = _weights(_read(path), path)
    model = _adopted(content, path, description, mean, std)
    others = [replace(description, name=name) for name in _fitting(content, path, description)]
    if accuracy is not None or images is not None:
        variants = ((other.name, _adopted(content, path, other, mean, std)) for other in others)
        check_accuracy(model, accuracy, images, f"{path} as {description.name!r}", variants)
    elif others:
        _LOG.warning(
            "%s fits %r and, by names and shapes, %s: nothing in it tells them apart. Compare the accuracy that is stated "
            "(accuracy and images of adopt).",
            *(path, description.name, _listed(other.name for other in others)),
        )
    return model


def _adopted(
    content: Mapping[str, Tensor],
    path: Path,
    description: ModelDescription,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Normalised:
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: leave the caller's random state be
        network = create_from(description).network
    fresh = network.state_dict()
    state = _renamed(content, fresh, path)
    own = {name: state.pop(name).tolist() for name in ("mean", "std") if name in state}
    state = with_counters(state, fresh)
    try:
        check_fit(state, fresh, description, str(path))
    except BadInput as error:
        if others := _fitting(content, path, description):
            raise BadInput(f"{error} What it fits: {_listed(others)}.") from error
        raise
    network.load_state_dict(state)
    given = {name: list(values) for name, values in (("mean", mean), ("std", std)) if values is not None}
    for name in own.keys() & given.keys():
        raise BadInput(f"{path} has its own {name}, {own[name]}: leave {name} out.")
    if not own and not given and any(_is_second(name, set(fresh)) for name in content):
        raise BadInput(
            f"{path} holds the second part of an nn.Sequential, and nothing of the first: if that normalises the pixels, "
            "give its mean and std to adopt, otherwise a mean of zeros."
        )
    known = own | given
    try:
        model = Normalised(network, description.channels, known.get("mean"), known.get("std"), description.levels)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return model.eval()


def _fitting(content: Mapping[str, Tensor], path: Path, description: ModelDescription) -> list[str]:
    """Return the names of the other networks of ours that the file fits, with the description as it is otherwise."""
    found = []
    for name in named_architectures():
        if name == description.name:
            continue
        other = replace(description, name=name)
        try:
            with torch.device("meta"):  # shapes only
                fresh = create_from(other).network.state_dict()
            renamed = _renamed(content, fresh, path)
            state = {key: tensor for key, tensor in renamed.items() if key not in ("mean", "std")}
            check_fit(with_counters(state, fresh), fresh, other, str(path))
        except BadInput:  # also of sizes and widths that this one cannot have
            continue
        found.append(name)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _read(path: Path) -> object:
    if not path.is_file():
        raise BadInput(f"There is no {path}, which should hold weights.")
    if path.suffix == ".safetensors":
        return read(path)[0]
    if zipfile.is_zipfile(path) and zip_is_whole(path) is False:  # files of PyTorch before 1.6 are none
        raise BadInput(f"{path} is damaged: its content is not what was written. Download or copy it again.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # for bytes that are no torch file its reader raises whatever it stumbles over
        raise BadInput(
            f"{path} is not a torch file of tensors and plain values, and nothing else is unpickled: where you trust "
            "the file, save the network's state_dict() alone."
        ) from error


def _weights(content: object, path: Path) -> Mapping[str, Tensor]:
    """Return the innermost dict of the usual wrappings, which must hold tensors by name."""
    while isinstance(content, dict):
        inner = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        raise BadInput(f"{path} holds a {type(content).__name__} instead of a state dict: save the state_dict() alone.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadInput(f"{path} is not a state dict: {name!r} is a {type(value).__name__}, save the weights alone.")
    return content


def _renamed(content: Mapping[str, Tensor], known: Iterable[str], path: Path) -> dict[str, Tensor]:
    """Return the tensors by the names of our network, `mean` and `std`; names that it does not know stay for the check."""
    names, found, origin = set(known), dict[str, Tensor](), dict[str, str]()
    for theirs, tensor in content.items():
        name = _ours(theirs, names)
        if name.startswith(_UNUSED):
            continue
        tensor = tensor.flatten() if name in _STATISTICS else tensor
        if name in origin and not torch.equal(tensor, found[name]):
            both = f"as {origin[name]!r} and {theirs!r}"
            raise BadInput(f"{path} holds {name!r} twice, {both}, with other values: keep one of them.")
        found[name], origin[name] = tensor, theirs
    return found


def _ours(name: str, known: set[str]) -> str:
    for rest in _shortened(name, known):
        if rest in known:
            break
        module, _, parameter = rest.rpartition(".")
        if parameter in _STATISTICS and module in ("", *_NORMALISERS):
            return _STATISTICS[parameter]
        head = {"fc": f"linear.{parameter}", "linear": f"fc.{parameter}"}.get(module)
        if head in known:
            return head
    return rest


def _shortened(name: str, known: set[str]) -> Iterator[str]:
    """Yield the name with ever more prefixes cut off, as far as needed: a timm network may itself have a `network`."""
    yield name
    while name not in known and (prefix := next((each for each in _PREFIXES if name.startswith(each)), None)):
        name = name.removeprefix(prefix)
        yield name


def _is_second(name: str, known: set[str]) -> bool:
    return any(rest.startswith(_SECOND) and rest not in known for rest in _shortened(name, known))
