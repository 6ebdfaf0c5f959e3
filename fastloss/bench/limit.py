"""The limit set by memory: read two arrays, write one, by the threads and stores that losses use.

The kernel is fastloss's own elementwise sweep with nothing to compute: the same chunks, vectors and pool. What
is missing to 100 % is the price of the loss, of its sum and of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba.extending import register_jitable

from ..cpu.cache import compiled
from ..cpu.elementwise import FETCH_AHEAD, elements_per_chunk, moved
from ..cpu.emit import array_pointer, emit
from ..cpu.native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from ..cpu.run import RELEASE_FROM, run
from ..cpu.storage import STORAGES

LANES = 64
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
    chunks = -(-size // elements_per_chunk(size))

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
    elements_in_chunk = register_jitable(elements_per_chunk)
    pointer, integers, move = array_pointer(float32), array_pointer(STORAGES["int64"]), emit(moved)

    def add(left: Any, right: Any, result: Any) -> None:
        if bypass_cache:
            left.moved(FETCH_AHEAD).prefetch(LANES)
            right.moved(FETCH_AHEAD).prefetch(LANES)
        total = left.load(float32.memory, LANES) + right.load(float32.memory, LANES)
        result.store(total, bypass_cache=bypass_cache)

    step = emit(add)

    def memory_limit(left: Any, right: Any, result: Any, partials: Any, control: Any, size: int, mode: int) -> float:
        a, b, c = pointer(left), pointer(right), pointer(result)
        claims = integers(control)
        per_chunk = elements_in_chunk(size)
        chunks = (size + per_chunk - 1) // per_chunk
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            for i in range(chunk * per_chunk, min(size, (chunk + 1) * per_chunk), LANES):
                step(move(a, i), move(b, i), move(c, i))
            chunk = claim(claims, mode, chunk, chunks)
        if opened != 0:
            close_job(claims)
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return 0.0

    return memory_limit
