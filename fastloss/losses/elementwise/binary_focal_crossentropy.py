"""Binary focal cross-entropy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, clip_margin, flag, function_of, non_negative, unit_interval
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import clip, exp_in_factors, log, log1p, log1p_unit, power, product, quotient, where


@dataclass(frozen=True, kw_only=True)
class BinaryFocalCrossentropy(ElementwiseLoss):
    """Cross-entropy with less of what is easy: times ``(1 - q)^gamma``, q being the probability of the target.

    ``-(1 - q)^gamma (t log p + (1 - t) log(1 - p))`` with ``q = t p + (1 - t) (1 - p)``, as Keras; with class balancing
    times ``alpha t + (1 - alpha) (1 - t)`` (Lin et al. 2017, doi:10.1109/ICCV.2017.324; then optax' and torchvision's
    ``sigmoid_focal_loss``). From logits the loss is exact for every logit. Probabilities are first clipped to
    [epsilon, 1 - epsilon], outside which the gradient is 0 (Keras clips them in the logarithm only).
    """

    apply_class_balancing: bool = flag(False, "whether to weigh the classes by alpha")
    alpha: float = unit_interval(0.25, "weight of the positive class; the negative one has 1 - alpha")
    gamma: float = non_negative(2.0, "how much less easy examples count")
    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    label_smoothing: float = unit_interval(0.0, "s: the target t is y (1 - s) + s / 2")
    epsilon: float = clip_margin(1e-7, "probabilities are clipped to [epsilon, 1 - epsilon]")

    peers: ClassVar[Peers] = Peers(
        torch=(
            "None if not from_logits else (lambda t: torch.nn.functional.binary_cross_entropy_with_logits("
            "p, t, reduction='none') * (t * torch.sigmoid(-p) + (1 - t) * torch.sigmoid(p)) ** gamma"
            " * (t * alpha + (1 - t) * (1 - alpha) if apply_class_balancing else 1)"
            ")(y * (1 - label_smoothing) + label_smoothing / 2)"
        ),
        keras=(
            "keras.losses.binary_focal_crossentropy(y[..., None], p.clamp(epsilon, 1 - epsilon)[..., None], "
            "apply_class_balancing, alpha, gamma, label_smoothing=label_smoothing) if not from_logits else None"
        ),
        optax=(
            "optax.losses.sigmoid_focal_loss(p, y * (1 - label_smoothing) + label_smoothing / 2, "
            "alpha=alpha if apply_class_balancing else None, gamma=gamma) if from_logits else None"
        ),
        plain=(
            "(lambda t: F.binary_cross_entropy(p, t, reduction='none') * (t * (1 - p) + (1 - t) * p) ** gamma"
            " * (t * alpha + (1 - t) * (1 - alpha) if apply_class_balancing else 1)"
            ")(y * (1 - label_smoothing) + label_smoothing / 2)"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 0.5, 0.17328679513998632, -1.1931471805599454, 6.386294361119891),  # log(2) / 4
        Example(0.0, 0.0, 0.17328679513998632, 0.29828679513998635, 0.39914339756999316, {"from_logits": True}),
        Example(1.0, 0.5, 0.17328679513998632, -0.8465735902799727, 3.0, {
            "apply_class_balancing": True, "alpha": 0.5, "gamma": 1.0}),
    )  # fmt: skip

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {"logits": logits, "probabilities": probabilities}

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return "logits" if self.from_logits else "probabilities"

    @property
    def complement(self) -> float:
        """The weight of class 0, which float32 would round alpha before."""
        return 1.0 - self.alpha

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where probabilities are clipped."""
        return () if self.from_logits else (self.epsilon, 1.0 - self.epsilon)


def logits(
    y: Any, x: Any, apply_class_balancing: Any, alpha: Any, complement: Any, gamma: Any, label_smoothing: Any
) -> Any:
    """Value, gradient and Hessian at target y and logit x.

    1 - q is ``mixed / (1 + tail)``, tail being exp(-|x|); ``rate`` times ``last`` is the derivative of its logarithm.
    ``entropy`` is the cross-entropy, ``slope`` and ``curvature`` (times ``last``) are its derivatives. The Hessian is
    multiplied by ``last`` last, as |x| times a tail may be a number where the tail alone is none.
    """
    t = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    factor, last = exp_in_factors(-abs(x))
    tail = factor * last
    share = 1.0 / (1.0 + tail)
    upper, lower = where(x < 0.0, tail, 1.0), where(x < 0.0, 1.0, tail)
    part, rest = where(x < 0.0, 1.0 - t, t), where(x < 0.0, t, 1.0 - t)
    mixed = part * tail + rest
    easy = rest == 0.0  # then mixed is the tail
    weight = where(apply_class_balancing == 1.0, t * alpha + (1.0 - t) * complement, 1.0)
    weight = weight * power(mixed / (1.0 + tail), gamma)
    rate = (1.0 - t - t) * share * where(easy, 1.0, factor / mixed)
    last = where(easy, 1.0, last)
    entropy = product(rest, abs(x)) + log1p_unit(tail)
    slope = ((1.0 - t) * upper - t * lower) * share
    curvature = where(easy, tail, factor) * share * share
    bend = (gamma - 1.0) * rate * last + (lower - upper) * share
    return (
        weight * entropy,
        weight * (gamma * product(rate, entropy) * last + slope),
        weight * (gamma * product(rate, entropy * bend + 2.0 * slope) + curvature) * last,
    )


def probabilities(
    y: Any,
    p: Any,
    apply_class_balancing: Any,
    alpha: Any,
    complement: Any,
    gamma: Any,
    label_smoothing: Any,
    epsilon: Any,
) -> Any:
    """Value, gradient and Hessian at target y and probability p, by the same parts."""
    t = y * (1.0 - label_smoothing) + 0.5 * label_smoothing
    q = clip(p, epsilon, 1.0 - epsilon)
    # At the bounds, too: an epsilon that is lost in 1 - epsilon leaves nothing to divide by there.
    clipped = (p <= epsilon) | (p >= 1.0 - epsilon)
    mixed = t * (1.0 - q) + (1.0 - t) * q
    rate = (1.0 - t - t) / mixed
    entropy = -(t * log(q)) - product(1.0 - t, log1p(-q))
    odds, counter_odds = t / q, quotient(1.0 - t, 1.0 - q)
    slope = counter_odds - odds
    curvature = odds / q + quotient(counter_odds, 1.0 - q)
    weight = where(apply_class_balancing == 1.0, t * alpha + (1.0 - t) * complement, 1.0) * power(mixed, gamma)
    growth = gamma * rate * entropy
    bend = growth * (gamma - 1.0) * rate + 2.0 * gamma * rate * slope + curvature
    # 0 y, not 0: a NaN target shows in the gradient of a clipped element too.
    return weight * entropy, where(clipped, 0.0 * y, weight * (growth + slope)), where(clipped, 0.0 * y, weight * bend)


binary_focal_crossentropy = function_of(BinaryFocalCrossentropy)
