"""What calls with CuPy arrays share: checks that need no look at the data, layouts, results. Nothing here waits."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from ..dispatch import GRAD, HESS
from ..dispatch import on_device as is_there
from ..gpu import launch, weighing
from ..messages import rejected
from ..reduction import checked_normalizer, checked_weights, covered, require_boolean, require_real
from ..validate import clash, overlapping, precision_of, require_elements_apart, same_form


class Weighed(NamedTuple):
    """Weights and mask as kernels read them: flat, contiguous; each element covers ``inner`` neighbouring losses."""

    weights: Any
    weight_inner: int
    mask: Any
    mask_inner: int

    def of_column(self, column: int, columns: int) -> Weighed:
        """Those of one column of losses, the last of their axes having so many."""
        weights = _of_column(self.weights, self.weight_inner, column, columns)
        return Weighed(*weights, *_of_column(self.mask, self.mask_inner, column, columns))


def given(name: str, argument: str, array: Any, y_pred: Any, like: str = "y_pred") -> Any:
    """An argument that must be where a prediction is, whose name is ``like``.

    Raises
    ------
    TypeError
        If it is no CuPy array.
    ValueError
        If it is on another device.
    """
    if not is_there(array):
        kind = "a NumPy array" if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
        raise TypeError(
            rejected(name, argument, f"be a CuPy array, as {like} is", kind, "Convert it: cupy.asarray(array)")
        )
    if array.device.id != y_pred.device.id:
        rule = f"be on {like}'s device, {y_pred.device.id}"
        raise ValueError(rejected(name, argument, rule, f"an array on device {array.device.id}"))
    require_aligned(name, argument, array)
    return array


def require_aligned(name: str, argument: str, array: Any) -> None:
    """Refuse an array whose elements lie at odd addresses: a GPU cannot read them, and nothing after that.

    Raises
    ------
    ValueError
        If it is such a view of bytes.
    """
    if any(place % array.itemsize for place in (array.data.ptr, *array.strides)):
        rule = f"have its elements at multiples of {array.itemsize} bytes"
        raise ValueError(rejected(name, argument, rule, "a view of bytes that has not", "Copy the bytes first"))


def weighed(
    name: str,
    shape: tuple[int, ...],
    y_pred: Any,
    computing: str,
    sample_weight: Any,
    mask: Any,
    check: str,
    like: str = "y_pred",
) -> Weighed:
    """Weights and mask of losses of the given shape, checked but for their values."""
    weight_inner = mask_inner = 1
    if type(sample_weight) is not bool and isinstance(sample_weight, Real):
        number = checked_weights(name, np.array([sample_weight], np.float64), precision_of(y_pred))
        sample_weight, weight_inner = launch.filled(float(number[0]), computing), max(math.prod(shape), 1)
    elif sample_weight is not None:
        weights = given(name, "sample_weight", sample_weight, y_pred, like)
        require_real(name, weights.dtype)
        weight_inner = covered(name, "sample_weight", weights.shape, shape)
        if check == "raise":
            checked_weights(name, weights.get().reshape(-1), precision_of(y_pred))
        # Rounded to the precision of y_pred first, as on the CPU.
        weights = launch.converted(launch.converted(weights, np.dtype(precision_of(y_pred))), np.dtype(computing))
        sample_weight = contiguous(weights, "C").reshape(-1)
    if mask is not None:
        mask = given(name, "mask", mask, y_pred, like)
        require_boolean(name, mask.dtype)
        mask_inner = covered(name, "mask", mask.shape, shape)
        mask = contiguous(mask, "C").reshape(-1)
    return Weighed(sample_weight, max(weight_inner, 1), mask, max(mask_inner, 1))


def _of_column(flat: Any, inner: int, column: int, columns: int) -> tuple[Any, int]:
    if flat is None or not inner % columns:
        return flat, max(inner // columns, 1)
    return contiguous(flat.reshape(-1, columns)[:, column], "C"), 1


def own_inverse(
    name: str, normalizer: Any, y_pred: Any, scratch: launch.Workspace, check: str, like: str = "y_pred"
) -> tuple[Any, float]:
    """One over the caller's normaliser, which is a checked number, or an array of one number on the device."""
    if not is_there(normalizer):
        return None, inverse(normalizer)
    array = given(name, "normalizer", normalizer, y_pred, like)
    if array.size != 1 or array.dtype.kind not in "fiu":
        raise ValueError(rejected(name, "normalizer", "be one number", f"{array.shape} and {array.dtype}"))
    if check == "raise":
        checked_normalizer(name, float(array.get().reshape(())))
    number = launch.converted(array, np.dtype(np.float64)).reshape(1)
    counted = weighing.Counted(1, 1, number, 1, None, 1, None, None, None)
    return weighing.run(counted, "float64", scratch, y_pred.device.id), 1.0


