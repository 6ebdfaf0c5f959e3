"""Gradients are the derivatives of values, Hessians those of gradients, by central differences in float64.

No other implementation is asked: this catches a gradient that belongs to another loss, a weight that is forgotten
on one side, a wrong axis. `test_flipped_sign` and its neighbours then break every formula and every call on
purpose, and require that the very same checks notice.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from mutants import mutant, mutations
from representatives import THOROUGH
from sampling import (
    LOSSES,
    SWEPT,
    axes_of,
    computing,
    configurations,
    differentiates_targets,
    is_indexed,
    is_rowwise,
    label_of,
    loss_shape,
    near_kink,
    plain,
    takes_probabilities,
    variants,
    with_reduction,
)

from fastloss.reference import evaluate

VARIANTS = [pytest.param(loss, id=label_of(loss)) for loss in SWEPT]
ROWWISE = [parameter for parameter in VARIANTS if is_rowwise(parameter.values[0])]

#: Step of the differences; of probabilities, as a part of their distance from 0 and 1. The differences are off by
#: about step^2 f''' / 6 and 2^-53 f / step: some 1e-9 of the largest slope.
STEP = 1e-5
RELATIVE_STEP = 5e-5
TOLERANCE = 1e-7


def by_kernels(loss):
    """A loss's value, gradient and Hessian; that the five calls agree is the business of test_calls.py."""
    return SimpleNamespace(
        loss=loss,
        value=lambda *operands, **options: loss.value_grad_and_hess(*operands, **options)[0],
        grad=lambda *operands, **options: loss.value_grad_and_hess(*operands, **options)[1],
        hess=lambda *operands, **options: loss.value_grad_and_hess(*operands, **options)[2],
    )


def by_reference(loss):
    """The same from `fastloss.reference`, which needs no compiler."""
    return SimpleNamespace(
        loss=loss,
        results=lambda *operands: evaluate(loss, *operands),
        value=lambda *operands, **options: evaluate(loss, *operands, **options)[0],
        grad=lambda *operands, **options: evaluate(loss, *operands, **options)[1],
        hess=lambda *operands, **options: evaluate(loss, *operands, **options)[2],
    )


def step_at(numbers, x):
    """How far a number of some set may be moved without leaving it."""
    match numbers:
        case "probability" | "distribution" | "unit":
            return RELATIVE_STEP * (min(x, abs(1.0 - x)) or 1.0)
        case "positive" | "non_negative":
            return RELATIVE_STEP * x
    return STEP


def differences(loss, function, y, p):
    """Central differences of a function of (y, p) by every element of p, or of y where the loss differentiates that.

    Results are stacked along the first axis.
    """
    by_targets, slopes = differentiates_targets(loss), []
    numbers, x = (loss.domain().y_true, y) if by_targets else (loss.domain().y_pred, p)
    for index in np.ndindex(x.shape):
        step = step_at(numbers, x[index])
        upper, lower = x.copy(), x.copy()
        upper[index] += step
        lower[index] -= step
        ends = [function(end, p) if by_targets else function(y, end) for end in (upper, lower)]
        slopes.append((ends[0] - ends[1]) / (upper[index] - lower[index]))
    return np.array(slopes)


def check_gradient(calls, y, p, **options):
    """Compare the gradient with differences of the value (reduction="none": of the sum of its values)."""
    slopes = differences(calls.loss, lambda *operands: np.sum(calls.value(*operands, **options)), y, p)
    compare(calls.grad(y, p, **options), slopes.reshape(p.shape), smooth(calls.loss, y, p))


def check_hessian(calls, y, p, **options):
    """Compare the Hessian's diagonal with differences of the gradient."""
    slopes = differences(calls.loss, lambda *operands: calls.grad(*operands, **options).ravel(), y, p)
    compare(calls.hess(y, p, **options), np.diagonal(slopes).reshape(p.shape), smooth(calls.loss, y, p))


CHECKS = {"gradient": check_gradient, "hessian": check_hessian}


def smooth(loss, y, p):
    """Where no kink lies within some steps."""
    keep = ~near_kink(loss, y, p, 3 * STEP)
    assert keep.mean() >= 0.5
    return np.expand_dims(keep, axes_of(loss, p.shape)) & np.ones(p.shape, bool) if is_rowwise(loss) else keep


def compare(actual, expected, keep):
    scale = np.abs(expected).max() + 0.1
    np.testing.assert_allclose(actual[keep], expected[keep], rtol=TOLERANCE, atol=TOLERANCE * scale)


def inner(loss, y):
    """Targets with room on both sides: mixed with a uniform distribution where they are parts of a whole."""
    match loss.domain().y_true:
        case "unit":
            return 0.9 * y + 0.05
        case "distribution":
            return 0.9 * y + 0.1 / y.shape[loss.axis]
        case "non_negative":
            return y + 0.05
    return y


def case(loss, shape=(4, 5), seed=0):
    """Operands, and options that weigh every loss differently and leave some out."""
    rng = np.random.default_rng(seed)
    losses = loss_shape(loss, shape)
    mask, weight = rng.random(losses) < 0.7, rng.uniform(0.5, 2.0, losses[:1])
    while True:
        y, p = plain(loss, shape, rng)
        if differentiates_targets(loss):
            y = inner(loss, y)
        counts = np.flatnonzero(y != getattr(loss, "ignore_class", None) if is_indexed(loss) else mask | True)
        if len(counts) >= 3:
            mask.flat[counts[:3]] = True, False, True
            return y, p, {"sample_weight": weight, "mask": mask}


