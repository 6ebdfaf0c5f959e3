"""Squared hinge loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of, labels
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import positive_part, where
from ...formula.targets import signed


@dataclass(frozen=True, kw_only=True)
class SquaredHinge(ElementwiseLoss):
    """Square of the margin that is missing, ``max(0, 1 - y p)^2``, y being -1 or 1, as Keras' ``SquaredHinge``.

    Labels 0 and 1 are asked for by ``labels="binary"``, not guessed. The Hessian where y p = 1 is 0.
    """

    labels: str = labels()

    peers: ClassVar[Peers] = Peers(
        torch="(1 - (2 * y - 1 if labels == 'binary' else y) * p).clamp(min=0) ** 2",
        keras="keras.losses.squared_hinge(y[..., None], p[..., None])",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=-0.5, value=2.25, grad=-3.0, hess=2.0),
        Example(y_true=[-1, -1], y_pred=[0.5, -1.0], value=2.25, grad=[3.0, 0.0], hess=[2.0, 0.0]),
        Example(y_true=0, y_pred=0.5, value=2.25, grad=3.0, hess=2.0, parameters={"labels": "binary"}),
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
        distance = 1.0 - sign * p
        missing = positive_part(distance)
        return missing * missing, -2.0 * sign * missing, where(distance > 0.0, 2.0 * sign * sign, 0.0)


squared_hinge = function_of(SquaredHinge)
