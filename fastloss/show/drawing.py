"""A curve as text: dots of Braille characters, two by four a character; stars where a terminal has none."""

from __future__ import annotations

import math
import sys

import numpy as np

from ..validate import Array
from .curve import Curve

#: Lines of a panel, and columns for its numbers.
LINES, MARGIN = 6, 11
#: Bits of a Braille character by row and column of its dots.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BLANK = 0x2800
#: A range is drawn in full if it is at most so many times as wide as what most points need.
FULL = 4.0


def drawn(curve: Curve, width: int) -> str:
    """The panels of a curve, each with its largest and smallest number, over one axis."""
    braille = _has_braille()
    columns = max(20, width - MARGIN - 2)
    lines = [f"{curve.title}:"]
    for name, series in curve.series.items():
        low, high = limits(series)
        dots = _dots(curve, series, low, high, columns, joined=name == "value")
        marks = {0: number(high, high - low), LINES - 1: number(low, high - low)}
        if low < 0.0 < high:
            marks.setdefault(int(high / (high - low) * LINES), "0")
        lines.append(f"{name:>{MARGIN}}")
        for at, row in enumerate(_characters(dots, braille)):
            lines.append(f"{marks.get(at, ''):>{MARGIN}} {'┤' if at in marks and braille else '|'}{row}")
    lines += _axis(curve, columns)
    return "\n".join(line.rstrip() for line in lines)


def number(x: float, room: float) -> str:
    """A number on an axis of so much room, to two places beyond it."""
    rounded = round(x, 2 - math.floor(math.log10(room)))
    return f"{rounded + 0.0:.6g}"  # + 0.0: no -0


def limits(series: Array) -> tuple[float, float]:
    """From where to where a series is drawn: all of it, unless few of its points need most of the room."""
    finite = series[np.isfinite(series)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    usual = np.percentile(finite, [4, 96]) if finite.size else (0.0, 0.0)
    room = float(usual[1] - usual[0])
    if 0.0 < room < (high - low) / FULL:
        low, high = max(low, float(usual[0]) - room), min(high, float(usual[1]) + room)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return low - 1.0, high + 1.0
    return low, high


def _dots(curve: Curve, series: Array, low: float, high: float, columns: int, *, joined: bool) -> Array:
    """Which dots are set, shape (4 * lines, 2 * columns); neighbours are joined but across a jump at a kink."""
    dots = np.zeros((4 * LINES, 2 * columns), bool)
    rows = np.where(np.isfinite(series), series, np.nan)
    heights = np.clip((high - rows) / (high - low), -1.0, 2.0) * (4 * LINES - 1)
    across = (curve.x - curve.x[0]) / (curve.x[-1] - curve.x[0]) * (2 * columns - 1)
    for at in range(len(series)):
        after = min(at + 1, len(series) - 1)
        ends = [heights[at], heights[after]]
        if not joined and any(curve.x[at] < kink < curve.x[after] for kink in curve.kinks):
            ends = [heights[at]]
        if np.isnan(ends).any():
            continue
        first, last = round(float(min(ends))), round(float(max(ends)))
        dots[max(first, 0) : max(last + 1, 0), round(float(across[at]))] = True
    return dots


def _characters(dots: Array, braille: bool) -> list[str]:
    lines = []
    for line in range(LINES):
        cells = dots[4 * line : 4 * line + 4].reshape(4, -1, 2)
        if braille:
            codes = np.einsum("rcs,rs->c", cells, np.array(DOTS))
            lines.append("".join(chr(BLANK + code) for code in codes.tolist()))
        else:
            lines.append("".join("*" if cells[:, column].any() else " " for column in range(cells.shape[1])))
    return lines


def _axis(curve: Curve, columns: int) -> list[str]:
    """The kinks, and numbers under the ends and the middle."""
    low, high = float(curve.x[0]), float(curve.x[-1])
    marks = [" "] * columns
    for kink in curve.kinks:
        marks[min(columns - 1, int((kink - low) / (high - low) * columns))] = "^"
    room = 10.0 * (high - low)  # the ends lie half a step inside
    ends, middle = (number(low, room), number(high, room)), number((low + high) / 2, room)
    ruler = middle.center(columns)
    ruler = ends[0] + ruler[len(ends[0]) : columns - len(ends[1])] + ends[1]
    indent = " " * (MARGIN + 2)
    kinks = [indent + "".join(marks)] if curve.kinks else []
    return [*kinks, indent + ruler, indent + (curve.x_name + (" (^ kink)" if curve.kinks else "")).center(columns)]


def _has_braille() -> bool:
    try:
        chr(BLANK).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
