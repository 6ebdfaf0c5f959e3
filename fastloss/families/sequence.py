"""Losses with one loss per sequence: a label is asked of some frames, not of a known one."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..dispatch import GRAD, HESS, VALUE, backend, on_device
from ..formula.alignments import Targets, is_padding, lengths_of
from ..messages import rejected
from ..reduction import Weighting, scale_of, weighting
from ..validate import Array, first_of, in_memory, labels, precision_of, prediction, signed_labels, storage_name
from .declaration import Domain
from .layout import buffer_like, contiguous, write_back
from .loss import Loss
from .parameters import flag, integer


def _with_lengths(call: Callable[..., Any]) -> Callable[..., Any]:
    """One of the five calls, with lengths of labels and predictions among its options."""

    def with_lengths(
        self: Any,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any = None,
        *,
        label_length: Any = None,
        logit_length: Any = None,
        **options: Any,
    ) -> Any:
        return call(self, Targets(y_true, label_length, logit_length), y_pred, sample_weight, **options)

    with_lengths.__name__, with_lengths.__doc__ = call.__name__, call.__doc__
    return with_lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequenceLoss(Loss, abstract=True):
    """One loss per sequence of frames, shape (..., T, C), and its label, shape (..., L), over all alignments.

    A loss gives `formulas`, "logits" and "log_probabilities": gradient and Hessian at a class of a frame, by the names
    ``own`` (the class's exponential, relative to the frame's largest), ``rest`` (the sum of all but one largest),
    ``total`` (``1 + rest``), ``occupancy`` (how likely the frame has the class, given the label) and ``others`` (the
    sum of all occupancies of at most one half).
    """

    family: ClassVar[str] = "sequence"
    unit: ClassVar[str] = "sequence"
    indexed: ClassVar[bool] = True
    #: What the documentation says of the lengths, besides what every call takes.
    call_options: ClassVar[str] = """
label_length : array_like of int, shape (...), optional
    How many labels count, whatever follows them. Default: those before the first blank or negative number, which
    nothing else may follow.
