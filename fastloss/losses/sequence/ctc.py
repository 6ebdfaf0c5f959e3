"""Connectionist temporal classification."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, function_of
from ...families.sequence import SequenceLoss
from ...formula.ops import where
from ...formula.softmax import missing


@dataclass(frozen=True, kw_only=True)
class CTC(SequenceLoss):
    """Negative log-likelihood of a label, summed over all alignments (Graves et al. 2006, doi:10.1145/1143844.1143891).

    An alignment gives every frame a class or the blank; it stands for the label that is left when repeated classes
    become one and blanks none. ``-log sum_alignments prod_t p[t, class_t]``, with ``p = softmax(y_pred)``. With the
    occupancy o[t, c], the probability given the label that frame t has class c, the gradient by a logit is ``p - o``
    and the Hessian's diagonal ``p (1 - p) - o (1 - o)``; by a log-probability ``-o`` and ``-o (1 - o)``.

    A label that no alignment has makes the loss infinite, its gradient and Hessian 0. The shapes are Keras' ``ctc``;
    torch's ``ctc_loss`` takes frames first and log-probabilities, and its mean divides each loss by its label's length
    before: that is ``sample_weight=1 / label_length`` here. Its gradient is only right behind its own ``log_softmax``.
    """

    peers: ClassVar[Peers] = Peers(
        torch="F.ctc_loss(F.log_softmax(p, -1).transpose(0, 1), y, torch.full(p.shape[:1], p.shape[1]), "
        "((y != blank) & (y >= 0)).sum(-1), blank, 'none', zero_infinity).mean() if from_logits else None",
        keras="None if not from_logits or blank or zero_infinity else keras.losses.ctc(y, p)",
        optax="None if not from_logits or blank or zero_infinity else "
        "optax.losses.ctc_loss(p, jax.numpy.zeros(p.shape[:2]), y, (y <= 0) * 1.0)",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example([[1]], [[[0.0, 0.0]]], 0.6931471805599453, [[[0.5, -0.5]]], [[[0.25, 0.25]]]),
        Example([[1]], [[[0.0, 0.0], [0.0, 0.0]]], 0.28768207245178085,
                [[[1 / 6, -1 / 6], [1 / 6, -1 / 6]]], [[[1 / 36, 1 / 36], [1 / 36, 1 / 36]]]),
        Example([[1]], [[[-0.6931471805599453, -1.3862943611198906], [-0.6931471805599453, -0.6931471805599453]]],
                0.6931471805599453, [[[-0.5, -0.5], [-0.25, -0.75]]], [[[-0.25, -0.25], [-0.1875, -0.1875]]],
                {"from_logits": False}),
    )  # fmt: skip

    @classmethod
    def formulas(cls) -> dict[str, Any]:
        """What becomes of a class's likelihood and its occupancy, by kind of prediction."""
        return {"logits": _logits, "log_probabilities": _log_probabilities}


def _logits(own: Any, rest: Any, total: Any, occupancy: Any, others: Any) -> Any:
    p, away = own / total, missing(own, rest, total) / total
    # The occupancies' sum without this class's: where that is the most, 1 - occupancy would cancel.
    elsewhere = where(occupancy > 0.5, others, 1.0 - occupancy)
    grad = where(p > 0.5, elsewhere - away, p - occupancy)
    return grad, grad * (away - occupancy)


def _log_probabilities(occupancy: Any, others: Any) -> Any:
    return -occupancy, -(occupancy * where(occupancy > 0.5, others, 1.0 - occupancy))


ctc = function_of(CTC)
