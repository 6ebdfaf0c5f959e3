"""The rowwise sweep, row by row: one loss per row of classes, each row read from memory once.

A row is swept two or three times while it lies in the second-level cache: the first pass (its largest element, or its
sum), the statistics, and the element rule that writes the gradient. What the statistics keep per element (softmax:
its exponential) waits in a scratch row of computing precision. Three passes with the exponential kept beat an online
softmax, which pays a second exponential, by 1.3 to 1.7 times as long as the row fits the cache. A long row's first
pass runs with the statistics of the row before, so that memory and arithmetic work at the same time.

Precision policy: sums over a row run in the computing type for `GROUP` vectors and then in float64; a row's loss and
coefficients are computed in float64. The order of summation depends on the shape only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import register_jitable

from ..formula.rows import RowFormula
from ..formula.wiring import argument_names, call_by_name
from .elementwise import (
    FETCH_AHEAD,
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
from .emit import array_pointer, emit
from .lanes import FLOAT64, INT32, Lanes, as_lanes, lanes_at_once
from .native import NEXT_SCRATCH, RELEASED, SHARED, claim, close_job, fetch_add, open_job, release_gil, take_gil
from .row_report import place_in_row, writers
from .storage import STORAGES, Pointer, Storage
from .vector_math import where

#: Vectors summed in the computing type before their sum moves on to float64: at most 7 roundings more per term.
GROUP = 8
#: Lanes that a link is computed in for one prediction.
LINKED = 4


class RowBuild(NamedTuple):
    """Everything that one compiled rowwise kernel is specialised on."""

    formula: RowFormula
    indexed: bool  # the target is a class number per row, not a value per element
    true: str
    pred: str
    value: bool  # the sum of the losses
    losses: bool  # each loss
    grad: bool
    hess: bool
    class_weighted: bool
    long_rows: bool  # in an array larger than the caches: the next row is read while this one is computed
    bypass_cache: bool

    @property
    def computing(self) -> Storage:
        """The precision of all arithmetic, of weights, losses and scratch."""
        return STORAGES[self.formula.computing(self.pred)]


#: Kinds of the kernel's arguments. Arrays, C-contiguous: labels (rows) or y_true (rows, classes); y_pred (rows,
#: classes); row weights (ceil(rows / inner); negative: masked); class weights (classes); gradient and hessian (rows,
#: classes); losses (rows); scratch (threads, pitch); parameters (float64); partial sums (chunks; float64); control
#: (see `fastloss.cpu.native`). Scalars: rows, classes, inner, ignored label, whether there is one, pitch, scale, mode.
#: A bad label makes the result NaN. With a report there lie after the losses: the reports (rows), and, of int64, where
#: each row's largest prediction is (rows; -1 where the row does not count or its report is NaN), how many of these are
#: the true class, and how many rows count.
ARGUMENTS = ("array",) * 11 + ("int",) * 6 + ("float", "int")


def rows_per_chunk(classes: int) -> int:
    """Rows per claim of work: 64 KB of float32, or one longer row."""
    return max(1, 16384 // max(1, classes))


class RowSteps:
    """The functions on lanes that a rowwise kernel calls, built for one `RowBuild`."""

    def __init__(self, build: RowBuild, lanes: int) -> None:
        self.build, self.lanes = build, lanes
        self.formula = build.formula
        self.element = build.computing.memory
        self.sum_count = max(1, len(self.formula.sums))
        self.sum_count_again = max(1, len(self.formula.sums_again))
        plain_first = bool(self.formula.first) and self.formula.first_of is None
        #: Whether the next row's first pass runs with the statistics of a row.
        self.begins_next = build.long_rows and plain_first and self.formula.statistics is not None
        #: Whether anything is kept for a later pass over the row.
        later = build.grad or build.hess or "kept" in (argument_names(self.formula.again) if self.formula.again else ())
        self.keeps = self.formula.keeps and later

    def parameters(self, pointer: Pointer) -> tuple[Lanes, ...]:
        """The loss's parameters in float64, after them the number of classes and the class weights' sum."""
        return tuple(pointer.moved(i).load(FLOAT64, 0) for i in range(len(self.formula.parameters) + 2))

    def named(self, parameters: tuple[Lanes, ...], element: ir.Type) -> dict[str, Any]:
        """Parameters by name, in one precision."""
        names = (*self.formula.parameters, "classes", "class_weight_sum")
        return {name: value.convert(element) for name, value in zip(names, parameters, strict=True)}

    def _element_values(
        self,
        x: Pointer,
        y: Pointer,
        kept: Pointer,
        class_weight: Pointer,
        named: dict[str, Any],
        left: Lanes | None = None,
    ) -> dict[str, Any]:
        """What formulas may ask for about one vector of elements, loaded only when asked for."""
        return {
            **named,
            "raw": lambda: x.load(self.element, self.lanes, left),
            "x": lambda: self._linked(x.load(self.element, self.lanes, left), named)[0],
            "y": lambda: y.load(self.element, self.lanes, left),
            "kept": lambda: kept.load(self.element, self.lanes),
            "class_weight": lambda: self._class_weight(class_weight, self.lanes, left),
        }

    def _linked(self, x: Lanes, named: dict[str, Any]) -> tuple[Lanes, ...]:
        """What formulas see of predictions and, where there is a link, its derivatives there."""
        return tuple(as_lanes(result, x, x.count) for result in self.formula.linked(x, named))

    def linked(self, parameters: tuple[Lanes, ...], x: Lanes) -> tuple[Lanes, ...]:
        """The same of one prediction, a scalar.

        Through lanes: the library's functions for scalars give other bits, and a peak must equal its element's.
        """
        if self.formula.link is None:
            return (x,)
        lanes = self._linked(x.broadcast(LINKED), self.named(parameters, self.element))
        return tuple(result.lane(0) for result in lanes)

    def _slopes(self, raw: Callable[[], Lanes], named: dict[str, Any]) -> tuple[Lanes, ...]:
        """The link's derivatives at some predictions, if there is one."""
        return self._linked(raw(), named)[1:] if self.formula.link else ()

    def _class_weight(self, pointer: Pointer, count: int, left: Lanes | None = None) -> Lanes:
        if self.build.class_weighted:
            return pointer.load(self.element, count, left)
        return Lanes(pointer.builder, ir.Constant(self.element, 1.0))

    def no_sums(self, anchor: Pointer) -> tuple[Lanes, ...]:
        """Empty group sums."""
        zero = Lanes(anchor.builder, ir.Constant(self.element, 0.0)).broadcast(self.lanes)
        return (zero,) * self.sum_count

    def no_sums_again(self, anchor: Pointer) -> tuple[Lanes, ...]:
        """Those of the second round."""
        return self.no_sums(anchor)[:1] * self.sum_count_again

    def no_totals(self, anchor: Pointer) -> tuple[Lanes, ...]:
        """Empty row sums."""
        return (zero_sum(anchor),) * self.sum_count

    def no_totals_again(self, anchor: Pointer) -> tuple[Lanes, ...]:
        """Those of the second round."""
        return self.no_totals(anchor)[:1] * self.sum_count_again

    def target_values(self, target_x: Any, target_weight: Any, element: ir.Type) -> dict[str, Any]:
        """What formulas may ask for about the true class."""
        return {"target_x": target_x.convert(element), "target_weight": target_weight.convert(element)}

    def first_start(self, anchor: Pointer) -> Lanes:
        """Where the first pass starts from."""
        if self.formula.first != "peak":
            return zero_sum(anchor)
        return Lanes(anchor.builder, ir.Constant(self.element, -math.inf)).broadcast(self.lanes)

    def first_step(self, *, tail: bool) -> Callable[..., Lanes]:
        """A function that takes one vector into the first pass; at a row's end, its first ``left`` elements.

        A NaN does not become the peak: it shows in the statistics. Long rows are fetched well ahead: the processor's
        own prefetcher stops at every page.
        """

        def step(
            x: Pointer,
            y: Pointer,
            class_weight: Pointer,
            target_x: Any,
            target_weight: Any,
            parameters: tuple[Lanes, ...],
            running: Lanes,
            left: Lanes,
        ) -> Lanes:
            if self.build.long_rows and not tail:
                x.moved(FETCH_AHEAD).prefetch(self.lanes)
            named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
            values = self._element_values(x, y, x, class_weight, named, left if tail else None)
            loaded = self.first_operand(values, x)
            if self.formula.first != "peak":
                return accumulate(running, first_lanes(loaded, left) if tail and self.formula.first_of else loaded)
            if tail:
                loaded = where(loaded.numbered() < left.convert(INT32), loaded, -math.inf)
            return where(loaded > running, loaded, running)

        return step

    def first_operand(self, values: dict[str, Any], anchor: Pointer) -> Lanes:
        """What the first pass takes of one vector of elements."""
        if self.formula.first_of is None:
            loaded: Lanes = values["raw"]()
            return loaded
        zero = Lanes(anchor.builder, ir.Constant(self.element, 0.0))
        return as_lanes(call_by_name(self.formula.first_of, values), zero, self.lanes)

    def first_end(self, parameters: tuple[Lanes, ...], running: Lanes) -> Lanes:
        """The first pass's result as a scalar, as formulas see it."""
        if self.formula.first != "peak":
            return whole_sum(running)
        first = largest(running)
        return first if self.formula.first_of else self.linked(parameters, first)[0]

    def fetch_ahead(self, x: Pointer, g: Pointer) -> None:
        """Fetch one vector of the next row and of where this row's gradient goes: 1.6 x at 1,000 classes.

        Not what the next row's first pass reads meanwhile, nor where the gradient bypasses the caches.
        """
        if not self.begins_next:
            x.prefetch(self.lanes)
        if self.build.grad and not self.build.bypass_cache:
            g.prefetch(self.lanes, to_write=True)

    def statistics_step(self, *, tail: bool) -> Callable[..., tuple[Lanes, ...]]:
        """A function that adds one vector's terms to the group sums and keeps what the element rule wants.

        At a row's end only the first ``left`` elements count.
        """

        def step(
            x: Pointer,
            y: Pointer,
            class_weight: Pointer,
            kept: Pointer,
            first: Lanes,
            target_x: Any,
            target_weight: Any,
            parameters: tuple[Lanes, ...],
            sums: tuple[Lanes, ...],
            left: Lanes,
        ) -> tuple[Lanes, ...]:
            named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
            values = self._element_values(x, y, kept, class_weight, named, left if tail else None)
            if self.formula.first:
                values[self.formula.first] = first.convert(self.element)
            terms = self.formula.statistics_of(values)
            if self.keeps:
                kept.store(as_lanes(terms["kept"], sums[0], self.lanes))
            return self._added(self.formula.sums, terms, sums, left if tail else None)

        return step

    def again_step(self, *, tail: bool) -> Callable[..., tuple[Lanes, ...]]:
        """The same for the second round, which keeps nothing."""

        def step(
            x: Pointer,
            y: Pointer,
            class_weight: Pointer,
            kept: Pointer,
            first: Lanes,
            numbers: tuple[Lanes, ...],
            target_x: Any,
            target_weight: Any,
            parameters: tuple[Lanes, ...],
            sums: tuple[Lanes, ...],
            left: Lanes,
        ) -> tuple[Lanes, ...]:
            named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
            values = self._element_values(x, y, kept, class_weight, named, left if tail else None)
            numbers = tuple(number.convert(self.element) for number in numbers)
            terms = self.formula.again_of(values, first.convert(self.element), numbers)
            return self._added(self.formula.sums_again, terms, sums, left if tail else None)

        return step

    def _added(
        self, names: tuple[str, ...], terms: dict[str, Any], sums: tuple[Lanes, ...], left: Lanes | None
    ) -> tuple[Lanes, ...]:
        """Group sums with one vector's terms; at a row's end, with its first ``left`` ones."""
        lanes = [as_lanes(terms[name], running, self.lanes) for name, running in zip(names, sums, strict=False)]
        if left is not None:
            lanes = [first_lanes(term, left) for term in lanes]
        return tuple(running + term for running, term in zip(sums, lanes, strict=True)) if names else sums

    def widen(self, totals: tuple[Lanes, ...], sums: tuple[Lanes, ...]) -> tuple[Lanes, ...]:
        """Move the group sums on to float64."""
        return tuple(accumulate(total, group) for total, group in zip(totals, sums, strict=True))

    def halfway(
        self,
        parameters: tuple[Lanes, ...],
        first: Lanes,
        totals: tuple[Lanes, ...],
        target_x: Lanes,
        target_weight: Lanes,
    ) -> tuple[Lanes, ...]:
        """A row's numbers after one round of statistics, in float64."""
        values = self.named(parameters, FLOAT64) | self.target_values(target_x, target_weight, FLOAT64)
        sums = tuple(whole_sum(total) for total in totals)
        numbers = self.formula.halfway_of(values, first.convert(FLOAT64), sums)
        return tuple(as_lanes(number, first.convert(FLOAT64), 0) for number in numbers)

    def finish(
        self,
        parameters: tuple[Lanes, ...],
        first: Lanes,
        numbers: tuple[Lanes, ...],
        totals_again: tuple[Lanes, ...],
        target_x: Lanes,
        target_weight: Lanes,
    ) -> tuple[Lanes, ...]:
        """A row's value and coefficients, in float64."""
        values = self.named(parameters, FLOAT64) | self.target_values(target_x, target_weight, FLOAT64)
        if self.formula.again:
            numbers += tuple(whole_sum(total) for total in totals_again)
        results = self.formula.finish_of(values, first.convert(FLOAT64), numbers)
        return tuple(as_lanes(result, first.convert(FLOAT64), 0) for result in results)

    def true_class(
        self,
        target_weight: Lanes,
        first: Lanes,
        target: tuple[Lanes, ...],
        finished: tuple[Lanes, ...],
        parameters: tuple[Lanes, ...],
        scale: Lanes,
    ) -> tuple[Lanes, Lanes]:
        """The true class's gradient and Hessian, scaled, in the computing type; ``target`` is what `linked` gives."""
        values = self.named(parameters, FLOAT64) | self.target_values(target[0], target_weight, FLOAT64)
        slopes = tuple(slope.convert(FLOAT64) for slope in target[1:])
        rule = self.formula.target_element
        assert rule is not None
        results = self.formula.rule_of(rule, values, first.convert(FLOAT64), finished[1:], slopes)
        grad, hess = ((as_lanes(result, scale, 0) * scale).convert(self.element) for result in results)
        return grad, hess

    def report(self, parameters: tuple[Lanes, ...], first: Lanes, finished: tuple[Lanes, ...]) -> Lanes:
        """The number of the row that is given back, in the precision of its coefficients."""
        first = first.convert(finished[0].element)
        number = self.formula.report_of(self.named(parameters, first.element), first, finished[1:])
        return as_lanes(number, first, first.count)

    def no_class(self, anchor: Pointer) -> tuple[Lanes, Lanes]:
        """What stands for it where targets are dense."""
        zero = Lanes(anchor.builder, ir.Constant(self.element, 0.0))
        return zero, zero

    def element_step(self, *, target: bool, tail: bool) -> Callable[..., None]:
        """A function that writes one vector of gradient and Hessian; at a row's end, its first ``left`` elements.

        With ``target``, lane ``label`` may be the true class: put in before it is written, not over what was.
        """

        def step(
            x: Pointer,
            y: Pointer,
            class_weight: Pointer,
            kept: Pointer,
            g: Pointer,
            h: Pointer,
            first: Lanes,
            finished: tuple[Lanes, ...],
            target_x: Lanes,
            target_weight: Lanes,
            parameters: tuple[Lanes, ...],
            scale: Lanes,
            true_class: tuple[Lanes, Lanes],
            label: Lanes,
            left: Lanes,
        ) -> None:
            end = left if tail else None
            named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
            values = self._element_values(x, y, kept, class_weight, named, end)
            coefficients = tuple(value.convert(self.element) for value in finished[1:])
            slopes = self._slopes(values["raw"], named)
            rule = self.formula.rule_of(self.formula.element, values, first.convert(self.element), coefficients, slopes)
            factor = scale.convert(self.element)
            results = tuple(as_lanes(result, factor, self.lanes) * factor for result in rule)
            if target:
                results = self._with_target(results, true_class, label)
            for wanted, pointer, result in zip((self.build.grad, self.build.hess), (g, h), results, strict=True):
                if wanted:
                    pointer.store(result, bypass_cache=self.build.bypass_cache and not tail, left=end)

        return step

    def _with_target(
        self, results: tuple[Lanes, ...], true_class: tuple[Lanes, Lanes], label: Lanes
    ) -> tuple[Lanes, ...]:
        here = (label >= 0) & (label < self.lanes)
        is_target = results[0].numbered() == where(here, label, -1).convert(INT32)
        return tuple(where(is_target, own, other) for own, other in zip(true_class, results, strict=True))


