"""Formulas that losses of distances share: p-norms of differences, ``(sum |a - b + eps|^p)^(1/p)``.

Sizes are taken as shares of the row's largest one, its ``peak``, so that no power overflows or vanishes. Those at the
peak are counted (``peaks``) and the others' powers summed (``rest``) apart: an element's own part of the sum is then
told from that of all others without a subtraction that cancels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from .ops import Operand, power, quotient, sign, sqrt, where


def difference(left: Operand, right: Operand, eps: Operand) -> Operand:
    """One element of the vector whose norm is the distance."""
    return (left - right) + eps


def size(left: Operand, right: Operand, eps: Operand) -> Operand:
    """Its magnitude."""
    return abs(difference(left, right, eps))


class Norm(NamedTuple):
    """The formulas of one norm.

    ``parts(left, right, eps, peak, p)`` gives what an element adds to ``rest`` and to ``peaks``;
    ``length(peak, rest, peaks, p)`` the distance; ``derivatives(left, right, eps, peak, rest, peaks, length, p)`` its
    first derivative by an element of the left row, which is that by the right one's with the sign changed, and its
    second, which is the same for both. Those of a distance of 0 are 0.
    """

    parts: Callable[..., Any]
    length: Callable[..., Any]
    derivatives: Callable[..., Any]


def _norm(raised: Any, root: Any, slope: Any, bend: Any) -> Norm:
    """A norm by four formulas of shares in [0, 1]: of the peak, and of the length."""

    def parts(left: Any, right: Any, eps: Any, peak: Any, p: Any) -> Any:
        own = size(left, right, eps)
        return where(own == peak, 0.0, raised(own / peak, p)), where(own == peak, 1.0, 0.0)

    def length(peak: Any, rest: Any, peaks: Any, p: Any) -> Any:
        return peak * root(peaks + rest, p)

    def derivatives(left: Any, right: Any, eps: Any, peak: Any, rest: Any, peaks: Any, length: Any, p: Any) -> Any:
        own = size(left, right, eps)
        share = quotient(own, length)
        others = where(own == peak, rest + (peaks - 1.0), (peaks + rest) - raised(quotient(own, peak), p))
        curvature = bend(share, p) * (others / (peaks + rest)) / length
        first = sign(difference(left, right, eps)) * slope(own, peak, share, peaks, p)
        return first, where(length == 0.0, 0.0, curvature)

    return Norm(parts, length, derivatives)


def _same(x: Any, p: Any) -> Any:
    return x


def _one(own: Any, peak: Any, share: Any, peaks: Any, p: Any) -> Any:
    return 1.0


def _none(x: Any, p: Any) -> Any:
    return 0.0 * x


def _square(x: Any, p: Any) -> Any:
    return x * x


def _square_root(x: Any, p: Any) -> Any:
    return sqrt(x)


def _share(own: Any, peak: Any, share: Any, peaks: Any, p: Any) -> Any:
    return share


def _steady(share: Any, p: Any) -> Any:
    return 1.0


def _one_or_nan(x: Any, p: Any) -> Any:
    return where(x == x, 1.0, x)


def _largest(own: Any, peak: Any, share: Any, peaks: Any, p: Any) -> Any:
    return where(own == peak, 1.0 / peaks, 0.0)


def _raised(x: Any, p: Any) -> Any:
    return power(x, p)


def _root(x: Any, p: Any) -> Any:
    return power(x, 1.0 / p)


def _slope(own: Any, peak: Any, share: Any, peaks: Any, p: Any) -> Any:
    return power(share, p - 1.0)


def _bend(share: Any, p: Any) -> Any:
    return (p - 1.0) * power(share, p - 2.0)


#: By name: degree 2, 1, infinity, and any other.
NORMS = {
    "euclidean": _norm(_square, _square_root, _share, _steady),
    "taxicab": _norm(_same, _same, _one, _none),
    "chebyshev": _norm(_none, _one_or_nan, _largest, _none),
    "minkowski": _norm(_raised, _root, _slope, _bend),
}


def norm_of(p: float) -> str:
    """Name of the norm of a degree."""
    return {1.0: "taxicab", 2.0: "euclidean", math.inf: "chebyshev"}.get(p, "minkowski")
