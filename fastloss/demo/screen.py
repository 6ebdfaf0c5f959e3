"""What the demo shows while it runs: live bars with rich on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import IO, TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Report = Callable[[int, str], None]
PLAIN_LINES_PER_TASK = 5


class Screen(Protocol):
    """Where the demo writes to."""

    def say(self, text: str) -> None:
        """Write one line."""

    def progress(self, title: str, total: int) -> AbstractContextManager[Report]:
        """Follow a task of `total` epochs; the context's function takes (epochs done, how it goes)."""

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table."""


class PlainScreen:
    """Lines without escape codes, in ASCII.

    Parameters
    ----------
    stream : text stream
        Where the lines go.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """Write one line."""
        self.stream.write(text + "\n")
        self.stream.flush()

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Report]:
        """Write a line after each fifth of the task."""
        written = 0

        def report(done: int, message: str) -> None:
            nonlocal written
            if done * PLAIN_LINES_PER_TASK // total > written:
                written = done * PLAIN_LINES_PER_TASK // total
                self.say(f"{title:13} epoch {done:{len(str(total))}}/{total}   {message}")

        yield report

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write the columns under each other, the first one flush left."""
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [header, ["-" * width for width in widths], *rows]
        for first, *others in lines:
            aligned = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            self.say("  ".join([first.ljust(widths[0]), *aligned]))


class RichScreen:
    """Live bars and a drawn table on a terminal.

    Parameters
    ----------
    console : rich.console.Console
        The terminal.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        """Write one line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Report]:
        """Draw a bar that fills, with how the task goes behind it."""
        from rich.progress import BarColumn, Progress, TextColumn

        columns = TextColumn(f"{title:13}"), BarColumn(bar_width=24), TextColumn("{task.fields[message]}")
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task(title, total=total, message="")
            yield lambda done, message: bars.update(bar, completed=done, message=message)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Draw the table."""
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for index, name in enumerate(header):
            table.add_column(Text(name), justify="right" if index else "left", no_wrap=index == 0)
        for row in rows:
            table.add_row(*map(Text, row))
        self.console.print(table)


def open_screen() -> Screen:
    """Choose how to write to standard output: drawn on a terminal if rich is installed, else plain."""
    if not sys.stdout.isatty():
        return PlainScreen(sys.stdout)
    if find_spec("rich") is None:
        screen = PlainScreen(sys.stdout)
        screen.say("No live bars without the package rich; install with: pip install 'fastloss[demo]'")
        return screen
    from rich.console import Console

    return RichScreen(Console())
