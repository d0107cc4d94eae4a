"""Write the talk's tables into pages: python -m benchmarks.accuracy.published docs/published.md"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness.pages import renew
from sparring.results import markdown, talk
from sparring.results.published import broken_defences


def tables() -> dict[str, str]:
    """Return the Markdown of every table of the talk, by its name."""
    return {
        **{name: markdown.table(talk.table(name)) for name in talk.names()},
        "bpda": markdown.broken(broken_defences()),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path, help="each with a line <!-- published: NAME --> for every table")
    renew(parser.parse_args().pages, "published", tables(), "\n\n".join)
