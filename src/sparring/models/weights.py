"""Weights on disk: `model.safetensors` with `model.yaml` beside it, written atomically and never unpickled."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparring.choices import check_kind
from sparring.errors import BadInput
from sparring.files import path_of, read_text, replacing
from sparring.models.description import ModelDescription, from_yaml, to_yaml
from sparring.models.normalise import Normalised
from sparring.models.registry import create

_SEEN = "training_images.safetensors"
_CHECKSUM = "sha256"  # the key in the file's metadata: of the weights and, after a space, of the description's text
_LOG = logging.getLogger(__name__)


def create_from(description: ModelDescription) -> Normalised:
    """Return a fresh network as described, with identity normalisation; refuses what `create` refuses."""
    return create(
        description.name,
        description.classes,
        channels=description.channels,
        size=description.size,
        width=description.width,
        levels=description.levels,
    )


def save(model: nn.Module, path: str | Path, description: ModelDescription) -> None:
    """Write the weights and buffers of `model`, and what is needed to rebuild it.

    Args:
        model: as `create` returned it, not wrapped by DDP or `torch.compile`; any device and memory format.
        path: a folder, made where absent, or the name of a `.safetensors` file.
        description: of `model`.

    Raises:
        BadInput: the description is of another network, so that the file could never be loaded; or the disk is full.
    """
    check_kind("The model", model, nn.Module)
    check_kind("The description", description, ModelDescription)
    weights, sidecar = _files(path)
    # A clone of each tensor: safetensors refuses channels-last layouts and tensors that share memory.
    state = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    with torch.device("meta"):  # shapes only: neither time nor random numbers are spent
        expected = create_from(description).state_dict()
    state = with_counters(state, expected)
    check_fit(state, expected, description, "The model")
    text = to_yaml(description)
    checksums = f"{checksum(state)} {checksum({}, text)}"
    with replacing(sidecar) as temporary:
        temporary.write_text(text, encoding="utf-8")
    with replacing(weights) as temporary:
        save_file(state, temporary, metadata={_CHECKSUM: checksums})  # one entry, as several have no fixed order


def load(path: str | Path) -> Normalised:
    """Return the network that `save` wrote to `path`, on the CPU and in evaluation mode; nothing is downloaded.

    Raises:
        BadInput: a file is missing or corrupt; weights or description are not those that were written, or do not fit.
    """
    weights, sidecar = _files(path)
    described = "the description of the model, as save writes it (weights of other code: models.adopt)"
    for file, content in ((weights, "weights"), (sidecar, described)):
        if not file.is_file():
            raise BadInput(f"There is no {file}, which should hold {content}.")
    text = read_text(sidecar)
    description = from_yaml(text, str(sidecar))
    state, checksums = read(weights)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: leave the caller's random state be
        model = create_from(description)
    check_fit(state, model.state_dict(), description, str(weights))
    if checksums[1:] not in ([], [checksum({}, text)]):
        raise BadInput(
            f"{sidecar} is not what was written with {weights.name}: restore it. (models.adopt reads the weights with "
            "another description.)"
        )
    for lacking in (weights, sidecar)[len(checksums) :]:
        _LOG.warning(
            "%s has no checksum, as it was written before there were any: damage would not be noticed.", lacking
        )
    model.load_state_dict(state)
    size = description.size
    model.class_names, model.image_size = description.class_names, (size, size) if isinstance(size, int) else size
    model.seen = _seen(weights)
    return model.eval()


def save_seen(digests: Tensor, folder: Path) -> None:
    """Write beside a network which images it is trained on: their digests, see `Splits.seen`."""
    with replacing(folder / _SEEN) as temporary:
        save_file({"digests": digests}, temporary)


def _seen(weights: Path) -> Tensor | None:
    file = weights.with_name(_SEEN)
    if weights.name != "model.safetensors" or not file.is_file():
        return None
    try:
        return load_file(file)["digests"]
    except (SafetensorError, KeyError) as error:
        raise BadInput(
            f"{file} is damaged, which says what the network was trained on: restore or remove it."
        ) from error


def read(weights: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a safetensors file, and the checksums in it: of the weights, of the description, or none.

    Raises BadInput if it is no such file, or the tensors are not those of the checksum.
    """
    try:
        with safe_open(weights, framework="pt") as file:
            checksums = (file.metadata() or {}).get(_CHECKSUM, "").split()
        state = load_file(weights)
    except SafetensorError as error:
        raise BadInput(f"{weights} is not a valid safetensors file: {error}") from error
    if checksums and checksums[0] != checksum(state):
        raise BadInput(f"{weights} is damaged: its weights are not those that were written. Restore or train it again.")
    return state, checksums


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the content of a tensor of any dtype, in the order of its elements."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def checksum(state: Mapping[str, Tensor], *texts: str) -> str:
    """Return hexadecimal digits of all names, types, shapes and values, and of some texts (SHA-256)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor_bytes(tensor))
    for text in texts:
        digest.update(f"{text}\0".encode())
    return digest.hexdigest()


def with_counters(state: Mapping[str, Tensor], expected: Iterable[str]) -> dict[str, Tensor]:
    """Return the state with a 0 for each of BatchNorm's `num_batches_tracked` that it lacks of the expected names.

    Training goes without these counters, PyTorch before 0.4.1 had none, and no evaluation reads them; loading asks for them.
    """
    counters = (name for name in expected if name.endswith("num_batches_tracked"))
    return {**{name: torch.zeros((), dtype=torch.int64) for name in counters}, **state}


def _files(path: str | Path) -> tuple[Path, Path]:
    path = path_of("The path of the weights", path)
    weights = path if path.suffix == ".safetensors" else path / "model.safetensors"
    return weights, weights.with_suffix(".yaml")


def check_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], description: ModelDescription, what: str
) -> None:
    """Raise BadInput, beginning with `what`, if `state` has not the `expected` names and shapes of the description."""
    described = f"the described {description.name!r}"
    if odd := sorted(state.keys() ^ expected.keys()):
        side = "lacks" if odd[0] in expected else "has an extra"
        raise BadInput(f"{what} does not fit {described}: it {side} {odd[0]!r} ({len(odd)} names differ).")
    wrong = [key for key, tensor in state.items() if tensor.shape != expected[key].shape]
    if not wrong:
        return
    found, needed = tuple(state[wrong[0]].shape), tuple(expected[wrong[0]].shape)
    # Only the head differs, and only in its rows: say it in classes, not in tensors.
    rows = {tuple(state[key].shape[:1]) for key in wrong}
    heads = all((description.classes, *state[key].shape[1:]) == tuple(expected[key].shape) for key in wrong)
    if heads and len(rows) == 1:
        raise BadInput(f"{what} is for {found[0]} classes, but the description says {description.classes}.")
    raise BadInput(f"{what} does not fit {described}: {wrong[0]!r} has shape {found} instead of {needed}.")
