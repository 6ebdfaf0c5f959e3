"""The operations a formula may use, and what each means on every kind of operand.

A formula is ordinary Python, so calling it with float64 arrays *is* the reference. Each **primitive** below has

- a meaning on NumPy arrays and Python floats: the ``numpy`` column of `PRIMITIVES`;
- a meaning as CUDA C++: the ``cuda`` column, a template of the operands;
- a meaning on Numba scalars and SIMD vectors: a method of the same name on the namespace that such an operand
  carries in its ``formula_namespace`` attribute (see `fastloss.cpu.vector_math`).

**Composites** are formulas themselves: every backend derives them from the primitives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Operand = Any


class Primitive(NamedTuple):
    """One operation's meaning on NumPy arrays and as CUDA C++ text."""

    numpy: Callable[..., Any]
    cuda: str


PRIMITIVES: dict[str, Primitive] = {
    "where": Primitive(np.where, "({0} ? {1} : {2})"),
    "exp": Primitive(np.exp, "exp({0})"),
    "exp_nonpositive": Primitive(np.exp, "exp({0})"),
    "expm1": Primitive(np.expm1, "expm1({0})"),
    "expm1_nonpositive": Primitive(np.expm1, "expm1({0})"),
    "log": Primitive(np.log, "log({0})"),
    "log1p": Primitive(np.log1p, "log1p({0})"),
    "log1p_unit": Primitive(np.log1p, "log1p({0})"),
    "power": Primitive(
        lambda x, exponent: np.where(x == x, np.power(x, exponent), x), "({0} == {0} ? pow({0}, {1}) : {0})"
    ),
    "sqrt": Primitive(np.sqrt, "sqrt({0})"),
    "abs": Primitive(np.abs, "fabs({0})"),
}


def _apply(name: str, *operands: Operand) -> Operand:
    for operand in operands:
        namespace = getattr(operand, "formula_namespace", None)
        if namespace is not None:
            return getattr(namespace, name)(*operands)
    # IEEE limits (log 0, exp overflow) are results here, not accidents worth a warning.
    with np.errstate(all="ignore"):
        return PRIMITIVES[name].numpy(*operands)


def where(condition: Operand, yes: Operand, no: Operand) -> Operand:
    """``yes`` where the condition holds, else ``no``; both are evaluated."""
    return _apply("where", condition, yes, no)


def exp(x: Operand) -> Operand:
    """Exponential; overflows to inf, underflows to 0."""
    return _apply("exp", x)


def exp_nonpositive(x: Operand) -> Operand:
    """Exponential for x <= 0 only: cheaper than `exp` on SIMD lanes."""
    return _apply("exp_nonpositive", x)


def expm1(x: Operand) -> Operand:
    """``exp(x) - 1`` without cancellation; on SIMD lanes it shares what `exp` computes."""
    return _apply("expm1", x)


def expm1_nonpositive(x: Operand) -> Operand:
    """``exp(x) - 1`` for x <= 0 only; on SIMD lanes it shares what `exp_nonpositive` computes."""
    return _apply("expm1_nonpositive", x)


def log(x: Operand) -> Operand:
    """Natural logarithm; -inf at 0, NaN below."""
    return _apply("log", x)


def log1p(x: Operand) -> Operand:
    """``log(1 + x)`` without cancellation, for x > -1."""
    return _apply("log1p", x)


def log1p_unit(x: Operand) -> Operand:
    """``log(1 + x)`` for 0 <= x <= 1 only: cheaper than `log1p` on SIMD lanes."""
    return _apply("log1p_unit", x)


def power(x: Operand, exponent: Operand) -> Operand:
    """``x`` to any finite exponent, for x >= 0 only; 0^0 is 1, NaN stays NaN.

    On SIMD lanes exponents of 0, 1/2, 1 and 2 that are known when a kernel is compiled take no logarithm.
    """
    return _apply("power", x, exponent)


def sqrt(x: Operand) -> Operand:
    """Square root; NaN below 0."""
    return _apply("sqrt", x)


# -- composites: formulas in the primitives above ----------------------------------------------------------------


def clip(x: Operand, lowest: Operand, highest: Operand) -> Operand:
    """``x`` limited to [lowest, highest]; NaN stays NaN."""
    return where(x < lowest, lowest, where(x > highest, highest, x))


def nothing_of(x: Operand) -> Operand:
    """0 for every number, also infinite ones; NaN stays NaN."""
    return where(x == x, 0.0, x)


def or_nothing(product: Operand, x: Operand) -> Operand:
    """A product, or 0 where that is NaN but x, which it is made of, is not: where it is 0 times infinity."""
    return where(product == product, product, nothing_of(x))


def sign(x: Operand) -> Operand:
    """-1, 0 or 1; NaN stays NaN."""
    return where(x > 0.0, 1.0, where(x < 0.0, -1.0, x))


def positive_part(x: Operand) -> Operand:
    """``max(x, 0)``; NaN stays NaN."""
    return where(x < 0.0, 0.0, x)


def product(factor: Operand, x: Operand) -> Operand:
    """``factor * x`` with 0 * x = 0 for every x, also infinite ones and NaN."""
    return where(factor == 0.0, 0.0, factor * x)


def quotient(x: Operand, divisor: Operand) -> Operand:
    """``x / divisor`` with 0 / divisor = 0 for every divisor, also 0."""
    return where(x == 0.0, 0.0, x / divisor)


def sigmoid(x: Operand) -> Operand:
    """``1 / (1 + exp(-x))`` with full relative accuracy in both tails."""
    tail = exp_nonpositive(-abs(x))
    return where(x < 0.0, tail, 1.0) / (1.0 + tail)


def tanh(x: Operand) -> Operand:
    """Hyperbolic tangent with full relative accuracy at 0 and in both tails."""
    less = expm1_nonpositive(-2.0 * abs(x))
    return where(x < 0.0, less, -less) / (2.0 + less)


def softplus(x: Operand) -> Operand:
    """``log(1 + exp(x))`` with full relative accuracy in both tails."""
    return positive_part(x) + log1p_unit(exp_nonpositive(-abs(x)))


def exp_in_factors(x: Operand) -> tuple[Operand, Operand]:
    """Two factors of ``exp(x)``, the second 1 for x of -30 and more; below, both are its root.

    A number times an exponential may be one where the exponential alone is too small, and flushed to 0: multiply by
    the first, do the rest, then multiply by the second.
    """
    small = x < -30.0
    factor = exp(where(small, 0.5 * x, x))
    return factor, where(small, factor, 1.0)
