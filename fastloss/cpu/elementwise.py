"""The elementwise sweep: one loss per element, one pass over memory.

Precision policy: arithmetic in the computing type (float32 for float16, bfloat16 and float32; float64 for float64);
losses are summed in float64 (of 2-byte predictions four by four in float32 before), lane by lane, chunk by chunk, in
an order that depends on the call only (number of elements, types, weights): the same bits for any number of threads
and any vector width of the machine. Gradients are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import register_jitable

from .cache import compiled, fingerprint
from .emit import array_pointer, emit, stack_buffer
from .lanes import FLOAT64, INT32, Lanes, as_lanes, lanes_at_once, vector_of
from .native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from .quick import fits
from .run import ABSENT, QUICK_UP_TO, nanoseconds, run
from .storage import STORAGES, Pointer, Storage
from .vector_math import fma, where

#: Elements per claim of work: 32 KB of float32 where helpers should have something to do soon; more where the arrays
#: come from memory, whose prefetchers like long runs (1e7 elements, mean squared error 0.38 -> 0.32 ns an element).
CHUNK, LONG_CHUNK, LONG_FROM = 8192, 32768, 1 << 20
#: Elements between what is computed and what is fetched from memory, where results bypass the caches: mean squared
#: error 0.33 -> 0.29 ns an element, binary cross-entropy 0.42 -> 0.36; within the caches it costs more than it gains.
FETCH_AHEAD = 1024
#: Float64 lanes of the running sum.
SUM_LANES = 8


def elements_per_chunk(size: int) -> int:
    """Elements per claim of work; a function of the size only, as the order of the sum depends on it."""
    return CHUNK if size < LONG_FROM else LONG_CHUNK


class Build(NamedTuple):
    """Everything that one compiled elementwise kernel is specialised on."""

    formula: Callable[..., Any]
    fixed: tuple[float, ...] | None  # the parameters, where they are the defaults; None: read at run time
    parameters: int
    true: str
    pred: str
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    weighted: bool
    bypass_cache: bool

    @property
    def in_pairs(self) -> bool:
        """Whether lanes hold even-numbered elements first, then odd ones (see `Pointer.load_pairs`).

        Only where bfloat16 goes in and out: mean squared error of 1e5 elements 28 -> 21 us.
        """
        return self.true == self.pred == "bfloat16" and not (self.weighted or self.losses)


#: Kinds of the kernel's arguments. Arrays, C-contiguous or all alike: y_true (size), y_pred (size), weights
#: (ceil(size / inner); negative: masked), gradient (size), hessian (size), losses (size), parameters (float64),
#: partial sums (chunks; float64), control (see `fastloss.cpu.native`). Scalars: size, inner, scale, mode.
ARGUMENTS = ("array",) * 9 + ("int", "int", "float", "int")


def _step(build: Build, element: Any, lanes: int) -> Callable[..., Any]:
    """What happens to one vector of elements: load, evaluate, weigh, store."""

    def step(
        y: Pointer, p: Pointer, weight: Lanes, g: Pointer, h: Pointer, v: Pointer, scalars: tuple[Lanes, ...]
    ) -> Lanes:
        scale, *read = scalars
        if build.bypass_cache:
            y.moved(FETCH_AHEAD).prefetch(lanes)
            p.moved(FETCH_AHEAD).prefetch(lanes)
        parameters = build.fixed if build.fixed is not None else read
        operands = (a.load_pairs(lanes) if build.in_pairs else a.load(element, lanes) for a in (y, p))
        value, grad, hess = build.formula(*operands, *parameters)

        def weighed(x: Any, factor: Any) -> Lanes:
            x = as_lanes(x, weight, lanes)
            if not build.weighted:
                return x if factor is None else x * factor
            product = weight if factor is None else weight * factor
            return where(weight < 0.0, 0.0, x * product)

        for wanted, pointer, result in ((build.grad, g, grad), (build.hess, h, hess)):
            if wanted and build.in_pairs:
                pointer.store_pairs(weighed(result, scale), bypass_cache=build.bypass_cache)
            elif wanted:
                pointer.store(weighed(result, scale), bypass_cache=build.bypass_cache)
        value = weighed(value, None)
        if build.losses:
            v.store(value, bypass_cache=build.bypass_cache)
        return value

    return step


def accumulate(total: Lanes, value: Lanes) -> Lanes:
    """Add the lanes of ``value`` to a running sum in float64."""
    return total + value.convert(FLOAT64).halves_added(total.count)


def accumulate_narrow(total: Lanes, value: Lanes) -> Lanes:
    """The same for losses of 2-byte predictions: four by four in float32 before.

    As quarters, so that finite losses do not overflow. 12 instructions for 64 losses instead of 28: mean squared error
    of 1e5 float16 elements 19 -> 14 us.
    """
    half = value.count // 2
    quarters = fma(value.part(0, half), 0.25, value.part(half, half) * 0.25).halves_added(half // 2)
    return fma(quarters.convert(FLOAT64).halves_added(total.count), 4.0, total)


def zero_sum(anchor: Pointer) -> Lanes:
    """An empty running sum."""
    return Lanes(anchor.builder, ir.Constant(FLOAT64, 0.0)).broadcast(SUM_LANES)


def whole_sum(total: Lanes) -> Lanes:
    """The running sum's lanes added up, as a scalar."""
    return total.halves_added(1).lane(0)


