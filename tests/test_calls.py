"""Every representative x dtype x call x reduction x weights x mask against the float64 reference.

The full product is too large for one run: kernels are specialised on loss, dtype and call, and compiling one takes
a quarter of a second or more. So a fixed random sample of kernels is taken (all that the plain configuration of a
formula needs, some of the others), and each of them meets every reduction, weight and mask that it can.
"""

import itertools

import ml_dtypes
import numpy as np
import pytest
from representatives import THOROUGH
from sampling import (
    CALLS,
    DTYPES,
    LOSSES,
    REPRESENTATIVES,
    SWEPT,
    cast,
    in_types,
    is_indexed,
    is_rowwise,
    label_of,
    loss_shape,
    near_kink,
    plain,
    some_types_for,
    swept,
    takes_probabilities,
    types_for,
    with_reduction,
)

from fastloss.reference import evaluate

VARIANTS = [pytest.param(loss, id=label_of(loss)) for loss in SWEPT]
CASES = [
    pytest.param(LOSSES[name], dtype, id=f"{name}-{dtype}")
    for name in REPRESENTATIVES
    for dtype in types_for(name, list(DTYPES))
]
#: Relative to the result and to the largest result: some roundings of the type that computes and of the type that
#: stores. How accurate results really are is the business of test_exact.py.
TOLERANCE = {"float16": (1e-3, 1e-5), "bfloat16": (8e-3, 1e-5), "float32": (2e-6, 2e-6), "float64": (1e-13, 1e-14)}
VALUE_TOLERANCE = {"float16": 2e-6, "bfloat16": 2e-6, "float32": 2e-6, "float64": 1e-13}

#: Reduction and normalizer; the first four give a number, the last two an array.
REDUCTIONS = [
    ("mean", None),
    ("sum", None),
    ("weighted_mean", None),
    ("sum", 12.5),
    ("none", None),
    ("none", 12.5),
]
WEIGHTS = ["no weight", "scalar", "leading", "leading, one trailing", "full", "full, one trailing", "whole numbers"]
MASKS = ["no mask", "leading", "full", "one left"]
#: Few classes are transposed in registers, many are swept row by row.
CLASSES = {"few": 5, "many": 70}
#: Kernels tried beyond those of a plain configuration, for each loss and dtype.
MORE_KERNELS = {"elementwise": 2, "rowwise": 3}
SEED = 20240


def operands(loss, shape, dtype, seed=0):
    """Well-conditioned operands in a dtype, none so near a kink that float32 and float64 could differ about it."""
    rng = np.random.default_rng(seed)
    while True:
        y, p = cast(*plain(loss, shape, rng), DTYPES[dtype])
        if not near_kink(loss, y, p.astype(np.float64), 1e-5).any():
            return y, p


def shape_for(loss, size):
    """Three axes; the number of losses fills no whole vector."""
    return (7, 3, CLASSES[size]) if is_rowwise(loss) else (7, 3, 5)


def for_classes(loss, size):
    """The configuration with class weights for that many classes."""
    given = getattr(loss, "class_weight", None)
    if given is None or not is_rowwise(loss):
        return loss
    return with_reduction(loss, loss.reduction, **{loss.weights_name: tuple(np.resize(given, CLASSES[size]))})


def weights_for(kind, shape, rng):
    if kind == "no weight":
        return None
    if kind == "scalar":
        return 2.5
    shape = shape[:1] if kind.startswith("leading") else shape
    weights = rng.integers(0, 3, shape) if kind == "whole numbers" else rng.uniform(0.0, 3.0, shape)
    weights.flat[0], weights.flat[-1] = 0, 2
    return weights[..., None] if "trailing" in kind else weights


def mask_for(kind, shape, rng):
    if kind == "no mask":
        return None
    mask = rng.random(shape[:1] if kind == "leading" else shape) < (0.0 if kind == "one left" else 0.7)
    mask.flat[-1] = True
    return mask


