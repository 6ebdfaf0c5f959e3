"""The sequence sweep: connectionist temporal classification, a sequence a chunk of work.

Forward over the frames: the sums of a frame's softmax, the likelihoods of its states' classes relative to the largest,
and how likely every beginning is that ends in a state. Backward: how likely every ending is, with that the occupancy
of each class, and the frame's gradient. `fastloss.formula.alignments` says the same in NumPy.

States come in pairs, a blank and the class after it, so that one shift of lanes brings all neighbours, and the blank's
emission is one number a frame. Likelihoods are `fastloss.cpu.wide` numbers: exact to some roundings a frame however
long the sequence and however unlikely the label, without exp or log but for a frame's own.

Precision policy: float64, whatever y_pred is, but for classes that are not in the label, and the sums of a softmax,
whose exponentials are float32 where y_pred is not float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.extending import register_jitable

from ..formula.softmax import at_peak, below_peak, exponential
from ..formula.wiring import call_by_name
from . import wide
from .cache import compiled, fingerprint
from .elementwise import (
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
from .pool import pool
from .run import ABSENT, run
from .storage import STORAGES, Pointer
from .vector_math import where

#: Pairs of states at once, on every machine: the order of sums depends on it. As `wide` numbers two AVX-512 registers.
PAIRS = 8
#: Parts of a row of pairs, each as wide as the row: mantissas and exponents of the likelihoods up to here of blanks and
#: of classes, and of the classes' emissions.
BLANKS, CLASSES, EMISSIONS, ROW = 0, 2, 4, 6
#: What is kept of each frame: the largest logit, the sum of the others' exponentials, the blank's emission.
PEAK, REST, BLANK, FRAME = 0, 1, 2, 4
#: Rows besides those: labels' places, whether the blank before may be left out, likelihoods from here on and through
#: here (four each), occupancies of states and of their classes.
SKIPS, AFTER, THROUGH, SHARES, FOUND, ROWS = 1, 2, 6, 10, 11, 12

#: Estimated nanoseconds of a thread: for a frame, for one of its pairs of states, and for one of its classes.
FRAME_WORK, PAIR_WORK, CLASS_WORK = 100.0, 10.0, 1.0

#: Kinds of the kernel's arguments. Arrays, C-contiguous: labels (sequences, longest), y_pred (sequences, frames,
#: classes), label lengths and frame counts (sequences; int64), weights (ceil(sequences / inner); float64; negative:
#: masked), gradient and hessian (as y_pred), losses (sequences; float64), scratch (threads, pitch; float64), partial
#: sums (sequences; float64), control (see `fastloss.cpu.native`). Scalars: sequences, frames, classes, longest, inner,
#: blank, pitch, whether an infinite loss counts as 0, scale, mode. Lengths fit, and labels are classes.
ARGUMENTS = ("array",) * 11 + ("int",) * 8 + ("float", "int")


class Build(NamedTuple):
    """Everything that one compiled kernel is specialised on."""

    formula: Callable[..., Any]  # gradient and Hessian by a class's softmax and its occupancy
    from_logits: bool
    true: str
    pred: str
    value: bool
    losses: bool
    grad: bool
    hess: bool


def width_of(label: int) -> int:
    """Pairs of states of a label, the last one's class being none, in whole vectors."""
    return (label + PAIRS) // PAIRS * PAIRS


def scratch_size(longest: int, frames: int, classes: int, rows: int) -> int:
    """Float64 numbers that a thread needs."""
    return (ROWS + ROW * rows) * width_of(longest) + PAIRS + FRAME * frames + classes


