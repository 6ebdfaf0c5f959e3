"""Cosine embedding loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, real
from ...families.pairwise import RowPairsLoss
from ...formula.ops import positive_part, sign, sqrt, where
from ...formula.pairs import PairFormula


@dataclass(frozen=True, kw_only=True)
class CosineEmbedding(RowPairsLoss):
    """The angle of two rows: ``1 - cos`` where y is 1, ``max(0, cos - margin)`` where it is -1.

    As torch's ``cosine_embedding_loss``, which adds 1e-12 to the squares of both lengths: a row of zeros has a cosine
    of 0. Computed in float64.
    """

    margin: float = real(0.0, "the cosine that rows of different kinds may have")

    operands: ClassVar[tuple[str, ...]] = ("y_true", "first", "second")
    peers: ClassVar[Peers] = Peers(
        torch="F.cosine_embedding_loss(first, second, y_true, margin=margin, reduction=reduction)"
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            [1.0],
            ([[3000.0, 4000.0]], [[4000.0, 3000.0]]),
            0.04,
            ([[-4.48e-5, 3.36e-5]], [[3.36e-5, -4.48e-5]]),
            ([[3.5328e-8, 3.072e-9]], [[3.072e-9, 3.5328e-8]]),
        ),
        Example(
            [-1.0],
            ([[3e6, 0.0]], [[0.0, 1e6]]),
            0.5,
            ([[0.0, 1 / 3e6]], [[1e-6, 0.0]]),
            ([[0.0, 0.0]], [[0.0, 0.0]]),
            {"margin": -0.5},
        ),
        Example(
            [-1.0],
            ([[0.0, 1.0]], [[0.0, -1.0]]),
            0.0,
            ([[0.0, 0.0]], [[0.0, 0.0]]),
            ([[0.0, 0.0]], [[0.0, 0.0]]),
            {"margin": -0.5},
        ),
    )

    def domain(self) -> Any:
        """What the operands may be."""
        return ("sign", "real", "real")

    @classmethod
    def row_formulas(cls) -> dict[str, PairFormula]:
        """Its formula."""
        return {"formula": PairFormula(_squares, _statistics, _finish, _element, wide=True)}


def _squares(first: Any, second: Any) -> Any:
    first_square = first * first
    second_square = second * second
    return first_square, second_square


def _inverse_length(square: Any) -> Any:
    return 1.0 / sqrt(square + 1e-12)


def _statistics(first: Any, second: Any, first_square: Any, second_square: Any) -> Any:
    left = first * _inverse_length(first_square)
    right = second * _inverse_length(second_square)
    gap = (left - right) * (left - right)
    likeness = left * right
    return gap, likeness


def _finish(y: Any, gap: Any, likeness: Any, first_square: Any, second_square: Any, margin: Any) -> Any:
    first_inverse = _inverse_length(first_square)
    second_inverse = _inverse_length(second_square)
    # 1 - cos without cancellation; 1e-12 counts as a place where one row has 1e-6 and the other 0.
    added = 1e-12 * (first_inverse * first_inverse + second_inverse * second_inverse)
    level = likeness - margin
    # Squares that overflow show as NaN, as does a target that is NaN.
    shown = 0.0 * (y + first_square + second_square)
    value = where(y > 0.0, 0.5 * (gap + added), positive_part(level)) + shown
    slope = where(y > 0.0, -1.0, positive_part(sign(level))) + shown
    return value, slope, first_inverse, second_inverse


def _element(first: Any, second: Any, slope: Any, likeness: Any, first_inverse: Any, second_inverse: Any) -> Any:
    left = first * first_inverse
    right = second * second_inverse
    first_slope = slope * first_inverse
    second_slope = slope * second_inverse
    first_bend = likeness * (3.0 * left * left - 1.0) - 2.0 * left * right
    second_bend = likeness * (3.0 * right * right - 1.0) - 2.0 * left * right
    return (
        first_slope * (right - likeness * left),
        second_slope * (left - likeness * right),
        first_slope * first_inverse * first_bend,
        second_slope * second_inverse * second_bend,
    )


cosine_embedding = function_of(CosineEmbedding)
