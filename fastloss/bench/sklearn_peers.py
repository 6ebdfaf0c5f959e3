"""scikit-learn's fused kernels, called on buffers made beforehand: private, but the fastest that it has.

They give one loss per element or row and the gradient of their sum. fastloss's time includes taking the mean
of both; theirs does not.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss

Array = NDArray[Any]

#: Losses that have what depends on the target alone: not the same values, and more work.
WITH_CONSTANTS = ("HalfTweedieLossIdentity",)

#: Elements from which its threads are worth their start.
SHARE_FROM = 10_000


def available() -> str:
    """Why scikit-learn cannot be measured; empty if it can."""
    try:
        from sklearn._loss import loss as kernels
    except ImportError:
        return "not importable"
    return "" if hasattr(kernels, "HalfSquaredError") else "without the kernels known here"


def call(loss: Loss, y: Array, p: Array, threads: int) -> tuple[Callable[[], Any], float] | None:
    """Loss and gradient on buffers, and the factor that makes them those of the loss.

    Gives None where scikit-learn has no such loss or not this element type.
    """
    found = kernel_of(loss, p.shape[-1])
    if found is None or p.dtype.name not in ("float32", "float64"):
        return None
    kernel, factor = found
    if type(kernel).__name__ in WITH_CONSTANTS:
        return None
    target = y.astype(p.dtype)
    losses, gradient = np.empty(len(p), p.dtype), np.empty_like(p)
    prediction, n_threads = p, threads if p.size >= SHARE_FROM else 1

    def loss_gradient() -> Any:
        return kernel.loss_gradient(
            y_true=target,
            raw_prediction=prediction,
            loss_out=losses,
            gradient_out=gradient,
            n_threads=n_threads,
        )

    return loss_gradient, factor


def result(output: Any, factor: float) -> tuple[float, Array]:
    """Mean loss and its gradient."""
    losses, gradient = output
    scale = factor / len(losses)
    return float(np.sum(losses, dtype=np.float64)) * scale, gradient.astype(np.float64) * scale


def kernel_of(loss: Loss, classes: int) -> tuple[Any, float] | None:
    """scikit-learn's loss for a configured one, and the factor that makes its values those; None if it has none.

    ``peers.scikit_learn`` names alternatives. Each wants some parameters to be set; others that it does not know
    must have their defaults (but for a clip margin, which scikit-learn's links have no use for).
    """
    from sklearn._loss import loss as kernels

    changed = {f.name for f in dataclasses.fields(loss) if getattr(loss, f.name) != f.default}
    for alternative in filter(None, loss.peers.scikit_learn.split("|")):
        name, factor, *conditions = alternative.split()
        kind = getattr(kernels, name, None)
        if kind is None or not all(getattr(loss, condition) for condition in conditions):
            continue
        asked = inspect.signature(kind).parameters
        if changed <= {*conditions, *asked, "epsilon", "reduction"}:
            shared = {key: getattr(loss, key) for key in asked if hasattr(loss, key)}
            return kind(**shared, **({"n_classes": classes} if "n_classes" in asked else {})), float(factor)
    return None
