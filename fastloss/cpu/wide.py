"""Numbers of any size on SIMD lanes: products of thousands of probabilities, which no float64 holds.

A number is ``mantissa * 2**exponent``, both float64, the mantissa in [1, 2) and the exponent a whole number. Sums and
products take shifts of bits and neither exp nor log: 5 times as fast as sums of logarithms, and each rounds once
relative to its result, however long the product. Zero has an exponent of `DEAD` or less, and any mantissa.
"""

from __future__ import annotations

import math

from llvmlite import ir

from .lanes import FLOAT64, INT64, Lanes
from .storage import Pointer
from .vector_math import exponential_parts, fma, where

#: Exponents of zero. Sums of less than 10^8 of them are finite, and with a number of any size added they stay as low.
DEAD = -1e300
#: Exponents from here on down are of zeros.
SMALLEST = DEAD / 2

Wide = tuple[Lanes, Lanes]

_MANTISSA, _ONE = (1 << 52) - 1, 1023 << 52
#: The bits of 2^52: with a whole number below 2^52 in its low bits, the float64 2^52 + that number.
_WHOLE = 1075 << 52


def constant(like: Lanes, mantissa: float, exponent: float) -> Wide:
    """One number in as many lanes."""
    return like.constant(mantissa, FLOAT64), like.constant(exponent, FLOAT64)


def load(pointer: Pointer, pitch: Lanes, count: int) -> Wide:
    """Numbers whose exponents lie ``pitch`` elements behind their mantissas."""
    return pointer.load(FLOAT64, count), pointer.moved(pitch).load(FLOAT64, count)


def store(pointer: Pointer, pitch: Lanes, number: Wide) -> None:
    """Write numbers as `load` reads them."""
    pointer.store(number[0])
    pointer.moved(pitch).store(number[1])


def exponential(x: Lanes) -> Wide:
    """``exp(x)``; 0 for -inf. The mantissa is in [0.7, 1.5): for one factor of a product."""
    mantissa, exponent = exponential_parts(x)
    return mantissa, where(exponent > DEAD, exponent, DEAD)


def power_of_two(exponent: Lanes) -> Lanes:
    """``2**exponent`` as a float64, for at most 1023; 0 below the smallest normal number."""
    limited = where(exponent > -1023.0, exponent, -1023.0)
    return ((limited + (1.5 * 2.0**52 + 1023.0)).bits() << 52).as_float()


def total(*terms: Wide) -> Wide:
    """The sum; its mantissa is in [1, 2 times the number of terms)."""
    largest = terms[0][1]
    for _, exponent in terms[1:]:
        largest = where(exponent > largest, exponent, largest)
    sum_ = None
    for mantissa, exponent in terms:
        shift = power_of_two(exponent - largest)
        sum_ = mantissa * shift if sum_ is None else fma(mantissa, shift, sum_)
    assert sum_ is not None
    return sum_, largest


def product(left: Wide, right: Wide) -> Wide:
    """The product, its mantissa back in [1, 2)."""
    bits = (left[0] * right[0]).bits()
    raised = (bits.logical_right(52) | _WHOLE).as_float() - (2.0**52 + 1023.0)
    mantissa = ((bits & _MANTISSA) | _ONE).as_float()
    return mantissa, left[1] + right[1] + raised


def inverse(wide: Wide) -> Wide:
    """One over a number that is not 0; its mantissa is at most 1: for one factor of a product."""
    return 1.0 / wide[0], 0.0 - wide[1]


def number_of_product(*factors: Wide) -> Lanes:
    """A product of at most about 1 as a float64."""
    mantissa, exponent = factors[0]
    for factor in factors[1:]:
        mantissa, exponent = mantissa * factor[0], exponent + factor[1]
    return mantissa * power_of_two(exponent)


def logarithm(wide: Wide) -> Lanes:
    """Its logarithm, as a scalar; -inf of zero."""
    mantissa, exponent = wide
    found = fma(exponent, math.log(2.0), mantissa.call("llvm.log", mantissa))
    return where(exponent > SMALLEST, found, -math.inf)


def total_of_lanes(numbers: Wide) -> Wide:
    """The sum of all lanes, as a scalar, in a fixed order."""
    mantissa, exponent = numbers
    largest = exponent
    while largest.count > 1:
        half = largest.count // 2
        low, high = largest.part(0, half), largest.part(half, half)
        largest = where(high > low, high, low)
    top = largest.lane(0)
    return (mantissa * power_of_two(exponent - top)).halves_added(1).lane(0), top


def shifted_up(before: Lanes, here: Lanes) -> Lanes:
    """Each lane's lower neighbour: the last of the lanes before, then all of these but the last."""
    count = here.count
    return before.shuffle(here, [count - 1, *range(count, 2 * count - 1)])


def shifted_down(here: Lanes, after: Lanes) -> Lanes:
    """Each lane's upper neighbour."""
    count = here.count
    return here.shuffle(after, list(range(1, count + 1)))


def gather(row: Pointer, places: Pointer, count: int) -> Lanes:
    """Elements of a row, as float64 lanes, whose places are int64 numbers in memory."""
    builder = row.builder
    gathered: ir.Value = ir.Constant(ir.VectorType(FLOAT64, count), ir.Undefined)
    for lane in range(count):
        element = row.moved(places.moved(lane).load_integer()).load(FLOAT64, 0)
        gathered = builder.insert_element(gathered, element.value, ir.Constant(INT64, lane))
    return Lanes(builder, gathered)


def scatter(row: Pointer, places: Pointer, numbers: Lanes) -> None:
    """Write lanes to places of a row, one after the other."""
    for lane in range(numbers.count):
        row.moved(places.moved(lane).load_integer()).store(numbers.lane(lane))


def scatter_add(row: Pointer, places: Pointer, numbers: Lanes) -> None:
    """Add lanes to places of a float64 row, one after the other: places may be the same."""
    for lane in range(numbers.count):
        place = row.moved(places.moved(lane).load_integer())
        place.store(place.load(FLOAT64, 0) + numbers.lane(lane))
