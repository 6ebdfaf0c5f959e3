"""Formulas that softmax losses share.

With ``kept = exp(x - peak)`` and ``total`` their sum over the row, an element's probability is ``kept / total``. The
sum is taken without one peak (``rest``, total = 1 + rest), so that the distance of a probability from 1 never comes
from a subtraction that cancels.
"""

from __future__ import annotations

from .ops import Operand, exp_nonpositive, where


def exponential(x: Operand, peak: Operand) -> Operand:
    """``exp(x - peak)``."""
    return exp_nonpositive(x - peak)


def below_peak(x: Operand, peak: Operand, kept: Operand) -> Operand:
    """The element's exponential if it is no peak, else 0."""
    return where(x == peak, 0.0, kept)


def at_peak(x: Operand, peak: Operand) -> Operand:
    """1 if the element is a peak, else 0."""
    return where(x == peak, 1.0, 0.0)


def missing(kept: Operand, rest: Operand, total: Operand) -> Operand:
    """``total - kept`` without cancellation: the sum of the other elements' exponentials."""
    return where(kept == 1.0, rest, total - kept)


def softmax_sums(x: Operand, peak: Operand) -> tuple[Operand, Operand, Operand]:
    """An element's exponential, and what it adds to the sum of those below the peak and to the number of peaks."""
    kept = exponential(x, peak)
    others = below_peak(x, peak, kept)
    peaks = at_peak(x, peak)
    return kept, others, peaks


def slopes_by_goal(
    goal: Operand,
    kept: Operand,
    rest: Operand,
    total: Operand,
    share: Operand,
    mass: Operand,
    peak_goals: Operand,
    other_goals: Operand,
) -> tuple[Operand, Operand]:
    """Gradient and Hessian of ``-sum(goal log p)`` by a logit; ``mass`` is the sum of goals, ``share`` 1 / total."""
    # mass kept - goal total at a peak: the goals of all others, less what the others take of this one.
    at_peak_grad = (other_goals + (peak_goals - goal)) - goal * rest
    grad = where(kept == 1.0, at_peak_grad, mass * kept - goal * total) * share
    return grad, mass * kept * share * (missing(kept, rest, total) * share)
