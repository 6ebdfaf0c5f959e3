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

NAME = 34


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
    yield f"{len(rows)} losses; more about one: python -m fastloss show LOSS"


def _wrapped(text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - NAME, break_long_words=False) if text != "-" else []
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _entry(row: dict[str, str], width: int) -> Iterator[str]:
    """Name and aliases on the left; parameters, then names elsewhere, on the right, no line within a name."""
    left = textwrap.wrap(row["loss"], NAME - 3)
    elsewhere = re.sub(r"(?<!,) ", "\N{NO-BREAK SPACE}", row["also in"])
    right = [*_wrapped(row["parameters"], width), *_wrapped(elsewhere, width)]
    for number in range(max(len(left), len(right))):
        name = left[number] if number < len(left) else ""
        yield f"  {name:<{NAME - 2}}{right[number] if number < len(right) else ''}".rstrip()
