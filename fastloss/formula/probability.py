"""Formulas that losses on probabilities share: q is an element's share of its row, clipped to [epsilon, 1 - epsilon].

Outside the clip an element adds to the value, but the gradient there is 0 (as Keras has it).
"""

from __future__ import annotations

from .ops import Operand, clip, log, where


def log_clipped(q: Operand, epsilon: Operand) -> Operand:
    """Logarithm of the clipped probability."""
    return log(clip(q, epsilon, 1.0 - epsilon))


def reached(goal: Operand, q: Operand, epsilon: Operand) -> Operand:
    """``goal`` inside the clip, else 0 (``0.0 * goal``, so that a NaN shows)."""
    return where((q < epsilon) | (q > 1.0 - epsilon), 0.0 * goal, goal)
