"""Accuracy against 50 digits, from which nothing hides behind a second implementation's roundings.

What counts as well conditioned is measured, not assumed. Every number that a formula reads (target, prediction,
parameter, class weight) is moved by half an ulp of the working precision, one at a time and both ways, and the exact
result is computed again: the sum of the changes, in ulp of the result, is what rounding the inputs alone would do
(`sensitivity`). Hard targets (0 and 1; counts), numbers that are 0 and parameters at their defaults are exact and not
moved, so that cancellation against a one-hot target is not excused. A clip margin is moved by half an ulp of 1,
because the bound that counts is the rounded 1 - epsilon.

Where the sensitivity is at most 1 ulp, an element's result must be within 4 ulp. Elsewhere it must be within
4 ulp and 9 times the sensitivity, one for each rounding on the way: see EXPLAINED. What a link makes of predictions is
moved like them, as it is rounded too. Results below the smallest normal number may be flushed to zero, and so may
small multiples of one that was: see `lost`.
"""

import dataclasses

import numpy as np
import pytest
from exact import ZERO, Exact, exact_inputs, exact_results, number, ulp
from representatives import THOROUGH
from sampling import (
    DTYPES,
    LOSSES,
    SWEPT,
    cast,
    computing,
    extreme,
    formula_configurations,
    in_types,
    is_indexed,
    is_rowwise,
    label_of,
    plain,
    variants,
    with_reduction,
)

WORKING = [np.float32, np.float64]
VARIANTS = [pytest.param(loss, id=label_of(loss)) for loss in SWEPT]


def all_configurations():
    """Every loss's configurations in both types; of most losses, some configurations in one, by turns."""
    for name, cls in LOSSES.items():
        first = variants(cls)
        for turn, loss in enumerate(formula_configurations(cls)):
            for dtype in WORKING if name in THOROUGH or loss in first else WORKING[turn % 2 :][:1]:
                yield pytest.param(loss, dtype, id=f"{label_of(loss)}-{dtype.__name__}")


every_configuration = pytest.mark.parametrize(("loss", "dtype"), list(all_configurations()))

ULPS = 4
#: A softmax Hessian, ``mass kept share (missing share)``, has factors of 0.5, 1, 1, 1 and 1 ulp and rounds 4 products.
HESSIAN_ULPS = 6.5
#: Value, gradient and Hessian where that is less than what the formula rounds. Overlaps from logits: a sum of products
#: with sigmoids has 3 ulp; the value is a quotient of two. The gradient divides one by two more and rounds both, times
#: a sigmoid's slope of 3 ulp, and rounds 2 products; the Hessian has a factor of 4 ulp and a product besides.
MORE_ULPS = dict.fromkeys((("dice", "logit"), ("tversky", "logit")), (ULPS, 14.0, 18.5))
#: Focal from logits: 1 - q is a sigmoid of 2 ulp (exponential 1, sum and quotient 0.5 each), and its power, at most 2.5
#: here, 2.5 times that and 1 of its own; the entropy, a softplus, has 2, and both products 1. In the gradient the
#: entropy has a rate of 2 ulp and 2 more products besides. In the Hessian that has a factor of 2.5 and 2 products.
MORE_ULPS["binary_focal_crossentropy", "logit"] = (9.0, 12.0, 15.5)
#: Jensen-Shannon: ``log1p(b expm1(apart))`` has 1.3 ulp and those of its argument, 1 and a product, at most 1.45 times
#: (where that is -1/2); 1 - b, a sum and a product follow.
MORE_ULPS["jensen_shannon", "probability"] = (ULPS, 5.0, HESSIAN_ULPS)
WELL_CONDITIONED = 1.0
#: How sensitive results may be that the comparison must not be without. Every one of a focal loss depends on several
#: probabilities and on a power: none on its inputs' roundings by less than 1 ulp, half by less than 3.
NOT_WITHOUT = {"categorical_focal_crossentropy": 3.0}
#: Roundings that one input passes before a difference that cancels, at most: 4 in a smoothed target
#: (1 - s, the product, s / classes, the sum), 4 in a sum of five classes, 1 in a division.
EXPLAINED = 9.0
#: Relative accuracy of a reduced value; a single loss is held to ulps.
VALUE = {np.float32: 1e-7, np.float64: 1e-14}


