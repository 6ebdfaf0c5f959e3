"""Gamma deviance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, flag, function_of
from ...families.means import MeanLoss
from ...formula.ops import exp, expm1, log, where


@dataclass(frozen=True, kw_only=True)
class Gamma(MeanLoss):
    """Half the deviance of a Gamma distribution of mean p, but for what depends on the target alone: ``log p + y / p``.

    With ``log_input`` the prediction x is the mean's logarithm: ``x + y exp(-x)``, as scikit-learn's ``HalfGammaLoss``
    (McCullagh and Nelder 1989, doi:10.1007/978-1-4899-3242-6).
    """

    half: bool = flag(True, "whether to give half of the deviance")

    peers: ClassVar[Peers] = Peers(
        torch="(p + y * torch.exp(-p) if log_input else torch.log(p) + y / p) * (1 if half else 2)",
        scikit_learn="HalfGammaLoss 1 log_input",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(3.0, 1.0, 3.0, -2.0, 5.0),
        Example([1.0, 2.0], [0.5, 2.0], 3.0, [-2.0, 0.0], [12.0, 0.25]),  # log(1 / 2) + 2 + log 2 + 1
        Example([3.0, 0.5], [0.0, 0.0], 7.0, [-4.0, 1.0], [6.0, 1.0], {"log_input": True, "half": False}),
    )

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {"means": means, "logarithms": logarithms}


def means(y: Any, p: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p."""
    scale = 2.0 - half
    inverse = 1.0 / p
    slope = scale * ((p - y) * inverse * inverse)
    return scale * (log(p) + y / p), slope, scale * ((2.0 * y - p) * inverse * inverse * inverse)


def logarithms(y: Any, x: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and a mean's logarithm x.

    1 - y exp(-x) would lose its digits where x is near 0 and y is 1. Of large exponentials there is twice the root, so
    that a small part of what is too large for a number can be one.
    """
    scale = 2.0 - half
    root, less = exp(-0.5 * x), expm1(-0.5 * x)
    ratio = y * root * root
    slope = where(abs(x) < 0.5, (1.0 - y) - y * (less * (2.0 + less)), 1.0 - ratio)
    return scale * (x + ratio), scale * slope, scale * ratio


gamma = function_of(Gamma)
