"""Formulas of targets."""

from __future__ import annotations

from typing import Any

from .ops import nothing_of, where


def signed(y: Any, binary: Any) -> Any:
    """Labels -1 and 1: the labels themselves, or made of 0 and 1 where ``binary`` is 1."""
    return where(binary == 1.0, 2.0 * y - 1.0, y)


def goal_of(y: Any, class_weight: Any, label_smoothing: Any, classes: Any) -> Any:
    """What a row asks of one class: its smoothed target times its weight."""
    return class_weight * (y * (1.0 - label_smoothing) + label_smoothing / classes)


def unseen(x: Any) -> Any:
    """What a row's loss has of all its classes where only the true one counts: a NaN shows, also at another class."""
    nothing = nothing_of(x)
    return nothing  # noqa: RET504  results go by their names


def no_slope(nothing: Any) -> Any:
    """Gradient and Hessian of the other classes then."""
    return nothing, 0.0
