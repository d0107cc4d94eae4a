"""Published tables as Markdown, and in a line each behind a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sparring.results.published import BrokenDefence, Published
from sparring.results.talk import Row, TalkTable, rows_of

_TITLES = {
    "clean": "clean",
    "fgsm": "FGSM",
    "pgd-10": "PGD-10",
    "pgd-20": "PGD-20",
    "pgd-50": "PGD-50",
    "cw-20": "C&W",
    "apgd-ce": "APGD",
    "aa": "AA",
}
_UNSAID = "unspecified"


def table(talk: TalkTable) -> str:
    """Return the table with the recipe of every row, and below it what is to be said of its figures.

    What is the same in all rows is said once.
    """
    lines = [(row, line) for row in talk.rows for line in row.published]
    settings = [_setting(line) for _, line in lines]
    differing = [name for name in settings[0] if len({setting[name] for setting in settings}) > 1]
    same = [value for name, value in settings[0].items() if name not in differing]
    of_all = [note for note in _notes(lines[0][1]) if all(note in _notes(line) for _, line in lines)]
    notes = ["; ".join(note for note in _notes(line) if note not in of_all) for _, line in lines]
    numbered = [note for note in dict.fromkeys(notes) if note]
    timed = any(line.minutes is not None for _, line in lines)
    titles = [
        "method",
        *differing,
        *(_TITLES[attack] for attack in talk.attacks),
        *(["minutes"] if timed else []),
        "recipe",
    ]
    body = []
    for (row, line), setting, note in zip(lines, settings, notes, strict=True):
        figures = [str(line.accuracies.get(attack, "")) for attack in talk.attacks]
        mark = f" [{numbered.index(note) + 1}]" if note else ""
        minutes = [str(line.minutes or "")] if timed else []
        body.append([f"{row.method}{mark}", *(setting[name] for name in differing), *figures, *minutes, _recipe(row)])
    said = [f"{number}. {_sentence(note)}" for number, note in enumerate(numbered, 1)]
    first = [_sentence("; ".join([", ".join([talk.source, *same]), *of_all]))]
    return "\n".join([*first, "", *_markdown(titles, body), *(["", *said] if said else [])])


def broken(rows: Sequence[BrokenDefence]) -> str:
    """Return the table of defences that obfuscated gradients."""
    titles = ["defence", "data", "radius", "accuracy"]
    return "\n".join(
        _markdown(
            titles,
            [[row.defence, row.dataset, f"{row.norm} {row.radius}", f"{row.accuracy}{row.marks}"] for row in rows],
        )
    )


def behind_recipe(recipe: str) -> Iterator[str]:
    """Yield lines, comments in YAML, with the published figures of what a recipe trains, as it is or with other settings."""
    found = list(rows_of(recipe))
    if found:
        yield "# Published, accuracies in percent; the best epoch is that with the highest PGD-10 on the test images."
    for talk, row in found:
        yield f"# {talk.name} ({talk.source}){', with ' if row.settings else ''}{' '.join(row.settings)}:"
        for line in row.published:
            figures = [f"{_TITLES[attack]} {accuracy}" for attack, accuracy in line.accuracies.items()]
            minutes = [f"{line.minutes} minutes"] if line.minutes is not None else []
            yield f"#   {', '.join([_checkpoint(line), *figures, *minutes])}"
            if line.note:
                yield f"#   ({line.note})"


def _setting(line: Published) -> dict[str, str]:
    return {
        "data": line.dataset,
        "network": f"{line.network} network" if line.network == _UNSAID else line.network,
        "eps": f"eps {line.eps}" if line.eps is not None else f"{_UNSAID} eps",
        "schedule": f"{line.schedule} schedule",
        "epoch": _checkpoint(line),
    }


def _checkpoint(line: Published) -> str:
    return f"{_UNSAID} epoch" if line.checkpoint == _UNSAID else f"{line.checkpoint} epoch"


def _notes(line: Published) -> list[str]:
    return [note.strip() for note in line.note.split(";") if note.strip()]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _recipe(row: Row) -> str:
    return f"`{' '.join([row.recipe, *row.settings])}`" if row.recipe else ""


def _markdown(titles: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    numbers = [title in (*_TITLES.values(), "minutes", "accuracy") for title in titles]
    rule = ["---:" if number else "---" for number in numbers]
    return [f"| {' | '.join(cells)} |" for cells in (titles, rule, *body)]
