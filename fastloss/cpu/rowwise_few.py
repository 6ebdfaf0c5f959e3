"""The rowwise sweep for few classes: blocks of rows transposed in registers, so that lanes are rows.

A row of ten classes fills a third of a vector, and reducing it costs more than sweeping it: 7 ns an element. Here a
block of 32 (float64: 16) rows is transposed by shuffles (half a cycle an element), every vector holds one class of
all the rows, and no reduction across lanes is left: 1.1 ns an element.

Precision policy: a row's loss and coefficients are in the computing type; sums over a row run in it for `GROUP`
classes and then in float64; losses are summed over rows in float64. The order of summation depends on the shape only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import register_jitable

from .elementwise import (
    accumulate,
    added,
    cleared,
    copy_one,
    empty_sum,
    load_scalar,
    moved,
    put_number,
    sum_of,
    whole_sum,
    zero_sum,
)
from .emit import array_pointer, emit, stack_buffer
from .lanes import FLOAT64, Lanes, as_lanes
from .native import RELEASED, SHARED, claim, close_job, open_job, release_gil, take_gil
from .row_report import places_in_block, writers
from .rowwise import GROUP, RowBuild, RowSteps, load_integer, store_zeros
from .storage import STORAGES, Pointer
from .vector_math import where


def most_classes(computing: str) -> int:
    """Largest number of classes that is transposed; the blocks of more would not fit a thread's stack of 128 KB."""
    return 96 if computing == "float32" else 64


def rows_at_once(computing: str) -> int:
    """Rows in a block."""
    return 32 if computing == "float32" else 16


