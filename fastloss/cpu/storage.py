"""How numbers lie in memory, and how lanes are loaded from and stored to it.

Computing happens in float32 or float64; memory may hold other types. float16 converts by hardware (exact on load,
round to nearest even on store), bfloat16 by shifts (the same rounding, NaN kept), integers by sign or zero extension.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core.registry import cpu_target

from .lanes import FLOAT32, FLOAT64, INT32, INT64, Lanes, numbered, vector_of

#: Bytes that travel together between memory and cache.
CACHE_LINE = 64


@dataclass(frozen=True)
class Storage:
    """One element type in memory: its name, size, LLVM type, and how floats are made of it."""

    name: str
    size: int  # bytes
    memory: ir.Type
    kind: str  # float | half | bfloat | signed | unsigned

    @property
    def computing(self) -> str:
        """The precision that arithmetic on this type takes place in."""
        return "float64" if self.name == "float64" else "float32"


STORAGES = {
    storage.name: storage
    for storage in (
        Storage("float32", 4, FLOAT32, "float"),
        Storage("float64", 8, FLOAT64, "float"),
        Storage("float16", 2, ir.HalfType(), "half"),
        Storage("bfloat16", 2, ir.IntType(16), "bfloat"),
        Storage("uint8", 1, ir.IntType(8), "unsigned"),
        Storage("int32", 4, INT32, "signed"),
        Storage("int64", 8, INT64, "signed"),
    )
}


_UPPER_HALF = -0x10000  # as a signed 32-bit integer

#: How LLVM writes element types in the names of its intrinsics.
_MANGLED = {FLOAT32: "f32", FLOAT64: "f64", ir.HalfType(): "f16"} | {
    ir.IntType(bits): f"i{bits}" for bits in (8, 16, 32, 64)
}


@dataclass
class Pointer:
    """A typed address inside a kernel under construction."""

    builder: ir.IRBuilder
    value: ir.Value
    storage: Storage

    def moved(self, elements: Any) -> Pointer:
        """The address ``elements`` further on (an int64 scalar or a Python int)."""
        index = elements.value if isinstance(elements, Lanes) else ir.Constant(INT64, elements)
        return Pointer(
            self.builder,
            self.builder.gep(self.value, [index], source_etype=self.storage.memory),
            self.storage,
        )

    def load(self, element: ir.Type, count: int, left: Lanes | None = None) -> Lanes:
        """``count`` numbers from here on (0: a scalar), converted to the computing type ``element``.

        Where ``left`` is given, only so many are read, and the lanes after them are 0.
        """
        memory = vector_of(self.storage.memory, count)
        address = self.builder.bitcast(self.value, memory.as_pointer())
        if left is None:
            raw = self.builder.load(address, align=self.storage.size, typ=memory)
        else:
            zeros = ir.Constant(memory, None)
            raw = self._masked("load", memory, memory, address, self._first(count, left), zeros)
        return Lanes(self.builder, self._widened(raw, count)).convert(element)

    def _first(self, count: int, left: Lanes) -> ir.Value:
        """A mask of the first ``left`` of ``count`` lanes."""
        mask: ir.Value = (numbered(self.builder, count) < left.convert(INT32)).value
        return mask

    def _masked(self, operation: str, result: ir.Type, memory: ir.Type, *operands: ir.Value) -> ir.Value:
        """Load or store some lanes; memory under the others is not touched."""
        address, *rest = operands
        before, after = ([], rest) if operation == "load" else (rest[:1], rest[1:])
        name = f"llvm.masked.{operation}.v{memory.count}{_MANGLED[memory.element]}.p0"
        arguments = [*before, address, INT32(self.storage.size), *after]
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        return self.builder.call(function, arguments)

    def prefetch(self, count: int, *, to_write: bool = False) -> None:
        """Fetch the lines of ``count`` elements from here on towards the first-level cache; never faults."""
        module, byte = self.builder.module, ir.IntType(8).as_pointer()
        function = module.globals.get("llvm.prefetch.p0")
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
            function = ir.Function(module, kind, "llvm.prefetch.p0")
        for first in range(0, count, CACHE_LINE // self.storage.size):
            address = self.builder.bitcast(self.moved(first).value, byte)
            options = [ir.Constant(INT32, number) for number in (int(to_write), 3, 1)]
            self.builder.call(function, [address, *options])

    def load_pairs(self, count: int) -> Lanes:
        """``count`` bfloat16 numbers as float32 lanes: first those with even numbers, then the odd ones.

        Two neighbours are one 32-bit word, and each the upper half of a float32: 2 instructions for 32 numbers, 4 in
        their own order.
        """
        half = ir.VectorType(INT32, count // 2)
        address = self.builder.bitcast(self.value, half.as_pointer())
        words = Lanes(self.builder, self.builder.load(address, align=2, typ=half))
        even, odd = (words << 16).as_float(), (words & _UPPER_HALF).as_float()
        return even.shuffle(odd, list(range(count)))

    def store_pairs(self, lanes: Lanes, *, bypass_cache: bool = False) -> None:
        """Write lanes in the order of `load_pairs`; 10 instructions for 32 numbers, 20 in their own order."""
        half = lanes.count // 2
        even, odd = (_bfloat16_in_upper_half(lanes.part(start, half)) for start in (0, half))
        words = even.logical_right(16) | (odd & _UPPER_HALF)
        self._put(words.value, lanes.count, bypass_cache)

    def load_integer(self) -> Lanes:
        """The integer here, as int64."""
        raw = self.builder.load(self.value, align=self.storage.size, typ=self.storage.memory)
        return Lanes(self.builder, self._widened(raw, 0)).convert(INT64)

    def _widened(self, raw: ir.Value, count: int) -> ir.Value:
        builder, kind = self.builder, self.storage.kind
        if kind == "half":
            if _converts_halves():
                return builder.fpext(raw, vector_of(FLOAT32, count))
            bits = Lanes(builder, builder.bitcast(raw, vector_of(ir.IntType(16), count)))
            return _from_half_bits(Lanes(builder, builder.zext(bits.value, vector_of(INT32, count)))).value
        if kind == "bfloat":
            wide = Lanes(builder, builder.zext(raw, vector_of(INT32, count)))
            return (wide << 16).as_float().value
        if kind == "unsigned":
            return builder.zext(raw, vector_of(INT32, count))
        return raw

    def store(self, lanes: Lanes, *, bypass_cache: bool = False, left: Lanes | None = None) -> None:
        """Write all lanes from here on (the first ``left``, where given), rounded once to the type in memory.

        ``bypass_cache`` writes around the caches in 16-byte pieces, the alignment every NumPy allocation has.
        """
        assert left is None or not bypass_cache
        if bypass_cache and self.storage.kind == "half" and has_feature("f16c"):
            self._put_halves(lanes)
            return
        if self.storage.kind == "half" and lanes.count > 16 and left is None:
            for start in range(0, lanes.count, 16):  # as many as are converted at once; to join them costs 5 %
                self.moved(start).store(lanes.part(start, 16), bypass_cache=bypass_cache)
            return
        narrow = self._narrowed(lanes)
        if left is not None:
            address = self.builder.bitcast(self.value, narrow.type.as_pointer())
            mask = self._first(lanes.count, left)
            self._masked("store", ir.VoidType(), narrow.type, address, narrow, mask)
            return
        self._put(narrow, lanes.count, bypass_cache)

    def _put(self, vector: ir.Value, elements: int, bypass_cache: bool) -> None:
        """Write a vector of some elements, or of words of several, as it is."""
        builder = self.builder
        if not bypass_cache:
            builder.store(vector, builder.bitcast(self.value, vector.type.as_pointer()), align=self.storage.size)
            return
        pieces = elements * self.storage.size // 16
        per_piece = vector.type.count // pieces
        for piece in range(pieces):
            numbers = range(piece * per_piece, (piece + 1) * per_piece)
            order = ir.Constant(ir.VectorType(INT32, per_piece), list(numbers))
            self._put_around(builder.shuffle_vector(vector, vector, order), piece)

    def _put_around(self, part: ir.Value, piece: int) -> None:
        """Write the 16-byte piece of a number around the caches."""
        address = self.moved(piece * 16 // self.storage.size).value
        address = self.builder.bitcast(address, part.type.as_pointer())
        note = self.builder.module.add_metadata([ir.Constant(INT32, 1)])
        self.builder.store(part, address, align=16).set_metadata("nontemporal", note)

    def _put_halves(self, lanes: Lanes) -> None:
        """Write float16 around the caches. LLVM has no such store of its half type and would use an ordinary one."""
        lanes = lanes.convert(FLOAT32)
        name = "llvm.x86.vcvtps2ph.256"
        kind = ir.FunctionType(vector_of(ir.IntType(16), 8), [vector_of(FLOAT32, 8), INT32])
        function = self.builder.module.globals.get(name) or ir.Function(self.builder.module, kind, name)
        as_rounding_is_set = INT32(4)
        for piece in range(lanes.count // 8):
            part = self.builder.call(function, [lanes.part(piece * 8, 8).value, as_rounding_is_set])
            self._put_around(part, piece)

    def _narrowed(self, lanes: Lanes) -> ir.Value:
        builder, count = self.builder, lanes.count
        if self.storage.size == 2:
            lanes = lanes.convert(FLOAT32)  # not every processor converts float64 to half precision
        if self.storage.kind == "half" and not _converts_halves():
            bits = builder.trunc(_half_bits(lanes).value, vector_of(ir.IntType(16), count))
            return builder.bitcast(bits, vector_of(self.storage.memory, count))
        if self.storage.kind == "half":
            return builder.fptrunc(lanes.value, vector_of(self.storage.memory, count))
        if self.storage.kind == "bfloat":
            return builder.trunc(_bfloat16_bits(lanes).value, vector_of(self.storage.memory, count))
        return lanes.convert(self.storage.memory).value


@cache
def has_feature(name: str) -> bool:
    """Whether kernels are compiled for processors with a feature, by LLVM's name for it."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


