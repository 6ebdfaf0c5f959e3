"""Dice loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, RowFormula, function_of
from ...families.overlap import OverlapLoss
from ...formula.ops import tanh
from ...formula.probability import sigmoid_slope, sigmoids


@dataclass(frozen=True, kw_only=True)
class Dice(OverlapLoss):
    """How little two sets overlap: ``1 - (2 sum(y p) + smooth) / (sum(y) + sum(p) + smooth)``.

    The sums run along ``axis``: by default everything is one loss (as Keras' ``Dice``, which adds its epsilon to the
    denominator alone; Milletari et al. 2016, doi:10.1109/3DV.2016.79). The loss of two empty sets is 0. From logits x,
    ``p = 1 / (1 + exp(-x))``.
    """

    peers: ClassVar[Peers] = Peers(
        keras=(
            "(lambda q: keras.losses.dice(y, q, axis=axis) - smooth / (y.sum(axis) + q.sum(axis) + smooth))"
            "(p.sigmoid() if from_logits else p) if smooth == 1e-7 else None"
        ),
        plain=(
            "(lambda q: 1 - (2 * (y * q).sum(axis) + smooth) / (y.sum(axis) + q.sum(axis) + smooth))"
            "(p.sigmoid() if from_logits else p)"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([1.0, 0.0], [0.5, 0.5], 0.25, [-0.3125, 0.1875], [0.15625, -0.09375], {"smooth": 2.0}),
        Example([[1.0, 1.0, 0.0, 0.0]], [[1.0, 0.0, 1.0, 0.0]], 0.4, [[-0.28, -0.28, 0.12, 0.12]],
                [[0.112, 0.112, -0.048, -0.048]], {"smooth": 1.0}),
        Example([1.0, 0.0], [0.0, 0.0], 0.25, [-0.078125, 0.046875], [0.009765625, -0.005859375],
                {"from_logits": True, "smooth": 2.0}),
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
    apart = y * (1.0 - x) + x * (1.0 - y)
    return overlap, apart


def _finish(overlap: Any, apart: Any, smooth: Any) -> Any:
    both = 2.0 * overlap + smooth
    whole = both + apart
    value = apart / whole
    inverse = 1.0 / whole
    pull = both / whole / whole
    return value, pull, inverse


def _element(y: Any, pull: Any, inverse: Any) -> Any:
    grad = pull - 2.0 * y * inverse
    return grad, -2.0 * grad * inverse


def _logit_statistics(x: Any, y: Any) -> Any:
    inside, outside = sigmoids(x)
    overlap = y * inside
    apart = y * outside + inside * (1.0 - y)
    return overlap, apart


def _logit_element(x: Any, y: Any, pull: Any, inverse: Any) -> Any:
    slope = sigmoid_slope(x)
    grad = (pull - 2.0 * y * inverse) * slope
    return grad, -grad * (tanh(0.5 * x) + 2.0 * inverse * slope)


dice = function_of(Dice)
