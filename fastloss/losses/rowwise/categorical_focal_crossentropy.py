"""Categorical focal cross-entropy."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import (
    Example,
    Peers,
    RowFormula,
    clip_margin,
    flag,
    function_of,
    non_negative,
    unit_interval,
    weights,
)
from ...families.rowwise import RowwiseLoss
from ...formula.ops import clip, log, or_nothing, power, product, quotient
from ...formula.probability import reached
from ...formula.softmax import finish_terms, missing, parted, shares, slopes_of_terms, softmax_sums
from ...formula.targets import goal_of


@dataclass(frozen=True, kw_only=True)
class CategoricalFocalCrossentropy(RowwiseLoss):
    """Cross-entropy that counts the less, the surer it is: ``-sum_c alpha[c] y[c] (1 - p[c])^gamma log p[c]``.

    From logits x, ``p = softmax(x)`` and the loss is exact. From probabilities, each row is first divided by its sum
    and clipped to [epsilon, 1 - epsilon] (as Keras' ``CategoricalFocalCrossentropy``; Lin et al. 2017,
    doi:10.1109/ICCV.2017.324).
    """

    alpha: float | tuple[float, ...] = weights(0.25, "the weight of every class, or one weight per class")
    gamma: float = non_negative(2.0, "how much less sure predictions count; 0: cross-entropy")
    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    label_smoothing: float = unit_interval(0.0, "s: the target becomes y (1 - s) + s / classes")
    epsilon: float = clip_margin(1e-7, "probabilities are clipped to [epsilon, 1 - epsilon]")

    weights_name: ClassVar[str] = "alpha"
    peers: ClassVar[Peers] = Peers(
        keras=(
            "keras.losses.categorical_focal_crossentropy(y, p, alpha=alpha, gamma=gamma, "
            "label_smoothing=label_smoothing) if not from_logits else None"
        ),
        torch=(
            "(lambda q, log_q: -((y * (1 - label_smoothing) + label_smoothing / y.shape[-1]) * (1 - q) ** gamma * log_q"
            " * torch.as_tensor(alpha, dtype=p.dtype)).sum(-1))"
            "(*((p.softmax(-1), p.log_softmax(-1)) if from_logits else (lambda q: (q, q.log()))("
            "(p / p.sum(-1, keepdim=True)).clamp(epsilon, 1 - epsilon))))"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.0, 1.0]], [[0.0, 0.0]], 0.04332169878499658, [[0.07457169878499658, -0.07457169878499658]],
                [[0.0997858493924983, 0.0997858493924983]], {"from_logits": True}),
        Example([[1.0, 0.0]], [[0.5, 0.5]], 0.17328679513998632, [[-0.5965735902799727, 0.5965735902799727]],
                [[2.789720770839918, 0.4034264097200273]], {"alpha": (1.0, 3.0)}),
    )  # fmt: skip

    @property
    def class_weight(self) -> tuple[float, ...] | None:
        """The weights of the classes, if each has its own."""
        return self.alpha if isinstance(self.alpha, tuple) else None

    @property
    def factor(self) -> float:
        """The weight of every class, if they have one."""
        return 1.0 if isinstance(self.alpha, tuple) else self.alpha

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        return {
            "logits": RowFormula("peak", softmax_sums, finish_terms, _element, halfway=shares, again=_again),
            "probabilities": RowFormula("total", _probability_terms, _probability_finish, _probability_element),
        }


def _terms(goal: Any, p: Any, away: Any, log_p: Any, gamma: Any) -> Any:
    """Cost of a class, its slope and curvature by log p, and that over the odds p / (1 - p); ``away`` is 1 - p."""
    odds = p / away
    ratio = or_nothing(odds * log_p, log_p)  # from -1 to 0
    doubt = power(away, gamma)
    slope = goal * doubt * (gamma * ratio - 1.0)
    bend = product(goal, gamma * (log_p - (gamma - 1.0) * ratio + 2.0)) * doubt
    return -product(goal, log_p) * doubt, slope, or_nothing(bend * odds, log_p), bend


# -- from logits -------------------------------------------------------------------------------------------------


def _again(
    x: Any, y: Any, peak: Any, kept: Any, rest: Any, total: Any, share: Any, level: Any,
    class_weight: Any, factor: Any, label_smoothing: Any, classes: Any, gamma: Any,
) -> Any:  # fmt: skip
    goal = factor * goal_of(y, class_weight, label_smoothing, classes)
    away = missing(kept, rest, total) * share
    cost, slope, curvature, _ = _terms(goal, kept * share, away, (x - peak) - level, gamma)
    peak_slopes, other_slopes = parted(x, peak, slope)
    peak_curvatures, other_curvatures = parted(x, peak, curvature)
    return cost, peak_slopes, other_slopes, peak_curvatures, other_curvatures


def _element(
    x: Any, y: Any, peak: Any, kept: Any, rest: Any, total: Any, share: Any, level: Any,
    class_weight: Any, factor: Any, label_smoothing: Any, classes: Any, gamma: Any,
    peak_slopes: Any, other_slopes: Any, peak_curvatures: Any, other_curvatures: Any,
) -> Any:  # fmt: skip
    goal = factor * goal_of(y, class_weight, label_smoothing, classes)
    away = missing(kept, rest, total) * share
    _, slope, curvature, bend = _terms(goal, kept * share, away, (x - peak) - level, gamma)
    grad, hess = slopes_of_terms(
        kept, away, share, slope, curvature, bend, peak_slopes, other_slopes, peak_curvatures, other_curvatures
    )
    return grad, hess


# -- from probabilities ----------------------------------------------------------------------------------------------


def _probability_terms(
    x: Any, y: Any, total: Any, class_weight: Any, factor: Any, label_smoothing: Any, classes: Any, epsilon: Any,
    gamma: Any,
) -> Any:  # fmt: skip
    q = clip(x / total, epsilon, 1.0 - epsilon)
    goal = factor * goal_of(y, class_weight, label_smoothing, classes)
    cost, slope, curvature, _ = _terms(goal, q, 1.0 - q, log(q), gamma)
    slopes = reached(slope, x / total, epsilon)  # 0 where the share is clipped
    curvatures = reached(curvature, x / total, epsilon)
    return cost, slopes, curvatures


def _probability_finish(cost: Any, slopes: Any, curvatures: Any, total: Any) -> Any:
    level = slopes / total
    bend = (curvatures + slopes) / total / total
    return cost, level, bend


def _probability_element(
    x: Any, y: Any, total: Any, level: Any, bend: Any, class_weight: Any, factor: Any, label_smoothing: Any,
    classes: Any, epsilon: Any, gamma: Any,
) -> Any:  # fmt: skip
    _, slope, curvature = _probability_terms(
        x, y, total, class_weight, factor, label_smoothing, classes, epsilon, gamma
    )
    curved = quotient(quotient(curvature * (1.0 - 2.0 * (x / total)) - slope, x), x)
    return quotient(slope, x) - level, curved + bend


categorical_focal_crossentropy = function_of(CategoricalFocalCrossentropy)
