"""Formulas at 50 digits: the same formula text on arrays of MPFR's numbers (ten times as fast as mpmath's).

An operand may carry its own meaning of the primitives in ``formula_namespace`` (that is how SIMD lanes do it);
`Exact` arrays carry MPFR's.
"""

from __future__ import annotations

import gmpy2
import numpy as np
from sampling import is_rowwise

from fastloss.reference import (
    element_parameters,
    element_results,
    linked,
    pair_results,
    pair_values,
    row_gradients,
    row_results,
    row_values,
)

gmpy2.get_context().precision = 170  # bits: 51 digits

#: Name, among a loss's inputs, of factors of what its link makes of predictions: 1, and rounded like other inputs.
LINKED = "linked"


ZERO, NAN, INFINITY = gmpy2.mpfr(0), gmpy2.mpfr("nan"), gmpy2.mpfr("inf")


def number(x):
    """A number of 50 digits; what it is given is exact."""
    return gmpy2.mpfr(x) if x else ZERO  # which has no sign


def _log(x):
    return gmpy2.log(x) if x else -INFINITY


def _power(x, exponent):
    return NAN if x < 0 else number(x) ** number(exponent)


#: Every primitive on single numbers.
EXACT = {
    "exp": gmpy2.exp,
    "exp_nonpositive": gmpy2.exp,
    "expm1": gmpy2.expm1,
    "expm1_nonpositive": gmpy2.expm1,
    "log": _log,
    "log1p": gmpy2.log1p,
    "log1p_unit": gmpy2.log1p,
    "power": _power,
    "sqrt": gmpy2.sqrt,
    "abs": abs,
}


class _Namespace:
    def __getattr__(self, name):
        if name == "where":
            return lambda condition, yes, no: np.where(np.asarray(condition, bool), yes, no).view(Exact)
        function = EXACT[name]
        return lambda *operands: np.asarray(
            np.frompyfunc(function, len(operands), 1)(*map(np.asarray, operands)), object
        ).view(Exact)


def _quotient(left, right):
    if right or left != left:
        return left / right
    return gmpy2.sign(left) * INFINITY if left else NAN


_divide = np.frompyfunc(_quotient, 2, 1)


class Exact(np.ndarray):
    """An array of numbers of 50 digits. Unlike their own, their division by 0 is an infinity."""

    formula_namespace = _Namespace()

    def __truediv__(self, other):
        return np.asarray(_divide(np.asarray(self), np.asarray(other)), object).view(Exact)

    def __rtruediv__(self, other):
        return np.asarray(_divide(np.asarray(other), np.asarray(self)), object).view(Exact)


def exact(numbers):
    """The numbers of a float array, as they are."""
    numbers = np.asarray(numbers, np.float64)
    return np.array([number(float(x)) for x in numbers.flat], object).reshape(numbers.shape).view(Exact)


def exact_inputs(loss, y, p):
    """Everything that a loss's formula reads, by name, as `Exact` arrays; and the labels, if any."""
    if loss.several:
        return {name: exact(value) for name, value in pair_values(loss, y, p).items()}, None
    if not is_rowwise(loss):
        values = {**element_parameters(loss, p), "y": y, "p": p}
        return {name: exact(value) for name, value in values.items()}, None
    values, labels = row_values(loss, y, p)
    # The true class's prediction and weight, and the sum of weights, are taken from x and class_weight below.
    taken = ("target_x", "target_weight", "class_weight_sum")
    inputs = {name: exact(value) for name, value in values.items() if name not in taken}
    if loss.formula().link is not None:
        inputs[LINKED] = exact(np.ones(values["x"].shape))
    return inputs, labels


def exact_results(loss, inputs, labels):
    """Values, gradients and Hessians, shape (rows, 1) and (rows, classes) or that of p."""
    if loss.several:
        return [np.asarray(result) for result in pair_results(loss, inputs)]
    if not is_rowwise(loss):
        formula = loss.formulas()[loss.variant()]
        results = element_results(formula, inputs, inputs["y"], inputs["p"])
        return [np.broadcast_to(np.asarray(result, object), inputs["p"].shape) for result in results]
    values = {**inputs, "class_weight_sum": np.asarray(inputs["class_weight"]).sum()}
    formula = loss.formula()
    if labels is not None:
        own = np.take_along_axis(np.asarray(inputs["x"]), labels, -1)
        weights = np.asarray(inputs["class_weight"])[labels]
        values |= {"target_x": own.view(Exact), "target_weight": weights.view(Exact)}
    values = linked(formula, values)
    if LINKED in inputs:
        values["x"] = values["x"] * inputs[LINKED]
        if labels is not None:
            values["target_x"] = np.take_along_axis(np.asarray(values["x"]), labels, -1).view(Exact)
    value, values = row_results(formula, values)
    return [np.asarray(value), *row_gradients(formula, values, labels)]


def ulp(numbers, dtype):
    """Distance between neighbouring numbers of a dtype at each (50-digit or float) number, as float64."""
    information = np.finfo(dtype)
    smallest = float(information.tiny)
    magnitudes = np.maximum(np.abs(np.asarray(numbers, np.float64)), smallest)
    return np.exp2(np.floor(np.log2(magnitudes)) - information.nmant)
