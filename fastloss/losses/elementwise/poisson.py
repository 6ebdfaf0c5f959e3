"""Poisson loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, flag, function_of, non_negative
from ...families.means import MeanLoss
from ...formula.ops import exp, expm1, log, product, where


@dataclass(frozen=True, kw_only=True)
class Poisson(MeanLoss):
    """Negative log-likelihood of a count under a Poisson distribution of mean p: ``p - y log(p + epsilon)``, as Keras.

    With ``log_input`` the prediction x is the mean's logarithm: ``exp(x) - y x``, as torch's ``poisson_nll_loss`` and
    scikit-learn's ``HalfPoissonLoss``. ``full`` adds what depends on the target alone, nearly: Stirling's
    ``y log y - y + log(2 pi y) / 2`` where y > 1, as torch.
    """

    full: bool = flag(False, "whether to add an approximation of log(y!)")
    epsilon: float = non_negative(1e-7, "added to means before their logarithm is taken")

    peers: ClassVar[Peers] = Peers(
        torch="F.poisson_nll_loss(p, y, log_input=log_input, full=full, eps=epsilon, reduction=reduction)",
        keras="None if log_input or full else keras.losses.poisson(y[..., None], p[..., None])",
        scikit_learn="HalfPoissonLoss 1 log_input",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(3.0, 1.0, 1.0, -2.0, 3.0, {"epsilon": 0.0}),
        Example(1.0, 0.0, 16.11809565095832, -9999999.0, 1e14),  # -log 1e-7
        Example(0.0, 0.5, 0.5, 1.0, 0.0, {"full": True}),
        Example([2.0, 0.0], [0.0, 0.0], 2.0, [-1.0, 1.0], [1.0, 1.0], {"log_input": True}),
        # 2 log 2 - 2 + log(4 pi) / 2
        Example(2.0, 0.0, 1.651806484604536, -1.0, 1.0, {"log_input": True, "full": True}),
    )

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {"means": means, "means.full": means_full, "logarithms": logarithms, "logarithms.full": logarithms_full}

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return super().variant() + (".full" if self.full else "")

    def domain(self) -> Domain:
        """A count, and its expected number or the logarithm of that."""
        return Domain("non_negative", "logit" if self.log_input else "positive")


def means(y: Any, p: Any, epsilon: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p."""
    mean = p + epsilon
    return p - product(y, log(mean)), (mean - y) / mean, y / mean / mean


def logarithms(y: Any, x: Any) -> Any:
    """Value, gradient and Hessian at target y and a mean's logarithm x.

    exp(x) - y would lose its digits where x is near 0 and y is 1.
    """
    mean = exp(x)
    return mean - product(y, x), where(abs(x) < 0.5, expm1(x) + (1.0 - y), mean - y), mean


def log_factorial(y: Any) -> Any:
    """Stirling's approximation of log(y!), 0 for y of 1 and less."""
    return where(y > 1.0, y * log(y) - y + 0.5 * log(6.283185307179586 * y), 0.0)


def means_full(y: Any, p: Any, epsilon: Any) -> Any:
    """The same with what depends on the target alone."""
    value, grad, hess = means(y, p, epsilon)
    return value + log_factorial(y), grad, hess


def logarithms_full(y: Any, x: Any) -> Any:
    """The same with what depends on the target alone."""
    value, grad, hess = logarithms(y, x)
    return value + log_factorial(y), grad, hess


poisson = function_of(Poisson)
