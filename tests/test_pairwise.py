"""Losses of several predictions at once: what they are, and how they are swept.

A module of its own, as their calls take other operands than a target and a prediction. What a loss is, is tested for
each of its formulas, by as few kernels as there can be: all results, one loss each. How memory is swept is tested with
one formula of each shape; what the family shares with the others (weights, masks, reductions, threads, the kernel
cache) is tested there more thoroughly.
"""

import copy
import dataclasses
import inspect
import itertools
import math
import os
import pickle
import warnings

import ml_dtypes
import numpy as np
import pytest
from exact import exact, exact_inputs, exact_results, ulp
from fresh_process import program, run
from mutants import mutant_formula, with_override
from pairs import (
    CONFIGURATIONS,
    LOSSES,
    ONE_OF_EACH,
    SWEPT,
    TYPES,
    VARIANTS,
    evaluate,
    flat,
    loss_shape,
    near_kink,
    operands,
    random,
    same,
)
from representatives import turn
from sampling import CALLS, DTYPES, label_of, with_reduction
from scipy import stats
from scipy.spatial import distance
from test_calls import MASKS, REDUCTIONS, WEIGHTS, compare, mask_for, weights_for
from test_exact import HESSIAN_ULPS, ULPS
from test_exact import distance as distance_of

import fastloss as fl
from fastloss.families.declaration import SETS

every_loss = pytest.mark.parametrize("loss", [cls() for cls in LOSSES.values()], ids=label_of)
every_variant = pytest.mark.parametrize("loss", VARIANTS, ids=label_of)
every_configuration = pytest.mark.parametrize("loss", CONFIGURATIONS, ids=label_of)
every_sweep = pytest.mark.parametrize("loss", SWEPT, ids=label_of)
every_type = pytest.mark.parametrize(("loss", "dtype"), TYPES)
INF = math.inf


def shape_of(loss, size=(7, 3)):
    return (*size, 5 if loss.unit == "row" else 4)


def each(loss, *given):
    """All results, one loss each."""
    return with_reduction(loss, "none").value_grad_and_hess(*given)


# -- what they are: examples, definitions, peers -------------------------------------------------------------------

EXAMPLES = [
    pytest.param(cls, example, id=f"{name}-{number}")
    for name, cls in LOSSES.items()
    for number, example in enumerate(cls.examples)
]


def test_every_loss_has_two_examples_and_every_formula_one():
    for cls in LOSSES.values():
        assert len(cls.examples) >= 2
        labels = set(cls.row_formulas() if cls.unit == "row" else cls.formulas())
        assert {cls(**example.parameters).variant() for example in cls.examples} == labels
        assert len(cls().domain()) == len(cls.operands)
        assert set(cls().domain()) <= set(SETS)


@pytest.mark.parametrize(("cls", "example"), EXAMPLES)
def test_example(cls, example):
    given = [np.asarray(array, np.float64) for array in cls.arguments(example.y_true, example.y_pred)]
    loss = cls(**example.parameters)
    for value, grads, hesses in (each(loss, *given), evaluate(with_reduction(loss, "none"), *given)):
        results = (np.sum(value), *grads, *hesses)
        for result, right in zip(results, flat((example.value, example.grad, example.hess)), strict=True):
            np.testing.assert_allclose(result, right, rtol=1e-14, atol=0)


@every_sweep
def test_function_lists_names_and_weights_by_position(loss):
    """Every way to pass the same arguments gives the same bits."""
    given = operands(loss, shape_of(loss), seed=1)
    weight = np.arange(7.0)
    named = dict(zip(loss.operands, given, strict=True))
    call, function = loss.value_grad_and_hess, fl.__dict__[loss.name].value_grad_and_hess
    expected = call(*given, sample_weight=weight)
    same(call(*given, weight), expected)
    same(call(given[0], **dict(list(named.items())[1:]), sample_weight=weight), expected)
    same(function(**named, sample_weight=weight), expected)
    same(function(*[array.tolist() for array in given], weight.tolist()), expected)
    for result in flat(expected):
        assert type(result) in (float, np.ndarray)


def test_signatures_name_the_operands():
    names = list(inspect.signature(fl.triplet_margin).parameters)
    assert names[:5] == ["anchor", "positive", "negative", "sample_weight", "mask"]
    assert list(inspect.signature(fl.gaussian_nll).parameters)[:3] == ["y_true", "mean", "variance"]
    assert "anchor : array_like, shape (..., C)" in fl.triplet_margin.__doc__
    assert "y_true : array_like, shape (...)" in fl.cosine_embedding.__doc__


def numpy_margin_ranking(loss, y, first, second):
    level = loss.margin - y * (first - second)
    active = np.where(level > 0, y, 0.0)
    return np.maximum(level, 0.0), -active, active


def numpy_gaussian_nll(loss, y, mean, variance):
    least = np.maximum(variance, loss.eps)
    value = -stats.norm.logpdf(y, mean, np.sqrt(least)) - (0.0 if loss.full else 0.5 * math.log(2 * math.pi))
    z = (mean - y) / np.sqrt(least)
    return value, z / np.sqrt(least), (1.0 - z * z) / (2.0 * least)


def numpy_cosine_embedding(loss, y, first, second):
    lengths = [np.sqrt((x * x).sum(-1, keepdims=True) + 1e-12) for x in (first, second)]
    left, right = first / lengths[0], second / lengths[1]
    cosine = (left * right).sum(-1, keepdims=True)
    slope = np.where(y[..., None] > 0, -1.0, np.where(cosine > loss.margin, 1.0, 0.0))
    value = np.where(y > 0, 1.0 - cosine[..., 0], np.maximum(cosine[..., 0] - loss.margin, 0.0))
    return value, slope * (right - cosine * left) / lengths[0], slope * (left - cosine * right) / lengths[1]


