"""Losses of an expected value, given as such or by its logarithm."""

from __future__ import annotations

import dataclasses
from typing import Any

from .declaration import Domain
from .elementwise import ElementwiseLoss
from .parameters import flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanLoss(ElementwiseLoss, abstract=True):
    """A loss with one formula for means, "means", and one for their logarithms, "logarithms"."""

    log_input: bool = flag(False, "whether y_pred holds logarithms of means")

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return "logarithms" if self.log_input else "means"

    def domain(self) -> Domain:
        """A positive number, and its expected value or the logarithm of that."""
        return Domain("positive", "logit" if self.log_input else "positive")

    def kinks(self, y: Any) -> tuple[Any, ...]:
        """Where the gradient by a logarithm is computed another way."""
        return (-0.5, 0.5) if self.log_input else ()
