"""Tables of records in pages, between `<!-- KIND: RECORD ... -->` and `<!-- end of KIND -->`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sparring.errors import BadInput
from sparring.files import replacing

Record = TypeVar("Record")


def renewed(text: str, kind: str, records: Mapping[str, Record], markdown: Callable[[list[Record]], str]) -> str:
    """Return a page with its tables of these records, by name, as they are now.

    Args:
        text: the page.
        kind: of the tables, such as accuracy: the word in their markers.
        records: by name.
        markdown: makes a table of the records that a marker names.

    Raises:
        BadInput: the page has no table of one of the records, a table of some of them and another, or one without an end.
    """
    opening, end = f"<!-- {kind}: ", f"<!-- end of {kind} -->"
    blocks = re.compile(
        rf"^(?P<opening>{opening}(?P<names>\S+(?: \S+)*) -->)\n(?:(?!{opening}).)*?^{end}$", re.DOTALL | re.MULTILINE
    )

    def render(match: re.Match[str]) -> str:
        names = match["names"].split()
        if not set(names) & set(records):
            return match[0]
        if missing := [name for name in names if name not in records]:
            raise BadInput(f"Its line {match['opening']} names {', '.join(missing)}, too: give all of them.")
        return f"{match['opening']}\n\n{markdown([records[name] for name in names])}\n\n{end}"

    marked = list(blocks.finditer(text))
    if len(marked) != len(re.findall(rf"^{opening}", text, re.MULTILINE)):
        raise BadInput(f"It has a line {opening}... --> without a line {end} after it.")
    named = {name for match in marked for name in match["names"].split()}
    if missing := [name for name in records if name not in named]:
        raise BadInput(f"It has no line {opening}{' '.join(missing)} --> with {end} below.")
    return blocks.sub(render, text)


def renew(
    pages: Sequence[Path], kind: str, records: Mapping[str, Record], markdown: Callable[[list[Record]], str]
) -> None:
    """Replace the tables of these records in all pages, or in none if one of them cannot be; raise BadInput for it."""
    texts = {}
    for page in pages:
        try:
            texts[page] = renewed(page.read_text(encoding="utf-8"), kind, records, markdown)
        except OSError as error:
            raise BadInput(f"{page} cannot be read: {error.strerror}.") from error
        except BadInput as error:
            raise BadInput(f"{page} was not changed. {error}") from error
    for page, text in texts.items():
        with replacing(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