def norm(x, p):
    """Lengths of rows, and their slopes."""
    if p == INF:
        length = abs(x).max(-1, keepdims=True)
        largest = abs(x) == length
        return length, np.sign(x) * largest / largest.sum(-1, keepdims=True)
    peak = np.maximum(abs(x).max(-1, keepdims=True), np.finfo(float).tiny)
    length = peak * (abs(x / peak) ** p).sum(-1, keepdims=True) ** (1 / p)
    return length, np.sign(x) * (abs(x) / np.maximum(length, np.finfo(float).tiny)) ** (p - 1)


def numpy_triplet_margin(loss, anchor, positive, negative):
    near, near_slope = norm(anchor - positive + loss.eps, loss.p)
    far, far_slope = norm(anchor - negative + loss.eps, loss.p)
    other, other_slope = norm(positive - negative + loss.eps, loss.p)
    swapped = (other < far) & loss.swap
    level = loss.margin + near - np.where(swapped, other, far)
    active, far_slope, other_slope = level > 0, np.where(swapped, 0, far_slope), np.where(swapped, other_slope, 0)
    gradients = near_slope - far_slope, -near_slope - other_slope, far_slope + other_slope
    return np.maximum(level, 0)[..., 0], *(active * gradient for gradient in gradients)


@every_configuration
def test_definition(loss):
    """By the definition in NumPy, from no formula of the package."""
    given = operands(loss, (40, 6) if loss.unit == "row" else (200,))
    expected = globals()[f"numpy_{loss.name}"](loss, *given)
    value, gradients, _ = each(loss, *given)
    for result, right in zip((value, *gradients), expected, strict=True):
        np.testing.assert_allclose(result, right, rtol=1e-11, atol=1e-12)


