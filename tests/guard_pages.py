"""Arrays that end, or start, exactly at memory that may not be touched, and every kernel run on them.

A read or write one element too far ends the process, where a sanitizer sees nothing of compiled-at-run-time code.
Run as a program with the name of a loss it sweeps sizes around the borders of lanes, tiles and chunks.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys

import numpy as np

_CANARY = 0xA5
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None


def fenced(values, at_end=True):
    """A copy of an array whose last (or first) byte lies beside a page without access.

    What its pages hold besides it is filled with canaries: see `intact`.
    """
    values = np.asarray(values)
    page = mmap.PAGESIZE
    pages = max(1, -(-values.nbytes // page))
    memory = mmap.mmap(-1, (pages + 2) * page)
    everything = np.frombuffer(memory, np.uint8)
    inside = everything[page : (pages + 1) * page]
    inside[:] = _CANARY
    address = everything.ctypes.data
    for start in (address, address + (pages + 1) * page):
        if _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(page), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    first = inside.size - values.nbytes if at_end else 0
    array = inside[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    array[...] = values
    return array


def intact(array):
    """Whether the canaries around a fenced array live."""
    inside = np.frombuffer(_memory(array), np.uint8)[mmap.PAGESIZE : -mmap.PAGESIZE]
    first = array.__array_interface__["data"][0] - inside.__array_interface__["data"][0]
    return bool(np.all(inside[:first] == _CANARY) and np.all(inside[first + array.nbytes :] == _CANARY))


def _memory(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


class FencedNumPy:
    """Stands in for the module numpy: arrays that the package makes for itself are fenced too."""

    def __init__(self, at_end):
        self.at_end, self.made = at_end, []

    def __getattr__(self, name):
        return getattr(np, name)

    def _fenced(self, values):
        self.made.append(fenced(values, self.at_end))
        return self.made[-1]

    def empty(self, *args, **kwargs):
        return self._fenced(np.empty(*args, **kwargs))

    def empty_like(self, *args, **kwargs):
        return self._fenced(np.empty_like(*args, **kwargs))

    def zeros(self, *args, **kwargs):
        return self._fenced(np.zeros(*args, **kwargs))

    def where(self, *args):
        return self._fenced(np.where(*args))


def stand_in(numpy):
    """Let the package's modules use another ``numpy``."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "fastloss" and hasattr(module, "np"):
            module.np = numpy


def _shapes(rowwise, thorough):
    if not rowwise:
        borders = (1, 16, 32, 48, 64, 96, 4096, 8192, 65_536)
        return [(size + step,) for size in borders for step in (-1, 0, 1) if size + step]
    few = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
    if not thorough:  # the same kernels in other types, or of formulas of a rarer shape
        return [*itertools.product((1, 17), few), *itertools.product((3,), (96, 97, 129, 161, 193, 257))]
    shapes = list(itertools.product((1, 2, 15, 16, 17, 31, 32, 33), few))
    shapes += [(4096 // classes + 1, classes) for classes in (1, 3, 8, 10)]
    many = (96, 97, 127, 128, 129, 160, 161, 191, 192, 193, 255, 256, 257, 300)
    return shapes + list(itertools.product((1, 3), many)) + [(257, 64), (129, 127)]


def _large_shape(rowwise):
    """Enough for many threads and for stores that bypass the caches; rows of whole 16 bytes."""
    return (5, 2**20 + 4) if rowwise else (2**22 + 36,)


def _storages(rowwise, indexed, every):
    """Types of y_true (None: that of y_pred) and y_pred, to be tried with one variant of a loss."""
    if not every:
        return [(None, "float32")]
    storages = [(None, "float64"), (None, "float32"), (None, "bfloat16")]
    if not rowwise:
        storages += [(None, "float16"), ("bool", "float32")]
    return [("uint8" if indexed and pred == "bfloat16" else true, pred) for true, pred in storages]


def _converted(array, dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    return array.astype(dtype)


def _operands(name, shape, true, pred):
    from catalogue import LOSSES, operands

    y, p = operands(name, shape)
    if LOSSES[name].family == "rowwise" and LOSSES[name].indexed:
        return (y % 256).astype(true or "int64"), _converted(p, pred)
    return _converted(y > 0.4 if true == "bool" else y, true or pred), _converted(p, pred)


def check(loss, y, p, weight, at_end):
    """A call on fenced copies, with all results that the loss's reduction lets it write; give the results."""
    print(loss, y.dtype, p.dtype, p.shape, "weighted" * (weight is not None), at_end, flush=True)
    numpy = FencedNumPy(at_end)
    given = [fenced(a, at_end) for a in (y, p, np.zeros_like(p), np.zeros_like(p))]
    weights = None if weight is None else fenced(weight, at_end)
    stand_in(numpy)
    try:
        if loss.reduction == "none":
            results = loss.value_grad_and_hess(*given[:2], weights, out=given[2], hess_out=given[3])
        else:
            loss.value_and_grad(*given[:2], weights, out=given[2])
            results = loss.value_and_grad(*given[:2], weights, out=given[2])  # by the short way, if there is one
    finally:
        stand_in(np)
    assert all(intact(a) for a in (*given, *numpy.made))
    return [np.asarray(result).tobytes() for result in results]


def main(name):
    """Sweep one loss: its first variant in all storage types, weighted too; the others in float32.

    So also all variants of a loss that stands for a rarer shape of formula only.
    """
    from catalogue import LOSSES, THOROUGH, loss_shape, variant_cases

    kind = LOSSES[name]
    rowwise = kind.family == "rowwise"
    for number, (_, parameters) in enumerate(variant_cases([name])):
        first = number == 0 and name in THOROUGH
        for true, pred in _storages(rowwise, rowwise and kind.indexed, first):
            thorough = first and true is None and pred == "float32"
            reductions = ("none", "mean") if thorough else ("none",)
            losses = [kind(**parameters, reduction=reduction) for reduction in reductions]
            for shape in _shapes(rowwise, thorough) + [_large_shape(rowwise)] * thorough:
                y, p = _operands(name, shape, true, pred)
                weight = np.linspace(0, 2, np.prod(loss_shape(name, shape)), dtype="float32")
                for loss, given in itertools.product(losses, (None, weight) if thorough else (None,)):
                    assert check(loss, y, p, given, True) == check(loss, y, p, given, False)


if __name__ == "__main__":
    main(sys.argv[1])
