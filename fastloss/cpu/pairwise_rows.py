"""The sweep of losses of several predictions, one loss per row: all of them row by row, read from memory once.

A row of each prediction is gone through three times while it lies in the caches: the first pass (the largest of some
terms, or their sums), the statistics, and the element rule that writes the gradients.

Precision policy: that of `fastloss.cpu.rowwise`. Sums over a row run in the computing type for `GROUP` vectors and then
in float64 (those of the first pass at once); a row's loss and coefficients are computed in float64. The order of
summation depends on the shape only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import register_jitable

from ..formula.pairs import PairFormula, results_of
from .cache import compiled, fingerprint
from .elementwise import (
    SUM_LANES,
    accumulate,
    added,
    empty_sum,
    first_lanes,
    load_scalar,
    moved,
    put_number,
    sum_of,
    whole_sum,
    zero_sum,
)
from .emit import array_pointer, array_pointers, emit
from .lanes import FLOAT64, Lanes, as_lanes, lanes_at_once
from .native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from .pairwise import Pointers, moved_all, present
from .rowwise import GROUP, largest, rows_per_chunk
from .run import nanoseconds, run
from .storage import STORAGES, Pointer, Storage
from .vector_math import where

Numbers = tuple[Lanes, ...]


class PairRowBuild(NamedTuple):
    """Everything that one compiled kernel is specialised on."""

    formula: PairFormula
    names: tuple[str, ...]  # of the predictions
    types: tuple[str, ...]  # of the operands: of the target, if there is one, then of the predictions
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    weighted: bool

    @property
    def computing(self) -> Storage:
        """The precision of all arithmetic, of weights and of losses."""
        return STORAGES[self.formula.computing(self.types[-1])]

    @property
    def storages(self) -> tuple[Storage, ...]:
        """How the operands lie in memory."""
        return tuple(STORAGES[name] for name in self.types)


#: Kinds of the kernel's arguments. Tuples of C-contiguous arrays: operands (the target, if there is one: rows;
#: predictions: rows, columns), gradients and hessians (rows, columns). Arrays: row weights (ceil(rows / inner);
#: negative: masked), losses (rows), parameters (float64), partial sums (chunks; float64), control (see
#: `fastloss.cpu.native`). Scalars: rows, columns, inner, scale, mode.
ARGUMENTS = ("array",) * 8 + ("int", "int", "int", "float", "int")


class PairSteps:
    """The functions on lanes that the kernel calls, built for one `PairRowBuild`.

    What is ``known`` of a row grows: parameters and target, the first pass's results, the sums, the coefficients; all
    are float64 scalars, and `names` has their order.
    """

    def __init__(self, build: PairRowBuild, lanes: int) -> None:
        self.build, self.formula, self.lanes = build, build.formula, lanes
        self.element = build.computing.memory
        self.parameters = self.formula.parameters(build.names)
        target = ("y",) if len(build.types) > len(build.names) else ()
        self.names = (*self.parameters, *target, *self.formula.firsts, *self.formula.sums, *self.formula.coefficients)

    def _zero(self, anchor: Pointer) -> Lanes:
        return Lanes(anchor.builder, ir.Constant(self.element, 0.0))

    def _terms(self, piece: Callable[..., Any], rows: Pointers, known: Numbers, left: Lanes | None) -> Numbers:
        """A piece's results for one vector of each prediction, which is loaded only if it is asked for."""
        values: dict[str, Any] = {
            name: (lambda row=row: row.load(self.element, self.lanes, left))
            for name, row in zip(self.build.names, rows, strict=True)
        }
        values |= {name: number.convert(self.element) for name, number in zip(self.names, known, strict=False)}
        return tuple(as_lanes(term, self._zero(rows[0]), self.lanes) for term in results_of(piece, values))

    def _inside(self, terms: Numbers, left: Lanes | None) -> Numbers:
        return terms if left is None else tuple(first_lanes(term, left) for term in terms)

    def given(self, parameters: Pointer, y: Pointer) -> Numbers:
        """The parameters, and the target if there is one."""
        numbers = tuple(parameters.moved(i).load(FLOAT64, 0) for i in range(len(self.parameters)))
        return (*numbers, y.load(FLOAT64, 0)) if "y" in self.names else numbers

    def first_start(self, anchor: Pointer) -> Numbers:
        """Where the first pass starts from."""
        start = self._zero(anchor).broadcast(self.lanes) if self.formula.peaks else zero_sum(anchor)
        return (start,) * len(self.formula.firsts)

    def first_step(self, *, tail: bool) -> Callable[..., Numbers]:
        """A function that takes one vector into the first pass; at a row's end, its first ``left`` elements.

        A NaN does not become a peak: it shows in the statistics.
        """

        def step(rows: Pointers, known: Numbers, running: Numbers, left: Lanes) -> Numbers:
            end = left if tail else None
            terms = self._inside(self._terms(self.formula.first, rows, known, end), end)
            if self.formula.peaks:
                return tuple(where(term > peak, term, peak) for peak, term in zip(running, terms, strict=True))
            return tuple(map(accumulate, running, terms))

        return step

    def first_end(self, known: Numbers, running: Numbers) -> Numbers:
        """What is known after the first pass."""
        return (*known, *((largest(x).convert(FLOAT64) if self.formula.peaks else whole_sum(x)) for x in running))

    def no_sums(self, anchor: Pointer) -> Numbers:
        """Empty group sums."""
        return (self._zero(anchor).broadcast(self.lanes),) * len(self.formula.sums)

    def no_totals(self, anchor: Pointer) -> Numbers:
        """Empty row sums."""
        return (zero_sum(anchor),) * len(self.formula.sums)

    def statistics_step(self, *, tail: bool) -> Callable[..., Numbers]:
        """A function that adds one vector's terms to the group sums; at a row's end its first ``left`` ones'."""

        def step(rows: Pointers, known: Numbers, sums: Numbers, left: Lanes) -> Numbers:
            end = left if tail else None
            terms = self._inside(self._terms(self.formula.statistics, rows, known, end), end)
            return tuple(total + term for total, term in zip(sums, terms, strict=True))

        return step

    def widen(self, totals: Numbers, sums: Numbers) -> Numbers:
        """Move the group sums on to float64."""
        return tuple(map(accumulate, totals, sums))

    def finish(self, known: Numbers, totals: Numbers, weight: Lanes) -> tuple[Lanes, Numbers]:
        """A row's weighted value, and what is known at last."""
        known = (*known, *map(whole_sum, totals))
        results = results_of(self.formula.finish, dict(zip(self.names, known, strict=False)))
        value, *coefficients = (as_lanes(result, weight, 0) for result in results)
        return self._weighed(value, weight, weight), (*known, *coefficients)

    def _weighed(self, result: Lanes, factor: Lanes, weight: Lanes) -> Lanes:
        """A result times a factor; 0 in a masked row, whatever that holds."""
        return where(weight < 0.0, 0.0, result * factor) if self.build.weighted else result * factor

    def element_step(self, *, tail: bool) -> Callable[..., None]:
        """A function that writes one vector of each gradient and Hessian; at a row's end, its first ``left`` ones."""

        def step(
            rows: Pointers, gradients: Pointers, hessians: Pointers, known: Numbers, weight: Lanes, scale: Lanes,
            left: Lanes,
        ) -> None:  # fmt: skip
            end, factor = left if tail else None, (scale * weight).convert(self.element)
            results = self._terms(self.formula.element, rows, known, end)
            wanted = (self.build.grad,) * len(rows) + (self.build.hess,) * len(rows)
            for pointer, result, written in zip((*gradients, *hessians), results, wanted, strict=True):
                if written:
                    pointer.store(self._weighed(result, factor, weight), left=end)

        return step


