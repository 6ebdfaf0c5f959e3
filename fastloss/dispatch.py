"""From the type of the arrays to the backend that computes on them: so far NumPy arrays and what converts to them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .messages import rejected

#: What a call may ask for, combined by ``|``.
VALUE, GRAD, HESS = 1, 2, 4


def require_supported(name: str, y_true: Any, y_pred: Any) -> None:
    """Require operands that the NumPy backend can read, or raise what the user should do instead.

    Raises
    ------
    TypeError
        For arrays that live elsewhere (a GPU, an autograd graph, a task graph) or hide a mask.
    """
    if type(y_pred) is not np.ndarray or type(y_true) is not np.ndarray:
        for argument, array in (("y_true", y_true), ("y_pred", y_pred)):
            require_host_array(name, argument, array)


def _is_a(array: Any, module: str, kind: str) -> bool:
    """Whether ``array`` is of a class of a module, without importing that module."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(array, getattr(loaded, kind, ()))


def require_host_array(name: str, argument: str, array: Any) -> None:
    """Refuse arrays that NumPy would convert silently wrongly, or not at all."""

    def refuse(what: str, hint: str) -> None:
        raise TypeError(rejected(name, argument, "be a NumPy array", what, hint))

    if isinstance(array, np.ma.MaskedArray):
        refuse("a numpy.ma.MaskedArray", "Pass array.filled(0) and mask=~numpy.ma.getmaskarray(array)")
    if _is_a(array, "cupy", "ndarray"):
        refuse("a CuPy array", "Convert it: cupy.asnumpy(array)")
    if _is_a(array, "torch", "Tensor"):
        if array.requires_grad:
            refuse("a torch tensor that requires grad", "Convert it: tensor.detach().numpy()")
        if array.device.type != "cpu":
            refuse(f"a torch tensor on {array.device}", "Convert it: tensor.cpu().numpy()")
    if _is_a(array, "dask.array", "Array"):
        refuse("a dask array", "Convert it: array.compute()")
    if _is_a(array, "scipy.sparse", "spmatrix") or _is_a(array, "scipy.sparse", "sparray"):
        refuse("a sparse array", "Convert it: array.toarray()")


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included; results are the same bits for any count.

    Raises
    ------
    ValueError
        If ``count`` is not an integer of 1 or more.

    Examples
    --------
    >>> import fastloss as fl
    >>> before = fl.get_num_threads()
    >>> fl.set_num_threads(1)
    >>> fl.get_num_threads()
    1
    >>> fl.set_num_threads(before)
    """
    from .cpu import pool

    pool.set_num_threads(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.get_num_threads() >= 1
    True
    """
    from .cpu import pool

    return pool.get_num_threads()
