"""The limit set by memory: read two arrays, write one, by the threads and stores that losses use.

The kernel is fastloss's own elementwise sweep with nothing to compute: the same chunks, vectors and pool. What
is missing to 100 % is the price of the loss, of its sum and of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..cpu.cache import compiled
from ..cpu.elementwise import CHUNK, moved, put_number
from ..cpu.emit import array_pointer, emit, fetch_add, release_gil, take_gil
from ..cpu.run import RELEASE_FROM, run
from ..cpu.storage import STORAGES

LANES = 32
BYTES_PER_ELEMENT = 12
#: Contender: whether its stores bypass the caches, whether threads share the work.
STREAMS = {
    "limit (ordinary stores)": (False, True),
    "limit (cache-bypassing stores)": (True, True),
    "limit (one thread)": (False, False),
}


def streams(bytes_moved: int) -> dict[str, Callable[[], Any]]:
    """What moves as many bytes as a loss does, in each way there is; the limit is the fastest of them.

    Parameters
    ----------
    bytes_moved
        Bytes of target, prediction and gradient together; rounded up to whole vectors.
    """
    size = -(-bytes_moved // (BYTES_PER_ELEMENT * LANES)) * LANES
    left, right, result = (np.full(size, i, np.float32) for i in range(3))
    chunks = -(-size // CHUNK)

    def stream(bypass_cache: bool, shared: bool) -> Callable[[], Any]:
        entry = _entry(bypass_cache)
        work = float("inf") if shared else RELEASE_FROM + 1
        return lambda: run(entry, (left, right, result), (size,), chunks, work)

    return {name: stream(*how) for name, how in STREAMS.items()}


@cache
def _entry(bypass_cache: bool) -> Callable[..., float]:
    return compiled(_kernel(bypass_cache), ("array",) * 5 + ("int",) * 2, f"bypass_cache={bypass_cache}")


def _kernel(bypass_cache: bool) -> Callable[..., float]:
    """Write the kernel that Numba compiles: ``result = left + right``."""
    float32 = STORAGES["float32"]
    pointer, doubles, integers = (array_pointer(STORAGES[name]) for name in ("float32", "float64", "int64"))
    move, claim, put = emit(moved), emit(fetch_add), emit(put_number)

    def add(left: Any, right: Any, result: Any) -> None:
        total = left.load(float32.memory, LANES) + right.load(float32.memory, LANES)
        result.store(total, bypass_cache=bypass_cache)

    step = emit(add)

    def memory_limit(left: Any, right: Any, result: Any, partials: Any, control: Any, size: int, mode: int) -> float:
        a, b, c = pointer(left), pointer(right), pointer(result)
        sums, claims = doubles(partials), integers(control)
        chunks = (size + CHUNK - 1) // CHUNK
        finished = 0.0
        chunk = -1
        if mode != 0:
            state = release_gil()
        while True:
            chunk = claim(claims, 0, 1) if mode == 2 else chunk + 1
            if chunk >= chunks:
                break
            for i in range(chunk * CHUNK, min(size, (chunk + 1) * CHUNK), LANES):
                step(move(a, i), move(b, i), move(c, i))
            if chunks > 1:
                put(move(sums, chunk), 0.0)
            if mode == 2 and claim(claims, 1, 1) + 1 == chunks:
                finished = 1.0
        if mode != 0:
            take_gil(state)
        return finished

    return memory_limit
