"""Formulas that losses on probabilities share.

Of a clipped one, q is an element's share of its row, clipped to [epsilon, 1 - epsilon]: outside of the clip an element
adds to the value, but the gradient there is 0 (as Keras has it).
"""

from __future__ import annotations

from .ops import Operand, clip, exp_nonpositive, log, where


def log_clipped(q: Operand, epsilon: Operand) -> Operand:
    """Logarithm of the clipped probability."""
    return log(clip(q, epsilon, 1.0 - epsilon))


def reached(goal: Operand, q: Operand, epsilon: Operand) -> Operand:
    """``goal`` inside the clip, else 0 (``0.0 * goal``, so that a NaN shows)."""
    return where((q < epsilon) | (q > 1.0 - epsilon), 0.0 * goal, goal)


def sigmoids(x: Operand) -> tuple[Operand, Operand]:
    """``1 / (1 + exp(-x))`` and what is missing to 1, each with full relative accuracy."""
    tail = exp_nonpositive(-abs(x))
    upper = where(x < 0.0, tail, 1.0) / (1.0 + tail)
    lower = where(x < 0.0, 1.0, tail) / (1.0 + tail)
    return upper, lower


def sigmoid_slope(x: Operand) -> Operand:
    """Derivative of ``1 / (1 + exp(-x))``, the product of both `sigmoids`."""
    tail = exp_nonpositive(-abs(x))
    return tail / ((1.0 + tail) * (1.0 + tail))
