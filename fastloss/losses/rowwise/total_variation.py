"""Total variation distance of two distributions."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of, wrt
from ...families.rowwise import RowwiseLoss
from ...formula.ops import nothing_of, sign


@dataclass(frozen=True, kw_only=True)
class TotalVariation(RowwiseLoss):
    """Half the sum of absolute differences: ``sum_c |p[c] - y[c]| / 2``.

    As Liger's ``LigerTVDLoss``, but that the gradient where p = y is 0; the Hessian is 0 everywhere (Levin and Peres
    2017, Markov Chains and Mixing Times, chapter 4).
    """

    wrt: str = wrt()

    takes: ClassVar[Domain] = Domain("distribution", "probability")
    peers: ClassVar[Peers] = Peers(torch="0.5 * (p - y).abs().sum(-1)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.5, 0.5, 0.0]], [[0.25, 0.5, 0.25]], 0.25, [[-0.5, 0.0, 0.5]], [[0.0, 0.0, 0.0]]),
        Example([[1.0, 0.0]], [[0.25, 0.75]], 0.75, [[0.5, -0.5]], [[0.0, 0.0]], {"wrt": "y_true"}),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula by what is differentiated."""
        return {
            "probabilities": RowFormula(None, _statistics, _finish, _element),
            "probabilities.y_true": RowFormula(None, _statistics, _finish, _element_by_target),
        }


def _statistics(x: Any, y: Any) -> Any:
    apart = abs(x - y)
    return apart


def _finish(apart: Any) -> Any:
    value = 0.5 * apart
    nothing = nothing_of(value)  # a NaN shows in the row's gradient
    return value, nothing


def _element(x: Any, y: Any, nothing: Any) -> Any:
    return 0.5 * sign(x - y) + nothing, 0.0


def _element_by_target(x: Any, y: Any, nothing: Any) -> Any:
    return 0.5 * sign(y - x) + nothing, 0.0


total_variation = function_of(TotalVariation)
