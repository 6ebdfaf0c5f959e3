"""Mean squared logarithmic error."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of, positive
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import log1p, where


@dataclass(frozen=True, kw_only=True)
class MeanSquaredLogarithmicError(ElementwiseLoss):
    """Squared difference of logarithms, ``(log(1 + p) - log(1 + y))^2``, as Keras.

    Targets and predictions below ``epsilon`` count as ``epsilon``; there the gradient is 0. The difference is computed
    as one logarithm, so that p near y loses no digits.
    """

    epsilon: float = positive(1e-7, "the least number that targets and predictions count as")

    aliases: ClassVar[tuple[str, ...]] = ("msle",)
    takes: ClassVar[Domain] = Domain("non_negative", "positive")
    peers: ClassVar[Peers] = Peers(
        torch="(torch.log1p(p.clamp(min=epsilon)) - torch.log1p(y.clamp(min=epsilon))) ** 2",
        keras="keras.losses.mean_squared_logarithmic_error(y[..., None], p[..., None])",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 3.0, 0.4804530139182014, 0.34657359027997264, 0.03835660243000683),  # log(2)^2, log(2) / 2
        Example([3.0, 0.5], [1.0, 0.25], 0.4804530139182014, [-0.6931471805599453, 0.0], [0.8465735902799727, 0.0],
                {"epsilon": 0.5}),
    )  # fmt: skip

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Below which predictions are the same."""
        return (self.epsilon,)

    @staticmethod
    def formula(y: Any, p: Any, epsilon: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p.

        The larger number is divided by the smaller one: a logarithm of something near 0 would lose digits.
        """
        target = 1.0 + where(y < epsilon, epsilon, y)
        pred = 1.0 + where(p < epsilon, epsilon, p)
        difference = where(p < epsilon, epsilon, p) - where(y < epsilon, epsilon, y)
        ratio = log1p(abs(difference) / where(pred < target, pred, target))
        error = where(difference < 0.0, -ratio, ratio)
        slope = 2.0 / pred
        clipped = p < epsilon
        # 0 y, not 0: a NaN target shows in the gradient of a clipped element too.
        grad = where(clipped, 0.0 * y, slope * error)
        return error * error, grad, where(clipped, 0.0 * y, slope * (1.0 - error) / pred)


mean_squared_logarithmic_error = function_of(MeanSquaredLogarithmicError)