def inverse_of(
    loss: Any,
    losses: int,
    y_pred: Any,
    weighed: Weighed,
    normalizer: Any,
    computing: str,
    scratch: launch.Workspace,
    check: str,
    like: str = "y_pred",
) -> tuple[Any, float]:
    """Where 1 / Z will be on the device, or None; and 1 / Z, where it is known here. Every loss counts alike."""
    if normalizer is not None:
        return own_inverse(loss.name, normalizer, y_pred, scratch, check, like)
    weights = weighed.weights if loss.reduction == "weighted_mean" else None
    if loss.reduction in ("sum", "none"):
        return None, 1.0
    if weights is None and weighed.mask is None:
        return None, inverse(losses)
    inners = [
        inner
        for array, inner in ((weights, weighed.weight_inner), (weighed.mask, weighed.mask_inner))
        if array is not None
    ]
    inner = min(inners)
    counted = weighing.Counted(
        losses // inner, inner, weights, weighed.weight_inner // inner, weighed.mask, weighed.mask_inner // inner,
        None, None, None,
    )  # fmt: skip
    return weighing.run(counted, computing, scratch, y_pred.device.id), 1.0


def inverse(normalizer: float) -> float:
    """Its inverse, at most the largest number: 0 times it must stay 0."""
    return min(1.0 / normalizer, float(np.finfo(np.float64).max))


def results(name: str, outputs: int, p: Any, out: Any, hess_out: Any, operands: tuple[Any, ...]) -> tuple[Any, Any]:
    """Where gradient and Hessian go: the caller's buffers, checked, or new ones."""
    grad = hess = None
    if outputs & GRAD:
        grad = empty_like(p) if out is None else output(name, "out", out, p, p, operands)
    if outputs & HESS:
        others = (*operands, grad)
        hess = empty_like(p) if hess_out is None else output(name, "hess_out", hess_out, p, None, others)
    return grad, hess


def output(
    name: str, argument: str, out: Any, p: Any, in_place: Any, others: tuple[Any, ...], like: str = "y_pred"
) -> Any:
    """Check a buffer for results: see `fastloss.validate.output`."""
    buffer = given(name, argument, out, p, like)
    same_form(name, argument, buffer, p, like)
    require_elements_apart(name, argument, buffer)
    for other in others:
        if is_there(other) and clash(_addressed(buffer), _addressed(other), exact_allowed=other is in_place):
            raise ValueError(overlapping(name, argument, like))
    return buffer


class _Addresses:
    """Where an array lies, for NumPy's test of overlaps, which looks at addresses alone."""

    def __init__(self, array: Any) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (array.data.ptr, False),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
        }


def _addressed(array: Any) -> Any:
    return np.asarray(_Addresses(array))


def empty_like(array: Any) -> Any:
    """A new array of the same shape, dtype and, where it is contiguous, order."""
    return launch.empty(array.shape, array.dtype, "C" if array.flags.c_contiguous else _order(array))


def _order(array: Any) -> str:
    return "F" if array.flags.f_contiguous else "C"


def contiguous(array: Any, layout: str) -> Any:
    """The array in one piece of memory: itself where it is, else a copy."""
    flags = array.flags
    return array if (flags.c_contiguous if layout == "C" else flags.f_contiguous) else launch.copied(array, layout)


def buffer_like(result: Any, layout: str) -> Any:
    """Where a kernel may write: the result itself if it is in one piece of memory, else a temporary."""
    if result is None:
        return None
    flags = result.flags
    fits = flags.c_contiguous if layout == "C" else flags.f_contiguous
    return result if fits else launch.empty(result.shape, result.dtype, layout)
