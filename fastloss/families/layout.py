"""Memory layouts of NumPy arrays: kernels sweep arrays in one piece."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from ..validate import Array

Layout = Literal["C", "F"]


def common_layout(*arrays: Any) -> Layout:
    """``F`` if every array is Fortran-contiguous and some not C-contiguous, else ``C``."""
    present = [a for a in arrays if a is not None]
    if all(a.flags.c_contiguous for a in present):
        return "C"
    return "F" if all(a.flags.f_contiguous for a in present) else "C"


def contiguous(array: Array, layout: Layout) -> Array:
    """The array in one piece of memory: itself where it is, else a copy."""
    flags = array.flags
    if flags.aligned and (flags.c_contiguous if layout == "C" else flags.f_contiguous):
        return array
    return np.array(array, order=layout, copy=True)


def buffer_like(result: Array | None, layout: Layout) -> Array | None:
    """Where a kernel may write: the result itself if it is in one piece of memory, else a temporary."""
    if result is None:
        return None
    flags = result.flags
    if flags.aligned and (flags.c_contiguous if layout == "C" else flags.f_contiguous):
        return result
    return np.empty(result.shape, result.dtype, order=layout)


def write_back(*pairs: tuple[Any, Any]) -> None:
    """Copy temporaries, of NumPy or CuPy, to the results that they stand for: pairs of a result, or None, and of it."""
    for result, ready in pairs:
        if result is not None and result is not ready:
            result[...] = ready


def aligned(*arrays: Array | None) -> bool:
    """Whether all arrays start on 16 bytes, as stores around the caches need."""
    return all(a is None or a.__array_interface__["data"][0] % 16 == 0 for a in arrays)


def class_axes(axis: int | tuple[int, ...] | None, count: int) -> tuple[int, ...] | None:
    """The class axes of an array with ``count`` axes, ascending from 0; every axis, if ``axis`` is None.

    Gives None if the array lacks one, or one is named twice.
    """
    given = tuple(range(count)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    found = sorted({number % count for number in given if -count <= number < count})
    return tuple(found) if len(found) == len(given) else None


def classes_last(array: Any, axes: tuple[int, ...]) -> Any:
    """A view, of an array of NumPy or CuPy, with the class axes last: the array itself where they are."""
    rows = tuple(other for other in range(array.ndim) if other not in axes)
    order = (*rows, *axes)
    return array if order == tuple(range(array.ndim)) else array.transpose(*order)
