"""Cases for every loss, derived from the registry: configurations, targets and predictions.

A new loss gets cases from the rules of its parameters. What it takes is told from its family and from whether
it has ``from_logits``: then targets lie in [0, 1] and predictions are logits or probabilities; else both are
real numbers. `watch` evaluates a formula on arrays that note every comparison, so that tests know, without a word
about the loss, on which side of which kink a case lies.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import sys

import ml_dtypes
import numpy as np

import fastloss as fl
from fastloss.formula.ops import PRIMITIVES
from fastloss.reference import element_parameters, element_results, row_gradients, row_results, row_values

#: Every loss of the package; tests may define more, which are not meant here.
LOSSES = {name: cls for name, cls in fl.losses.registry().items() if cls.__module__.startswith("fastloss.")}

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
REDUCTIONS = ("mean", "sum", "weighted_mean", "none")

#: Method names of the five calls, and which of value, gradient and Hessian each gives.
CALLS = {
    "__call__": (0,),
    "value_and_grad": (0, 1),
    "grad": (1,),
    "grad_and_hess": (1, 2),
    "value_grad_and_hess": (0, 1, 2),
}


# -- configurations ------------------------------------------------------------------------------------------

_VALUES = {
    "True or False": (False, True),
    "in [0, 1]": (0.0, 0.125, 0.3, 1.0),
    ">= 0": (1.0, 0.0, 2.5),
    "> 0": (1.0, 0.5, 3.0),
    "in (0, 0.5)": (1e-7, 0.0625),
    "an integer or None": (None, 1, -100),
}


def parameter_values(field, classes):
    """What to try for one parameter of a loss, by its rule."""
    words = field.metadata["rule"].words
    if words.startswith("one of"):
        return tuple(re.findall(r"'([^']*)'", words))
    if words == "an integer":
        return (field.default,)  # axes are a matter of layout
    if words.startswith("None or a sequence"):
        return (None, tuple(float(weight) for weight in np.resize([0.5, 2.0, 0.0, 1.0, 3.25], classes)))
    return _VALUES[words]


def configurations(cls, classes=5):
    """Losses that reach every value of every parameter: one at a time and all together, under every flag.

    Reduction stays "mean": tests choose it.
    """
    fields = [field for field in dataclasses.fields(cls) if field.name != "reduction"]
    choices = {field.name: parameter_values(field, classes) for field in fields}
    flags = {name: values for name, values in choices.items() if set(values) == {True, False}}
    others = {name: values for name, values in choices.items() if name not in flags}
    found = {}
    for setting in itertools.product(*flags.values()):
        base = dict(zip(flags, setting, strict=True))
        changes = [{}, {name: values[min(1, len(values) - 1)] for name, values in others.items()}]
        changes += [{name: value} for name, values in others.items() for value in values]
        for change in changes:
            loss = cls(**base, **change)
            found[loss] = None
    return list(found)


def variants(cls, classes=5):
    """One configuration for each formula, with and without class weights: all that kernels differ by."""
    chosen = {}
    for loss in configurations(cls, classes):
        chosen.setdefault((loss.variant(), getattr(loss, "class_weight", None) is not None), loss)
    return list(chosen.values())


def formula_configurations(cls, classes=5):
    """Those configurations that differ in what their formula reads."""
    chosen = {}
    for loss in configurations(cls, classes):
        if cls.family == "rowwise":
            names = (*cls.row_formulas()[loss.variant()].parameters, "class_weight")
        else:
            names = tuple(inspect.signature(cls.formulas()[loss.variant()]).parameters)[2:]
        read = tuple(getattr(loss, name, None) for name in names)
        chosen.setdefault((loss.variant(), read), loss)
    return list(chosen.values())


def with_reduction(loss, reduction, **changes):
    """The same configuration with another reduction."""
    return dataclasses.replace(loss, reduction=reduction, **changes)


def label_of(loss):
    """A short test id: what differs from the defaults."""
    fields = dataclasses.fields(loss)
    changed = [f"{f.name}={getattr(loss, f.name)}" for f in fields if getattr(loss, f.name) != f.default]
    return re.sub(r"\s", "", f"{loss.name}({','.join(changed)})")


# -- operands ------------------------------------------------------------------------------------------------


def is_rowwise(loss):
    return loss.family == "rowwise"


def is_indexed(loss):
    return getattr(loss, "indexed", False)


def takes_unit_targets(loss):
    """Whether targets are probabilities."""
    return hasattr(loss, "from_logits")


def takes_probabilities(loss):
    """Whether predictions are probabilities."""
    return takes_unit_targets(loss) and not loss.from_logits


def loss_shape(loss, shape):
    """Shape of the losses for predictions of a shape."""
    if not is_rowwise(loss):
        return tuple(shape)
    axis = loss.axis % len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def plain(loss, shape, rng):
    """Random well-conditioned operands as (y_true, y_pred): float64, or int64 labels."""
    if is_rowwise(loss):
        y, p = _plain_rows(loss, (*loss_shape(loss, shape), shape[loss.axis]), rng)
        return _with_ignored(loss, y, rng), np.moveaxis(p, -1, loss.axis)
    if takes_unit_targets(loss):
        soft, hard = rng.uniform(0.0, 1.0, shape), rng.integers(0, 2, shape).astype(float)
        y = np.where(rng.random(shape) < 0.5, soft, hard)
        return y, rng.uniform(0.02, 0.98, shape) if takes_probabilities(loss) else rng.normal(0.0, 2.0, shape)
    y = rng.normal(0.0, 1.0, shape)
    return y, y + rng.normal(0.0, 1.5, shape)


def _plain_rows(loss, shape, rng):
    *rows, classes = shape
    if takes_probabilities(loss):
        p = rng.gamma(2.0, 1.0, shape) + 0.05
        p *= rng.uniform(0.5, 2.0, (*rows, 1)) / p.sum(axis=-1, keepdims=True)
    else:
        p = rng.normal(0.0, 2.0, shape)
    labels = rng.integers(0, max(classes, 1), rows)
    if is_indexed(loss):
        return labels, p
    soft = rng.gamma(1.0, 1.0, shape)
    soft /= soft.sum(axis=-1, keepdims=True)
    one_hot = np.asarray(np.arange(classes) == labels[..., None], float)
    y = np.where(rng.random((*rows, 1)) < 0.5, soft, one_hot)
    return np.moveaxis(y, -1, loss.axis), p


def _with_ignored(loss, labels, rng):
    ignored = getattr(loss, "ignore_class", None)
    if ignored is None:
        return labels
    return np.where(rng.random(labels.shape) < 0.25, ignored, labels)


def extreme(loss, dtype, infinite=False):
    """Hand-picked hard operands for a dtype; ``infinite`` adds the infinities that have a meaning."""
    wide = np.dtype(dtype) if np.dtype(dtype) == np.float64 else np.dtype(np.float32)
    if is_rowwise(loss):
        return _extreme_rows(loss, wide, infinite)
    return _extreme_elements(loss, wide, infinite)


def _neighbours(numbers, dtype):
    """Each number rounded to a dtype, with the numbers next to it."""
    rounded = np.asarray(numbers, dtype)
    around = (rounded, np.nextafter(rounded, dtype.type(np.inf)), np.nextafter(rounded, dtype.type(-np.inf)))
    return np.concatenate(around).astype(np.float64)


def _extreme_elements(loss, dtype, infinite):
    tiny, largest = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    if not takes_unit_targets(loss):
        kinks = [value for value in (getattr(loss, "delta", None),) if value is not None]
        steps = [0.0, 1e-4, 1.0, 1e6, largest / 4, tiny / 8, *kinks]
        p, y = np.meshgrid(
            _neighbours([sign * step for step in steps for sign in (1, -1)], dtype), [0.0, 1.0, -2.5, 1e4]
        )
        p = np.where(abs(p) < 1e12, y + p, p)
    elif takes_probabilities(loss):
        margins = [0.0, loss.epsilon, tiny, 1e-3]
        numbers = _neighbours([*margins, *(1.0 - margin for margin in margins), 0.5, -0.5, 1.5], dtype)
        p, y = np.meshgrid(numbers, [0.0, 1.0, 0.5, 0.9])
    else:
        steps = [0.0, tiny / 8, 1e-8, 0.5, 17.0, 30.0, 80.0, 88.8, 104.0, 700.0, 746.0, 1e4, 1e30]
        steps += [np.inf] if infinite else []
        p, y = np.meshgrid([sign * step for step in steps for sign in (1, -1)], [0.0, 1.0, 0.5, 0.9])
    return y.ravel().astype(np.float64), p.ravel().astype(dtype).astype(np.float64)


def _extreme_rows(loss, dtype, infinite):
    if takes_probabilities(loss):
        rows = [
            [0.2, 0.2, 0.2, 0.2, 0.2],
            [0.2, 0.2, 0.2, 0.0, 0.0],
            [1.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 3.0, 0.0, 0.0],
            [1.0, 1e-8, 1e-30, 1e-3, 0.5],
            [1.0 - loss.epsilon, loss.epsilon, 0.0, 0.0, 0.0],
            [1.0 - loss.epsilon * 0.5, loss.epsilon * 0.5, 0.0, 0.0, 0.0],
            [0.9375, 0.0625, 0.0, 0.0, 0.0],
            [1e4, 2e4, 3e4, 4e4, 5e4],
        ]
    else:
        rows = [
            [0.0, 0.0, 0.0, 0.0, 0.0],
            [3.0, 3.0, -1.0, 3.0, 0.0],
            [20.0, 0.0, 0.0, 0.0, 0.0],
            [5.0, -1e4, 5.0, -1e4, -1e4],
            [0.0, 0.0, 0.0, 0.0, 40.0],
            [100.0, 0.0, -100.0, 88.0, 12.0],
            [1e4, 1e4 - 1.0, 1e4 - 2.0, -1e4, 0.0],
            [1e30, -1e30, 0.0, 1.0, 2.0],
            [-1e4, -1e4, -1e4, -1e4, -1e4 + 30.0],
        ]
    x, targets = _paired(np.array(rows), np.arange(5))
    if infinite and not takes_probabilities(loss):
        more, other = _paired(np.array([[-np.inf, 1.0, 2.0, 2.0, 0.0], [-np.inf] * 4 + [5.0]]), np.array([4]))
        x, targets = np.concatenate([x, more]), np.concatenate([targets, other])
    if not is_indexed(loss):
        one_hot = np.asarray(np.arange(5) == targets[:, None], float)
        soft = np.where(np.isfinite(x), np.where(targets[:, None] % 2 == 0, one_hot, 0.9 * one_hot + 0.02), one_hot)
        return soft, x.astype(dtype).astype(np.float64)
    if loss.ignore_class is not None:
        targets[::7] = loss.ignore_class
    return targets, x.astype(dtype).astype(np.float64)


def _paired(rows, targets):
    """Every row with every target."""
    return np.repeat(rows, len(targets), axis=0), np.tile(targets, len(rows))


def cast(y, p, dtype, y_dtype=None):
    """Operands for a call: predictions in a dtype, targets in it too (labels stay) or in ``y_dtype``."""
    with np.errstate(over="ignore", under="ignore"):
        kept = y_dtype if y_dtype is not None else (y.dtype if y.dtype.kind in "iub" else dtype)
        return y.astype(kept), p.astype(dtype)


# -- which comparisons a case reaches ------------------------------------------------------------------------


class _Rewrapped:
    """The primitives on `Watched` arrays."""

    def __getattr__(self, name):
        return lambda *operands: np.asarray(PRIMITIVES[name].numpy(*operands)).view(Watched)


class Watched(np.ndarray):
    """An array that notes, for every comparison in a formula, left minus right."""

    formula_namespace = _Rewrapped()
    noted: dict = {}  # noqa: RUF012  one log at a time

    def _note(self, other, operator):
        site, frame = [operator], sys._getframe(2)
        while frame.f_code.co_name not in ("call_by_name", "element_results"):
            site.append(f"{frame.f_code.co_name}:{frame.f_lineno}:{frame.f_lasti}")
            frame = frame.f_back
        left, right = np.asarray(self), np.asarray(other)
        same = left == right  # also where both are infinite
        self.noted[tuple(site)] = np.where(same, 0.0, left - right)

    def __lt__(self, other):
        self._note(other, "<")
        return super().__lt__(other)

    def __le__(self, other):
        self._note(other, "<=")
        return super().__le__(other)

    def __gt__(self, other):
        self._note(other, ">")
        return super().__gt__(other)

    def __ge__(self, other):
        self._note(other, ">=")
        return super().__ge__(other)

    def __eq__(self, other):
        self._note(other, "==")
        return super().__eq__(other)

    def __ne__(self, other):
        self._note(other, "!=")
        return super().__ne__(other)

    __hash__ = None


def watch(loss, y, p):
    """For every comparison in the loss's formula: left minus right, in the shape of p (classes last)."""
    Watched.noted.clear()
    with np.errstate(all="ignore"):
        if is_rowwise(loss):
            values, labels = row_values(loss, y, p)
            values = {n: np.asarray(v).view(Watched) if n != "classes" else v for n, v in values.items()}
            formula, shape = loss.row_formulas()[loss.variant()], values["x"].shape
            _, values = row_results(formula, values)
            row_gradients(formula, values, labels)
        else:
            watched, shape = [np.asarray(a, np.float64).view(Watched) for a in (y, p)], p.shape
            parameters = {n: np.asarray(v).view(Watched) for n, v in element_parameters(loss, p).items()}
            element_results(loss.formulas()[loss.variant()], parameters, *watched)
    return {site: np.broadcast_to(found, shape) for site, found in Watched.noted.items()}


def near_kink(loss, y, p, margin):
    """Elements (rows, for a rowwise loss) where some comparison would come out otherwise within a margin.

    Operands that are equal do not count: random operands are equal only where the formula makes them so (the
    largest logit and the row's peak).
    """
    near = np.zeros(np.asarray(p).shape, bool)
    if is_rowwise(loss):
        near = np.moveaxis(near, loss.axis, -1)
    for difference in watch(loss, y, p).values():
        near = near | ((difference != 0.0) & (abs(difference) < margin))
    return near.any(axis=-1) if is_rowwise(loss) else near
