"""Jensen-Shannon divergence."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, flag, function_of, unit_interval, wrt
from ...families.rowwise import RowwiseLoss
from ...formula.ops import (
    exp,
    exp_nonpositive,
    expm1_nonpositive,
    log,
    log1p,
    nothing_of,
    or_nothing,
    positive_part,
    product,
    quotient,
    sigmoid,
    softplus,
    where,
)
from ...formula.softmax import finish_terms, missing, parted, shares, slopes_of_terms, softmax_sums


@dataclass(frozen=True, kw_only=True)
class JensenShannon(RowwiseLoss):
    """How far two distributions are from their mixture: ``sum_c b y log(y / m) + (1 - b) p log(p / m)``.

    The mixture is ``m = b y + (1 - b) p``, b being beta; where that gives 0, its limit over b (1 - b): b = 0 is the
    Kullback-Leibler divergence ``y log(y / p)``, b = 1 its reverse ``p log(p / y)`` (as Liger's ``LigerJSD``; Lin
    1991, doi:10.1109/18.61115). y_true holds probabilities y, y_pred probabilities p, or logits x, of which
    ``p = softmax(x)``; logarithms of probabilities are such logits. Where y and p both are 0, so are derivatives.
    """

    beta: float = unit_interval(0.5, "b: the weight of y_true in the mixture")
    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    wrt: str = wrt()

    peers: ClassVar[Peers] = Peers(
        torch=(
            "(torch.xlogy(y, y) - y * p.log_softmax(-1)).sum(-1) if from_logits and beta == 0 else "
            "(lambda q, kl: (beta or 1) * kl(y, beta * y + (1 - beta) * q) + (1 - beta or 1) * "
            "kl(q, beta * y + (1 - beta) * q))(p.softmax(-1) if from_logits else p, "
            "lambda t, m: (torch.xlogy(t, t) - torch.xlogy(t, m)).sum(-1))"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.25, 0.75]], [[0.75, 0.25]], 0.1308120359411369, [[0.2027325540540822, -0.34657359027997264]],
                [[1 / 6, 1.5]]),
        Example([[0.25, 0.75]], [[0.75, 0.25]], 0.1308120359411369, [[-0.34657359027997264, 0.2027325540540822]],
                [[1.5, 1 / 6]], {"wrt": "y_true"}),
        Example([[0.5, 0.5]], [[0.25, 0.5]], 0.34657359027997264, [[-2.0, -1.0]], [[8.0, 2.0]], {"beta": 0.0}),
        Example([[0.5, 0.5]], [[0.25, 0.5]], -0.17328679513998632, [[0.3068528194400547, 1.0]], [[4.0, 2.0]],
                {"beta": 1.0}),
        Example([[0.25, 0.5]], [[0.5, 0.5]], 0.34657359027997264, [[-2.0, -1.0]], [[8.0, 2.0]],
                {"beta": 1.0, "wrt": "y_true"}),
        Example([[1.0, 0.0]], [[0.0, 0.0]], 0.21576155433883568, [[-0.13732653608351372, 0.13732653608351372]],
                [[1 / 24, 1 / 24]], {"from_logits": True}),
        Example([[1.0, 1.0]], [[0.0, 0.0]], 0.0849495183976987, [[0.14384103622589046, 0.14384103622589046]],
                [[1 / 6, 1 / 6]], {"from_logits": True, "wrt": "y_true"}),
        Example([[0.25, 0.5]], [[0.0, 0.0]], 0.34657359027997264, [[-2.0, -1.0]], [[8.0, 2.0]],
                {"from_logits": True, "beta": 1.0, "wrt": "y_true"}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        probabilities = RowFormula(None, _statistics, _finish, _element)
        logits = RowFormula("peak", softmax_sums, finish_terms, _logit_element, halfway=shares, again=_again)
        return {
            "logits": logits,
            "logits.y_true": logits._replace(element=_logit_by_target),
            "probabilities": probabilities,
            "probabilities.y_true": probabilities._replace(element=_by_target),
        }

    def domain(self) -> Domain:
        """Distributions, and probabilities or logits; for beta = 1 no target may be 0 where p is not."""
        target = "probability" if self.beta == 1.0 else "distribution"
        return Domain(target, "logit" if self.from_logits else "probability")


# -- one class: its probabilities y and p, and apart = log(y / p) ------------------------------------------------------


def _ratios(apart: Any, beta: Any) -> Any:
    """What y and p are multiplied by in the loss: b log(y / m) and (1 - b) log(p / m)."""
    of_larger, of_smaller = where(apart > 0.0, beta, 1.0 - beta), where(apart > 0.0, 1.0 - beta, beta)
    less = of_smaller * expm1_nonpositive(-abs(apart))
    mixed = where(less > -0.5, log1p(less), log(of_larger + of_smaller * exp_nonpositive(-abs(apart))))
    of_y = where(beta == 0.0, apart, where(beta == 1.0, 0.0, -beta * (mixed + positive_part(-apart))))
    of_p = where(beta == 1.0, -apart, where(beta == 0.0, 0.0, (beta - 1.0) * (mixed + positive_part(apart))))
    return of_y, of_p


def _slopes(own: Any, ratio: Any, share: Any, of_other: Any, of_own: Any) -> Any:
    """Derivatives by one of both, by weights in the mixture; ``share`` is the other probability over the mixture."""
    slope = where(of_other == 0.0, -share, where(of_own == 0.0, ratio + 1.0, ratio))
    bend = where((of_other == 0.0) | (of_own == 0.0), 1.0, of_other * of_own)
    return slope, quotient(bend * share, own)


# -- from probabilities ----------------------------------------------------------------------------------------------


def _apart(x: Any, y: Any) -> Any:
    return where(y == x, 0.0, log(y / x))


def _statistics(x: Any, y: Any, beta: Any) -> Any:
    of_y, of_p = _ratios(_apart(x, y), beta)
    cost = product(y, of_y) + product(x, of_p)
    return cost


def _finish(cost: Any) -> Any:
    value = cost
    nothing = nothing_of(cost)  # a NaN shows in the row's gradient
    return value, nothing


def _element(x: Any, y: Any, nothing: Any, beta: Any) -> Any:
    _, ratio = _ratios(_apart(x, y), beta)
    grad, hess = _slopes(x, ratio, quotient(y, beta * y + (1.0 - beta) * x), beta, 1.0 - beta)
    return grad + nothing, hess


def _by_target(x: Any, y: Any, nothing: Any, beta: Any) -> Any:
    return _element(y, x, nothing, 1.0 - beta)


# -- from logits -----------------------------------------------------------------------------------------------------


def _logit_apart(x: Any, y: Any, peak: Any, level: Any) -> Any:
    log_p = (x - peak) - level
    return where(log(y) == log_p, 0.0, log(y) - log_p)  # 0 also between equal infinities


def _terms(y: Any, apart: Any, below: Any, kept: Any, share: Any, beta: Any) -> Any:
    """Slope and curvature by log p, and the curvature over p; but for a multiple of p.

    As those sum to 1, derivatives by logits are the same without it; then a class of target 0 has no slope.
    """
    known = or_nothing(apart + 0.0 * below, apart)  # 0 where p is 0
    odds = known + log(beta / (1.0 - beta))  # log(b y / ((1 - b) p))
    rate = where(beta == 1.0, -known, (beta - 1.0) * softplus(odds))
    bend = where(beta == 0.0, 0.0, rate + where(beta == 1.0, 1.0, (1.0 - beta) * sigmoid(odds)))
    return where(beta == 0.0, -y, kept * (share * rate)), kept * (share * bend), bend


def _again(x: Any, y: Any, peak: Any, kept: Any, share: Any, level: Any, beta: Any) -> Any:
    apart = _logit_apart(x, y, peak, level)
    of_y, of_p = _ratios(apart, beta)
    cost = product(y, of_y) + product(kept * share, of_p)
    slope, curvature, _ = _terms(y, apart, x - peak, kept, share, beta)
    peak_slopes, other_slopes = parted(x, peak, slope)
    peak_curvatures, other_curvatures = parted(x, peak, curvature)
    return cost, peak_slopes, other_slopes, peak_curvatures, other_curvatures


def _logit_element(
    x: Any, y: Any, peak: Any, kept: Any, rest: Any, total: Any, share: Any, level: Any, beta: Any,
    peak_slopes: Any, other_slopes: Any, peak_curvatures: Any, other_curvatures: Any,
) -> Any:  # fmt: skip
    slope, curvature, bend = _terms(y, _logit_apart(x, y, peak, level), x - peak, kept, share, beta)
    away = missing(kept, rest, total) * share
    return slopes_of_terms(
        kept, away, share, slope, curvature, bend * away, peak_slopes, other_slopes, peak_curvatures, other_curvatures
    )


def _logit_by_target(x: Any, y: Any, peak: Any, level: Any, nothing: Any, beta: Any) -> Any:
    apart = _logit_apart(x, y, peak, level)
    ratio, _ = _ratios(apart, beta)
    grad, hess = _slopes(y, ratio, 1.0 / (product(beta, exp(apart)) + (1.0 - beta)), 1.0 - beta, beta)
    return grad + nothing, hess


jensen_shannon = function_of(JensenShannon)
