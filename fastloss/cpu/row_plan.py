"""Compiled rowwise kernels and their calls: few classes transposed, others row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import rowwise, rowwise_few
from .cache import compiled, fingerprint
from .elementwise import CHUNK
from .pool import pool
from .quick import fits
from .rowwise import RowBuild
from .rowwise_few import most_classes
from .run import ABSENT, run
from .storage import STORAGES


class RowPlan:
    """One compiled kernel and what every call of it passes unchanged."""

    def __init__(self, build: RowBuild, parameters: list[float], *, few_classes: bool) -> None:
        self.build = build
        pieces = [fingerprint(piece) for piece in build.formula.pieces]
        key = repr((build.formula.first, pieces, *build[1:]))
        source = rowwise_few.kernel(build) if few_classes else rowwise.kernel(build)
        self.entry = compiled(source, rowwise.ARGUMENTS, key)
        self.few_classes, self.parameters = few_classes, parameters
        self.computing = np.dtype(STORAGES[build.pred].computing)
        self.ones = np.ones(1, self.computing)
        self.work = 1.6 if build.pred == "float64" else 0.8
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
        lanes = 32 if self.computing == np.float32 else 16
        scratch, pitch = ABSENT, 0
        if self.few_classes:
            per_chunk = -(-(4096 // max(1, classes)) // lanes) * lanes
        else:
            per_chunk = max(1, 16384 // max(1, classes))
            pitch = -(-classes // lanes) * lanes
            scratch = np.empty(pitch * (pool.threads + 1) if rows > per_chunk else pitch, self.computing)
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
        return run(self.entry, arrays, sizes, -(-rows // per_chunk), rows * classes * self.work)

    def _parameters(self, classes: int, class_weights: Any) -> Any:
        weight_sum = float(classes) if class_weights is None else float(np.sum(class_weights, dtype=np.float64))
        key = (classes, weight_sum)
        if key not in self._scaled:
            if len(self._scaled) > 64:
                self._scaled.clear()
            self._scaled[key] = np.array([*self.parameters, float(classes), weight_sum])
        return self._scaled[key]

    def quick(self, y: Any, p: Any, is_sum: bool) -> Callable[..., Any] | None:
        """A function of (y_true, y_pred, out) for small arrays like these; it gives None for others."""
        if y.dtype.itemsize != STORAGES[self.build.true].size:
            return None  # a rare integer type, which the general way widens
        fits_like, entry, empty_like, ones = fits(), self.entry, np.empty_like, self.ones
        like_true, like_pred = y[:0].copy(), p[:0].copy()
        true_bytes, pred_bytes, missing_axes = y.dtype.itemsize, p.dtype.itemsize, int(self.build.indexed)
        most, scaled = most_classes(self.computing.name), self._scaled

        def small(y_true: Any, y_pred: Any, out: Any) -> tuple[float, Any] | None:
            if out is None:
                if type(y_pred) is not np.ndarray:
                    return None
                out = empty_like(y_pred)
            size = fits_like(y_true, y_pred, out, like_true, like_pred, true_bytes, pred_bytes, missing_axes, CHUNK)
            if not size:
                return None
            classes = y_pred.shape[-1]
            if classes > most:
                return None
            rows = size // classes
            count = 1.0 if is_sum else float(rows)
            parameters = scaled.get((classes, classes))
            if parameters is None:
                parameters = self._parameters(classes, None)
            total = entry(
                y_true, y_pred, ones, ones, out, ABSENT, ABSENT, ABSENT, parameters, ABSENT, ABSENT,
                rows, classes, rows, 0, 0, 0, 1.0 / count, 0,
            )  # fmt: skip
            # NaN may mean a bad label: the general way tells.
            return (total / count, out) if total == total else None

        return small