def empty_sum(anchor: Pointer) -> tuple[Lanes, Lanes]:
    """A scalar sum of nothing, and what rounding has left out of it."""
    zero = Lanes(anchor.builder, ir.Constant(FLOAT64, 0.0))
    return zero, zero


def added(result: tuple[Lanes, Lanes], number: Lanes) -> tuple[Lanes, Lanes]:
    """Add a chunk's sum, keeping what rounding leaves out (Knuth's two-sum), so that no number of chunks matters."""
    total, left_out = result
    together = total + number
    share = together - total
    return together, left_out + ((total - (together - share)) + (number - share))


def sum_of(result: tuple[Lanes, Lanes]) -> Lanes:
    """The sum as one number; infinities and NaN as they are."""
    total, left_out = result
    return where(abs(left_out) < math.inf, total + left_out, total)


def load_scalar(element: ir.Type) -> Callable[[Pointer], Lanes]:
    """A function that reads one number into the computing type."""
    return lambda pointer: pointer.load(element, 0)


def first_lanes(value: Lanes, count: Lanes) -> Lanes:
    """``value`` with every lane from ``count`` on set to zero."""
    return where(value.numbered() < count.convert(INT32), value, 0.0)


def first_elements(value: Lanes, count: Lanes) -> Lanes:
    """The same for lanes that hold even-numbered elements first, then odd ones."""
    even = value.numbered() << 1
    elements = where(even < value.count, even, even - (value.count - 1))
    return where(elements < count.convert(INT32), value, 0.0)


def moved(pointer: Pointer, elements: Lanes) -> Pointer:
    """The address some elements further on."""
    return pointer.moved(elements)


def copy_one(target: Pointer, to: Lanes, source: Pointer, start: Lanes) -> None:
    """Copy one element as it lies in memory."""
    raw = source.builder.load(source.moved(start).value, typ=source.storage.memory)
    target.builder.store(raw, target.moved(to).value)


def cleared(count: int) -> Callable[[Pointer], None]:
    """A function that zeroes some elements, whatever their type."""

    def clear(pointer: Pointer) -> None:
        memory = vector_of(pointer.storage.memory, count)
        zeros = ir.Constant(memory, None)
        address = pointer.builder.bitcast(pointer.value, memory.as_pointer())
        pointer.builder.store(zeros, address, align=pointer.storage.size)

    return clear


def put_number(pointer: Pointer, number: Lanes) -> None:
    """Write one number, rounded to the type in memory."""
    pointer.store(number)


def scalars_of(element: Any, count: int) -> Callable[..., Any]:
    """A function that reads ``count`` float64 parameters and puts the gradient's scale before them."""

    def scalars(parameters: Pointer, scale: Lanes) -> tuple[Lanes, ...]:
        loaded = tuple(parameters.moved(i).load(element, 0) for i in range(count))
        return (scale.convert(element), *loaded)

    return scalars


