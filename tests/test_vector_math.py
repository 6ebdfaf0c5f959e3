"""The primitives on SIMD lanes and on scalars, against 50 digits: within the error that their module documents.

Points are drawn over all bit patterns, over the range where a function is neither 0 nor infinite, and around every
place where it changes its way of computing. NaNs of any payload, infinities, zeros of both signs and subnormal
numbers are looked at one by one.
"""

import re
from functools import cache

import gmpy2
import mpmath
import numpy as np
import pytest
from exact import EXACT, number, ulp
from mpmath import mp

from fastloss.cpu import vector_math
from fastloss.cpu.cache import compiled
from fastloss.cpu.emit import array_pointer, emit
from fastloss.cpu.lanes import lanes_at_once
from fastloss.cpu.storage import STORAGES
from fastloss.formula import ops

FUNCTIONS = {
    name: getattr(ops, name)
    for name in ("exp", "exp_nonpositive", "expm1", "expm1_nonpositive", "log", "log1p", "log1p_unit", "sqrt")
} | {"sigmoid": ops.sigmoid, "softplus": ops.softplus, "tanh": ops.tanh}
FIXED_POWERS = {
    f"power_{exponent}": lambda x, exponent=exponent: ops.power(x, exponent) for exponent in (0.0, 0.5, 1.0, 2.0)
}
TRUTH = {
    **EXACT,
    "tanh": gmpy2.tanh,
    "sigmoid": lambda x: 1 / (1 + gmpy2.exp(-x)),
    "softplus": lambda x: gmpy2.log1p(gmpy2.exp(x)) if x < 0 else x + gmpy2.log1p(gmpy2.exp(-x)),
}
TYPES = [np.float32, np.float64]
#: Largest error in ulp by float32 and float64: of exp, log, power and their like as the module documents it; a
#: square root is rounded correctly; a sigmoid adds two roundings to exp, a softplus has log1p_unit's and half an ulp,
#: a tanh has a division, a sum and twice what expm1_nonpositive is off.
BOUNDS = {
    name: tuple(map(float, errors)) for name, *errors in re.findall(r"(\w+) (\d\.\d) / (\d\.\d)", vector_math.__doc__)
}
BOUNDS |= {"exp_nonpositive": BOUNDS["exp"], "sqrt": (0.5, 0.5), "sigmoid": (2.5, 2.5), "softplus": (2.0, 2.0)}
BOUNDS |= {"tanh": (2.5, 2.5)}
#: Where log1p_unit is known to be worst: 1.21 and 1.64 ulp, found by a search.
WORST_LOG1P_UNIT = {np.float32: 0.9841571, np.float64: 0.9990825259069751}
LIBRARY = 1.5  # scalars call the C library; sigmoid and softplus combine such calls

functions = pytest.mark.parametrize("name", FUNCTIONS)
types = pytest.mark.parametrize("dtype", TYPES)
#: As many lanes as kernels use; 0 for scalars.
lane_counts = pytest.mark.parametrize("vector", [True, False], ids=["lanes", "scalar"])


@cache
def _kernel(name, dtype, lanes):
    storage = STORAGES[dtype]
    pointer = array_pointer(storage)

    def step(inputs, exponents, outputs, index):
        operands = [source.moved(index).load(storage.memory, lanes) for source in (inputs, exponents)]
        outputs.moved(index).store(
            ops.power(*operands) if name == "power" else (FUNCTIONS | FIXED_POWERS)[name](operands[0])
        )

    traced, width = emit(step), max(lanes, 1)

    def sweep(x, exponent, results, points):
        inputs, exponents, outputs = pointer(x), pointer(exponent), pointer(results)
        for index in range(0, points, width):
            traced(inputs, exponents, outputs, index)

    return compiled(sweep, ("array", "array", "array", "int"), f"test_vector_math {name} {dtype} {lanes}")


