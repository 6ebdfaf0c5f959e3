"""One kernel call: alone for small inputs, shared with the pool's helpers for large ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .pool import pool

#: Estimated nanoseconds of work from which other Python threads may run meanwhile (releasing the lock and taking it
#: back beside a busy thread costs up to 5 ms, so short calls keep it).
RELEASE_FROM = 50_000
#: Estimated nanoseconds of work from which helpers join in: a hand-off costs about 50 us.
SHARE_FROM = 250_000

#: Elements up to which a call may take the short way in (see `fastloss.cpu.quick`).
QUICK_UP_TO = 1 << 16

#: Stands for an array that a kernel does not use.
ABSENT = np.zeros(8)


def run(
    entry: Callable[..., float],
    arrays: tuple[Any, ...],
    sizes: tuple[int | float, ...],
    chunks: int,
    work: float,
    threads: int | None = None,
) -> float:
    """Call a compiled kernel and give the sum of its chunks' results.

    Parameters
    ----------
    entry
        Takes ``arrays``, partial sums, control, ``sizes`` and the mode (0 alone; 1 alone, other Python threads may
        run; 2 shared).
    arrays
        Array arguments before the partial sums.
    sizes
        Scalar arguments between control and mode.
    chunks
        Number of chunks; a function of the shape only, and so the order of the sum.
    work
        Estimated nanoseconds for one thread.
    threads
        The most that may take part, the caller included; the pool's number if None.
    """
    threads = pool.threads if threads is None else threads
    if chunks <= 1 or work < SHARE_FROM or threads == 1:
        return alone(entry, arrays, sizes, chunks, work)
    partials, control = np.empty(chunks), np.zeros(3, np.int64)
    pool.run(entry, (*arrays, partials, control, *sizes, 2), control, chunks, threads)
    return chunk_sum(partials)


def chunk_sum(partials: Any) -> float:
    """The sum of the chunks' results, in an order that only their number decides."""
    with np.errstate(all="ignore"):  # an infinite loss is a result
        return float(np.add.reduce(partials))


def alone(
    entry: Callable[..., float], arrays: tuple[Any, ...], sizes: tuple[int | float, ...], chunks: int, work: float
) -> float:
    """`run` in the caller's thread."""
    mode = 1 if work > RELEASE_FROM else 0
    if chunks <= 1:
        return entry(*arrays, ABSENT, ABSENT, *sizes, mode)
    partials = np.empty(chunks)
    entry(*arrays, partials, ABSENT, *sizes, mode)
    return chunk_sum(partials)
