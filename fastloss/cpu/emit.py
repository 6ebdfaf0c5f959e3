"""From Python functions on `Lanes` to functions that Numba kernels call.

A sweep's loops are ordinary Numba; what happens to one vector of elements is a Python function on `Lanes` and
`Pointer`, **traced** into LLVM instructions when the kernel is compiled. Tracing needs no type inference of its own,
compiles several times faster than typed Numba code, and drops what a kernel does not use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import NativeValue, intrinsic, register_model, unbox

from .lanes import BIT, FLOAT32, FLOAT64, INT32, INT64, Lanes, vector_of
from .storage import STORAGES, Pointer, Storage

_ELEMENTS = {
    types.float32: FLOAT32,
    types.float64: FLOAT64,
    types.int32: INT32,
    types.int64: INT64,
    types.uint64: INT64,
    types.boolean: BIT,
}
_NUMBA_TYPES = {
    FLOAT32: types.float32,
    FLOAT64: types.float64,
    INT32: types.int32,
    INT64: types.int64,
    BIT: types.boolean,
}


class VectorType(types.Type):
    """Numba's view of ``count`` lanes."""

    def __init__(self, element: types.Type, count: int) -> None:
        self.element, self.count = element, count
        super().__init__(name=f"Lanes({element}, {count})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, ir.VectorType(_ELEMENTS[vector.element], vector.count))


class PointerType(types.Type):
    """Numba's view of an address of elements in one storage type."""

    def __init__(self, storage: Storage) -> None:
        self.storage_name = storage.name
        super().__init__(name=f"Pointer({storage.name})")

    @property
    def storage(self) -> Storage:
        """How the elements lie in memory."""
        return STORAGES[self.storage_name]


@register_model(PointerType)
class _PointerModel(models.PrimitiveModel):
    def __init__(self, manager: Any, pointer: PointerType) -> None:
        super().__init__(manager, pointer, pointer.storage.memory.as_pointer())


def _wrapped(builder: ir.IRBuilder, kind: types.Type, value: ir.Value) -> Any:
    if isinstance(kind, PointerType):
        return Pointer(builder, value, kind.storage)
    if isinstance(kind, ArrayType):
        return ArrayObject(builder, value)
    if isinstance(kind, types.BaseTuple):
        return tuple(_wrapped(builder, part, builder.extract_value(value, i)) for i, part in enumerate(kind))
    return Lanes(builder, value)


def _numba_type(result: Any) -> types.Type:
    if result is None:
        return types.void
    if isinstance(result, Pointer):
        return PointerType(result.storage)
    if isinstance(result, tuple):
        return types.Tuple([_numba_type(part) for part in result])
    element = _NUMBA_TYPES[result.element]
    return VectorType(element, result.count) if result.count else element


def _unwrapped(context: Any, builder: ir.IRBuilder, kind: types.Type, result: Any) -> ir.Value:
    if result is None:
        return context.get_dummy_value()
    if isinstance(result, tuple):
        return context.make_tuple(
            builder, kind, [_unwrapped(context, builder, k, r) for k, r in zip(kind, result, strict=True)]
        )
    return result.value


def _llvm_type(kind: types.Type) -> ir.Type:
    if isinstance(kind, PointerType):
        return kind.storage.memory.as_pointer()
    if isinstance(kind, ArrayType):
        return cgutils.voidptr_t
    if isinstance(kind, VectorType):
        return vector_of(_ELEMENTS[kind.element], kind.count)
    if isinstance(kind, types.BaseTuple):
        parts = [_llvm_type(part) for part in kind]
        return ir.ArrayType(parts[0], len(parts)) if isinstance(kind, types.UniTuple) else ir.LiteralStructType(parts)
    return _ELEMENTS[types.unliteral(kind)]


def _result_type(function: Callable[..., Any], kinds: tuple[types.Type, ...]) -> types.Type:
    """Trace once into a throw-away module to learn what the function returns."""
    parameters = [_llvm_type(kind) for kind in kinds]
    trial = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), parameters), "trial")
    builder = ir.IRBuilder(trial.append_basic_block())
    return _numba_type(function(*(_wrapped(builder, kind, arg) for kind, arg in zip(kinds, trial.args, strict=True))))


