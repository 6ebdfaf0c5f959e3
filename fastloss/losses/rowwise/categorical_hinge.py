"""Categorical hinge loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of
from ...families.rowwise import RowwiseLoss
from ...formula.ops import nothing_of, positive_part, product, where


@dataclass(frozen=True, kw_only=True)
class CategoricalHinge(RowwiseLoss):
    """Margin that the true class lacks: ``max(0, 1 - sum_c y[c] p[c] + max_c (1 - y[c]) p[c])``.

    As Keras' ``CategoricalHinge`` (Crammer and Singer 2001, JMLR 2). Classes that share the maximum share its gradient,
    which is 0 where the margin is met. The Hessian is 0.
    """

    takes: ClassVar[Domain] = Domain("distribution", "real")
    peers: ClassVar[Peers] = Peers(
        keras="F.relu(keras.losses.categorical_hinge(y, p))",  # has a slope of 0 where the margin is met
        plain="F.relu(((1 - y) * p).amax(-1) - (y * p).sum(-1) + 1)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.0, 1.0, 0.0]], [[2.0, 1.0, 0.5]], 2.0, [[1.0, -1.0, 0.0]], [[0.0, 0.0, 0.0]]),
        Example([[1.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]], 2.0, [[-1.0, 0.5, 0.5]], [[0.0, 0.0, 0.0]]),
        Example([[0.5, 0.5]], [[2.0, 4.0]], 0.0, [[0.0, 0.0]], [[0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"scores": RowFormula("peak", _statistics, _finish, _element, first_of=_rival)}


def _rival(x: Any, y: Any) -> Any:
    return product(1.0 - y, x)


def _statistics(x: Any, y: Any, peak: Any) -> Any:
    own = product(y, x) + nothing_of(x)  # a NaN shows in every class
    peaks = where(product(1.0 - y, x) == peak, 1.0, 0.0)
    return own, peaks


def _finish(own: Any, peaks: Any, peak: Any) -> Any:
    missing = peak - own + 1.0
    value = positive_part(missing)
    active = where(missing > 0.0, 1.0, where(missing <= 0.0, 0.0, missing))
    share = active / peaks
    return value, active, share


def _element(x: Any, y: Any, peak: Any, active: Any, share: Any) -> Any:
    pulled = where(product(1.0 - y, x) == peak, (1.0 - y) * share, 0.0)
    return pulled - y * active, 0.0


categorical_hinge = function_of(CategoricalHinge)
