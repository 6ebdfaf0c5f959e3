"""By-products of rows, for formulas with a ``report``: a number of each row, and where its largest prediction is.

They lie behind the losses, so that kernels without them have no argument more (see `fastloss.cpu.rowwise.ARGUMENTS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import register_jitable

from .elementwise import moved, put_number
from .emit import emit
from .lanes import INT32, INT64, Lanes
from .native import fetch_add
from .storage import STORAGES, Pointer
from .vector_math import where

Place = tuple[Lanes, Lanes]


class Search(NamedTuple):
    """The search for the first largest number, NaN left out: a lane's number so far and where it was (-1: nowhere)."""

    element: ir.Type
    lanes: int

    def start(self, anchor: Pointer) -> Place:
        """Nothing found yet."""
        lowest = Lanes(anchor.builder, ir.Constant(self.element, -math.inf))
        return lowest.broadcast(self.lanes), lowest.constant(-1, INT32).broadcast(self.lanes)

    def along(self, numbers: Pointer, found: Place, column: Lanes) -> Place:
        """Take in one vector of a row."""
        return self._larger(numbers.load(self.element, self.lanes), found, column, along=True)

    def tail(self, numbers: Pointer, found: Place, column: Lanes, left: Lanes) -> Place:
        """Take in the ``left`` numbers at a row's end."""
        loaded = numbers.load(self.element, self.lanes, left)
        inside = loaded.numbered() < left.convert(INT32)
        return self._larger(where(inside, loaded, -math.inf), found, column, along=True)

    def across(self, numbers: Pointer, found: Place, column: Lanes) -> Place:
        """Take in one class of a block, where lanes are rows."""
        return self._larger(numbers.load(self.element, self.lanes), found, column, along=False)

    @staticmethod
    def _larger(loaded: Lanes, found: Place, column: Lanes, *, along: bool) -> Place:
        larger, here = loaded > found[0], column.convert(INT32)
        here = loaded.numbered() + here if along else here
        return where(larger, loaded, found[0]), where(larger, here, found[1])

    def end(self, found: Place) -> Lanes:
        """Where it is in the row."""
        numbers, places = found
        while numbers.count > 1:
            half = numbers.count // 2
            low, high = numbers.part(0, half), numbers.part(half, half)
            at_low, at_high = places.part(0, half), places.part(half, half)
            better = (high > low) | ((high == low) & (at_high < at_low))
            numbers, places = where(better, high, low), where(better, at_high, at_low)
        return places.lane(0).convert(INT64)


def place_in_row(element: ir.Type, lanes: int) -> Callable[..., Any]:
    """A function that gives the place of a row's first largest number."""
    search, move = Search(element, lanes), emit(moved)
    start, along, tail, end = emit(search.start), emit(search.along), emit(search.tail), emit(search.end)

    @register_jitable
    def place(numbers, full, left):
        found = start(numbers)
        for j in range(0, full, lanes):
            found = along(move(numbers, j), found, j)
        if left > 0:
            found = tail(move(numbers, full), found, full, left)
        return end(found)

    return place


def places_in_block(element: ir.Type, lanes: int) -> Callable[..., Any]:
    """A function that writes those of a block of rows, as int32."""
    search, move = Search(element, lanes), emit(moved)
    start, across = emit(search.start), emit(search.across)
    write = emit(lambda target, found: target.store(found[1]))

    @register_jitable
    def places(block, classes, target):
        found = start(block)
        for j in range(classes):
            found = across(move(block, j * lanes), found, j)
        write(target, found)

    return places


def as_integers(pointer: Pointer) -> Pointer:
    """The same address, of int64 numbers."""
    value = pointer.builder.bitcast(pointer.value, INT64.as_pointer())
    return Pointer(pointer.builder, value, STORAGES["int64"])


def writers() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What notes a row, giving 1 if its largest prediction is the true class; and what adds up rows at the end."""
    move, put, integers = emit(moved), emit(put_number), emit(as_integers)

    @register_jitable
    def note(losses, rows, row, number, found, true):
        found = found if number == number else -1
        put(move(losses, rows + row), number)
        put(move(integers(move(losses, 2 * rows)), row), found)
        return 1 if 0 <= found == true else 0

    @register_jitable
    def tally(losses, rows, right, counted):
        totals = integers(move(losses, 2 * rows))
        fetch_add(totals, rows, right)
        fetch_add(totals, rows + 1, counted)

    return note, tally
