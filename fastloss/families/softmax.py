"""Losses of rows of classes that are given as logits or as probabilities."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..formula.softmax import (
    capped,
    heated,
    log_sum,
    log_total,
    squared_log_sum,
    squared_log_sum_element,
    squared_log_sum_target,
)
from .parameters import clip_margin, flag, needing, non_negative, optional_positive, optional_weights, positive
from .rowwise import RowwiseLoss

Z_LOSS = "z: each loss has z logsumexp^2 of capped, divided logits besides, which no class weights weigh"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftmaxLoss(RowwiseLoss, abstract=True):
    """A loss of each row's probabilities, given as such or as logits x.

    Logits first become ``softcap tanh(x / softcap)`` (Gemma 2, arXiv:2408.00118), then are divided by ``temperature``;
    derivatives are those by x. Where they are capped, -inf is like any other logit far below 0: it takes part with
    -softcap. ``z_loss`` (PaLM, Chowdhery et al. 2022, arXiv:2204.02311) keeps small the logits that come of this.

    Formulas from logits give ``rest`` and ``total`` by these names (see `fastloss.formula.softmax`).
    """

    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    softcap: float | None = needing("from_logits", optional_positive("c: logits x, -inf too, become c tanh(x / c)"))
    temperature: float = needing("from_logits", positive(1.0, "what logits are divided by, after softcap"))
    z_loss: float = needing("from_logits", non_negative(0.0, Z_LOSS))
    stats: bool = flag(False, "whether every call also returns, last, `fastloss.Stats`: by-products of its pass")

    class_weight: tuple[float, ...] | None = optional_weights("one weight per class")
    epsilon: float = clip_margin(1e-7, "probabilities are clipped to [epsilon, 1 - epsilon]")

    def around(self) -> dict[str, Any]:
        """What logits go through first, what their size costs, and what is told of them."""
        around: dict[str, Any] = {}
        if self.softcap is not None or self.temperature != 1.0:
            around["link"] = heated if self.softcap is None else capped
        if self.z_loss:
            around["penalty"] = squared_log_sum
            around["penalty_element"] = squared_log_sum_element
            around["penalty_target"] = squared_log_sum_target
        if self.stats:
            around["report"] = log_sum if self.from_logits else log_total
        return around
