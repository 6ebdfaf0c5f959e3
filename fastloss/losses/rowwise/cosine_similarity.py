"""Cosine similarity."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, function_of
from ...families.rowwise import RowwiseLoss
from ...formula.ops import product, quotient, sqrt, where


@dataclass(frozen=True, kw_only=True)
class CosineSimilarity(RowwiseLoss):
    """The negative cosine of two vectors' angle, as Keras: ``-sum(y p) / (|y| |p|)``, 0 if one is 0; of any length."""

    peers: ClassVar[Peers] = Peers(
        torch="-F.cosine_similarity(p, y, dim=-1, eps=1e-30)", keras="keras.losses.cosine_similarity(y, p)",
        optax="-optax.losses.cosine_similarity(p, y)",
    )  # fmt: skip
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[1.0, 1.0]], [[4.0, 4.0]], -1.0, [[0.0, 0.0]], [[0.015625, 0.015625]]),
        Example([[0.0, 2.0]], [[1.0, 0.0]], 0.0, [[0.0, -1.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"formula": RowFormula(None, _sizes, _finish, _element, wide=True, halfway=_rises, again=_products)}


def _sizes(x: Any, y: Any, classes: Any) -> Any:
    size, target_size = abs(x) / classes, abs(y) / classes
    return size, target_size


def _rises(size: Any, target_size: Any) -> Any:
    rise, target_rise = 1.0 / (size + 1e-300), 1.0 / (target_size + 1e-300)  # that no square overflows or vanishes
    return rise, target_rise


def _products(x: Any, y: Any, rise: Any, target_rise: Any) -> Any:
    u, v = x * rise, y * target_rise
    squares, target_squares, products = u * u, v * v, u * v
    return squares, target_squares, products


def _finish(rise: Any, target_rise: Any, squares: Any, target_squares: Any, products: Any) -> Any:
    cosine = quotient(products, sqrt(squares * target_squares))
    scale = where(squares == 0.0, 0.0, 1.0 / sqrt(squares))  # of u to a vector of length 1
    target_scale = where(target_squares == 0.0, 0.0, 1.0 / sqrt(target_squares))
    value, per_length, own, other = -cosine, scale * rise, rise, target_rise
    return value, cosine, per_length, own, scale, other, target_scale


def _element(x: Any, y: Any, cosine: Any, per_length: Any, own: Any, scale: Any, other: Any, target_scale: Any) -> Any:
    u, v = x * own * scale, y * other * target_scale
    hess = product(product(cosine + 2.0 * u * v - 3.0 * cosine * u * u, per_length), per_length)
    return product(cosine * u - v, per_length), hess


cosine_similarity = function_of(CosineSimilarity)
