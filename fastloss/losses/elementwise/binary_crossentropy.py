"""Binary cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, clip_margin, flag, function_of, non_negative, unit_interval, wrt
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import clip, exp_nonpositive, log, log1p, log1p_unit, positive_part, product, quotient, where


@dataclass(frozen=True, kw_only=True)
class BinaryCrossentropy(ElementwiseLoss):
    """Negative log-likelihood of a Bernoulli target: ``-w y log p - (1 - y) log(1 - p)``, w being ``pos_weight``.

    From logits x, ``p = 1 / (1 + exp(-x))`` and the loss is exact for every x. From probabilities, p is first clipped
    to [epsilon, 1 - epsilon], outside which the gradient is 0 (as Keras' ``BinaryCrossentropy``; ``pos_weight`` as
    torch's ``binary_cross_entropy_with_logits``).
    """

    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    label_smoothing: float = unit_interval(0.0, "s: the target becomes y (1 - s) + s / 2")
    pos_weight: float = non_negative(1.0, "weight of the positive class")
    epsilon: float = clip_margin(1e-7, "probabilities are clipped to [epsilon, 1 - epsilon]")
    wrt: str = wrt()

    aliases: ClassVar[tuple[str, ...]] = ("bce",)
    peers: ClassVar[Peers] = Peers(
        torch=(
            "F.binary_cross_entropy_with_logits(p, y * (1 - label_smoothing) + label_smoothing / 2 "
            "if label_smoothing else y, reduction=reduction, "
            "pos_weight=None if pos_weight == 1 else torch.tensor(pos_weight, dtype=p.dtype)) if from_logits else None"
        ),
        keras=(
            "keras.losses.binary_crossentropy(y[..., None], p[..., None], from_logits=from_logits, "
            "label_smoothing=label_smoothing) if pos_weight == 1 else None"
        ),
        scikit_learn="HalfBinomialLoss 1 from_logits",
        plain="F.binary_cross_entropy(p, y, reduction='none')",
        optax=(
            "optax.losses.sigmoid_binary_cross_entropy(p, y * (1 - label_smoothing) + label_smoothing / 2) "
            "if from_logits and pos_weight == 1 else None"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 0.25, 1.3862943611198906, -4.0, 16.0),
        Example(0.0, 0.0, 0.6931471805599453, 0.5, 0.25, {"from_logits": True}),
        Example(1.0, 0.0, 2.0794415416798357, -1.5, 0.75, {"from_logits": True, "pos_weight": 3.0}),
        Example(0.0, 3.0, 2.298587351573742, -1.5, 0.0, {"from_logits": True, "label_smoothing": 0.5, "wrt": "y_true"}),
        Example(0.75, 0.5, 0.6931471805599453, 0.0, 0.0, {"wrt": "y_true"}),
    )

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {
            "logits": logits,
            "probabilities": probabilities,
            "logits.y_true": logits_by_target,
            "probabilities.y_true": probabilities_by_target,
        }

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        label = "logits" if self.from_logits else "probabilities"
        return label if self.wrt == "y_pred" else f"{label}.y_true"

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where probabilities are clipped."""
        return () if self.from_logits else (self.epsilon, 1.0 - self.epsilon)


def logits(y: Any, x: Any, label_smoothing: Any, pos_weight: Any) -> Any:
    """Value, gradient and Hessian at target y and logit x.

    ``tail`` is exp(-|x|), so that sigmoid(x) = ``upper / (1 + tail)`` and sigmoid(-x) = ``lower / (1 + tail)``
    keep full relative accuracy on either side.
    """
    positive = pos_weight * (y * (1.0 - label_smoothing) + 0.5 * label_smoothing)
    negative = 1.0 - (y * (1.0 - label_smoothing) + 0.5 * label_smoothing)
    both = where(pos_weight == 1.0, 1.0, negative + positive)
    tail = exp_nonpositive(-abs(x))
    upper = where(x < 0.0, tail, 1.0)
    lower = where(x < 0.0, 1.0, tail)
    share = 1.0 / (1.0 + tail)
    linear = product(where(x < 0.0, positive, negative), abs(x))
    value = linear + both * log1p_unit(tail)
    grad = (negative * upper - positive * lower) * share
    return value, grad, (negative + positive) * (tail * share * share)


def probabilities(y: Any, p: Any, label_smoothing: Any, pos_weight: Any, epsilon: Any) -> Any:
    """Value, gradient and Hessian at target y and probability p."""
    positive = pos_weight * (y * (1.0 - label_smoothing) + 0.5 * label_smoothing)
    negative = 1.0 - (y * (1.0 - label_smoothing) + 0.5 * label_smoothing)
    q = clip(p, epsilon, 1.0 - epsilon)
    clipped = (p < epsilon) | (p > 1.0 - epsilon)
    value = -(positive * log(q)) - product(negative, log1p(-q))
    odds = positive / q
    counter_odds = quotient(negative, 1.0 - q)
    # 0 y, not 0: a NaN target shows in the gradient of a clipped element too.
    grad = where(clipped, 0.0 * y, counter_odds - odds)
    hess = where(clipped, 0.0 * y, odds / q + quotient(counter_odds, 1.0 - q))
    return value, grad, hess


def logits_by_target(y: Any, x: Any, label_smoothing: Any, pos_weight: Any) -> Any:
    """The same, derivatives by the target, in which the loss is linear: ``-x`` unless positives are weighed."""
    value, _, _ = logits(y, x, label_smoothing, pos_weight)
    common = (pos_weight - 1.0) * log1p_unit(exp_nonpositive(-abs(x)))
    slope = product(pos_weight, positive_part(-x)) - positive_part(x) + common
    return value, (1.0 - label_smoothing) * slope + 0.0 * y, 0.0


def probabilities_by_target(y: Any, p: Any, label_smoothing: Any, pos_weight: Any, epsilon: Any) -> Any:
    """The same, derivatives by the target."""
    value, _, _ = probabilities(y, p, label_smoothing, pos_weight, epsilon)
    q = clip(p, epsilon, 1.0 - epsilon)
    slope = log1p(-q) - pos_weight * log(q)
    return value, (1.0 - label_smoothing) * slope + 0.0 * y, 0.0


binary_crossentropy = function_of(BinaryCrossentropy)
