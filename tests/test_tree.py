"""What holds of the files of this repository, whatever is in them."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
FROM_A_TEST = re.compile(r"(?:from|import) tests[.\w]*\.test_|from tests[.\w]* import [^\n]*\btest_")


def test_no_test_imports_from_a_file_of_tests() -> None:
    """Not in the programs either that tests run: what several share lies in a module of its own."""
    importing = [str(file.relative_to(TESTS)) for file in TESTS.rglob("*.py") if FROM_A_TEST.search(file.read_text())]
    assert importing == []
