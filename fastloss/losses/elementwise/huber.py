"""Huber loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, positive
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import clip, where


@dataclass(frozen=True, kw_only=True)
class Huber(ElementwiseLoss):
    """Quadratic near zero, linear beyond ``delta`` (Huber 1964, doi:10.1214/aoms/1177703732).

    ``(p - y)^2 / 2`` where ``|p - y| <= delta``, else ``delta (|p - y| - delta / 2)``; as Keras' ``Huber`` and
    torch's ``huber_loss``.
    """

    delta: float = positive(1.0, "where the loss turns from quadratic to linear")

    peers: ClassVar[Peers] = Peers(
        torch="F.huber_loss(p, y, delta=delta, reduction=reduction)",
        keras="keras.losses.huber(y[..., None], p[..., None], delta=delta)",
        scikit_learn="HuberLoss 1",
        optax="optax.losses.huber_loss(p, y, delta=delta)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=0.0, y_pred=3.0, value=2.5, grad=1.0, hess=0.0),
        Example(y_true=0.0, y_pred=2.0, value=0.875, grad=0.5, hess=0.0, parameters={"delta": 0.5}),
        Example(y_true=[0.5, 1.0], y_pred=[0.0, 1.25], value=0.15625, grad=[-0.5, 0.25], hess=[1.0, 1.0]),
    )

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the loss turns linear."""
        return y - self.delta, y + self.delta

    @staticmethod
    def formula(y: Any, p: Any, delta: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        slope = clip(difference, -delta, delta)
        value = slope * (difference - 0.5 * slope)
        return value, slope, where(abs(difference) <= delta, 1.0, 0.0)


huber = function_of(Huber)
