"""Losses of several predictions at once (pairs, triplets), with a gradient and a Hessian to each."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..dispatch import GRAD, HESS, VALUE, backend, on_device
from ..formula.pairs import PairFormula
from ..messages import rejected
from ..reduction import Weighting, scale_of, weighting
from ..validate import Array, in_memory, output, precision_of, prediction, same_shape, storage_name, target
from .elementwise import BYPASS_CACHE_FROM
from .layout import aligned, buffer_like, common_layout, contiguous, write_back
from .loss import Loss
from .parameters import read_by

Results = tuple[Array | None, ...]


class Pairs(NamedTuple):
    """The arrays of a call: the target, where there is one, and the predictions."""

    y: Any
    predictions: tuple[Any, ...]

    @property
    def first(self) -> Any:
        """The first prediction, which all others must be like."""
        return self.predictions[0]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """All of them."""
        return self.predictions if self.y is None else (self.y, *self.predictions)


def _by_operands(call: Callable[..., Any]) -> Callable[..., Any]:
    """One of the five calls, with what ``operands`` names in place of a target and a prediction."""

    def by_operands(self: Any, *arrays: Any, sample_weight: Any = None, **options: Any) -> Any:
        names = self.operands
        if len(arrays) == len(names) + 1 and sample_weight is None:
            arrays, sample_weight = arrays[:-1], arrays[-1]
        left = names[len(arrays) :]
        if len(arrays) > len(names) or not options.keys() >= set(left):
            got = ", ".join([f"{len(arrays)} by position", *(f"{name}=" for name in options)])
            raise TypeError(rejected(self.name, "operands", f"be {', '.join(names)}", got))
        given = (*arrays, *(options.pop(name) for name in left))
        return call(self, *self.parted(given), sample_weight, **options)

    by_operands.__name__, by_operands.__doc__ = call.__name__, call.__doc__
    return by_operands


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairwiseLoss(Loss, abstract=True):
    """One loss per element: ``formula(y, *predictions, *parameters) -> value, *gradients, *Hessians``.

    ``operands`` names the arrays that every call takes, in order: ``y_true`` first, if there is a target (else the
    formula has no ``y``), then the predictions, which must be alike and have the same names in the formula. Gradients,
    Hessians, ``out`` and ``hess_out`` are tuples, with one array for each prediction. A loss with several formulas
    overrides `formulas` and `variant`.
    """

    family: ClassVar[str] = "pairwise"
    several: ClassVar[bool] = True
    unit: ClassVar[str] = "element"

    @classmethod
    def predictions(cls) -> tuple[str, ...]:
        """Names of the predictions."""
        return tuple(name for name in cls.operands if name != "y_true")

    @classmethod
    def arguments(cls, y_true: Any, y_pred: Any) -> tuple[Any, ...]:
        """A target, or None, and a tuple of predictions in the order of a call."""
        return (y_true, *y_pred) if "y_true" in cls.operands else tuple(y_pred)

    @classmethod
    def parted(cls, arrays: Sequence[Any]) -> tuple[Any, tuple[Any, ...]]:
        """A call's operands as a target, or None, and a tuple of predictions."""
        return (arrays[0], tuple(arrays[1:])) if "y_true" in cls.operands else (None, tuple(arrays))

    @classmethod
    def call_signature(cls) -> inspect.Signature:
        """What a call takes: the operands, then options."""
        _, _, _, *options = inspect.signature(Loss.__call__).parameters.values()
        operands = (inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in cls.operands)
        return inspect.Signature([*operands, *options])

    __call__ = _by_operands(Loss.__call__)
    value_and_grad = _by_operands(Loss.value_and_grad)
    grad = _by_operands(Loss.grad)
    grad_and_hess = _by_operands(Loss.grad_and_hess)
    value_grad_and_hess = _by_operands(Loss.value_grad_and_hess)

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every formula of this loss by label."""
        return {"formula": cls.formula}  # type: ignore[attr-defined]

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return "formula"

    def domain(self) -> Any:
        """What each operand may be, in their order: names among `fastloss.families.declaration.SETS`."""
        return ("real",) * len(self.operands)

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
        if on_device(y_pred[0]):
            from .pairwise_on_device import evaluate

            return evaluate(self, outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)
        sample_weight, mask = self._given("sample_weight", sample_weight), self._given("mask", mask)
        named = zip(self.predictions(), y_pred, strict=True)
        y = target(self.name, y_true) if "y_true" in self.operands else None
        pairs = Pairs(y, tuple(prediction(self.name, array, name) for name, array in named))
        shape = self.loss_shape(pairs)
        grads, hesses = self.buffers(outputs, pairs, (sample_weight, mask), out, hess_out, np.empty_like, output)
        precisions = (precision_of(pairs.first), self.computing(pairs.first))
        weighing = weighting(self.name, self.reduction, shape, precisions, sample_weight, mask, normalizer)
        return self._swept(outputs, pairs, shape, weighing, grads, hesses)

    def loss_shape(self, pairs: Pairs) -> tuple[int, ...]:
        """Shape of the losses; the operands' own shapes must fit, and predictions have one type."""
        like, *others = self.predictions()
        for name, array in zip(others, pairs.predictions[1:], strict=True):
            same_shape(self.name, array, pairs.first, name, like)
            if array.dtype != pairs.first.dtype:
                hint = f"Convert it: {name}.astype('{pairs.first.dtype.name}')"
                rule = f"have {like}'s dtype {pairs.first.dtype}"
                raise TypeError(rejected(self.name, name, rule, array.dtype, hint))
        shape: tuple[int, ...] = pairs.first.shape
        if self.unit == "row":
            rows: int = math.prod(shape[:-1])
            if not shape or (not shape[-1] and rows):
                raise ValueError(rejected(self.name, like, "have rows of at least one column", f"shape {shape}"))
            shape = shape[:-1]
        if pairs.y is not None and pairs.y.shape != shape:
            rule = f"have {like}'s shape" + (" without its columns, " if self.unit == "row" else " ") + str(shape)
            size: int = math.prod(shape)
            hint = f"Reshape it: y_true.reshape({shape})" if pairs.y.size == size else ""
            raise ValueError(rejected(self.name, "y_true", rule, pairs.y.shape, hint))
        return shape

    def buffers(
        self,
        outputs: int,
        pairs: Pairs,
        others: tuple[Any, ...],
        out: Any,
        hess_out: Any,
        empty_like: Callable[[Any], Any],
        checked: Callable[..., Any],
    ) -> tuple[Any, Any]:
        """Where gradients and Hessians go: the caller's buffers, checked, or new ones."""
        taken = [*pairs.arrays, *others]
        grads = self._buffers(outputs & GRAD, "out", pairs, out, taken, empty_like, checked)
        return grads, self._buffers(outputs & HESS, "hess_out", pairs, hess_out, taken, empty_like, checked)

    def _buffers(
        self,
        wanted: int,
        argument: str,
        pairs: Pairs,
        given: Any,
        taken: list[Any],
        empty_like: Callable[[Any], Any],
        checked: Callable[..., Any],
    ) -> tuple[Any, ...]:
        """One buffer for each prediction, which is also added to what is ``taken``; None where none is wanted."""
        names = self.predictions()
        if not wanted:
            return (None,) * len(names)
        if given is None:
            return tuple(empty_like(array) for array in pairs.predictions)
        if not isinstance(given, tuple | list) or len(given) != len(names):
            rule = f"be a tuple of {len(names)} arrays, for {', '.join(names)}"
            got = f"{len(given)}" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
            raise TypeError(rejected(self.name, argument, rule, got))
        for i, (name, array) in enumerate(zip(names, pairs.predictions, strict=True)):
            in_place = array if argument == "out" else None
            checked(self.name, f"{argument}[{i}]", given[i], array, in_place, tuple(taken), name)
            taken.append(given[i])
        return tuple(given)

    def computing(self, first: Any) -> str:
        """Precision of the arithmetic, of weights and of losses, for predictions like the first one."""
        return precision_of(first)

    def _plan(self, outputs: int, types: tuple[str, ...], weighted: bool, bypass_cache: bool) -> Any:
        key = (outputs, types, weighted, bypass_cache)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._new_plan(
                types,
                bool(outputs & VALUE),
                bool(outputs & VALUE) and self.reduction == "none",
                bool(outputs & GRAD),
                bool(outputs & HESS),
                weighted,
                bypass_cache,
            )
        return plan

    def _new_plan(self, types: tuple[str, ...], *wanted: bool) -> Any:
        """The kernel for operands of some types; ``wanted`` as `fastloss.cpu.pairwise.PairBuild` has it."""
        formula = self.formulas()[self.variant()]
        parameters, fixed = read_by(self, formula)
        sweep = backend("pairwise")
        build = sweep.PairBuild(formula, fixed, len(parameters), types, len(self.predictions()), *wanted)
        return sweep.PairPlan(build, parameters)

    def _swept(
        self, outputs: int, pairs: Pairs, shape: tuple[int, ...], weighing: Weighting, grads: Results, hesses: Results
    ) -> tuple[Any, Any, Any]:
        """Run the kernel, through contiguous copies where the caller's arrays are not."""
        none = self.reduction == "none"
        grad, hess = grads if outputs & GRAD else None, hesses if outputs & HESS else None
        if weighing.normalizer == 0.0:
            write_back(*((array, 0) for array in (*grads, *hesses)))
            return 0.0, grad, hess
        keep_order = self.unit != "row" and weighing.weights is None and not none
        layout = common_layout(*pairs.arrays, *grads, *hesses) if keep_order else "C"
        types, ready = zip(*(in_memory(contiguous(array, layout)) for array in pairs.arrays), strict=True)
        grads_ready, hesses_ready = (tuple(buffer_like(a, layout) for a in arrays) for arrays in (grads, hesses))
        computing = self.computing(pairs.first)
        losses = np.empty(shape, computing) if none and outputs & VALUE else None
        bypass = pairs.first.nbytes >= BYPASS_CACHE_FROM and aligned(*grads_ready, *hesses_ready, losses)
        plan = self._plan(outputs, types, weighing.weights is not None, bypass and self.unit != "row")
        scale = scale_of(weighing.normalizer, computing)
        total = plan(ready, shape, weighing.weights, weighing.inner, grads_ready, hesses_ready, losses, scale)
        write_back(*zip((*grads, *hesses), (*grads_ready, *hesses_ready), strict=True))
        if losses is None:
            return total / weighing.normalizer, grad, hess
        with np.errstate(all="ignore"):
            losses = np.divide(losses, weighing.normalizer, dtype=losses.dtype)
            return losses.astype(precision_of(pairs.first), copy=False), grad, hess


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowPairsLoss(PairwiseLoss, abstract=True):
    """One loss per row, which the last axis holds, by one or more `PairFormula`; the target is a number per row."""

    unit: ClassVar[str] = "row"

    @classmethod
    def row_formulas(cls) -> dict[str, PairFormula]:
        """Every formula of this loss by label."""
        raise NotImplementedError

    @classmethod
    def formulas(cls) -> dict[str, Callable[..., Any]]:
        """Every piece of every formula, by ``<variant>.<piece>``."""
        return {
            f"{label}.{piece}": function
            for label, formula in cls.row_formulas().items()
            for piece, function in formula.pieces.items()
        }

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return next(iter(self.row_formulas()))

    def formula(self) -> PairFormula:
        """The formula that this configuration uses."""
        return self.row_formulas()[self.variant()]

    def computing(self, first: Any) -> str:
        """Precision of the arithmetic, of weights and of losses, for predictions like the first one."""
        return self.formula().computing(storage_name(first.dtype) or "float64")

    def _new_plan(self, types: tuple[str, ...], *wanted: bool) -> Any:
        """The kernel for operands of some types."""
        formula, names = self.formula(), self.predictions()
        sweep = backend("pairwise_rows")
        *wanted_results, _ = wanted  # rows go through the caches
        build = sweep.PairRowBuild(formula, names, types, *wanted_results)
        return sweep.PairRowPlan(build, [float(getattr(self, name)) for name in formula.parameters(names)])