def largest(running: Lanes) -> Lanes:
    """The largest of some lanes, as a scalar."""
    while running.count > 1:
        half = running.count // 2
        low, high = running.part(0, half), running.part(half, half)
        running = where(high > low, high, low)
    return running.lane(0)


def load_integer(pointer: Pointer) -> Lanes:
    """Read one integer as int64."""
    return pointer.load_integer()


def store_zeros(element: ir.Type, count: int) -> Callable[[Pointer], None]:
    """A function that writes some zeros."""

    def store(pointer: Pointer) -> None:
        pointer.store(Lanes(pointer.builder, ir.Constant(element, 0.0)).broadcast(count))

    return store


def kernel(build: RowBuild) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `RowBuild`."""
    formula, indexed, want_grad, want_hess, want_losses = (
        build.formula,
        build.indexed,
        build.grad,
        build.hess,
        build.losses,
    )
    true, pred = STORAGES[build.true], STORAGES[build.pred]
    computing = build.computing
    lanes = lanes_at_once(computing.memory)
    group = GROUP * lanes
    steps = RowSteps(build, lanes)
    has_first, has_statistics = formula.first is not None, formula.statistics is not None
    has_again = formula.again is not None
    begins_next = steps.begins_next
    class_weighted = build.class_weighted

    pointer_true, pointer_pred, pointer_computing = (array_pointer(storage) for storage in (true, pred, computing))
    pointer_doubles, pointer_control = array_pointer(STORAGES["float64"]), array_pointer(STORAGES["int64"])
    put, integer = emit(put_number), emit(load_integer)
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    double = emit(load_scalar(FLOAT64))
    want_value = build.value
    move, scalar = emit(moved), emit(load_scalar(computing.memory))
    zeros, one_zero = emit(store_zeros(computing.memory, lanes)), emit(store_zeros(computing.memory, 0))
    parameters_of, no_sums, widen = (emit(f) for f in (steps.parameters, steps.no_sums, steps.widen))
    first_start, first_end, finish = (emit(f) for f in (steps.first_start, steps.first_end, steps.finish))
    linked, seen = emit(steps.linked), emit(lambda prediction: prediction[0])
    first_step, first_tail = (emit(steps.first_step(tail=tail)) for tail in (False, True))
    element_step = emit(steps.element_step(target=False, tail=False))
    element_tail = emit(steps.element_step(target=indexed, tail=True))
    no_totals, no_totals_again, halfway = (emit(f) for f in (steps.no_totals, steps.no_totals_again, steps.halfway))
    rows_in_chunk = register_jitable(rows_per_chunk)
    has_report = formula.report is not None
    if has_report:
        report, place_of, (note, tally) = emit(steps.report), place_in_row(computing.memory, lanes), writers()
    if has_statistics:
        statistics_step, statistics_tail = (emit(steps.statistics_step(tail=tail)) for tail in (False, True))
        fetch_ahead = emit(steps.fetch_ahead)
    if has_again:
        again_step, again_tail = (emit(steps.again_step(tail=tail)) for tail in (False, True))
        no_sums_again = emit(steps.no_sums_again)
    if indexed:
        element_target = emit(steps.element_step(target=True, tail=False))
        true_class = emit(steps.true_class)
    else:
        no_class = emit(steps.no_class)

    @register_jitable
    def weight_and_label(weights, labels, row, classes, inner, ignored, has_ignored):
        # The weight is negative if the row is masked or ignored, the label if it is bad (0 where none counts).
        weight = double(move(weights, row // inner))
        if not indexed or weight < 0.0:
            return weight, 0
        label = integer(move(labels, row))
        if has_ignored != 0 and label == ignored:
            return -1.0, 0
        return weight, label if 0 <= label < classes else -1

    def rowwise(
        target, y_pred, weights, class_weights, gradient, hessian, losses, scratch, parameters, partials, control,
        rows, classes, inner, ignored, has_ignored, pitch, scale, mode,
    ):  # fmt: skip
        y, p, cw = pointer_true(target), pointer_pred(y_pred), pointer_computing(class_weights)
        g, h = pointer_pred(gradient), pointer_pred(hessian)
        constants = parameters_of(pointer_doubles(parameters))
        w, v = pointer_computing(weights), pointer_computing(losses)
        sums_of_chunks, claims = pointer_doubles(partials), pointer_control(control)
        full = classes // lanes * lanes
        left = classes - full
        chunk_rows = rows_in_chunk(classes)
        chunks = (rows + chunk_rows - 1) // chunk_rows
        result = nothing(sums_of_chunks)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        slot = fetch_add(claims, NEXT_SCRATCH, 1) if mode >= SHARED else 0
        kept = move(pointer_computing(scratch), slot * pitch)
        running, row_ahead = first_start(p), -1  # the first pass, but for its end, of a row whose turn comes
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            total = 0.0
            right, counted = 0, 0
            next_chunk = -1
            last_row = min(rows, (chunk + 1) * chunk_rows) - 1
            for row in range(chunk * chunk_rows, last_row + 1):
                weight, label = weight_and_label(w, y, row, classes, inner, ignored, has_ignored)
                x_row, g_row, h_row = move(p, row * classes), move(g, row * classes), move(h, row * classes)
                y_row = y if indexed else move(y, row * classes)
                if weight < 0.0 or label < 0:
                    if label < 0:
                        total = math.nan
                    for j in range(0, full, lanes):
                        if want_grad:
                            zeros(move(g_row, j))
                        if want_hess:
                            zeros(move(h_row, j))
                    for j in range(full, classes):
                        if want_grad:
                            one_zero(move(g_row, j))
                        if want_hess:
                            one_zero(move(h_row, j))
                    if want_losses:
                        put(move(v, row), 0.0)
                    if has_report:
                        note(v, rows, row, 0.0, -1, 0)
                    continue
                target = linked(constants, scalar(move(x_row, label)) if indexed else scalar(p))
                target_x = seen(target)
                target_weight = scalar(move(cw, label)) if class_weighted else scalar(cw)
                first = 0.0
                if has_first:
                    if row_ahead != row:
                        running = first_start(p)
                        for j in range(0, full, lanes):
                            running = first_step(
                                move(x_row, j), move(y_row, j), move(cw, j), target_x, target_weight, constants,
                                running, left,
                            )  # fmt: skip
                    if left > 0:
                        running = first_tail(
                            move(x_row, full), move(y_row, full), move(cw, full), target_x, target_weight, constants,
                            running, left,
                        )  # fmt: skip
                    first = first_end(constants, running)
                x_next = x_row
                if begins_next:
                    row_ahead = row + 1
                    if row == last_row:
                        next_chunk = claim(claims, mode, chunk, chunks)
                        row_ahead = next_chunk * chunk_rows
                    if row_ahead < rows:
                        next_weight, next_label = weight_and_label(
                            w, y, row_ahead, classes, inner, ignored, has_ignored
                        )
                        if next_weight < 0.0 or next_label < 0:
                            row_ahead = rows
                    running = first_start(p)
                    x_next = move(p, row_ahead * classes)
                totals = no_totals(p)
                if has_statistics:
                    for start in range(0, full, group):
                        sums = no_sums(p)
                        for j in range(start, min(start + group, full), lanes):
                            if begins_next and row_ahead < rows:  # which reads nothing but x
                                running = first_step(
                                    move(x_next, j), y_row, cw, target_x, target_weight, constants, running, left
                                )
                            fetch_ahead(move(x_row, j + classes), move(g_row, j))
                            sums = statistics_step(
                                move(x_row, j), move(y_row, j), move(cw, j), move(kept, j), first, target_x,
                                target_weight, constants, sums, left,
                            )  # fmt: skip
                        totals = widen(totals, sums)
                    if left > 0:
                        sums = no_sums(p)
                        sums = statistics_tail(
                            move(x_row, full), move(y_row, full), move(cw, full), move(kept, full), first, target_x,
                            target_weight, constants, sums, left,
                        )  # fmt: skip
                        totals = widen(totals, sums)
                numbers = halfway(constants, first, totals, target_x, target_weight)
                totals_again = no_totals_again(p)
                if has_again:
                    for start in range(0, full, group):
                        sums_again = no_sums_again(p)
                        for j in range(start, min(start + group, full), lanes):
                            sums_again = again_step(
                                move(x_row, j), move(y_row, j), move(cw, j), move(kept, j), first, numbers, target_x,
                                target_weight, constants, sums_again, left,
                            )  # fmt: skip
                        totals_again = widen(totals_again, sums_again)
                    if left > 0:
                        sums_again = no_sums_again(p)
                        sums_again = again_tail(
                            move(x_row, full), move(y_row, full), move(cw, full), move(kept, full), first, numbers,
                            target_x, target_weight, constants, sums_again, left,
                        )  # fmt: skip
                        totals_again = widen(totals_again, sums_again)
                finished = finish(constants, first, numbers, totals_again, target_x, target_weight)
                value = finished[0] * weight
                if want_value:
                    total += value
                if want_losses:
                    put(move(v, row), value)
                if has_report:
                    true_place = label if indexed else place_of(y_row, full, left)
                    number = report(constants, first, finished)
                    right += note(v, rows, row, number, place_of(x_row, full, left), true_place)
                    counted += 1
                if want_grad or want_hess:
                    row_scale = scale * weight
                    if indexed:
                        own = true_class(target_weight, first, target, finished, constants, row_scale)
                    else:
                        own = no_class(p)
                    for j in range(0, full, lanes):
                        if indexed and j <= label < j + lanes:
                            element_target(
                                move(x_row, j), y, move(cw, j), move(kept, j), move(g_row, j), move(h_row, j),
                                first, finished, target_x, target_weight, constants, row_scale, own, label - j, left,
                            )  # fmt: skip
                        else:
                            element_step(
                                move(x_row, j), move(y_row, j), move(cw, j), move(kept, j), move(g_row, j),
                                move(h_row, j), first, finished, target_x, target_weight, constants, row_scale, own,
                                label - j, left,
                            )  # fmt: skip
                    if left > 0:
                        element_tail(
                            move(x_row, full), move(y_row, full), move(cw, full), move(kept, full),
                            move(g_row, full), move(h_row, full), first, finished, target_x, target_weight, constants,
                            row_scale, own, label - full, left,
                        )  # fmt: skip
            if has_report:
                tally(v, rows, right, counted)
            if mode >= SHARED:
                put(move(sums_of_chunks, chunk), total)
            else:
                result = plus(result, total)
            if next_chunk < 0:
                next_chunk = claim(claims, mode, chunk, chunks)
            chunk = next_chunk
        if opened != 0:
            close_job(claims)
        if mode == SHARED:
            for chunk in range(chunks):
                result = plus(result, double(move(sums_of_chunks, chunk)))
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return settled(result)

    return rowwise
