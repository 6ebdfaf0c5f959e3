"""Soft margin loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, function_of
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import exp_nonpositive, log1p_unit, positive_part, where


@dataclass(frozen=True, kw_only=True)
class SoftMargin(ElementwiseLoss):
    """Logistic loss of labels -1 and 1, ``log(1 + exp(-y p))``; as torch's ``soft_margin_loss``, exact for every p."""

    takes: ClassVar[Domain] = Domain("sign", "logit")
    peers: ClassVar[Peers] = Peers(torch="F.soft_margin_loss(p, y, reduction=reduction)")
    examples: ClassVar[tuple[Example, ...]] = (
        Example(y_true=1.0, y_pred=0.0, value=0.6931471805599453, grad=-0.5, hess=0.25),
        # exp(log 3) = 3
        Example(-1, 1.0986122886681098, value=1.3862943611198906, grad=0.75, hess=0.1875),
    )

    @staticmethod
    def formula(y: Any, p: Any) -> Any:
        """Value, gradient and Hessian at label y and logit p."""
        logit = -y * p
        tail = exp_nonpositive(-abs(logit))
        share = 1.0 / (1.0 + tail)
        value = positive_part(logit) + log1p_unit(tail)
        return value, -y * (where(logit < 0.0, tail, 1.0) * share), y * y * (tail * share * share)


soft_margin = function_of(SoftMargin)
