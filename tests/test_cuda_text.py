"""The CUDA text of formulas, built for the host, against the same formulas as Numba scalars."""

import ctypes
import itertools
import re
import shutil
import subprocess
import types
import zlib

import numpy as np
import pytest
from formula_scalars import scalar_results
from representatives import LOSSES, REPRESENTATIVES, THOROUGH

from fastloss.formula import ops
from fastloss.formula.ops import (
    clip,
    exp,
    exp_nonpositive,
    expm1,
    expm1_nonpositive,
    log,
    log1p,
    log1p_unit,
    power,
    sigmoid,
    sqrt,
    where,
)
from fastloss.formula.subset import check
from fastloss.formula.to_cuda import cuda_name, cuda_text

POINTS = 20_000
PRECISIONS = {"float32": "float", "float64": "double"}


# -- formulas of every shape -------------------------------------------------------------------------


def primitives(x, y):
    """Each primitive once."""
    root, other = sqrt(x), power(abs(x), y)
    exponential, small, less = exp(x), exp_nonpositive(x), expm1(x) - expm1_nonpositive(y)
    return where(x < y, x, y), exponential, small, less, log(x), log1p(x), log1p_unit(x), root, other


def comparisons(x, y):
    below = where(x < y, 1.0, 0.0) + where(x <= y, 2.0, 0.0)
    above = where(x > y, 4.0, 0.0) + where(x >= y, 8.0, 0.0)
    return below, above, where(x == y, 1.0, 0.0) + where(x != y, 2.0, 0.0)


def grouping(x, y, z):
    """Parentheses must group as in Python."""
    sums = x - (y - z) + (x + (y + z)) - (x - y - z)
    products = x / (y / z) * (x * (y * z)) / (x / y / z)
    return sums, products, -(x + y) * (-z), -(-x) - (-y), (x + y) * (y - z) / (x * z)  # noqa: B002


def masks(x, y, hit):
    inside = (x > -1.0) & (x < 1.0)
    other = ~inside & (hit | (y == 0.0)) | ((x > y) & ~hit)
    chosen = where(hit, inside, other)
    return where(inside, x, y), where(other, x, y), where(chosen, 1.0, x), where(~(hit & inside), y, x)


def both_small(x, y):
    return (abs(x) < 1e-3) & (abs(y) < 1e-3)


def only_a_mask(x, y, hit):
    return both_small(x, y) | hit


def literals(x):
    """Numbers that float32 must round once, also where Python has computed with them."""
    third = 1.0 / 3.0
    ninth = third * third
    cancelling = x * 0.1 - 1
    return cancelling, third * x - ninth, sqrt(2.0) * x, x - exp(1.0), -0.1 / 3.0 - x, (1.0 - 1e-7) * x, 2.0


def repeated(x, y):
    factor = 0.5
    x = x * factor
    factor = factor + y
    y, z = x * factor, x - 1.0
    return x, y, z


def moments(x, y):
    mean = 0.5 * (x + y)
    return mean, (x - mean) * (y - mean)


def passed_on(y, x):
    return moments(x, y)


def unpacked(x, y):
    mean, spread = moments(x, y)
    x, mean = passed_on(mean, x)
    return x, mean, spread


def c_words(double, out, new, T, exp, out_1):
    """Names that C++ or the text has taken."""
    fabs = abs(double)
    union = fabs * new
    return union - out, T * exp + out_1


def deep(x, y):
    return sigmoid(clip(x, -1.0, y)) + _scaled(y)


def _scaled(x):
    """Same name as another formula \\"""
    return 3.0 * x


def _other():
    def _scaled(x):
        return _first(x) - x

    return _scaled


_first, _second = _scaled, _other()


def namesakes(x):
    return _first(x) + _second(x)


