"""Records on disk: one for each question and network, so that nothing measured is lost.

A question is what was asked of which weights: images, threat, seed and precision. Further attacks on the same question join
its record; another question, or another network under the same name, has a file of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from sparring.errors import BadInput

CHECKSUM = "sha256"  # the key in a record
_SUFFIX = ".json"
# What an attack's entry says besides what it was: two entries that differ in nothing else are of the same measurement.
_FOUND = ("accuracy", "n", "seconds", "forwards", "backwards", "stages", "failures", "correct", "measured", "outside")
_PROVENANCE = ("environment", "device", "dtype", "batch_size", "processes", "searched")


def file_of(output: Path, asked: dict[str, Any]) -> Path:
    """Return the file of a `question`: `output` itself where it is a .json file, else one in that folder, named after it.

    Raises BadInput where that file holds something else than earlier answers to the same question.
    """
    path = output
    if output.suffix.lower() != _SUFFIX:
        threat = f"{asked['threat']['norm']}-{asked['threat']['eps']}".replace("/", "_")
        path = output / f"{threat}-{asked['n']}-{asked['question']}{_SUFFIX}"
    if not path.exists():
        return path
    held = _read(path)
    if held.get("question") == asked["question"] and not _is_whole(held):
        raise BadInput(f"{path} is a record of this question that was damaged or changed: move it away.")
    if held.get("question") != asked["question"]:
        what = _line(held) or "something that is no record of an evaluation"
        raise BadInput(
            f"{path} holds {what}, not this network on these images under this threat, and would be lost: move it away, or "
            "choose another --output, such as a folder, in which every question has its own file."
        )
    return path


def merged(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a record with the attacks and findings that its file already holds.

    An attack has with it where it was `measured`, if that was elsewhere; one that was run again replaces its former
    result. `worst` is over all of them, and a finding that both have is said once.
    """
    if not path.exists():
        return content
    held = _read(path)
    again = {_identity(entry) for entry in content["attacks"]}
    provenance = {name: held[name] for name in _PROVENANCE}
    here = {name: content[name] for name in _PROVENANCE}
    earlier = [
        entry if "measured" in entry or provenance == here else entry | {"measured": provenance}
        for entry in held["attacks"]
        if _identity(entry) not in again
    ]
    attacks = [*earlier, *content["attacks"]]
    survivors = int("1" * content["n"], 2)
    for entry in attacks:
        survivors &= int(entry["correct"], 16)
    findings = [*content["findings"], *(finding for finding in held["findings"] if finding not in content["findings"])]
    return content | {"attacks": attacks, "worst": survivors.bit_count() / content["n"], "findings": findings}


def figures(content: dict[str, Any]) -> dict[str, float]:
    """Return a record's accuracies by attack, and by attack and search where one has several, for `suspicions`.

    Of several attacks of one name, such as functions that differ, the figures of the one that found most are returned.
    """
    strongest: dict[str, dict[str, Any]] = {}
    for entry in content["attacks"]:
        strongest[entry["attack"]] = min(strongest.get(entry["attack"], entry), entry, key=itemgetter("accuracy"))
    found: dict[str, float] = {}
    for entry in strongest.values():
        found |= {f"{entry['attack']} {stage['attack']}": stage["accuracy"] for stage in entry.get("stages", ())}
        found[entry["attack"]] = entry["accuracy"]
    return found


def listed(folder: Path, without: Path | None = None) -> Iterator[str]:
    """Yield a line for each record in a folder but one, by name: what was asked, and the accuracies."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path != without and (line := _line(_read(path))):
            yield f"{path.name}: {line}"


def whole_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the records in a folder, by name; raises BadInput for one that is not as it was written."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        held = _read(path)
        if CHECKSUM not in held or not _is_whole(held):
            raise BadInput(f"{path} is not as an evaluation wrote it: restore it, or remove it and measure again.")
        yield held


def checksum(content: dict[str, Any]) -> str:
    """Return hexadecimal digits of a record without its checksum (SHA-256)."""
    bare = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(bare, sort_keys=True).encode()).hexdigest()


def _line(held: dict[str, Any]) -> str:
    """Return a record in a line; nothing for what is none."""
    try:
        accuracies = ", ".join(f"{entry['attack']} {entry['accuracy']:.2%}" for entry in held["attacks"])
        return f"{held['threat']['norm']} eps {held['threat']['eps']} on {held['n']} images: {accuracies}"
    except (KeyError, TypeError, ValueError):
        return ""


def _is_whole(held: dict[str, Any]) -> bool:
    """Return whether a record has all that `merged` needs, and is as it was written; early ones have no checksum."""
    entries = held.get("attacks")
    return (
        held.get(CHECKSUM) in (None, checksum(held))
        and isinstance(entries, list)
        and all(isinstance(entry, dict) and {"attack", "accuracy", "correct"} <= entry.keys() for entry in entries)
        and {*_PROVENANCE, "findings"} <= held.keys()
    )


def _identity(entry: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name not in _FOUND}, sort_keys=True)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing where it is no JSON object."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
