"""What goes in and out of a call: array types, shapes, layouts; every message a user can see about them."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from .messages import rejected

Array = np.ndarray[Any, np.dtype[Any]]

_FLOATS = {np.dtype(t): t for t in ("float16", "float32", "float64")}
#: Integer types that kernels read as they are, and what others are converted to first.
_INTEGERS = {
    "bool": "uint8", "uint8": "uint8", "int8": "int32", "int16": "int32", "uint16": "int32", "int32": "int32",
    "uint32": "int64", "int64": "int64", "uint64": "float64",
}  # fmt: skip


def dtype_named(name: str) -> np.dtype[Any]:
    """The NumPy dtype of that name; bfloat16 comes from ml_dtypes.

    Raises
    ------
    ImportError
        If it needs ml_dtypes and that is not installed.
    """
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


#: Effort spent on telling interleaved arrays from overlapping ones; past it they count as overlapping.
_OVERLAP_WORK: Any = 10_000


@lru_cache(maxsize=256)
def storage_name(dtype: np.dtype[Any]) -> str | None:
    """Name of a floating-point type that kernels compute on, or None."""
    known = _FLOATS.get(dtype)
    if known is None and dtype.name == "bfloat16" and dtype.itemsize == 2 and dtype.isnative:
        return "bfloat16"
    return known


def prediction(name: str, array: Any, argument: str = "y_pred") -> Array:
    """A prediction as a NumPy array of a supported floating-point type; lists of integers become float64."""
    given = isinstance(array, np.ndarray) or hasattr(array, "dtype")
    values = as_array(name, argument, array)
    if not given and values.dtype.kind in "biu":
        return values.astype(np.float64)
    require_prediction(name, values.dtype, argument)
    return values


def require_prediction(name: str, dtype: np.dtype[Any], argument: str = "y_pred") -> None:
    """Refuse predictions of other types than kernels compute on."""
    if storage_name(dtype) is None:
        rule = "be float16, bfloat16, float32 or float64"
        raise TypeError(rejected(name, argument, rule, dtype, _dtype_hint(dtype)))


def target(name: str, array: Any) -> Array:
    """``y_true`` of an elementwise or dense loss: any floating-point type, bool or integer."""
    values = as_array(name, "y_true", array)
    require_target(name, values.dtype)
    return values


def require_target(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse targets that are no real numbers."""
    if storage_name(dtype) is None and _integer_name(dtype) is None:
        rule = "be bool, integer or floating-point"
        raise TypeError(rejected(name, "y_true", rule, dtype, _dtype_hint(dtype)))


def labels(name: str, array: Any) -> Array:
    """``y_true`` of a loss whose target is a class number: any integer type."""
    given = isinstance(array, np.ndarray) or hasattr(array, "dtype")
    values = as_array(name, "y_true", array)
    if not given and values.size == 0:
        return values.astype(np.int64)  # an empty list
    require_labels(name, values.dtype)
    return values