class Steps:
    """The functions on lanes that the kernel calls, built for one `Build`."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.element = STORAGES[STORAGES[build.pred].computing].memory
        self.lanes = lanes_at_once(self.element)

    # -- a frame's softmax -----------------------------------------------------------------------------------------

    def lowest(self, anchor: Pointer) -> Lanes:
        """Where the search for the largest logit starts from."""
        return Lanes(anchor.builder, ir.Constant(self.element, -math.inf)).broadcast(self.lanes)

    def peak_step(self, *, tail: bool) -> Callable[[Pointer, Lanes, Lanes], Lanes]:
        """A function that takes one vector into the search, at a frame's end its first ``left`` elements.

        A NaN does not become the peak: it shows in the sums.
        """

        def step(x: Pointer, running: Lanes, left: Lanes) -> Lanes:
            loaded = x.load(self.element, self.lanes, left if tail else None)
            if tail:
                loaded = where(loaded.numbered() < left.convert(INT32), loaded, -math.inf)
            return where(loaded > running, loaded, running)

        return step

    def peak_end(self, running: Lanes) -> Lanes:
        """The largest, as a scalar in float64."""
        while running.count > 1:
            half = running.count // 2
            low, high = running.part(0, half), running.part(half, half)
            running = where(high > low, high, low)
        return running.lane(0).convert(FLOAT64)

    def no_sums(self, anchor: Pointer) -> tuple[Lanes, Lanes]:
        """Sums of nothing."""
        return zero_sum(anchor), zero_sum(anchor)

    def sums_step(self, *, tail: bool) -> Callable[..., tuple[Lanes, ...]]:
        """A function that adds one vector's exponentials below the peak, and its peaks.

        Without logits it looks for what is no logarithm, which makes the first sum NaN.
        """

        def step(x: Pointer, peak: Lanes, sums: tuple[Lanes, Lanes], left: Lanes) -> tuple[Lanes, ...]:
            loaded = x.load(self.element, self.lanes, left if tail else None)
            if self.build.from_logits:
                top = peak.convert(self.element)
                kept = exponential(loaded, top)
                terms = (below_peak(loaded, top, kept), at_peak(loaded, top))
                return tuple(
                    accumulate(sum_, first_lanes(term, left) if tail else term)
                    for sum_, term in zip(sums, terms, strict=True)
                )
            return accumulate(sums[0], where(loaded < math.inf, 0.0, math.nan)), sums[1]

        return step

    def rest_of(self, sums: tuple[Lanes, Lanes], peak: Lanes) -> Lanes:
        """The sum of all exponentials but one peak's; without logits 0. NaN where the peak is infinite."""
        others, peaks = map(whole_sum, sums)
        return others + (peaks - 1.0) + peak * 0.0 if self.build.from_logits else others

    def log1p(self, rest: Lanes) -> Lanes:
        """The logarithm of a frame's sum, less its peak."""
        return rest.call_symbol("log1p", rest)

    # -- forward ---------------------------------------------------------------------------------------------------

    def emission(self, x: Lanes, peak: Lanes) -> wide.Wide:
        """Likelihoods relative to the frame's most likely class."""
        return wide.exponential(x - peak if self.build.from_logits else x)

    def blank_emission(self, x: Pointer, peak: Lanes) -> wide.Wide:
        """The blank's."""
        return self.emission(x.load(FLOAT64, 0), peak)

    def nowhere(self, anchor: Pointer) -> wide.Wide:
        """Zero in a vector of pairs."""
        zero = Lanes(anchor.builder, ir.Constant(FLOAT64, 1.0)).broadcast(PAIRS)
        return wide.constant(zero, 1.0, wide.DEAD)

    def clear(self, row: Pointer, pitch: Lanes) -> None:
        """Make pairs of states impossible."""
        zero = self.nowhere(row)
        for part in (BLANKS, CLASSES):
            wide.store(part_of(row, pitch, part), pitch, zero)

    def forward(
        self,
        before: Pointer,
        here: Pointer,
        pitch: Lanes,
        places: Pointer,
        skips: Pointer,
        labels: Lanes,
        x: Pointer,
        peak: Lanes,
        blank: wide.Wide,
        below: wide.Wide,
    ) -> wide.Wide:
        """One frame of some pairs of states, of which ``labels`` have a class; ``below`` is of the pairs before."""
        blanks, classes = (wide.load(part_of(before, pitch, part), pitch, PAIRS) for part in (BLANKS, CLASSES))
        mantissa, exponent = self.emission(wide.gather(x, places, PAIRS), peak)
        exponent = where(exponent.numbered() < labels.convert(INT32), exponent, wide.DEAD)
        lower = wide.shifted_up(below[0], classes[0]), wide.shifted_up(below[1], classes[1])
        skipping = lower[0], lower[1] + skips.load(FLOAT64, PAIRS)
        new_blanks = wide.product(wide.total(blanks, lower), blank)
        new_classes = wide.product(wide.total(classes, blanks, skipping), (mantissa, exponent))
        for part, number in ((BLANKS, new_blanks), (CLASSES, new_classes), (EMISSIONS, (mantissa, exponent))):
            wide.store(part_of(here, pitch, part), pitch, number)
        return classes

    def end(self, row: Pointer, pitch: Lanes, last_blank: Lanes, last_class: Lanes) -> wide.Wide:
        """The likelihood of the whole label: its mantissa is not yet in [1, 2)."""
        blank = wide.load(row.moved(last_blank), pitch, 0)
        return wide.total(blank, wide.load(part_of(row, pitch, CLASSES).moved(last_class), pitch, 0))

    # -- backward --------------------------------------------------------------------------------------------------

    def emitted(self, after: Pointer, here: Pointer, pitch: Lanes, blank: wide.Wide) -> tuple[wide.Wide, wide.Wide]:
        """Likelihoods of endings from some pairs of states on, with this frame's emission."""
        blanks, classes = (wide.load(part_of(after, pitch, part), pitch, PAIRS) for part in (BLANKS, CLASSES))
        emission = wide.load(part_of(here, pitch, EMISSIONS), pitch, PAIRS)
        return wide.product(blanks, blank), wide.product(classes, emission)

    def none_emitted(self, anchor: Pointer) -> tuple[wide.Wide, wide.Wide]:
        """What lies beyond the last pairs."""
        return self.nowhere(anchor), self.nowhere(anchor)

    def no_shares(self, anchor: Pointer) -> Lanes:
        """An empty sum of occupancies."""
        return Lanes(anchor.builder, ir.Constant(FLOAT64, 0.0)).broadcast(PAIRS)

    def backward(
        self,
        here: Pointer,
        after: Pointer,
        pitch: Lanes,
        skips: Pointer,
        emitted: tuple[wide.Wide, wide.Wide],
        above: tuple[wide.Wide, wide.Wide],
        through: Pointer,
        whole: wide.Wide,
    ) -> wide.Wide:
        """One frame of some pairs of states: likelihoods through them, added up, and from the frame before on."""
        for part in (BLANKS, CLASSES):
            begun, ending = (wide.load(part_of(row, pitch, part), pitch, PAIRS) for row in (here, after))
            both = begun[0] * ending[0], begun[1] + ending[1]
            wide.store(part_of(through, pitch, part), pitch, both)
            whole = wide.total(whole, both)
        blanks, classes = emitted
        upper_blanks, upper_classes = (
            (wide.shifted_down(own[0], next_[0]), wide.shifted_down(own[1], next_[1]))
            for own, next_ in zip(emitted, above, strict=True)
        )
        skipping = upper_classes[0], upper_classes[1] + skips.moved(1).load(FLOAT64, PAIRS)
        wide.store(part_of(after, pitch, BLANKS), pitch, wide.total(blanks, classes))
        wide.store(part_of(after, pitch, CLASSES), pitch, wide.total(classes, upper_blanks, skipping))
        return whole

    def whole_inverse(self, whole: wide.Wide) -> wide.Wide:
        """One over the sum of the likelihoods through a frame's states: the label's, but for rounding."""
        return wide.inverse(wide.total_of_lanes(whole))

    def occupy(
        self,
        through: Pointer,
        pitch: Lanes,
        inverse: wide.Wide,
        places: Pointer,
        shares: Pointer,
        occupied: Pointer,
        blank_share: Lanes,
    ) -> Lanes:
        """The occupancies of some pairs of states: their shares in all that goes through the frame."""
        blanks, classes = (
            wide.number_of_product(wide.load(part_of(through, pitch, part), pitch, PAIRS), inverse)
            for part in (BLANKS, CLASSES)
        )
        shares.store(classes)
        wide.scatter_add(occupied, places, classes)
        return blank_share + blanks

    def sum_of_lanes(self, lanes: Lanes) -> Lanes:
        """Their sum as a scalar."""
        return lanes.halves_added(1).lane(0)

    def look_up(self, occupied: Pointer, places: Pointer, shares: Pointer, found: Pointer, minor: Lanes) -> Lanes:
        """Find each state's class's occupancy; add up what states take whose class has no more than half."""
        whole = wide.gather(occupied, places, PAIRS)
        found.store(whole)
        return minor + where(whole > 0.5, 0.0, shares.load(FLOAT64, PAIRS))

    # -- results ---------------------------------------------------------------------------------------------------

    def rule(self, own: Any, rest: Any, occupancy: Any, others: Any) -> Any:
        """The loss's gradient and Hessian of one class at a frame."""
        values = {"own": own, "rest": rest, "total": rest + 1.0, "occupancy": occupancy, "others": others}
        return call_by_name(self.build.formula, values)

    def write_elements(self, *, tail: bool) -> Callable[..., None]:
        """A function that writes gradient and Hessian of one vector of classes, as if none were in the label."""

        def step(x: Pointer, g: Pointer, h: Pointer, peak: Lanes, rest: Lanes, scale: Lanes, left: Lanes) -> None:
            factor, end = scale.convert(self.element), left if tail else None
            results: Any = (0.0, 0.0)
            if self.build.from_logits:
                own = exponential(x.load(self.element, self.lanes, end), peak.convert(self.element))
                narrow = rest.convert(self.element)
                results = self.rule(own, narrow, 0.0, narrow)
            for wanted, pointer, result in zip((self.build.grad, self.build.hess), (g, h), results, strict=True):
                if wanted:
                    pointer.store(as_lanes(result, factor, self.lanes) * factor, left=end)

        return step

    def write_labels(
        self,
        here: Pointer,
        pitch: Lanes,
        places: Pointer,
        found: Pointer,
        rest: Lanes,
        others: Lanes,
        scale: Lanes,
        g: Pointer,
        h: Pointer,
        occupied: Pointer,
    ) -> None:
        """The same of the classes of some states, which may come more than once; forget their occupancy."""
        own = wide.number_of_product(wide.load(part_of(here, pitch, EMISSIONS), pitch, PAIRS))
        results = self.rule(own, rest, found.load(FLOAT64, PAIRS), others)
        for wanted, pointer, result in zip((self.build.grad, self.build.hess), (g, h), results, strict=True):
            if wanted:
                wide.scatter(pointer, places, as_lanes(result, scale, PAIRS) * scale)
        wide.scatter(occupied, places, own.constant(0.0))

    def write_blank(
        self, blank: wide.Wide, rest: Lanes, occupancy: Lanes, others: Lanes, scale: Lanes, g: Pointer, h: Pointer
    ) -> None:
        """The same of the blank."""
        results = self.rule(wide.number_of_product(blank), rest, occupancy, others)
        for wanted, pointer, result in zip((self.build.grad, self.build.hess), (g, h), results, strict=True):
            if wanted:
                pointer.store(as_lanes(result, scale, 0) * scale)

    def fill(self, *, tail: bool) -> Callable[[Pointer, Lanes, Lanes], None]:
        """A function that writes one number to a vector of results."""

        def step(pointer: Pointer, number: Lanes, left: Lanes) -> None:
            pointer.store(number.convert(self.element).broadcast(self.lanes), left=left if tail else None)

        return step


