"""Losses of several predictions that CuPy arrays hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import GRAD, HESS, VALUE
from ..dispatch import on_device as is_there
from ..gpu import launch
from ..gpu import pairwise as kernels
from ..gpu.pairwise_source import PairBuild, PairRowBuild
from ..messages import rejected
from ..reduction import checked_normalizer
from ..validate import precision_of, require_prediction, require_target, storage_name
from . import on_device
from .layout import common_layout, write_back
from .pairwise import Pairs
from .parameters import read_by
from .rowwise_on_device import MOST_CLASSES


def evaluate(
    loss: Any,
    outputs: int,
    y_true: Any,
    y_pred: tuple[Any, ...],
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
    out: Any,
    hess_out: Any,
    check: str,
) -> tuple[Any, Any, Any]:
    """Value, gradients and Hessians, those that ``outputs`` asks for, on the first prediction's device."""
    name, like = loss.name, loss.predictions()[0]
    pairs = Pairs(y_true, y_pred)
    _require_operands(loss, loss.arguments(*pairs), pairs.first)
    p = pairs.first
    shape = loss.loss_shape(pairs)
    if loss.unit == "row" and p.shape[-1] > MOST_CLASSES:
        raise ValueError(rejected(name, like, f"have at most {MOST_CLASSES} columns on a GPU", p.shape[-1]))
    computing = loss.computing(p)
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        weighed = on_device.weighed(name, shape, p, computing, sample_weight, mask, check, like)
        made = on_device.empty_like, on_device.output
        grads, hesses = loss.buffers(outputs, pairs, (sample_weight, mask), out, hess_out, *made)
        none = loss.reduction == "none"
        keep_order = loss.unit != "row" and weighed.weights is None and weighed.mask is None and not none
        layout = common_layout(*pairs.arrays, *grads, *hesses) if keep_order else "C"
        grads_ready, hesses_ready = (
            tuple(on_device.buffer_like(a, layout) for a in arrays) for arrays in (grads, hesses)
        )
        losses = launch.empty(shape, computing) if none and outputs & VALUE else None
        value = None
        if outputs & VALUE and not none:
            value = launch.empty((), np.float64) if p.size else launch.zeros((), np.float64)
        if p.size:
            scratch = launch.workspace(p.device.id)
            count = p.size // p.shape[-1] if loss.unit == "row" else p.size
            at, known = on_device.inverse_of(loss, count, p, weighed, normalizer, computing, scratch, check, like)
            ready = tuple(on_device.contiguous(a, layout) for a in pairs.predictions)
            y = None if pairs.y is None else on_device.contiguous(pairs.y, layout)
            given = kernels.Operands(y, ready, *weighed, grads_ready, hesses_ready, losses, at, known)
            wanted = (
                bool(outputs & VALUE), losses is not None, bool(outputs & GRAD), bool(outputs & HESS),
                weighed.weights is not None, weighed.mask is not None,
            )  # fmt: skip
            _launched(loss, pairs, wanted, given, value, scratch)
        write_back(*zip((*grads, *hesses), (*grads_ready, *hesses_ready), strict=True))
        if losses is not None:
            value = launch.converted(losses, np.dtype(precision_of(p)))
        return value, grads if outputs & GRAD else None, hesses if outputs & HESS else None


def _require_operands(loss: Any, operands: tuple[Any, ...], first: Any) -> None:
    """Refuse operands of types that kernels do not read, or that are not all where the first prediction is."""
    name, like = loss.name, loss.predictions()[0]
    on_device.require_aligned(name, like, first)
    for argument, array in zip(loss.operands, operands, strict=True):
        on_device.given(name, argument, array, first, like)
        if argument == "y_true":
            require_target(name, array.dtype)
        else:
            require_prediction(name, array.dtype, argument)


def _launched(
    loss: Any, pairs: Pairs, wanted: tuple[bool, ...], given: kernels.Operands, value: Any, scratch: launch.Workspace
) -> None:
    """Choose the kernel and launch it."""
    pred = storage_name(pairs.first.dtype) or ""
    types = (pred if pairs.y is None else pairs.y.dtype.name, pred)
    device, names = pairs.first.device.id, loss.predictions()
    if loss.unit == "row":
        formula = loss.formula()
        parameters = [float(getattr(loss, parameter)) for parameter in formula.parameters(names)]
        build = PairRowBuild(formula, names, pairs.y is not None, *types, *wanted)
        kernels.run_rows(build, given, parameters, value, scratch, device)
    else:
        function = loss.formulas()[loss.variant()]
        parameters, _ = read_by(loss, function)
        element_build = PairBuild(function, pairs.y is not None, len(names), *types, *wanted)
        kernels.run(element_build, given, parameters, value, scratch, device)
