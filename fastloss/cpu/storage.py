"""How numbers lie in memory, and how lanes are loaded from and stored to it.

Computing happens in float32 or float64; memory may hold other types. float16 converts by hardware (exact on load,
round to nearest even on store), bfloat16 by shifts (the same rounding, NaN kept), integers by sign or zero extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from .lanes import FLOAT32, FLOAT64, INT32, INT64, Lanes, vector_of

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
        numbers = Lanes(self.builder, ir.Constant(ir.VectorType(INT32, count), list(range(count))))
        mask: ir.Value = (numbers < left.convert(INT32)).value
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

    def load_integer(self) -> Lanes:
        """The integer here, as int64."""
        raw = self.builder.load(self.value, align=self.storage.size, typ=self.storage.memory)
        return Lanes(self.builder, self._widened(raw, 0)).convert(INT64)

    def _widened(self, raw: ir.Value, count: int) -> ir.Value:
        builder, kind = self.builder, self.storage.kind
        if kind == "half":
            return builder.fpext(raw, vector_of(FLOAT32, count))
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
        narrow = self._narrowed(lanes)
        if left is not None:
            address = self.builder.bitcast(self.value, narrow.type.as_pointer())
            mask = self._first(lanes.count, left)
            self._masked("store", ir.VoidType(), narrow.type, address, narrow, mask)
            return
        if not bypass_cache:
            address = self.builder.bitcast(self.value, narrow.type.as_pointer())
            self.builder.store(narrow, address, align=self.storage.size)
            return
        note = self.builder.module.add_metadata([ir.Constant(INT32, 1)])
        per_piece = 16 // self.storage.size
        for first in range(0, lanes.count, per_piece):
            order = ir.Constant(ir.VectorType(INT32, per_piece), list(range(first, first + per_piece)))
            piece = self.builder.shuffle_vector(narrow, narrow, order)
            address = self.builder.bitcast(self.moved(first).value, piece.type.as_pointer())
            self.builder.store(piece, address, align=16).set_metadata("nontemporal", note)

    def _narrowed(self, lanes: Lanes) -> ir.Value:
        builder, count = self.builder, lanes.count
        if self.storage.size == 2:
            lanes = lanes.convert(FLOAT32)  # not every processor converts float64 to half precision
        if self.storage.kind == "half":
            return builder.fptrunc(lanes.value, vector_of(self.storage.memory, count))
        if self.storage.kind == "bfloat":
            return builder.trunc(_bfloat16_bits(lanes).value, vector_of(self.storage.memory, count))
        return lanes.convert(self.storage.memory).value


def _bfloat16_bits(lanes: Lanes) -> Lanes:
    """Round to nearest even in the upper half of the float32 bits; a NaN becomes the quiet NaN."""
    from .vector_math import where

    bits = lanes.bits()
    odd = bits.logical_right(16) & 1
    rounded = (bits + odd + 0x7FFF).logical_right(16)
    return where(lanes != lanes, bits.constant(0x7FC0), rounded)