def lanes_for(columns: int, element: ir.Type) -> int:
    """Fewer for short rows, of which each takes vectors of its own: 8192 triplets of 16 columns 0.84 -> 0.37 ms."""
    return min(lanes_at_once(element), max(SUM_LANES, 1 << (columns - 1).bit_length()))


def kernel(build: PairRowBuild, lanes: int) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `PairRowBuild` and so many lanes."""
    computing, pred, predictions = build.computing, build.storages[-1], len(build.names)
    group = GROUP * lanes
    steps = PairSteps(build, lanes)

    operands_of, results_of = array_pointers(build.storages), array_pointers((pred,) * predictions)
    predictions_of = emit(lambda operands: operands[-predictions:])
    pointer_computing, pointer_doubles = array_pointer(computing), array_pointer(STORAGES["float64"])
    pointer_control = array_pointer(STORAGES["int64"])
    move, move_all, put, double = (emit(f) for f in (moved, moved_all, put_number, load_scalar(FLOAT64)))
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    given_of, no_sums, no_totals = emit(steps.given), emit(steps.no_sums), emit(steps.no_totals)
    first_start, first_end, widen, finish = (
        emit(f) for f in (steps.first_start, steps.first_end, steps.widen, steps.finish)
    )
    first_step, first_tail = (emit(steps.first_step(tail=tail)) for tail in (False, True))
    statistics_step, statistics_tail = (emit(steps.statistics_step(tail=tail)) for tail in (False, True))
    element_step, element_tail = (emit(steps.element_step(tail=tail)) for tail in (False, True))
    rows_in_chunk = register_jitable(rows_per_chunk)
    want_value, want_losses, want_rules = build.value, build.losses, build.grad or build.hess

    def pairwise_rows(
        operands, gradients, hessians, weights, losses, parameters, partials, control, rows, columns, inner, scale, mode
    ):
        arrays = operands_of(operands)
        y, x, g, h = arrays[0], predictions_of(arrays), results_of(gradients), results_of(hessians)
        w, v, numbers = pointer_computing(weights), pointer_computing(losses), pointer_doubles(parameters)
        sums_of_chunks, claims = pointer_doubles(partials), pointer_control(control)
        full = columns // lanes * lanes
        left = columns - full
        chunk_rows = rows_in_chunk(columns * predictions)
        chunks = (rows + chunk_rows - 1) // chunk_rows
        result = nothing(sums_of_chunks)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            total = 0.0
            for row in range(chunk * chunk_rows, min(rows, (chunk + 1) * chunk_rows)):
                weight, at = double(move(w, row // inner)), row * columns
                x_row, g_row, h_row = move_all(x, at), move_all(g, at), move_all(h, at)
                given = given_of(numbers, move(y, row))
                running = first_start(sums_of_chunks)
                for j in range(0, full, lanes):
                    running = first_step(move_all(x_row, j), given, running, left)
                if left > 0:
                    running = first_tail(move_all(x_row, full), given, running, left)
                known = first_end(given, running)
                totals = no_totals(sums_of_chunks)
                for start in range(0, full, group):
                    sums = no_sums(sums_of_chunks)
                    for j in range(start, min(start + group, full), lanes):
                        sums = statistics_step(move_all(x_row, j), known, sums, left)
                    totals = widen(totals, sums)
                if left > 0:
                    sums = statistics_tail(move_all(x_row, full), known, no_sums(sums_of_chunks), left)
                    totals = widen(totals, sums)
                value, finished = finish(known, totals, weight)
                if want_value:
                    total += value
                if want_losses:
                    put(move(v, row), value)
                if want_rules:
                    for j in range(0, full, lanes):
                        x_at, g_at, h_at = move_all(x_row, j), move_all(g_row, j), move_all(h_row, j)
                        element_step(x_at, g_at, h_at, finished, weight, scale, left)
                    if left > 0:
                        x_at, g_at, h_at = move_all(x_row, full), move_all(g_row, full), move_all(h_row, full)
                        element_tail(x_at, g_at, h_at, finished, weight, scale, left)
            if mode >= SHARED:
                put(move(sums_of_chunks, chunk), total)
            else:
                result = plus(result, total)
            chunk = claim(claims, mode, chunk, chunks)
        if opened != 0:
            close_job(claims)
        if mode == SHARED:
            for chunk in range(chunks):
                result = plus(result, double(move(sums_of_chunks, chunk)))
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return settled(result)

    return pairwise_rows


@cache
def _entry(build: PairRowBuild, lanes: int) -> Callable[..., float]:
    formula = build.formula
    pieces = [(name, fingerprint(piece)) for name, piece in formula.pieces.items()]
    return compiled(kernel(build, lanes), ARGUMENTS, repr((lanes, formula.peaks, formula.wide, pieces, *build[1:])))


class PairRowPlan:
    """Compiled kernels, by their lanes, and what every call of them passes unchanged."""

    def __init__(self, build: PairRowBuild, parameters: list[float]) -> None:
        self.build = build
        self.parameters = np.array(parameters or [0.0])
        self.ones = np.ones(1, build.computing.name)
        by_element = (piece for name, piece in build.formula.pieces.items() if name != "finish")
        self.work = sum(map(nanoseconds, by_element)) * (2 if build.computing.name == "float64" else 1)

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
        """Run the kernel on contiguous arrays; give the sum of the weighted losses."""
        rows, columns = math.prod(shape), operands[-1].shape[-1]
        weights, inner = (self.ones, max(rows, 1)) if weights is None else (weights, inner)
        arrays = (operands, present(grads), present(hesses), weights, *present((losses,)), self.parameters)
        chunks = -(-rows // rows_per_chunk(columns * len(self.build.names)))
        entry = _entry(self.build, lanes_for(columns, self.build.computing.memory))
        return run(entry, arrays, (rows, columns, inner, scale), chunks, operands[-1].size * self.work)
