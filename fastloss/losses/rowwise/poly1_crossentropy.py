"""Poly-1 cross-entropy."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Domain, Example, Peers, RowFormula, function_of, real
from ...families.rowwise import RowwiseLoss
from ...formula.ops import log1p, product, where
from ...formula.softmax import missing, parted, slopes_by_goal, softmax_sums


@dataclass(frozen=True, kw_only=True)
class Poly1Crossentropy(RowwiseLoss):
    """Cross-entropy with its first term weighed more: ``sum_c y[c] (epsilon (1 - p[c]) - log p[c])``.

    ``p = softmax(x)`` for logits x (as optax' ``poly_loss_cross_entropy``; Leng et al. 2022, arXiv:2204.12511, where
    epsilon is at least -1).
    """

    epsilon: float = real(2.0, "what is added to the weight of 1 - p")

    aliases: ClassVar[tuple[str, ...]] = ("poly_loss_cross_entropy",)
    takes: ClassVar[Domain] = Domain("distribution", "logit")
    peers: ClassVar[Peers] = Peers(
        torch="(y * (epsilon * (1 - p.softmax(-1)) - p.log_softmax(-1))).sum(-1)",
        optax="optax.losses.poly_loss_cross_entropy(p, y, epsilon=epsilon)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[1.0, 0.0]], [[0.0, 0.0]], 1.6931471805599453, [[-1.0, 1.0]], [[0.25, 0.25]]),
        Example(
            [[1.0, 0.0, 0.0, 0.0]],
            [[0.0, 0.0, 0.0, 0.0]],
            0.6362943611198906,
            [[-0.5625, 0.1875, 0.1875, 0.1875]],
            [[0.28125, 0.15625, 0.15625, 0.15625]],
            {"epsilon": -1.0},
        ),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of this loss."""
        return {"logits": RowFormula("peak", _statistics, _finish, _element)}


def _statistics(x: Any, y: Any, peak: Any) -> Any:
    kept, others, peaks = softmax_sums(x, peak)
    # Apart, because the gradient at a peak wants the other targets without a subtraction that cancels.
    peak_goals, other_goals = parted(x, peak, y)
    other_scores = other_goals * kept
    distance = product(y, peak - x)
    return kept, others, peaks, peak_goals, other_goals, other_scores, distance


def _finish(
    others: Any, peaks: Any, peak_goals: Any, other_goals: Any, other_scores: Any, distance: Any, epsilon: Any
) -> Any:
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    share = 1.0 / total
    mass = other_goals + peak_goals
    lack = (peak_goals * rest + (other_goals * total - other_scores)) * share  # the sum of y (1 - p)
    value = mass * log1p(rest) + distance + epsilon * lack
    return value, rest, total, share, mass, peak_goals, other_goals, other_scores


def _element(
    kept: Any,
    y: Any,
    epsilon: Any,
    rest: Any,
    total: Any,
    share: Any,
    mass: Any,
    peak_goals: Any,
    other_goals: Any,
    other_scores: Any,
) -> Any:
    grad, hess = slopes_by_goal(y, kept, rest, total, share, mass, peak_goals, other_goals)
    # The sum of y (1 - p) falls by p times y's excess over its mean; at a peak that comes from the others alone.
    others = y * rest - ((peak_goals - y) + other_scores)
    excess = where(kept == 1.0, others, y * total - (peak_goals + other_scores)) * share
    falling = epsilon * kept * share * excess
    return grad - falling, hess - falling * ((missing(kept, rest, total) - kept) * share)


poly1_crossentropy = function_of(Poly1Crossentropy)
