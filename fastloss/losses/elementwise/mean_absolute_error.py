"""Mean absolute error."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import sign


@dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(ElementwiseLoss):
    """Absolute difference, ``|p - y|`` (as Keras' ``MeanAbsoluteError`` and torch's ``l1_loss``).

    The gradient at p = y is 0; the Hessian is 0 everywhere.
    """

    aliases: ClassVar[tuple[str, ...]] = ("mae",)
    peers: ClassVar[Peers] = Peers(
        torch="F.l1_loss(p, y, reduction=reduction)",
        keras="keras.losses.mean_absolute_error(y[..., None], p[..., None])",
        scikit_learn="AbsoluteError 1",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=-2.5, value=3.5, grad=-1.0, hess=0.0),
        Example(y_true=[0.0, 2.0], y_pred=[0.0, 5.0], value=3.0, grad=[0.0, 1.0], hess=[0.0, 0.0]),
    )

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the slope changes its sign."""
        return (y,)

    @staticmethod
    def formula(y: Any, p: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p."""
        difference = p - y
        return abs(difference), sign(difference), 0.0


mean_absolute_error = function_of(MeanAbsoluteError)