def apply(name, x, vector=True, exponent=1.0):
    """The function at every number of a float32 or float64 array; a power with as many exponents."""
    lanes = lanes_at_once(STORAGES[x.dtype.name].memory) if vector else 0
    size = -(-x.size // 64) * 64
    padded, exponents, results = np.ones(size, x.dtype), np.ones(size, x.dtype), np.empty(size, x.dtype)
    padded[: x.size], exponents[: x.size] = x, exponent
    _kernel(name, x.dtype.name, lanes)(padded, exponents, results, size)
    return results[: x.size]


def domain(name, x):
    """Those numbers that a function is made for."""
    if name.endswith("_nonpositive"):
        return -abs(x)
    if name == "log1p_unit":
        return abs(x)[abs(x) <= 1]
    return x


def around(numbers, dtype):
    """Some neighbours of each number, both ways."""
    near = [np.asarray(numbers, dtype)]
    for way in (np.inf, -np.inf):
        step = near[0]
        for _ in range(3):
            step = np.nextafter(step, dtype(way))
            near.append(step)
    return np.concatenate(near)


def points(name, dtype, count):
    rng = np.random.default_rng(11)
    integer = np.uint32 if dtype is np.float32 else np.uint64
    patterns = rng.integers(0, np.iinfo(integer).max, count, integer).view(dtype)
    limits = np.finfo(dtype)
    top = float(np.log(limits.max))
    wide = rng.uniform(-top, top, count)
    narrow = rng.uniform(-1, 1, count)
    magnitudes = np.exp(rng.uniform(np.log(float(limits.eps)) - 5, 3, count)) * rng.choice([-1, 1], count)
    close_to_one = 1 + rng.uniform(-1, 1, count) * 10.0 ** rng.uniform(-7 if dtype is np.float32 else -15, 0, count)
    borders = [0.0, 1.0, -1.0, 0.5, np.sqrt(0.5), np.sqrt(2), 2 * np.sqrt(2), 1 / 3, 0.1716, float(limits.tiny)]
    borders += [float(limits.eps), float(limits.max), top, np.log(float(limits.tiny)), *(np.log(2) * np.arange(-3, 4))]
    borders += [*(np.log(2) * (np.arange(-8, 8) + 0.5)), -87.33, 88.72283, -708.0, 709.782712893384, 40.0]
    with np.errstate(over="ignore", under="ignore"):
        parts = [patterns, *(a.astype(dtype) for a in (wide, narrow, magnitudes, close_to_one, -close_to_one))]
        parts.append(around([sign * b for b in borders if abs(b) <= limits.max for sign in (1, -1)], dtype))
        parts.append(np.asarray([WORST_LOG1P_UNIT[dtype]], dtype))
    found = domain(name, np.concatenate(parts))
    return found[np.isfinite(found)]


def error(name, x, results, *exponent):
    """Errors in ulp; where the exact result is no number or too large, whether the result says so."""
    limits = np.finfo(x.dtype)
    operands = zip(*([number(float(given)) for given in a] for a in (x, *exponent)), strict=True)
    exact = [TRUTH[name](*numbers) for numbers in operands]
    rounded = np.array([float(result) for result in exact])
    with np.errstate(invalid="ignore"):
        regular = np.isfinite(results) & (abs(rounded) <= float(limits.max))
    differences = np.full(x.shape, np.inf)
    differences[regular] = [
        float(abs(number(float(r)) - e)) for r, e, good in zip(results, exact, regular, strict=True) if good
    ]
    # Flushed to zero from twice the smallest normal number on: cut-offs on x are rounded to the safe side.
    flushed = (results == 0) & (abs(rounded) < 2 * float(limits.tiny))
    too_large = np.isinf(results) & (abs(rounded) > float(limits.max) * (1 - float(limits.eps)))
    agree = flushed | (np.isnan(results) & np.isnan(rounded)) | (too_large & (np.sign(results) == np.sign(rounded)))
    with np.errstate(invalid="ignore"):
        return np.where(agree, 0.0, differences / ulp(np.where(np.isfinite(rounded), rounded, 1.0), x.dtype))


@pytest.mark.parametrize("name", [*EXACT, "tanh"])
def test_the_numbers_of_50_digits_are_two_libraries_numbers(name):
    """What MPFR gives, which everything else is compared with, mpmath gives too."""
    theirs = getattr(mpmath, {"power": "power", "abs": "fabs"}.get(name, name.partition("_")[0]))
    given = np.random.default_rng(41).uniform(0.01, 3.0, (40, 2)) * [1.0, -1.0]
    with mp.workdps(50):
        for x, other in given.tolist():
            operands = (x, other) if name == "power" else (x,)
            ours = mpmath.mpf(str(TRUTH[name](*map(number, operands))))
            assert mpmath.almosteq(ours, theirs(*map(mpmath.mpf, operands)), rel_eps=mpmath.mpf(10) ** -49)


def test_documented_bounds_are_read():
    assert {"exp", "log", "log1p_unit", "log1p"} <= set(BOUNDS)
    assert all(0.5 <= bound <= 3 for bounds in BOUNDS.values() for bound in bounds)


@lane_counts
@types
@functions
def test_error(name, dtype, vector):
    x = points(name, dtype, 700)
    assert len(x) > 1500
    errors = error(name, x, apply(name, x, vector))
    bound = BOUNDS[name][TYPES.index(dtype)]
    if not vector:
        bound = max(bound, LIBRARY)
    worst = int(np.argmax(errors))
    assert errors[worst] <= bound, f"{errors[worst]:.3f} ulp at {x[worst]!r}"


@functions
def test_error_of_a_million_points(name):
    """float32 against float64, whose own error is nothing beside it."""
    x = points(name, np.float32, 200_000)
    with np.errstate(all="ignore"):
        if name == "softplus":
            truth = np.logaddexp(0, x.astype(np.float64))
        elif name == "sigmoid":
            truth = np.where(x < 0, np.exp(-abs(x.astype(np.float64))), 1) / (1 + np.exp(-abs(x.astype(np.float64))))
        else:
            truth = getattr(np, name.removesuffix("_nonpositive").removesuffix("_unit"))(x.astype(np.float64))
        results = apply(name, x).astype(np.float64)
        same = (results == truth) | (np.isnan(results) & np.isnan(truth))
        same |= (results == 0) & (abs(truth) < 2.0**-125)
        same |= np.isinf(results) & (abs(truth) > float(np.finfo(np.float32).max) * (1 - 2.0**-24))
        errors = np.where(same, 0.0, abs(results - truth) / ulp(np.where(np.isfinite(truth), truth, 1.0), np.float32))
    assert not np.isnan(errors).any()
    assert errors.max() <= BOUNDS[name][0] + 0.01


INF = np.inf
#: What each function gives at infinities and zeros, and outside of where it is defined.
SPECIAL = {
    "exp": [(INF, INF), (-INF, 0), (0.0, 1), (-0.0, 1)],
    "exp_nonpositive": [(-INF, 0), (0.0, 1), (-0.0, 1)],
    "expm1": [(INF, INF), (-INF, -1), (0.0, 0), (-0.0, 0), (40.0, float(np.expm1(40.0))), (-40.0, -1)],
    "expm1_nonpositive": [(-INF, -1), (0.0, 0), (-0.0, 0)],
    "log": [(INF, INF), (-INF, np.nan), (0.0, -INF), (-0.0, -INF), (1.0, 0), (-1.0, np.nan), (-1e-40, np.nan)],
    "log1p": [(INF, INF), (-INF, np.nan), (0.0, 0), (-0.0, 0), (-1.0, -INF), (-2.0, np.nan)],
    "log1p_unit": [(0.0, 0), (-0.0, 0), (1.0, float(np.log(2)))],
    "sqrt": [(INF, INF), (-INF, np.nan), (0.0, 0), (-0.0, 0), (-1.0, np.nan), (4.0, 2)],
    "sigmoid": [(INF, 1), (-INF, 0), (0.0, 0.5), (-0.0, 0.5)],
    "softplus": [(INF, INF), (-INF, 0), (0.0, float(np.log(2))), (-0.0, float(np.log(2)))],
    "tanh": [(INF, 1), (-INF, -1), (0.0, 0), (-0.0, 0)],
}


@lane_counts
@types
@functions
def test_special_numbers(name, dtype, vector):
    x = np.array([number for number, _ in SPECIAL[name]], dtype)
    expected = np.array([result for _, result in SPECIAL[name]])
    np.testing.assert_allclose(apply(name, x, vector), expected, rtol=4 * np.finfo(dtype).eps)


@lane_counts
@types
@functions
def test_nan_stays_nan(name, dtype, vector):
    """Quiet and signalling, of either sign and any payload."""
    integer, fraction = (np.uint32, 23) if dtype is np.float32 else (np.uint64, 52)
    rng = np.random.default_rng(12)
    payload = rng.integers(1, 1 << fraction, 200, integer)
    payload[:3] = 1, 1 << (fraction - 1), (1 << fraction) - 1
    exponent = (1 << (8 if dtype is np.float32 else 11)) - 1
    sign = rng.integers(0, 2, 200, integer) << integer(31 if dtype is np.float32 else 63)
    x = (payload | integer(exponent << fraction) | sign).view(dtype)
    assert np.isnan(x).all()
    assert np.isnan(apply(name, x, vector)).all()


@lane_counts
@types
@functions
def test_subnormal_numbers(name, dtype, vector):
    """As numbers, or as zero where the result is subnormal too; log sees them as what they are."""
    limits = np.finfo(dtype)
    rng = np.random.default_rng(13)
    steps = np.concatenate([[1, 2, 3], rng.integers(4, 1 << limits.nmant, 100)])
    x = (steps.astype(np.float64) * float(limits.smallest_subnormal)).astype(dtype)
    x = domain(name, np.concatenate([x, x if name in ("log", "sqrt") else -x]))
    errors = error(name, x, apply(name, x, vector))
    assert errors.max() <= max(BOUNDS[name][TYPES.index(dtype)], LIBRARY * (not vector))


@types
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "sigmoid"])
def test_monotonic(name, dtype):
    """No step back of more than the bounds of two neighbours allow."""
    x = np.unique(points(name, dtype, 3000))
    if name in ("log", "sqrt"):
        x = x[x > 0]
    if name == "log1p":
        x = x[x > -1]
    results = apply(name, x).astype(np.float64)
    allowed = 2 * BOUNDS[name][TYPES.index(dtype)] * ulp(np.where(np.isfinite(results), results, 1.0), dtype)
    with np.errstate(invalid="ignore"):
        steps = np.diff(results)
    assert (steps[np.isfinite(steps)] >= -allowed[1:][np.isfinite(steps)]).all()


