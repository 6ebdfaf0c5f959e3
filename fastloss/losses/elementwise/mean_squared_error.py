"""Mean squared error."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of
from ...families.elementwise import ElementwiseLoss


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(ElementwiseLoss):
    """Squared difference, ``(p - y)^2`` (Legendre 1805; as Keras' ``MeanSquaredError`` and torch's ``mse_loss``)."""

    aliases: ClassVar[tuple[str, ...]] = ("mse",)
    peers: ClassVar[Peers] = Peers(
        torch="F.mse_loss(p, y, reduction=reduction)",
        keras="keras.losses.mean_squared_error(y[..., None], p[..., None])",
        scikit_learn="HalfSquaredError 2",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=4.0, value=9.0, grad=6.0, hess=2.0),
        Example(y_true=[0.0, 2.0], y_pred=[0.5, 1.0], value=1.25, grad=[1.0, -2.0], hess=[2.0, 2.0]),
    )

    @staticmethod
    def formula(y: Any, p: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        return difference * difference, 2.0 * difference, 2.0


mean_squared_error = function_of(MeanSquaredError)