def _converts_halves() -> bool:
    """Whether the processor converts float16; else LLVM would call a routine that nobody provides."""
    return has_feature("f16c") or platform.machine() in ("aarch64", "arm64")


def _from_half_bits(bits: Lanes) -> Lanes:
    """float32 from the bits of float16."""
    from .vector_math import where

    magnitude = (bits & 0x7FFF) << 13
    finite = (magnitude.as_float() * 2.0**112).bits()
    widened = where((bits & 0x7C00) == 0x7C00, magnitude | 0x7F800000, finite)
    return (widened | ((bits & 0x8000) << 16)).as_float()


def _half_bits(lanes: Lanes) -> Lanes:
    """The bits of float32 rounded to float16, to nearest even."""
    from .vector_math import where

    bits, size = lanes.bits(), abs(lanes)
    magnitude = size.bits()
    normal = ((magnitude + (magnitude.logical_right(13) & 1) + 0xFFF).logical_right(13)) - (112 << 10)
    subnormal = (size + 0.5).bits() - 0x3F000000  # one half has neighbours in steps of float16's smallest number
    rounded = where(size < 2.0**-14, subnormal, where(size < 65520.0, normal, 0x7C00))
    return where(lanes != lanes, 0x7E00, rounded) | (bits.logical_right(16) & 0x8000)


def _bfloat16_bits(lanes: Lanes) -> Lanes:
    """Round to nearest even in the upper half of the float32 bits; a NaN becomes the quiet NaN."""
    from .vector_math import where

    rounded = _bfloat16_in_upper_half(lanes).logical_right(16)
    return where(lanes != lanes, lanes.bits().constant(0x7FC0), rounded)


def _bfloat16_in_upper_half(lanes: Lanes) -> Lanes:
    """The float32 bits whose upper half is the number rounded to nearest even.

    A NaN stays one if it comes from bfloat16 or arithmetic, which leave its lower half empty.
    """
    from .vector_math import where

    bits = lanes.bits()
    return bits + where((bits & 0x10000) == 0, 0x7FFF, bits.constant(0x8000))