def rows_per_chunk(classes: int, lanes: int) -> int:
    """Rows per claim of work: about 4096 elements, in whole blocks."""
    return (4096 // max(1, classes) + lanes - 1) // lanes * lanes


def transposed(rows: list[Lanes]) -> list[Lanes]:
    """The transpose of as many vectors as each has lanes (a power of two), by log2 stages of two-input shuffles."""
    count, distance = len(rows), 1
    while distance < count:
        swapped: list[Any] = [None] * count
        for i in (i for i in range(count) if not i & distance):
            low, high = rows[i], rows[i + distance]
            # Swap the bit `distance` of the row number with that of the lane number.
            first = [count + (lane ^ distance) if lane & distance else lane for lane in range(count)]
            second = [count + lane if lane & distance else lane | distance for lane in range(count)]
            swapped[i], swapped[i + distance] = low.shuffle(high, first), low.shuffle(high, second)
        rows, distance = swapped, distance * 2
    return rows


class BlockSteps(RowSteps):
    """The functions on lanes for a block of rows. Blocks lie in scratch as [class][row]."""

    def __init__(self, build: RowBuild, lanes: int) -> None:
        super().__init__(build, lanes)
        self.tile = lanes // 4  # side of a square transposed in registers: 8 float32 or 4 float64, one AVX register

    def block_in(self, source: Pointer, pitch: Lanes, block: Pointer, row: Lanes, column: Lanes) -> None:
        """Transpose one tile of rows in memory into the block."""
        rows = [self._at(source, pitch, row + i, column).load(self.element, self.tile) for i in range(self.tile)]
        for i, vector in enumerate(transposed(rows)):
            block.moved((column + i) * self.lanes + row).store(vector)

    def block_out(self, block: Pointer, target: Pointer, pitch: Lanes, row: Lanes, column: Lanes) -> None:
        """Transpose one tile of the block into rows in memory."""
        columns = [block.moved((column + i) * self.lanes + row).load(self.element, self.tile) for i in range(self.tile)]
        for i, vector in enumerate(transposed(columns)):
            self._at(target, pitch, row + i, column).store(vector)

    @staticmethod
    def _at(pointer: Pointer, pitch: Lanes, row: Lanes, column: Lanes) -> Pointer:
        return pointer.moved(row * pitch + column)

    def block_first(
        self,
        x: Pointer,
        y: Pointer,
        class_weight: Pointer,
        target_x: Pointer,
        target_weight: Pointer,
        parameters: tuple[Lanes, ...],
        running: Lanes,
    ) -> Lanes:
        """Take one class into the first pass."""
        named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
        loaded = self.first_operand(self._element_values(x, y, x, class_weight, named), x)
        return where(loaded > running, loaded, running) if self.formula.first == "peak" else running + loaded

    def block_first_end(self, parameters: tuple[Lanes, ...], running: Lanes) -> Lanes:
        """The first pass's result, as formulas see it."""
        return self.formula.linked_first(running, self.named(parameters, self.element))

    def block_start(self, anchor: Pointer) -> Lanes:
        """Where the first pass starts from."""
        number = float("-inf") if self.formula.first == "peak" else 0.0
        return Lanes(anchor.builder, ir.Constant(self.element, number)).broadcast(self.lanes)

    def _class_weight(self, pointer: Pointer, count: int, left: Lanes | None = None) -> Lanes:
        """One class's weight: lanes are rows."""
        return super()._class_weight(pointer, 0)

    def no_totals(self, anchor: Pointer) -> tuple[Lanes, ...]:
        """Empty row sums: lanes are rows."""
        zero = Lanes(anchor.builder, ir.Constant(FLOAT64, 0.0)).broadcast(self.lanes)
        return (zero,) * self.sum_count

    def block_widen(self, totals: tuple[Lanes, ...], sums: tuple[Lanes, ...]) -> tuple[Lanes, ...]:
        """Move the group sums on to the row sums, in float64."""
        return tuple(total + group.convert(FLOAT64) for total, group in zip(totals, sums, strict=True))

    def block_halfway(
        self,
        parameters: tuple[Lanes, ...],
        first: Lanes,
        totals: tuple[Lanes, ...],
        target_x: Pointer,
        target_weight: Pointer,
    ) -> tuple[Lanes, ...]:
        """Numbers of a block of rows after one round of statistics."""
        values = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
        sums = tuple(total.convert(self.element) for total in totals)
        return tuple(as_lanes(number, first, self.lanes) for number in self.formula.halfway_of(values, first, sums))

    def block_finish(
        self,
        parameters: tuple[Lanes, ...],
        first: Lanes,
        numbers: tuple[Lanes, ...],
        totals_again: tuple[Lanes, ...],
        target_x: Pointer,
        target_weight: Pointer,
        weights: Pointer,
    ) -> tuple[Lanes, ...]:
        """Weighted losses and coefficients of a block of rows."""
        values = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
        if self.formula.again:
            numbers += tuple(total.convert(self.element) for total in totals_again)
        results = self.formula.finish_of(values, first, numbers)
        value, *coefficients = (as_lanes(result, first, self.lanes) for result in results)
        weight = weights.load(self.element, self.lanes)
        return (where(weight < 0.0, 0.0, value * weight), *coefficients)

    def target_values(self, target_x: Any, target_weight: Any, element: ir.Type) -> dict[str, Any]:
        """What formulas may ask for about the true classes, loaded only when asked for."""
        return {
            "target_x": lambda: target_x.load(element, self.lanes),
            "target_weight": lambda: target_weight.load(element, self.lanes),
        }

    def block_element(
        self,
        x: Pointer,
        y: Pointer,
        class_weight: Pointer,
        kept: Pointer,
        first: Lanes,
        finished: tuple[Lanes, ...],
        target_x: Pointer,
        target_weight: Pointer,
        parameters: tuple[Lanes, ...],
        weights: Pointer,
        scale: Lanes,
    ) -> None:
        """Replace one class of the block by its gradient (in x) and Hessian (in kept)."""
        named = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
        values = self._element_values(x, y, kept, class_weight, named)
        slopes = self._slopes(values["raw"], named)
        results = self.formula.rule_of(self.formula.element, values, first, finished[1:], slopes)
        self._write_block(results, x, kept, weights, scale)

    def link_targets(self, parameters: tuple[Lanes, ...], raw: Pointer, target_x: Pointer) -> None:
        """Put what formulas see of the true classes' predictions in their place."""
        target_x.store(self._linked(raw.load(self.element, self.lanes), self.named(parameters, self.element))[0])

    def block_target(
        self,
        raw: Pointer,
        target_x: Pointer,
        target_weight: Pointer,
        g: Pointer,
        h: Pointer,
        first: Lanes,
        finished: tuple[Lanes, ...],
        parameters: tuple[Lanes, ...],
        weights: Pointer,
        scale: Lanes,
    ) -> None:
        """The true classes' gradients and Hessians, one a row."""
        values = self.named(parameters, self.element) | self.target_values(target_x, target_weight, self.element)
        rule = self.formula.target_element
        assert rule is not None
        slopes = self._slopes(lambda: raw.load(self.element, self.lanes), values)
        results = self.formula.rule_of(rule, values, first, finished[1:], slopes)
        self._write_block(results, g, h, weights, scale)

    def _write_block(self, results: Any, g: Pointer, h: Pointer, weights: Pointer, scale: Lanes) -> None:
        weight = weights.load(self.element, self.lanes)
        scales = weight * scale.convert(self.element)
        for wanted, pointer, result in zip((self.build.grad, self.build.hess), (g, h), results, strict=True):
            if wanted:
                pointer.store(where(weight < 0.0, 0.0, as_lanes(result, weight, self.lanes) * scales))


def kernel(build: RowBuild) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `RowBuild`. Same arguments as row by row."""
    formula, indexed, want_grad, want_hess, want_losses = (
        build.formula,
        build.indexed,
        build.grad,
        build.hess,
        build.losses,
    )
    true, pred = STORAGES[build.true], STORAGES[build.pred]
    computing = build.computing
    lanes = rows_at_once(computing.name)
    steps = BlockSteps(build, lanes)
    tile, block_size = steps.tile, (most_classes(computing.name) + steps.tile) * lanes
    has_first, has_statistics, has_again, class_weighted = (
        formula.first is not None,
        formula.statistics is not None,
        formula.again is not None,
        build.class_weighted,
    )

    pointer_true, pointer_pred, pointer_computing = (array_pointer(storage) for storage in (true, pred, computing))
    pointer_doubles, pointer_control = array_pointer(STORAGES["float64"]), array_pointer(STORAGES["int64"])
    put, integer = emit(put_number), emit(load_integer)
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    double, clear = emit(load_scalar(FLOAT64)), emit(cleared(lanes))
    want_value = build.value
    block_buffer, lanes_buffer = stack_buffer(computing, block_size), stack_buffer(computing, lanes)
    rows_true, rows_pred = stack_buffer(true, block_size), stack_buffer(pred, block_size)
    move, copy, zero, add, whole = (emit(f) for f in (moved, copy_one, zero_sum, accumulate, whole_sum))
    zeros = emit(store_zeros(computing.memory, lanes))
    put_lanes = emit(put_number)
    block_in_pred, block_in_true, block_out = (
        emit(steps.block_in),
        emit(steps.block_in),
        emit(steps.block_out),
    )
    parameters_of, block_start, block_first, block_first_end = (
        emit(steps.parameters),
        emit(steps.block_start),
        emit(steps.block_first),
        emit(steps.block_first_end),
    )
    has_link, link_targets = formula.link is not None, emit(steps.link_targets)
    no_sums, no_totals, widen = emit(steps.no_sums), emit(steps.no_totals), emit(steps.block_widen)
    no_totals_again, halfway = emit(steps.no_totals_again), emit(steps.block_halfway)
    finish, element_step, target_step = (
        emit(steps.block_finish),
        emit(steps.block_element),
        emit(steps.block_target),
    )
    rows_in_chunk = register_jitable(rows_per_chunk)
    has_report = formula.report is not None
    if has_report:
        report, find_places, (note, tally) = emit(steps.report), places_in_block(computing.memory, lanes), writers()
        places_buffer = stack_buffer(STORAGES["int32"], lanes)
    if has_statistics:
        statistics_step = emit(steps.statistics_step(tail=False))
    if has_again:
        again_step, no_sums_again = emit(steps.again_step(tail=False)), emit(steps.no_sums_again)

    def rowwise_few(
        target, y_pred, weights, class_weights, gradient, hessian, losses, scratch, parameters, partials, control,
        rows, classes, inner, ignored, has_ignored, pitch, scale, mode,
    ):  # fmt: skip
        y, p, cw = pointer_true(target), pointer_pred(y_pred), pointer_computing(class_weights)
        g, h = pointer_pred(gradient), pointer_pred(hessian)
        x_block, y_block, kept_block = block_buffer(), block_buffer(), block_buffer()
        y_rows, p_rows = rows_true(), rows_pred()
        g_rows, h_rows = p_rows, rows_pred()  # predictions have been read when gradients are written
        target_x, target_weight, row_weights = lanes_buffer(), lanes_buffer(), lanes_buffer()
        target_raw = lanes_buffer() if has_link else target_x
        g_target, h_target, values = lanes_buffer(), lanes_buffer(), lanes_buffer()
        constants = parameters_of(pointer_doubles(parameters))
        w, v = pointer_computing(weights), pointer_computing(losses)
        if has_report:
            found, true_places = places_buffer(), places_buffer()
        sums_of_chunks, claims = pointer_doubles(partials), pointer_control(control)
        last_column = max(classes - tile, 0)
        chunk_rows = rows_in_chunk(classes, lanes)
        chunks = (rows + chunk_rows - 1) // chunk_rows
        result = nothing(sums_of_chunks)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        chunk = claim(claims, mode, -1, chunks)
        while chunk < chunks:
            total = zero(p)
            bad = False
            right, counted = 0, 0
            stop = min(rows, (chunk + 1) * chunk_rows)
            for row in range(chunk * chunk_rows, stop, lanes):
                count = min(stop - row, lanes)
                # A last, incomplete block and rows narrower than a tile are copied, so that tiles may overhang.
                direct = count == lanes and classes >= tile
                if direct:
                    y_from, p_from = y if indexed else move(y, row * classes), move(p, row * classes)
                    g_to, h_to = move(g, row * classes), move(h, row * classes)
                else:
                    for k in range(0, (classes + tile) * lanes, lanes):
                        clear(move(p_rows, k))
                        if not indexed:
                            clear(move(y_rows, k))
                    for k in range(count * classes):
                        copy(p_rows, k, p, row * classes + k)
                        if not indexed:
                            copy(y_rows, k, y, row * classes + k)
                    y_from, p_from, g_to, h_to = y_rows, p_rows, g_rows, h_rows
                for tile_row in range(0, lanes, tile):
                    for start in range(0, classes, tile):
                        column = min(start, last_column)
                        block_in_pred(p_from, classes, x_block, tile_row, column)
                        if not indexed:
                            block_in_true(y_from, classes, y_block, tile_row, column)
                zeros(target_raw), zeros(target_weight)
                for k in range(lanes):
                    weight = -1.0
                    if k < count:
                        weight = double(move(w, (row + k) // inner))
                        if indexed and weight >= 0.0:
                            label = integer(move(y, row + k))
                            if has_ignored != 0 and label == ignored:
                                weight = -1.0
                            elif label < 0 or label >= classes:
                                weight = -1.0
                                bad = True
                            else:
                                copy(target_raw, k, x_block, label * lanes + k)
                                copy(target_weight, k, cw, label if class_weighted else 0)
                    put(move(row_weights, k), weight)
                if has_link:
                    link_targets(constants, target_raw, target_x)
                first = block_start(p)
                if has_first:
                    for j in range(classes):
                        at = j * lanes
                        first = block_first(
                            move(x_block, at), move(y_block, at), move(cw, j), target_x, target_weight, constants, first
                        )
                    first = block_first_end(constants, first)
                totals = no_totals(p)
                if has_statistics:
                    for start in range(0, classes, GROUP):
                        sums = no_sums(p)
                        for j in range(start, min(start + GROUP, classes)):
                            at = j * lanes
                            sums = statistics_step(
                                move(x_block, at), move(y_block, at), move(cw, j), move(kept_block, at), first,
                                target_x, target_weight, constants, sums, lanes,
                            )  # fmt: skip
                        totals = widen(totals, sums)
                numbers = halfway(constants, first, totals, target_x, target_weight)
                totals_again = no_totals_again(p)
                if has_again:
                    for start in range(0, classes, GROUP):
                        sums_again = no_sums_again(p)
                        for j in range(start, min(start + GROUP, classes)):
                            at = j * lanes
                            sums_again = again_step(
                                move(x_block, at), move(y_block, at), move(cw, j), move(kept_block, at), first, numbers,
                                target_x, target_weight, constants, sums_again, lanes,
                            )  # fmt: skip
                        totals_again = widen(totals_again, sums_again)
                finished = finish(constants, first, numbers, totals_again, target_x, target_weight, row_weights)
                if want_value:
                    total = add(total, finished[0])
                if want_losses:
                    put_lanes(values, finished[0])
                    for k in range(count):
                        copy(v, row + k, values, k)
                if has_report:
                    put_lanes(values, report(constants, first, finished))
                    find_places(x_block, classes, found)
                    if not indexed:
                        find_places(y_block, classes, true_places)
                    for k in range(count):
                        if double(move(row_weights, k)) < 0.0:
                            note(v, rows, row + k, 0.0, -1, 0)
                        else:
                            true_place = integer(move(y, row + k) if indexed else move(true_places, k))
                            number, place = double(move(values, k)), integer(move(found, k))
                            right += note(v, rows, row + k, number, place, true_place)
                            counted += 1
                if want_grad or want_hess:
                    for j in range(classes):
                        at = j * lanes
                        element_step(
                            move(x_block, at), move(y_block, at), move(cw, j), move(kept_block, at), first, finished,
                            target_x, target_weight, constants, row_weights, scale,
                        )  # fmt: skip
                    if indexed:
                        target_step(
                            target_raw, target_x, target_weight, g_target, h_target, first, finished, constants,
                            row_weights, scale,
                        )  # fmt: skip
                        for k in range(count):
                            label = integer(move(y, row + k))
                            if label >= 0 and label < classes:
                                if want_grad:
                                    copy(x_block, label * lanes + k, g_target, k)
                                if want_hess:
                                    copy(kept_block, label * lanes + k, h_target, k)
                    for tile_row in range(0, lanes, tile):
                        for start in range(0, classes, tile):
                            column = min(start, last_column)
                            if want_grad:
                                block_out(x_block, g_to, classes, tile_row, column)
                            if want_hess:
                                block_out(kept_block, h_to, classes, tile_row, column)
                    if not direct:
                        for k in range(count * classes):
                            if want_grad:
                                copy(g, row * classes + k, g_rows, k)
                            if want_hess:
                                copy(h, row * classes + k, h_rows, k)
            chunk_sum = math.nan if bad else whole(total)
            if has_report:
                tally(v, rows, right, counted)
            if mode >= SHARED:
                put(move(sums_of_chunks, chunk), chunk_sum)
            else:
                result = plus(result, chunk_sum)
            chunk = claim(claims, mode, chunk, chunks)
        if opened != 0:
            close_job(claims)
        if mode == SHARED:
            for chunk in range(chunks):
                result = plus(result, double(move(sums_of_chunks, chunk)))
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return settled(result)

    return rowwise_few
