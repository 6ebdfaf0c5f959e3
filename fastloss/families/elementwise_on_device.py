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
from ..validate import precision_of, require_prediction, require_target, same_shape, storage_name
from . import on_device
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
    same_shape(name, y, p)
    computing = precision_of(p)
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        weighed = on_device.weighed(name, p.shape, p, computing, sample_weight, mask, check)
        grad, hess = on_device.results(name, outputs, p, out, hess_out, (y, p, sample_weight, mask))
        none = loss.reduction == "none"
        keep_order = weighed.weights is None and weighed.mask is None and not none
        layout = common_layout(y, p, grad, hess) if keep_order else "C"
        grad_ready, hess_ready = (on_device.buffer_like(a, layout) for a in (grad, hess))
        losses = launch.empty(p.shape, computing) if none and outputs & VALUE else None
        value = None
        if outputs & VALUE and not none:
            value = launch.empty((), np.float64) if p.size else launch.zeros((), np.float64)
        if p.size:
            scratch = launch.workspace(p.device.id)
            at, known = on_device.inverse_of(loss, p.size, p, weighed, normalizer, computing, scratch, check)
            operands = kernels.Operands(
                on_device.contiguous(y, layout), on_device.contiguous(p, layout), *weighed, grad_ready, hess_ready,
                losses, at, known,
            )  # fmt: skip
            formula = loss.formulas()[loss.variant()]
            build = ElementBuild(
                formula, y.dtype.name, storage_name(p.dtype) or "", bool(outputs & VALUE), losses is not None,
                bool(outputs & GRAD), bool(outputs & HESS), weighed.weights is not None, weighed.mask is not None, 1,
            )  # fmt: skip
            parameters = [float(getattr(loss, parameter)) for parameter in parameter_names(formula)]
            kernels.run(build, operands, parameters, value, scratch, p.device.id)
        write_back((grad, grad_ready), (hess, hess_ready))
    return value if losses is None else losses, grad, hess