def all_configurations():
    """Every loss's configurations by the reference; by kernels those of the thorough ones, and one for each formula."""
    for name, cls in LOSSES.items():
        by_both = configurations(cls) if name in THOROUGH else variants(cls)
        for loss in configurations(cls):
            for source in (by_kernels, by_reference) if loss in by_both else (by_reference,):
                yield pytest.param(loss, source, id=f"{label_of(loss)}-{source.__name__}")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("loss", "source"), list(all_configurations()))
def test_derivatives(loss, check, source):
    each = with_reduction(loss, "none")
    for seed in range(2):
        y, p, _ = case(each, seed=seed)
        CHECKS[check](source(each), y, p)


@pytest.mark.parametrize("source", [by_kernels, by_reference])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("reduction", ["weighted_mean"])
@pytest.mark.parametrize("loss", VARIANTS)
def test_derivatives_with_weights_and_mask(loss, reduction, check, source):
    """The normaliser is the same for value, gradient and Hessian."""
    loss = with_reduction(loss, reduction)
    y, p, options = case(loss)
    for names in (("sample_weight", "mask"), ("sample_weight",), ("mask",)):
        CHECKS[check](source(loss), y, p, **{name: options[name] for name in names})
    CHECKS[check](source(loss), y, p, **options, normalizer=7.0)


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("loss", ROWWISE)
def test_derivatives_along_every_axis(loss, axis):
    """Five classes on any axis: also where rows and classes are as many."""
    loss = with_reduction(loss, "sum", axis=axis)
    for shape in ((5, 5), (5, 5, 2)):
        y, p, options = case(loss, shape)
        check_gradient(by_kernels(loss), y, p, **options)


@pytest.mark.parametrize("loss", [v for v in ROWWISE if not getattr(v.values[0], "class_weight", None)])
def test_derivatives_of_many_classes(loss):
    """Rows too long for the transposed sweep."""
    loss = with_reduction(loss, "none")
    y, p, _ = case(loss, (6, 97 if computing(loss, "float32") == "float64" else 161))
    check_gradient(by_kernels(loss), y, p)
    check_hessian(by_kernels(loss), y, p)


# -- the checks find what is wrong ---------------------------------------------------------------------------


def passes(check, *operands, **options):
    try:
        check(*operands, **options)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("loss", VARIANTS)
def test_flipped_sign(loss, tmp_path):
    """Every formula with a flipped sign, a factor or a shift is found, and the true one passes."""
    y, p, options = case(loss)
    tried, results = 0, by_reference(loss).results(y, p)
    for what, piece, changes, check in mutations(loss):
        wrong = by_reference(mutant(loss, piece, changes, tmp_path))
        if all(np.array_equal(*pair) for pair in zip(wrong.results(y, p), results, strict=True)):
            continue  # 0 has no other sign
        assert passes(CHECKS[check], by_reference(loss), y, p, **options)
        assert not passes(CHECKS[check], wrong, y, p, **options), f"not found: {what}"
        tried += 1
    assert tried >= 5


@pytest.mark.parametrize("name", ["huber", "categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_flipped_sign_in_kernels(name, tmp_path):
    """A flipped formula also reaches the kernels: none of the true loss's is taken for its own."""
    loss = LOSSES[name]()
    piece = "element" if is_rowwise(loss) else "formula"
    wrong = by_kernels(mutant(loss, piece, {0 if is_rowwise(loss) else 1: "-r"}, tmp_path))
    y, p, options = case(loss)
    assert passes(check_gradient, by_kernels(loss), y, p, **options)
    assert not passes(check_gradient, wrong, y, p, **options)


def broken_calls(loss, rowwise):
    """(what, calls) for what can go wrong around the formulas: the gradient does not go with the value."""
    right = by_kernels(loss)

    def broken(**methods):
        return SimpleNamespace(**{**vars(right), **methods})

    def dropping(name):
        def grad(y, p, **options):
            return right.grad(y, p, **{**options, name: None})

        return grad

    def other_axis(y, p, **options):
        return np.swapaxes(right.grad(y, p, **options), 0, 1)

    def other_row(y, p, **options):
        return np.roll(right.grad(y, p, **options), 1, axis=loss.axis - 1 if rowwise else 0)

    yield "no weight", broken(grad=dropping("sample_weight"))
    yield "no mask", broken(grad=dropping("mask"))
    yield "no normalizer", broken(grad=dropping("normalizer"))
    yield "another axis", broken(grad=other_axis)
    yield "another row", broken(grad=other_row)
    yield "a sum, not a mean", broken(grad=by_kernels(with_reduction(loss, "sum")).grad)


@pytest.mark.parametrize("loss", VARIANTS)
def test_what_goes_wrong_around_the_formulas_is_found(loss):
    y, p, options = case(loss, (5, 5))
    for what, calls in broken_calls(loss, is_rowwise(loss)):
        extra = {"normalizer": 7.0} if what == "no normalizer" else {}
        assert passes(check_gradient, by_kernels(loss), y, p, **options, **extra)
        assert not passes(check_gradient, calls, y, p, **options, **extra), f"not found: {what}"


def test_mutants_stay_out_of_the_registry(tmp_path):
    from fastloss.losses import registry

    before = registry()
    mutant(LOSSES["huber"](), "formula", {1: "-r"}, tmp_path)
    assert registry() == before


def test_cases_cover_targets_in_and_out_of_the_clip():
    """With epsilon = 0.0625 some probabilities are clipped: their gradient is 0, and that is a derivative too."""
    for cls in LOSSES.values():
        for loss in configurations(cls):
            if takes_probabilities(loss) and getattr(loss, "epsilon", None) == 0.0625:
                _, p, _ = case(loss, (40, 5))
                q = p / p.sum(axis=-1, keepdims=True) if is_rowwise(loss) else p
                assert 0 < ((q < 0.0625) | (q > 0.9375)).mean() < 0.7