TOYS = [
    primitives, comparisons, grouping, masks, only_a_mask, literals,
    repeated, passed_on, unpacked, c_words, deep, namesakes,
]  # fmt: skip
COMPOSITES = {
    name: operation
    for name, operation in vars(ops).items()
    if isinstance(operation, types.FunctionType)
    and operation.__module__ == ops.__name__
    and not name.startswith("_")
    and name not in ops.PRIMITIVES
}
#: Those of other losses are compared with 50 digits where they run, in the emulator.
FORMULAS = (
    {f"toy.{formula.__name__}": formula for formula in TOYS}
    | {f"ops.{name}": formula for name, formula in COMPOSITES.items()}
    | {
        f"{name}.{label}": formula
        for name in THOROUGH
        for label, formula in LOSSES[name].formulas().items()
        if {label, label.rpartition(".")[0]} & {*REPRESENTATIVES[name]}
    }
)
ALL = FORMULAS | {
    f"{name}.{label}": formula for name, loss in LOSSES.items() for label, formula in loss.formulas().items()
}


def test_toys_use_every_primitive():
    assert set(check(primitives).primitives.values()) == set(ops.PRIMITIVES)


# -- points ------------------------------------------------------------------------------------------


def extremes(dtype):
    """Edges of the format and of the functions' domains, each with both signs."""
    limits = np.finfo(dtype)
    one = dtype.type(1)
    format_edges = [
        0,
        limits.tiny,
        limits.smallest_subnormal,
        limits.tiny - limits.smallest_subnormal,
        limits.max,
    ]
    around_one = [one, np.nextafter(one, dtype.type(0)), np.nextafter(one, dtype.type(2)), 0.5, 2, limits.eps]
    exp_edges = [16.7, 36.8, 87.3, 88.7, 103.9, 104, 708.3, 709.7, 709.8, 745.1, 746]
    others = [np.inf, np.nan, 1e-3, 1e-7, 1 - 1e-7, 1e30, 1e-30, 1e-45, np.pi, 3, 1024.5]
    magnitudes = np.array([*format_edges, *around_one, *exp_edges, *others], dtype)
    return np.concatenate([magnitudes, -magnitudes])


def mixed(random, size):
    """Both signs, probabilities, positive numbers over many magnitudes, large logits."""
    normal = random.normal(size=size)
    kinds = [normal, random.random(size), np.exp(4.0 * normal), 30.0 * normal]
    return np.choose(random.integers(0, len(kinds), size), kinds)


def target(random, size):
    return np.where(random.random(size) < 0.5, random.integers(0, 2, size), mixed(random, size))


#: What an argument of this name holds in practice; others get `mixed`.
SENSIBLE = {
    "y": target,
    "label_smoothing": lambda random, size: random.random(size) * random.integers(0, 2, size),
    "epsilon": lambda random, size: 10.0 ** random.uniform(-12, -1, size),
    "kept": lambda random, size: np.exp(-np.abs(30.0 * random.normal(size=size))),
    "total": lambda random, size: 1.0 + np.abs(30.0 * random.normal(size=size)),
    "classes": lambda random, size: random.integers(2, 1000, size).astype(float),
}


