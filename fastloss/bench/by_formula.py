"""A loss by its own formula on NumPy arrays: the reference, and the NumPy code where none is written out."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import reference
from ..families.allpairs import LEFT_OUT, NEGATIVE, POSITIVE
from ..families.loss import Loss
from ..formula.rows import RowFormula
from ..formula.wiring import call_by_name

Array = NDArray[Any]

#: Elements of the reference computed at a time, so that its float64 temporaries stay in the caches.
PIECE = 1 << 17


def exact(loss: Loss, y: Array, p: Array) -> tuple[float, Array]:
    """Mean loss and its gradient in float64, piece by piece."""
    if loss.family == "allpairs":
        losses, slopes = evaluate(loss, y, p.astype(np.float64))
        return float(losses.mean()), slopes / len(p)
    if getattr(loss, "axis", -1) is None:  # all of it is one row
        return reference.evaluate(loss, y, p)[:2]
    gradient = np.empty(p.shape)
    value = 0.0
    rows = p.size if loss.unit == "element" and not loss.several else len(p)
    step = max(1, PIECE * len(p) // p.size)
    for start in range(0, len(p), step):
        piece = slice(start, start + step)
        part, found, _ = reference.evaluate(loss, *taken(loss, y[piece], p[piece]), normalizer=rows)
        value, gradient[piece] = value + part, stacked(found)
    return value, gradient


def taken(loss: Loss, y: Array, p: Array) -> tuple[Any, Any]:
    """A target and predictions: of a loss of several, a tuple of those that lie along the second axis of ``p``."""
    return (y if "y_true" in loss.operands else None, tuple(p.swapaxes(0, 1))) if loss.several else (y, p)


def stacked(gradient: Any) -> Array:
    """A gradient, or those by several predictions, in the form of ``p``."""
    found: Array = np.stack(gradient, axis=1) if isinstance(gradient, tuple) else gradient
    return found


def evaluate(loss: Loss, y: Array, p: Array) -> tuple[Array, Array]:
    """Each loss, and the gradient of their sum, in the precision of the arguments.

    Parameters
    ----------
    loss
        A loss without class weights.
    y, p
        Targets and predictions; the class axis is the last.
    """
    with np.errstate(all="ignore"):  # 0 times infinity, where a formula then takes something else
        return _evaluated(loss, y, p)


def _evaluated(loss: Loss, y: Array, p: Array) -> tuple[Array, Array]:
    if loss.several:
        return _pairwise(loss, y, p)
    if loss.family == "sequence":
        return reference.evaluate(dataclasses.replace(loss, reduction="none"), y, p)[:2]
    if loss.family == "allpairs":
        return _all_pairs(loss, y, p)
    if getattr(loss, "axis", -1) is None:
        losses, gradient = _evaluated(dataclasses.replace(loss, axis=-1), y.reshape(1, -1), p.reshape(1, -1))  # type: ignore[call-arg]
        return losses, gradient.reshape(p.shape)
    if loss.family == "rowwise":
        return _rowwise(loss, loss.formula(), y, p)  # type: ignore[attr-defined]
    formula = loss.formulas()[loss.variant()]  # type: ignore[attr-defined]
    parameters = [float(getattr(loss, name)) for name in list(inspect.signature(formula).parameters)[2:]]
    losses, gradient, _ = formula(y, p, *parameters)
    return losses, np.broadcast_to(gradient, p.shape)


def _all_pairs(loss: Any, y: Array, p: Array) -> tuple[Array, Array]:
    """Rows of similarities, and their slopes taken back to the embeddings."""
    lengths = np.linalg.norm(p, axis=-1, keepdims=True) if loss.normalizes else p.dtype.type(1)
    units = p / lengths
    relation = np.where(y[:, None] == y, POSITIVE, NEGATIVE)
    if loss.leaves_out_itself():
        np.fill_diagonal(relation, LEFT_OUT)
    losses, slopes = _rowwise(loss, loss.row_formulas()[loss.variant()], relation.astype(p.dtype), units @ units.T)
    gradient = (slopes + slopes.T) @ units
    if loss.normalizes:
        gradient = (gradient - (gradient * units).sum(axis=-1, keepdims=True) * units) / lengths
    return losses, gradient


def _rowwise(loss: Loss, formula: RowFormula, y: Array, x: Array) -> tuple[Array, Array]:
    """Run the steps of `fastloss.formula.rows` on whole arrays."""
    classes = float(x.shape[-1])
    values: dict[str, Any] = {"x": x, "classes": classes, "class_weight": 1.0, "class_weight_sum": classes}
    values |= {name: float(getattr(loss, name)) for name in formula.parameters}
    if formula.target_element is None:
        values["y"] = y
    else:
        values |= {"target_x": np.take_along_axis(x, y[..., None], -1), "target_weight": 1.0}
    values = reference.linked(formula, values)
    first = None
    if formula.first:
        of = call_by_name(formula.first_of, values) if formula.first_of else values["x"]
        first = values[formula.first] = (np.max if formula.first == "peak" else np.sum)(of, -1, keepdims=True)
    terms = formula.statistics_of(values) if formula.statistics else {}
    values["kept"] = terms.get("kept")
    numbers = tuple(_row_sum(terms[name], x) for name in formula.sums)
    numbers = formula.halfway_of(values, first, numbers)
    if formula.again:
        terms = formula.again_of(values, first, numbers)
        numbers += tuple(_row_sum(terms[name], x) for name in formula.sums_again)
    losses, *coefficients = formula.finish_of(values, first, numbers)
    gradient, _ = formula.rule_of(formula.element, values, first, tuple(coefficients), values["slopes of x"])
    if formula.target_element is not None:
        slopes = values["slopes of target_x"]
        own, _ = formula.rule_of(formula.target_element, values, first, tuple(coefficients), slopes)
        gradient = np.array(np.broadcast_to(gradient, x.shape))
        np.put_along_axis(gradient, y[..., None], own, -1)
    return np.broadcast_to(losses, (len(x), 1))[:, 0], gradient


def _pairwise(loss: Any, y: Array, p: Array) -> tuple[Array, Array]:
    """The reference's steps in the precision of the arguments."""
    values: dict[str, Any] = dict(zip(loss.predictions(), p.swapaxes(0, 1), strict=True))
    values |= {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    values["y"] = y[..., None] if loss.unit == "row" else y
    losses, *rules = reference.pair_results(loss, values)
    return losses[..., 0] if loss.unit == "row" else losses, np.stack(rules[: p.shape[1]], axis=1)


def _row_sum(terms: Any, x: Array) -> Array:
    total: Array = np.broadcast_to(terms, x.shape).sum(axis=-1, keepdims=True)
    return total
