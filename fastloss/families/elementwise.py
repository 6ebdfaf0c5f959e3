"""Losses with one loss per element."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..dispatch import GRAD, HESS, VALUE, backend, on_device
from ..messages import rejected
from ..reduction import Weighting, scale_of, weighting
from ..validate import Array, in_memory, precision_of, prediction, same_shape, target
from .layout import aligned, buffer_like, common_layout, contiguous, write_back
from .loss import Loss
from .parameters import read_by

#: Results larger than this many bytes bypass the caches: they would push out what they do not serve.
BYPASS_CACHE_FROM = 1 << 24


@functools.lru_cache(maxsize=256)
def columns_of(loss: ElementwiseLoss) -> tuple[ElementwiseLoss, ...]:
    """The loss's columns, the same objects at every call: they keep their kernels."""
    return loss.columns()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ElementwiseLoss(Loss, abstract=True):
    """One loss per element: ``formula(y, p, *parameters) -> value, gradient, Hessian``.

    A loss with several formulas overrides `formulas` and `variant`.
    """

    family: ClassVar[str] = "elementwise"
    unit: ClassVar[str] = "element"

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {"formula": cls.formula}  # type: ignore[attr-defined]

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return "formula"

    def columns(self) -> tuple[ElementwiseLoss, ...]:
        """A loss for each column of y_pred, its last axis, which y_true then lacks; none: one loss for all."""
        return ()

    def require_shapes(self, y: Any, p: Any) -> None:
        """Refuse targets and predictions that do not go together."""
        columns = len(columns_of(self))
        if not columns:
            same_shape(self.name, y, p)
        elif not p.ndim or p.shape[-1] != columns:
            raise ValueError(
                rejected(self.name, "y_pred", f"have {columns} columns, its last axis", f"shape {p.shape}")
            )
        elif y.shape != p.shape[:-1]:
            rule = f"have y_pred's shape without its last axis, {p.shape[:-1]}"
            raise ValueError(rejected(self.name, "y_true", rule, y.shape))

    def _plan(self, outputs: int, true: str, pred: str, weighted: bool, bypass_cache: bool) -> Any:
        key = (outputs, true, pred, weighted, bypass_cache)
        plan = self._plans.get(key)
        if plan is None:
            sweep = backend("elementwise")
            formula = self.formulas()[self.variant()]
            parameters, fixed = read_by(self, formula)
            losses = bool(outputs & VALUE) and self.reduction == "none"
            build = sweep.Build(
                formula,
                fixed,
                len(parameters),
                true,
                pred,
                bool(outputs & VALUE),
                losses,
                bool(outputs & GRAD),
                bool(outputs & HESS),
                weighted,
                bypass_cache,
            )
            plan = self._plans[key] = sweep.Plan(build, parameters)
        return plan

    def _evaluate(
        self,
        outputs: int,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        mask: Any,
        normalizer: Any,
        out: Any,
        hess_out: Any,
        check: str,
    ) -> tuple[Any, Any, Any]:
        if on_device(y_pred):
            from .elementwise_on_device import evaluate

            return evaluate(self, outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)
        sample_weight, mask = self._given("sample_weight", sample_weight), self._given("mask", mask)
        p, y = prediction(self.name, y_pred), target(self.name, y_true)
        self.require_shapes(y, p)
        computing = precision_of(p)
        if sample_weight is None and mask is None and normalizer is None:
            weighing = Weighting(None, 1, float(p.size) if self.reduction in ("mean", "weighted_mean") else 1.0)
        else:
            precisions = (computing, computing)
            weighing = weighting(self.name, self.reduction, p.shape, precisions, sample_weight, mask, normalizer)
        grad, hess = self._results(outputs, p, out, hess_out, (y, p, sample_weight, mask))
        if columns_of(self):
            return self._swept_by_column(outputs, y, p, weighing, computing, grad, hess)
        return self._swept(outputs, y, p, weighing, computing, grad, hess)

    def _swept_by_column(
        self, outputs: int, y: Array, p: Array, weighing: Weighting, computing: str, grad: Any, hess: Any
    ) -> tuple[Any, Any, Any]:
        """Each column of predictions by its own loss, all with one normaliser."""
        columns = columns_of(self)
        values = []
        for column, loss in enumerate(columns):
            results = [None if array is None else array[..., column] for array in (grad, hess)]
            own = weighing.of_column(column, len(columns)) if p.size else weighing._replace(weights=None)
            values.append(loss._swept(outputs, y, p[..., column], own, computing, *results)[0])
        losses = self.reduction == "none" and outputs & VALUE
        return np.stack(values, axis=-1) if losses else sum(values), grad, hess

    def _swept(
        self, outputs: int, y: Array, p: Array, weighing: Weighting, computing: str, grad: Any, hess: Any
    ) -> tuple[Any, Any, Any]:
        """Run the kernel, through contiguous copies where the caller's arrays are not."""
        none = self.reduction == "none"
        if weighing.normalizer == 0.0:
            return self._nothing_left(grad, hess)
        keep_order = weighing.weights is None and not none
        layout = common_layout(y, p, grad, hess) if keep_order else "C"
        y_name, y_ready = in_memory(contiguous(y, layout))
        p_name, p_ready = in_memory(contiguous(p, layout))
        grad_ready, hess_ready = buffer_like(grad, layout), buffer_like(hess, layout)
        losses = np.empty(p.shape, computing) if none and outputs & VALUE else None
        bypass = p.nbytes >= BYPASS_CACHE_FROM and aligned(grad_ready, hess_ready, losses)
        plan = self._plan(outputs, y_name, p_name, weighing.weights is not None, bypass)
        total = plan(
            y_ready,
            p_ready,
            weighing.weights,
            weighing.inner,
            grad_ready,
            hess_ready,
            losses,
            scale_of(weighing.normalizer, computing),
        )
        write_back((grad, grad_ready), (hess, hess_ready))
        plain = weighing.weights is None and not none and y_ready is y and p_ready is p and grad_ready is grad
        if outputs == VALUE | GRAD and plain and p.ndim and not bypass:  # the short way in checks no 16 bytes
            object.__setattr__(self, "_quick", plan.quick(y, p, self.reduction == "sum"))
        if losses is None:
            return total / weighing.normalizer, grad, hess
        if weighing.normalizer != 1.0:
            with np.errstate(all="ignore"):
                losses /= weighing.normalizer
        return losses, grad, hess
