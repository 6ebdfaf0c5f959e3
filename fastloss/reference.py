"""What every call must give, in plain NumPy float64: slow, obvious, and the oracle of the tests.

The loss's own formulas are evaluated on float64 arrays; weights, mask and reduction follow the contract
literally: value = sum_i m_i w_i l_i / Z, and gradient and Hessian with the same Z. Operands and parameters
are first rounded to the precision that kernels compute in, so that both see the same numbers. Nothing is checked
here: bad input is the public calls' business.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .formula.alignments import Targets, lengths_of, likelihood
from .formula.pairs import results_of
from .formula.rows import RowFormula
from .formula.wiring import argument_names, call_by_name

Array = np.ndarray[Any, np.dtype[Any]]


def evaluate(
    loss: Any,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any = None,
    mask: Any = None,
    normalizer: float | None = None,
) -> tuple[Any, Any, Any]:
    """Value, gradient and diagonal Hessian of a configured loss, in float64.

    Parameters
    ----------
    loss : Loss
        A loss of any family that has formulas.
    y_true, y_pred, sample_weight, mask, normalizer
        As in the loss's own calls; several predictions are a tuple.

    Returns
    -------
    tuple
        The value (a float; an array for reduction="none"), the gradient and the Hessian (y_pred's shape); of several
        predictions a tuple of each.
    """
    with np.errstate(all="ignore"):
        losses, grad, hess, axes = _FAMILIES[loss.family](loss, y_true, y_pred)
        several = isinstance(y_pred, tuple)
        like = y_pred[0] if several else y_pred
        given = 1.0 if sample_weight is None else in_computing(loss, sample_weight, like)
        weights = _leading(given, losses.shape)
        kept = _leading(True if mask is None else mask, losses.shape) & _not_ignored(loss, y_true, losses)
        total = _normalizer(loss.reduction, weights * _counts(loss, y_true, like, losses), kept, normalizer)

        def weighed(terms: Array, factors: Array, keep: Array) -> Array:
            return np.where(keep, factors * terms, 0.0) / total if total else np.zeros(terms.shape)

        value = weighed(losses, weights, kept)
        weights, kept = np.expand_dims(weights, axes), np.expand_dims(kept, axes)
        result = value if loss.reduction == "none" else float(value.sum())
        if several:
            grads, hesses = (tuple(weighed(one, weights, kept) for one in each) for each in (grad, hess))
            return result, grads, hesses
        return result, weighed(grad, weights, kept), weighed(hess, weights, kept)


def in_computing(loss: Any, numbers: Any, y_pred: Any) -> Array:
    """Numbers rounded to the precision that kernels compute in, as float64.

    That is float32 unless y_pred is float64, or rows are divided by their sum first (see `fastloss.cpu.rowwise`).
    """
    given = np.asarray(y_pred).dtype
    wide = given == np.float64 or given.kind in "biu"
    wide = wide or (hasattr(loss, "row_formulas") and _formula(loss).computing("float32") == "float64")
    return np.asarray(numbers).astype(np.float64 if wide else np.float32).astype(np.float64)


def _normalizer(reduction: str, weights: Array, kept: Array, normalizer: float | None) -> float:
    if normalizer is not None:
        return float(normalizer)
    if reduction in ("sum", "none"):
        return 1.0
    return float(kept.sum() if reduction == "mean" else weights[kept].sum())


def _leading(array: Any, shape: tuple[int, ...]) -> Array:
    """Broadcast from the leading axis; ones may trail."""
    array = np.asarray(array)
    while array.ndim > len(shape):
        array = array[..., 0]
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape)


# -- one loss per element ----------------------------------------------------------------------------------


def element_results(formula: Callable[..., Any], parameters: dict[str, Any], y: Any, p: Any) -> Any:
    """Value, gradient and Hessian of every element."""
    return formula(y, p, *(parameters[name] for name in list(inspect.signature(formula).parameters)[2:]))


def element_parameters(loss: Any, y_pred: Any) -> dict[str, Any]:
    """The loss's parameters that its formula asks for, by name."""
    names = list(inspect.signature(loss.formulas()[loss.variant()]).parameters)[2:]
    return {name: in_computing(loss, float(getattr(loss, name)), y_pred) for name in names}


def _elements(loss: Any, y_true: Any, y_pred: Any) -> tuple[Array, Array, Array, tuple[()]]:
    formula, parameters = loss.formulas()[loss.variant()], element_parameters(loss, y_pred)
    y, p = in_computing(loss, y_true, y_pred), in_computing(loss, y_pred, y_pred)
    value, grad, hess = (np.broadcast_to(r, p.shape) for r in element_results(formula, parameters, y, p))
    return value, grad, hess, ()


# -- one loss per sequence of frames -----------------------------------------------------------------------


def _sequences(loss: Any, y_true: Any, y_pred: Any) -> tuple[Array, Array, Array, tuple[int, int]]:
    """By all alignments; ``y_true`` may be `Targets`, with lengths."""
    targets = y_true if isinstance(y_true, Targets) else Targets(y_true)
    x, y = in_computing(loss, y_pred, y_pred), np.asarray(targets.labels)
    shape, frames = x.shape[:-2], x.shape[-2]
    lengths = lengths_of(y, loss.blank) if targets.label_length is None else targets.label_length
    counts = frames if targets.logit_length is None else targets.logit_length
    lengths, counts = np.broadcast_to(lengths, shape), np.broadcast_to(counts, shape)
    losses, grad, hess = np.empty(shape), np.zeros(x.shape), np.zeros(x.shape)
    for at in np.ndindex(shape):
        own = x[at][: counts[at]]
        logs = own - np.logaddexp.reduce(own, axis=-1, keepdims=True) if loss.from_logits else own
        found, occupancy = likelihood(logs, y[at][: lengths[at]], loss.blank)
        losses[at] = math.nan if np.isnan(logs).any() else -found
        if losses[at] == math.inf:
            losses[at] = 0.0 if loss.zero_infinity else math.inf
        else:
            p = np.exp(logs) if loss.from_logits else 0.0
            here = (*at, slice(counts[at]))
            grad[here], hess[here] = p - occupancy, p * (1.0 - p) - occupancy * (1.0 - occupancy)
            grad[here] += 0.0 * losses[at]  # NaN
            hess[here] += 0.0 * losses[at]
    return losses, grad, hess, (-2, -1)


# -- one loss per row of classes ---------------------------------------------------------------------------


def row_results(formula: RowFormula, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Values of rows, shape (..., 1), and all that the element rules may ask for; classes on the last axis.

    ``values`` holds the loss's parameters and what `fastloss.formula.rows.PROVIDED` lists, `linked`.
    """
    nothing = np.zeros(values["x"].shape)
    first: Any = None
    if formula.first is not None:
        of = values["x"] if formula.first_of is None else call_by_name(formula.first_of, values) + nothing
        first = of.max(axis=-1, keepdims=True) if formula.first == "peak" else of.sum(axis=-1, keepdims=True)
        values = {**values, formula.first: first}
    numbers: tuple[Any, ...] = ()
    if formula.statistics is not None:
        terms = {name: term + nothing for name, term in formula.statistics_of(values).items()}
        values = {**values, **terms}
        numbers = tuple(terms[name].sum(axis=-1, keepdims=True) for name in formula.sums)
    numbers = formula.halfway_of(values, first, numbers)
    if formula.again is not None:
        terms = formula.again_of(values, first, numbers)
        numbers += tuple((terms[name] + nothing).sum(axis=-1, keepdims=True) for name in formula.sums_again)
    value, *coefficients = formula.finish_of(values, first, numbers)
    return value, {**values, **dict(zip(formula.coefficients, coefficients, strict=True))}


def linked(formula: RowFormula, values: dict[str, Any]) -> dict[str, Any]:
    """The values with what formulas see of predictions in their place, and the link's derivatives beside."""
    results = dict(values)
    for name in ("x", "target_x"):
        if name in values:
            results[name], *slopes = formula.linked(values[name], values)
            results[f"slopes of {name}"] = tuple(slopes)
    return results


def row_gradients(formula: RowFormula, values: dict[str, Any], labels: Array | None) -> list[Any]:
    """Gradient and Hessian, shape (..., classes); ``labels`` are class numbers, shape (..., 1)."""
    shape = values["x"].shape
    first, coefficients = (
        values.get(formula.first or ""),
        tuple(values[name] for name in formula.coefficients),
    )
    slopes = values["slopes of x"]
    results = [r + np.zeros(shape) for r in formula.rule_of(formula.element, values, first, coefficients, slopes)]
    if labels is None:
        return results
    assert formula.target_element is not None
    own = formula.rule_of(formula.target_element, values, first, coefficients, values["slopes of target_x"])
    is_target = np.arange(shape[-1]) == labels
    return [np.where(is_target, target, other) for target, other in zip(own, results, strict=True)]


def row_values(loss: Any, y_true: Any, y_pred: Any) -> tuple[dict[str, Any], Array | None]:
    """What a sweep provides by name, classes on the last axis; and class numbers, shape (..., 1), if any."""
    axes = class_axes(loss, y_pred)
    x = classes_last(in_computing(loss, y_pred, y_pred), axes)
    weights = _class_weights(loss, y_pred)
    names = _formula(loss).parameters
    values: dict[str, Any] = {name: in_computing(loss, float(getattr(loss, name)), y_pred) for name in names}
    values |= {"x": x, "classes": np.float64(x.shape[-1])}
    values |= {"class_weight": weights, "class_weight_sum": weights.sum()}
    if not loss.indexed:
        return {**values, "y": classes_last(in_computing(loss, y_true, y_pred), axes)}, None
    labels = _labels(y_true, x.shape[-1])[..., None]
    own = {"target_x": np.take_along_axis(x, labels, -1), "target_weight": weights[labels]}
    return {**values, **own}, labels


def class_axes(loss: Any, y_pred: Any) -> tuple[int, ...]:
    """The axes that a row runs along, ascending."""
    every = range(np.ndim(y_pred))
    chosen = every if loss.axis is None else np.atleast_1d(loss.axis).tolist()
    return tuple(sorted(every[axis] for axis in chosen))


def classes_last(array: Array, axes: tuple[int, ...]) -> Array:
    """The array with its classes, of however many axes, on one last axis."""
    order = _rows_first(axes, array.ndim)
    shape = [array.shape[axis] for axis in order]
    rows = len(shape) - len(axes)
    return array.transpose(order).reshape(*shape[:rows], math.prod(shape[rows:]))


def classes_back(array: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """What `classes_last` made of an array of that shape, as it was."""
    order = _rows_first(axes, len(shape))
    return array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def _rows_first(axes: tuple[int, ...], count: int) -> tuple[int, ...]:
    return (*(axis for axis in range(count) if axis not in axes), *axes)


def _rows(loss: Any, y_true: Any, y_pred: Any) -> tuple[Array, Array, Array, tuple[int, ...]]:
    axes, shape = class_axes(loss, y_pred), np.shape(y_pred)
    values, labels = row_values(loss, y_true, y_pred)
    value, values = row_results(_formula(loss), linked(_formula(loss), values))
    grad, hess = row_gradients(_formula(loss), values, labels)
    losses = np.broadcast_to(value, (*grad.shape[:-1], 1))[..., 0]
    return losses, classes_back(grad, axes, shape), classes_back(hess, axes, shape), axes


def _formula(loss: Any) -> Any:
    """The `RowFormula`, or `PairFormula`, that a loss uses."""
    return loss.formula()


def _class_weights(loss: Any, y_pred: Any) -> Array:
    shape, given = np.shape(y_pred), getattr(loss, "class_weight", None)
    if given is not None:
        return in_computing(loss, given, y_pred)
    return np.ones(math.prod(shape[axis] for axis in class_axes(loss, y_pred)))


def _not_ignored(loss: Any, y_true: Any, losses: Array) -> Array:
    """Where rows count: everywhere but where the label is the ignored one."""
    ignored = getattr(loss, "ignore_class", None)
    return np.ones(losses.shape, bool) if ignored is None else np.asarray(y_true) != ignored


def _counts(loss: Any, y_true: Any, y_pred: Any, losses: Array) -> Array:
    """What each loss counts for in a weighted mean besides its own weight: its true class's weight."""
    if loss.family != "rowwise" or not loss.indexed:
        return np.ones(losses.shape)
    weights = _class_weights(loss, y_pred)
    counts: Array = weights[_labels(y_true, weights.size)]
    return counts


def _labels(y_true: Any, classes: int) -> Array:
    """Class numbers; 0 for what is none, as rows that are ignored or masked may hold."""
    labels = np.asarray(y_true)
    return np.where((labels >= 0) & (labels < classes), labels, 0).astype(np.int64)


# -- losses of several predictions --------------------------------------------------------------------------


def pair_values(loss: Any, y_true: Any, y_pred: tuple[Any, ...]) -> dict[str, Any]:
    """The operands by name, rows' targets as columns, and the parameters that the formula asks for."""
    like, names = y_pred[0], loss.predictions()
    values: dict[str, Any] = {n: in_computing(loss, array, like) for n, array in zip(names, y_pred, strict=True)}
    if y_true is not None:
        y = in_computing(loss, y_true, like)
        values["y"] = y[..., None] if loss.unit == "row" else y
    if loss.unit == "row":
        parameters = _formula(loss).parameters(names)
    else:
        parameters = argument_names(loss.formulas()[loss.variant()])[len(loss.operands) :]
    return values | {name: in_computing(loss, float(getattr(loss, name)), like) for name in parameters}


def pair_results(loss: Any, values: dict[str, Any]) -> list[Any]:
    """Values, then gradients, then Hessians by every prediction; values of rows have shape (..., 1)."""
    shape = values[loss.operands[-1]].shape
    if loss.unit != "row":
        return [result + np.zeros(shape) for result in results_of(loss.formulas()[loss.variant()], values)]
    formula = _formula(loss)

    def over_rows(terms: tuple[Any, ...], *, largest: bool) -> list[Any]:
        full = [term + np.zeros(shape) for term in terms]
        return [(term.max if largest else term.sum)(axis=-1, keepdims=True) for term in full]

    firsts = over_rows(results_of(formula.first, values), largest=formula.peaks)
    values = {**values, **dict(zip(formula.firsts, firsts, strict=True))}
    sums = over_rows(results_of(formula.statistics, values), largest=False)
    values = {**values, **dict(zip(formula.sums, sums, strict=True))}
    value, *coefficients = results_of(formula.finish, values)
    values = {**values, **dict(zip(formula.coefficients, coefficients, strict=True))}
    return [
        value + np.zeros((*shape[:-1], 1)),
        *(result + np.zeros(shape) for result in results_of(formula.element, values)),
    ]


def _pairs(
    loss: Any, y_true: Any, y_pred: tuple[Any, ...]
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...], tuple[int, ...]]:
    value, *rules = pair_results(loss, pair_values(loss, y_true, y_pred))
    count, by_rows = len(rules) // 2, loss.unit == "row"
    return value[..., 0] if by_rows else value, tuple(rules[:count]), tuple(rules[count:]), (-1,) * by_rows


#: Losses, gradients and Hessians of a target and predictions, and the axes that a row runs along.
_FAMILIES: dict[str, Callable[..., Any]] = {
    "elementwise": _elements,
    "rowwise": _rows,
    "sequence": _sequences,
    "pairwise": _pairs,
}