def compare(result, expected, dtype, what):
    relative, absolute = TOLERANCE[dtype]
    with np.errstate(over="ignore"):
        expected = expected.astype(DTYPES[dtype]).astype(np.float64)
    result, largest = np.asarray(result, np.float64), np.abs(expected).max(initial=0.0, where=np.isfinite(expected))
    # Subnormal numbers, which half precision meets soon, lie this far apart.
    absolute = max(absolute * largest, float(ml_dtypes.finfo(DTYPES[dtype]).smallest_subnormal))
    if not near(result, expected, relative, absolute):
        np.testing.assert_allclose(result, expected, rtol=relative, atol=absolute, err_msg=str(what))


def near(result, expected, relative, absolute):
    """Whether `assert_allclose` would find nothing; a tenth of its time."""
    if result.shape != expected.shape:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        return bool((abs(result - expected) <= absolute + relative * abs(expected)).all())


class Lazily:
    """Text that is made when it is read: to format arrays takes longer than a call."""

    def __init__(self, make):
        self.make = make

    def __str__(self):
        return self.make()


def check(loss, call, y, p, dtype, known=None, **options):
    """Compare one call with the reference, whose results are kept in ``known`` for the other calls."""
    before = [None if a is None else np.asarray(a).tobytes() for a in (y, p, *options.values())]
    known, key = {} if known is None else known, (loss, *before)
    if key not in known:
        known[key] = evaluate(loss, y, p, **options)
    expected = known[key]
    results = getattr(loss, call)(y, p, **options)
    after = [None if a is None else np.asarray(a).tobytes() for a in (y, p, *options.values())]
    assert after == before, "an input was changed"
    results = results if len(CALLS[call]) > 1 else (results,)
    assert len(results) == len(CALLS[call])
    for result, which in zip(results, CALLS[call], strict=True):
        what = Lazily(
            lambda which=which: f"{('value', 'gradient', 'Hessian')[which]} of {label_of(loss)}.{call} with {options}"
        )
        if which:
            assert result.dtype == p.dtype
            assert result.shape == p.shape
            compare(result, expected[which], dtype, what)
        elif loss.reduction == "none":
            assert result.dtype == (np.float64 if dtype == "float64" else np.float32)
            assert result.shape == loss_shape(loss, p.shape)
            if not near(result, expected[0], VALUE_TOLERANCE[dtype], 1e-300):
                np.testing.assert_allclose(
                    result, expected[0], rtol=VALUE_TOLERANCE[dtype], atol=1e-300, err_msg=str(what)
                )
        else:
            assert type(result) is float
            assert result == pytest.approx(expected[0], rel=VALUE_TOLERANCE[dtype]), str(what)


# -- the product, sampled ------------------------------------------------------------------------------------


def kernels_of(cls):
    """Everything that kernels of a loss and dtype differ by: (configuration, call, "none" or not, size, weighted)."""
    rowwise = cls.family == "rowwise"
    return [
        (loss, call, none, size, weighted)
        for loss in swept(cls)
        for call in CALLS
        for none in ((False, True) if 0 in CALLS[call] else (False,))
        for size in (CLASSES if rowwise else ("few",))
        for weighted in ((False, True) if not rowwise else (None,))
    ]


def plain_kernel(kernel):
    loss, _, none, size, weighted = kernel
    return not none and size == "few" and not weighted and getattr(loss, "class_weight", None) is None


def usual(kernel, dtype):
    """Whether a plain kernel is among those tried: all calls in some types, one in the others."""
    return kernel[1] == "value_grad_and_hess" or dtype in some_types_for(kernel[0], list(DTYPES))


def sample(cls, dtype):
    """The kernels to try for one loss and dtype."""
    rng = np.random.default_rng([SEED, *map(ord, cls.name + dtype)])
    kernels = kernels_of(cls)
    chosen = [k for k in kernels if plain_kernel(k) and usual(k, dtype)]
    others = [k for k in kernels if not plain_kernel(k)]
    count = min(len(others), MORE_KERNELS[cls.family])
    return chosen + [others[i] for i in sorted(rng.choice(len(others), count, replace=False))]


def options_of(kernel):
    """Every (reduction, normalizer), weight and mask that one kernel serves."""
    _, _, none, _, weighted = kernel
    for (reduction, normalizer), weight, mask in itertools.product(REDUCTIONS, WEIGHTS, MASKS):
        has_weights = weight != "no weight" or mask != "no mask"
        if (reduction == "none") == none and weighted in (None, has_weights):
            yield reduction, normalizer, weight, mask


