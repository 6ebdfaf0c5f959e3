"""Margin ranking loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, real
from ...families.pairwise import PairwiseLoss
from ...formula.ops import positive_part, sign


@dataclass(frozen=True, kw_only=True)
class MarginRanking(PairwiseLoss):
    """How much a pair is ranked wrongly: ``max(0, margin - y (first - second))`` (as torch's ``margin_ranking_loss``).

    y is 1 where the first should be the larger one, -1 where the second should. The gradients at the kink are 0.
    """

    margin: float = real(0.0, "how much larger the right one should be")

    operands: ClassVar[tuple[str, ...]] = ("y_true", "first", "second")
    peers: ClassVar[Peers] = Peers(
        torch="F.margin_ranking_loss(first, second, y_true, margin=margin, reduction=reduction)"
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, (0.5, 1.0), 0.5, (-1.0, 1.0), (0.0, 0.0)),
        Example(
            [1.0, -1.0],
            ([1.25, 1.0], [1.0, 1.0]),
            0.75,
            ([-1.0, 1.0], [1.0, -1.0]),
            ([0.0, 0.0], [0.0, 0.0]),
            {"margin": 0.5},
        ),
        Example(
            [1.0, -1.0],
            ([2.0, 1.0], [1.5, 2.0]),
            0.0,
            ([0.0, 0.0], [0.0, 0.0]),
            ([0.0, 0.0], [0.0, 0.0]),
            {"margin": 0.5},
        ),
    )

    def domain(self) -> Any:
        """What the operands may be."""
        return ("sign", "real", "real")

    @staticmethod
    def formula(y: Any, first: Any, second: Any, margin: Any) -> Any:
        """Value, gradients and Hessians at target y and a pair of predictions."""
        level = margin - y * (first - second)
        slope = y * positive_part(sign(level))
        return positive_part(level), -slope, slope, 0.0, 0.0


margin_ranking = function_of(MarginRanking)
