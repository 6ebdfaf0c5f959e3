"""Circle loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.allpairs import NEGATIVE, POSITIVE, AllPairsLoss, Found
from ...families.definition import Example, Peers, RowFormula, flag, function_of, positive, unit_interval
from ...formula.ops import exp_nonpositive, log, positive_part, quotient, sigmoid, softplus, where


@dataclass(frozen=True, kw_only=True)
class Circle(AllPairsLoss):
    """Pull embeddings of one label together, push others apart, each pair by its distance from the goal.

    With ``d = max(1 - similarity, 0)``, ``softplus(logsumexp(gamma (d^2 - margin^2)) + logsumexp(gamma max(1 + margin
    - d, 0) (1 - margin - d)))``, the first over the embeddings of the same label, the second over the others (Sun et
    al. 2020, doi:10.1109/CVPR42600.2020.00643; as Keras' ``Circle``). Embeddings should have length 1. One that has no
    positive, or no negative, has loss 0. y_true and y_pred may be pairs, the batch's and those of references that it is
    compared with (Keras' ``ref_labels``, ``ref_embeddings``), which get no gradient.
    """

    gamma: float = positive(80.0, "factor of similarities", most=700.0)
    margin: float = unit_interval(0.4, "how far from their goals pairs may be")
    remove_diagonal: bool = flag(True, "whether an embedding is no positive of itself")

    peers: ClassVar[Peers] = Peers(
        keras="keras.losses.circle(y, p, gamma=gamma, margin=margin, remove_diagonal=remove_diagonal)",
        plain=(
            "(lambda d, same: F.softplus((gamma * (d * d - margin**2)).masked_fill(~same | "
            "torch.eye(len(d), dtype=torch.bool), -math.inf).logsumexp(-1) + (gamma * (1 + margin - d).clamp(min=0) * "
            "(1 - margin - d)).masked_fill(same, -math.inf).logsumexp(-1)))"
            "((1 - p @ p.T).clamp(min=0), y[:, None] == y)"
        ),
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            [0, 0, 1, 1],
            [[1.0, 0.0], [0.5, 0.0], [0.0, 0.5], [0.0, 1.0]],
            3.756279724447676,
            [
                [-0.609008684840568, 0.0],
                [-1.218017369681136, 0.0],
                [0.0, -1.218017369681136],
                [0.0, -0.609008684840568],
            ],
            [
                [0.7280672381552329, 1.5225217121014203],
                [2.9122689526209316, 1.5225217121014203],
                [1.5225217121014203, 2.9122689526209316],
                [1.5225217121014203, 0.7280672381552329],
            ],
            {"gamma": 1.0, "margin": 0.5},
        ),
        Example([3, 4], [[1.0, 0.0], [0.0, 1.0]], 0.0, [[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """The formula of a row of similarities."""
        return {"similarities": RowFormula("peak", _statistics, _finish, _element, wide=True, first_of=_hardest)}

    def leaves_out_itself(self) -> bool:
        """Whether an embedding is no positive of itself."""
        return self.remove_diagonal

    def row_curvature(
        self, found: Found, linear: Callable[[Any], Any], quadratic: Callable[[Any], Any], module: Any
    ) -> Any:
        """Of softplus(P + N), P and N being the logarithms of two sums: see `AllPairsLoss.row_curvature`."""
        slopes, push = found.slopes, -module.expm1(-found.losses)[:, None]
        pulled, pushed = (linear(slopes * (found.relation == kind)) for kind in (POSITIVE, NEGATIVE))
        total = pulled + pushed
        mixed = 2.0 * pulled * pushed / module.where(push == 0.0, push.dtype.type(1), push)
        return quadratic(found.curvatures + slopes * slopes) - total * total + mixed


def _positive(x: Any, gamma: Any, margin: Any) -> Any:
    """The exponent of an embedding of the same label."""
    distance = positive_part(1.0 - x)
    return gamma * (distance * distance - margin * margin)


def _negative(x: Any, gamma: Any, margin: Any) -> Any:
    """The exponent of one of another label, less the largest there can be: that at distance 0. At least -gamma."""
    distance = positive_part(1.0 - x)
    return gamma * (positive_part(1.0 + margin - distance) * (1.0 - margin - distance) - (1.0 - margin * margin))


def _hardest(x: Any, y: Any, gamma: Any, margin: Any) -> Any:
    return where(y == 1.0, _positive(x, gamma, margin), log(0.0))


def _statistics(x: Any, y: Any, peak: Any, gamma: Any, margin: Any) -> Any:
    near = exp_nonpositive(_positive(x, gamma, margin) - peak)
    far = exp_nonpositive(_negative(x, gamma, margin))
    kept = where(y == 1.0, near, where(y == 0.0, far, 0.0))
    positives = where(y == 1.0, near, 0.0)
    negatives = where(y == 0.0, far, 0.0)
    return kept, positives, negatives


def _finish(peak: Any, positives: Any, negatives: Any, gamma: Any, margin: Any) -> Any:
    level = peak + log(positives) + gamma * (1.0 - margin * margin) + log(negatives)
    value = softplus(level)
    push = sigmoid(level)
    return value, push, positives, negatives


def _element(x: Any, y: Any, kept: Any, push: Any, positives: Any, negatives: Any, gamma: Any, margin: Any) -> Any:
    distance = positive_part(1.0 - x)
    inside = where((x < 1.0) & ((y == 1.0) | (distance < 1.0 + margin)), 2.0 * gamma, 0.0)
    slope = inside * where(y == 1.0, -distance, 1.0 - distance)
    share = quotient(kept, where(y == 1.0, positives, negatives))
    grad = push * share * slope
    return grad, push * share * (inside + slope * slope * (1.0 - push * share))


circle = function_of(Circle)