def test_scipy_distances():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 20, 6))
    for p, metric in ((1, "cityblock"), (2, "euclidean"), (INF, "chebyshev"), (2.5, "minkowski")):
        options = {"p": p} if metric == "minkowski" else {}
        expected = [distance.cdist([x], [y], metric, **options).item() for x, y in zip(a, b, strict=True)]
        # The negative lies at the anchor: its distance is 0.
        ours = each(fl.TripletMargin(p=p, eps=0.0), a, b, a)[0] - 1.0
        np.testing.assert_allclose(ours, expected, rtol=1e-13)
    cosines = [distance.cosine(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(each(fl.CosineEmbedding(), np.ones(20), a, b)[0], cosines, rtol=1e-11)


def peers(test):
    """A comparison with torch or optax."""
    asked = os.environ.get("FASTLOSS_PEERS") == "1"
    reason = "torch and optax are compared by `ci/dev.py test --peers`"
    return pytest.mark.peers(pytest.mark.skipif(not asked, reason=reason)(test))


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
    return torch


@peers
@every_configuration
def test_torch(loss, torch):
    given = operands(loss, (60, 5) if loss.unit == "row" else (300,))
    if loss.name == "gaussian_nll":
        given[-1][::9] = 0.5 * loss.eps  # where torch's gradient is that at eps
    parameters = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    tensors = {
        name: torch.from_numpy(array.copy()).requires_grad_(name != "y_true")
        for name, array in zip(loss.operands, given, strict=True)
    }
    names = {**parameters, **tensors, "F": torch.nn.functional, "reduction": "none"}
    theirs = eval(loss.peers.torch, names)
    theirs.sum().backward()
    value, gradients, _ = each(loss, *given)
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
    for name, ours in zip(loss.predictions(), gradients, strict=True):
        right = tensors[name].grad.numpy()
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-12 * abs(right).max(), err_msg=name)


@peers
def test_optax():
    jax = pytest.importorskip("jax", reason="optax needs jax")
    optax = pytest.importorskip("optax", reason="optax is compared where it is installed")
    loss = fl.TripletMargin(eps=0.0, margin=2.0)
    given = operands(loss, (60, 5))
    names = {**dataclasses.asdict(loss), "optax": optax}

    def theirs(anchor, positive, negative):
        return eval(loss.peers.optax, {**names, "anchor": anchor, "positive": positive, "negative": negative})

    with jax.enable_x64(True):
        value = theirs(*given)
        gradients = jax.grad(lambda *arrays: theirs(*arrays).sum(), argnums=(0, 1, 2))(*given)
    for ours, right in zip(flat(each(loss, *given)[:2]), (value, *gradients), strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-9, atol=1e-12)


# -- accuracy --------------------------------------------------------------------------------------------------------


def hard_operands(loss, dtype):
    """The loss and operands at the ends of what has a meaning: ties, zeros, identical rows, huge and tiny numbers.

    Differences of rows are exact, so a tie is one in every precision.
    """
    power = 200 if np.dtype(dtype) == np.float64 else 30
    if loss.name == "margin_ranking":
        numbers = [0.0, 1.0, -1.0, 1.0 + 2.0**-20, 2.0**power, -(2.0**power), 2.0**-power]
        chosen = [(y, a, b) for y in (-1.0, 1.0) for a in numbers for b in numbers]
    elif loss.name == "gaussian_nll":
        variances = [0.0, 1e-9, loss.eps, 2 * loss.eps, 1e-3, 0.5, 1.0, 30.0, 1e10]
        chosen = [(y, y + d, v) for y in (0.0, 1.0, -40.0) for d in (0.0, 1e-3, -1.0, 1e4) for v in variances]
    else:
        base = np.array([1.0, -2.0, 0.5])
        rows = [base, 3.0 * base, -base, base + np.array([0.0, 1.0, -1.0]), base + 2.0, 0.0 * base]
        scales = (1.0, 2.0**20, 2.0**-10)  # of cosines, to which rows shorter than 1e-6 are another thing
        if loss.name == "triplet_margin":
            loss = dataclasses.replace(loss, eps=0.0)
            scales = (1.0, 2.0**power, 2.0**-power)
        triples = list(itertools.product(rows, repeat=len(loss.predictions())))[:: 5 if len(loss.operands) == 3 else 1]
        chosen = [[scale * row for row in triple] for scale in scales for triple in triples]
        if "y_true" in loss.operands:
            chosen = [(y, *triple) for y in (1.0, -1.0) for triple in chosen]
    given = [np.array(column, dtype) for column in zip(*chosen, strict=True)]
    wide = [array.astype(np.float64) for array in given]
    # Lengths of different rows that are equal but for their rounding are no tie in every precision.
    sizes = sum(abs(array.reshape(len(array), -1)).max(axis=1) for array in wide)
    keep = np.array([not near_kink(loss, [a[i : i + 1] for a in wide], 1e-9 * s).any() for i, s in enumerate(sizes)])
    assert keep.mean() > 0.5
    return loss, [array[keep] for array in given]


def summands(loss, given, rights):
    """How large what results are the sum of is: rounding those leaves errors of ulps of that, not of the result."""
    wide = [array.astype(np.float64) for array in given]
    count = len(loss.predictions())
    if loss.name == "margin_ranking":
        return [abs(wide[1] - wide[2]) + abs(loss.margin), *[np.zeros(1)] * 4]
    if loss.name == "gaussian_nll":
        least = np.maximum(wide[2], loss.eps)
        square = (wide[1] - wide[0]) ** 2 / least
        value = 0.5 * (abs(np.log(least)) + square) + loss.full
        return [value, np.zeros(1), 0.5 * (1 + square) / least, np.zeros(1), (square + 0.5) / least**2]
    if loss.name == "triplet_margin":
        # Slopes by one prediction are two of three distances', and so are those by the others.
        lengths = [norm(a - b + loss.eps, loss.p)[0] for a, b in itertools.combinations(wide, 2)]
        parts = [
            np.maximum.reduce([abs(part).astype(np.float64) for part in rights[k : k + count]]) for k in (1, 1 + count)
        ]
        return [loss.margin + sum(lengths), *[parts[0]] * count, *[parts[1]] * count]
    # A cosine is a sum of products; 1 - cos is one of squares of differences of unit vectors.
    lengths = [np.sqrt((x * x).sum(-1, keepdims=True) + 1e-12) for x in wide[1:]]
    left, right = (x / length for x, length in zip(wide[1:], lengths, strict=True))
    value = np.where(wide[0][:, None] > 0, np.sqrt(2.0 * abs(rights[0]).astype(np.float64)), 1.0 + abs(loss.margin))
    size = abs(left) + abs(right)
    bends = [(3 * x * x + 1) + 2 * abs(left * right) for x in (left, right)]
    return [value, *(size / own for own in lengths), *(b / own**2 for b, own in zip(bends, lengths, strict=True))]


def roundings(loss, number):
    """How many ulp of its summands a result may be off: 4, of a Hessian 6.5 (see test_exact.py).

    The share of a length is off by 3 ulp: the sum 1, its root 1 + 1 / p, a product, a quotient and two inputs. A power
    of it has that many times more, and 1 of its own. Cosines are computed in float64. A unit vector is off by 2.5 ulp
    (the sum of squares 2, halved by the root; the root, the quotient and the product), a cosine by 6.5 (two of those, a
    product, the sum); a gradient adds two products, and three for scales; a Hessian has products of three.
    """
    if loss.name == "cosine_embedding":
        return (6.5, 12.0, 12.0, 20.0, 20.0)[number]
    is_hessian = number > len(loss.predictions())
    usual = HESSIAN_ULPS if is_hessian else ULPS
    if not loss.variant().startswith("minkowski") or number == 0:
        return usual
    return usual + 3.0 * abs(loss.p - 1.0 - is_hessian) + 1.0


def judge(loss, given, compute=each):
    """Compare losses, gradients and Hessians with the exact ones."""
    dtype = given[-1].dtype.type
    inputs, _ = exact_inputs(loss, *loss.parted(given))
    rights = exact_results(loss, inputs, None)
    sizes = summands(loss, given, rights)
    for number, (result, right, size) in enumerate(zip(flat(compute(loss, *given)), rights, sizes, strict=True)):
        result, own = result.reshape(right.shape), abs(right).astype(np.float64)
        wide = loss.unit == "row" and loss.formula().wide
        allowed = roundings(loss, number) * ulp(np.maximum(own, size), np.float64 if wide else dtype)
        allowed = allowed + (ulp(own, dtype) if wide else 0.0)  # it is rounded to its type at last
        error = distance_of(exact(result), right)
        worst = int(np.argmax(~(error <= allowed)))
        assert (error <= allowed).all(), (
            f"result {number}: {error.flat[worst]:.3g} off, allowed {allowed.flat[worst]:.3g}; "
            f"got {result.flat[worst]!r}, exact {float(right.flat[worst])!r}"
        )


in_turns = pytest.mark.parametrize(
    ("loss", "dtype"),
    [
        pytest.param(loss, dtype, id=f"{label_of(loss)}-{dtype.__name__}")
        for loss in VARIANTS
        for dtype in ((np.float32, np.float64) if loss in SWEPT else (turn(label_of(loss), (np.float32, np.float64)),))
    ],
)


@in_turns
def test_exact_plain_operands(loss, dtype):
    judge(loss, operands(loss, (8, 5) if loss.unit == "row" else (80,), np.dtype(dtype).name, seed=5))


@in_turns
def test_exact_hard_operands(loss, dtype):
    judge(*hard_operands(loss, dtype))


@every_sweep
def test_a_gradient_that_is_some_ulp_off_is_found(loss, monkeypatch):
    given = operands(loss, (16, 5) if loss.unit == "row" else (80,), "float32")
    judge(loss, given)
    right = type(loss).value_grad_and_hess

    def off(self, *arrays, **options):
        value, (first, *others), hessians = right(self, *arrays, **options)
        return value, (first + (6 * np.spacing(first)).astype(first.dtype), *others), hessians

    monkeypatch.setattr(type(loss), "value_grad_and_hess", off)
    with pytest.raises(AssertionError, match="result 1"):
        judge(loss, given)


# -- derivatives -----------------------------------------------------------------------------------------------------

STEP, TOLERANCE = 1e-5, 1e-7


def check_derivatives(loss, compute, given):
    """Gradients and Hessians by every prediction against central differences of losses and gradients.

    Losses do not touch one another, so a column of each row, or every element, is moved at a time.
    """
    _, gradients, hessians = compute(*given)
    keep = ~near_kink(loss, given, 3 * STEP)
    assert keep.mean() > 0.7
    first = len(given) - len(gradients)
    for number, (gradient, hessian) in enumerate(zip(gradients, hessians, strict=True)):
        slopes, bends = np.zeros(gradient.shape), np.zeros(gradient.shape)
        step = STEP * (given[-1] if loss.operands[first + number] == "variance" else np.ones(gradient.shape))
        for place in range(gradient.shape[-1]) if loss.unit == "row" else [...]:
            here = (..., place) if loss.unit == "row" else ...
            sides = []
            for sign in (1, -1):
                moved = [array.copy() for array in given]
                moved[first + number][here] += sign * step[here]
                value, others, _ = compute(*moved)
                sides.append((value, others[number][here]))
            slopes[here], bends[here] = ((up - down) / (2 * step[here]) for up, down in zip(*sides, strict=True))
        for result, expected in ((gradient, slopes), (hessian, bends)):
            scale = abs(expected[keep]).max() + 0.1
            np.testing.assert_allclose(result[keep], expected[keep], rtol=TOLERANCE, atol=TOLERANCE * scale)


def smooth_operands(loss):
    given = operands(loss, (20, 4) if loss.unit == "row" else (60,), seed=3)
    if "variance" in loss.operands:
        given[-1] += loss.eps  # below which the gradient is, on purpose, no derivative
    return given


@every_configuration
def test_derivatives(loss):
    check_derivatives(loss, with_reduction(loss, "none").value_grad_and_hess, smooth_operands(loss))


def mutant(loss, place, change, folder):
    """The loss with a result of its formula, or of its element rule, replaced."""
    cls = type(loss)
    if loss.unit != "row":
        formula = mutant_formula(cls.formulas()[loss.variant()], {place: change}, folder)
        return with_override(loss, "formulas", {loss.variant(): formula})
    own = loss.formula()
    element = mutant_formula(own.element, {place - 1: change}, folder)
    return with_override(loss, "row_formulas", {loss.variant(): own._replace(element=element)})


@every_loss
def test_formulas_that_are_wrong_are_found(loss, tmp_path):
    """Each gradient and Hessian with the other sign, or a factor and a shift."""
    given = smooth_operands(loss)

    def check(loss):
        check_derivatives(loss, lambda *arrays: evaluate(with_reduction(loss, "none"), *arrays), given)

    check(loss)
    for place in range(1, 1 + 2 * len(loss.predictions())):
        for change in ("-r - 0.01", "1.01 * r + 0.001"):
            with pytest.raises(AssertionError):
                check(mutant(loss, place, change, tmp_path))


# -- extremes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2, 3.5, 100, INF])
def test_identical_rows(p):
    """A distance of 0 has a gradient of 0; torch's eps makes it ``eps columns^(1/p)`` instead."""
    row = np.array([[1.0, -2.0, 3.0]])
    value, gradients, hessians = each(fl.TripletMargin(p=p, eps=0.0), row, row, row)
    assert value == 1.0
    for result in (*gradients, *hessians):
        assert result.tolist() == [[0.0, 0.0, 0.0]]
    value = each(fl.TripletMargin(p=p, eps=1e-6, margin=5.0), row, row, row + 1.0)[0]
    near, far = 1e-6 * 3 ** (1 / p), (1 - 1e-6) * 3 ** (1 / p)
    assert value == pytest.approx(5.0 + near - far, rel=1e-9)


def test_an_infinite_degree_and_a_large_one():
    rows = [np.array(row) for row in ([[0.0, 0.0, 0.0]], [[3.0, -3.0, 1.0]], [[0.0, 0.5, 0.0]])]
    value, gradients, _ = each(fl.TripletMargin(p=INF, eps=0.0), *rows)
    assert value == 3.5
    assert gradients[1].tolist() == [[0.5, -0.5, 0.0]]  # shared by the two that are largest
    large, close, _ = each(fl.TripletMargin(p=1000, eps=0.0), *rows)
    assert large == pytest.approx(3 * 2**1e-3 + 0.5, rel=1e-14)
    np.testing.assert_allclose(close[1], [[0.5 * 2**1e-3, -0.5 * 2**1e-3, 0.0]], rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 3.5, 100, INF])
