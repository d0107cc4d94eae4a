"""Weights that other code published: state dicts as RobustBench and the papers' repositories leave them, read by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparring.errors import BadInput
from sparring.models.description import ModelDescription
from sparring.models.normalise import Normalised
from sparring.models.weights import check_fit, create_from, with_counters

_WRAPPINGS = ("state_dict", "model_state_dict", "net", "model")  # keys of a checkpoint that lead to the weights
_PREFIXES = ("module.", "model.", "network.")  # of DataParallel, and of networks behind a normalisation
_STATISTICS = {"mean": "mean", "mu": "mean", "std": "std", "sigma": "std"}
_UNUSED = "sub_block1."  # the WideResNet of TRADES makes a block that its forward never calls


def adopt(path: Path, description: ModelDescription) -> Normalised:
    """Return the described network with the weights of a file that other code wrote, on the CPU and in evaluation mode.

    What is done to the file's names, and nothing else:

    - as long as there is a dict under `state_dict`, `model_state_dict`, `net` or `model`, in this order, it is taken;
    - `module.`, `model.` and `network.` are cut off a name's front, one after the other, until the network knows it;
    - the head may be called `linear` or `fc`;
    - `mean` or `mu`, and `std` or `sigma`, of any shape with a value a channel, become the normalisation: 0 and 1 where
      the file has none. A repository that normalises with constants in its code has none in its file;
    - a WideResNet's `sub_block1.` is dropped, and BatchNorm's `num_batches_tracked` may be absent.

    Args:
        path: a `.safetensors` file, or a torch file (`.pt`, `.pth`, `.ckpt`) of tensors and plain values. Nothing is
            unpickled.
        description: of the network; its `levels` are kept.

    Raises:
        BadInput: the file is missing, unreadable or would have to be unpickled, or does not fit the description.
    """
    content = _weights(_read(path), path)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: leave the caller's random state be
        network = create_from(description).network
    fresh = network.state_dict()
    state = _renamed(content, fresh, path)
    statistics = {name: state.pop(name).flatten().tolist() for name in ("mean", "std") if name in state}
    state = with_counters(state, fresh)
    check_fit(state, fresh, description, str(path))
    network.load_state_dict(state)
    try:
        model = Normalised(network, description.channels, **statistics, levels=description.levels)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
    return model.eval()


def _read(path: Path) -> object:
    if not path.is_file():
        raise BadInput(f"There is no {path}, which should hold weights.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise BadInput(f"{path} is not a valid safetensors file: {error}") from error
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
        if name in origin:
            raise BadInput(f"{path} holds {name!r} twice, as {origin[name]!r} and {theirs!r}: keep one of them.")
        found[name], origin[name] = tensor, theirs
    return found


def _ours(name: str, known: set[str]) -> str:
    while name not in known:  # only as far as needed: a timm network may itself have a part called `network`
        if name in _STATISTICS:
            return _STATISTICS[name]
        module, _, parameter = name.rpartition(".")
        head = {"fc": f"linear.{parameter}", "linear": f"fc.{parameter}"}.get(module)
        if head in known:
            return head
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name
