"""Tversky loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, function_of, non_negative
from ...families.overlap import OverlapLoss
from ...formula.ops import tanh
from ...formula.probability import sigmoid_slope, sigmoids


@dataclass(frozen=True, kw_only=True)
class Tversky(OverlapLoss):
    """How little two sets overlap, where missing and adding an element weigh differently: ``1 - (o + smooth) / whole``.

    ``o = sum(y p)`` and ``whole = o + alpha sum(y (1 - p)) + beta sum(p (1 - y)) + smooth``; half of each is `Dice`'s
    with twice the ``smooth``. The sums run along ``axis``: by default everything is one loss (as Keras' ``Tversky``,
    which adds its epsilon to the denominator alone; Salehi et al. 2017, doi:10.1007/978-3-319-67389-9_44). The loss of
    two empty sets is 0. From logits x, ``p = 1 / (1 + exp(-x))``.
    """

    alpha: float = non_negative(0.5, "weight of what y_pred misses (as Keras computes; the paper calls it beta)")
    beta: float = non_negative(0.5, "weight of what y_pred adds (as Keras computes; the paper calls it alpha)")

    peers: ClassVar[Peers] = Peers(
        keras=(
            "(lambda q: keras.losses.tversky(y, q, alpha=alpha, beta=beta, axis=axis) - smooth / ((y * q).sum(axis)"
            " + alpha * (y * (1 - q)).sum(axis) + beta * (q * (1 - y)).sum(axis) + smooth))"
            "(p.sigmoid() if from_logits else p) if smooth == 1e-7 else None"
        ),
        plain=(
            "(lambda q: 1 - ((y * q).sum(axis) + smooth) / ((y * q).sum(axis) + alpha * (y * (1 - q)).sum(axis)"
            " + beta * (q * (1 - y)).sum(axis) + smooth))(p.sigmoid() if from_logits else p)"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1.0, 0.0], [0.5, 0.5], 0.25, [-0.3125, 0.1875], [0.15625, -0.09375], {"smooth": 1.0}),
        Example([[1.0, 0.0]], [[0.5, 0.5]], 0.5, [[-0.375, 0.375]], [[0.1875, -0.5625]],
                {"beta": 1.5, "smooth": 0.5}),
        Example([1.0, 0.0], [0.0, 0.0], 0.25, [-0.0546875, 0.0703125], [0.01025390625, -0.01318359375],
                {"from_logits": True, "alpha": 0.25, "beta": 0.75, "smooth": 1.0}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        return {
            "logits": RowFormula(None, _logit_statistics, _finish, _logit_element),
            "probabilities": RowFormula(None, _statistics, _finish, _element),
        }


def _statistics(x: Any, y: Any) -> Any:
    overlap = y * x
    missed = y * (1.0 - x)
    added = x * (1.0 - y)
    return overlap, missed, added


def _finish(overlap: Any, missed: Any, added: Any, alpha: Any, beta: Any, smooth: Any) -> Any:
    both = overlap + smooth
    apart = alpha * missed + beta * added
    whole = both + apart
    value = apart / whole
    inverse = 1.0 / whole
    pull = both / whole / whole
    push = value / whole
    return value, pull, push, inverse


def _element(y: Any, alpha: Any, beta: Any, pull: Any, push: Any, inverse: Any) -> Any:
    step = beta * (1.0 - y) - alpha * y  # what p adds to the numerator; y more to the whole
    grad = step * pull - y * push
    return grad, -2.0 * (step + y) * grad * inverse


def _logit_statistics(x: Any, y: Any) -> Any:
    inside, outside = sigmoids(x)
    overlap = y * inside
    missed = y * outside
    added = inside * (1.0 - y)
    return overlap, missed, added


def _logit_element(x: Any, y: Any, alpha: Any, beta: Any, pull: Any, push: Any, inverse: Any) -> Any:
    slope = sigmoid_slope(x)
    step = beta * (1.0 - y) - alpha * y
    grad = (step * pull - y * push) * slope
    return grad, -grad * (tanh(0.5 * x) + 2.0 * (step + y) * inverse * slope)


tversky = function_of(Tversky)
