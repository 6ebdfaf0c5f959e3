"""Generalized cross-entropy, which noisy labels harm less."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, flag, function_of, open_unit_interval, optional_integer
from ...families.rowwise import RowwiseLoss
from ...formula.ops import exp_nonpositive, expm1_nonpositive, log, log1p, power, where
from ...formula.softmax import exponential, missing, softmax_sums
from ...formula.targets import no_slope, unseen


@dataclass(frozen=True, kw_only=True)
class CategoricalGeneralizedCrossEntropy(RowwiseLoss):
    """``(1 - p[y]^q) / q``: between cross-entropy (q near 0) and the absolute error (q near 1).

    As Keras' ``CategoricalGeneralizedCrossEntropy``, probabilities are taken as they are given (Zhang and Sabuncu
    2018, arXiv:1805.07836). From logits x, ``p = softmax(x)`` and the loss is exact.
    """

    q: float = open_unit_interval(0.5, "how little a label that seems wrong counts")
    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    ignore_class: int | None = optional_integer("rows with this label count for nothing")

    indexed: ClassVar[bool] = True
    peers: ClassVar[Peers] = Peers(
        keras=(
            "keras.losses.categorical_generalized_cross_entropy("
            "torch.where(y < 0, 0, y), p.softmax(-1) if from_logits else p, q)"
        ),
        plain="(1 - (p.softmax(-1) if from_logits else p).gather(-1, y[:, None])[:, 0] ** q) / q",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1], [[0.75, 0.25]], 1.0, [[0.0, -2.0]], [[0.0, 4.0]]),
        Example(
            [0],
            [[0.0, 0.0, 0.0, 0.0]],
            1.0,
            [[-0.375, 0.125, 0.125, 0.125]],
            [[-0.046875, 0.078125, 0.078125, 0.078125]],
            {"from_logits": True},
        ),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        return {
            "logits": RowFormula("peak", softmax_sums, _finish, _element, _target),
            "probabilities": RowFormula(None, unseen, _probability_finish, no_slope, _probability_target),
        }


# -- from logits -------------------------------------------------------------------------------------------------


def _finish(others: Any, peaks: Any, peak: Any, target_x: Any, q: Any) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    surprise = log1p(rest) + (peak - target_x)
    value = -expm1_nonpositive(-q * surprise) / q
    share = exp_nonpositive(-q * surprise) / total  # p^q over the total
    return value, rest, total, share


def _element(kept: Any, q: Any, rest: Any, total: Any, share: Any) -> Any:
    grad = kept * share
    return grad, grad * ((missing(kept, rest, total) - q * kept) / total)


def _target(peak: Any, target_x: Any, q: Any, rest: Any, total: Any, share: Any) -> Any:
    own = exponential(target_x, peak)
    away = missing(own, rest, total)
    grad = -share * away
    return grad, grad * ((q * away - own) / total)


# -- from probabilities ----------------------------------------------------------------------------------------------


def _probability_finish(nothing: Any, target_x: Any, q: Any) -> Any:
    # Without cancellation near 1; 1 and more has no negative logarithm.
    below = -expm1_nonpositive(q * log(where(target_x < 1.0, target_x, 1.0)))
    value = nothing + where(target_x < 1.0, below, 1.0 - power(target_x, q)) / q
    return value, nothing


def _probability_target(target_x: Any, q: Any, nothing: Any) -> Any:
    return nothing - power(target_x, q - 1.0), (1.0 - q) * power(target_x, q - 2.0)


categorical_generalized_cross_entropy = function_of(CategoricalGeneralizedCrossEntropy)
