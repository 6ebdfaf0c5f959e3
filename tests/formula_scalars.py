"""A formula evaluated as Numba scalars, element by element: what it means without SIMD lanes."""

from __future__ import annotations

from functools import cache

import numpy as np

from fastloss.cpu.cache import compiled, fingerprint
from fastloss.cpu.emit import array_pointer, emit
from fastloss.cpu.lanes import Lanes
from fastloss.cpu.storage import STORAGES
from fastloss.cpu.vector_math import where
from fastloss.formula.subset import check


def scalar_results(formula, arguments):
    """The formula at every column of ``arguments``.

    Parameters
    ----------
    formula : callable
        A formula; the arguments that it uses as masks are false where they are 0.
    arguments : ndarray, shape (arguments, points), float32 or float64
        One row for each argument.

    Returns
    -------
    ndarray, shape (outputs, points)
        Same dtype; a mask comes back as 0 and 1.
    """
    results = np.empty((check(formula).outputs, arguments.shape[1]), arguments.dtype)
    _sweep(formula, arguments.dtype.name)(np.ascontiguousarray(arguments), results, arguments.shape[1])
    return results


@cache
def _sweep(formula, dtype):
    storage = STORAGES[dtype]
    pointer = array_pointer(storage)
    step = emit(_step(formula, storage.memory))

    def sweep(arguments, results, points):
        inputs, outputs = pointer(arguments), pointer(results)
        for index in range(points):
            step(inputs, outputs, index, points)

    return compiled(sweep, ("array", "array", "int"), fingerprint(formula) + dtype)


def _step(formula, element):
    source = check(formula)

    def step(inputs, outputs, index, points):
        operands = [inputs.moved(points * i + index).load(element, 0) for i in range(len(source.arguments))]
        masks = [source.kinds[name] == "mask" for name in source.arguments]
        results = formula(*[x != 0.0 if mask else x for x, mask in zip(operands, masks, strict=True)])
        for i, result in enumerate(results if source.returns_tuple else (results,)):
            outputs.moved(points * i + index).store(_as_real(result, operands[0]))

    return step


def _as_real(result, example):
    """A formula may also return a mask, or a number that depends on no argument."""
    if not isinstance(result, Lanes):
        return example.constant(result)
    return result if result.is_float else where(result, 1.0, 0.0)
