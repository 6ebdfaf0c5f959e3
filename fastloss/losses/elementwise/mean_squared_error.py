"""Mean squared error."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, flag, function_of, wrt
from ...families.elementwise import ElementwiseLoss


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(ElementwiseLoss):
    """Squared difference, ``(p - y)^2`` (Legendre 1805; as Keras' ``MeanSquaredError`` and torch's ``mse_loss``)."""

    half: bool = flag(False, "whether to give half of it, as scikit-learn's ``HalfSquaredError``")
    wrt: str = wrt()

    aliases: ClassVar[tuple[str, ...]] = ("mse",)
    peers: ClassVar[Peers] = Peers(
        torch="F.mse_loss(p, y, reduction=reduction) * (0.5 if half else 1)",
        keras="keras.losses.mean_squared_error(y[..., None], p[..., None]) * (0.5 if half else 1)",
        scikit_learn="HalfSquaredError 2 | HalfSquaredError 1 half",
        optax="optax.losses.l2_loss(p, y) if half else optax.losses.squared_error(p, y)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=4.0, value=9.0, grad=6.0, hess=2.0),
        Example(y_true=[0.0, 2.0], y_pred=[0.5, 1.0], value=1.25, grad=[1.0, -2.0], hess=[2.0, 2.0]),
        Example(y_true=1.0, y_pred=4.0, value=4.5, grad=-3.0, hess=1.0, parameters={"half": True, "wrt": "y_true"}),
    )

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """The formula by what is differentiated."""
        return {"y_pred": by_prediction, "y_true": by_target}

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return self.wrt


def by_prediction(y: Any, p: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and prediction p."""
    difference = p - y
    slope = (2.0 - half) * difference
    return (1.0 - 0.5 * half) * difference * difference, slope, 2.0 - half


def by_target(y: Any, p: Any, half: Any) -> Any:
    """The same, derivatives by the target: the loss is symmetric in both."""
    value, slope, curvature = by_prediction(y, p, half)
    return value, -slope, curvature


mean_squared_error = function_of(MeanSquaredError)