def test_distances_that_naive_powers_lose(p):
    for size in (float(np.finfo(float).max) / 64, float(np.finfo(float).tiny) * 64):
        far, zero = np.array([[3 * size, 4 * size]]), np.zeros((1, 2))
        value, gradients, _ = each(fl.TripletMargin(p=p, eps=0.0), zero, far, zero)
        ratio = np.array([3.0, 4.0])
        length = ratio.max() if p == INF else (ratio**p).sum() ** (1 / p)
        assert value == pytest.approx(1.0 + length * size, rel=1e-13)
        slope = np.array([0.0, 1.0]) if p == INF else (ratio / length) ** (p - 1)
        np.testing.assert_allclose(gradients[1][0], slope, rtol=1e-12)


def test_the_swap_of_equal_distances_is_shared():
    """As torch's minimum: half of the slope for each."""
    value, gradients, _ = each(fl.TripletMargin(eps=0.0, swap=True), [[0.0]], [[0.0]], [[0.5]])
    assert value == 0.5
    assert [gradient.item() for gradient in gradients] == [0.5, 0.5, -1.0]


def test_zero_rows_have_a_cosine_of_0():
    zero, row = np.zeros((2, 3)), np.ones((2, 3))
    value, gradients, _ = each(fl.CosineEmbedding(margin=-0.5), [1.0, -1.0], zero, row)
    np.testing.assert_allclose(value, [1.0, 0.5], rtol=1e-15)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    value, gradients, _ = each(fl.CosineEmbedding(), [1.0], [[0.0]], [[0.0]])
    assert value == 1.0
    assert [gradient.item() for gradient in gradients] == [0.0, 0.0]