# -- how much the exact result depends on its inputs ---------------------------------------------------------


def half_ulps(loss, name, numbers, dtype):
    """Half an ulp of each number; 0 for numbers that are exact."""
    half = number(2) ** (-np.finfo(dtype).nmant - 1)
    fields = {field.name: field for field in dataclasses.fields(loss)}
    setting = getattr(loss, name, None)
    fixed = name == "classes" or isinstance(setting, bool) or (name in fields and setting == fields[name].default)
    if fixed and not _is_margin(fields.get(name)):
        return np.full(numbers.shape, ZERO, object)
    if _is_margin(fields.get(name)):
        return np.full(numbers.shape, half, object)
    exact = (0, 1) if name == "y" else (0,)
    counts = name == "y" and loss.domain().y_true == "non_negative"
    steps = [
        ZERO if given in exact or (counts and given == int(given)) else abs(given) * half for given in numbers.ravel()
    ]
    return np.array(steps, object).reshape(numbers.shape)


def _is_margin(field):
    return field is not None and field.metadata["rule"].words == "in (0, 0.5)"


def moved(loss, inputs, dtype):
    """Pairs of inputs with one number of every element or row moved half an ulp up and down."""
    for name, numbers in inputs.items():
        numbers = np.asarray(numbers, object)
        steps = half_ulps(loss, name, numbers, dtype)
        per_class = is_rowwise(loss) and numbers.ndim
        for position in range(numbers.shape[-1]) if per_class else [slice(None)]:
            step = np.full(numbers.shape, ZERO, object)
            step[(..., position) if numbers.ndim else ()] = steps[(..., position) if numbers.ndim else ()]
            if np.any(step != 0):
                yield tuple({**inputs, name: np.asarray(numbers + d, object).view(Exact)} for d in (step, -step))


def distance(left, right):
    """|left - right| of exact numbers, as float64; 0 where both are the same infinity."""
    flat = zip(np.asarray(left, object).flat, np.asarray(right, object).flat, strict=True)
    differences = [0.0 if a == b else float(abs(a - b)) for a, b in flat]
    return np.array(differences).reshape(np.shape(left))


def sensitivity(loss, inputs, labels, results, dtype):
    """What moving every input by half an ulp does to value, gradient and Hessian, in ulp."""
    changes = [np.zeros(np.shape(result)) for result in results]
    for pair in moved(loss, inputs, dtype):
        others = [exact_results(loss, one, labels) for one in pair]
        for change, result, up, down in zip(changes, results, *others, strict=True):
            with np.errstate(over="ignore", invalid="ignore"):
                step = np.fmax(distance(up, result), distance(down, result)) / ulp_of(result, dtype)
                change += np.where(np.isnan(step), 0.0, step)  # inf / inf: beyond the largest number anyway
    return changes


def sensitivity_of_some(loss, y, p, results, rows):
    """The same for some rows (elements), and 0 for the others: it takes ten times as long as the exact results."""
    changes = [np.zeros(np.shape(result)) for result in results]
    if rows.any():
        some = [np.asarray(result, object)[rows] for result in results]
        inputs, labels = exact_inputs(loss, y[rows], p[rows])
        for change, found in zip(changes, sensitivity(loss, inputs, labels, some, p.dtype.type), strict=True):
            change[rows] = found
    return changes


def rows_of(elements):
    """Rows with at least one of some elements."""
    return elements.reshape(len(elements), -1).any(axis=1)


def ulp_of(results, dtype):
    return ulp(np.array([float(x) for x in np.asarray(results, object).flat]).reshape(np.shape(results)), dtype)


