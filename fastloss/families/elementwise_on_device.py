"""Elementwise losses of CuPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import GRAD, HESS, VALUE
from ..dispatch import on_device as is_there
from ..gpu import elementwise as kernels
from ..gpu import launch
from ..gpu.source import ElementBuild, parameter_names
from ..reduction import checked_normalizer
from ..validate import precision_of, require_prediction, require_target, storage_name
from . import on_device
from .elementwise import columns_of
from .layout import common_layout, write_back


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
) -> tuple[Any, Any, Any]:
    """Value, gradient and Hessian of an elementwise loss, those that ``outputs`` asks for, on y_pred's device."""
    name, p = loss.name, y_pred
    y = on_device.given(name, "y_true", y_true, p)
    on_device.require_aligned(name, "y_pred", p)
    require_prediction(name, p.dtype)
    require_target(name, y.dtype)
    loss.require_shapes(y, p)
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        weighed = on_device.weighed(name, p.shape, p, precision_of(p), sample_weight, mask, check)
        grad, hess = on_device.results(name, outputs, p, out, hess_out, (y, p, sample_weight, mask))
        scratch = launch.workspace(p.device.id) if p.size else None
        inverse: tuple[Any, float] = (None, 1.0)
        if scratch is not None:
            inverse = on_device.inverse_of(loss, p.size, p, weighed, normalizer, precision_of(p), scratch, check)
        columns = columns_of(loss)
        if not columns:
            return _swept(loss, outputs, y, p, weighed, inverse, scratch, grad, hess), grad, hess
        values = []
        for column, own in enumerate(columns):
            results = [None if array is None else array[..., column] for array in (grad, hess)]
            own_weighed = weighed.of_column(column, len(columns)) if p.size else weighed
            values.append(_swept(own, outputs, y, p[..., column], own_weighed, inverse, scratch, *results))
        if not outputs & VALUE:
            return None, grad, hess
        if loss.reduction != "none":
            return sum(values[1:], start=values[0]), grad, hess
        losses = launch.empty(p.shape, precision_of(p))
        for column, value in enumerate(values):
            losses[..., column] = value
        return losses, grad, hess


def _swept(
    loss: Any,
    outputs: int,
    y: Any,
    p: Any,
    weighed: on_device.Weighed,
    inverse: tuple[Any, float],
    scratch: launch.Workspace | None,
    grad: Any,
    hess: Any,
) -> Any:
    """Launch the kernel, with contiguous copies where the caller's arrays are not; give the value or the losses."""
    none = loss.reduction == "none"
    keep_order = weighed.weights is None and weighed.mask is None and not none
    layout = common_layout(y, p, grad, hess) if keep_order else "C"
    grad_ready, hess_ready = (on_device.buffer_like(a, layout) for a in (grad, hess))
    losses = launch.empty(p.shape, precision_of(p)) if none and outputs & VALUE else None
    value = None
    if outputs & VALUE and not none:
        value = launch.empty((), np.float64) if p.size else launch.zeros((), np.float64)
    if scratch is not None:
        operands = kernels.Operands(
            on_device.contiguous(y, layout), on_device.contiguous(p, layout), *weighed, grad_ready, hess_ready,
            losses, *inverse,
        )  # fmt: skip
        formula = loss.formulas()[loss.variant()]
        build = ElementBuild(
            formula, y.dtype.name, storage_name(p.dtype) or "", bool(outputs & VALUE), losses is not None,
            bool(outputs & GRAD), bool(outputs & HESS), weighed.weights is not None, weighed.mask is not None, 1,
        )  # fmt: skip
        parameters = [float(getattr(loss, parameter)) for parameter in parameter_names(formula)]
        kernels.run(build, operands, parameters, value, scratch, p.device.id)
    write_back((grad, grad_ready), (hess, hess_ready))
    return value if losses is None else losses
