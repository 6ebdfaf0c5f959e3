"""Gaussian negative log-likelihood."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, flag, function_of, positive
from ...families.pairwise import PairwiseLoss
from ...formula.ops import log, where


@dataclass(frozen=True, kw_only=True)
class GaussianNLL(PairwiseLoss):
    """Negative log-likelihood of a normal distribution whose mean and variance are predicted.

    Nix and Weigend 1994, doi:10.1109/ICNN.1994.374138.

    ``(log v + (mean - y)^2 / v) / 2``, v being the variance, at least ``eps``; as torch's ``gaussian_nll_loss``, also
    in that the gradients where the variance is less than ``eps`` are those at ``eps``, so that it can grow again.
    """

    full: bool = flag(False, "whether to add the constant, log(2 pi) / 2")
    eps: float = positive(1e-6, "the least variance")

    operands: ClassVar[tuple[str, ...]] = ("y_true", "mean", "variance")
    peers: ClassVar[Peers] = Peers(
        torch="F.gaussian_nll_loss(mean, y_true, variance, full=full, eps=eps, reduction=reduction)"
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(1.0, (3.0, 4.0), 1.1931471805599454, (0.5, 0.0), (0.25, 0.03125)),
        Example(0.0, (2.0, 1.0), 2.9189385332046727, (2.0, -1.5), (1.0, 3.5), {"full": True}),
    )

    def domain(self) -> Any:
        """What the operands may be."""
        return ("real", "real", "positive")

    @staticmethod
    def formula(y: Any, mean: Any, variance: Any, full: Any, eps: Any) -> Any:
        """Value, gradients and Hessians at target y, by the mean and by the variance."""
        least = where(variance < eps, eps, variance)
        difference = mean - y
        slope = difference / least
        square = slope * difference
        value = 0.5 * (log(least) + square) + 0.9189385332046727 * full
        return value, slope, 0.5 * (1.0 - square) / least, 1.0 / least, (square - 0.5) / least / least


gaussian_nll = function_of(GaussianNLL)
