"""Smooth L1 loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, non_negative
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import clip, quotient, where


@dataclass(frozen=True, kw_only=True)
class SmoothL1(ElementwiseLoss):
    """Quadratic near zero, the absolute error less ``beta / 2`` beyond (Girshick 2015, doi:10.1109/ICCV.2015.169).

    ``(p - y)^2 / (2 beta)`` where ``|p - y| < beta``, else ``|p - y| - beta / 2``; as torch's ``smooth_l1_loss``. It is
    the Huber loss divided by its delta; with ``beta=0`` it is the absolute error.
    """

    beta: float = non_negative(1.0, "where the loss turns from quadratic to linear")

    peers: ClassVar[Peers] = Peers(torch="F.smooth_l1_loss(p, y, beta=beta, reduction=reduction)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=0.0, y_pred=3.0, value=2.5, grad=1.0, hess=0.0),
        Example(y_true=[0.0, 1.0], y_pred=[1.0, -3.0], value=3.25, grad=[0.5, -1.0], hess=[0.5, 0.0],
                parameters={"beta": 2.0}),
    )  # fmt: skip

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the loss turns linear."""
        return y - self.beta, y + self.beta

    @staticmethod
    def formula(y: Any, p: Any, beta: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        slope = clip(quotient(difference, beta), -1.0, 1.0)
        value = slope * (difference - 0.5 * beta * slope)
        return value, slope, where(abs(difference) < beta, 1.0 / beta, 0.0)


smooth_l1 = function_of(SmoothL1)