logit_length : array_like of int, shape (...), optional
    How many frames count; the others' gradients are exactly 0, whatever they hold. Default: all."""

    from_logits: bool = flag(True, "whether y_pred holds logits rather than log-probabilities")
    blank: int = integer(0, "the class that stands for none")
    zero_infinity: bool = flag(False, "whether the loss of a label that no alignment has is 0 rather than infinite")

    @classmethod
    def call_signature(cls) -> inspect.Signature:
        """What a call takes: the operands, options, and the lengths."""
        own = Loss.call_signature()
        lengths = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in Targets._fields[1:]
        ]
        return own.replace(parameters=[*own.parameters.values(), *lengths])

    __call__ = _with_lengths(Loss.__call__)
    value_and_grad = _with_lengths(Loss.value_and_grad)
    grad = _with_lengths(Loss.grad)
    grad_and_hess = _with_lengths(Loss.grad_and_hess)
    value_grad_and_hess = _with_lengths(Loss.value_grad_and_hess)

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return "logits" if self.from_logits else "log_probabilities"

    def domain(self) -> Domain:
        """Class numbers, and logits or logarithms of probabilities."""
        return Domain("label", "logit" if self.from_logits else "log_distribution")

    def formula(self) -> Callable[..., Any]:
        """The formula that this configuration uses."""
        return self.formulas()[self.variant()]

    def _plan(self, outputs: int, true: str, pred: str) -> Any:
        plan = self._plans.get((outputs, true, pred))
        if plan is None:
            sweep = backend("sequence")
            losses = bool(outputs & VALUE) and self.reduction == "none"
            wanted = (bool(outputs & VALUE), losses, bool(outputs & GRAD), bool(outputs & HESS))
            build = sweep.Build(self.formula(), self.from_logits, true, pred, *wanted)
            plan = self._plans[outputs, true, pred] = sweep.Plan(build)
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
            from .sequence_on_device import evaluate

            return evaluate(self, outputs, y_true, y_pred, sample_weight, mask, normalizer, out, hess_out, check)
        sample_weight, mask = self._given("sample_weight", sample_weight), self._given("mask", mask)
        p, y = prediction(self.name, y_pred), labels(self.name, y_true.labels)
        shape = self.losses_shape(y, p)
        targets = Targets(
            y,
            self.checked_lengths("label_length", y_true.label_length, shape, y.shape[-1]),
            self.checked_lengths("logit_length", y_true.logit_length, shape, p.shape[-2]),
        )
        precisions = (precision_of(p), "float64")
        weighing = weighting(self.name, self.reduction, shape, precisions, sample_weight, mask, normalizer)
        lengths = self.checked(targets, p.shape[-1], _counting(weighing, shape))
        frames = np.full(shape, p.shape[-2]) if targets.logit_length is None else targets.logit_length
        grad, hess = self._results(outputs, p, out, hess_out, (y, p, sample_weight, mask))
        if weighing.normalizer == 0.0:
            return self._nothing_left(grad, hess)
        return self._swept(outputs, y, p, lengths, frames, weighing, grad, hess)

    def _swept(
        self,
        outputs: int,
        y: Array,
        p: Array,
        lengths: Array,
        frames: Array,
        weighing: Weighting,
        grad: Array | None,
        hess: Array | None,
    ) -> tuple[Any, Any, Any]:
        """Run the kernel, through contiguous copies where the caller's arrays are not."""
        y_name, y_ready = in_memory(contiguous(signed_labels(y, None)[0], "C"))
        p_name, p_ready = storage_name(p.dtype) or "", contiguous(p, "C")
        grad_ready, hess_ready = buffer_like(grad, "C"), buffer_like(hess, "C")
        losses = np.empty(lengths.shape) if outputs & VALUE and self.reduction == "none" else None
        total = self._plan(outputs, y_name, p_name)(
            y_ready,
            p_ready,
            np.ascontiguousarray(lengths, np.int64),
            np.ascontiguousarray(frames, np.int64),
            weighing.weights,
            weighing.inner,
            self.blank,
            self.zero_infinity,
            grad_ready,
            hess_ready,
            losses,
            scale_of(weighing.normalizer, precision_of(p)),
        )
        write_back((grad, grad_ready), (hess, hess_ready))
        if losses is None:
            return total / weighing.normalizer, grad, hess
        with np.errstate(all="ignore"):
            return (losses / weighing.normalizer).astype(precision_of(p)), grad, hess

    # -- shapes, labels and their lengths ------------------------------------------------------------------------------

    def losses_shape(self, y: Any, p: Any) -> tuple[int, ...]:
        """The shape of the losses; those of the operands must fit, and there must be a blank."""
        if p.ndim < 2:
            raise ValueError(rejected(self.name, "y_pred", "have axes of frames and classes", f"shape {p.shape}"))
        shape: tuple[int, ...] = p.shape[:-2]
        if y.ndim < 1 or y.shape[:-1] != shape:
            rule = f"have y_pred's leading shape {shape} and an axis of labels"
            raise ValueError(rejected(self.name, "y_true", rule, f"shape {y.shape}"))
        if not 0 <= self.blank < p.shape[-1]:
            raise ValueError(rejected(self.name, "blank", f"be a class of y_pred, which has {p.shape[-1]}", self.blank))
        return shape

    def checked_lengths(self, argument: str, given: Any, shape: tuple[int, ...], most: int) -> Array | None:
        """An array of lengths, checked; None if none is given."""
        if given is None:
            return None
        lengths = self._given(argument, given)
        assert lengths is not None
        self.require_length_form(argument, lengths, shape)
        bad = (lengths < 0) | (lengths > most)
        if bad.any():
            raise ValueError(rejected(self.name, argument, f"be in [0, {most}]", first_of(lengths, bad)))
        return lengths.astype(np.int64)

    def require_length_form(self, argument: str, lengths: Any, shape: tuple[int, ...]) -> None:
        """Refuse lengths that are no integers, or not one for each loss."""
        if lengths.dtype.kind not in "iu" or not lengths.dtype.isnative:
            raise TypeError(rejected(self.name, argument, "hold integers", lengths.dtype))
        if lengths.shape != shape:
            raise ValueError(rejected(self.name, argument, f"have the losses' shape {shape}", lengths.shape))

    def checked(self, targets: Targets, classes: int, counting: Any) -> Array:
        """How many of each label's class numbers count; a bad one is named, unless its loss does not count.

        Where lengths are given, what lies beyond them may be anything; where not, nothing follows padding.
        """
        y = targets.labels
        padding = is_padding(y, self.blank)
        if targets.label_length is None:
            lengths = lengths_of(y, self.blank)
            inside = np.arange(y.shape[-1]) < lengths[..., None]
            bad = (inside & (y >= classes)) | (~inside & ~padding)
            hint = "Nothing may follow a blank or a negative number, unless label_length= says how many labels count"
        else:
            lengths = targets.label_length
            inside = np.arange(y.shape[-1]) < lengths[..., None]
            bad, hint = inside & ((y >= classes) | padding), ""
        bad &= np.asarray(counting)[..., None]
        if bad.any():
            follows = targets.label_length is None and not (bad & inside).any()
            rule = f"be in [0, {classes}) and not the blank, {self.blank}"
            raise ValueError(rejected(self.name, "y_true", rule, first_of(y, bad), hint if follows else ""))
        return lengths


def _counting(weighing: Weighting, shape: tuple[int, ...]) -> Any:
    """Which losses count: those that no mask leaves out."""
    if weighing.weights is None:
        return True
    return np.repeat(weighing.weights >= 0, weighing.inner).reshape(shape)