@pytest.mark.parametrize(("cls", "dtype"), CASES)
def test_call(cls, dtype, record_property):
    tried, known = 0, {}
    for kernel in sample(cls, dtype):
        loss, call, _, size, _ = kernel
        loss, shape = for_classes(loss, size), shape_for(loss, size)
        y, p = operands(loss, shape, dtype)
        rng = np.random.default_rng(SEED)
        configured = {}
        for reduction, normalizer, weight, mask in options_of(kernel):
            if reduction not in configured:
                configured[reduction] = with_reduction(loss, reduction)
            losses = loss_shape(loss, shape)
            options = {"sample_weight": weights_for(weight, losses, rng), "mask": mask_for(mask, losses, rng)}
            check(configured[reduction], call, y, p, dtype, known, normalizer=normalizer, **options)
            tried += 1
    every = sum(len(list(options_of(kernel))) for kernel in kernels_of(cls))
    record_property(f"calls of {cls.name}, {dtype}", f"{tried} of {every} combinations (seed {SEED})")


def test_the_sample_is_not_small():
    """Each loss meets every call, reduction, weight and mask; every kernel is met by some dtype or so."""
    for name, labels in REPRESENTATIVES.items():
        cls, dtypes, tried = LOSSES[name], types_for(name, list(DTYPES)), set()
        for dtype in dtypes:
            chosen = sample(cls, dtype)
            tried |= {(label_of(k[0]), *k[1:]) for k in chosen}
            assert {k[0].variant() for k in chosen if plain_kernel(k)} == set(labels)
        assert {kernel[1] for kernel in tried} == set(CALLS)
        assert len(tried) > (0.15 if len(dtypes) > 1 else 0.1) * len(kernels_of(cls))


# -- properties of calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "dtype"), in_types([loss for loss in SWEPT if getattr(loss, "class_weight", None) is None], list(DTYPES))
)
def test_the_five_calls_agree_to_the_bit(loss, dtype):
    for loss_of, options in (
        (loss, {}),
        (loss, {"sample_weight": np.arange(7) / 4, "mask": np.arange(7) != 3}),
    ):
        y, p = operands(loss, shape_for(loss, "few"), dtype, seed=3)
        value, grad, hess = loss_of.value_grad_and_hess(y, p, **options)
        assert loss_of(y, p, **options) == value
        for results in (
            (*loss_of.value_and_grad(y, p, **options), hess),
            (value, loss_of.grad(y, p, **options), hess),
            (value, *loss_of.grad_and_hess(y, p, **options)),
        ):
            assert results[0] == value
            np.testing.assert_array_equal(results[1], grad)
            np.testing.assert_array_equal(results[2], hess)


def spoiled(loss, array, place, number):
    array = array.copy()
    array[place] = number
    return array


@pytest.mark.parametrize(("loss", "dtype"), in_types(SWEPT, ["float32", "float64"]))
@pytest.mark.parametrize("size", CLASSES)
def test_nan_is_never_hidden_and_goes_nowhere_else(loss, size, dtype):
    """NaN in y_pred or y_true: in the value, and in that element's gradient (that row's, for rowwise) only."""
    if size == "many" and (not is_rowwise(loss) or dtype == "float64" or getattr(loss, "class_weight", None)):
        pytest.skip("few classes and float32 are enough")
    loss = with_reduction(for_classes(loss, size), "none")
    shape = (*shape_for(loss, size)[::2],)
    y, p = operands(loss, shape, dtype)
    if is_indexed(loss):
        y[:] = 3  # of weight 1, and not ignored
    _, good, _ = loss.value_grad_and_hess(y, p)
    place = (2, 4)
    for target, prediction in ((y, spoiled(loss, p, place, np.nan)), (None, p)):
        if target is None:
            if is_indexed(loss):
                continue
            target = spoiled(loss, y, place, np.nan)
        value, grad, _ = loss.value_grad_and_hess(target, prediction)
        expected = np.zeros(value.shape, bool)
        expected[place[: value.ndim]] = True
        np.testing.assert_array_equal(np.isnan(value), expected)
        reached = np.zeros(grad.shape, bool)
        reached[place[: value.ndim]] = True
        # Outside of the clip a gradient is 0 whatever the target.
        clipped = target is not y and takes_probabilities(loss) and getattr(loss, "epsilon", 0.0) > 1e-3
        assert not np.isnan(grad[~reached]).any()
        # In a row whose elements share a sum all of them; each element of the other losses is on its own.
        assert clipped or np.isnan(grad[reached] if loss.name in THOROUGH else grad[place]).all()
        np.testing.assert_array_equal(grad[~reached], good[~reached])


