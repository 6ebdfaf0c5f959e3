"""Cosine similarity."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of
from ...families.rowwise import RowwiseLoss
from ...formula.ops import product, quotient, sqrt, where
from ...formula.rows import RowFormula


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(RowwiseLoss):
    """The negative cosine of the angle between two vectors: ``-sum(y p) / (|y| |p|)``.

    As Keras' ``CosineSimilarity``, 0 where a vector is 0; but vectors of any length count in full.
    """

    peers: ClassVar[Peers] = Peers(
        torch="-F.cosine_similarity(p, y, dim=-1, eps=1e-30)", keras="keras.losses.cosine_similarity(y, p)"
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.0, 2.0]], [[4.0, 3.0]], -0.6, [[0.096, -0.128]], [[-0.02208, 0.04608]]),
        Example([[0.0, 2.0]], [[1.0, 0.0]], 0.0, [[0.0, -1.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"formula": RowFormula(None, _sizes, _finish, _element, wide=True, again=_products)}


def _sizes(x: Any, y: Any, classes: Any) -> Any:
    """Mean absolute values. By these vectors are divided first, so that no square overflows or vanishes."""
    size = abs(x) / classes
    target_size = abs(y) / classes
    return size, target_size


def _products(x: Any, y: Any, size: Any, target_size: Any) -> Any:
    u = quotient(x, size)
    v = quotient(y, target_size)
    squares = u * u
    target_squares = v * v
    products = u * v
    return squares, target_squares, products


def _finish(size: Any, target_size: Any, squares: Any, target_squares: Any, products: Any) -> Any:
    cosine = quotient(products, sqrt(squares * target_squares))
    value = -cosine
    scale = where(squares == 0.0, 0.0, 1.0 / sqrt(squares))  # of u to a vector of length 1
    target_scale = where(target_squares == 0.0, 0.0, 1.0 / sqrt(target_squares))
    per_length = quotient(scale, size)
    own, other = size, target_size
    return value, cosine, scale, target_scale, per_length, own, other


def _element(x: Any, y: Any, cosine: Any, scale: Any, target_scale: Any, per_length: Any, own: Any, other: Any) -> Any:
    u = quotient(x, own) * scale
    v = quotient(y, other) * target_scale
    grad = product(cosine * u - v, per_length)
    hess = product(product(cosine + 2.0 * u * v - 3.0 * cosine * u * u, per_length), per_length)
    return grad, hess


cosine_similarity = function_of(CosineSimilarity)