def test_nearly_parallel_rows_keep_their_angle():
    """1 - cos cancels: torch gives 0 in float32, and in float64 -2e-16."""
    first = np.ones((1, 4))
    second = first + np.array([[2.0**-20, 0.0, 0.0, 0.0]])
    angle = 0.5 * (2.0**-40 * 3 / 16)  # the part of the step that is at a right angle, as a share of the length
    assert each(fl.CosineEmbedding(), [1.0], first, second)[0] == pytest.approx(angle, rel=2e-6)


def test_a_variance_below_eps_counts_as_eps():
    value, (by_mean, by_variance), _ = each(fl.GaussianNLL(eps=0.25), [0.0], [0.0], [0.0])
    assert value == 0.5 * math.log(0.25)
    assert (by_mean.item(), by_variance.item()) == (0.0, 2.0)  # not 0: it can grow again


def test_the_kink_has_no_slope():
    value, gradients, _ = each(fl.MarginRanking(margin=1.0), [1.0], [1.0], [0.0])
    assert (value, *[gradient.item() for gradient in gradients]) == (0.0, 0.0, 0.0)


@every_variant
def test_nan_is_never_hidden_and_goes_nowhere_else(loss):
    given = operands(loss, (9, 7))
    good = each(loss, *given)
    for number in range(len(given)):
        spoiled = [array.copy() for array in given]
        place = (4,) if given[number].ndim == 1 else (4, 3)
        spoiled[number][place] = np.nan
        value, gradients, _ = each(loss, *spoiled)
        lost = np.zeros(value.shape, bool)
        lost[place[: value.ndim]] = True
        np.testing.assert_array_equal(np.isnan(value), lost)
        for gradient, before in zip(gradients, good[1], strict=True):
            np.testing.assert_array_equal(gradient[~lost], before[~lost])
            assert np.isnan(gradient[lost]).all()


@every_sweep
def test_masked_nan_and_infinity_reach_nothing(loss):
    given = operands(loss, shape_of(loss), "float32")
    shape = loss_shape(loss, given[-1].shape)
    rng = np.random.default_rng(1)
    mask, weight = rng.random(shape) < 0.5, rng.uniform(0.5, 1.0, shape[:1])
    expected = loss.value_grad_and_hess(*given, weight, mask=mask)
    for number in (np.nan, np.inf, -np.inf):
        spoiled = [array.copy() for array in given]
        for array in spoiled:
            array[~mask] = number
        results = loss.value_grad_and_hess(*spoiled, weight, mask=mask)
        same(results, expected)
        assert not any(result[~mask].any() for result in flat(results)[1:])


@every_sweep
def test_nothing_left(loss):
    """All masked, or an empty batch: 0.0, and gradients of exactly 0."""
    given = operands(loss, shape_of(loss), "float32")
    for reduction, normalizer in REDUCTIONS:
        configured = with_reduction(loss, reduction)
        for arrays, options in (
            (given, {"mask": np.zeros(7, bool)}),
            (given, {"sample_weight": np.zeros(7)}),
            ([array[:0] for array in given], {}),
        ):
            value, gradients, hessians = configured.value_grad_and_hess(*arrays, normalizer=normalizer, **options)
            assert not np.any(value)
            assert np.shape(value) == (loss_shape(loss, arrays[-1].shape) if reduction == "none" else ())
            for result in (*gradients, *hessians):
                assert result.shape == arrays[-1].shape
                assert not result.any()


# -- how they are swept -----------------------------------------------------------------------------------------------


def check(loss, call, given, dtype, **options):
    """Compare one call with the reference."""
    expected = evaluate(loss, *given, **options)
    before = [array.tobytes() for array in given]
    results = flat(getattr(loss, call)(*given, **options))
    assert [array.tobytes() for array in given] == before
    right = [part for which in CALLS[call] for part in flat(expected[which])]
    for number, (result, wanted) in enumerate(zip(results, right, strict=True)):
        what = f"result {number} of {label_of(loss)}.{call} with {options}"
        if number == 0 and 0 in CALLS[call]:  # in the computing type; a mean of 2-byte predictions too
            assert loss.reduction == "none" or type(result) is float
            compare(np.asarray(result), np.asarray(wanted), "float64" if dtype == "float64" else "float32", what)
        else:
            assert result.dtype == DTYPES[dtype]
            compare(result, wanted, dtype, what)