@pytest.mark.parametrize(("loss", "dtype"), in_types(SWEPT, ["bfloat16", "float32", "float64"]))
def test_masked_nan_and_infinity_reach_nothing(loss, dtype):
    """The same bits as with ordinary numbers in the masked places, and gradients of exactly 0 there."""
    y, p = operands(loss, shape_for(loss, "few"), dtype)
    losses = loss_shape(loss, p.shape)
    rng = np.random.default_rng(1)
    mask = rng.random(losses) < 0.5
    weight = rng.uniform(0.5, 1.0, losses[:1])
    masked = np.broadcast_to(~mask[..., None] if is_rowwise(loss) else ~mask, p.shape)
    expected = loss.value_grad_and_hess(y, p, weight, mask=mask)
    for number in (np.nan, np.inf, -np.inf):
        spoiled_y = y if is_indexed(loss) else np.where(masked, number, y.astype(float)).astype(y.dtype)
        results = loss.value_grad_and_hess(
            spoiled_y, np.where(masked, number, p.astype(float)).astype(p.dtype), weight, mask=mask
        )
        for result, right in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, right)
        for result in results[1:]:
            assert (result[masked] == 0).all()
    if is_indexed(loss):
        wild = np.where(mask, y, 10**9)
        for result, right in zip(loss.value_grad_and_hess(wild, p, weight, mask=mask), expected, strict=True):
            np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("loss", [one for one in SWEPT if not getattr(one, "class_weight", None)], ids=label_of)
def test_nothing_left(loss):
    """All masked, or an empty batch: 0.0, and gradients of exactly 0."""
    y, p = operands(loss, shape_for(loss, "few"), "float32")
    p[:] = np.nan
    nothing = np.zeros(p.shape[:1], bool)
    for reduction, normalizer in REDUCTIONS:
        configured = with_reduction(loss, reduction)
        value, grad, hess = configured.value_grad_and_hess(y, p, mask=nothing, normalizer=normalizer)
        empty = configured.value_grad_and_hess(y[:0], p[:0], normalizer=normalizer)
        assert np.shape(value) == (loss_shape(loss, p.shape) if reduction == "none" else ())
        assert not np.any(value)
        assert not grad.any()
        assert not hess.any()
        if reduction != "none":
            assert type(value) is type(empty[0]) is float
            assert empty[0] == 0.0
        else:
            assert empty[0].shape == (0, *loss_shape(loss, p.shape)[1:])
        assert empty[1].shape == empty[2].shape == (0, *p.shape[1:])
        weighted = configured.value_and_grad(y, np.ones_like(p), np.zeros(len(p)), normalizer=normalizer)
        assert not np.any(weighted[0])
        assert not weighted[1].any()


@pytest.mark.parametrize("loss", VARIANTS)
def test_weight_types(loss):
    """Weights of any real type count as their numbers."""
    y, p = operands(loss, shape_for(loss, "few"), "float32")
    numbers = np.arange(7) % 3
    expected = loss.value_grad_and_hess(y, p, numbers.astype(np.float64))
    kinds = [np.float16, DTYPES["bfloat16"], np.float32, np.int8, np.uint64, list]
    for kind in kinds:
        weights = numbers.tolist() if kind is list else numbers.astype(kind)
        for result, right in zip(loss.value_grad_and_hess(y, p, weights), expected, strict=True):
            np.testing.assert_array_equal(result, right)
    flags = loss.value_grad_and_hess(y, p, numbers > 0)
    for result, right in zip(flags, loss.value_grad_and_hess(y, p, (numbers > 0) * 1.0), strict=True):
        np.testing.assert_array_equal(result, right)
