"""What tables are written as, read back."""

from __future__ import annotations

import csv
import io
from pathlib import Path


def lines(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))
