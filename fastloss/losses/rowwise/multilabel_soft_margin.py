"""Multi-label soft margin: a yes or no for each of several labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of, optional_weights
from ...families.rowwise import RowwiseLoss
from ...formula.ops import exp_nonpositive, log1p_unit, nothing_of, product, where
from ...formula.probability import sigmoid_slope, sigmoids


@dataclass(frozen=True, kw_only=True)
class MultilabelSoftMargin(RowwiseLoss):
    """Mean of a row's binary cross-entropies: ``-mean_c w[c] (y[c] log p[c] + (1 - y[c]) log(1 - p[c]))``.

    ``p = 1 / (1 + exp(-x))`` for logits x; exact for every x (as torch's ``multilabel_soft_margin_loss``).
    """

    class_weight: tuple[float, ...] | None = optional_weights("one weight per class")

    takes: ClassVar[Domain] = Domain("binary", "logit")
    peers: ClassVar[Peers] = Peers(torch="F.multilabel_soft_margin_loss(p, y, weight, reduction=reduction)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[1.0, 0.0]], [[0.0, 0.0]], 0.6931471805599453, [[-0.25, 0.25]], [[0.125, 0.125]]),
        Example([[1.0, 0.0]], [[0.0, 0.0]], 1.0397207708399179, [[-0.25, 0.5]], [[0.125, 0.25]],
                {"class_weight": (1.0, 2.0)}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"logits": RowFormula(None, _statistics, _finish, _element)}


def _statistics(x: Any, y: Any, class_weight: Any) -> Any:
    wrong = class_weight * where(x < 0.0, y, 1.0 - y)
    cost = product(wrong, abs(x)) + class_weight * log1p_unit(exp_nonpositive(-abs(x)))
    return cost


def _finish(cost: Any, classes: Any) -> Any:
    value = cost / classes
    each = 1.0 / classes + nothing_of(cost)  # a NaN shows in the row's gradient
    return value, each


def _element(x: Any, y: Any, class_weight: Any, each: Any) -> Any:
    present, absent = sigmoids(x)
    grad = class_weight * ((1.0 - y) * present - y * absent) * each
    return grad, class_weight * sigmoid_slope(x) * each


multilabel_soft_margin = function_of(MultilabelSoftMargin)
