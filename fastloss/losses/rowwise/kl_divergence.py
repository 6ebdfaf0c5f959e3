"""Kullback-Leibler divergence."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from ...families.definition import Domain, Example, Peers, RowFormula, flag, function_of, open_unit_interval, wrt
from ...families.rowwise import RowwiseLoss
from ...formula.ops import clip, exp, log, log1p, nothing_of, product, where
from ...formula.softmax import parted, slopes_by_goal, softmax_sums


@dataclass(frozen=True, kw_only=True)
class KLDivergence(RowwiseLoss):
    """How far a distribution is from what it should be: ``sum_c y[c] (log y[c] - log p[c])``.

    Probabilities y and p are clipped to [epsilon, 1], outside of which the gradient is 0 (as Keras' ``KLDivergence``).
    Nothing is clipped where y_pred holds log-probabilities (``log_input``, as torch's ``kl_div``), or logits x, of
    which ``p = softmax(x)`` (``from_logits``, which takes log-probabilities too and goes first). y_true may hold
    logarithms (``log_target``); with ``wrt="y_true"`` derivatives are those by what it holds.
    """

    from_logits: bool = flag(False, "whether y_pred holds logits")
    log_input: bool = flag(False, "whether y_pred holds logarithms of probabilities")
    log_target: bool = flag(False, "whether y_true holds logarithms of probabilities")
    epsilon: float = open_unit_interval(1e-7, "probabilities in y_pred, and in y_true with them, are clipped to it")
    wrt: str = wrt()

    aliases: ClassVar[tuple[str, ...]] = ("kld",)
    peers: ClassVar[Peers] = Peers(
        torch=(
            "F.kl_div(p.log_softmax(-1) if from_logits else p, y, reduction='none', log_target=log_target).sum(-1) "
            "if from_logits or log_input else None"
        ),
        optax=(
            "(optax.losses.kl_divergence_with_log_targets if log_target else optax.losses.kl_divergence)"
            "(jax.nn.log_softmax(p) if from_logits else p, y) if from_logits or log_input else None"
        ),
        plain="(lambda t: t * (t / p.clamp(epsilon, 1)).log())(y.exp() if log_target else y.clamp(epsilon, 1)).sum(-1)",
        keras="keras.losses.kl_divergence(y, p) if not (from_logits or log_input or log_target) else None",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[0.5, 0.5]], [[0.25, 0.5]], 0.34657359027997264, [[-2.0, -1.0]], [[8.0, 2.0]]),
        Example([[1.0, 0.0]], [[0.0, 0.0]], 0.6931471805599453, [[-0.5, 0.5]], [[0.25, 0.25]], {"from_logits": True}),
        Example([[0.5, 0.5]], [[-1.0, -2.0]], 0.8068528194400547, [[-0.5, -0.5]], [[0.0, 0.0]], {"log_input": True}),
        Example([[0.0, 0.0]], [[0.5, 0.25]], 2.0794415416798357, [[-2.0, -4.0]], [[4.0, 16.0]], {"log_target": True}),
        Example([[0.0, 0.0, 0.0, -1e4]], [[0.0, 0.0, 0.0, 0.0]], 4.1588830833596715, [[-0.25, -0.25, -0.25, 0.75]],
                [[0.5625, 0.5625, 0.5625, 0.5625]], {"from_logits": True, "log_target": True}),
        Example([[0.0, 0.0]], [[-1.0, -2.0]], 3.0, [[-1.0, -1.0]], [[0.0, 0.0]],
                {"log_input": True, "log_target": True}),
        Example([[0.5, 0.5]], [[0.25, 0.5]], 0.34657359027997264, [[1.6931471805599453, 1.0]], [[2.0, 2.0]],
                {"wrt": "y_true"}),
        Example([[0.25, 0.25]], [[0.0, 0.0]], -0.34657359027997264, [[0.3068528194400547, 0.3068528194400547]],
                [[4.0, 4.0]], {"from_logits": True, "wrt": "y_true"}),
        Example([[0.5, 0.5]], [[-1.0, -2.0]], 0.8068528194400547, [[1.3068528194400546, 2.3068528194400546]],
                [[2.0, 2.0]], {"log_input": True, "wrt": "y_true"}),
        Example([[0.0, 0.0]], [[0.5, 0.25]], 2.0794415416798357, [[1.6931471805599453, 2.386294361119891]],
                [[2.693147180559945, 3.386294361119891]], {"log_target": True, "wrt": "y_true"}),
        Example([[0.0, 0.0]], [[0.0, 0.0]], 1.3862943611198906, [[1.6931471805599453, 1.6931471805599453]],
                [[2.693147180559945, 2.693147180559945]], {"from_logits": True, "log_target": True, "wrt": "y_true"}),
        Example([[0.0, 0.0]], [[-1.0, -2.0]], 3.0, [[2.0, 3.0]], [[3.0, 4.0]],
                {"log_input": True, "log_target": True, "wrt": "y_true"}),
    )  # fmt: skip

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        return _FORMULAS

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        inputs = "logits" if self.from_logits else "log_probabilities" if self.log_input else "probabilities"
        return _label(inputs, "log_target" if self.log_target else "", self.wrt)

    def domain(self) -> Domain:
        """Distributions, by themselves or by logarithms."""
        pred = "logit" if self.from_logits else "log_probability" if self.log_input else "probability"
        return Domain("log_distribution" if self.log_target else "distribution", pred)


def _label(inputs: str, target: str, differentiated: str) -> str:
    return ".".join(part for part in (inputs, target, differentiated) if part not in ("", "y_pred"))


# -- what y_true holds -----------------------------------------------------------------------------------------------


class _Target(NamedTuple):
    """Formulas for y_true of one kind. Those with epsilon go with clipped probabilities p."""

    probability: Callable[..., Any]  # (y)
    logarithm: Callable[..., Any]  # (y)
    slopes: Callable[..., Any]  # (y, log y - log p): first and second derivative by y
    clipped_probability: Callable[..., Any]  # (y, epsilon)
    clipped_cost: Callable[..., Any]  # (y, p, epsilon)
    clipped_slopes: Callable[..., Any]  # (y, p, epsilon)


def _as_given(y: Any) -> Any:
    return y


def _slopes(y: Any, difference: Any) -> Any:
    return difference + 1.0, 1.0 / y


def _clipped(y: Any, epsilon: Any) -> Any:
    return where(y < epsilon, epsilon, y)


def _clipped_cost(y: Any, p: Any, epsilon: Any) -> Any:
    goal = where(y < epsilon, epsilon, y)
    return goal * log(goal / p)


def _clipped_slopes(y: Any, p: Any, epsilon: Any) -> Any:
    slope = log(y / p) + 1.0
    return where(y < epsilon, nothing_of(p), slope), where(y < epsilon, 0.0, 1.0 / y)


def _log_slopes(y: Any, difference: Any) -> Any:
    return product(exp(y), difference + 1.0), product(exp(y), difference + 2.0)


def _log_clipped(y: Any, epsilon: Any) -> Any:
    return exp(y)


def _log_clipped_cost(y: Any, p: Any, epsilon: Any) -> Any:
    return product(exp(y), y - log(p))


def _log_clipped_slopes(y: Any, p: Any, epsilon: Any) -> Any:
    return product(exp(y), y - log(p) + 1.0), product(exp(y), y - log(p) + 2.0)


_TARGETS = {
    "": _Target(_as_given, log, _slopes, _clipped, _clipped_cost, _clipped_slopes),
    "log_target": _Target(exp, _as_given, _log_slopes, _log_clipped, _log_clipped_cost, _log_clipped_slopes),
}


# -- what y_pred holds: formulas for derivatives by it and by y_true ---------------------------------------------------


def _finish(cost: Any) -> Any:
    value = cost
    nothing = nothing_of(cost)  # a NaN shows in the row's gradient
    return value, nothing


def _of_probabilities(target: _Target) -> tuple[RowFormula, RowFormula]:
    probability, cost_of, slopes = target[3:]

    def statistics(x: Any, y: Any, epsilon: Any) -> Any:
        cost = cost_of(y, clip(x, epsilon, 1.0), epsilon)
        return cost

    def element(x: Any, y: Any, nothing: Any, epsilon: Any) -> Any:
        outside = (x < epsilon) | (x > 1.0)
        slope = probability(y, epsilon) / x
        return nothing + where(outside, 0.0, -slope), where(outside, 0.0, slope / x)

    def by_target(x: Any, y: Any, nothing: Any, epsilon: Any) -> Any:
        first, second = slopes(y, clip(x, epsilon, 1.0), epsilon)
        return nothing + first, second

    return RowFormula(None, statistics, _finish, element), RowFormula(None, statistics, _finish, by_target)


def _of_log_probabilities(target: _Target) -> tuple[RowFormula, RowFormula]:
    probability, logarithm, slopes = target[:3]

    def statistics(x: Any, y: Any) -> Any:
        cost = product(probability(y), logarithm(y) - x)
        return cost

    def element(y: Any, nothing: Any) -> Any:
        return nothing - probability(y), 0.0

    def by_target(x: Any, y: Any, nothing: Any) -> Any:
        first, second = slopes(y, logarithm(y) - x)
        return nothing + first, second

    return RowFormula(None, statistics, _finish, element), RowFormula(None, statistics, _finish, by_target)


def _of_logits(target: _Target) -> tuple[RowFormula, RowFormula]:
    probability, logarithm, slopes = target[:3]

    def statistics(x: Any, y: Any, peak: Any) -> Any:
        kept, others, peaks = softmax_sums(x, peak)
        goal = probability(y)
        # Apart, because the gradient at a peak wants the other targets without a subtraction that cancels.
        peak_goals, other_goals = parted(x, peak, goal)
        cost = product(goal, (peak - x) + logarithm(y))
        return kept, others, peaks, peak_goals, other_goals, cost

    def element(
        kept: Any, y: Any, rest: Any, total: Any, share: Any, mass: Any, peak_goals: Any, other_goals: Any
    ) -> Any:
        return slopes_by_goal(probability(y), kept, rest, total, share, mass, peak_goals, other_goals)

    def by_target(x: Any, y: Any, peak: Any, level: Any, nothing: Any) -> Any:
        first, second = slopes(y, (logarithm(y) + (peak - x)) + level)
        return nothing + first, second

    return (
        RowFormula("peak", statistics, _logits_finish, element),
        RowFormula("peak", statistics, _logits_level, by_target),
    )


def _logits_finish(others: Any, peaks: Any, peak_goals: Any, other_goals: Any, cost: Any) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    mass = other_goals + peak_goals
    value = mass * log1p(rest) + cost
    share = 1.0 / total
    return value, rest, total, share, mass, peak_goals, other_goals


def _logits_level(others: Any, peaks: Any, peak_goals: Any, other_goals: Any, cost: Any) -> Any:
    level = log1p(others + (peaks - 1.0))
    value = (other_goals + peak_goals) * level + cost
    nothing = nothing_of(value)
    return value, level, nothing


_FORMULAS = {
    _label(inputs, name, differentiated): formula
    for inputs, formulas in (
        ("probabilities", _of_probabilities),
        ("log_probabilities", _of_log_probabilities),
        ("logits", _of_logits),
    )
    for name, target in _TARGETS.items()
    for differentiated, formula in zip(("y_pred", "y_true"), formulas(target), strict=True)
}

kl_divergence = function_of(KLDivergence)
