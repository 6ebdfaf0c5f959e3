"""Logarithm of the hyperbolic cosine."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of
from ...families.elementwise import ElementwiseLoss
from ...formula.ops import exp_nonpositive, expm1_nonpositive, log1p_unit, where


@dataclass(frozen=True, kw_only=True)
class LogCosh(ElementwiseLoss):
    """Smooth relative of the absolute error: ``log(cosh(p - y))``, as Keras' ``LogCosh``.

    Nearly ``(p - y)^2 / 2`` for small differences and ``|p - y| - log 2`` for large ones; accurate for both.
    """

    peers: ClassVar[Peers] = Peers(
        torch="torch.logaddexp(p - y, y - p) - math.log(2)",
        keras="keras.losses.log_cosh(y[..., None], p[..., None])",
        optax="optax.losses.log_cosh(p, y)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, 1.5, 0.12011450695827752, 0.46211715726000975, 0.7864477329659274),
        # cosh(log 3) = 5 / 3, tanh(log 3) = 4 / 5
        Example([1.0, 0.0], [1.0, -1.0986122886681098], 0.5108256237659907, [0.0, -0.8], [1.0, 0.36]),
    )

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the value is computed another way."""
        return y - 0.8, y + 0.8

    @staticmethod
    def formula(y: Any, p: Any) -> Any:
        """Value, gradient and Hessian at target y and prediction p.

        ``tail`` is exp(-2 |p - y|), ``less`` is tail - 1; cosh^2 - 1 = sinh^2 = less^2 / (4 tail).
        """
        distance = abs(p - y)
        tail = exp_nonpositive(-2.0 * distance)
        less = expm1_nonpositive(-2.0 * distance)
        share = 1.0 / (1.0 + tail)
        near = distance < 0.8
        logarithm = log1p_unit(where(near, less * less / (4.0 * tail), tail))
        value = where(near, 0.5 * logarithm, distance - 0.6931471805599453 + logarithm)
        slope = less * share
        return value, where(p > y, -slope, slope), 4.0 * tail * share * share


log_cosh = function_of(LogCosh)
