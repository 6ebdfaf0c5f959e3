"""Compiled rowwise kernels and their calls: few classes transposed, others row by row."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import rowwise, rowwise_few
from .cache import compiled, fingerprint
from .lanes import lanes_at_once
from .pool import pool
from .quick import fits
from .rowwise import RowBuild
from .rowwise_few import most_classes
from .run import ABSENT, QUICK_UP_TO, nanoseconds, run
from .storage import STORAGES

#: Estimated nanoseconds that transposing adds to a float32 element.
TRANSPOSING = 0.8


@cache
def _entry(build: RowBuild, few_classes: bool) -> Callable[..., float]:
    formula = [fingerprint(part) if callable(part) else part for part in build.formula]
    key = repr((formula, *build[1:]))
    source = rowwise_few.kernel(build) if few_classes else rowwise.kernel(build)
    return compiled(source, rowwise.ARGUMENTS, key)


class RowPlan:
    """One compiled kernel and what every call of it passes unchanged."""

    def __init__(self, build: RowBuild, parameters: list[float], *, few_classes: bool) -> None:
        self.build = build
        self.entry = _entry(build, few_classes)
        self.few_classes, self.parameters = few_classes, parameters
        self.computing = np.dtype(build.computing.name)
        self.lanes = lanes_at_once(build.computing.memory)
        self.block = rowwise_few.rows_at_once(build.computing.name)
        self.ones = np.ones(1, self.computing)
        formula = build.formula
        by_element = (formula.link, formula.first_of, formula.statistics, formula.again, formula.element)
        work = sum(nanoseconds(piece) for piece in by_element if piece)
        self.work = (work + TRANSPOSING * few_classes) * (2 if build.computing.name == "float64" else 1)
        self._scaled: dict[tuple[float, float], Any] = {}

    def __call__(
        self,
        target: Any,
        p: Any,
        rows: int,
        classes: int,
        weights: Any,
        inner: int,
        class_weights: Any,
        ignored: int | None,
        grad: Any,
        hess: Any,
        losses: Any,
        scale: float,
    ) -> float:
        """Run the kernel; give the sum of the weighted losses: NaN if a label is bad."""
        per_chunk, pitch = self._grid(classes)
        chunks = -(-rows // per_chunk)
        threads = min(pool.threads, chunks)  # read once: another thread may change it
        scratch = np.empty(pitch * max(threads, 1), self.computing) if pitch else ABSENT
        arrays = (
            target,
            p,
            self.ones if weights is None else weights,
            self.ones if class_weights is None else class_weights,
            *(ABSENT if a is None else a for a in (grad, hess, losses)),
            scratch,
            self._parameters(classes, class_weights),
        )
        sizes = (
            rows,
            classes,
            max(rows, 1) if weights is None else inner,
            ignored or 0,
            ignored is not None,
            pitch,
            scale,
        )
        return run(self.entry, arrays, sizes, chunks, rows * classes * self.work, threads)

    def _grid(self, classes: int) -> tuple[int, int]:
        """Rows per chunk, as the kernel has it, and elements of one thread's scratch."""
        if self.few_classes:
            return rowwise_few.rows_per_chunk(classes, self.block), 0
        return rowwise.rows_per_chunk(classes), -(-classes // self.lanes) * self.lanes

    def _parameters(self, classes: int, class_weights: Any) -> Any:
        weight_sum = float(classes) if class_weights is None else float(np.sum(class_weights, dtype=np.float64))
        key = (classes, weight_sum)
        known = self._scaled.get(key)
        if known is None:
            if len(self._scaled) > 64:
                self._scaled.clear()
            known = self._scaled[key] = np.array([*self.parameters, float(classes), weight_sum])
        return known

    def quick(
        self, y: Any, p: Any, is_sum: bool, require_labels: Callable[[Any, int], None]
    ) -> Callable[..., Any] | None:
        """A function of (y_true, y_pred, out) for small arrays like these; it gives None for others.

        ``require_labels(y_true, classes)`` raises if a NaN comes from a bad label.
        """
        if y.dtype.itemsize != STORAGES[self.build.true].size:
            return None  # a rare integer type, which the general way widens
        fits_like, entry, ones, work = fits(), self.entry, self.ones, self.work
        like_true, like_pred = np.empty(0, y.dtype), np.empty(0, p.dtype)
        true_bytes, pred_bytes, missing_axes = y.dtype.itemsize, p.dtype.itemsize, int(self.build.indexed)
        scaled, computing, grid = self._scaled, self.computing, self._grid
        fewest, most = (
            (1, most_classes(computing.name)) if self.few_classes else (most_classes(computing.name) + 1, 1 << 62)
        )

        def small(y_true: Any, y_pred: Any, out: Any) -> tuple[float, Any] | None:
            if out is None:
                if type(y_pred) is not np.ndarray or y_pred.size > QUICK_UP_TO:
                    return None
                out = np.empty_like(y_pred)
            size = fits_like(
                y_true, y_pred, out, like_true, like_pred, true_bytes, pred_bytes, missing_axes, QUICK_UP_TO
            )
            if not size:
                return None
            classes = y_pred.shape[-1]
            if not fewest <= classes <= most:
                return None
            rows = size // classes
            count = 1.0 if is_sum else float(rows)
            per_chunk, pitch = grid(classes)
            chunks = -(-rows // per_chunk)
            threads = min(pool.threads, chunks) if pitch else None
            parameters = scaled.get((classes, classes))
            arrays = (
                y_true, y_pred, ones, ones, out, ABSENT, ABSENT,
                np.empty(pitch * threads, computing) if threads else ABSENT,
                self._parameters(classes, None) if parameters is None else parameters,
            )  # fmt: skip
            sizes = (rows, classes, rows, 0, 0, pitch, 1.0 / count)
            total = run(entry, arrays, sizes, chunks, size * work, threads)
            if total != total and self.build.indexed:
                require_labels(y_true, classes)
            return total / count, out

        return small
