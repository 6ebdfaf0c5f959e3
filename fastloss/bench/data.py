"""Synthetic targets and predictions for a case, the same ones in every run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss
from ..validate import dtype_named
from .by_formula import exact
from .cases import Case, Shape

Array = NDArray[Any]

#: Elements of the part on which contenders are compared most strictly.
HEAD = 4096


class Operands(NamedTuple):
    """Arguments of a loss."""

    y: Array
    p: Array

    def head(self) -> Operands:
        """Their first rows: gradients of a mean over few numbers are large enough for float16."""
        rows = max(1, HEAD * len(self.p) // max(1, self.p.size))
        return Operands(self.y[:rows].copy(), self.p[:rows].copy())


def operands(case: Case) -> Operands:
    """Targets and predictions of a case."""
    random = np.random.default_rng(12345)
    dtype = dtype_named(case.dtype)
    if case.loss.family == "rowwise":
        y, p = _rows(case, random)
    elif case.configuration:
        p = random.standard_normal(case.shape, np.float32)
        y = (random.random(case.shape, np.float32) < 0.5).astype(np.float32)
        p = 2.0 * p if case.configuration == "logits" else 0.5 + 0.2 * np.tanh(p)
    else:
        y, p = _regression(case.loss, case.shape, random)
    return Operands(y if y.dtype.kind == "i" else y.astype(dtype), p.astype(dtype))


def _rows(case: Case, random: np.random.Generator) -> tuple[Array, Array]:
    """Rows of logits or probabilities, and class numbers or one-hot rows."""
    rows, classes = case.shape
    p = 2.0 * random.standard_normal(case.shape, np.float32)
    if case.configuration == "probabilities":
        np.exp(p, out=p)
        p /= p.sum(axis=-1, keepdims=True)
    labels = random.integers(0, classes, rows)
    if getattr(case.loss, "indexed", False):
        return labels, p
    one_hot = np.zeros(case.shape, np.float32)
    one_hot[np.arange(rows), labels] = 1.0
    return one_hot, p


def _regression(loss: Loss, shape: Shape, random: np.random.Generator) -> tuple[Array, Array]:
    """Numbers around 0, never nearly equal; if the loss takes only others, those of its examples."""
    p = random.standard_normal(shape, np.float32)
    y = random.standard_normal(shape, np.float32)
    y += p + np.copysign(np.float32(0.125), y)
    if all(np.all(np.isfinite(result)) for result in exact(loss, y[:HEAD], p[:HEAD])):
        return y, p
    pairs = [_flat_pairs(example.y_true, example.y_pred) for example in loss.examples]
    picked = np.concatenate(pairs, axis=1)[:, random.integers(0, sum(pair.shape[1] for pair in pairs), shape)]
    return picked[0], picked[1]


def _flat_pairs(y: Any, p: Any) -> Array:
    return np.stack([np.ravel(side) for side in np.broadcast_arrays(y, p)]).astype(np.float32)
