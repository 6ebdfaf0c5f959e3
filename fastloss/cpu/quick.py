"""The short way in: small arrays whose fitness one native call decides.

A call on eight elements is all overhead: checking shapes, types, layouts and overlaps in Python costs 3 us, the kernel
0.1. So a loss remembers the arrays of its last small call by one **like** array each, and `fits` compares the new ones
with them: pointer comparisons, no conversions. Whatever does not fit takes the general way, with its error messages.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .cache import compiled
from .emit import ArrayObject, emit
from .lanes import Lanes
from .storage import STORAGES, Pointer

# Flags of NumPy's binary interface (numpy/ndarraytypes.h).
_C_CONTIGUOUS, _ALIGNED, _WRITEABLE = 0x1, 0x100, 0x400
_READABLE = _C_CONTIGUOUS | _ALIGNED


def _field(name: str) -> Any:
    def field(array: ArrayObject) -> Lanes:
        return array.word(name)

    return emit(field)


def _small_field(name: str) -> Any:
    def small_field(array: ArrayObject) -> Lanes:
        return array.half_word(name)

    return emit(small_field)


def _extent(array: ArrayObject, axis: Lanes) -> Lanes:
    dimensions: Pointer = array.pointer("dimensions", STORAGES["int64"])
    return dimensions.moved(axis).load_integer()


@cache
def fits() -> Callable[..., int]:
    """Compile the check, once per process.

    The function takes y_true, y_pred, out, like_true, like_pred, bytes per element of y_true and y_pred, the number
    of axes that y_true lacks, and the largest size; it gives y_pred's size, or 0 for arrays that need the general way.
    """
    type_of, data_of, descriptor_of = _field("type"), _field("data"), _field("descriptor")
    axes_of, flags_of, extent = _small_field("dimensions_count"), _small_field("flags"), emit(_extent)

    def fits_like(y_true, y_pred, out, like_true, like_pred, true_bytes, pred_bytes, missing_axes, most):
        kind = type_of(like_pred)
        # Only a NumPy array has the other fields.
        if type_of(y_true) != kind or type_of(y_pred) != kind or type_of(out) != kind:
            return 0
        if descriptor_of(y_true) != descriptor_of(like_true) or descriptor_of(y_pred) != descriptor_of(like_pred):
            return 0
        if descriptor_of(out) != descriptor_of(like_pred):
            return 0
        if flags_of(y_true) & flags_of(y_pred) & _READABLE != _READABLE:
            return 0
        if flags_of(out) & (_READABLE | _WRITEABLE) != _READABLE | _WRITEABLE:
            return 0
        axes = axes_of(y_pred)
        if axes < 1 or axes_of(out) != axes or axes_of(y_true) != axes - missing_axes:
            return 0
        size = 1
        rows = 1
        for axis in range(axes):
            rows_or_columns = extent(y_pred, axis)
            size *= rows_or_columns
            if extent(out, axis) != rows_or_columns:
                return 0
            if axis < axes - missing_axes:
                rows *= rows_or_columns
                if extent(y_true, axis) != rows_or_columns:
                    return 0
        if size > most:
            return 0
        start, true_start, pred_start = data_of(out), data_of(y_true), data_of(y_pred)
        stop = start + size * pred_bytes
        if start < true_start + rows * true_bytes and true_start < stop:
            return 0
        if start != pred_start and start < pred_start + size * pred_bytes and pred_start < stop:
            return 0
        return size

    return compiled(fits_like, ("array",) * 5 + ("int",) * 4, "fits")
