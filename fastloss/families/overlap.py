"""Losses of how much two sets overlap."""

from __future__ import annotations

import dataclasses

from .declaration import Domain
from .parameters import axes, flag, positive
from .rowwise import RowwiseLoss


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverlapLoss(RowwiseLoss, abstract=True):
    """A loss of each element's share in two sets; logits x give ``1 / (1 + exp(-x))``. By default all is one loss."""

    axis: int | tuple[int, ...] | None = axes(None, "the axes that a loss runs along; None: all of them")
    from_logits: bool = flag(False, "whether y_pred holds logits rather than probabilities")
    smooth: float = positive(1e-7, "what is added to numerator and denominator")

    def domain(self) -> Domain:
        """Each element's share in the set, from 0 to 1."""
        return Domain("binary", "logit" if self.from_logits else "unit")
