"""The records of `compare.py` as tables in Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from sparring.errors import BadInput

REFERENCE = "pyautoattack"
OURS = "ours"  # among libraries
Record = dict[str, Any]
Row = Sequence[str]


def read(file: Path) -> Record:
    """Return a record; raises BadInput if it is not one of this benchmark's."""
    try:
        record: Record = json.loads(file.read_text(encoding="utf-8"))
        ours = record["benchmark"] in _TABLES and bool(record["found"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = False
    if not ours:
        raise BadInput(f"{file} is not a record of this benchmark: write one with compare.py and --out {file}.")
    return record


def markdown(records: Sequence[Record]) -> str:
    """Return one table of all records, which must be of the same benchmark: BadInput if they are not."""
    kinds = {record["benchmark"] for record in records}
    if len(kinds) > 1:
        raise BadInput(f"Records of {' and '.join(sorted(kinds))} make no table together: name them one by one.")
    head, rows = _TABLES[kinds.pop()]
    body = [row for record in records for row in rows(record)]
    rule = ["---" if name in _WORDS else "---:" for name in head]
    lines = [f"| {' | '.join(row)} |" for row in [head, rule, *body]]
    return "\n".join([*lines, *dict.fromkeys(_scaled(record) for record in records if record["scaled"])])


def _scaled(record: Record) -> str:
    """Return what says that this was not AutoAttack."""
    scales = " and ".join(f"{count} {name}" for name, count in record["scaled"].items())
    return f"\nScaled down on both sides, to {scales}: this is not AutoAttack."


_WORDS = (
    "data",
    "threat",
    "network",
    "attack",
    "against",
    "ours in",
    "stage",
    "library",
)  # columns that are not numbers

_PARITY = (
    "data",
    "threat",
    "images",
    "network",
    "against",
    "clean",
    "PGD-20",
    "APGD-CE",
    "APGD-T",
    "FAB-T",
    "Square",
    "fooled by one alone",
    "confirmed",
    "seconds",
)


def _parity(record: Record) -> Iterator[Row]:
    """Yield a row for a network and an answer, which stands beside pyautoattack's."""
    where = (record["data"], f"{record['threat']['norm']} {record['threat']['eps']}", str(record["images"]))
    for found in record["found"]:
        theirs = found["answers"][REFERENCE]
        for pair in found["differences"]:
            if pair["first"] != REFERENCE:
                continue
            answer = found["answers"][pair["second"]]
            stages = zip(theirs["stages"], answer["stages"], strict=True)
            yield (
                *where,
                found["network"],
                pair["second"],
                _both(_percent(theirs["clean"]), _percent(answer["clean"])),
                _percent(found["pgd-20"]),
                *(_both(_percent(one["accuracy"]), _percent(other["accuracy"])) for one, other in stages),
                _both(*(str(len(pair[f"fooled_by_{side}_alone"])) for side in ("first", "second"))),
                f"{answer['confirmed']} of {answer['fooled']}",
                _both(*(f"{side['seconds']:.0f}" for side in (theirs, answer))),
            )


_OTHERS = ("data", "threat", "images", "network", "attack", "accuracy", "fooled by it alone", "by ours alone")


def _others(record: Record) -> Iterator[Row]:
    """Yield a row for a network and an attack, after ours."""
    where = (record["data"], f"{record['threat']['norm']} {record['threat']['eps']}", str(record["images"]))
    for found in record["found"]:
        yield (*where, found["network"], OURS, _percent(found["ours"]), "", "")
        for other in found["others"]:
            counts = (str(len(other["alone"])), str(other["missed"]))
            yield (*where, found["network"], other["name"], _percent(other["accuracy"]), *counts)


_SPEED = ("ours in", "stage", "seconds", "faster", "least to most", "forwards", "backwards", "accuracy")


def _speed(record: Record) -> Iterator[Row]:
    """Yield a row for a precision and a stage, and one for all stages together."""
    rounds = record["found"]
    for side in rounds[0]:
        if side == REFERENCE:
            continue
        for place, stage in enumerate(rounds[0][REFERENCE]["stages"]):
            pairs = [(turn[REFERENCE]["stages"][place], turn[side]["stages"][place]) for turn in rounds]
            yield (side, stage["name"], *_compared(pairs), _both(*(_percent(one["accuracy"]) for one in pairs[0])))
        pairs = [(_summed(turn[REFERENCE]), _summed(turn[side])) for turn in rounds]
        yield (side, "all", *_compared(pairs), "")


def _summed(answer: Record) -> Record:
    passes = {name: sum(stage[name] for stage in answer["stages"]) for name in ("forwards", "backwards")}
    return {"seconds": answer["seconds"], **passes}


def _compared(pairs: Sequence[tuple[Record, Record]]) -> Row:
    """Return median seconds, ratios and passes of pairs of measurements, pyautoattack's first."""
    seconds = (f"{median(pair[place]['seconds'] for pair in pairs):.1f}" for place in (0, 1))
    passes = (_both(*(f"{one[name]:,}" for one in pairs[0])) for name in ("forwards", "backwards"))
    return (_both(*seconds), *_ratios([(one["seconds"], other["seconds"]) for one, other in pairs]), *passes)


_LIBRARIES = ("library", "accuracy", "seconds", "ours is faster by", "least to most")


def _pgd(record: Record) -> Iterator[Row]:
    """Yield a row for a library, ours first."""
    rounds = record["found"]
    for library in rounds[0]:
        pairs = [(turn[library]["seconds"], turn[OURS]["seconds"]) for turn in rounds]
        ratios = ("", "") if library == OURS else _ratios(pairs)
        accuracy = _percent(rounds[0][library]["accuracy"])
        yield (library, accuracy, f"{median(theirs for theirs, _ in pairs):.1f}", *ratios)


_TABLES = {
    "parity": (_PARITY, _parity),
    "speed": (_SPEED, _speed),
    "pgd": (_LIBRARIES, _pgd),
    "others": (_OTHERS, _others),
}


def _ratios(pairs: Sequence[tuple[float, float]]) -> tuple[str, str]:
    """Return how many times faster the second is: the median, and the extremes. Nothing where there was nothing to do."""
    ratios = [theirs / ours for theirs, ours in pairs if ours > 0]
    return (f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}") if ratios else ("", "")


def _both(theirs: str, ours: str) -> str:
    return f"{theirs} / {ours}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
