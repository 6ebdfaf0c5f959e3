"""Pinball loss."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of, quantiles
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import where


@dataclass(frozen=True, kw_only=True)
class Pinball(ElementwiseLoss):
    """Loss whose minimum is a quantile of the targets (Koenker and Bassett 1978, doi:10.2307/1913643).

    ``quantile (y - p)`` where p is too small, ``(1 - quantile) (p - y)`` where it is too large, as scikit-learn's
    ``PinballLoss``; the gradient at p = y is 0, the Hessian is 0 everywhere. With several quantiles y_pred has one more
    axis than y_true, the last: a column for each; each element of it has a loss.
    """

    quantile: float | tuple[float, ...] = quantiles(0.5, "the quantile to be predicted, or several")

    peers: ClassVar[Peers] = Peers(
        torch="torch.where(p > y, (1 - quantile) * (p - y), quantile * (y - p))",
        scikit_learn="PinballLoss 1",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=3.0, y_pred=1.0, value=1.0, grad=-0.5, hess=0.0),
        Example(y_true=[1.0, 1.0], y_pred=[3.0, -1.0], value=2.0, grad=[0.25, -0.75], hess=[0.0, 0.0],
                parameters={"quantile": 0.75}),
        Example(y_true=[1.0], y_pred=[[0.0, 1.0, 3.0]], value=0.75, grad=[[-0.25, 0.0, 0.25]], hess=[[0.0, 0.0, 0.0]],
                parameters={"quantile": (0.25, 0.5, 0.75)}),
    )  # fmt: skip

    def columns(self) -> tuple["Pinball", ...]:
        """The losses of several quantiles."""
        several = self.quantile if isinstance(self.quantile, tuple) else ()
        return tuple(dataclasses.replace(self, quantile=quantile) for quantile in several)

    @property
    def complement(self) -> float:
        """What is left of 1, which float32 would round first."""
        assert not isinstance(self.quantile, tuple)
        return 1.0 - self.quantile

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the slope changes its sign."""
        return (y,)

    @staticmethod
    def formula(y: Any, p: Any, quantile: Any, complement: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        value = where(difference > 0.0, complement, -quantile) * difference
        # The last choice is for NaN.
        slope = where(difference > 0.0, complement, where(difference < 0.0, -quantile, difference))
        return value, slope, 0.0


pinball = function_of(Pinball)
