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
        torch="-F.cosine_similarity(p, y, dim=-1, eps=1e-30)",
        keras="keras.losses.cosine_similarity(y, p)",
        optax="-optax.losses.cosine_similarity(p, y)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[1.0, 1.0]], [[4.0, 4.0]], -1.0, [[0.0, 0.0]], [[0.015625, 0.015625]]),
        Example([[0.0, 2.0]], [[1.0, 0.0]], 0.0, [[0.0, -1.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"formula": RowFormula(None, _sizes, _finish, _element, wide=True, halfway=_rises, again=_products)}


def _sizes(x: Any, y: Any, classes: Any) -> Any:
    size = abs(x) / classes
    target_size = abs(y) / classes
    return size, target_size


def _rises(size: Any, target_size: Any) -> Any:
    """Factors that give vectors an ordinary size, so that no square overflows or vanishes; finite for that of 0."""
    rise = 1.0 / (size + 1e-300)
    target_rise = 1.0 / (target_size + 1e-300)
    return rise, target_rise


def _products(x: Any, y: Any, rise: Any, target_rise: Any) -> Any:
    u = x * rise
    v = y * target_rise
    squares = u * u
    target_squares = v * v
    products = u * v
    return squares, target_squares, products


def _finish(rise: Any, target_rise: Any, squares: Any, target_squares: Any, products: Any) -> Any:
    cosine = quotient(products, sqrt(squares * target_squares))
    value = -cosine
    scale = where(squares == 0.0, 0.0, 1.0 / sqrt(squares))  # of u to a vector of length 1
    target_scale = where(target_squares == 0.0, 0.0, 1.0 / sqrt(target_squares))
    per_length = scale * rise
    own, other = rise, target_rise
    return value, cosine, per_length, own, scale, other, target_scale


def _element(x: Any, y: Any, cosine: Any, per_length: Any, own: Any, scale: Any, other: Any, target_scale: Any) -> Any:
    u = x * own * scale
    v = y * other * target_scale
    grad = product(cosine * u - v, per_length)
    hess = product(product(cosine + 2.0 * u * v - 3.0 * cosine * u * u, per_length), per_length)
    return grad, hess


cosine_similarity = function_of(CosineSimilarity)