@types
def test_every_lane_gives_the_same(dtype):
    """A number's result does not depend on where it stands, nor on its neighbours."""
    rng = np.random.default_rng(14)
    for name in FUNCTIONS:
        x = domain(name, rng.uniform(-1, 1, 64).astype(dtype))
        results = apply(name, x)
        for shift in (1, 5, 17):
            np.testing.assert_array_equal(apply(name, np.roll(x, shift)), np.roll(results, shift))
        mixed = x.copy()
        mixed[::2] = np.nan
        np.testing.assert_array_equal(apply(name, mixed)[1::2], results[1::2])


# -- powers ----------------------------------------------------------------------------------------------------------


def bases_and_exponents(dtype, count):
    """Everywhere; where the result is a number; about a base of 1, with large exponents; usual numbers."""
    rng = np.random.default_rng(15)
    integer = np.uint32 if dtype is np.float32 else np.uint64
    limits = np.finfo(dtype)
    patterns = [abs(rng.integers(0, np.iinfo(integer).max, count, integer).view(dtype)) for _ in range(2)]
    wide = np.exp(rng.uniform(np.log(float(limits.tiny)), np.log(float(limits.max)), count))
    reach = np.log(float(limits.max)) / np.log(wide)
    near_one = np.asarray(1 + rng.normal(0, 1, count) * 10.0 ** rng.uniform(np.log10(limits.eps), 0, count), dtype)
    with np.errstate(all="ignore"):
        near_reach = np.log(float(limits.max)) / np.log(abs(near_one.astype(np.float64)))
    pairs = [
        patterns,
        (wide, rng.uniform(-1, 1, count) * reach),
        (abs(near_one), rng.uniform(-1, 1, count) * near_reach),
        (rng.uniform(0, 1, count), rng.uniform(0, 5, count)),
        (rng.uniform(0, 1, count), rng.integers(-5, 5, count)),
    ]
    x, exponent = (np.concatenate([np.asarray(pair[i], dtype) for pair in pairs]) for i in (0, 1))
    keep = np.isfinite(x) & np.isfinite(exponent)
    return x[keep], exponent[keep]


