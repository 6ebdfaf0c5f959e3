"""Normalized temperature-scaled cross-entropy (SimCLR)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.allpairs import NEGATIVE, POSITIVE, AllPairsLoss, Found
from ...families.definition import Example, Peers, RowFormula, function_of, positive
from ...formula.ops import exp_nonpositive, log, quotient, sigmoid, softplus, where


@dataclass(frozen=True, kw_only=True)
class Ntxent(AllPairsLoss):
    """Cross-entropy of finding an embedding's positives among the embeddings of other labels.

    With cosine similarities s over the temperature, the mean over an embedding's positives p of ``log(1 + sum_n
    exp(s[n] - s[p]))``, n being those of other labels (Chen et al. 2020, arXiv:2002.05709, with two views of each
    image; as optax' ``ntxent``, whose mean is over all pairs rather than over embeddings: the same where each has as
    many positives). An embedding without positives has loss 0, one of length 0 is similar to none. y_true and y_pred
    may be pairs: the batch's, and those of references that it is compared with, which get no gradient.
    """

    temperature: float = positive(0.07, "what similarities are divided by")

    normalizes: ClassVar[bool] = True
    peers: ClassVar[Peers] = Peers(
        optax="optax.losses.ntxent(p, y, temperature)",
        plain=(
            "(lambda s, others: F.cross_entropy(s.masked_fill(torch.eye(len(s), dtype=torch.bool), -math.inf), "
            "others.int().argmax(-1), reduction='none'))(F.normalize(p) @ F.normalize(p).T / temperature, "
            "(y[:, None] == y).fill_diagonal_(False))"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            [0, 0, 1, 1],
            [[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]],
            0.958179064887538,
            [[0.0, 0.426027915676803], [0.0, 0.852055831353606], [0.852055831353606, 0.0], [0.852055831353606, 0.0]],
            [[0.0, 0.570979454164234], [0.0, 2.283917816656936], [2.283917816656936, 0.0], [2.283917816656936, 0.0]],
            {"temperature": 0.5},
        ),
        Example([3, 4], [[1.0, 0.0], [0.0, 1.0]], 0.0, [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of a row of similarities."""
        formula = RowFormula(
            "peak", _statistics, _finish, _element, first_of=_nearest_negative, halfway=_halfway, again=_again
        )
        return {"similarities": formula}

    def row_curvature(
        self, found: Found, linear: Callable[[Any], Any], quadratic: Callable[[Any], Any], module: Any
    ) -> Any:
        """See `AllPairsLoss.row_curvature`. With m positives, ``unit`` is m times the temperature."""
        positives, negatives = (found.relation == kind for kind in (POSITIVE, NEGATIVE))
        count = module.einsum("ij->i", positives.astype(found.slopes.dtype))[:, None]
        unit = count * found.slopes.dtype.type(self.temperature)
        pull = -unit * found.slopes * positives
        push = module.einsum("ij->i", pull)[:, None]
        share = unit * found.slopes * negatives / module.where(push == 0.0, push.dtype.type(1), push)
        bend = pull * (1.0 - pull)
        toward = linear(share)
        others = push * (quadratic(share) - toward * toward)
        crossed = module.einsum("ij->i", bend)[:, None] * toward * toward - 2.0 * toward * linear(bend)
        scale = unit * found.slopes.dtype.type(self.temperature)
        return (quadratic(bend) + others + crossed) / module.where(count == 0.0, scale.dtype.type(1), scale)


def _nearest_negative(x: Any, y: Any) -> Any:
    return where(y == 0.0, x, log(0.0))


def _statistics(x: Any, y: Any, peak: Any, temperature: Any) -> Any:
    near = exp_nonpositive((x - peak) / temperature)
    kept = where(y == 0.0, near, 0.0)
    negatives = where(y == 0.0, near, 0.0)
    positives = where(y == 1.0, 1.0, 0.0)
    return kept, negatives, positives


def _halfway(peak: Any, negatives: Any, temperature: Any) -> Any:
    level = peak / temperature + log(negatives)
    return level


def _again(x: Any, y: Any, level: Any, temperature: Any) -> Any:
    away = level - x / temperature
    cost = where(y == 1.0, softplus(away), 0.0)
    push = where(y == 1.0, sigmoid(away), 0.0)
    bend = push * (1.0 - push)
    return cost, push, bend


def _finish(cost: Any, push: Any, bend: Any, positives: Any, negatives: Any, level: Any, temperature: Any) -> Any:
    value = quotient(cost, positives)
    slope = quotient(push, positives * temperature)
    bent = quotient(bend, positives * temperature * temperature)
    return value, slope, bent, positives, negatives, level


def _element(
    x: Any, y: Any, kept: Any, slope: Any, bent: Any, positives: Any, negatives: Any, level: Any, temperature: Any
) -> Any:
    share = quotient(kept, negatives)
    pull = where(y == 1.0, sigmoid(level - x / temperature), 0.0)
    own = quotient(pull, positives * temperature)
    grad = share * slope - own
    hess = share * share * bent + (share * (1.0 - share) * slope + own * (1.0 - pull)) / temperature
    return grad, hess


ntxent = function_of(Ntxent)
