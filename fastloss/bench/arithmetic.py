"""The limit set by arithmetic: a loss's exponentials, logarithms and the like, alone, on numbers from the caches.

The kernel takes the same vectors, chunks and threads as a loss. What is missing to 100 % is the price of reading and
writing, of all other arithmetic, and of the call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba.extending import register_jitable

from ..cpu import vector_math
from ..cpu.cache import compiled
from ..cpu.elementwise import elements_per_chunk, moved
from ..cpu.emit import array_pointer, emit
from ..cpu.native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from ..cpu.run import run
from ..cpu.storage import STORAGES
from .primitives import Primitive

ARITHMETIC = "limit (arithmetic)"
#: Lanes of a vector, as losses have them.
LANES = {"float32": 64, "float64": 32}
#: Primitives that take numbers of 0 or less.
NONPOSITIVE = ("exp_nonpositive", "expm1_nonpositive")


def arithmetic(wanted: Counter[Primitive], elements: int, computing: str) -> Callable[[], Any]:
    """What computes some primitives for so many elements.

    Parameters
    ----------
    wanted
        Primitives, and how often each element needs them.
    elements
        Rounded up to whole vectors.
    computing
        ``float32`` or ``float64``.
    """
    lanes = LANES[computing]
    size = -(-elements // lanes) * lanes
    chunks = -(-size // elements_per_chunk(size))
    # The same numbers for every chunk, and a vector of sums for each: all that is read and written stays in the caches.
    numbers = np.random.default_rng(0).uniform(0.1, 0.9, elements_per_chunk(size) + lanes).astype(computing)
    sums = np.zeros(chunks * lanes, computing)
    entry = _entry(tuple(sorted(wanted.elements(), key=str)), computing)
    return lambda: run(entry, (numbers, sums), (size,), chunks, float("inf"))


@cache
def _entry(wanted: tuple[Primitive, ...], computing: str) -> Callable[..., float]:
    return compiled(_kernel(wanted, computing), ("array",) * 4 + ("int",) * 2, f"{wanted} {computing}")


def _kernel(wanted: tuple[Primitive, ...], computing: str) -> Callable[..., float]:
    """Write the kernel that Numba compiles: each chunk's sum of all primitives of its numbers."""
    storage, lanes = STORAGES[computing], LANES[computing]
    elements_in_chunk = register_jitable(elements_per_chunk)
    pointer, integers, move = array_pointer(storage), array_pointer(STORAGES["int64"]), emit(moved)

    def add(numbers: Any, sums: Any) -> None:
        x = numbers.load(storage.memory, lanes)
        total = sums.load(storage.memory, lanes)
        for number, primitive in enumerate(wanted):
            total = total + _applied(primitive, x * (1.0 - 0.01 * number))  # else equal ones would be one
        sums.store(total)

    step = emit(add)

    def arithmetic_limit(numbers: Any, sums: Any, partials: Any, control: Any, size: int, mode: int) -> float:
        a, b = pointer(numbers), pointer(sums)
        claims = integers(control)
        per_chunk = elements_in_chunk(size)
        chunks = (size + per_chunk - 1) // per_chunk
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            for i in range(0, min(size - chunk * per_chunk, per_chunk), lanes):
                step(move(a, i), move(b, chunk * lanes))
            chunk = claim(claims, mode, chunk, chunks)
        if opened != 0:
            close_job(claims)
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return 0.0

    return arithmetic_limit


def _applied(primitive: Primitive, x: Any) -> Any:
    """A primitive of numbers between 0 and 1, which all of them take; their negatives, where they must be."""
    function = getattr(vector_math, primitive.name)
    if primitive.name == "power":
        return function(x, x if primitive.exponent is None else primitive.exponent)
    return function(-x if primitive.name in NONPOSITIVE else x)