def emit(function: Callable[..., Any]) -> Any:
    """Make a Python function on `Lanes`, `Pointer` and tuples of them callable from Numba code."""

    def typed(typing_context: Any, *kinds: types.Type) -> Any:
        kinds = tuple(types.unliteral(kind) for kind in kinds)

        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            operands = (_wrapped(builder, kind, value) for kind, value in zip(kinds, values, strict=True))
            result = function(*operands)
            return _unwrapped(context, builder, signature.return_type, result)

        return _result_type(function, kinds)(*kinds), generate

    typed.__name__ = typed.__qualname__ = function.__name__
    # Numba folds a *args parameter into one tuple; with the function's own signature each operand stays itself.
    own = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    typed.__signature__ = inspect.Signature([own, *parameters])  # type: ignore[attr-defined]
    return intrinsic(typed)


class ArrayType(types.Type):
    """Numba's view of a NumPy array passed as the Python object that it is.

    Numba's own array type costs 90 ns an argument to unpack, and one specialisation for each layout and writability.
    The callers in this package have checked type, layout and size; a kernel takes just the address of the data.
    """

    def __init__(self) -> None:
        super().__init__(name="ArrayObject")


array_type = ArrayType()


@register_model(ArrayType)
class _ArrayModel(models.PrimitiveModel):
    def __init__(self, manager: Any, array: ArrayType) -> None:
        super().__init__(manager, array, cgutils.voidptr_t)


@unbox(ArrayType)
def _unbox_array(kind: ArrayType, value: ir.Value, context: Any) -> NativeValue:
    return NativeValue(value)


class ArrayObject:
    """A NumPy array object inside a kernel under construction.

    Its fields follow Python's own header, whose size differs in free-threaded builds. The layout is part of NumPy's
    binary interface (numpy/ndarraytypes.h, PyArrayObject_fields).
    """

    _HEADER = object.__basicsize__
    _OFFSETS: ClassVar[dict[str, int]] = {
        "type": _HEADER - 8, "data": _HEADER, "dimensions_count": _HEADER + 8, "dimensions": _HEADER + 16,
        "descriptor": _HEADER + 40, "flags": _HEADER + 48,
    }  # fmt: skip

    def __init__(self, builder: ir.IRBuilder, value: ir.Value) -> None:
        self.builder, self.value = builder, value

    def _field(self, name: str, kind: ir.Type) -> ir.Value:
        offset = ir.Constant(INT64, self._OFFSETS[name])
        address = self.builder.gep(self.value, [offset], source_etype=ir.IntType(8))
        return self.builder.load(self.builder.bitcast(address, kind.as_pointer()), typ=kind)

    def word(self, name: str) -> Lanes:
        """A pointer-sized field as int64."""
        return Lanes(self.builder, self._field(name, INT64))

    def half_word(self, name: str) -> Lanes:
        """A C int field as int64."""
        return Lanes(self.builder, self._field(name, INT32)).convert(INT64)

    def pointer(self, name: str, storage: Storage) -> Pointer:
        """A field that is an address of elements."""
        return Pointer(self.builder, self._field(name, storage.memory.as_pointer()), storage)

    def item(self, index: int) -> ArrayObject:
        """An item of the object, where that is a tuple of arrays."""
        offset = ir.Constant(INT64, tuple.__basicsize__ + 8 * index)
        address = self.builder.gep(self.value, [offset], source_etype=ir.IntType(8))
        pointer = self.builder.bitcast(address, cgutils.voidptr_t.as_pointer())
        return ArrayObject(self.builder, self.builder.load(pointer, typ=cgutils.voidptr_t))


def array_pointer(storage: Storage) -> Any:
    """A function from an array object to the address of its first element, seen as ``storage``."""
    return emit(lambda array: array.pointer("data", storage))


def array_pointers(storages: tuple[Storage, ...]) -> Any:
    """A function from a tuple of array objects to the addresses of their first elements, each seen as its storage."""

    def pointers(arrays: ArrayObject) -> tuple[Pointer, ...]:
        return tuple(arrays.item(i).pointer("data", storage) for i, storage in enumerate(storages))

    return emit(pointers)


def stack_buffer(storage: Storage, count: int) -> Any:
    """A function that gives ``count`` elements of a kernel's own stack."""

    def typed(typing_context: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            with builder.goto_entry_block():
                memory = builder.alloca(ir.ArrayType(storage.memory, count))
                memory.align = 64
            return builder.bitcast(memory, storage.memory.as_pointer())

        return PointerType(storage)(), generate

    typed.__name__ = typed.__qualname__ = f"stack_{storage.name}_{count}"
    return intrinsic(typed)