def lost(loss, p, dtype):
    """What flushing costs: of the smallest normal number, the largest multiple that may be 0.

    Exponentials and products below that number count as 0 (ARCHITECTURE.md), and whatever multiplies them afterwards
    with them. That is at most 2 (the largest coefficient in gradients and Hessians) but where a parameter says more: an
    element of poly-1 cross-entropy whose target is 0 has p (1 + epsilon sum(y p)), y a distribution. A penalty adds the
    slope 2 z |log-sum-exp| to that coefficient; a link's slope, in Hessians squared, is up to 1 / temperature, of a cap
    4 times that and an exponential which counts as 0 itself.

    Or a logarithm does, and p |log p| is largest where p is. In the Hessian of categorical focal cross-entropy an
    element has alpha p (y gamma (2 + |log p|) + at most 1 + gamma, the sum of slopes). Of the Jensen-Shannon divergence
    it has p (2 + softplus(log y - log p + log(beta / (1 - beta)))), and p (2 + log y - log p) where beta is 1.
    """
    if loss.name == "poly1_crossentropy":
        return max(2.0, 1.0 + abs(loss.epsilon))
    if loss.name == "categorical_focal_crossentropy":
        return max(2.0, np.max(loss.alpha) * (1.0 + loss.gamma * (3.0 - np.log(np.finfo(dtype).tiny))))
    if loss.name == "jensen_shannon":
        odds = loss.beta / (1.0 - loss.beta) if loss.beta < 1.0 else 1.0
        return 3.0 + np.log(max(1.0, odds)) - np.log(np.finfo(dtype).tiny)
    if not is_rowwise(loss) or not loss.around():
        return 2.0
    largest = abs(p).max(axis=-1, keepdims=True) if loss.softcap is None else loss.softcap
    pull = 2.0 * loss.z_loss * (largest / loss.temperature + np.log(p.shape[-1]))
    return (2.0 + pull) * (1.0 if loss.softcap is None else 4.0) / min(loss.temperature, 1.0) ** 2


def errors(actual, results, dtype, lost=2.0):
    """|actual - exact| in ulp; what overflows must be infinite, what underflows may be 0."""
    limits = np.finfo(dtype)
    expected = np.array([float(x) for x in np.asarray(results, object).flat]).reshape(np.shape(results))
    actual = np.asarray(actual, np.float64)
    infinite = np.copysign(np.inf, expected)
    large = abs(expected) > float(limits.max) * (1 - 2.0**-limits.nmant)
    found = np.zeros(np.shape(expected))
    fine = np.isfinite(actual) & np.isfinite(expected) & ~large
    found[fine] = distance(exact_of(actual[fine]), np.asarray(results, object)[fine])
    flushed = (abs(expected) < lost * float(limits.tiny)) & (actual == 0)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.where(flushed, 0.0, found / ulp(expected, dtype))
    return np.where(fine | (large & (actual == infinite)), found, np.inf)


def exact_of(numbers):
    return np.array([number(float(x)) for x in numbers], object)


# -- the comparison ------------------------------------------------------------------------------------------


def judge(loss, y, p, share=False):
    """Compare losses, gradient and Hessian with the exact ones; give the share that is well conditioned, if asked for.

    How far their inputs' roundings explain results is asked of those only that are further off than others may be.
    """
    dtype = p.dtype.type
    exact = exact_results(loss, *exact_inputs(loss, y, p))
    counted = kept(loss, y)
    # Smoothed away entirely, a target is the rounded 1 / classes, which no input moves: 1 ulp of 1 is for that.
    smoothed_away = getattr(loss, "label_smoothing", 0.0) == 1.0
    uniform = np.full(1, np.finfo(dtype).eps if smoothed_away else 0.0)
    losses, gradient, hessian = with_reduction(loss, "none").value_grad_and_hess(y, p)
    actual = (losses.reshape(exact[0].shape), gradient, hessian)
    off = [
        errors(result, right, dtype, lost(loss, np.asarray(p, np.float64), dtype))
        for result, right in zip(actual, exact, strict=True)
    ]
    asked = np.logical_or.reduce([rows_of(~(error <= base)) for error, base in zip(off, rounded(loss), strict=True)])
    spread = sensitivity_of_some(loss, y, p, exact, counted & (asked | share))
    well_conditioned = 0
    for what, result, right, error, change, base in zip(
        ("value", "grad", "hess"), actual, exact, off, spread, rounded(loss), strict=True
    ):
        assert all(given == given for given in np.asarray(right)[counted].flat), f"{what}: the formula gives NaN"
        error, change = error[counted], change[counted]
        well = change <= WELL_CONDITIONED
        well_conditioned += (change <= NOT_WITHOUT.get(loss.name, WELL_CONDITIONED)).sum()
        with np.errstate(over="ignore"):
            allowed = base + np.where(well, 0.0, EXPLAINED * change) + uniform / ulp_of(right, dtype)[counted]
        worst = int(np.argmax(~(error <= allowed)))
        assert (error <= allowed).all(), (
            f"{what}: {error.flat[worst]:.3g} ulp off, inputs explain {change.flat[worst]:.3g}; "
            f"got {np.asarray(result, float)[counted].flat[worst]!r}, "
            f"exact {float(np.asarray(right, object)[counted].flat[worst])!r}"
        )
    return well_conditioned / sum(np.size(result[counted]) for result in actual)