@lane_counts
@types
def test_error_of_powers(dtype, vector):
    x, exponent = bases_and_exponents(dtype, 500)
    errors = error("power", x, apply("power", x, vector, exponent), exponent)
    worst = int(np.argmax(errors))
    bound = max(BOUNDS["power"][TYPES.index(dtype)], LIBRARY * (not vector))
    assert errors[worst] <= bound, f"{errors[worst]:.3f} ulp at {x[worst]!r} ** {exponent[worst]!r}"


@lane_counts
@types
def test_special_powers(dtype, vector):
    """Zeros, infinities and NaN as bases; subnormal bases are seen as what they are."""
    cases = [
        (0.0, 2.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, INF), (-0.0, 3.0, 0.0), (1.0, 1e30, 1.0),
        (INF, 2.0, INF), (INF, 0.0, 1.0), (INF, -0.5, 0.0), (3.0, 0.0, 1.0), (np.nan, 0.0, np.nan),
        (np.nan, 1.5, np.nan), (1e30, 1e30, INF), (1e30, -1e30, 0.0), (1e-30, 1e30, 0.0), (0.25, -0.5, 2.0),
        (float(np.finfo(dtype).smallest_subnormal), 0.5, float(np.sqrt(np.finfo(dtype).smallest_subnormal))),
    ]  # fmt: skip
    x, exponent, expected = (np.array(column, dtype) for column in zip(*cases, strict=True))
    np.testing.assert_allclose(apply("power", x, vector, exponent), expected, rtol=4 * np.finfo(dtype).eps)


@types
def test_powers_known_when_a_kernel_is_compiled(dtype):
    """They are products and roots, as exact as those: no logarithm is taken."""
    x = np.concatenate([np.random.default_rng(16).gamma(1.0, 2.0, 60), [0.0, INF, np.nan]]).astype(dtype)
    for exponent in (0.0, 0.5, 1.0, 2.0):
        constant = np.full(x.shape, exponent, dtype)
        results = apply(f"power_{exponent}", x)
        np.testing.assert_array_equal(results, ops.power(x, exponent))
        np.testing.assert_allclose(apply("power", x, exponent=constant), results, rtol=2 * np.finfo(dtype).eps)
