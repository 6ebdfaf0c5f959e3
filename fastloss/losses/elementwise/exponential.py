"""Exponential loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import exp, product, where


@dataclass(frozen=True, kw_only=True)
class Exponential(ElementwiseLoss):
    """The loss of AdaBoost, ``y exp(-p) + (1 - y) exp(p)`` (Friedman et al. 2000, doi:10.1214/aos/1016218223).

    The target y is 0, 1 or a probability, the prediction p half a logit: as scikit-learn's ``ExponentialLoss``. Labels
    s of -1 and 1 would give ``exp(-s p)``.
    """

    takes: ClassVar[Domain] = Domain("unit", "logit")
    peers: ClassVar[Peers] = Peers(
        torch="y * torch.exp(-p) + (1 - y) * torch.exp(p)",
        scikit_learn="ExponentialLoss 1",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=0.75, y_pred=0.0, value=1.0, grad=-0.5, hess=1.0),
        # exp(log 2) = 2
        Example([0, 1], [0.6931471805599453, 0.6931471805599453], value=2.5, grad=[2.0, -0.5], hess=[2.0, 0.5]),
    )

    @staticmethod
    def formula(y: Any, p: Any) -> Any:
        """Value, gradient and Hessian at target y and half a logit p."""
        # Twice the root, so that a small part of what is too large for a number can be one.
        root = exp(0.5 * abs(p))
        up = where(p < 0.0, 1.0 / root, root)
        down = where(p < 0.0, root, 1.0 / root)
        falling = product(product(y, down), down)
        rising = product(product(1.0 - y, up), up)
        value = falling + rising
        return value, rising - falling, value


exponential = function_of(Exponential)
