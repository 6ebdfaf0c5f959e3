"""The NumPy code that a careful user writes: stable for every finite input, in place, each exponential once.

Each function writes the gradient of the mean loss to ``out`` and returns the mean loss. A loss without code
here is evaluated by its own formula.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss
from .by_formula import evaluate

Array = NDArray[Any]
Peer = Callable[[Loss, Array, Array, Array], float]


def _mean_squared_error(loss: Any, y: Array, p: Array, out: Array) -> float:
    np.subtract(p, y, out=out)
    value = np.mean(np.square(out))
    out *= 2.0 / out.size
    return float(value)


def _mean_absolute_error(loss: Any, y: Array, p: Array, out: Array) -> float:
    np.subtract(p, y, out=out)
    value = np.mean(np.abs(out))
    np.sign(out, out=out)
    out *= 1.0 / out.size
    return float(value)


def _huber(loss: Any, y: Array, p: Array, out: Array) -> float:
    difference = p - y
    np.clip(difference, -loss.delta, loss.delta, out=out)
    difference -= 0.5 * out  # both branches of the definition in one: slope * (difference - slope / 2)
    difference *= out
    value = np.mean(difference)
    out *= 1.0 / out.size
    return float(value)


def _binary_logits(loss: Any, y: Array, x: Array, out: Array) -> float:
    tail = np.abs(x)
    np.negative(tail, out=tail)
    np.exp(tail, out=tail)  # in (0, 1]: cannot overflow
    losses = np.maximum(x, 0.0)
    losses -= np.multiply(x, y, out=out)
    losses += np.log1p(tail, out=out)
    value = np.mean(losses)
    np.copyto(out, tail)
    np.copyto(out, 1.0, where=x >= 0.0)
    tail += 1.0
    out /= tail
    out -= y
    out *= 1.0 / out.size
    return float(value)


def _binary_probabilities(loss: Any, y: Array, p: Array, out: Array) -> float:
    q = np.clip(p, loss.epsilon, 1.0 - loss.epsilon)
    other = 1.0 - q
    losses = y * np.log(q)
    losses += (1.0 - y) * np.log(other)
    value = -np.mean(losses)
    np.subtract(q, y, out=out)
    other *= q
    out /= other
    out[p != q] = 0.0
    out *= 1.0 / out.size
    return float(value)


def _sparse_logits(loss: Any, y: Array, x: Array, out: Array) -> float:
    rows = np.arange(len(y))
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    own = out[rows, y]
    np.exp(out, out=out)
    totals = out.sum(axis=-1, keepdims=True)
    value = np.mean(np.log(totals[:, 0]) - own)
    out *= 1.0 / (totals * len(y))
    out[rows, y] -= 1.0 / len(y)
    return float(value)


def _dense_logits(loss: Any, y: Array, x: Array, out: Array) -> float:
    np.subtract(x, x.max(axis=-1, keepdims=True), out=out)
    asked = np.vecdot(out, y)
    np.exp(out, out=out)
    totals, mass = out.sum(axis=-1, keepdims=True), y.sum(axis=-1, keepdims=True)
    value = np.mean(mass[:, 0] * np.log(totals[:, 0]) - asked)
    out *= mass / totals
    out -= y
    out *= 1.0 / len(y)
    return float(value)


WRITTEN: dict[tuple[str, str], Peer] = {
    ("mean_squared_error", ""): _mean_squared_error,
    ("mean_absolute_error", ""): _mean_absolute_error,
    ("huber", ""): _huber,
    ("binary_crossentropy", "logits"): _binary_logits,
    ("binary_crossentropy", "probabilities"): _binary_probabilities,
    ("sparse_categorical_crossentropy", "logits"): _sparse_logits,
    ("categorical_crossentropy", "logits"): _dense_logits,
}


def by_formula(loss: Loss, y: Array, p: Array, out: Array) -> float:
    """Stand in for written code: the formula on whole arrays, which computes the Hessian too."""
    losses, gradient = evaluate(loss, y, p)
    np.multiply(gradient, 1.0 / losses.size, out=out)
    return float(np.mean(losses))


def call(loss: Loss, configuration: str, y: Array, p: Array, out: Array) -> Callable[[], float]:
    """The NumPy code of a case; float16 and bfloat16, slow in NumPy, are computed in float32."""
    peer = WRITTEN.get((loss.name, configuration), by_formula)
    if p.dtype.itemsize > 2:
        return lambda: peer(loss, y, p, out)

    def widened() -> float:
        targets = y if y.dtype.kind == "i" else y.astype(np.float32)
        gradient = np.empty(p.shape, np.float32)
        value = peer(loss, targets, p.astype(np.float32), gradient)
        out[...] = gradient
        return value

    return widened
