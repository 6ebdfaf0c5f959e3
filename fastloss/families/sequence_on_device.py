"""Sequence losses of CuPy arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..dispatch import GRAD, HESS, VALUE
from ..dispatch import on_device as is_there
from ..formula.alignments import Targets
from ..gpu import launch
from ..gpu import sequence as kernels
from ..gpu.elementwise import Operands
from ..gpu.source import SequenceBuild
from ..messages import rejected
from ..reduction import checked_normalizer
from ..validate import precision_of, require_labels, require_prediction, signed_labels, storage_name
from . import on_device
from .layout import write_back

#: Frames, classes and labels are counted in 32 bits.
LONGEST = 2**31 - 64


def evaluate(
    loss: Any,
    outputs: int,
    y_true: Targets,
    y_pred: Any,
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
    out: Any,
    hess_out: Any,
    check: str,
) -> tuple[Any, Any, Any]:
    """Value, gradient and Hessian of a sequence loss, those that ``outputs`` asks for, on y_pred's device."""
    name, p = loss.name, y_pred
    y = on_device.given(name, "y_true", y_true.labels, p)
    on_device.require_aligned(name, "y_pred", p)
    require_prediction(name, p.dtype)
    require_labels(name, y.dtype)
    shape = loss.losses_shape(y, p)
    number = math.prod(shape)
    if max(p.shape[-2], p.shape[-1], y.shape[-1]) > LONGEST:
        raise ValueError(rejected(name, "y_pred", f"have at most {LONGEST} frames and classes on a GPU", p.shape))
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        weighed = on_device.weighed(name, shape, p, "float64", sample_weight, mask, check)
        lengths, counts = (
            _lengths(loss, argument, given, p, shape)
            for argument, given in zip(Targets._fields[1:], y_true[1:], strict=True)
        )
        if check == "raise":
            _require(loss, Targets(y, lengths, counts), p, weighed, shape)
        grad, hess = on_device.results(name, outputs, p, out, hess_out, (y, p, sample_weight, mask, lengths, counts))
        losses = launch.empty(shape, np.float64) if loss.reduction == "none" and outputs & VALUE else None
        value = None
        if outputs & VALUE and losses is None:
            value = launch.empty((), np.float64) if number else launch.zeros((), np.float64)
        grad_ready, hess_ready = (on_device.buffer_like(a, "C") for a in (grad, hess))
        if number:
            scratch = launch.workspace(p.device.id)
            at, known = on_device.inverse_of(loss, number, p, weighed, normalizer, "float64", scratch, check)
            labels, _ = signed_labels(on_device.contiguous(y, "C"), None)
            operands = Operands(
                labels, on_device.contiguous(p, "C"), *weighed, grad_ready, hess_ready, losses, at, known
            )
            build = SequenceBuild(
                loss.formula(), loss.from_logits, labels.dtype.name, storage_name(p.dtype) or "",
                bool(outputs & VALUE), losses is not None, bool(outputs & GRAD), bool(outputs & HESS),
                weighed.weights is not None, weighed.mask is not None, lengths is not None, counts is not None,
            )  # fmt: skip
            sequences = kernels.Sequences(lengths, counts, loss.blank, loss.zero_infinity)
            kernels.run(build, operands, sequences, value, scratch, p.device.id)
        write_back((grad, grad_ready), (hess, hess_ready))
        if losses is None:
            return value, grad, hess
        return launch.converted(losses, np.dtype(precision_of(p))), grad, hess


def _lengths(loss: Any, argument: str, given: Any, p: Any, shape: tuple[int, ...]) -> Any:
    """Lengths on the device as int64, checked but for their values."""
    if given is None:
        return None
    lengths = on_device.given(loss.name, argument, given, p)
    loss.require_length_form(argument, lengths, shape)
    return on_device.contiguous(launch.converted(lengths, np.dtype(np.int64)), "C")


def _require(loss: Any, targets: Targets, p: Any, weighed: on_device.Weighed, shape: tuple[int, ...]) -> None:
    """Look at labels and lengths on the host."""
    host = Targets(*(None if a is None else a.get() for a in targets))
    for argument, lengths, most in zip(
        Targets._fields[1:], host[1:], (targets.labels.shape[-1], p.shape[-2]), strict=True
    ):
        loss.checked_lengths(argument, lengths, shape, most)
    counting: Any = True
    if weighed.mask is not None:
        counting = np.repeat(weighed.mask.get(), weighed.mask_inner).reshape(shape)
    loss.checked(host, p.shape[-1], counting)
