"""Hinge loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of, labels
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import positive_part, where
from ...formula.targets import signed


@dataclass(frozen=True, kw_only=True)
class Hinge(ElementwiseLoss):
    """Margin that is missing, ``max(0, 1 - y p)``, y being -1 or 1 (Cortes and Vapnik 1995, doi:10.1007/BF00994018).

    As Keras' ``Hinge``, but that labels 0 and 1 are asked for by ``labels="binary"``: Keras guesses from the whole
    batch. The gradient where y p = 1 is 0; the Hessian is 0 everywhere.
    """

    labels: str = labels()

    peers: ClassVar[Peers] = Peers(
        torch="(1 - (2 * y - 1 if labels == 'binary' else y) * p).clamp(min=0)",
        keras="keras.losses.hinge(y[..., None], p[..., None])",
        optax="optax.losses.hinge_loss(p, 2 * y - 1 if labels == 'binary' else y)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=-0.5, value=1.5, grad=-1.0, hess=0.0),
        Example(y_true=[-1, -1, 1], y_pred=[0.5, -1.0, 3.0], value=1.5, grad=[1.0, 0.0, 0.0], hess=[0.0, 0.0, 0.0]),
        Example(y_true=0, y_pred=0.5, value=1.5, grad=1.0, hess=0.0, parameters={"labels": "binary"}),
    )

    def domain(self) -> Domain:
        """Two classes."""
        return Domain(self.labels, "real")

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the margin is met."""
        return (signed(y, self.binary),)

    @property
    def binary(self) -> bool:
        """Whether labels are 0 and 1."""
        return self.labels == "binary"

    @staticmethod
    def formula(y: Any, p: Any, binary: Any) -> Any:
        """Value, gradient and Hessian at label y and prediction p."""
        sign = signed(y, binary)
        missing = 1.0 - sign * p
        # The last choice is for NaN.
        grad = where(missing > 0.0, -sign, where(missing <= 0.0, 0.0, missing))
        return positive_part(missing), grad, 0.0


hinge = function_of(Hinge)
