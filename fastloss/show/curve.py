"""Value, gradient and Hessian along one prediction, from the reference."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ..families.loss import Loss
from ..reference import evaluate
from ..validate import Array

#: Predictions of a curve; even, so that none lies on a kink in the middle.
POINTS = 600
#: Classes of the row that a rowwise loss's curve moves one prediction of.
CLASSES = 3
#: A typical target of each set, by which a curve is drawn.
TARGETS = {"label": 0.0}
TYPICAL = 1.0
#: Typical targets of a row.
ROWS = {"sign": (1.0, -1.0, -1.0), "real": (1.0, 0.5, -0.5), "positive": (1.0, 0.5, 2.0)}
ONE_HOT = (1.0, 0.0, 0.0)
#: Predictions from and to, by their set.
RANGES = {
    "real": (-3.0, 5.0),
    "logit": (-6.0, 6.0),
    "probability": (0.0, 1.0),
    "unit": (0.0, 1.0),
    "distribution": (0.0, 1.0),
    "positive": (0.0, 4.0),
    "non_negative": (0.0, 4.0),
    "log_probability": (-5.0, 0.0),
    "log_distribution": (-5.0, 0.0),
    "sign": (-2.0, 2.0),
    "binary": (-1.0, 2.0),
}


class Curve(NamedTuple):
    """What a loss gives along one prediction."""

    title: str
    x_name: str
    x: Array
    value: Array
    grad: Array
    hess: Array
    kinks: tuple[float, ...]

    @property
    def series(self) -> dict[str, Array]:
        """What is drawn, by name."""
        return {"value": self.value, "gradient": self.grad, "Hessian": self.hess}


def curve_of(loss: Loss, kind: str) -> Curve | None:
    """The curve of a configured loss at a typical target; None where a loss depends on many predictions."""
    if loss.family not in ("elementwise", "rowwise"):
        return None
    true, pred = loss.domain()
    low, high = RANGES[pred]
    if loss.family == "rowwise":
        x = _inside(low, high)
        y, p, where = _rows(loss, true, pred, x)
        axis = {"axis": -1} if hasattr(loss, "axis") else {}
        value, grad, hess = evaluate(dataclasses.replace(loss, reduction="none", **axis), y, p)
        return Curve(_title(kind, where), "prediction of class 0", x, value, grad[:, 0], hess[:, 0], ())
    kinks = tuple(sorted({float(kink) for kink in loss.kinks(np.float64(TYPICAL))}))
    if pred == "real":
        low, high = min([low, *(kink - 1.0 for kink in kinks)]), max([high, *(kink + 1.0 for kink in kinks)])
    x = _inside(low, high)
    results = evaluate(dataclasses.replace(loss, reduction="none"), np.full(x.shape, TYPICAL), x)
    inner = tuple(kink for kink in kinks if x[0] < kink < x[-1])
    return Curve(_title(kind, f"y_true = {TYPICAL:g}"), "y_pred", x, *results, inner)


def _inside(low: float, high: float) -> Array:
    """Numbers between two others, neither of which is among them."""
    step = (high - low) / POINTS
    return np.linspace(low + 0.5 * step, high - 0.5 * step, POINTS)


def _title(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _rows(loss: Any, true: str, pred: str, x: Array) -> tuple[Array, Array, str]:
    """Targets and predictions of rows in which one prediction moves, and in words how the others are."""
    others = CLASSES - 1
    if pred in ("probability", "distribution", "unit"):
        rest, words = np.repeat(((1.0 - x) / others)[:, None], others, axis=1), "the others share the rest"
    elif pred in ("log_probability", "log_distribution"):
        share = np.log(-np.expm1(x) / others)
        rest, words = np.repeat(share[:, None], others, axis=1), "the others share the rest"
    else:
        rest, words = np.tile([0.5, -0.5], (len(x), 1)), "the others are 0.5 and -0.5"
    p = np.concatenate([x[:, None], rest], axis=1)
    if getattr(loss, "indexed", False):
        return np.zeros(len(x), np.int64), p, f"y_true = class 0 of {CLASSES}, {words}"
    row = ROWS.get(true, ONE_HOT)
    return np.tile(row, (len(x), 1)), p, f"y_true = [{', '.join(f'{number:g}' for number in row)}], {words}"
