"""Losses of a batch of embeddings, each compared with all others.

The similarities of a batch, a matrix product, are the predictions of a rowwise loss whose "classes" are the other
embeddings: the rowwise sweeps give each row's loss, its slopes and its curvatures, and two more products take the
slopes back to the embeddings. The products are those of NumPy's or CuPy's BLAS, so the last bits may depend on its
number of threads. The same text serves both libraries.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..dispatch import GRAD, HESS, VALUE, on_device
from ..messages import rejected
from ..reduction import weighting
from ..validate import labels, precision_of, prediction
from .declaration import Domain
from .rowwise import RowsLoss

#: What an embedding is to another one: of another label, of the same, or not compared with it.
NEGATIVE, POSITIVE, LEFT_OUT = range(3)


class Batch(NamedTuple):
    """The arguments of a call, checked, all in one place."""

    module: Any  # numpy or cupy
    place: Any  # the device, as a context
    labels: Any  # (rows)
    embeddings: Any  # (rows, columns)
    other_labels: Any  # (others); None: the batch is compared with itself
    references: Any  # (others, columns); None likewise
    kept: Any  # (rows), bool; None: all
    share: Any  # (rows), float64: each row's weight over the normaliser
    grad: Any  # where results go, or None
    hess: Any


class Found(NamedTuple):
    """What the rowwise loss says of a batch."""

    relation: Any  # (rows, others), uint8
    losses: Any  # (rows)
    slopes: Any  # (rows, others): of each row's loss by its similarities
    curvatures: Any  # (rows, others): second derivatives likewise


class AllPairsLoss(RowsLoss, abstract=True):
    """One loss per embedding, from its similarities to all others.

    y_true holds labels, shape (rows,), y_pred embeddings, shape (rows, columns). Both may be pairs: of the batch, and
    of references that it is compared with instead of itself, which get no gradient. An embedding that ``mask`` leaves
    out is compared with none. ``y`` of the formulas is one of `NEGATIVE`, `POSITIVE` and `LEFT_OUT`.
    """

    family: ClassVar[str] = "allpairs"
    #: Whether embeddings are divided by their lengths first.
    normalizes: ClassVar[bool] = False

    def domain(self) -> Domain:
        """Labels and embeddings."""
        return Domain("label", "real")

    def leaves_out_itself(self) -> bool:
        """Whether an embedding is no positive of itself."""
        return True

    def row_curvature(
        self, found: Found, linear: Callable[[Any], Any], quadratic: Callable[[Any], Any], module: Any
    ) -> Any:
        """Second derivatives of the rows' losses along directions in their similarities, shape (rows, columns).

        ``linear(matrix)`` sums a matrix (rows, others) times the directions, ``quadratic(matrix)`` times their squares.
        """
        raise NotImplementedError

    def _evaluate(
        self,
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
        (y, other_labels), (p, references) = _pair(y_true), _pair(y_pred)
        prepared: Callable[..., Batch] = _on_host
        if on_device(p):
            from .allpairs_on_device import prepared
        batch = prepared(
            self, outputs, y, p, other_labels, references, sample_weight, mask, normalizer, out, hess_out, check
        )
        with batch.place:
            value, *results = _compared(self, outputs, batch)
            for buffer, result in zip((batch.grad, batch.hess), results, strict=True):
                if buffer is not None:
                    buffer[...] = result.astype(buffer.dtype)
        return value, batch.grad, batch.hess

    def require_form(self, y: Any, p: Any, other_labels: Any, references: Any) -> None:
        """Refuse shapes that do not fit."""
        if p.ndim != 2:
            raise ValueError(rejected(self.name, "y_pred", "have shape (rows, columns)", p.shape))
        if y.shape != p.shape[:1]:
            raise ValueError(rejected(self.name, "y_true", f"have shape {p.shape[:1]}, a label a row", y.shape))
        if (references is None) != (other_labels is None):
            raise ValueError(rejected(self.name, "references", "come with their labels", "only one of them"))
        if references is not None and (references.ndim != 2 or references.shape[1:] != p.shape[1:]):
            rule = f"have shape (others, {p.shape[1]})"
            raise ValueError(rejected(self.name, "references", rule, references.shape))
        if references is not None and other_labels.shape != references.shape[:1]:
            rule = f"have shape {references.shape[:1]}, a label a row"
            raise ValueError(rejected(self.name, "reference labels", rule, other_labels.shape))


def _pair(argument: Any) -> tuple[Any, Any]:
    """The batch's own and the references', if there are any."""
    return argument if isinstance(argument, tuple) and len(argument) == 2 else (argument, None)


def _on_host(
    loss: AllPairsLoss,
    outputs: int,
    y: Any,
    p: Any,
    other_labels: Any,
    references: Any,
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
    out: Any,
    hess_out: Any,
    check: str,
) -> Batch:
    name = loss.name
    p, y = prediction(name, p), labels(name, y)
    others = None if references is None else prediction(name, references)
    other_labels = None if other_labels is None else labels(name, other_labels)
    loss.require_form(y, p, other_labels, others)
    sample_weight, mask = loss._given("sample_weight", sample_weight), loss._given("mask", mask)
    precisions = (precision_of(p), "float64")
    weighed = weighting(name, loss.reduction, p.shape[:1], precisions, sample_weight, mask, normalizer)
    weights = np.ones(p.shape[:1]) if weighed.weights is None else np.repeat(weighed.weights, weighed.inner)
    kept = None if mask is None else weights >= 0
    share = np.maximum(weights, 0.0) / weighed.normalizer if weighed.normalizer else np.zeros(p.shape[:1])
    grad, hess = loss._results(outputs, p, out, hess_out, (y, p, others, sample_weight, mask))
    return Batch(np, contextlib.nullcontext(), y, p, other_labels, others, kept, share, grad, hess)


@lru_cache(maxsize=64)
def _each(loss: AllPairsLoss) -> AllPairsLoss:
    """The same loss with one value a row."""
    return loss if loss.reduction == "none" else dataclasses.replace(loss, reduction="none")


def _compared(loss: AllPairsLoss, outputs: int, batch: Batch) -> tuple[Any, Any, Any]:
    """Value, gradient and Hessian in the precision of the arithmetic."""
    module, computing = batch.module, precision_of(batch.embeddings)
    queries, lengths = _units(loss, batch.embeddings.astype(computing), batch.kept, module)
    itself = batch.references is None
    keys = queries if itself else _units(loss, batch.references.astype(computing), None, module)[0]
    relation, similarity = _relation(loss, batch), module.matmul(queries, keys.T)
    # Slopes may take the place of the similarities, but for the Hessian, which wants both.
    room = None if outputs & HESS or not outputs & GRAD else similarity
    wanted = outputs | GRAD | VALUE if outputs & HESS else outputs
    losses, slopes, curvatures = RowsLoss._evaluate(
        _each(loss), wanted, relation, similarity, None, None, None, room, None, "nan"
    )
    value = gradient = hessian = None
    if outputs & VALUE:
        value = losses * batch.share.astype(losses.dtype) if loss.reduction == "none" else _total(batch, losses)
    if outputs & (GRAD | HESS):
        share = batch.share.astype(computing)[:, None]
        pull = share * module.matmul(slopes, keys)
        if itself:
            pull = pull + module.matmul(slopes.T, share * queries)
        along = module.einsum("ij,ij->i", pull, queries)[:, None]
        gradient = pull if lengths is None else (pull - along * queries) / lengths
        if outputs & HESS:
            found = Found(relation, losses, slopes, curvatures)
            sides = _Sides(module, queries, keys, similarity, loss.normalizes, itself)
            hessian = share * loss.row_curvature(found, sides.linear, sides.quadratic, module)
            if itself:
                hessian = hessian + sides.of_others(share * curvatures) + share * sides.bend(slopes)
            if lengths is not None:  # a unit vector bends too
                hessian = hessian - 2.0 * queries * pull - along + 3.0 * along * queries * queries
                hessian = hessian / (lengths * lengths)
    return value, gradient, hessian


def _total(batch: Batch, losses: Any) -> Any:
    """The weighted sum, in float64: a number on the host, an array of none axes on a device."""
    total = batch.module.einsum("i,i->", batch.share, losses.astype(np.float64))
    return float(total) if batch.module is np else total


def _units(loss: AllPairsLoss, embeddings: Any, kept: Any, module: Any) -> tuple[Any, Any]:
    """Embeddings as they are compared, and their lengths, shape (rows, 1), if they are divided by them.

    Those that are left out become 0, and so stay embeddings of length 0: similar to none, without a gradient.
    """
    if kept is not None:
        embeddings = module.where(kept[:, None], embeddings, embeddings.dtype.type(0))
    if not loss.normalizes:
        return embeddings, None
    wide = embeddings.astype(np.float64)
    lengths = module.sqrt(module.einsum("ij,ij->i", wide, wide))[:, None]
    lengths = module.where(lengths == 0.0, np.float64(np.inf), lengths)
    return (wide / lengths).astype(embeddings.dtype), lengths.astype(embeddings.dtype)


def _relation(loss: AllPairsLoss, batch: Batch) -> Any:
    """What each embedding is to each other one, shape (rows, others), uint8."""
    module, labels = batch.module, batch.labels
    others = labels if batch.other_labels is None else batch.other_labels
    relation = (labels[:, None] == others[None, :]).astype(np.uint8)  # POSITIVE or NEGATIVE
    if loss.leaves_out_itself():
        rows, columns = (module.arange(length) for length in relation.shape)
        itself = (rows[:, None] == columns[None, :]) & (relation == POSITIVE)
        relation = module.where(itself, np.uint8(LEFT_OUT), relation)
    if batch.kept is not None:
        compared = batch.kept[:, None] if batch.references is not None else batch.kept[:, None] & batch.kept[None, :]
        relation = module.where(compared, relation, np.uint8(LEFT_OUT))
    return relation


class _Sides(NamedTuple):
    """Directions in similarities that moving component k of embedding i goes.

    In row i they are ``keys[:, k]``; its similarity to itself, where there is one, goes twice as far. Of unit vectors
    they are what is not along the vector, ``keys[:, k] - queries[i, k] similarity[i]`` (over its length).
    """

    module: Any
    queries: Any
    keys: Any
    similarity: Any
    normalizes: bool
    itself: bool  # whether the batch is compared with itself

    def linear(self, matrix: Any) -> Any:
        """The sum over the others of a matrix times the directions."""
        found = self.module.matmul(matrix, self.keys)
        if self.normalizes:
            return found - self.queries * self._sums(matrix * self.similarity)
        return found + self._diagonal(matrix) * self.queries

    def quadratic(self, matrix: Any) -> Any:
        """The sum over the others of a matrix times the squared directions."""
        return self._squares(matrix, self.keys, self.similarity) + 3.0 * self._own(matrix)

    def of_others(self, matrix: Any) -> Any:
        """The same in the others' rows, where this embedding is a column."""
        return self._squares(matrix.T, self.queries, self.similarity.T) - self._own(matrix)

    def bend(self, slopes: Any) -> Any:
        """What an embedding's similarity to itself adds by its own second derivative."""
        return 2.0 * self._diagonal(slopes)

    def _own(self, matrix: Any) -> Any:
        return self._diagonal(matrix) * self.queries * self.queries

    def _diagonal(self, matrix: Any) -> Any:
        """Of a batch compared with itself, shape (rows, 1). A unit vector's similarity to itself is always 1."""
        if not self.itself or self.normalizes:
            return matrix.dtype.type(0)
        return self.module.diagonal(matrix)[:, None]

    def _squares(self, matrix: Any, keys: Any, similarity: Any) -> Any:
        found = self.module.matmul(matrix, keys * keys)
        if self.normalizes:
            along = matrix * similarity
            found = found - 2.0 * self.queries * self.module.matmul(along, keys)
            found = found + self.queries * self.queries * self._sums(along * similarity)
        return found

    def _sums(self, matrix: Any) -> Any:
        return self.module.einsum("ij->i", matrix)[:, None]
