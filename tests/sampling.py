"""Cases for every loss, derived from the registry: configurations, targets and predictions.

A new loss gets cases from the rules of its parameters, operands from its `domain` and, at the edges, from its `kinks`.
`watch` evaluates a formula on arrays that note every comparison, so that tests know, without a word
about the loss, on which side of which kink a case lies.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import math
import re
import sys

import ml_dtypes
import numpy as np
import pytest
from representatives import LOSSES, REPRESENTATIVES, THOROUGH, represents, turn

from fastloss.formula.ops import PRIMITIVES
from fastloss.reference import (
    class_axes,
    classes_back,
    element_parameters,
    element_results,
    linked,
    pair_results,
    pair_values,
    row_gradients,
    row_results,
    row_values,
)

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


def label_of(loss):
    """A short test id: what differs from the defaults."""
    fields = dataclasses.fields(loss)
    changed = [f"{f.name}={getattr(loss, f.name)}" for f in fields if getattr(loss, f.name) != f.default]
    return re.sub(r"\s", "", f"{loss.name}({','.join(changed)})")


def differentiates_targets(loss):
    """Whether gradient and Hessian are those by the targets."""
    return getattr(loss, "wrt", "y_pred") == "y_true"


# -- configurations ------------------------------------------------------------------------------------------

_VALUES = {
    "True or False": (False, True),
    "in [0, 1]": (0.0, 0.125, 0.3, 1.0),
    ">= 0": (1.0, 0.0, 2.5),
    "> 0": (1.0, 0.5, 3.0),
    "in (0, 0.5)": (1e-7, 0.0625),
    "an integer or None": (None, 1, -100),
    "in (0, 1)": (0.5, 0.125, 0.9),
    "in (0, 1), or a sequence of such numbers": (0.5, 0.125, 0.9),
    "a finite number": (1.0, 0.0, -0.5, 2.0, 3.0),
    "> 0 or None": (None, 2.0, 30.0),
    ">= 1, or infinity": (2.0, 1.0, 3.0, math.inf),
}


def parameter_values(field, classes):
    """What to try for one parameter of a loss, by its rule."""
    words = field.metadata["rule"].words
    if words.startswith("one of"):
        named = tuple(re.findall(r"'([^']*)'", words))
        return named or tuple(int(number) for number in words.removeprefix("one of ").split(", "))
    if field.name == "axis":
        return (-1,)  # axes are a matter of layout: see test_layouts.py
    if words.endswith("a sequence of finite numbers >= 0"):
        single = (None,) if words.startswith("None") else (field.default, 1.0)
        return (*single, tuple(float(weight) for weight in np.resize([0.5, 2.0, 0.0, 1.0, 3.25], classes)))
    return tuple(dict.fromkeys((field.default, *_VALUES[words])))


#: Parameters that configurations leave as they are: tests choose the reduction, by-products have their own.
ELSEWHERE = ("reduction", "stats")


def configurations(cls, classes=5):
    """Losses that reach every value of every parameter: one at a time and all together, for every formula.

    Flags are turned one at a time and all together too; then all is differentiated by the targets, where a loss can.
    Those named in `ELSEWHERE` stay at their defaults.
    """
    fields = [field for field in dataclasses.fields(cls) if field.name not in ELSEWHERE]
    choices = {field.name: parameter_values(field, classes) for field in fields}
    flags = {field.name: field.default for field in fields if set(choices[field.name]) == {True, False}}
    others = {name: values for name, values in choices.items() if name not in flags and name != "wrt"}
    together = {name: values[min(1, len(values) - 1)] for name, values in others.items()}
    settings = [{}, *({name: not flags[name]} for name in flags), {name: not flags[name] for name in flags}]
    formulas = {cls(**setting).variant() for setting in settings}
    for several in range(2, len(flags)):  # that together choose yet another formula
        for names in itertools.combinations(flags, several):
            setting = {name: not flags[name] for name in names}
            settings += [setting] if cls(**setting).variant() not in formulas else []
            formulas.add(cls(**setting).variant())
    settings = [{**_by_row(cls), **setting} for setting in settings]
    found, formulas = {}, set()
    for setting in settings:
        changes = [{}, _allowed(fields, setting, together)]
        if cls(**setting).variant() not in formulas:
            changes += [_allowed(fields, setting, {name: v}) for name, values in others.items() for v in values]
        formulas.add(cls(**setting).variant())
        found |= {cls(**{**setting, **change}): None for change in changes}
    if "wrt" in choices:
        for setting in settings:
            changes = ({}, _allowed(fields, setting, together))
            found |= {cls(**{**setting, **change}, wrt="y_true"): None for change in changes}
    return list(found)


def _allowed(fields, setting, change):
    """Those parameters whose flag, where they need one, is set."""
    needs = {field.name: field.metadata.get("needs") for field in fields}
    return {name: value for name, value in change.items() if needs[name] is None or setting.get(needs[name], False)}


def _by_row(cls):
    """Parameters that have a loss taken along the last axis, also where its default is all of them."""
    return {"axis": -1} if cls.family == "rowwise" else {}


def variants(cls, classes=5):
    """All that kernels differ by: every formula with and without class weights, and with what goes around it."""
    chosen = {}
    for loss in configurations(cls, classes):
        around = cls.family == "rowwise" and bool(loss.around())
        chosen.setdefault((loss.variant(), around or getattr(loss, "class_weight", None) is not None, around), loss)
    return list(chosen.values())


def formula_configurations(cls, classes=5):
    """Those configurations that differ in what their formula reads."""
    chosen = {}
    for loss in configurations(cls, classes):
        if cls.family == "rowwise":
            names = (*loss.formula().parameters, "class_weight")
        else:
            names = tuple(inspect.signature(cls.formulas()[loss.variant()]).parameters)[2:]
        read = tuple(getattr(loss, name, None) for name in names)
        chosen.setdefault((loss.variant(), read), loss)
    return list(chosen.values())


def swept(cls):
    """Of each formula that stands for its shape the plain configuration, and the one with most around it.

    Derivatives by targets differ from those by predictions in their formula only: of them the plain one is enough.
    """
    by_formula = {}
    for loss in variants(cls):
        if represents(loss):
            by_formula.setdefault(loss.variant(), []).append(loss)
    chosen = []
    for losses in by_formula.values():
        plainest, *others = sorted(losses, key=lambda loss: len(label_of(loss)))
        chosen += [plainest, *([] if differentiates_targets(plainest) else others[-1:])]
    return chosen


#: What tests of sweeps are about. Tests of formulas are about every loss.
SWEPT = [loss for name in REPRESENTATIVES for loss in swept(LOSSES[name])]
#: One configuration, which does not smooth, for each of the losses that are swept most thoroughly.
ONE_EACH = [
    LOSSES[name](**({"from_logits": True} if {"from_logits": True} in configured else {}))
    for name, configured in THOROUGH.items()
]


def types_for(name, types):
    """The types that a sweep is tested in with one loss: one in turn, if the loss stands for a rarer shape only."""
    return types if name in THOROUGH else [turn(name, types)]


def in_types(losses, types):
    """Parameters of a test: (loss, type). A configuration of a loss that meets every type meets half of them."""
    return [
        pytest.param(loss, dtype, id=f"{label_of(loss)}-{np.dtype(dtype).name if isinstance(dtype, type) else dtype}")
        for loss in losses
        for dtype in some_types_for(loss, types)
    ]


def some_types_for(loss, types):
    """Half of `types_for`, other ones for other configurations: kernels take most of the time that tests take."""
    offered = types_for(loss.name, types)
    first = turn(f"{loss.name} {loss.variant()}", range(len(offered)))
    return [offered[(first + number) % len(offered)] for number in range((len(offered) + 1) // 2)]


def with_reduction(loss, reduction, **changes):
    """The same configuration with another reduction."""
    return dataclasses.replace(loss, reduction=reduction, **changes)


# -- operands ------------------------------------------------------------------------------------------------


def is_rowwise(loss):
    return loss.family == "rowwise"


def is_indexed(loss):
    return getattr(loss, "indexed", False)


def takes_unit_targets(loss):
    """Whether targets are probabilities, classes or the like: numbers from 0 to 1, or class numbers."""
    return loss.domain().y_true in ("unit", "binary", "distribution", "label")


def takes_probabilities(loss):
    """Whether predictions are probabilities."""
    return loss.domain().y_pred == "probability"


def loss_shape(loss, shape):
    """Shape of the losses for predictions of a shape."""
    if not is_rowwise(loss):
        return tuple(shape)
    axes = axes_of(loss, shape)
    return tuple(extent for axis, extent in enumerate(shape) if axis not in axes)


def axes_of(loss, shape):
    """The axes that a row runs along, ascending."""
    return class_axes(loss, np.broadcast_to(0.0, shape))


def computing(loss, dtype):
    """The precision that kernels compute in, for predictions of a dtype."""
    if not is_rowwise(loss):
        return "float64" if dtype == "float64" else "float32"
    return loss.formula().computing(dtype)


def plain(loss, shape, rng):
    """Random well-conditioned operands as (y_true, y_pred): float64, or int64 labels."""
    if is_rowwise(loss):
        axes, rows = axes_of(loss, shape), loss_shape(loss, shape)
        y, p = (drawn_rows(numbers, (*rows, math.prod(shape[axis] for axis in axes)), rng) for numbers in loss.domain())
        y = _with_ignored(loss, y, rng) if is_indexed(loss) else classes_back(y, axes, shape)
        return y, classes_back(p, axes, shape)
    true, pred = loss.domain()
    y = drawn(true, shape, rng)
    return y, y + rng.normal(0.0, 1.5, shape) if (true, pred) == ("real", "real") else drawn(pred, shape, rng)


def drawn(numbers, shape, rng):
    """Random well-conditioned numbers of a set (see `families.declaration.SETS`); those of a row are by the row."""
    match numbers:
        case "real":
            return rng.normal(0.0, 1.0, shape)
        case "logit":
            return rng.normal(0.0, 2.0, shape)
        case "positive":
            return rng.gamma(2.0, 0.6, shape) + 0.05
        case "non_negative":
            return np.where(rng.random(shape) < 0.5, rng.integers(0, 5, shape), rng.gamma(2.0, 1.0, shape))
        case "unit":
            soft, hard = rng.uniform(0.0, 1.0, shape), rng.integers(0, 2, shape).astype(float)
            return np.where(rng.random(shape) < 0.5, soft, hard)
        case "sign":
            return 2.0 * rng.integers(0, 2, shape) - 1.0
        case "binary":
            return rng.integers(0, 2, shape).astype(float)
        case "probability":
            return rng.uniform(0.02, 0.98, shape)
        case "log_probability":
            return np.log(rng.uniform(0.02, 0.98, shape))
    raise ValueError(numbers)


def drawn_rows(numbers, shape, rng):
    """The same for rows, shape (..., classes), where that makes a difference."""
    *rows, classes = shape
    match numbers:
        case "label":
            return rng.integers(0, max(classes, 1), rows)
        case "probability":
            p = rng.gamma(2.0, 1.0, shape) + 0.05
            return p * rng.uniform(0.5, 2.0, (*rows, 1)) / p.sum(axis=-1, keepdims=True)
        case "distribution":
            labels = rng.integers(0, max(classes, 1), rows)
            soft = rng.gamma(1.0, 1.0, shape)
            soft /= soft.sum(axis=-1, keepdims=True)
            one_hot = np.asarray(np.arange(classes) == labels[..., None], float)
            return np.where(rng.random((*rows, 1)) < 0.5, soft, one_hot)
        case "log_probability" | "log_distribution":
            x = rng.normal(0.0, 1.5, shape)
            return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return drawn(numbers, shape, rng)


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


#: Targets that hard predictions are paired with, by their set.
_TARGETS = {
    "real": [0.0, 1.0, -2.5, 1e4],
    "unit": [0.0, 1.0, 0.5, 0.9],
    "sign": [-1.0, 1.0],
    "binary": [0.0, 1.0],
    "non_negative": [0.0, 1.0, 0.25, 30.0],
    "positive": [1.0, 0.25, 1e-3, 30.0],
}


def _hard_predictions(loss, numbers, dtype, infinite):
    tiny, largest = float(np.finfo(dtype).tiny), float(np.finfo(dtype).max)
    match numbers:
        case "real":
            steps = [0.0, 1e-4, 1.0, 1e6, largest / 4, tiny / 8]
            return _neighbours([sign * step for step in steps for sign in (1, -1)], dtype)
        case "positive" | "non_negative":
            found = _neighbours([4 * tiny, 1e-8, 1e-3, 0.5, 1.0, 3.0, 1e4, 1e6], dtype)
            return found if numbers == "positive" else np.append(found, 0.0)
        case "probability":
            margins = [0.0, getattr(loss, "epsilon", 1e-7), tiny, 1e-3]
            return _neighbours([*margins, *(1.0 - margin for margin in margins), 0.5, -0.5, 1.5], dtype)
    steps = [0.0, tiny / 8, 1e-8, 0.5, 17.0, 30.0, 80.0, 88.8, 104.0, 700.0, 746.0, 1e4, 1e30]
    steps += [np.inf] if infinite else []
    signs = (-1,) if numbers == "log_probability" else (1, -1)
    return np.array([sign * step for step in steps for sign in signs])


def _around_kinks(kinks, target, dtype):
    """Each kink and the nearest predictions whose difference from the target is on either side of it."""
    kinks = np.array(kinks, dtype)
    step = np.spacing(np.maximum(abs(kinks), np.maximum(dtype.type(abs(target)), abs(kinks - dtype.type(target)))))
    return np.concatenate([kinks, kinks + step, kinks - step]).astype(np.float64)


def _extreme_elements(loss, dtype, infinite):
    true, pred = loss.domain()
    p, y = np.meshgrid(_hard_predictions(loss, pred, dtype, infinite), _TARGETS[true])
    if (true, pred) == ("real", "real"):
        p = np.where(abs(p) < 1e12, y + p, p)
    pairs = [(y.ravel(), p.ravel())]
    for target in _TARGETS[true]:
        edges = _around_kinks(loss.kinks(np.array(target)), target, dtype)
        pairs.append((np.full(edges.size, target), edges))
    y, p = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return y.astype(np.float64), p.astype(dtype).astype(np.float64)


#: Rows of five logits: ties, tails, and numbers that leave no room for others.
_LOGITS = [
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


def _hard_rows(loss, numbers, dtype, infinite):
    """Rows of five hard predictions of a set."""
    epsilon = getattr(loss, "epsilon", 1e-7)
    match numbers:
        case "probability":
            return [
                [0.2, 0.2, 0.2, 0.2, 0.2],
                [0.2, 0.2, 0.2, 0.0, 0.0],
                [1.0, 0.0, 0.0, 0.0, 0.0],
                [0.0, 0.0, 3.0, 0.0, 0.0],
                [1.0, 1e-8, 1e-30, 1e-3, 0.5],
                [1.0 - epsilon, epsilon, 0.0, 0.0, 0.0],
                [1.0 - epsilon * 0.5, epsilon * 0.5, 0.0, 0.0, 0.0],
                [0.9375, 0.0625, 0.0, 0.0, 0.0],
                [1e4, 2e4, 3e4, 4e4, 5e4],
            ]
        case "unit":
            near = [1.0, 0.0, 1e-8, 1.0 - 1e-7, 0.5]
            return [[0.2] * 5, [0.0] * 5, [1.0] * 5, [1.0, 0.0, 0.0, 0.0, 0.0], near, [1e-30, 1e-8, 0.0, 0.0, 0.0]]
        case "distribution":
            rows = np.array(_hard_rows(loss, "probability", dtype, infinite))
            return (rows / rows.sum(axis=1, keepdims=True)).tolist()
        case "log_probability" | "log_distribution":
            rows = np.array(_LOGITS[:7] + _LOGITS[8:] + [[-np.inf, 0.0, 1.0, 1.0, -np.inf]] * infinite)
            largest = rows.max(axis=1, keepdims=True)
            exact = rows - largest - np.log(np.exp(rows - largest).sum(axis=1, keepdims=True))
            return [*exact.tolist(), [1.0, -1.0, 2.0, 0.0, -3.0]]  # nor need they be normalised
        case "real":
            tiny, largest = 4 * float(np.finfo(dtype).tiny), float(np.finfo(dtype).max) / 4
            rows = [[1.0, 2.0, 3.0, -4.0, 5.0], [0.0] * 5, [0.0, 0.0, 1.0, 0.0, 0.0], [1e-30, 2.0, 1e30, -1.0, 0.0]]
            return [*rows, [tiny, -tiny, 0.0, tiny, tiny], [largest, -largest, 0.0, largest, 1.0]]
        case "logit":
            return _LOGITS + [[-np.inf, 1.0, 2.0, 2.0, 0.0]] * infinite
    raise ValueError(numbers)


def _hard_targets(loss, numbers, places, x):
    """Rows of targets of a set, one for each row of predictions; ``places`` are numbers of their classes."""
    if numbers == "label":
        return places
    one_hot = np.asarray(np.arange(5) == places[:, None], float)
    even = places[:, None] % 2 == 0
    match numbers:
        case "distribution":
            soft = np.where(even, one_hot, 0.9 * one_hot + 0.02)
            epsilon = getattr(loss, "epsilon", 1e-7)
            if 0 < epsilon < 1:  # a class at the clip
                at_clip = (1.0 - epsilon) * one_hot + epsilon * np.roll(one_hot, 1, axis=1)
                soft = np.where(places[:, None] == 3, at_clip, soft)
        case "binary" | "unit":
            soft = np.where(even, one_hot, 1.0 - one_hot) if numbers == "binary" else np.where(even, one_hot, 0.25)
            soft = np.where(places[:, None] == 4, 0.0, soft)
        case "real":  # as the prediction, against it, across, without length, and anyhow
            soft = np.choose(places[:, None], [0.5 * x, -x, one_hot, 0.0 * x, x[:, ::-1] + 1.0])
        case "probability":
            soft = 0.9 * one_hot + 0.02
        case "log_distribution":
            soft = np.log(0.9 * one_hot + 0.02) - np.where(even, 0.0, 1e4 * (1.0 - one_hot))
        case _:
            raise ValueError(numbers)
    return soft if numbers == "log_distribution" else np.where(np.isfinite(x), soft, one_hot)


def _extreme_rows(loss, dtype, infinite):
    true, pred = loss.domain()
    rows = _hard_rows(loss, pred, dtype, infinite)
    x, places = _paired(np.array(rows), np.arange(5))
    if infinite and pred == "logit":
        more, other = _paired(np.array([[-np.inf] * 4 + [5.0]]), np.array([4]))
        x, places = np.concatenate([x, more]), np.concatenate([places, other])
    y = _hard_targets(loss, true, places, x)
    if is_indexed(loss) and getattr(loss, "ignore_class", None) is not None:
        y[::7] = loss.ignore_class
    return y, x.astype(dtype).astype(np.float64)


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
    """An array that notes, for every comparison in a formula, left minus right.

    A zero that is compared with another number is exact, and far from it: a difference of -1 or 1.
    """

    formula_namespace = _Rewrapped()
    noted: dict = {}  # noqa: RUF012  one log at a time

    def _note(self, other, operator):
        if other is self:  # only NaN differs from itself
            return
        site, frame = [operator], sys._getframe(2)
        while frame.f_code.co_name not in ("call_by_name", "element_results"):
            site.append(f"{frame.f_code.co_name}:{frame.f_lineno}:{frame.f_lasti}")
            frame = frame.f_back
        left, right = np.asarray(self), np.asarray(other)
        same = left == right  # also where both are infinite
        difference = np.where(left == 0.0, np.sign(left - right), left - right)
        self.noted[tuple(site)] = np.where(same, 0.0, difference)

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
        if loss.several:
            shape = p[0].shape
            pair_results(loss, {n: np.asarray(v).view(Watched) for n, v in pair_values(loss, y, p).items()})
        elif is_rowwise(loss):
            values, labels = row_values(loss, y, p)
            values = {n: np.asarray(v).view(Watched) if n != "classes" else v for n, v in values.items()}
            formula, shape = loss.formula(), values["x"].shape
            _, values = row_results(formula, linked(formula, values))
            row_gradients(formula, values, labels)
        else:
            watched, shape = [np.asarray(a, np.float64).view(Watched) for a in (y, p)], p.shape
            parameters = {n: np.asarray(v).view(Watched) for n, v in element_parameters(loss, p).items()}
            element_results(loss.formulas()[loss.variant()], parameters, *watched)
    return {site: np.broadcast_to(found, shape) for site, found in Watched.noted.items()}


def _moved(loss, y, p):
    """Operands with every number that derivatives are taken by a little larger or smaller."""
    x = np.asarray(y if differentiates_targets(loss) else p, np.float64)
    x = x * np.random.default_rng(0).uniform(1.0 - 1e-12, 1.0 + 1e-12, x.shape)
    return (x, p) if differentiates_targets(loss) else (y, x)


def near_kink(loss, y, p, margin):
    """Elements (rows, for a rowwise loss) where some comparison would come out otherwise within a margin.

    Operands that are equal do not count: random operands are equal only where the formula makes them so (the
    largest logit and the row's peak). Nor do those that stay when what is differentiated by moves a little.
    """
    near = np.zeros(1, bool) if is_rowwise(loss) else np.zeros(np.shape(p), bool)
    moved = watch(loss, *_moved(loss, y, p))
    for site, difference in watch(loss, y, p).items():
        near = near | ((difference != 0.0) & (abs(difference) < margin) & (difference != moved[site]))
    return np.broadcast_to(near.any(axis=-1), loss_shape(loss, np.shape(p))) if is_rowwise(loss) else near