def kernel(build: Build) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `Build`."""
    true, pred = STORAGES[build.true], STORAGES[build.pred]
    computing: Storage = STORAGES[pred.computing]
    element = computing.memory
    lanes = lanes_at_once(element)

    pointer_true, pointer_pred = array_pointer(true), array_pointer(pred)
    pointer_computing, pointer_doubles = array_pointer(computing), array_pointer(STORAGES["float64"])
    pointer_control = array_pointer(STORAGES["int64"])
    buffer_true, buffer_pred = stack_buffer(true, lanes), stack_buffer(pred, lanes)
    buffer_computing = stack_buffer(computing, lanes)
    step, scalars_from = (
        emit(_step(build, element, lanes)),
        emit(scalars_of(element, 0 if build.fixed is not None else build.parameters)),
    )
    load_weights = emit(lambda w: w.load(element, lanes))
    splat_weight = emit(lambda w: w.load(element, 0).broadcast(lanes))
    move, copy, zero, add, finish, keep = (
        emit(f)
        for f in (
            moved,
            copy_one,
            zero_sum,
            accumulate_narrow if pred.size == 2 else accumulate,
            whole_sum,
            first_elements if build.in_pairs else first_lanes,
        )
    )
    clear_true, clear_pred, clear_computing = emit(cleared(lanes)), emit(cleared(lanes)), emit(cleared(lanes))
    put, double = emit(put_number), emit(load_scalar(FLOAT64))
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    elements_in_chunk = register_jitable(elements_per_chunk)
    weighted, want_grad, want_hess, want_losses = build.weighted, build.grad, build.hess, build.losses
    want_value = build.value

    def elementwise(
        y_true,
        y_pred,
        weights,
        gradient,
        hessian,
        losses,
        parameters,
        partials,
        control,
        size,
        inner,
        scale,
        mode,
    ):
        y, p, w = pointer_true(y_true), pointer_pred(y_pred), pointer_computing(weights)
        g, h, v = pointer_pred(gradient), pointer_pred(hessian), pointer_computing(losses)
        y_tail, p_tail, w_tail = buffer_true(), buffer_pred(), buffer_computing()
        g_tail, h_tail, v_tail = buffer_pred(), buffer_pred(), buffer_computing()
        scalars = scalars_from(pointer_doubles(parameters), scale)
        sums, claims = pointer_doubles(partials), pointer_control(control)
        # Whatever lies on the stack would be computed on too, and subnormal numbers cost 150 cycles each.
        clear_true(y_tail), clear_pred(p_tail), clear_computing(w_tail)
        per_chunk = elements_in_chunk(size)
        chunks = (size + per_chunk - 1) // per_chunk
        result = nothing(sums)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            stop = min(size, (chunk + 1) * per_chunk)
            total = zero(y)
            for i in range(chunk * per_chunk, stop, lanes):
                left = min(stop - i, lanes)
                if left == lanes:
                    y_at, p_at = move(y, i), move(p, i)
                    g_at, h_at, v_at = move(g, i), move(h, i), move(v, i)
                else:
                    for k in range(left):
                        copy(y_tail, k, y, i + k)
                        copy(p_tail, k, p, i + k)
                    y_at, p_at, g_at, h_at, v_at = y_tail, p_tail, g_tail, h_tail, v_tail
                if weighted:
                    row = i // inner
                    if inner == 1 and left == lanes:
                        weight = load_weights(move(w, i))
                    elif i + left <= (row + 1) * inner:
                        weight = splat_weight(move(w, row))
                    else:
                        for k in range(left):
                            copy(w_tail, k, w, (i + k) // inner)
                        weight = load_weights(w_tail)
                else:
                    weight = splat_weight(w_tail)
                value = step(y_at, p_at, weight, g_at, h_at, v_at, scalars)
                if left < lanes:
                    value = keep(value, left)
                    for k in range(left):
                        if want_grad:
                            copy(g, i + k, g_tail, k)
                        if want_hess:
                            copy(h, i + k, h_tail, k)
                        if want_losses:
                            copy(v, i + k, v_tail, k)
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

    return elementwise


@cache
def _entry(build: Build) -> Callable[..., float]:
    key = repr((*build[1:], fingerprint(build.formula)))
    return compiled(kernel(build), ARGUMENTS, key)


class Plan:
    """A compiled kernel and what every call of it passes unchanged."""

    def __init__(self, build: Build, parameters: list[float]) -> None:
        self.build = build
        self.entry = _entry(build)
        self.parameters = np.array(parameters or [0.0])
        self.work = nanoseconds(build.formula) * (2 if build.pred == "float64" else 1)

    def __call__(
        self, y: Any, p: Any, weights: Any, inner: int, grad: Any, hess: Any, losses: Any, scale: float
    ) -> float:
        """Run the kernel on arrays of one layout; give the sum of the weighted losses."""
        size = p.size
        arrays = (y, p, *(ABSENT if a is None else a for a in (weights, grad, hess, losses)), self.parameters)
        return run(self.entry, arrays, (size, inner, scale), -(-size // elements_per_chunk(size)), size * self.work)

    def quick(self, y: Any, p: Any, is_sum: bool) -> Callable[..., Any] | None:
        """A function of (y_true, y_pred, out) for small arrays like these; it gives None for others."""
        if y.dtype.itemsize != STORAGES[self.build.true].size:
            return None  # a rare integer type, which the general way widens
        fits_like, entry, parameters, work = fits(), self.entry, self.parameters, self.work
        like_true, like_pred = np.empty(0, y.dtype), np.empty(0, p.dtype)
        true_bytes, pred_bytes = y.dtype.itemsize, p.dtype.itemsize

        def small(y_true: Any, y_pred: Any, out: Any) -> tuple[float, Any] | None:
            if out is None:
                if type(y_pred) is not np.ndarray or y_pred.size > QUICK_UP_TO:
                    return None
                out = np.empty_like(y_pred)
            size = fits_like(y_true, y_pred, out, like_true, like_pred, true_bytes, pred_bytes, 0, QUICK_UP_TO)
            if not size:
                return None
            count = 1.0 if is_sum else float(size)
            arrays = (y_true, y_pred, ABSENT, out, ABSENT, ABSENT, parameters)
            total = run(entry, arrays, (size, 1, 1.0 / count), -(-size // elements_per_chunk(size)), size * work)
            return total / count, out

        return small
