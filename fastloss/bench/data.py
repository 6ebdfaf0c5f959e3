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
    """Arguments of a loss; its predictions, where it takes several, along the second axis of ``p``."""

    y: Array
    p: Array

    def head(self) -> Operands:
        """Their first rows: gradients of a mean over few numbers are large enough for float16."""
        rows = max(1, HEAD * len(self.p) // max(1, self.p.size))
        return Operands(self.y[:rows].copy(), self.p[:rows].copy())


def operands(case: Case) -> Operands:
    """Targets and predictions of a case, by what its loss takes."""
    random = np.random.default_rng(12345)
    dtype = dtype_named(case.dtype)
    if case.loss.several:
        return _several(case.loss, case.shape, random, dtype)
    true, pred = case.loss.domain()
    if case.loss.family == "rowwise":
        p = _rows(pred, case.shape, random)
        y = _rows(true, case.shape, random)
    elif case.loss.family == "sequence":
        y, p = _sequences(case, random)
    elif case.loss.family == "allpairs":
        y, p = _views(case, random)
    elif (true, pred) == ("real", "real"):
        y, p = _regression(case.loss, case.shape, random)
    else:
        p = numbers_of(pred, case.shape, random)
        y = numbers_of(true, case.shape, random)
    return Operands(y if y.dtype.kind == "i" else y.astype(dtype), p.astype(dtype))


def _several(loss: Any, shape: Shape, random: np.random.Generator, dtype: Any) -> Operands:
    """A target, of no elements if the loss has none, and predictions, each in one piece of memory."""
    kinds = dict(zip(loss.operands, loss.domain(), strict=True))
    true = kinds.pop("y_true", None)
    losses = shape[:-1] if loss.unit == "row" else shape
    y = np.zeros((shape[0], 0)) if true is None else numbers_of(true, losses, random)
    p = np.stack([numbers_of(kind, shape, random).astype(dtype) for kind in kinds.values()])
    return Operands(y.astype(dtype), p.swapaxes(0, 1))


def numbers_of(kind: str, shape: Shape, random: np.random.Generator) -> Array:
    """Ordinary float32 numbers of a set (see `fastloss.families.declaration.SETS`)."""
    if kind in ("unit", "binary"):
        return (random.random(shape, np.float32) < 0.5).astype(np.float32)
    if kind == "sign":
        return np.where(random.random(shape, np.float32) < 0.5, np.float32(-1.0), np.float32(1.0))
    if kind == "non_negative":
        return random.integers(0, 5, shape).astype(np.float32)
    numbers: Array = random.standard_normal(shape, np.float32)
    match kind:
        case "logit":
            numbers = 2.0 * numbers
        case "positive":
            numbers = np.exp(0.5 * numbers)
        case "probability":
            numbers = 0.5 + 0.2 * np.tanh(numbers)
        case "log_probability":
            numbers = np.log(0.5 + 0.2 * np.tanh(numbers))
    return numbers


def _rows(kind: str, shape: Shape, random: np.random.Generator) -> Array:
    """Rows of such numbers: a class number each, one-hot, or numbers that are one distribution where the set is."""
    rows, classes = shape
    if kind in ("label", "distribution"):
        labels: Array = random.integers(0, classes, rows)
        one_hot: Array = (np.arange(classes) == labels[:, None]).astype(np.float32)
        return labels if kind == "label" else one_hot
    if kind not in ("probability", "log_probability", "log_distribution"):
        return numbers_of(kind, shape, random)
    p: Array = np.exp(2.0 * random.standard_normal(shape, np.float32))
    p /= p.sum(axis=-1, keepdims=True)
    return p if kind == "probability" else np.log(p)


def _sequences(case: Case, random: np.random.Generator) -> tuple[Array, Array]:
    """Frames of logits or log-probabilities, and labels a fifth as long; class 0 is the blank."""
    sequences, frames, classes = case.shape
    p = 2.0 * random.standard_normal(case.shape, np.float32)
    if case.configuration != "logits":
        p -= np.logaddexp.reduce(p, axis=-1, keepdims=True)
    return random.integers(1, classes, (sequences, max(1, frames // 5))), p


def _views(case: Case, random: np.random.Generator) -> tuple[Array, Array]:
    """Embeddings of length 1, two neighbours each of one label."""
    p: Array = random.standard_normal(case.shape, np.float32)
    return np.arange(len(p)) // 2, p / np.linalg.norm(p, axis=-1, keepdims=True)


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
