"""Meaning of the primitives on SIMD lanes: own exp, log, log1p and power.

PyPI's llvmlite ships no vector math library, so ``exp`` in a loop would be a scalar call per element (8 cycles in
float32; the polynomials here take about 1). Scalars (no lanes) call the C library instead.

Precision policy. Largest error measured against 50-digit mpmath, in ulp (float32 / float64): exp 1.1 / 1.0,
log 1.0 / 1.2, log1p_unit 1.3 / 1.7, log1p 2.0 / 2.0, expm1 1.4 / 1.9, expm1_nonpositive 1.1 / 1.1, power 1.1 / 1.2.
Results below the smallest normal number are flushed to zero (as CUDA's -ftz=true does): subnormal arithmetic costs
about 150 cycles an instruction on x86. NaN stays NaN.

Coefficients: minimax polynomials by Remez exchange on the reduced ranges; the test
``test_vector_math.py`` holds every function to its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir

from .lanes import BIT, FLOAT32, FLOAT64, INT32, INT64, Lanes


class _Format(NamedTuple):
    """Constants of one floating-point format."""

    integer: ir.Type
    mantissa_bits: int
    smallest_normal: float
    exp_lowest: float  # exp of less is below the smallest normal number
    exp_highest: float  # exp of more is above the largest number
    round_magic: float  # adding it rounds to an integer that then stands, biased as exponents are, in the low bits
    magic_bits: int
    log2_high: float  # log 2 in two parts; the first times any exponent is exact
    log2_low: float
    sqrt_half_bits: int  # bit pattern of sqrt(1/2)
    one_bits: int
    exp_terms: tuple[float, ...]  # (exp(r) - 1 - r) / r^2 on |r| <= log(2) / 2
    log_terms: tuple[float, ...]  # (2 atanh(s) - 2 s) / s^3 in s^2, |s| <= 0.1716
    log1p_terms: tuple[float, ...]  # (log(1 + x) - x) / x^2 on [0, 1]
    two_thirds_low: float  # 2/3 less its nearest number
    atanh_terms: int  # of the series of 2 atanh(s) after 2 s + 2/3 s^3, for twice the precision


_FORMATS = {
    FLOAT32: _Format(
        INT32, 23, 2.0**-126, -87.33, 88.72283, 12582912.0 + 127, 0x4B400000 + 127,
        0.693359375, -2.12194440e-4, 0x3F3504F3, 127 << 23,
        (0.499999934488248222, 0.166665206313548441, 0.0416683878309368741, 0.00836871693427680986,
         0.00138146096068203383),
        (0.666667764202352104, 0.399775280781031966, 0.298722820969379552),
        (-0.499999327649852131, 0.333305113380182566, -0.249585874587028086, 0.196954002177990614,
         -0.153553943631363465, 0.106805510300546406, -0.0576643914949321004, 0.0202045535449153567,
         -0.00331846503208737655),
        -1.9868214925130207e-08, 5,
    ),
    FLOAT64: _Format(
        INT64, 52, 2.0**-1022, -708.0, 709.782712893384, 6755399441055744.0 + 1023, 0x4338000000000000 + 1023,
        6.93147180369123816490e-01, 1.90821492927058770002e-10, 0x3FE6A09E667F3BCD, 1023 << 52,
        (0.500000000000001063, 0.166666666666664125, 0.0416666666665301576, 0.00833333333349446368,
         0.00138888889436303798, 0.000198412695065757455, 0.0000248014930986353296, 2.75575863756786458e-6,
         2.76302484731680305e-7, 2.50000611832513874e-8),
        (0.666666666666673464, 0.399999999994127913, 0.285714287428900988, 0.222221985135857661,
         0.18183567820667581, 0.153139514416984398, 0.147970344343088685),
        (-0.499999999999994597, 0.333333333332350404, -0.249999999936763697, 0.199999997913166301,
         -0.166666624983854392, 0.142856588957383568, -0.124994795998073321, 0.111075059158538608,
         -0.0998101456608799394, 0.0901315250395538366, -0.0808120883609071763, 0.0703553776707505824,
         -0.0575019653254390195, 0.0423000737357785445, -0.0267439342383708877, 0.0138385721619882171,
         -0.00554310034973993867, 0.00159573816623754569, -0.000291760601957136344, 0.0000253298801778119346),
        3.700743415417188e-17, 11,
    ),
}  # fmt: skip


def fma(factor: Lanes, other: Any, addend: Any) -> Lanes:
    """``factor * other + addend``, rounded once."""
    operands = [x if isinstance(x, Lanes) else factor.constant(x) for x in (factor, other, addend)]
    count = max(x.count for x in operands)
    first, second, third = (x.broadcast(count) for x in operands)
    return first.call("llvm.fma", first, second, third)


def _polynomial(x: Lanes, terms: tuple[float, ...]) -> Lanes:
    result = x.constant(terms[-1])
    for term in reversed(terms[:-1]):
        result = fma(result, x, term)
    return result


def where(condition: Any, yes: Any, no: Any) -> Lanes:
    """Choose lane by lane."""
    example = next(x for x in (condition, yes, no) if isinstance(x, Lanes))
    if not isinstance(condition, Lanes):
        condition = example.constant(bool(condition), BIT)
    real = next((x.element for x in (yes, no) if isinstance(x, Lanes)), condition.real)
    yes, no = (x if isinstance(x, Lanes) else condition.constant(x, real) for x in (yes, no))
    count = max(condition.count, yes.count, no.count)
    condition, yes, no = (x.broadcast(count) for x in (condition, yes, no))
    return Lanes(condition.builder, condition.builder.select(condition.value, yes.value, no.value), yes.real)


def abs(x: Lanes) -> Lanes:
    """Magnitude."""
    return x.__abs__()


def sqrt(x: Lanes) -> Lanes:
    """Square root, correctly rounded."""
    return x.call("llvm.sqrt", x)


def exp(x: Lanes) -> Lanes:
    """Exponential by 2^n (1 + r + r^2 q(r)), |r| <= log(2) / 2; 2^n in two factors that never overflow."""
    if not x.count:
        return x.call("llvm.exp", x)
    f = _FORMATS[x.element]
    return _exp_bounded(_bounded(x, f), 0.0, f)


def exp_nonpositive(x: Lanes) -> Lanes:
    """Exponential for x <= 0; results below the smallest normal number are 0."""
    if not x.count:
        return x.call("llvm.exp", x)
    f = _FORMATS[x.element]
    less, exponent = _reduced_exponential(x, 0.0, f)
    return where(x < f.exp_lowest, 0.0, (less + 1.0) * (exponent << f.mantissa_bits).as_float())


def expm1(x: Lanes) -> Lanes:
    """exp(x) - 1 by 2^n (mantissa - 1) + (2^n - 1), or as it stands where that is no number."""
    if not x.count:
        return x.call_symbol("expm1" if x.element == FLOAT64 else "expm1f", x)
    f = _FORMATS[x.element]
    bounded = _bounded(x, f)
    less, exponent = _reduced_exponential(bounded, 0.0, f)
    scale = _power_of_two(exponent - f.magic_bits, f)
    return where(abs(x) < 40.0, fma(less, scale, scale - 1.0), _exp_bounded(bounded, 0.0, f) - 1.0)


def expm1_nonpositive(x: Lanes) -> Lanes:
    """exp(x) - 1 for x <= 0 by 2^n (mantissa - 1) + (2^n - 1)."""
    if not x.count:
        return x.call_symbol("expm1" if x.element == FLOAT64 else "expm1f", x)
    f = _FORMATS[x.element]
    less, exponent = _reduced_exponential(x, 0.0, f)
    scale = (exponent << f.mantissa_bits).as_float()
    return where(x < f.exp_lowest, -1.0, fma(less, scale, scale - 1.0))


def _bounded(x: Lanes, f: _Format) -> Lanes:
    """Give x, or what has the same exponential: 0 or infinity."""
    lowest, highest = 2.0 * f.exp_lowest, 2.0 * f.exp_highest
    return where(x < lowest, lowest, where(x > highest, highest, x))


def _exp_bounded(x: Lanes, rest: Any, f: _Format) -> Lanes:
    """exp(x + rest) for a small rest; the power of two in two factors that are numbers, whatever their product is."""
    less, exponent = _reduced_exponential(x, rest, f)
    n = exponent - f.magic_bits
    half = n >> 1
    return (less + 1.0) * _power_of_two(half, f) * _power_of_two(n - half, f)


def _reduced_exponential(x: Lanes, rest: Any, f: _Format) -> tuple[Lanes, Lanes]:
    """Mantissa of exp(x + rest) less 1, and bits whose lowest are its biased exponent."""
    shifted = fma(x, 1 / math.log(2), f.round_magic)
    n = shifted - f.round_magic
    r = fma(n, -f.log2_low, fma(n, -f.log2_high, x)) + rest
    return fma(_polynomial(r, f.exp_terms), r * r, r), shifted.bits()


def exponential_parts(x: Lanes) -> tuple[Lanes, Lanes]:
    """Mantissa in [0.7, 1.5) and power of two of exp(x), float64, whatever its size; 1 and -inf for -inf.

    Where the power of two is itself rounded (from about 2^53 on) the mantissa, which then says nothing, is 1.
    """
    f = _FORMATS[x.element]
    scaled = x * (1 / math.log(2))
    n = scaled.call("llvm.rint", scaled)
    r = fma(n, -f.log2_low, fma(n, -f.log2_high, x))
    r = where(abs(r) < 1.0, r, 0.0)
    return fma(_polynomial(r, f.exp_terms), r * r, r) + 1.0, n


def _power_of_two(n: Lanes, f: _Format) -> Lanes:
    return ((n << f.mantissa_bits) + f.one_bits).as_float()


def log(x: Lanes) -> Lanes:
    """Logarithm by exponent * log 2 + log of a mantissa in [sqrt(1/2), sqrt 2)."""
    if not x.count:
        return x.call("llvm.log", x)
    f = _FORMATS[x.element]
    subnormal = x < f.smallest_normal
    result = _log_normal(where(subnormal, x * 2.0**f.mantissa_bits, x), where(subnormal, -float(f.mantissa_bits), 0.0))
    result = where(x == math.inf, math.inf, result)
    return where(x > 0.0, result, where(x == 0.0, -math.inf, math.nan))


def _log_normal(x: Lanes, exponent_offset: Lanes) -> Lanes:
    f = _FORMATS[x.element]
    exponent, fraction = _split(x, exponent_offset, f)
    s = fraction / (fraction + 2.0)
    z = s * s
    # log(1 + fraction) = fraction - s (fraction - z q(z)): keeps the large term exact (as fdlibm's e_log.c does).
    log_fraction = fraction - s * (fraction - z * _polynomial(z, f.log_terms))
    return fma(exponent, f.log2_high, fma(exponent, f.log2_low, log_fraction))


def _split(x: Lanes, exponent_offset: Lanes, f: _Format) -> tuple[Lanes, Lanes]:
    """Exponent of x, and its mantissa in [sqrt(1/2), sqrt 2) less 1."""
    bits = x.bits()
    k = (bits - f.sqrt_half_bits) >> f.mantissa_bits
    return k.convert(x.element) + exponent_offset, (bits - (k << f.mantissa_bits)).as_float() - 1.0


#: Powers whose exponent is known when a kernel is compiled.
_SHORT_POWERS: dict[float, Callable[[Lanes], Lanes]] = {
    0.0: lambda x: where(x == x, 1.0, x),
    0.5: sqrt,
    1.0: lambda x: x,
    2.0: lambda x: x * x,
}


def power(x: Any, exponent: Any) -> Lanes:
    """Raise x >= 0 to an exponent by exp(exponent log x) with the logarithm in twice the precision."""
    if isinstance(exponent, float) and exponent in _SHORT_POWERS:
        return _SHORT_POWERS[exponent](x)
    example = x if isinstance(x, Lanes) else exponent
    x, exponent = (o if isinstance(o, Lanes) else example.constant(o) for o in (x, exponent))
    count = max(x.count, exponent.count)
    x, exponent = x.broadcast(count), exponent.broadcast(count)
    if not count:
        return where(x == x, x.call("llvm.pow", x, exponent), x)
    f = _FORMATS[x.element]
    high, low = _log_in_two_parts(x, f)
    product = exponent * high
    rest = fma(exponent, low, fma(exponent, high, -product))
    bounded = _bounded(product, f)
    result = _exp_bounded(bounded, where(product == bounded, rest, 0.0), f)
    rising = where(x == 0.0, -exponent, exponent)
    edge = where(rising > 0.0, math.inf, where(rising < 0.0, 0.0, 1.0))
    result = where((x == 0.0) | (x == math.inf), edge, result)
    return where(x >= 0.0, result, math.nan)


def _two_sum(larger: Lanes, smaller: Lanes) -> tuple[Lanes, Lanes]:
    """Sum, and what rounding leaves out of it; the larger summand may also be 0 (Dekker 1971)."""
    total = larger + smaller
    return total, smaller - (total - larger)


def _log_in_two_parts(x: Lanes, f: _Format) -> tuple[Lanes, Lanes]:
    """Logarithm of a positive number, as two numbers that make up for each other's rounding.

    ``k log 2 + 2 atanh(s)``, s = fraction / (fraction + 2), by its series; 2 s and 2/3 s^3 in two parts, too.
    """
    subnormal = x < f.smallest_normal
    offset = where(subnormal, -float(f.mantissa_bits), 0.0)
    exponent, fraction = _split(where(subnormal, x * 2.0**f.mantissa_bits, x), offset, f)
    divisor = fraction + 2.0
    inverse = 1.0 / divisor
    s = fraction * inverse
    s_low = fma(-s, fraction - (divisor - 2.0), fma(-s, divisor, fraction)) * inverse
    square = s * s
    square_low = fma(s + s, s_low, fma(s, s, -square))
    cube = s * square
    cube_low = fma(s_low, square, fma(s, square_low, fma(s, square, -cube)))
    third = cube * (2 / 3)
    third_low = fma(cube, f.two_thirds_low, fma(cube_low, 2 / 3, fma(cube, 2 / 3, -third)))
    series = _polynomial(square, tuple(2 / (2 * term + 3) for term in range(1, f.atanh_terms + 1)))
    first, first_low = _two_sum(exponent * f.log2_high, s + s)
    second, second_low = _two_sum(first, third)
    low = fma(s_low, 2.0, third_low) + (first_low + second_low)
    low = fma(exponent, f.log2_low, fma(cube * square, series, low))
    return _two_sum(second, low)


def log1p_unit(x: Lanes) -> Lanes:
    """log(1 + x) for 0 <= x <= 1 by x + x (x q(x)): no division, and nothing underflows."""
    if not x.count:
        return log1p(x)
    return fma(x, x * _polynomial(x, _FORMATS[x.element].log1p_terms), x)


def log1p(x: Lanes) -> Lanes:
    """log(1 + x) by log(u) + (x - (u - 1)) / u with u the rounded 1 + x."""
    if not x.count:
        return x.call_symbol("log1p" if x.element == FLOAT64 else "log1pf", x)
    u = x + 1.0
    result = _log_normal(u, u.constant(0.0)) + (x - (u - 1.0)) / u
    result = where(x == math.inf, math.inf, result)
    return where(u > 0.0, result, where(u == 0.0, -math.inf, math.nan))