@every_type
def test_call(loss, dtype):
    """Weights and masks of every kind, by turns with every reduction; with one type, every call."""
    given = operands(loss, shape_of(loss), dtype, margin=1e-3)
    shape = loss_shape(loss, given[-1].shape)
    rng = np.random.default_rng(0)
    turns = itertools.cycle(REDUCTIONS if dtype == "float32" else REDUCTIONS[:4])
    for weight, mask in itertools.product(WEIGHTS[1:], MASKS):
        reduction, normalizer = next(turns)
        options = {"sample_weight": weights_for(weight, shape, rng), "mask": mask_for(mask, shape, rng)}
        check(with_reduction(loss, reduction), "value_grad_and_hess", given, dtype, normalizer=normalizer, **options)
    if dtype == "float32" and loss in ONE_OF_EACH:
        for call in CALLS:
            check(loss, call, given, dtype)
        value, gradients, hessians = loss.value_grad_and_hess(*given)
        same(loss(*given), value)
        same(loss.value_and_grad(*given), (value, gradients))
        same(loss.grad(*given), gradients)
        same(loss.grad_and_hess(*given), (gradients, hessians))


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [
        pytest.param(loss, dtype, id=f"{label_of(loss)}-{dtype}")
        for dtype, losses in (("float32", SWEPT), ("bfloat16", ONE_OF_EACH))
        for loss in losses
    ],
)
def test_sizes(loss, dtype):
    """Around vectors (64 float32, 32 float64), groups of them and chunks of 8192; rows of any shape."""
    loss = with_reduction(loss, "sum")
    if loss.unit == "row":
        shapes = [(3, c) for c in (1, 2, 31, 32, 33, 63, 64, 65, 127, 129, 511, 512, 513, 1000, 4097)]
        shapes += [(rows, 3) for rows in (1, 2, 1700)]
    else:
        shapes = [(n,) for n in (1, 2, 31, 32, 33, 63, 64, 65, 127, 129, 8191, 8192, 8193, 20_000)]
    for shape in shapes:
        given = operands(loss, shape, dtype, seed=shape[-1], margin=1e-6)
        weight = np.random.default_rng(0).uniform(0.5, 2.0, shape[:1])
        expected = evaluate(loss, *given, sample_weight=weight)
        results = loss.value_grad_and_hess(*given, weight)
        scale = 1e-6 * math.sqrt(shape[-1] if loss.unit == "row" else 1)
        lengths = 1.0 + math.sqrt(shape[-1])  # of what a triplet's loss is the difference of
        assert abs(results[0] - expected[0]) <= scale * (abs(expected[0]) + shape[0] * lengths), shape
        rounding = float(ml_dtypes.finfo(DTYPES[dtype]).eps) if dtype == "bfloat16" else 0.0
        for result, right in zip(flat(results)[1:], flat(expected)[1:], strict=True):
            tolerance = 8 * scale * abs(right).max(initial=0.0)
            result = result.astype(np.float64)
            np.testing.assert_allclose(result, right, rtol=rounding, atol=tolerance, err_msg=str(shape))


@every_sweep
def test_numbers_of_axes(loss):
    given = operands(loss, shape_of(loss, (6, 3)), "float32")
    value, gradients, hessians = loss.value_grad_and_hess(*given)
    columns = given[-1].shape[-1:]
    flattened = [a.reshape(-1, *columns) if a.ndim == 3 and loss.unit == "row" else a.reshape(-1) for a in given]
    results = loss.value_grad_and_hess(*flattened)
    assert results[0] == value
    same([r.reshape(gradients[0].shape) for r in flat(results)[1:]], (*gradients, *hessians))
    row = [a[0, 0] if loss.unit == "row" else a[0, 0, 0] for a in given]
    value, gradients, _ = each(loss, *row)
    assert gradients[0].shape == (columns if loss.unit == "row" else ())
    assert np.shape(value) == ()


def strided(array):
    larger = np.zeros([2 * n for n in array.shape], array.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def backwards(array):
    turned = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[turned])[turned]


def misaligned(array):
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("layout", [np.asfortranarray, strided, backwards, misaligned, read_only])
@every_sweep
def test_layouts(loss, layout):
    """Of every operand and result; results may be the predictions themselves."""
    given = operands(loss, shape_of(loss), "float32")
    value, gradients, hessians = loss.value_grad_and_hess(*given)
    laid = [layout(array) for array in given]
    for chosen in (laid, [laid[0], *given[1:]], [*given[:-1], laid[-1]]):
        results = loss.value_grad_and_hess(*chosen)
        assert results[0] == pytest.approx(value, rel=1e-12)
        same(results[1:], (gradients, hessians))
    if layout is not read_only:
        out, hess_out = (tuple(layout(np.full_like(gradient, 7)) for gradient in gradients) for _ in range(2))
        results = loss.value_grad_and_hess(*given, out=out, hess_out=hess_out)
        assert all(a is b for a, b in zip(flat(results)[1:], (*out, *hess_out), strict=True))
        same(results[1:], (gradients, hessians))
        first = len(given) - len(gradients)
        results = loss.value_grad_and_hess(*laid, out=laid[first:])
        assert all(a is b for a, b in zip(results[1], laid[first:], strict=True))
        same(results[1:], (gradients, hessians))


@pytest.mark.parametrize("loss", [loss for loss in SWEPT if "y_true" in loss.operands], ids=label_of)
def test_type_of_the_target(loss):
    y, *predictions = operands(loss, shape_of(loss), "float32")
    for kind in ("bool", "uint16") if loss.unit == "row" else ("int8", "float64"):
        y = np.ones_like(y) if np.dtype(kind).kind in "bu" else np.round(y)
        same(loss.value_grad_and_hess(y.astype(kind), *predictions), loss.value_grad_and_hess(y, *predictions))


def test_one_array_may_be_several_operands():
    rows = np.random.default_rng(0).normal(size=(5, 4))
    same(each(fl.TripletMargin(), rows, rows, -rows), each(fl.TripletMargin(), rows, rows.copy(), -rows))


