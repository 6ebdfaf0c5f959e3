"""Hinge embedding loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of, real
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import positive_part, where


@dataclass(frozen=True, kw_only=True)
class HingeEmbedding(ElementwiseLoss):
    """Loss of distances p: p itself for pairs that belong together (y = 1), ``max(0, margin - p)`` for others (y = -1).

    As torch's ``hinge_embedding_loss``; the gradient where p = margin is 0. The Hessian is 0 everywhere.
    """

    margin: float = real(1.0, "the distance from which pairs that do not belong together cost nothing")

    takes: ClassVar[Domain] = Domain("sign", "real")
    peers: ClassVar[Peers] = Peers(torch="F.hinge_embedding_loss(p, y, margin=margin, reduction=reduction)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1, y_pred=0.75, value=0.75, grad=1.0, hess=0.0),
        Example(y_true=[-1, -1], y_pred=[0.75, 2.5], value=1.25, grad=[-1.0, 0.0], hess=[0.0, 0.0],
                parameters={"margin": 2.0}),
    )  # fmt: skip

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """From where on pairs that do not belong together cost nothing."""
        return (self.margin + 0.0 * y,)

    @staticmethod
    def formula(y: Any, p: Any, margin: Any) -> Any:
        """Value, gradient and Hessian at label y and distance p; as torch for labels other than -1 and 1, too."""
        missing = margin - p
        # The last choices are for NaN.
        apart = where(missing > 0.0, -1.0, where(missing <= 0.0, 0.0, missing))
        together = where(p > 0.0, 1.0, where(p <= 0.0, 1.0, p))
        value = where(y == -1.0, 0.0, p) + where(y == 1.0, 0.0, positive_part(missing)) + 0.0 * y
        return value, where(y == -1.0, 0.0, together) + where(y == 1.0, 0.0, apart) + 0.0 * y, 0.0


hinge_embedding = function_of(HingeEmbedding)
