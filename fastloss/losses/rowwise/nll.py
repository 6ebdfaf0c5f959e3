"""Negative log-likelihood."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of, optional_integer, optional_weights
from ...families.rowwise import RowwiseLoss
from ...formula.ops import product
from ...formula.targets import no_slope, unseen


@dataclass(frozen=True, kw_only=True)
class NLL(RowwiseLoss):
    """Negative log-probability of the true class, where y_pred holds log-probabilities: ``-w[y] x[y]``.

    As torch's ``nll_loss``, whose mean with class weights is reduction="weighted_mean" here. From logits,
    `SparseCategoricalCrossentropy` gives the same in one pass.
    """

    class_weight: tuple[float, ...] | None = optional_weights("one weight per class")
    ignore_class: int | None = optional_integer("rows with this label count for nothing")

    indexed: ClassVar[bool] = True
    takes: ClassVar[Domain] = Domain("label", "log_probability")
    peers: ClassVar[Peers] = Peers(
        torch="F.nll_loss(p, y, weight, None, -100 if ignore_class is None else ignore_class, None, reduction)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1], [[-1.5, -0.25]], 0.25, [[0.0, -1.0]], [[0.0, 0.0]]),
        Example([0, 1], [[-0.5, -1.0], [-2.0, -0.25]], 1.5, [[-2.5, 0.0], [0.0, -1.0]], [[0.0, 0.0], [0.0, 0.0]],
                {"class_weight": (2.5, 1.0)}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"log_probabilities": RowFormula(None, unseen, _finish, no_slope, _target)}


def _finish(nothing: Any, target_x: Any, target_weight: Any) -> Any:
    value = nothing - product(target_weight, target_x)
    return value, nothing


def _target(nothing: Any, target_weight: Any) -> Any:
    return nothing - target_weight, 0.0


nll = function_of(NLL)