def part_of(row: Pointer, pitch: Lanes, part: int) -> Pointer:
    """A part of a row of pairs."""
    return row.moved(pitch * part) if part else row


def kernel(build: Build) -> Callable[..., Any]:
    """Write the Python source-level kernel that Numba compiles for one `Build`."""
    steps = Steps(build)
    lanes, from_logits = steps.lanes, build.from_logits
    want_grad, want_hess, want_losses, want_value = build.grad, build.hess, build.losses, build.value
    derivatives = want_grad or want_hess
    doubles, integers = STORAGES["float64"], STORAGES["int64"]
    pointer_true, pointer_pred = array_pointer(STORAGES[build.true]), array_pointer(STORAGES[build.pred])
    pointer_doubles, pointer_integers = array_pointer(doubles), array_pointer(integers)
    put, integer, double, move = (emit(f) for f in (put_number, load_integer, load_scalar(FLOAT64), moved))
    nothing, plus, settled = emit(empty_sum), emit(added), emit(sum_of)
    pairs_of = register_jitable(width_of)
    lowest, peak_end, no_sums, rest_of = (emit(f) for f in (steps.lowest, steps.peak_end, steps.no_sums, steps.rest_of))
    peak_step, peak_tail = (emit(steps.peak_step(tail=tail)) for tail in (False, True))
    sums_step, sums_tail = (emit(steps.sums_step(tail=tail)) for tail in (False, True))
    log1p, logarithm, blank_emission = emit(steps.log1p), emit(wide.logarithm), emit(steps.blank_emission)
    nowhere, clear, forward, end = (emit(f) for f in (steps.nowhere, steps.clear, steps.forward, steps.end))
    if derivatives:
        emitted, none_emitted, backward = (emit(f) for f in (steps.emitted, steps.none_emitted, steps.backward))
        whole_inverse, occupy = emit(steps.whole_inverse), emit(steps.occupy)
        no_shares, look_up = emit(steps.no_shares), emit(steps.look_up)
        sum_of_lanes, write_labels, write_blank = (
            emit(f) for f in (steps.sum_of_lanes, steps.write_labels, steps.write_blank)
        )
        write_elements, write_tail = (emit(steps.write_elements(tail=tail)) for tail in (False, True))
        fill_vector, fill_tail = (emit(steps.fill(tail=tail)) for tail in (False, True))

        @register_jitable
        def fill(results, count, number):
            for j in range(0, count // lanes * lanes, lanes):
                fill_vector(move(results, j), number, lanes)
            if count % lanes > 0:
                fill_tail(move(results, count // lanes * lanes), number, count % lanes)

    @register_jitable
    def frame_sums(x, classes):
        # The peak, and the sum of all exponentials but its own: both 0 without logits.
        full = classes // lanes * lanes
        peak = 0.0
        if from_logits:
            running = lowest(x)
            for j in range(0, full, lanes):
                running = peak_step(move(x, j), running, lanes)
            if full < classes:
                running = peak_tail(move(x, full), running, classes - full)
            peak = peak_end(running)
        sums = no_sums(x)
        for j in range(0, full, lanes):
            sums = sums_step(move(x, j), peak, sums, lanes)
        if full < classes:
            sums = sums_tail(move(x, full), peak, sums, classes - full)
        return peak, rest_of(sums, peak)

    @register_jitable
    def lay_out(labels, count, width, blank, places, skips):
        # Where each state's class stands in a frame; whether an alignment may come to it past the blank before.
        last = blank
        for i in range(width):
            label = blank
            skip = wide.DEAD
            if i < count:
                label = integer(move(labels, i))
                if i > 0 and label != last:
                    skip = 0.0
                last = label
            put(move(places, i), label)
            put(move(skips, i), skip)
        put(move(skips, width), wide.DEAD)

    @register_jitable
    def start_at(row, width, blank_at, class_at):
        # Alignments are at one blank, or at one class too unless that is below 0.
        for j in range(0, width, PAIRS):
            clear(move(row, j), width)
        put(move(row, blank_at + width), 0.0)
        if class_at >= 0:
            put(move(row, class_at + (CLASSES + 1) * width), 0.0)

    def sequence(
        targets, y_pred, label_lengths, frame_counts, weights, gradient, hessian, losses, scratch, partials, control,
        sequences, frames, classes, longest, inner, blank, pitch, zero_infinity, scale, mode,
    ):  # fmt: skip
        y, p = pointer_true(targets), pointer_pred(y_pred)
        g, h, v, w = pointer_pred(gradient), pointer_pred(hessian), pointer_doubles(losses), pointer_doubles(weights)
        label_counts, frames_of = pointer_integers(label_lengths), pointer_integers(frame_counts)
        sums_of_chunks, claims = pointer_doubles(partials), pointer_integers(control)
        result = nothing(sums_of_chunks)
        if mode in (RELEASED, SHARED):
            state = release_gil()
        opened = open_job(claims) if mode == SHARED else 0
        slot = fetch_add(claims, NEXT_SCRATCH, 1) if mode >= SHARED else 0
        own = move(pointer_doubles(scratch), slot * pitch)
        places = move(pointer_integers(scratch), slot * pitch)
        chunk = claim(claims, mode, -1, sequences)
        while chunk < sequences:
            x_all, g_all, h_all = (
                move(p, chunk * frames * classes),
                move(g, chunk * frames * classes),
                move(h, chunk * frames * classes),
            )
            weight = double(move(w, chunk // inner))
            value = 0.0
            counted = 0  # frames that have a gradient
            if weight >= 0.0:
                labels, here_frames = integer(move(label_counts, chunk)), integer(move(frames_of, chunk))
                width = pairs_of(labels)
                skips, after = move(own, SKIPS * width), move(own, AFTER * width + PAIRS)
                through, shares = move(own, THROUGH * width + PAIRS), move(own, SHARES * width + PAIRS)
                found = move(own, FOUND * width + PAIRS)
                kept = move(own, ROWS * width + PAIRS)
                occupied = move(kept, FRAME * frames)
                lattice = move(occupied, classes)
                lay_out(move(y, chunk * longest), labels, width, blank, places, skips)
                start_at(lattice, width, 0, -1)
                row = lattice
                for t in range(here_frames):
                    x = move(x_all, t * classes)
                    peak, rest = frame_sums(x, classes)
                    value += log1p(rest)
                    blank_likelihood = blank_emission(move(x, blank), peak)
                    before = row
                    # Without derivatives two rows take turns.
                    row = move(lattice, (t + 1 if derivatives else (t + 1) % 2) * ROW * width)
                    below = nowhere(row)
                    for j in range(0, width, PAIRS):
                        below = forward(
                            move(before, j), move(row, j), width, move(places, j), move(skips, j), labels - j, x, peak,
                            blank_likelihood, below,
                        )  # fmt: skip
                    if derivatives:
                        frame = move(kept, t * FRAME)
                        put(move(frame, PEAK), peak)
                        put(move(frame, REST), rest)
                        put(move(frame, BLANK), blank_likelihood[0])
                        put(move(frame, BLANK + 1), blank_likelihood[1])
                likelihood = end(row, width, labels, max(labels - 1, 0))
                value -= logarithm(likelihood)
                counted = here_frames
                if value == math.inf:
                    counted = 0
                    if zero_infinity != 0:
                        value = 0.0
                value *= weight
            if derivatives and counted > 0 and value != value:
                if want_grad:
                    fill(g_all, counted * classes, math.nan)
                if want_hess:
                    fill(h_all, counted * classes, math.nan)
            elif derivatives and counted > 0:
                factor = scale * weight
                start_at(after, width, labels, labels - 1)
                for j in range(classes):
                    put(move(occupied, j), 0.0)
                full = classes // lanes * lanes
                for step in range(counted):
                    t = counted - 1 - step
                    row, frame = move(lattice, (t + 1) * ROW * width), move(kept, t * FRAME)
                    peak, rest = double(move(frame, PEAK)), double(move(frame, REST))
                    blank_likelihood = double(move(frame, BLANK)), double(move(frame, BLANK + 1))
                    whole = nowhere(row)
                    above = emitted(after, row, width, blank_likelihood)
                    for j in range(0, width, PAIRS):
                        here = above
                        if j + PAIRS < width:
                            above = emitted(move(after, j + PAIRS), move(row, j + PAIRS), width, blank_likelihood)
                        else:
                            above = none_emitted(row)
                        whole = backward(
                            move(row, j), move(after, j), width, move(skips, j), here, above, move(through, j), whole
                        )
                    inverse = whole_inverse(whole)
                    blank_shares = no_shares(row)
                    for j in range(0, width, PAIRS):
                        blank_shares = occupy(
                            move(through, j), width, inverse, move(places, j), move(shares, j), occupied, blank_shares
                        )
                    blank_share = sum_of_lanes(blank_shares)
                    minor = no_shares(row)
                    for j in range(0, width, PAIRS):
                        minor = look_up(occupied, move(places, j), move(shares, j), move(found, j), minor)
                    others = sum_of_lanes(minor)
                    if blank_share <= 0.5:
                        others += blank_share
                    x, g_row, h_row = move(x_all, t * classes), move(g_all, t * classes), move(h_all, t * classes)
                    for j in range(0, full, lanes):
                        write_elements(move(x, j), move(g_row, j), move(h_row, j), peak, rest, factor, lanes)
                    if full < classes:
                        write_tail(
                            move(x, full), move(g_row, full), move(h_row, full), peak, rest, factor, classes - full
                        )
                    for j in range(0, width, PAIRS):
                        write_labels(
                            move(row, j), width, move(places, j), move(found, j), rest, others, factor, g_row, h_row,
                            occupied,
                        )  # fmt: skip
                    # Last: pairs that have no class have written where the blank is.
                    write_blank(
                        blank_likelihood, rest, blank_share, others, factor, move(g_row, blank), move(h_row, blank)
                    )
            if want_grad:
                fill(move(g_all, counted * classes), (frames - counted) * classes, 0.0)
            if want_hess:
                fill(move(h_all, counted * classes), (frames - counted) * classes, 0.0)
            if want_losses:
                put(move(v, chunk), value)
            if not want_value:
                value = 0.0
            if mode >= SHARED:
                put(move(sums_of_chunks, chunk), value)
            else:
                result = plus(result, value)
            chunk = claim(claims, mode, chunk, sequences)
        if opened != 0:
            close_job(claims)
        if mode == SHARED:
            for chunk in range(sequences):
                result = plus(result, double(move(sums_of_chunks, chunk)))
        if mode in (RELEASED, SHARED):
            take_gil(state)
        return settled(result)

    return sequence


def load_integer(pointer: Pointer) -> Lanes:
    """Read one integer as int64."""
    return pointer.load_integer()


@cache
def _entry(build: Build) -> Callable[..., float]:
    return compiled(kernel(build), ARGUMENTS, repr((*build[1:], fingerprint(build.formula))))


class Plan:
    """A compiled kernel and what every call of it passes unchanged."""

    def __init__(self, build: Build) -> None:
        self.build = build
        self.entry = _entry(build)
        self.ones = np.ones(1)

    def __call__(
        self,
        labels: Any,
        p: Any,
        label_lengths: Any,
        frame_counts: Any,
        weights: Any,
        inner: int,
        blank: int,
        zero_infinity: bool,
        grad: Any,
        hess: Any,
        losses: Any,
        scale: float,
    ) -> float:
        """Run the kernel on checked arrays; give the sum of the weighted losses."""
        frames, classes = p.shape[-2:]
        longest = labels.shape[-1]
        sequences = label_lengths.size
        rows = frames + 1 if self.build.grad or self.build.hess else 2
        pitch = scratch_size(longest, frames, classes, rows)
        threads = max(1, min(pool.threads, sequences))  # read once: another thread may change it
        arrays = (
            labels,
            p,
            label_lengths,
            frame_counts,
            self.ones if weights is None else weights,
            *(ABSENT if a is None else a for a in (grad, hess, losses)),
            np.empty(pitch * threads),
        )
        every = max(sequences, 1) if weights is None else inner
        sizes = (sequences, frames, classes, longest, every, blank, pitch, zero_infinity, scale)
        work = sequences * frames * (FRAME_WORK + PAIR_WORK * longest + CLASS_WORK * classes)
        return run(self.entry, arrays, sizes, sequences, work, threads)
