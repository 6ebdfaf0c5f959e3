"""Categorical cross-entropy against a distribution over the classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, function_of, integer, unit_interval, wrt
from ...families.softmax import SoftmaxLoss
from ...formula.ops import log1p, nothing_of, product, quotient
from ...formula.probability import log_clipped, reached
from ...formula.softmax import parted, slopes_by_goal, softmax_sums
from ...formula.targets import goal_of


@dataclass(frozen=True, kw_only=True)
class CategoricalCrossentropy(SoftmaxLoss):
    """Cross-entropy of a distribution over classes: ``-sum_c w[c] y[c] log p[c]``, one-hot or soft y.

    From logits x, ``p = softmax(x)`` of what ``softcap`` (Gemma 2, arXiv:2408.00118) and ``temperature`` make of x,
    with nothing clipped; ``z_loss`` (PaLM, arXiv:2204.02311) adds ``z logsumexp^2`` of the same. From probabilities,
    each row is first divided by its sum and clipped to [epsilon, 1 - epsilon] (as Keras' ``CategoricalCrossentropy``;
    class weights as torch's ``cross_entropy``).
    """

    label_smoothing: float = unit_interval(0.0, "s: the target becomes y (1 - s) + s / classes")
    axis: int = integer(-1, "the class axis of y_pred and y_true")
    wrt: str = wrt("what gradient and Hessian are taken with respect to; by y_true: w (1 - s) times -log p, and 0")

    peers: ClassVar[Peers] = Peers(
        torch=(
            "(lambda x: F.cross_entropy(x, y, reduction=reduction, label_smoothing=label_smoothing, "
            "weight=weight) "
            "+ z_loss * torch.logsumexp(x, -1) ** 2)"
            "((p if softcap is None else softcap * torch.tanh(p / softcap)) / temperature) if from_logits else None"
        ),
        keras=(
            "keras.losses.categorical_crossentropy(y, p, from_logits=from_logits, label_smoothing=label_smoothing) "
            "if (class_weight, softcap, temperature, z_loss) == (None, None, 1, 0) else None"
        ),
        optax=(
            "optax.losses.softmax_cross_entropy(p, y * (1 - label_smoothing) + label_smoothing / p.shape[-1]) "
            "if from_logits and (class_weight, softcap, temperature, z_loss) == (None, None, 1, 0) else None"
        ),
        plain="-(y * torch.log((p / p.sum(-1, keepdim=True)).clamp(epsilon, 1 - epsilon))).sum(-1)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            [[0.0, 1.0]],
            [[0.0, 0.0]],
            0.6931471805599453,
            [[0.5, -0.5]],
            [[0.25, 0.25]],
            {"from_logits": True},
        ),
        Example([[1.0, 0.0]], [[0.25, 0.75]], 1.3862943611198906, [[-3.0, 1.0]], [[15.0, -1.0]]),
        Example(
            [[0.0, 1.0]],
            [[0.0, 0.0]],
            1.1736001944781467,
            [[2.386294361119891, 0.38629436111989063]],
            [[4.386294361119891, 4.386294361119891]],
            {"from_logits": True, "temperature": 0.5, "z_loss": 1.0},
        ),
        Example(
            [[0.25, 0.75]],
            [[0.0, 0.0]],
            0.6931471805599453,
            [[0.6931471805599453, 0.6931471805599453]],
            [[0.0, 0.0]],
            {"from_logits": True, "wrt": "y_true"},
        ),
        Example(
            [[1.0, 0.0]],
            [[0.25, 0.75]],
            1.3862943611198906,
            [[1.3862943611198906, 0.2876820724517809]],
            [[0.0, 0.0]],
            {"wrt": "y_true"},
        ),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        logits = RowFormula("peak", _statistics, _finish, _element)
        probabilities = RowFormula("total", _probability_statistics, _probability_finish, _probability_element)
        return {
            "logits": logits,
            "logits.y_true": logits._replace(finish=_finish_by_target, element=_by_target, by_target=True),
            "probabilities": probabilities,
            "probabilities.y_true": probabilities._replace(element=_probability_by_target, by_target=True),
        }


# -- from logits -------------------------------------------------------------------------------------------------


def _statistics(x: Any, y: Any, peak: Any, class_weight: Any, label_smoothing: Any, classes: Any) -> Any:
    kept, others, peaks = softmax_sums(x, peak)
    goal = goal_of(y, class_weight, label_smoothing, classes)
    # Apart, because the gradient at a peak wants the other goals without a subtraction that cancels.
    peak_goals, other_goals = parted(x, peak, goal)
    distance = product(goal, peak - x)
    return kept, others, peaks, peak_goals, other_goals, distance


def _finish(others: Any, peaks: Any, peak_goals: Any, other_goals: Any, distance: Any) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    mass = other_goals + peak_goals
    value = mass * log1p(rest) + distance
    share = 1.0 / total
    return value, rest, total, share, mass, peak_goals, other_goals


def _element(
    kept: Any,
    y: Any,
    class_weight: Any,
    label_smoothing: Any,
    classes: Any,
    rest: Any,
    total: Any,
    share: Any,
    mass: Any,
    peak_goals: Any,
    other_goals: Any,
) -> Any:
    goal = goal_of(y, class_weight, label_smoothing, classes)
    grad, hess = slopes_by_goal(goal, kept, rest, total, share, mass, peak_goals, other_goals)
    return grad, hess


def _finish_by_target(others: Any, peaks: Any, peak_goals: Any, other_goals: Any, distance: Any) -> Any:
    value, rest, total, _, mass, _, _ = _finish(others, peaks, peak_goals, other_goals, distance)
    log_total = log1p(rest)
    nothing = nothing_of(rest * mass)  # a NaN shows, also where its class weighs nothing
    return value, rest, total, log_total, nothing


def _by_target(x: Any, peak: Any, log_total: Any, nothing: Any, class_weight: Any, label_smoothing: Any) -> Any:
    return product(class_weight * (1.0 - label_smoothing), log_total + (peak - x)) + nothing, 0.0


# -- from probabilities ----------------------------------------------------------------------------------------------


def _probability_statistics(
    x: Any, y: Any, total: Any, class_weight: Any, label_smoothing: Any, classes: Any, epsilon: Any
) -> Any:
    goal = goal_of(y, class_weight, label_smoothing, classes)
    cost = -product(goal, log_clipped(x / total, epsilon))
    active = reached(goal, x / total, epsilon)
    return cost, active


def _probability_finish(cost: Any, active: Any, total: Any) -> Any:
    level = active / total
    return cost, level


def _probability_element(
    x: Any, y: Any, total: Any, level: Any, class_weight: Any, label_smoothing: Any, classes: Any, epsilon: Any
) -> Any:
    slope = quotient(reached(goal_of(y, class_weight, label_smoothing, classes), x / total, epsilon), x)
    return level - slope, quotient(slope, x) - level / total


def _probability_by_target(
    x: Any, total: Any, level: Any, class_weight: Any, label_smoothing: Any, epsilon: Any
) -> Any:
    cost = -product(class_weight * (1.0 - label_smoothing), log_clipped(x / total, epsilon))
    return cost + nothing_of(level), 0.0


categorical_crossentropy = function_of(CategoricalCrossentropy)
