"""Tweedie deviance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, flag, function_of, real
from ...families.means import MeanLoss
from ...formula.ops import exp, exp_in_factors, exp_nonpositive, expm1, expm1_nonpositive, where
from ...formula.ops import power as raised
from .gamma import logarithms as gamma_logarithms
from .gamma import means as gamma_means
from .poisson import logarithms as poisson_logarithms
from .poisson import means as poisson_means


@dataclass(frozen=True, kw_only=True)
class Tweedie(MeanLoss):
    """Half the deviance of a Tweedie distribution (Jorgensen 1987, doi:10.1111/j.2517-6161.1987.tb01685.x).

    ``p^(2 - power) / (2 - power) - y p^(1 - power) / (1 - power)``, without what depends on the target alone, and its
    limits: ``p - y log p`` for power 1 (Poisson), ``log p + y / p`` for power 2 (gamma). For power 0 (normal) it is
    ``(p - y)^2 / 2``. With ``log_input`` the prediction is the mean's logarithm. As scikit-learn's
    ``HalfTweedieLossIdentity`` and ``HalfTweedieLoss``.
    """

    power: float = real(1.5, "the variance is the mean to this power; between 1 and 2 targets may be 0")
    half: bool = flag(True, "whether to give half of the deviance")

    peers: ClassVar[Peers] = Peers(
        torch=(
            "(lambda m: (m - y) ** 2 / 2 if power == 0 else m - y * torch.log(m) if power == 1 "
            "else torch.log(m) + y / m if power == 2 "
            "else m ** (2 - power) / (2 - power) - y * m ** (1 - power) / (1 - power)"
            ")(torch.exp(p) if log_input else p) * (1 if half else 2)"
        ),
        scikit_learn="HalfTweedieLoss 1 log_input | HalfTweedieLossIdentity 1",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 4.0, 5.0, 0.375, -0.015625),
        Example(3.0, 1.0, 1.0, -2.0, 3.0, {"power": 1.0}),
        Example(1.0, 2.0, -0.375, 0.125, -0.0625, {"power": 3.0}),
        Example(3.0, 1.0, 3.0, -2.0, 5.0, {"power": 2.0}),
        Example(1.0, 4.0, 9.0, 6.0, 2.0, {"power": 0.0, "half": False}),
        Example(3.0, 0.0, 8.0, -2.0, 2.0, {"log_input": True}),
        Example(3.0, 0.0, 2.0, -2.0, -1.0, {"power": 0.0, "log_input": True}),
        Example(3.0, 0.0, 1.0, -2.0, 1.0, {"power": 1.0, "log_input": True}),
        Example(3.0, 0.0, 6.0, -4.0, 6.0, {"power": 2.0, "log_input": True, "half": False}),
    )

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {
            "means": means,
            "means.0": means_0,
            "means.1": means_1,
            "means.2": means_2,
            "logarithms": logarithms,
            "logarithms.0": logarithms_0,
            "logarithms.1": logarithms_1,
            "logarithms.2": logarithms_2,
        }

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        special = f".{self.power:.0f}" if self.power in (0.0, 1.0, 2.0) else ""
        return super().variant() + special

    def domain(self) -> Domain:
        """What has such a distribution, and its expected value or the logarithm of that."""
        target = "real" if self.power <= 0 else "non_negative" if self.power < 2 else "positive"
        mean = "real" if self.power == 0 else "positive"
        return Domain(target, "logit" if self.log_input else mean)

    @property
    def positive_power(self) -> bool:
        """Whether variances rise with means."""
        return self.power > 0.0

    @property
    def to_one(self) -> float:
        """How far the power is below 1; float32 would round the power first."""
        return 1.0 - self.power

    @property
    def to_two(self) -> float:
        """How far the power is below 2."""
        return 2.0 - self.power

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where derivatives by a logarithm are computed another way."""
        return (-0.5, 0.0, 0.5) if self.log_input else ()


def means(y: Any, p: Any, power: Any, to_one: Any, to_two: Any, half: Any, positive_power: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p, power being none of 0, 1 and 2.

    ``lead`` is p^(1 - power), or p times less where that would be too small a number.
    """
    inverse = 1.0 / p
    lead = (2.0 - half) * raised(p, where(positive_power == 1.0, to_one, -power))
    value = lead * ((p * (1.0 / (to_two)) - y * (1.0 / (to_one))) * where(positive_power == 1.0, 1.0, p))
    grad = lead * ((p - y) * where(positive_power == 1.0, inverse, 1.0))
    rising = lead * (((to_one) * p + power * y) * inverse) * inverse
    falling = (to_one) * lead + power * ((lead * y) * inverse)
    return value, grad, where(positive_power == 1.0, rising, falling)


def logarithms(y: Any, x: Any, to_one: Any, to_two: Any, half: Any) -> Any:
    """The same at a mean's logarithm x.

    The larger one of exp((1 - power) x) and exp((2 - power) x) is factored out, as a square: ``root``. For targets of 0
    that is the latter, which is all there is.
    """
    falling = (x < 0.0) & (y != 0.0)
    root = exp(0.5 * (where(falling, to_one, to_two) * x))
    tail = exp_nonpositive(-abs(x))
    less = expm1_nonpositive(-abs(x))
    upper = where(falling, tail, 1.0)
    lower = y * where(x < 0.0, 1.0, tail)
    near = (abs(x) < 0.5) & (y != 0.0)
    slope = where(near, (1.0 - y) * where(x < 0.0, 1.0, tail) + where(x < 0.0, less, -less), upper - lower)
    value = upper * (1.0 / (to_two)) - lower * (1.0 / (to_one))
    hess = (to_two) * upper - (to_one) * lower
    scale = 2.0 - half
    return scale * (value * root * root), scale * (slope * root * root), scale * (hess * root * root)


def means_0(y: Any, p: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p for power 0."""
    difference, scale = p - y, 2.0 - half
    return (0.5 * scale) * difference * difference, scale * difference, scale


def logarithms_0(y: Any, x: Any, half: Any) -> Any:
    """The same at a mean's logarithm x."""
    part, last = exp_in_factors(x)
    mean = part * last
    difference = where(abs(x) < 0.5, expm1(x) + (1.0 - y), mean - y)
    scale = 2.0 - half
    value = (0.5 * scale) * difference * difference
    return value, scale * difference * part * last, scale * (difference + mean) * part * last


def means_1(y: Any, p: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p for power 1."""
    value, grad, hess = poisson_means(y, p, 0.0)
    scale = 2.0 - half
    return scale * value, scale * grad, scale * hess


def logarithms_1(y: Any, x: Any, half: Any) -> Any:
    """The same at a mean's logarithm x."""
    value, grad, hess = poisson_logarithms(y, x)
    scale = 2.0 - half
    return scale * value, scale * grad, scale * hess


def means_2(y: Any, p: Any, half: Any) -> Any:
    """Value, gradient and Hessian at target y and mean p for power 2."""
    return gamma_means(y, p, half)


def logarithms_2(y: Any, x: Any, half: Any) -> Any:
    """The same at a mean's logarithm x."""
    return gamma_logarithms(y, x, half)


tweedie = function_of(Tweedie)
