"""Write the text that derives from the losses' definitions; with --check, only compare.

So far that is README's catalogue. Docstrings derive at import time and need no writing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- catalogue: written by ci/sync.py -->", "<!-- end of catalogue -->"


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table of the rows; the first row's keys are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row[column] for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def with_catalogue(text: str, rows: list[dict[str, str]]) -> str:
    """The README text with its catalogue replaced by the rows."""
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table(rows)}\n{END}{after}"


def main(arguments: list[str]) -> int:
    """Update README.md, or say whether it is up to date."""
    sys.path.insert(0, str(ROOT))
    from fastloss.families.documentation import catalogue_rows
    from fastloss.losses import registry

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something would change")
    check = parser.parse_args(arguments).check
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = with_catalogue(old, catalogue_rows(registry()))
    if new == old:
        print("README.md: up to date")
        return 0
    if check:
        print("README.md: the catalogue is out of date; run: python ci/sync.py", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8")
    print("README.md: catalogue written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
