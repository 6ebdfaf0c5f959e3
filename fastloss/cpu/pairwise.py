"""The sweep of losses of several predictions, one loss per element: all of them in one pass over memory.

Kernels take tuples of arrays, so that one signature serves any number of predictions. Precision policy: that of
`fastloss.cpu.elementwise`, whose losses of 2-byte predictions are added four by four first; these are not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import register_jitable

from .cache import compiled, fingerprint
from .elementwise import (
    FETCH_AHEAD,
    accumulate,
    added,
    cleared,
    copy_one,
    elements_per_chunk,
    empty_sum,
    first_lanes,
    load_scalar,
    moved,
    put_number,
    scalars_of,
    sum_of,
    whole_sum,
    zero_sum,
)
from .emit import array_pointer, array_pointers, emit, stack_buffer
from .lanes import FLOAT64, Lanes, as_lanes, lanes_at_once
from .native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from .run import ABSENT, nanoseconds, run
from .storage import STORAGES, Pointer, Storage
from .vector_math import where

Pointers = tuple[Pointer, ...]


class PairBuild(NamedTuple):
    """Everything that one compiled kernel is specialised on."""

    formula: Callable[..., Any]
    fixed: tuple[float, ...] | None  # the parameters, where they are the defaults; None: read at run time
    parameters: int
    types: tuple[str, ...]  # of the operands: of the target, if there is one, then of the predictions
    predictions: int
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    weighted: bool
    bypass_cache: bool

    @property
    def storages(self) -> tuple[Storage, ...]:
        """How the operands lie in memory."""
        return tuple(STORAGES[name] for name in self.types)


#: Kinds of the kernel's arguments. Tuples of arrays, C-contiguous or all alike: operands, gradients, hessians (size
#: each). Arrays: weights (ceil(size / inner); negative: masked), losses (size), parameters (float64), partial sums
#: (chunks; float64), control (see `fastloss.cpu.native`). Scalars: size, inner, scale, mode.
ARGUMENTS = ("array",) * 8 + ("int", "int", "float", "int")


def moved_all(pointers: Pointers, elements: Lanes) -> Pointers:
    """The addresses some elements further on."""
    return tuple(pointer.moved(elements) for pointer in pointers)


def _step(build: PairBuild, element: ir.Type, lanes: int, *, tail: bool) -> Callable[..., Any]:
    """What happens to one vector of elements, at the end of a chunk to its first ``left`` ones."""

    def weighed(result: Any, weight: Lanes, factor: Lanes | None) -> Lanes:
        result = as_lanes(result, weight, lanes)
        if not build.weighted:
            return result if factor is None else result * factor
        return where(weight < 0.0, 0.0, result * (weight if factor is None else weight * factor))

    def step(
        operands: Pointers, gradients: Pointers, hessians: Pointers, losses: Pointer, weight: Lanes,
        scalars: tuple[Lanes, ...], left: Lanes,
    ) -> Lanes:  # fmt: skip
        scale, *read = scalars
        if build.bypass_cache and not tail:
            for pointer in operands:
                pointer.moved(FETCH_AHEAD).prefetch(lanes)
        end = left if tail else None
        loaded = [pointer.load(element, lanes, end) for pointer in operands]
        value, *others = build.formula(*loaded, *(read if build.fixed is None else build.fixed))
        results = tuple(weighed(result, weight, scale) for result in others)
        grads, hesses = results[: build.predictions], results[build.predictions :]
        for wanted, pointers, numbers in ((build.grad, gradients, grads), (build.hess, hessians, hesses)):
            for pointer, number in zip(pointers, numbers, strict=True):
                if wanted:
                    pointer.store(number, bypass_cache=build.bypass_cache and not tail, left=end)
        value = weighed(value, weight, None)
        if build.losses:
            losses.store(value, bypass_cache=build.bypass_cache and not tail, left=end)
        return first_lanes(value, left) if tail else value

    return step


def kernel(build: PairBuild) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `PairBuild`."""
    pred = build.storages[-1]
    computing = STORAGES[pred.computing]
    element = computing.memory
    lanes = lanes_at_once(element)

    pointers_of, results_of = array_pointers(build.storages), array_pointers((pred,) * build.predictions)
    pointer_computing, pointer_doubles = array_pointer(computing), array_pointer(STORAGES["float64"])
    pointer_control, buffer = array_pointer(STORAGES["int64"]), stack_buffer(computing, lanes)
    step, tail_step = (emit(_step(build, element, lanes, tail=tail)) for tail in (False, True))
    scalars_from = emit(scalars_of(element, 0 if build.fixed is not None else build.parameters))
    load, splat = emit(lambda w: w.load(element, lanes)), emit(lambda w: w.load(element, 0).broadcast(lanes))
    move, move_all, copy, clear, zero = (emit(f) for f in (moved, moved_all, copy_one, cleared(lanes), zero_sum))
    add, finish, put, double = (emit(f) for f in (accumulate, whole_sum, put_number, load_scalar(FLOAT64)))
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    elements_in_chunk = register_jitable(elements_per_chunk)
    weighted, want_value = build.weighted, build.value

    @register_jitable
    def weight_of(w, spare, i, left, inner):
        # The weights of elements i and following; of fewer than a vector by way of a spare one.
        if not weighted:
            return splat(spare)
        group = i // inner
        if i + left <= (group + 1) * inner:
            return splat(move(w, group))
        if inner == 1 and left == lanes:
            return load(move(w, i))
        for k in range(left):
            copy(spare, k, w, (i + k) // inner)
        return load(spare)

    def pairwise(
        operands, gradients, hessians, weights, losses, parameters, partials, control, size, inner, scale, mode
    ):
        given, g, h = pointers_of(operands), results_of(gradients), results_of(hessians)
        w, v, spare = pointer_computing(weights), pointer_computing(losses), buffer()
        scalars = scalars_from(pointer_doubles(parameters), scale)
        sums, claims = pointer_doubles(partials), pointer_control(control)
        clear(spare)  # subnormal numbers on the stack would cost 150 cycles each
        per_chunk = elements_in_chunk(size)
        chunks = (size + per_chunk - 1) // per_chunk
        result = nothing(sums)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            total = zero(sums)
            stop = min(size, (chunk + 1) * per_chunk)
            for i in range(chunk * per_chunk, stop, lanes):
                left = min(stop - i, lanes)
                weight = weight_of(w, spare, i, left, inner)
                at, g_at, h_at, v_at = move_all(given, i), move_all(g, i), move_all(h, i), move(v, i)
                if left == lanes:
                    value = step(at, g_at, h_at, v_at, weight, scalars, left)
                else:
                    value = tail_step(at, g_at, h_at, v_at, weight, scalars, left)
                if want_value:
                    total = add(total, value)
            if mode >= SHARED:
                put(move(sums, chunk), finish(total))
            else:
                result = plus(result, finish(total))
            chunk = claim(claims, mode, chunk, chunks)
        if opened != 0:
            close_job(claims)
        if mode == SHARED:
            for chunk in range(chunks):
                result = plus(result, double(move(sums, chunk)))
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return settled(result)

    return pairwise


def present(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arrays as kernels take them: something stands for one that they do not use."""
    return tuple(ABSENT if array is None else array for array in arrays)


@cache
def _entry(build: PairBuild) -> Callable[..., float]:
    return compiled(kernel(build), ARGUMENTS, repr((*build[1:], fingerprint(build.formula))))


class PairPlan:
    """A compiled kernel and what every call of it passes unchanged."""

    def __init__(self, build: PairBuild, parameters: list[float]) -> None:
        self.build = build
        self.entry = _entry(build)
        self.parameters = np.array(parameters or [0.0])
        self.work = nanoseconds(build.formula) * (2 if build.types[-1] == "float64" else 1) * build.predictions

    def __call__(
        self,
        operands: tuple[Any, ...],
        shape: tuple[int, ...],
        weights: Any,
        inner: int,
        grads: tuple[Any, ...],
        hesses: tuple[Any, ...],
        losses: Any,
        scale: float,
    ) -> float:
        """Run the kernel on arrays of one layout; give the sum of the weighted losses."""
        size = operands[-1].size
        grads, hesses, others = present(grads), present(hesses), present((weights, losses))
        arrays = (operands, grads, hesses, *others, self.parameters)
        return run(self.entry, arrays, (size, inner, scale), -(-size // elements_per_chunk(size)), size * self.work)
