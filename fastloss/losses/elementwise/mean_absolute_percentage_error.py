"""Mean absolute percentage error."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, positive
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import sign, where


@dataclass(frozen=True, kw_only=True)
class MeanAbsolutePercentageError(ElementwiseLoss):
    """Absolute difference in percent of the target, ``100 |p - y| / max(|y|, epsilon)``, as Keras.

    The gradient at p = y is 0; the Hessian is 0 everywhere.
    """

    epsilon: float = positive(1e-7, "smaller targets are divided by this instead")

    aliases: ClassVar[tuple[str, ...]] = ("mape",)
    peers: ClassVar[Peers] = Peers(
        torch="100 * (p - y).abs() / y.abs().clamp(min=epsilon)",
        keras="keras.losses.mean_absolute_percentage_error(y[..., None], p[..., None])",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=2.0, y_pred=1.5, value=25.0, grad=-50.0, hess=0.0),
        Example(y_true=[-4.0, 0.0], y_pred=[1.0, 2.0], value=525.0, grad=[25.0, 200.0], hess=[0.0, 0.0],
                parameters={"epsilon": 0.5}),
    )  # fmt: skip

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the slope changes its sign."""
        return (y,)

    @staticmethod
    def formula(y: Any, p: Any, epsilon: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        percent = 100.0 / where(abs(y) < epsilon, epsilon, abs(y))
        return percent * abs(difference), percent * sign(difference), 0.0


mean_absolute_percentage_error = function_of(MeanAbsolutePercentageError)
