"""From losses to a value: weights, masks and what the sum is divided by.

value = sum_i m_i w_i l_i / Z and likewise the gradient, with one Z for both.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from .messages import rejected
from .validate import Array


class Weighting(NamedTuple):
    """How losses are weighed.

    Loss i (counted in C order) has weight ``weights[i // inner]``; a negative weight marks a masked loss. No weights
    at all: every weight is 1. ``normalizer`` is Z; 0 means that nothing is left to average.
    """

    weights: Array | None
    inner: int
    normalizer: float

    def of_column(self, column: int, columns: int) -> Weighting:
        """How one column of losses is weighed, the last of their axes having so many."""
        if self.weights is None or not self.inner % columns:
            return self._replace(inner=self.inner // columns)
        return self._replace(weights=np.ascontiguousarray(self.weights.reshape(-1, columns)[:, column]))


def scale_of(normalizer: float, computing: str) -> float:
    """What gradients are multiplied with: 1 / Z, at most the largest number (0 times it must stay 0)."""
    return min(1.0 / normalizer, float(np.finfo(computing).max))


def weighting(
    name: str,
    reduction: str,
    shape: tuple[int, ...],
    precisions: tuple[str, str],
    sample_weight: Array | None,
    mask: Array | None,
    normalizer: Any,
    counts: Array | None = None,
) -> Weighting:
    """Combine weights and mask for losses of the given shape, and find Z.

    ``precisions`` are the one that weights are rounded to (the predictions' own) and the one they are given in (the
    kernel's).
    ``counts`` is what each loss counts for in Z besides its weight (shape ``shape``); None: 1 each.

    Raises
    ------
    ValueError
        If a shape is not a leading part of ``shape``, a weight is negative, infinite or NaN, or the normalizer is
        not a finite number above 0.
    """
    size = math.prod(shape)
    precision, computing = precisions
    weights, weights_inner = None, 1
    if sample_weight is not None:
        weights, weights_inner = _aligned(name, "sample_weight", sample_weight, shape)
        weights = checked_weights(name, weights, precision).astype(computing, copy=False)
    kept, kept_inner = None, 1
    if mask is not None:
        kept, kept_inner = _aligned(name, "mask", _boolean(name, mask), shape)

    inners = [i for a, i in ((weights, weights_inner), (kept, kept_inner)) if a is not None]
    inner = min(inners, default=1) if size else 1
    weights = _repeated(weights, weights_inner, inner)
    kept = _repeated(kept, kept_inner, inner)
    if normalizer is not None:
        total = checked_normalizer(name, normalizer)
    else:
        total = _normalizer(reduction, size, weights, kept, inner, counts)
    if kept is not None:
        one = np.ones((), computing)
        weights = np.where(kept, one if weights is None else weights, -one)
    return Weighting(weights, inner, total)


def _normalizer(
    reduction: str, size: int, weights: Array | None, kept: Array | None, inner: int, counts: Array | None
) -> float:
    if reduction in ("sum", "none"):
        return 1.0
    if reduction == "mean":
        weights = None
    if weights is None and kept is None and counts is None:
        return float(size)
    if counts is not None:
        per_group = counts.reshape(-1, inner).sum(axis=1, dtype=np.float64) if inner != 1 else counts.reshape(-1)
    else:
        per_group = np.broadcast_to(np.float64(inner), (size // inner if inner else 0,))
    terms = per_group if weights is None else per_group * weights.astype(np.float64)
    return float(np.sum(terms, dtype=np.float64, where=True if kept is None else kept))


def _repeated(array: Array | None, inner: int, wanted: int) -> Array | None:
    if array is None or inner == wanted or not wanted:
        return array
    return np.repeat(array, inner // wanted)


def covered(name: str, argument: str, own: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """How many losses each element of an array covers that aligns with the leading axes of ``shape``.

    Raises
    ------
    ValueError
        If its shape ``own`` is not a leading part of ``shape``.
    """
    given = own
    while own and own[-1] == 1 and (len(own) > len(shape) or shape[len(own) - 1] != 1):
        own = own[:-1]
    if own != shape[: len(own)]:
        rule = f"have a leading part of the losses' shape {shape}"
        raise ValueError(rejected(name, argument, rule, given))
    return math.prod(shape[len(own) :])


def _aligned(name: str, argument: str, array: Array, shape: tuple[int, ...]) -> tuple[Array, int]:
    """Flatten an array that aligns with the leading axes of ``shape``; give how many losses each element covers."""
    inner = covered(name, argument, array.shape, shape)
    return np.ascontiguousarray(array).reshape(-1), inner


def _boolean(name: str, mask: Array) -> Array:
    require_boolean(name, mask.dtype)
    return mask


def require_boolean(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse masks of another type."""
    if dtype != np.bool_:
        raise TypeError(rejected(name, "mask", "be boolean", dtype, "Convert it: mask.astype(bool)"))


def require_real(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse weights that are no real numbers."""
    if (dtype.kind not in "fbiu" and dtype.name != "bfloat16") or not dtype.isnative:
        raise TypeError(rejected(name, "sample_weight", "be real numbers", dtype))


def checked_weights(name: str, weights: Array, precision: str) -> Array:
    """Weights in some precision; each must be finite and 0 or more."""
    require_real(name, weights.dtype)
    with np.errstate(all="ignore"):
        converted = weights.astype(precision, copy=False)
    # One comparison each: NaN fails both, so no third pass looks for it.
    if converted.size and not (converted.min() >= 0 and converted.max() < np.inf):
        position = int(np.argmin((converted >= 0) & (converted < np.inf)))
        got = f"{weights[position]} at flat position {position}"
        raise ValueError(rejected(name, "sample_weight", f"be finite in {precision} and >= 0", got))
    return converted


def checked_normalizer(name: str, normalizer: Any) -> float:
    """The caller's own normaliser, which must be a finite number above 0."""
    if isinstance(normalizer, np.ndarray) and normalizer.ndim == 0:
        normalizer = normalizer.item()
    try:
        # Only of numbers: for a GPU array `float` would wait.
        number = math.nan if type(normalizer) is bool or not isinstance(normalizer, Real) else float(normalizer)
    except (OverflowError, TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(rejected(name, "normalizer", "be a finite number > 0", repr(normalizer)))
    return number