@pytest.fixture
def shared_calls(monkeypatch):
    """How many threads each shared kernel call may have had; helpers are woken for every one."""
    from fastloss.cpu import run
    from fastloss.cpu.pool import Pool

    calls = []
    ready = Pool.ready
    monkeypatch.setattr(Pool, "ready", lambda self, helpers: (calls.append(helpers + 1), ready(self, helpers))[1])
    monkeypatch.setattr(run, "WAKE_FROM", 0)
    return calls


@every_sweep
def test_the_same_bits_for_any_number_of_threads(loss, set_threads, shared_calls):
    rng = np.random.default_rng(0)
    for shape in [(20_003, 10), (203, 1000)] if loss.unit == "row" else [(420_013,)]:
        given = [array.astype(np.float32) for array in random(loss, shape, rng)]
        weight = rng.random(shape[:1])
        results = {}
        for threads in (1, 2, 3, 5):
            set_threads(threads)
            del shared_calls[:]
            results[threads] = flat(loss.value_grad_and_hess(*given, weight))
            assert shared_calls == ([threads] if threads > 1 else [])
        for threads in (2, 3, 5):
            same(results[threads], results[1])


def test_results_written_around_the_caches():
    """16 MB and more: the same bits as in parts that are written through them; also to an odd address."""
    loss = fl.GaussianNLL(reduction="sum")
    size = (1 << 24) // 4
    small = operands(loss, (size // 16,), "float32", margin=0.0)
    expected = loss.grad(*small)
    given = [np.tile(array, 16) for array in small]
    same(loss.grad(*given), [np.tile(gradient, 16) for gradient in expected])
    memory = [np.zeros(size + 1, given[0].dtype) for _ in expected]
    loss.grad(*given, out=tuple(array[1:] for array in memory))
    same([array[1:] for array in memory], [np.tile(gradient, 16) for gradient in expected])
    assert not any(array[0] for array in memory)


FENCED = """
    import numpy as np
    from guard_pages import FencedNumPy, fenced, intact, stand_in
    from pairs import ONE_OF_EACH, SWEPT, loss_shape, random
    from sampling import DTYPES, with_reduction
    for swept in SWEPT:
        loss = with_reduction(swept, "none")
        sizes = (1, 7, 8, 9, 63, 64, 65, 129)
        shapes = [(3, n) for n in sizes] + [(1700, 3)] if loss.unit == "row" else [(n,) for n in (*sizes, 8191, 8193)]
        for dtype in ("float32", "bfloat16") if swept in ONE_OF_EACH else ("float32",):
            for shape in shapes:
                arrays = [array.astype(DTYPES[dtype]) for array in random(loss, shape, np.random.default_rng(0))]
                results = []
                for at_end in (True, False):
                    given = [fenced(array, at_end) for array in arrays]
                    predictions = arrays[-len(loss.predictions()):]
                    out, hess_out = (tuple(fenced(array, at_end) for array in predictions) for _ in range(2))
                    weight = fenced(np.linspace(0, 2, int(np.prod(loss_shape(loss, shape)))).astype("f4"), at_end)
                    weight = weight.reshape(loss_shape(loss, shape))
                    numpy = FencedNumPy(at_end)
                    stand_in(numpy)
                    value, *others = loss.value_grad_and_hess(*given, weight, out=out, hess_out=hess_out)
                    stand_in(np)
                    assert all(intact(a) for a in (*given, *out, *hess_out, *numpy.made))
                    results.append([np.asarray(a).tobytes() for a in (value, *out, *hess_out)])
                assert results[0] == results[1]
        print(loss.name)
"""


@pytest.mark.skipif(os.name != "posix", reason="pages without access need mprotect")
def test_kernels_stay_within_their_arrays():
    assert len(run(program(FENCED), timeout=600).splitlines()) == len(SWEPT)


# -- bad input --------------------------------------------------------------------------------------------------------


def refused(error, pattern, loss, given, call="value_grad_and_hess", **options):
    before = [np.array(array).tobytes() for array in given if isinstance(array, np.ndarray)]
    with pytest.raises(error, match=rf"^{loss.name}: {pattern}") as caught:
        getattr(loss, call)(*given, **options)
    assert "\n" not in str(caught.value)
    assert [np.array(array).tobytes() for array in given if isinstance(array, np.ndarray)] == before
    return str(caught.value)


@every_loss
def test_operands_of_a_wrong_number_or_name(loss):
    given = operands(loss, shape_of(loss))
    names = ", ".join(loss.operands)
    for call in CALLS:
        for arrays, named in ((given[:2], {}), ([*given, 1.0, 2.0], {}), (given[:2], {"other": 1})):
            refused(TypeError, f"operands must be {names}; got ", loss, arrays, call, **named)
        with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
            getattr(loss, call)(*given, other=1)
    with pytest.raises(TypeError, match=f"{loss.name}: keywords must be among"):
        getattr(fl, loss.name)(*given, detla=1.0)


@every_loss
def test_wrong_shapes_and_types_name_their_operand(loss):
    given = operands(loss, shape_of(loss))
    first, *others = loss.predictions()
    at = loss.operands.index(first)
    for name in others:
        wrong = list(given)
        wrong[loss.operands.index(name)] = given[-1][:-1]
        refused(ValueError, rf"{name} must have {first}'s shape \(7, 3, \d\); got \(6, ", loss, wrong)
        wrong[loss.operands.index(name)] = given[-1].reshape(-1)
        assert f"{name}.reshape(" in refused(ValueError, f"{name} must have {first}'s shape", loss, wrong)
        wrong[loss.operands.index(name)] = given[-1].astype(np.float32)
        line = refused(TypeError, f"{name} must have {first}'s dtype float64; got float32", loss, wrong)
        assert f"{name}.astype('float64')" in line
    for number, name in enumerate(loss.operands):
        for wrong in (
            given[number].astype(complex),
            given[number].astype(object),
            None,
            np.ma.masked_array(given[number]),
        ):
            refused(TypeError, f"{name} must ", loss, [*given[:number], wrong, *given[number + 1 :]])
        if name != "y_true":
            refused(
                TypeError, f"{name} must be float16", loss, [*given[:number], given[number] > 0, *given[number + 1 :]]
            )
    if "y_true" in loss.operands:
        rule = "shape without its columns" if loss.unit == "row" else "shape"
        refused(
            ValueError, rf"y_true must have {first}'s {rule},? \(7, 3.*; got \(6", loss, [given[0][:-1], *given[1:]]
        )
        shape = loss_shape(loss, given[-1].shape)
        line = refused(ValueError, "y_true must have", loss, [given[0].reshape(*shape, 1), *given[1:]])
        assert f"y_true.reshape({shape})" in line
    if loss.unit == "row":
        empty = [array[..., :0] if array.ndim == 3 else array for array in given]
        refused(ValueError, f"{first} must have rows of at least one column", loss, empty)
        refused(ValueError, f"{first} must have rows", loss, [np.float64(1.0)] * len(given))
    assert at in (0, 1)


@pytest.mark.parametrize("argument", ["out", "hess_out"])
@every_loss
def test_result_buffers(loss, argument):
    given = operands(loss, shape_of(loss))
    names, first = loss.predictions(), given[-1]

    def fresh():
        return [np.zeros_like(first) for _ in names]

    def refused_at(place, error, pattern, buffer):
        buffers = fresh()
        buffers[place] = buffer
        refused(error, rf"{argument}\[{place}\] must {pattern}", loss, given, **{argument: tuple(buffers)})

    for wrong in (fresh()[0], tuple(fresh()[:1]), (), "out", 1.0):
        refused(TypeError, f"{argument} must be a tuple of {len(names)} arrays, for {', '.join(names)}", loss, given,
                **{argument: wrong})  # fmt: skip
    for place, name in enumerate(names):
        refused_at(place, TypeError, "be a NumPy array", first.tolist())
        refused_at(place, ValueError, f"have {name}'s shape", first[:-1].copy())
        refused_at(place, ValueError, f"have {name}'s shape", first.astype(np.float32))
        refused_at(place, ValueError, "be writable", read_only(first))
        refused_at(
            place,
            ValueError,
            "have its own memory",
            np.lib.stride_tricks.as_strided(first.copy(), first.shape, (8, 8, 8)),
        )
        other = given[-1 - (place == len(names) - 1)]
        refused_at(place, ValueError, rf"not overlap another argument, unless out\[{place}\] is {name}", other)
        shifted = np.zeros(first.size + 1)
        arrays = list(given)
        arrays[len(given) - len(names) + place] = shifted[1:].reshape(first.shape)
        buffers = fresh()
        buffers[place] = shifted[:-1].reshape(first.shape)
        refused(ValueError, rf"{argument}\[{place}\] must not overlap", loss, arrays, **{argument: tuple(buffers)})
    twice = fresh()
    refused(ValueError, rf"{argument}\[1\] must not overlap", loss, given, **{argument: (twice[0], *twice[:-1])})
    out = tuple(fresh())
    refused(ValueError, r"hess_out\[0\] must not overlap", loss, given, out=out, hess_out=out)
    weight = fresh()[0]
    refused(ValueError, rf"{argument}\[0\] must not overlap", loss, given, sample_weight=weight.reshape(-1)[:7],
            **{argument: (weight, *fresh()[1:])})  # fmt: skip


@every_loss
def test_weights_masks_and_others(loss):
    given = operands(loss, shape_of(loss))
    for bad in (np.full(7, -1.0), np.full(7, np.nan), np.ones(6), np.ones((7, 3, 5, 2))):
        refused(ValueError, "sample_weight must ", loss, given, sample_weight=bad)
    refused(TypeError, "mask must be boolean", loss, given, mask=np.ones(7))
    refused(ValueError, "normalizer must be a finite number > 0", loss, given, normalizer=0.0)
    refused(ValueError, "check must be 'nan' or 'raise'", loss, given, check="maybe")


WRONG_VALUES = {
    "margin_ranking": {"margin": (math.nan, INF, "1", None)},
    "gaussian_nll": {"full": (1, None), "eps": (0.0, -1.0, INF)},
    "cosine_embedding": {"margin": (math.nan, INF)},
    "triplet_margin": {"margin": (0.0, -1.0), "p": (0.5, -1.0, math.nan, "2"), "eps": (-1e-9, INF), "swap": (0, "no")},
}


@pytest.mark.parametrize("name", LOSSES)
def test_wrong_parameters(name):
    for parameter, values in WRONG_VALUES[name].items():
        for value in values:
            with pytest.raises(ValueError, match=rf"^{name}: {parameter} must .+; got "):
                LOSSES[name](**{parameter: value})


@every_variant
def test_losses_are_values(loss):
    """Frozen, hashable, equal to their copies; a pickle holds no kernels."""
    loss, given = with_reduction(loss, "none"), operands(loss, shape_of(loss))
    before = pickle.dumps(loss)
    expected = loss.value_grad_and_hess(*given)
    assert pickle.dumps(loss) == before
    for again in (pickle.loads(before), copy.deepcopy(loss), eval(repr(loss), {**vars(fl), "inf": INF})):
        assert again == loss
        assert hash(again) == hash(loss)
        same(again.value_grad_and_hess(*given), expected)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loss.reduction = "sum"