def points(formula, dtype):
    """One row for each argument: practical values, values with extremes and ties, all pairs of extremes."""
    source = check(formula)
    random = np.random.default_rng(zlib.crc32(formula.__qualname__.encode()))
    rows = np.array([SENSIBLE.get(name, mixed)(random, POINTS) for name in source.arguments]).astype(dtype)
    edges = extremes(dtype)
    late = rows[:, POINTS // 2 :]
    late[...] = np.where(random.random(late.shape) < 0.5, random.choice(edges, late.shape), late)
    late[...] = np.where(random.random(late.shape) < 0.1, np.roll(late, 1, axis=0), late)
    pairs = np.array(list(itertools.product(edges, repeat=min(2, len(rows))))).T
    rows[:2, -pairs.shape[1] :] = pairs
    for row, name in zip(rows, source.arguments, strict=True):
        if source.kinds[name] == "mask":
            row[...] = random.integers(0, 2, POINTS)
    return rows


def ulps_apart(first, second):
    """Units in the last place between numbers; 0 between NaNs, huge if just one is not finite."""
    integers = np.dtype(f"u{first.dtype.itemsize}")
    sign = integers.type(1) << integers.type(8 * first.dtype.itemsize - 1)
    # Bit patterns as integers that rise with the number; adding 0 makes -0 a 0.
    one, other = ((x + 0.0).view(integers) for x in (first, second))
    one, other = (np.where(x & sign, ~x, x | sign) for x in (one, other))
    apart = np.maximum(one, other) - np.minimum(one, other)
    apart = np.where(np.isfinite(first) & np.isfinite(second), apart, np.iinfo(integers).max)
    return np.where((first == second) | (np.isnan(first) & np.isnan(second)), integers.type(0), apart)


def test_ulps_apart():
    for dtype in map(np.dtype, PRECISIONS):
        limits, one = np.finfo(dtype), dtype.type(1)
        second = np.nextafter(one, dtype.type(2))
        third = np.nextafter(second, dtype.type(2))
        a = np.array([1, 1, 1, -1, -0.0, np.nan, np.nan, np.inf, np.inf, -third, limits.smallest_subnormal], dtype)
        b = np.array([1, second, third, 1, 0.0, np.nan, 1, np.inf, limits.max, -one, 0], dtype)
        apart = ulps_apart(a, b)
        assert apart[[0, 1, 2, 4, 5, 7, 9, 10]].tolist() == [0, 1, 2, 0, 0, 0, 2, 1]
        assert (apart[[3, 6, 8]] > 2**30).all()


# -- the host's compiler -----------------------------------------------------------------------------

HOST = """
#include <cmath>
#define __device__
#define __forceinline__ inline
typedef {type} real;
{using}
"""
RUN = """
namespace formula_{number} {{
{text}
}}
extern "C" void run_{number}(const real* arguments, real* results, long points) {{
    for (long point = 0; point < points; ++point) {{
        real out[{outputs}];
        formula_{number}::{name}<real>({operands}, out);
        for (int i = 0; i < {outputs}; ++i) results[i * points + point] = out[i];
    }}
}}
"""


def host_program(texts, precision):
    """C++ text with a loop over points for each of (formula, its CUDA text)."""
    called = set(re.findall(r"\w+(?=\()", " ".join(primitive.cuda for primitive in ops.PRIMITIVES.values())))
    parts = [HOST.format(type=precision, using="\n".join(f"using std::{name};" for name in sorted(called)))]
    for number, (formula, text) in enumerate(texts):
        source = check(formula)
        operands = [
            f"arguments[{i} * points + point]" + (" != 0" if source.kinds[name] == "mask" else "")
            for i, name in enumerate(source.arguments)
        ]
        parts.append(
            RUN.format(
                number=number,
                text=text,
                outputs=source.outputs,
                name=cuda_name(formula),
                operands=", ".join(operands),
            )
        )
    return "".join(parts)


def host_library(texts, precision, folder):
    """Build the program without contraction; a float that turns into a double is an error."""
    program, library = folder / f"{precision}.cpp", folder / f"{precision}.so"
    program.write_text(host_program(texts, precision))
    options = ["-std=c++14", "-O2", "-ffp-contract=off", "-Werror=double-promotion", "-shared", "-fPIC"]
    built = subprocess.run(["g++", *options, program, "-o", library], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(library)


@pytest.fixture(scope="module", params=PRECISIONS)
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(scope="module")
def host_results(dtype, tmp_path_factory):
    """The function (name, points) -> results of the text built for the host; names as in `FORMULAS`."""
    if shutil.which("g++") is None:
        pytest.skip("the host has no g++ to build the CUDA text with")
    texts = {name: (formula, cuda_text(formula)) for name, formula in FORMULAS.items()}
    texts["wrong"] = grouping, cuda_text(grouping).replace("x + (y + z)", "x + y + z")
    library = host_library(texts.values(), PRECISIONS[dtype.name], tmp_path_factory.mktemp("cuda_text"))

    def run(name, arguments):
        results = np.empty((check(texts[name][0]).outputs, arguments.shape[1]), dtype)
        function = library[f"run_{list(texts).index(name)}"]
        function(*(ctypes.c_void_p(a.ctypes.data) for a in (arguments, results)), ctypes.c_long(arguments.shape[1]))
        return results

    return run


@pytest.mark.parametrize("name", FORMULAS)
def test_text_agrees_with_numba_scalars(name, dtype, host_results):
    formula = FORMULAS[name]
    arguments = points(formula, dtype)
    expected, got = scalar_results(formula, arguments), host_results(name, arguments)
    apart = ulps_apart(expected, got)
    output, point = np.unravel_index(np.argmax(apart), apart.shape)
    values = dict(zip(check(formula).arguments, arguments[:, point].tolist(), strict=True))
    assert apart.max() <= 1, (
        f"output {output} at {values}: Numba {expected[output, point]!r}, text {got[output, point]!r}; "
        f"{(apart > 1).any(axis=0).sum()} of {POINTS} points differ"
    )
    assert np.isfinite(expected).sum(axis=1).min() > POINTS // 10, "hardly any point has a finite result"


def test_wrong_text_is_noticed(dtype, host_results):
    arguments = points(grouping, dtype)
    assert ulps_apart(scalar_results(grouping, arguments), host_results("wrong", arguments)).max() > 1


# -- the text itself ---------------------------------------------------------------------------------


def huber(y, p, delta):
    """Quadratic near zero, linear beyond `delta`.

    More about it.
    """
    difference = p - y
    slope = clip(difference, -delta, delta)
    inside = abs(difference) <= delta
    return slope * (difference - 0.5 * slope), slope, where(inside, 1.0, 0.0)


def test_text_reads_like_the_formula():
    assert (
        cuda_text(huber)
        == """\
// ``x`` limited to [lowest, highest]; NaN stays NaN.
template <typename T>
__device__ __forceinline__ T fl_clip(T x, T lowest, T highest) {
    return (x < lowest ? lowest : (x > highest ? highest : x));
}

// Quadratic near zero, linear beyond `delta`.
template <typename T>
__device__ __forceinline__ void fl_huber(T y, T p, T delta, T* out) {
    T difference = p - y;
    T slope = fl_clip<T>(difference, -delta, delta);
    bool inside = fabs(difference) <= delta;
    out[0] = slope * (difference - T(0.5) * slope);
    out[1] = slope;
    out[2] = (inside ? T(1.0) : T(0.0));
}
"""
    )


@pytest.mark.parametrize("name", [name for name in ALL if name != "toy.c_words"])
def test_text_keeps_names_and_defines_each_formula_once(name):
    text, source = cuda_text(ALL[name]), check(ALL[name])
    assert set(source.kinds) <= set(re.findall(r"\w+", text))
    defined = re.findall(r"^__device__ .*\b(fl_\w+)\(", text, re.MULTILINE)
    assert len(set(defined)) == len(defined)
    assert defined[-1] == cuda_name(ALL[name])
    assert set(re.findall(r"\bfl_\w+", text)) == set(defined)
    assert not re.search(r"^\s*#", text, re.MULTILINE)


def test_text_numbers_namesakes():
    text = cuda_text(namesakes)
    assert "fl_scaled<T>(x) + fl_scaled_2<T>(x)" in text or "fl_scaled_2<T>(x) + fl_scaled<T>(x)" in text


def test_text_of_masks():
    assert "bool fl_both_small(T x, T y) {" in cuda_text(only_a_mask)
    assert "out[0] = fl_both_small<T>(x, y) || hit;" in cuda_text(only_a_mask)
    assert "void fl_masks(T x, T y, bool hit, T* out) {" in cuda_text(masks)


def test_text_of_numbers_is_rounded_once():
    text = cuda_text(literals)
    assert "const double ninth = third * third;" in text
    assert "T(third) * x - T(ninth)" in text
    assert "T(sqrt(2.0)) * x" in text