def rounded(loss):
    """How many ulp value, gradient and Hessian of well-conditioned inputs may be off."""
    usual = (ULPS, ULPS, HESSIAN_ULPS)
    return MORE_ULPS.get((loss.name, loss.domain().y_pred), usual)


def flags(loss):
    """The configuration's parameters that are True or False."""
    return {field.name: value for field in dataclasses.fields(loss) if type(value := getattr(loss, field.name)) is bool}


def kept(loss, y):
    """Rows (elements) that are not ignored."""
    ignored = getattr(loss, "ignore_class", None)
    return y != ignored if is_indexed(loss) and ignored is not None else np.ones(y.shape[:1], bool)


@every_configuration
def test_plain_operands(loss, dtype):
    rows = 40 if loss.name in THOROUGH else 16
    y, p = cast(*plain(loss, (rows, 5) if is_rowwise(loss) else (5 * rows,), np.random.default_rng(5)), np.dtype(dtype))
    usual = loss == type(loss)(**flags(loss))
    share = judge(loss, y, p, share=usual)
    # Not a tolerance: that the comparison at 4 ulp is not empty. Exact zeros are what is well conditioned among
    # distributions, 0.19 of the results here; of their logarithms 0.045 are, of random vectors 0.034.
    assert share > (0.15 if loss.name in THOROUGH else 0.03) or not usual


@every_configuration
def test_extreme_operands(loss, dtype):
    y, p = cast(*extreme(loss, dtype), np.dtype(dtype))
    judge(loss, y, p)


@pytest.mark.parametrize(("loss", "dtype"), in_types(SWEPT, WORKING))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reduced_value(loss, reduction, dtype):
    """One number of many losses: 1e-7 in float32, 1e-14 in float64."""
    loss = with_reduction(loss, reduction)
    y, p = cast(*plain(loss, (300, 5), np.random.default_rng(6)), np.dtype(dtype))
    exact = exact_results(loss, *exact_inputs(loss, y, p))[0][kept(loss, y)]
    truth = sum(exact.flat) / (exact.size if reduction == "mean" else 1)
    value = loss.value_grad_and_hess(y, p)[0]
    assert abs(value - truth) <= VALUE[dtype] * abs(truth)


@pytest.mark.parametrize("dtype", WORKING)
@pytest.mark.parametrize("loss", VARIANTS)
def test_gradient_of_a_mean(loss, dtype):
    """The normaliser's own rounding stays within the 4 ulp."""
    y, p = cast(*plain(loss, (30, 5) if is_rowwise(loss) else (150,), np.random.default_rng(7)), np.dtype(dtype))
    exact = exact_results(loss, *exact_inputs(loss, y, p))
    counted = kept(loss, y)
    losses = exact[0][counted].size
    error = errors(loss.value_grad_and_hess(y, p)[1], np.asarray(exact[1], object) / losses, dtype)
    change = sensitivity_of_some(loss, y, p, exact, rows_of(~(error <= rounded(loss)[1])))[1]
    assert error[counted][change[counted] <= WELL_CONDITIONED].max(initial=0.0) <= rounded(loss)[1]


