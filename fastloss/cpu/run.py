"""One kernel call: alone for small inputs, shared with the pool's helpers for large ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from time import perf_counter_ns
from typing import Any

import numpy as np

from ..formula.subset import FormulaSource, check
from .native import HOLDING, RELEASED, SHARED
from .pool import pool

#: Estimated nanoseconds of work from which the interpreter lock is released and helpers may share (taking the lock
#: back beside a busy Python thread costs up to 5 ms, so short calls keep it).
RELEASE_FROM = 50_000
#: Estimated nanoseconds of work from which helpers that sleep are woken: to wake one costs the caller up to 16 us and
#: takes 50, on a virtual machine, and gains nothing for a call of 0.15 ms.
WAKE_FROM = 200_000
#: Nanoseconds since the last such call within which helpers are woken for any: a loop of them keeps helpers awake.
RECENT = 20_000

#: Estimated nanoseconds per float32 element of a formula, besides what its primitives take, and of those that matter.
_SWEEP = 0.2
_COSTS = {
    "exp": 0.3, "exp_nonpositive": 0.25, "expm1": 0.3, "expm1_nonpositive": 0.25, "log": 0.5, "log1p": 0.5,
    "log1p_unit": 0.2, "power": 1.5, "sqrt": 0.1,
}  # fmt: skip

#: Elements up to which a call may take the short way in (see `fastloss.cpu.quick`).
QUICK_UP_TO = 1 << 20

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
        Takes ``arrays``, partial sums, control (see `fastloss.cpu.native`), ``sizes`` and how to run.
    arrays
        Array arguments before the partial sums.
    sizes
        Scalar arguments between control and how to run.
    chunks
        Number of chunks; a function of the shape only, and so the order of the sum.
    work
        Estimated nanoseconds for one thread.
    threads
        The most that may take part, the caller included; the pool's number if None.
    """
    global _last_end
    if work < RELEASE_FROM:
        return entry(*arrays, ABSENT, ABSENT, *sizes, HOLDING)
    try:
        threads = pool.threads if threads is None else threads
        if chunks > 1 and threads > 1:
            team, helpers = pool.ready(min(threads, chunks) - 1)
            wake = work >= WAKE_FROM or perf_counter_ns() - _last_end < RECENT
            if helpers and (wake or team.awake):
                partials, control = np.empty(chunks), np.array((0, 0, team.address, helpers, wake), np.int64)
                return entry(*arrays, partials, control, *sizes, SHARED)
        return entry(*arrays, ABSENT, ABSENT, *sizes, RELEASED)
    finally:
        _last_end = perf_counter_ns()


_last_end = 0


@cache
def nanoseconds(formula: Callable[..., Any]) -> float:
    """What a float32 element of a formula is estimated to take one thread.

    Kept, since reading a formula takes 2 ms, which a loss made anew for every call would pay every time.
    """
    return _SWEEP + _operations(check(formula))


def _operations(formula: FormulaSource) -> float:
    own = sum(_COSTS.get(name, 0.0) for name in formula.primitives.values())
    return own + sum(_operations(called) for called in formula.calls.values())
