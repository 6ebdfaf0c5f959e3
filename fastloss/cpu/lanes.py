"""SIMD lanes: an LLVM scalar or vector with Python operators, so that a formula can be traced into machine code.

Numba's auto-vectoriser takes or leaves a loop by the way its bounds are written (4x apart for the same loop), and
never vectorises a strict floating-point sum. `Lanes` therefore spells vectors out: calling a formula with `Lanes`
emits its LLVM instructions. Lanes hold float32 or float64 (computing), integers (bit patterns) or i1 (masks).
No fast-math flag is ever set: NaN, inf and the order of operations are the formula's own.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

FLOAT32, FLOAT64 = ir.FloatType(), ir.DoubleType()
INT32, INT64, BIT = ir.IntType(32), ir.IntType(64), ir.IntType(1)


_NO_BRANCHES = "a formula cannot branch on a value; use where(condition, yes, no)"


def lanes_at_once(element: ir.Type) -> int:
    """How many elements a sweep computes at once, in float32 or float64, on every machine.

    Four AVX-512 registers: a formula is one long chain of dependent operations, and a processor that sees only two
    of them at a time waits for results (binary cross-entropy: 0.77 against 0.67 ns an element).
    """
    return 64 if element == FLOAT32 else 32


def vector_of(element: ir.Type, count: int) -> ir.Type:
    """LLVM type of ``count`` lanes; a count of 0 means a scalar."""
    return ir.VectorType(element, count) if count else element


class Lanes:
    """One LLVM value and the builder that extends it. ``real`` is the float type a mask was compared in."""

    __slots__ = ("builder", "real", "value")

    def __init__(self, builder: ir.IRBuilder, value: ir.Value, real: ir.Type | None = None) -> None:
        self.builder, self.value = builder, value
        self.real = real if real is not None else self.element

    @property
    def formula_namespace(self) -> Any:
        """Where the operations of `fastloss.formula.ops` find their meaning on lanes."""
        from . import vector_math

        return vector_math

    @property
    def count(self) -> int:
        """Number of lanes; 0 for a scalar."""
        return self.value.type.count if isinstance(self.value.type, ir.VectorType) else 0

    @property
    def element(self) -> ir.Type:
        """LLVM type of one lane."""
        return self.value.type.element if self.count else self.value.type

    @property
    def is_float(self) -> bool:
        """Whether the lanes hold floating-point numbers."""
        return isinstance(self.element, ir.FloatType | ir.DoubleType)

    def constant(self, number: float, element: ir.Type | None = None) -> Lanes:
        """``number`` in every lane, in this value's precision unless ``element`` says otherwise."""
        element = element or self.real
        number = float(number) if isinstance(element, ir.FloatType | ir.DoubleType) else int(number)
        if isinstance(element, ir.FloatType):
            number = _round_to_float32(number)
        scalar = ir.Constant(element, number)
        return Lanes(
            self.builder,
            ir.Constant(vector_of(element, self.count), [scalar] * self.count) if self.count else scalar,
        )

    def broadcast(self, count: int) -> Lanes:
        """Spread a scalar to ``count`` lanes; lanes of that count pass through."""
        if self.count == count:
            return self
        if self.count:
            raise TypeError(_mismatch(self.count, count))
        undefined = ir.Constant(ir.VectorType(self.element, count), ir.Undefined)
        first = self.builder.insert_element(undefined, self.value, ir.Constant(INT32, 0))
        zeros = ir.Constant(ir.VectorType(INT32, count), [0] * count)
        return Lanes(self.builder, self.builder.shuffle_vector(first, undefined, zeros), self.real)

    def _pair(self, other: Any) -> tuple[Lanes, Lanes]:
        other = other if isinstance(other, Lanes) else self.constant(other, self.element)
        if self.element != other.element:
            raise TypeError(_mismatch(self.element, other.element))
        count = max(self.count, other.count)
        return self.broadcast(count), other.broadcast(count)

    def _arithmetic(self, other: Any, float_op: str, int_op: str, *, swapped: bool = False) -> Lanes:
        left, right = self._pair(other)
        if swapped:
            left, right = right, left
        operation = getattr(self.builder, float_op if self.is_float else int_op)
        return Lanes(self.builder, operation(left.value, right.value), self.real)

    def __add__(self, other: Any) -> Lanes:
        if not isinstance(other, Lanes) and other == 0:
            return self  # LLVM keeps x + 0.0 for the sign of -0.0 + 0.0, which nothing here depends on
        return self._arithmetic(other, "fadd", "add")

    def __sub__(self, other: Any) -> Lanes:
        return self._arithmetic(other, "fsub", "sub")

    def __mul__(self, other: Any) -> Lanes:
        return self._arithmetic(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> Lanes:
        return self._arithmetic(other, "fdiv", "sdiv")

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: Any) -> Lanes:
        return self._arithmetic(other, "fsub", "sub", swapped=True)

    def __rtruediv__(self, other: Any) -> Lanes:
        return self._arithmetic(other, "fdiv", "sdiv", swapped=True)

    def __neg__(self) -> Lanes:
        return Lanes(self.builder, self.builder.fneg(self.value), self.real)

    def __abs__(self) -> Lanes:
        return self.call("llvm.fabs", self)

    def _compare(self, other: Any, predicate: str) -> Lanes:
        left, right = self._pair(other)
        if not self.is_float:
            return Lanes(self.builder, self.builder.icmp_signed(predicate, left.value, right.value), self.real)
        # != is the only comparison that holds for NaN, as in IEEE 754 and Python.
        compare = self.builder.fcmp_unordered if predicate == "!=" else self.builder.fcmp_ordered
        return Lanes(self.builder, compare(predicate, left.value, right.value), self.real)

    def __lt__(self, other: Any) -> Lanes:
        return self._compare(other, "<")

    def __le__(self, other: Any) -> Lanes:
        return self._compare(other, "<=")

    def __gt__(self, other: Any) -> Lanes:
        return self._compare(other, ">")

    def __ge__(self, other: Any) -> Lanes:
        return self._compare(other, ">=")

    def __eq__(self, other: Any) -> Lanes:  # type: ignore[override]
        return self._compare(other, "==")

    def __ne__(self, other: Any) -> Lanes:  # type: ignore[override]
        return self._compare(other, "!=")

    __hash__ = None  # type: ignore[assignment]

    def _bitwise(self, other: Any, operation: str) -> Lanes:
        left, right = self._pair(other)
        return Lanes(self.builder, getattr(self.builder, operation)(left.value, right.value), self.real)

    def __and__(self, other: Any) -> Lanes:
        return self._bitwise(other, "and_")

    def __or__(self, other: Any) -> Lanes:
        return self._bitwise(other, "or_")

    def __invert__(self) -> Lanes:
        return Lanes(self.builder, self.builder.not_(self.value), self.real)

    def __lshift__(self, bits: int) -> Lanes:
        return self._bitwise(bits, "shl")

    def __rshift__(self, bits: int) -> Lanes:
        """Shift right, keeping the sign."""
        return self._bitwise(bits, "ashr")

    def logical_right(self, bits: int) -> Lanes:
        """Shift right, filling with zeros."""
        return self._bitwise(bits, "lshr")

    def __bool__(self) -> bool:
        raise TypeError(_NO_BRANCHES)

    # -- what formulas do not see: bit patterns, conversions, shuffles --------------------------------------------

    def call(self, intrinsic: str, *operands: Lanes) -> Lanes:
        """Call an overloaded LLVM intrinsic such as ``llvm.fma`` on operands of this very type."""
        suffix = f"v{self.count}f" if self.count else "f"
        name = f"{intrinsic}.{suffix}{64 if self.element == FLOAT64 else 32}"
        return self.call_symbol(name, *operands)

    def call_symbol(self, name: str, *operands: Lanes) -> Lanes:
        """Call an external function on operands of this very type."""
        module, own = self.builder.module, self.value.type
        function = module.globals.get(name)
        if function is None:
            function = ir.Function(module, ir.FunctionType(own, [own] * len(operands)), name)
        return Lanes(self.builder, self.builder.call(function, [operand.value for operand in operands]))

    def bits(self) -> Lanes:
        """The floats' bit patterns as integers of the same width."""
        element = INT32 if self.element == FLOAT32 else INT64
        return Lanes(self.builder, self.builder.bitcast(self.value, vector_of(element, self.count)))

    def as_float(self) -> Lanes:
        """Integer bit patterns back as the floats of the same width."""
        element = FLOAT32 if self.element == INT32 else FLOAT64
        return Lanes(self.builder, self.builder.bitcast(self.value, vector_of(element, self.count)))

    def convert(self, element: ir.Type) -> Lanes:
        """The same numbers in another float or (signed) integer type."""
        if element == self.element:
            return self
        target = vector_of(element, self.count)
        to_float = isinstance(element, ir.FloatType | ir.DoubleType)
        if self.is_float and to_float:
            operation = self.builder.fpext if element == FLOAT64 else self.builder.fptrunc
        elif to_float:
            operation = self.builder.sitofp
        elif element.width > self.element.width:
            operation = self.builder.sext
        else:
            operation = self.builder.trunc
        return Lanes(self.builder, operation(self.value, target))

    def shuffle(self, other: Lanes, order: list[int]) -> Lanes:
        """Lanes of this value and ``other`` (numbered on after this one's) in the given order."""
        indices = ir.Constant(ir.VectorType(INT32, len(order)), order)
        return Lanes(self.builder, self.builder.shuffle_vector(self.value, other.value, indices), self.real)

    def part(self, first: int, count: int) -> Lanes:
        """``count`` neighbouring lanes from ``first`` on."""
        return self.shuffle(self, list(range(first, first + count)))

    def halves_added(self, count: int) -> Lanes:
        """Fold the upper half onto the lower until ``count`` lanes are left."""
        lanes = self
        while lanes.count > count:
            half = lanes.count // 2
            lanes = lanes.part(0, half) + lanes.part(half, half)
        return lanes

    def lane(self, index: int) -> Lanes:
        """One lane as a scalar."""
        return Lanes(self.builder, self.builder.extract_element(self.value, ir.Constant(INT32, index)), self.real)

    def numbered(self) -> Lanes:
        """0, 1, 2, ... in the lanes, as int32."""
        return numbered(self.builder, self.count)


def _mismatch(left: object, right: object) -> str:
    return f"lanes of {left} and {right} do not combine"


def numbered(builder: ir.IRBuilder, count: int) -> Lanes:
    """0, 1, 2, ... in ``count`` lanes, as int32."""
    return Lanes(builder, ir.Constant(ir.VectorType(INT32, count), list(range(count))))


def as_lanes(value: Any, like: Lanes, count: int) -> Lanes:
    """A formula's result in ``count`` lanes (0: a scalar): literals and scalars are spread."""
    lanes = value if isinstance(value, Lanes) else like.constant(value, like.real)
    return lanes.broadcast(count) if count else lanes


def _round_to_float32(number: float) -> float:
    """Python's float nearest to ``number`` that float32 can hold (llvmlite refuses others)."""
    import numpy as np

    return float(np.float32(number))
