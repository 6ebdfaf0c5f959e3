"""``python -m fastloss list``: every loss with its aliases, parameters and names elsewhere."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from ..families.documentation import catalogue_rows
from ..losses import registry

INDENT = 6 * " "


def main(arguments: list[str]) -> int:
    """Print the catalogue, or the part of it that holds some words; exit status 1 if nothing does."""
    parser = argparse.ArgumentParser("python -m fastloss list", description="List every loss.")
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="only those that hold each of these: a part of a name, keras, rowwise"
    )
    words = parser.parse_args(arguments).words
    rows = [row for row in _plain_rows() if all(word.lower() in " ".join(row.values()).lower() for word in words)]
    if not rows:
        sys.stderr.write(f"list: no loss with {' and '.join(map(repr, words))}\n")
        return 1
    for line in _lines(rows, max(60, min(shutil.get_terminal_size().columns, 120))):
        print(line)
    return 0


def _plain_rows() -> list[dict[str, str]]:
    """The rows of README's catalogue, without marks."""
    return [{title: cell.replace("`", "") for title, cell in row.items()} for row in catalogue_rows(registry())]


def _lines(rows: Sequence[dict[str, str]], width: int) -> Iterator[str]:
    for family in dict.fromkeys(row["family"] for row in rows):
        yield f"{family}"
        for row in (row for row in rows if row["family"] == family):
            yield from _entry(row, width)
    yield f"{len(rows)} {'loss' if len(rows) == 1 else 'losses'}; more about one: python -m fastloss show LOSS"


def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - len(INDENT), break_long_words=False, break_on_hyphens=False)
    return [INDENT + line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _entry(row: dict[str, str], width: int) -> Iterator[str]:
    """Name and aliases; below them parameters, then names elsewhere, no line within a name."""
    yield f"  {row['loss']}"
    elsewhere = re.sub(r"(?<!,) ", "\N{NO-BREAK SPACE}", row["also in"])
    for text in (row["parameters"], elsewhere):
        if text != "-":
            yield from _wrapped(text, width)
