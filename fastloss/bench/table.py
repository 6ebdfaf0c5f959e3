"""The results as a table: line by line as they come, or drawn by rich on a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol

from .cases import Case
from .contenders import FASTLOSS, NUMPY, SKLEARN, TORCH
from .measure import Result

HEADER = (
    "loss", "case", "dtype", "shape",
    "us/call", "ns/elem", "GB/s", "% limit", "limit", "x NumPy", "x torch", "x sklearn", "spread",
)  # fmt: skip
TEXT_COLUMNS = 4
#: The limit that binds, in few letters.
SHORT = {"memory": "memory", "arithmetic": "exp/log", "": "-"}
NUMBER_WIDTH = 9
#: Columns of a terminal that the drawn table fits.
DRAWN_FROM = 150


def labels(case: Case) -> list[str]:
    """The columns that say what a line is about."""
    return [case.loss.name, case.configuration or "-", case.dtype, case.size]


def cells(result: Result) -> list[str]:
    """One line of the table; ``-``: not measured, ``wrong``: not timed because of its results."""
    line = labels(result.case)
    seconds = result.seconds(FASTLOSS)
    if seconds is None:
        return [*line, *["wrong"] * (len(HEADER) - len(line))]
    line.append(f"{seconds * 1e6:.4g}" if seconds < 1e-2 else f"{seconds * 1e6:.0f}")
    line.append(f"{seconds * 1e9 / result.case.elements:.3g}")
    line.append(f"{result.bytes_moved / seconds / 1e9:.3g}")
    share, spread = result.share_of_limit, result.spread
    line += ["-" if share is None else f"{share:.0%}", SHORT[result.binding]]
    line += [_ratio(result, name) for name in (NUMPY, TORCH, SKLEARN)]
    line.append("-" if spread is None else f"{spread:.0%}" + "~" * result.samples[FASTLOSS].doubtful)
    return line


def _ratio(result: Result, name: str) -> str:
    times = result.times(name)
    if times is None:
        return "wrong" if name in result.refused else "-"
    return (f"{times:.1f}" if times < 99.5 else f"{times:.0f}") + "~" * result.samples[name].doubtful


class Table(Protocol):
    """Where results go to, as they come."""

    def start(self, case: Case, number: int, of: int) -> None:
        """Say what is being measured."""

    def add(self, result: Result) -> None:
        """Take one result."""

    def end(self) -> None:
        """Nothing comes any more."""


class PlainTable:
    """Lines of plain text, each written as soon as it is known."""

    def __init__(self, cases: Sequence[Case]) -> None:
        lines = [HEADER[:TEXT_COLUMNS], *map(labels, cases)]
        self.widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        self.widths += [NUMBER_WIDTH] * (len(HEADER) - TEXT_COLUMNS)
        self._write(HEADER)
        self._write(["-" * width for width in self.widths])

    def _write(self, line: Sequence[str]) -> None:
        aligned = [
            cell.ljust(width) if column < TEXT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, self.widths, strict=True))
        ]
        print(" ".join(aligned).rstrip(), flush=True)

    def start(self, case: Case, number: int, of: int) -> None:
        """Say nothing: the line comes soon."""

    def add(self, result: Result) -> None:
        """Write the result's line."""
        self._write(cells(result))

    def end(self) -> None:
        """Everything is written."""


class RichTable:
    """A line that tells what is being measured, and the whole table at the end."""

    def __init__(self, cases: Sequence[Case]) -> None:
        from rich.console import Console
        from rich.table import Table as Drawn

        self.console, self.table = Console(), Drawn()
        for column, name in enumerate(HEADER):
            self.table.add_column(name, justify="left" if column < TEXT_COLUMNS else "right")
        self.status = self.console.status("")
        self.status.start()

    def start(self, case: Case, number: int, of: int) -> None:
        """Show what is being measured."""
        self.status.update(f"{number} of {of}: {case.loss.name} {case.name}")

    def add(self, result: Result) -> None:
        """Keep the result."""
        self.table.add_row(*cells(result))

    def end(self) -> None:
        """Draw the table."""
        self.status.stop()
        self.console.print(self.table)


def open_table(cases: Sequence[Case]) -> Table:
    """Choose how to show results: drawn on a wide terminal if rich is installed, else plain."""
    wide = shutil.get_terminal_size().columns >= DRAWN_FROM
    drawn = sys.stdout.isatty() and wide and find_spec("rich") is not None
    return RichTable(cases) if drawn else PlainTable(cases)