@pytest.mark.parametrize("dtype", WORKING)
@pytest.mark.parametrize("classes", [1, 2, 33, 64, 95, 96, 97, 159, 160, 161, 193, 1000])
@pytest.mark.parametrize("name", [name for name in THOROUGH if is_rowwise(LOSSES[name])])
def test_logits_of_many_classes(name, classes, dtype):
    """Logits in [-1/2, 1/2] are well conditioned, whatever their number: each moves a gradient by 1/2 ulp at most."""
    loss = LOSSES[name](from_logits=True, reduction="sum")
    rng = np.random.default_rng(classes)
    y, _ = plain(loss, (3, classes), rng)
    x = rng.uniform(-0.5, 0.5, (3, classes)).astype(dtype)
    if not is_indexed(loss):
        y = np.asarray(np.arange(classes) == rng.integers(0, classes, (3, 1)), dtype)
    exact = exact_results(loss, *exact_inputs(loss, y, x))
    value, *results = loss.value_grad_and_hess(y, x)
    for result, right, bound in zip(results, exact[1:], (ULPS, HESSIAN_ULPS), strict=True):
        assert errors(result, right, dtype).max() <= bound
    assert errors([[value]], [[sum(exact[0].flat)]], dtype).max() <= ULPS


@pytest.mark.parametrize(("loss", "narrow"), in_types(SWEPT, ["float16", "bfloat16"]))
def test_narrow_results_are_wide_results_rounded_once(loss, narrow):
    """float32's, or float64's where a formula computes in float64 whatever it is given."""
    rng = np.random.default_rng(8)
    wide = computing(loss, narrow)
    for y, p in (plain(loss, (50, 5), rng), extreme(loss, np.float32)):
        y, p = cast(y, p, DTYPES[narrow])
        value, *results = loss.value_grad_and_hess(y, p)
        expected_value, *expected = loss.value_grad_and_hess(*cast(y, p, DTYPES[wide]))
        if is_rowwise(loss):
            np.testing.assert_equal(value, expected_value)
        else:  # the sums of 4 are rounded twice to float32: half an ulp, 2^-24, each
            np.testing.assert_allclose(value, expected_value, rtol=2.0**-23)
        for result, right in zip(results, expected, strict=True):
            assert result.dtype == DTYPES[narrow]
            with np.errstate(over="ignore", under="ignore"):
                rounded = right.astype(DTYPES[narrow])
            np.testing.assert_array_equal(result.astype(np.float32), rounded.astype(np.float32))


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_finite_losses_of_narrow_predictions_do_not_overflow(narrow):
    """Four of them are added in float32, where the sum of these would be infinite."""
    target = np.full(100, 2.0**127, np.float32)
    loss = LOSSES["mean_absolute_error"]()
    assert loss(target, np.zeros(100, DTYPES[narrow])) == 2.0**127


# -- the comparison finds what is wrong ----------------------------------------------------------------------


class _Off:
    """A loss whose gradient is some ulp off."""

    def __init__(self, loss, ulps):
        self.loss, self.ulps = loss, ulps

    def value_grad_and_hess(self, y, p):
        value, grad, hess = self.loss.value_grad_and_hess(y, p)
        return value, grad + (self.ulps * np.spacing(grad)).astype(grad.dtype), hess


@pytest.mark.parametrize("dtype", WORKING)
def test_a_gradient_off_by_some_ulp_is_found(dtype, monkeypatch):
    """On one loss of each family and both precisions."""
    for loss in (LOSSES["huber"](), LOSSES["sparse_categorical_crossentropy"](from_logits=True)):
        y, p = cast(*plain(loss, (40, 5) if is_rowwise(loss) else (200,), np.random.default_rng(5)), np.dtype(dtype))
        judge(loss, y, p)
        with monkeypatch.context() as patch:
            off = _Off(with_reduction(loss, "none"), 6)
            patch.setitem(judge.__globals__, "with_reduction", lambda loss, reduction, off=off: off)
            with pytest.raises(AssertionError, match="grad"):
                judge(loss, y, p)
