"""Losses with one loss per row of classes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..dispatch import GRAD, HESS, VALUE, backend, on_device
from ..formula.rows import PIECES, RowFormula
from ..messages import rejected
from ..reduction import Weighting, scale_of, weighting
from ..validate import (
    Array,
    first_of,
    in_memory,
    labels,
    labels_in_memory,
    precision_of,
    prediction,
    same_shape,
    storage_name,
    target,
)
from .elementwise import BYPASS_CACHE_FROM
from .layout import aligned, buffer_like, class_axes, classes_last, contiguous, write_back
from .loss import Loss
from .parameters import integer
from .stats import RowResults, nothing_known

#: Rows of at least this many bytes are long: in an array larger than the caches, the next row is read while one is
#: computed, and gradients bypass the caches. Not shorter ones: at a row's ends and at its true class, ordinary stores
#: meet half-written lines and wait for memory (0.4 us; (4096, 1000) took twice the time).
LONG_ROWS_FROM = 1 << 14


class RowsLoss(Loss, abstract=True):
    """One loss per row, by one or more `RowFormula`.

    A loss provides `row_formulas` and `variant`. With ``indexed`` the target is a class number per row, else it is
    dense: a value per class.
    """

    indexed: ClassVar[bool] = False
    #: The parameter that holds what ``class_weight`` gives.
    weights_name: ClassVar[str] = "class_weight"
    axis: int | tuple[int, ...] | None = -1

    @classmethod
    def row_formulas(cls) -> dict[str, RowFormula]:
        """Every formula of this loss by label."""
        raise NotImplementedError

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every piece of every formula, by ``<variant>.<piece>``."""
        return {
            f"{label}.{piece}": function
            for label, formula in cls.row_formulas().items()
            for piece in PIECES
            if (function := getattr(formula, piece)) is not None
        }

    def variant(self) -> str:
        """Label of the formula that this configuration uses: by ``from_logits`` and ``wrt``, where it has them."""
        label = next(iter(self.row_formulas()))
        if hasattr(self, "from_logits"):
            label = "logits" if self.from_logits else "probabilities"
        return label + (".y_true" if getattr(self, "wrt", "y_pred") == "y_true" else "")

    def _plan(self, outputs: int, true: str, pred: str, few_classes: bool, long_rows: bool, bypass_cache: bool) -> Any:
        key = (outputs, true, pred, few_classes, long_rows, bypass_cache)
        plan = self._plans.get(key)
        if plan is None:
            formula = self.formula()
            losses = bool(outputs & VALUE) and self.reduction == "none"
            weighted = getattr(self, "class_weight", None) is not None
            build = backend("rowwise").RowBuild(
                formula,
                self.indexed,
                true,
                pred,
                bool(outputs & VALUE),
                losses,
                bool(outputs & GRAD),
                bool(outputs & HESS),
                weighted,
                long_rows,
                bypass_cache,
            )
            parameters = [float(getattr(self, name)) for name in formula.parameters]
            plan = self._plans[key] = backend("row_plan").RowPlan(build, parameters, few_classes=few_classes)
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
    ) -> tuple[Any, ...]:
        if on_device(y_pred):
            from .rowwise_on_device import evaluate

            return evaluate(self, outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)
        sample_weight, mask = self._given("sample_weight", sample_weight), self._given("mask", mask)
        p = prediction(self.name, y_pred)
        y = labels(self.name, y_true) if self.indexed else target(self.name, y_true)
        axes, shape = self.class_axes(y, p)
        grad, hess = self._results(outputs, p, out, hess_out, (y, p, sample_weight, mask))
        class_weights = self.class_weights(p, axes)
        weighing = self._weighing(y, p, shape, class_weights, sample_weight, mask, normalizer)
        if weighing.normalizer == 0.0:
            more = (nothing_known(shape, precision_of(p)),) if self.formula().report else ()
            return (*self._nothing_left(grad, hess), *more)
        return self._swept(outputs, y, p, axes, shape, class_weights, weighing, grad, hess)

    def _swept(
        self,
        outputs: int,
        y: Array,
        p: Array,
        axes: tuple[int, ...],
        shape: tuple[int, ...],
        class_weights: Array | None,
        weighing: Weighting,
        grad: Array | None,
        hess: Array | None,
    ) -> tuple[Any, ...]:
        """Run the kernel, through copies where the class axes are not last or an array is not contiguous."""
        classes = math.prod(p.shape[axis] for axis in axes)
        rows = math.prod(shape) if classes else 0
        ignored = getattr(self, "ignore_class", None)
        if self.indexed:
            y_name, y_ready, ignored = labels_in_memory(contiguous(y, "C"), ignored)
        else:
            y_name, y_ready = in_memory(contiguous(classes_last(y, axes), "C"))
        p_name, p_ready = in_memory(contiguous(classes_last(p, axes), "C"))
        grad_last, hess_last = (None if a is None else classes_last(a, axes) for a in (grad, hess))
        grad_ready, hess_ready = buffer_like(grad_last, "C"), buffer_like(hess_last, "C")
        computing = self._computing(p)
        few = 0 < classes <= backend("rowwise_few").most_classes(computing)
        row_bytes = classes * p.dtype.itemsize
        long_rows = p.nbytes >= BYPASS_CACHE_FROM and row_bytes >= LONG_ROWS_FROM
        bypass = long_rows and row_bytes % 16 == 0 and aligned(grad_ready, hess_ready)
        plan = self._plan(outputs, y_name, p_name, few, long_rows, bypass)
        written = RowResults.zeros(np.zeros, shape, computing) if plan.build.formula.report else None
        losses = None
        if plan.build.losses:
            losses = written.losses if written else (np.empty if rows else np.zeros)(shape, computing)
        total = plan(
            y_ready,
            p_ready,
            rows,
            classes,
            weighing.weights,
            weighing.inner,
            class_weights,
            ignored,
            grad_ready,
            hess_ready,
            written.memory if written else losses,
            scale_of(weighing.normalizer, computing),
        )
        if total != total and self.indexed:
            self.require_labels(y, classes, weighing)
        plain = weighing.weights is None and losses is None and class_weights is None
        plain = plain and ignored is None and self.axis == -1 and not long_rows and not written
        if outputs == VALUE | GRAD and rows and plain and y_ready is y and p_ready is p and grad_ready is grad_last:
            object.__setattr__(self, "_quick", plan.quick(y, p, self.reduction == "sum", self.require_labels))
        write_back((grad_last, grad_ready), (hess_last, hess_ready))
        more = (written.on_host(precision_of(p)),) if written else ()
        if losses is None:
            return total / weighing.normalizer, grad, hess, *more
        with np.errstate(all="ignore"):
            losses = np.divide(losses, weighing.normalizer, dtype=losses.dtype)
            return losses.astype(precision_of(p), copy=False), grad, hess, *more

    def formula(self) -> RowFormula:
        """The formula that this configuration uses."""
        return self.row_formulas()[self.variant()]._replace(**self.around())

    def around(self) -> dict[str, Any]:
        """What this configuration puts around its formula, whichever it is: a link, a penalty (see `RowFormula`)."""
        return {}

    def _computing(self, p: Any) -> str:
        """Precision of the arithmetic, of weights and of losses."""
        return self.formula().computing(storage_name(p.dtype) or "float64")

    def class_axes(self, y: Any, p: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The class axes of predictions, ascending, and the shape of their rows' losses; the shapes must fit."""
        if not p.ndim:
            raise ValueError(rejected(self.name, "y_pred", "have a class axis", "a scalar"))
        axes = class_axes(self.axis, p.ndim)
        if axes is None:
            several = "axes of y_pred, each once," if isinstance(self.axis, tuple) else "an axis of y_pred,"
            raise ValueError(rejected(self.name, "axis", f"be {several} which has {p.ndim}", self.axis))
        shape = tuple(extent for axis, extent in enumerate(p.shape) if axis not in axes)
        # Over all axes nothing is left of an empty batch; elsewhere there are rows without classes.
        if not p.size and math.prod(shape) and self.axis is not None:
            raise ValueError(rejected(self.name, "y_pred", "have at least one class", f"shape {p.shape}"))
        self._require_shape(y, p, shape)
        return axes, shape

    def _require_shape(self, y: Any, p: Any, shape: tuple[int, ...]) -> None:
        if not self.indexed:
            same_shape(self.name, y, p)
        elif y.shape != shape:
            rule = f"have y_pred's shape without the class axis, {shape}"
            dropped = "y_true[:, 0]" if len(shape) == 1 else "y_true[..., 0]"
            hint = f"Drop its last axis: {dropped}" if y.shape == (*shape, 1) else ""
            raise ValueError(rejected(self.name, "y_true", rule, y.shape, hint))

    def class_weights(self, p: Any, axes: tuple[int, ...]) -> Array | None:
        """Weights of the classes, in the precision of the arithmetic; None if there are none."""
        given = getattr(self, "class_weight", None)
        if given is None:
            return None
        classes = math.prod(p.shape[axis] for axis in axes)
        if len(given) != classes:
            rule = f"have one weight per class, {classes}"
            raise ValueError(rejected(self.name, self.weights_name, rule, len(given)))
        with np.errstate(over="ignore"):
            weights = np.array(given, precision_of(p))
        if not np.isfinite(weights).all():
            raise ValueError(rejected(self.name, self.weights_name, f"be finite in {weights.dtype}", given))
        return weights.astype(self._computing(p), copy=False)

    def _weighing(
        self,
        y: Array,
        p: Array,
        shape: tuple[int, ...],
        class_weights: Array | None,
        sample_weight: Any,
        mask: Any,
        normalizer: Any,
    ) -> Weighting:
        """Weights and normaliser; ignored rows do not count, class weights do where the mean is weighted."""
        averaged = self.reduction in ("mean", "weighted_mean") and normalizer is None
        counts = self._counts(y, class_weights) if averaged and self.indexed else None
        if sample_weight is None and mask is None and normalizer is None and counts is None:
            return Weighting(None, 1, float(math.prod(shape)) if averaged else 1.0)
        precisions = (precision_of(p), self._computing(p))
        return weighting(self.name, self.reduction, shape, precisions, sample_weight, mask, normalizer, counts)

    def _counts(self, y: Array, class_weights: Array | None) -> Array | None:
        """What each row counts for in the mean besides its own weight; None: 1 for every row.

        A bad label counts as 1 here and is found by the kernel.
        """
        ignored = getattr(self, "ignore_class", None)
        counts = None
        if class_weights is not None and self.reduction == "weighted_mean":
            good = (y >= 0) & (y < class_weights.size)
            counts = np.where(good, class_weights[np.where(good, y, 0)], 1)
        if ignored is not None:
            counted = y != ignored
            counts = counted if counts is None else np.where(counted, counts, 0)
        return counts

    def require_labels(self, y: Array, classes: int, weighing: Weighting | None = None) -> None:
        """Name the first bad label, if there is one: a kernel's NaN may also come from the data."""
        ignored = getattr(self, "ignore_class", None)
        bad = (y < 0) | (y >= classes)
        if ignored is not None:
            bad &= y != ignored
        if weighing is not None and weighing.weights is not None:
            bad &= np.repeat(weighing.weights >= 0, weighing.inner).reshape(y.shape)
        if not bad.any():
            return
        hint = "To leave such rows out: ignore_class=" if hasattr(self, "ignore_class") and ignored is None else ""
        raise ValueError(rejected(self.name, "y_true", f"be in [0, {classes})", first_of(y, bad), hint))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowwiseLoss(RowsLoss, abstract=True):
    """One loss per row of classes, along any axis; a loss that takes several declares ``axis`` by `axes`."""

    family: ClassVar[str] = "rowwise"

    axis: int | tuple[int, ...] | None = integer(-1, "the class axis of y_pred")