def require_labels(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse class numbers that are no integers."""
    if _integer_name(dtype) is None or dtype == np.bool_:
        hint = "Convert it: array.astype('int64')" if dtype.kind in "bf" else _dtype_hint(dtype)
        raise TypeError(rejected(name, "y_true", "hold integer class numbers", dtype, hint))


def as_array(name: str, argument: str, array: Any) -> Array:
    """``numpy.asarray`` with the library's own errors.

    Raises
    ------
    TypeError
        For arrays that live elsewhere (a GPU, an autograd graph, a task graph) or hide a mask.
    ValueError
        For what NumPy cannot convert.
    """
    if type(array) is np.ndarray:
        plain: Array = array
        return plain
    _require_host_array(name, argument, array)
    try:
        return np.asarray(array)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(rejected(name, argument, "be array-like", f"{type(array).__name__}: {error}")) from None


def _is_a(array: Any, module: str, kind: str) -> bool:
    """Whether ``array`` is of a class of a module, without importing that module."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(array, getattr(loaded, kind, ()))


def _require_host_array(name: str, argument: str, array: Any) -> None:
    """Refuse arrays that NumPy would convert silently wrongly, or not at all."""

    def refuse(what: str, hint: str) -> None:
        raise TypeError(rejected(name, argument, "be a NumPy array", what, hint))

    if isinstance(array, np.ma.MaskedArray):
        refuse("a numpy.ma.MaskedArray", "Pass array.filled(0) and mask=~numpy.ma.getmaskarray(array)")
    if _is_a(array, "cupy", "ndarray"):
        refuse("a CuPy array", "Convert it: cupy.asnumpy(array), or give every array as a CuPy array: cupy.asarray")
    if _is_a(array, "torch", "Tensor"):
        if array.requires_grad:
            refuse("a torch tensor that requires grad", "Convert it: tensor.detach().numpy()")
        if array.device.type != "cpu":
            refuse(f"a torch tensor on {array.device}", "Convert it: tensor.cpu().numpy()")
    if _is_a(array, "dask.array", "Array"):
        refuse("a dask array", "Convert it: array.compute()")
    if _is_a(array, "scipy.sparse", "spmatrix") or _is_a(array, "scipy.sparse", "sparray"):
        refuse("a sparse array", "Convert it: array.toarray()")


@lru_cache(maxsize=256)
def _integer_name(dtype: np.dtype[Any]) -> str | None:
    return _INTEGERS.get(dtype.name) if dtype.kind in "biu" and dtype.isnative else None


def _dtype_hint(dtype: np.dtype[Any]) -> str:
    if not dtype.isnative:
        return "Convert it: array.astype(array.dtype.newbyteorder('='))"
    if dtype.kind in "biu":
        return "Convert it: array.astype('float32')"
    return "Convert it: array.astype('float64')" if dtype.kind in "fO" else ""


def first_of(array: Array, bad: Array) -> str:
    """The first bad element and where it is, in words."""
    position = np.unravel_index(int(np.argmax(bad)), array.shape)
    return f"{array[position]} at position [{', '.join(str(int(i)) for i in position)}]"


def in_memory(array: Array) -> tuple[str, Array]:
    """Storage name and the array as kernels read it: rare integer types are widened."""
    name = storage_name(array.dtype)
    if name is not None:
        return name, array
    kept = _integer_name(array.dtype)
    assert kept is not None
    return kept, array if array.dtype == np.bool_ else array.astype(kept, copy=False)


def labels_in_memory(array: Array, ignored: int | None) -> tuple[str, Array, int | None]:
    """Storage name, class numbers and the ignored one as kernels read them."""
    array, ignored = signed_labels(array, ignored)
    return *in_memory(array), ignored


def signed_labels(array: Any, ignored: int | None) -> tuple[Any, int | None]:
    """Class numbers, and the ignored one if a label can have it, as no wider than int64.

    uint64 numbers are read as int64: those from 2**63 on become negative, which no class number is.
    """
    limits = np.iinfo(array.dtype)
    if ignored is not None and not limits.min <= ignored <= limits.max:
        ignored = None
    if array.dtype == np.uint64:
        ignored = ignored - 2**64 if ignored is not None and ignored >= 2**63 else ignored
        return array.view(np.int64), ignored
    return array, ignored


def precision_of(y_pred: Array) -> str:
    """Precision of what goes in and comes out besides y_true and y_pred."""
    return "float64" if y_pred.dtype == np.float64 else "float32"


def same_shape(name: str, array: Array, other: Array, argument: str = "y_true", like: str = "y_pred") -> None:
    """Require equal shapes: broadcasting (n,) against (n, 1) would silently pair everything with everything."""
    if array.shape != other.shape:
        hint = f"Reshape it: {argument}.reshape({other.shape})" if array.size == other.size else ""
        raise ValueError(rejected(name, argument, f"have {like}'s shape {other.shape}", array.shape, hint))


def same_form(name: str, argument: str, out: Any, y_pred: Any, like: str = "y_pred") -> None:
    """Require a prediction's shape and dtype of a buffer for results."""
    if out.shape != y_pred.shape or out.dtype != y_pred.dtype:
        rule = f"have {like}'s shape {y_pred.shape} and dtype {y_pred.dtype}"
        raise ValueError(rejected(name, argument, rule, f"{out.shape} and {out.dtype}"))


def output(
    name: str,
    argument: str,
    out: Any,
    y_pred: Array,
    in_place: Array | None,
    others: tuple[Any, ...],
    like: str = "y_pred",
) -> Array:
    """Check a buffer for results: it must fit a prediction and overlap nothing but, exactly, ``in_place``."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        if _is_a(out, "cupy", "ndarray"):
            raise TypeError(rejected(name, argument, f"be a NumPy array, as {like} is", "a CuPy array"))
        raise TypeError(rejected(name, argument, "be a NumPy array", type(out).__name__))
    buffer: Array = out
    same_form(name, argument, buffer, y_pred, like)
    if not buffer.flags.writeable:
        raise ValueError(rejected(name, argument, "be writable", "a read-only array"))
    require_elements_apart(name, argument, buffer)
    for other in others:
        if isinstance(other, np.ndarray) and clash(buffer, other, exact_allowed=other is in_place):
            raise ValueError(overlapping(name, argument, like))
    return buffer


def overlapping(name: str, argument: str, like: str = "y_pred") -> str:
    """What is said of a buffer for results that overlaps another argument."""
    out = argument.removeprefix("hess_")
    return rejected(name, argument, f"not overlap another argument, unless {out} is {like}", "an array that does")


def require_elements_apart(name: str, argument: str, out: Any) -> None:
    """Refuse a buffer in which elements share memory, as a broadcast one's do."""
    if not _elements_apart(out):
        got = f"strides {out.strides} for shape {out.shape}"
        raise ValueError(rejected(name, argument, "have its own memory for each element", got))


def _elements_apart(array: Any) -> bool:
    """Whether every stride steps over all that the smaller ones reach."""
    if array.flags.c_contiguous:
        return True
    reach = array.dtype.itemsize
    for stride, extent in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return False
        reach += stride * (extent - 1)
    return True


def clash(out: Array, other: Array, *, exact_allowed: bool) -> bool:
    """Whether two arrays share memory, unless they are the same elements and that is allowed."""
    if exact_allowed and (out is other or _identical(out, other)):
        return False
    if not np.may_share_memory(out, other):
        return False
    try:
        return bool(np.shares_memory(out, other, max_work=_OVERLAP_WORK))
    except np.exceptions.TooHardError:
        return True


def _identical(left: Array, right: Array) -> bool:
    same_start = left.__array_interface__["data"][0] == right.__array_interface__["data"][0]
    return bool(same_start and left.strides == right.strides and left.shape == right.shape)
