"""Categorical cross-entropy against class numbers."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, function_of, optional_integer, unit_interval
from ...families.softmax import SoftmaxLoss
from ...formula.ops import log1p, product, quotient, where
from ...formula.probability import log_clipped, reached
from ...formula.softmax import exponential, missing, softmax_sums


@dataclass(frozen=True, kw_only=True)
class SparseCategoricalCrossentropy(SoftmaxLoss):
    """Negative log-probability of the true class, given by its number: ``-w[y] log p[y]``.

    From logits x, ``p = softmax(x)`` of what ``softcap`` (Gemma 2, arXiv:2408.00118) and ``temperature`` make of x,
    with nothing clipped; ``z_loss`` (PaLM, arXiv:2204.02311) adds ``z logsumexp^2`` of the same. From probabilities,
    each row is first divided by its sum and clipped to [epsilon, 1 - epsilon] (as Keras'
    ``SparseCategoricalCrossentropy``; class weights and smoothing as torch's ``cross_entropy``).
    """

    label_smoothing: float = unit_interval(0.0, "s: the target becomes (1 - s) onehot(y) + s / classes")
    ignore_class: int | None = optional_integer("rows with this label count for nothing")

    indexed: ClassVar[bool] = True
    peers: ClassVar[Peers] = Peers(
        torch=(
            "(lambda x: F.cross_entropy(x, y, reduction=reduction, label_smoothing=label_smoothing, "
            "ignore_index=-100 if ignore_class is None else ignore_class, "
            "weight=weight) "
            "+ z_loss * torch.logsumexp(x, -1) ** 2)"
            "((p if softcap is None else softcap * torch.tanh(p / softcap)) / temperature) if from_logits else None"
        ),
        keras=(
            "keras.losses.sparse_categorical_crossentropy(y, p, from_logits=from_logits, ignore_class=ignore_class) "
            "if (label_smoothing, class_weight, softcap, temperature, z_loss) == (0, None, None, 1, 0) else None"
        ),
        scikit_learn="HalfMultinomialLoss 1 from_logits",
        optax=(
            "optax.losses.softmax_cross_entropy_with_integer_labels(p, y) "
            "if from_logits and (label_smoothing, class_weight, softcap, temperature, z_loss) == (0, None, None, 1, 0) "
            "else None"
        ),
        plain="-torch.log((p.gather(-1, y[:, None]) / p.sum(-1, keepdim=True)).clamp(epsilon, 1 - epsilon))[:, 0]",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1], [[0.0, 0.0]], 0.6931471805599453, [[0.5, -0.5]], [[0.25, 0.25]], {"from_logits": True}),
        Example([0], [[0.25, 0.75]], 1.3862943611198906, [[-3.0, 1.0]], [[15.0, -1.0]]),
        Example(
            [0],
            [[0.0, 0.0]],
            0.6931471805599453,
            [[-0.25, 0.25]],
            [[0.25, 0.25]],
            {"from_logits": True, "label_smoothing": 0.5},
        ),
        Example([0], [[0.5, 0.5]], 0.6931471805599453, [[-0.5, 0.5]], [[2.0, 0.0]], {"label_smoothing": 0.5}),
        Example(  # log(3)^2 becomes log(3)
            [0],
            [[1.206948960812582, 0.0]],
            0.2876820724517809,
            [[-0.1875, 0.25]],
            [[0.190803677496266, 0.1875]],
            {"from_logits": True, "softcap": 2.1972245773362196},
        ),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        return {
            "logits": RowFormula("peak", softmax_sums, _finish, _element, _target),
            "logits_smoothed": RowFormula(
                "peak", _smoothed_statistics, _smoothed_finish, _smoothed_element, _smoothed_target
            ),
            "probabilities": RowFormula("total", None, _probability_finish, _probability_element, _probability_target),
            "probabilities_smoothed": RowFormula(
                "total",
                _smoothed_probability_statistics,
                _smoothed_probability_finish,
                _smoothed_probability_element,
                _probability_target,
            ),
        }

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return ("logits" if self.from_logits else "probabilities") + ("_smoothed" if self.label_smoothing else "")


# -- from logits -------------------------------------------------------------------------------------------------


def _finish(others: Any, peaks: Any, peak: Any, target_x: Any, target_weight: Any) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    # 0 rest: a NaN in the row shows in the value also where the true class weighs nothing.
    value = product(target_weight, log1p(rest) + (peak - target_x)) + 0.0 * rest
    share = target_weight / total
    return value, rest, total, share


def _element(kept: Any, rest: Any, total: Any, share: Any) -> Any:
    grad = kept * share
    hess = grad * (missing(kept, rest, total) / total)
    return grad, hess


def _target(peak: Any, target_x: Any, rest: Any, total: Any, share: Any) -> Any:
    own = exponential(target_x, peak)
    away = missing(own, rest, total)
    return -share * away, share * own * (away / total)


# -- from logits, smoothed: a share s / classes of the target lies on every class ------------------------------------


def _smoothed_statistics(x: Any, peak: Any, class_weight: Any) -> Any:
    kept, others, peaks = softmax_sums(x, peak)
    distance = product(class_weight, peak - x)
    return kept, others, peaks, distance


def _smoothed_finish(
    others: Any,
    peaks: Any,
    distance: Any,
    peak: Any,
    target_x: Any,
    target_weight: Any,
    class_weight_sum: Any,
    classes: Any,
    label_smoothing: Any,
) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    spread = label_smoothing / classes
    sure = (1.0 - label_smoothing) * target_weight
    value = product(sure, log1p(rest) + (peak - target_x)) + spread * (class_weight_sum * log1p(rest) + distance)
    goal = sure + spread * target_weight
    elsewhere = spread * (class_weight_sum - target_weight)
    share = (sure + spread * class_weight_sum) / total
    return value, rest, total, share, spread, goal, elsewhere


def _smoothed_element(kept: Any, class_weight: Any, rest: Any, total: Any, share: Any, spread: Any) -> Any:
    grad = kept * share - spread * class_weight
    hess = kept * share * (missing(kept, rest, total) / total)
    return grad, hess


def _smoothed_target(peak: Any, target_x: Any, rest: Any, total: Any, share: Any, goal: Any, elsewhere: Any) -> Any:
    own = exponential(target_x, peak)
    away = missing(own, rest, total)
    # Two forms of one difference: each from the smaller part of the row, so that less cancels.
    grad = where(own > away, elsewhere - share * away, share * own - goal)
    return grad, share * own * (away / total)


# -- from probabilities ----------------------------------------------------------------------------------------------


def _probability_finish(total: Any, target_x: Any, target_weight: Any, epsilon: Any) -> Any:
    q = target_x / total
    goal = reached(target_weight, q, epsilon)
    level = goal / total
    # 0 level: a NaN in the row shows in the value also where the true class weighs nothing.
    value = 0.0 * level - product(target_weight, log_clipped(q, epsilon))
    return value, goal, level


def _probability_element(total: Any, level: Any) -> Any:
    return level, -(level / total)


def _probability_target(target_x: Any, total: Any, level: Any, goal: Any) -> Any:
    slope = quotient(goal, target_x)
    return level - slope, quotient(slope, target_x) - level / total


# -- from probabilities, smoothed --------------------------------------------------------------------------------------


def _smoothed_probability_statistics(
    x: Any, total: Any, class_weight: Any, label_smoothing: Any, classes: Any, epsilon: Any
) -> Any:
    spread = label_smoothing / classes * class_weight
    cost = -product(spread, log_clipped(x / total, epsilon))
    active = reached(spread, x / total, epsilon)
    return cost, active


def _smoothed_probability_finish(
    cost: Any,
    active: Any,
    total: Any,
    target_x: Any,
    target_weight: Any,
    label_smoothing: Any,
    classes: Any,
    epsilon: Any,
) -> Any:
    q = target_x / total
    sure = (1.0 - label_smoothing) * target_weight
    value = cost - product(sure, log_clipped(q, epsilon))
    goal = reached(sure + label_smoothing / classes * target_weight, q, epsilon)
    level = (active + reached(sure, q, epsilon)) / total
    return value, goal, level


def _smoothed_probability_element(
    x: Any, total: Any, class_weight: Any, level: Any, label_smoothing: Any, classes: Any, epsilon: Any
) -> Any:
    slope = quotient(reached(label_smoothing / classes * class_weight, x / total, epsilon), x)
    return level - slope, quotient(slope, x) - level / total


sparse_categorical_crossentropy = function_of(SparseCategoricalCrossentropy)
