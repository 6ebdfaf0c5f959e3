"""Multi-class margin loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of, one_of, optional_weights, real
from ...families.rowwise import RowwiseLoss
from ...formula.ops import nothing_of, positive_part, product, where


@dataclass(frozen=True, kw_only=True)
class MultiMargin(RowwiseLoss):
    """Margins that the true class lacks: ``w[y] / C sum_(c != y) max(0, margin + x[c] - x[y])^p``, C classes.

    As torch's ``multi_margin_loss`` (Weston and Watkins 1999, ESANN). Where a margin is met its part of gradient and
    Hessian is 0.
    """

    p: int = one_of(1, (1, 2), "power of each missing margin")
    margin: float = real(1.0, "how far the true class should be ahead of every other")
    class_weight: tuple[float, ...] | None = optional_weights("one weight per class")

    indexed: ClassVar[bool] = True
    takes: ClassVar[Domain] = Domain("label", "real")
    peers: ClassVar[Peers] = Peers(torch="F.multi_margin_loss(p, y, loss.p, margin, weight, reduction=reduction)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1], [[0.5, 1.0, 0.25, -1.0]], 0.1875, [[0.25, -0.5, 0.25, 0.0]], [[0.0, 0.0, 0.0, 0.0]]),
        Example([1], [[0.5, 1.0, 0.25, -1.0]], 0.078125, [[0.25, -0.375, 0.125, 0.0]], [[0.5, 1.0, 0.5, 0.0]],
                {"p": 2}),
        Example([0], [[1.0, 1.0]], 0.5, [[-1.0, 1.0]], [[0.0, 0.0]], {"margin": 0.5, "class_weight": (2.0, 1.0)}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"scores": RowFormula(None, _statistics, _finish, _element, _target)}


def _distance(x: Any, target_x: Any, margin: Any) -> Any:
    """What the true class lacks, if anything; also between equal infinities."""
    return where(x == target_x, 0.0, x - target_x) + margin


def _terms(distance: Any, scale: Any, p: Any) -> Any:
    """Cost of a missing margin, its slope and its curvature, each times ``scale`` before anything overflows."""
    missing = positive_part(distance)
    nothing = nothing_of(missing)  # a NaN shows also where the true class weighs nothing
    linear = product(scale, missing) + nothing
    active = where(distance > 0.0, scale, 0.0)
    cost = where(p == 1.0, linear, product(linear, missing))
    return cost, where(p == 1.0, active + nothing, 2.0 * linear), 2.0 * (p - 1.0) * active


def _statistics(x: Any, target_x: Any, target_weight: Any, classes: Any, margin: Any, p: Any) -> Any:
    cost, slope, curvature = _terms(_distance(x, target_x, margin), target_weight / classes, p)
    # Classes as good as the true one, itself among them, are counted: what it costs is never subtracted again.
    tied = x == target_x
    costs = where(tied, 0.0, cost)
    slopes = where(tied, 0.0, slope)
    curvatures = where(tied, 0.0, curvature)
    ties = where(tied, 1.0, 0.0)
    return costs, slopes, curvatures, ties


def _finish(
    costs: Any, slopes: Any, curvatures: Any, ties: Any, target_weight: Any, classes: Any, margin: Any, p: Any
) -> Any:
    scale = target_weight / classes
    cost, slope, curvature = _terms(margin, scale, p)
    others = ties - 1.0
    value = costs + others * cost
    nothing = nothing_of(value)  # a NaN shows in the row's gradient
    pull = slopes + others * slope
    bend = curvatures + others * curvature
    return value, nothing, scale, pull, bend


def _element(x: Any, target_x: Any, margin: Any, p: Any, nothing: Any, scale: Any) -> Any:
    _, slope, curvature = _terms(_distance(x, target_x, margin), scale, p)
    return slope + nothing, curvature


def _target(pull: Any, bend: Any) -> Any:
    return -pull, bend


multi_margin = function_of(MultiMargin)
