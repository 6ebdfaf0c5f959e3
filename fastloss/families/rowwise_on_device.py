"""Rowwise losses of CuPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dispatch import GRAD, HESS, VALUE
from ..dispatch import on_device as is_there
from ..formula.rows import RowFormula
from ..gpu import launch, weighing
from ..gpu import rowwise as kernels
from ..gpu.elementwise import Operands
from ..gpu.source import RowBuild
from ..messages import rejected
from ..reduction import checked_normalizer
from ..validate import precision_of, require_labels, require_prediction, require_target, signed_labels, storage_name
from . import on_device
from .layout import classes_last, write_back
from .stats import RowResults, Stats

#: Columns are counted in 32 bits, with a pack more on either side.
MOST_CLASSES = 2**31 - 64


def evaluate(
    loss: Any,
    outputs: int,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
    out: Any,
    hess_out: Any,
    check: str,
) -> tuple[Any, ...]:
    """Value, gradient and Hessian of a rowwise loss, those that ``outputs`` asks for, on y_pred's device."""
    name, p = loss.name, y_pred
    y = on_device.given(name, "y_true", y_true, p)
    on_device.require_aligned(name, "y_pred", p)
    require_prediction(name, p.dtype)
    (require_labels if loss.indexed else require_target)(name, y.dtype)
    axes, shape = loss.class_axes(y, p)
    classes = math.prod(p.shape[axis] for axis in axes)
    rows = math.prod(shape) if classes else 0
    formula: RowFormula = loss.formula()
    computing = formula.computing(storage_name(p.dtype) or "")
    if classes > MOST_CLASSES:
        raise ValueError(rejected(name, "y_pred", f"have at most {MOST_CLASSES} classes on a GPU", classes))
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        weighed = on_device.weighed(name, shape, p, computing, sample_weight, mask, check)
        if check == "raise" and loss.indexed:
            loss.require_labels(_counting(y, weighed), classes)
        grad, hess = on_device.results(name, outputs, p, out, hess_out, (y, p, sample_weight, mask))
        written = RowResults.zeros(launch.zeros, shape, computing) if formula.report else None
        losses = None
        if loss.reduction == "none" and outputs & VALUE:
            losses = written.losses if written else (launch.empty if rows else launch.zeros)(shape, computing)
        value = None
        if outputs & VALUE and losses is None:
            value = launch.empty((), np.float64) if rows else launch.zeros((), np.float64)
        grad_last, hess_last = (None if a is None else classes_last(a, axes) for a in (grad, hess))
        grad_ready, hess_ready = (on_device.buffer_like(a, "C") for a in (grad_last, hess_last))
        if rows:
            scratch = launch.workspace(p.device.id)
            y_ready, ignored = _targets(loss, y, axes)
            class_weights, weight_sum = _class_weights(loss, p, axes, computing)
            at, known = _inverse(
                loss, rows, y_ready, weighed, class_weights, ignored, normalizer, p, computing, scratch, check
            )
            operands = Operands(
                y_ready, on_device.contiguous(classes_last(p, axes), "C"), *weighed, grad_ready, hess_ready,
                written.memory if written else losses, at, known,
            )  # fmt: skip
            build = RowBuild(
                formula, loss.indexed, y_ready.dtype.name, storage_name(p.dtype) or "", bool(outputs & VALUE),
                losses is not None, bool(outputs & GRAD), bool(outputs & HESS), weighed.weights is not None,
                weighed.mask is not None, class_weights is not None, "", 1, True, 1,
            )  # fmt: skip
            parameters = [float(getattr(loss, parameter)) for parameter in formula.parameters]
            sizes = kernels.Rows(rows, classes, class_weights, weight_sum, ignored)
            kernels.run(build, operands, sizes, parameters, value, scratch, p.device.id)
        write_back((grad_last, grad_ready), (hess_last, hess_ready))
        precision = np.dtype(precision_of(p))
        more: tuple[Stats, ...] = ()
        if written:
            log_sum_exp = launch.converted(written.stats.log_sum_exp, precision)
            more = (written.stats._replace(log_sum_exp=log_sum_exp),)
        if losses is None:
            return value, grad, hess, *more
        return launch.converted(losses, precision), grad, hess, *more


def _counting(y: Any, weighed: on_device.Weighed) -> Any:
    """Class numbers on the host; 0 where a mask leaves a row out."""
    labels = y.get()
    if weighed.mask is None:
        return labels
    kept = np.repeat(weighed.mask.get(), weighed.mask_inner).reshape(labels.shape)
    return np.where(kept, labels, 0)


def _targets(loss: Any, y: Any, axes: tuple[int, ...]) -> tuple[Any, int | None]:
    """Targets as kernels read them, and the label that does not count."""
    if not loss.indexed:
        return on_device.contiguous(classes_last(y, axes), "C"), None
    return signed_labels(on_device.contiguous(y, "C"), getattr(loss, "ignore_class", None))


def _class_weights(loss: Any, p: Any, axes: tuple[int, ...], computing: str) -> tuple[Any, float]:
    """Class weights on the device, which are sent there once for each stream, and their sum."""
    classes = math.prod(p.shape[axis] for axis in axes)
    key = ("class_weights", p.device.id, launch.stream(), p.dtype.name, classes)
    sent: tuple[Any, float] | None = loss._plans.get(key)
    if sent is None:
        host = loss.class_weights(p, axes)
        sent = (None, float(classes))
        if host is not None:
            sent = (launch.uploaded(host, computing), float(np.sum(host, dtype=np.float64)))
        loss._plans[key] = sent
    return sent


def _inverse(
    loss: Any,
    rows: int,
    y: Any,
    weighed: on_device.Weighed,
    class_weights: Any,
    ignored: int | None,
    normalizer: Any,
    p: Any,
    computing: str,
    scratch: launch.Workspace,
    check: str,
) -> tuple[Any, float]:
    """Where 1 / Z will be on the device, or None; and 1 / Z, where it is known here.

    Ignored rows do not count; class weights do where the mean is weighted.
    """
    if normalizer is not None:
        return on_device.own_inverse(loss.name, normalizer, p, scratch, check)
    if loss.reduction in ("sum", "none"):
        return None, 1.0
    averaged = loss.reduction == "weighted_mean"
    weights = weighed.weights if averaged else None
    counts = class_weights if averaged and loss.indexed else None
    labels = y if loss.indexed and (ignored is not None or counts is not None) else None
    if weights is None and weighed.mask is None and labels is None:
        return None, on_device.inverse(rows)
    counted = weighing.Counted(
        rows, 1, weights, weighed.weight_inner, weighed.mask, weighed.mask_inner, labels, counts, ignored
    )
    return weighing.run(counted, computing, scratch, p.device.id), 1.0
