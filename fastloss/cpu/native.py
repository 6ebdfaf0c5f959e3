"""What kernels do besides computing: atomics, the interpreter lock, other locks, sharing a call between threads.

All of it works without the interpreter lock (GIL), so no interrupt can tear it and no busy Python thread can delay it.
"""

from __future__ import annotations

import os
import platform
import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable

from .emit import emit
from .lanes import BIT, INT32, INT64, Lanes
from .storage import STORAGES, Pointer

#: How a kernel runs, its last argument. HOLDING: alone, with the GIL; RELEASED: alone, other Python threads may run;
#: SHARED: helpers may join in; HELPING: the call that a helper makes of the same kernel.
HOLDING, RELEASED, SHARED, HELPING = range(4)

#: Words of a kernel's control array: the chunks claimed, the next scratch row, the team's address, the helpers wanted,
#: whether to wake them.
CLAIMED, NEXT_SCRATCH, TEAM, HELPERS, WAKE = range(5)

#: A helper's claim in the word `CLAIMED`, whose upper half counts chunks from the last one on.
_FROM_THE_END = 1 << 32

#: Words of a team (see `fastloss.cpu.team`) that kernels read: the native functions that open and close a job.
OPEN, CLOSE = range(2)

#: Words of a set of processors: 1024 of them.
PROCESSOR_WORDS = 16

_LINUX = sys.platform == "linux"
_X86 = platform.machine() in ("x86_64", "AMD64")
_BYTE_POINTER = ir.IntType(8).as_pointer()
_WORD = STORAGES["int64"]


# -- atomics on int64 words -----------------------------------------------------------------------------------------


def _atomic(operation: str) -> Any:
    """A function that changes a word and gives what it was."""

    def change(words: Pointer, index: Lanes, operand: Lanes) -> Lanes:
        address = words.moved(index).value
        return Lanes(words.builder, words.builder.atomic_rmw(operation, address, operand.value, "seq_cst"))

    return emit(change)


def _compare_exchange(words: Pointer, index: Lanes, expected: Lanes, number: Lanes) -> Lanes:
    address = words.moved(index).value
    result = words.builder.cmpxchg(address, expected.value, number.value, "seq_cst", "seq_cst")
    return Lanes(words.builder, words.builder.extract_value(result, 1), BIT)


def _read(words: Pointer, index: Lanes) -> Lanes:
    address = words.moved(index).value
    return Lanes(words.builder, words.builder.load_atomic(address, "seq_cst", 8, typ=INT64))


def _write(words: Pointer, index: Lanes, number: Lanes) -> None:
    words.builder.store_atomic(number.value, words.moved(index).value, "seq_cst", 8)


def _words_at(address: Lanes) -> Pointer:
    return Pointer(address.builder, address.builder.inttoptr(address.value, INT64.as_pointer()), _WORD)


fetch_add, fetch_and, exchange = _atomic("add"), _atomic("and"), _atomic("xchg")
compare_exchange, read, write, words_at = emit(_compare_exchange), emit(_read), emit(_write), emit(_words_at)


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call a C function of the process by name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


# -- the interpreter lock -------------------------------------------------------------------------------------------


@intrinsic
def release_gil(typing_context: Any) -> Any:
    """Let other Python threads run; gives the state that `take_gil` wants back."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return _call(builder, "PyEval_SaveThread", cgutils.voidptr_t)

    return types.voidptr(), generate


@intrinsic
def take_gil(typing_context: Any, state: Any) -> Any:
    """Wait for the right to run Python again."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        _call(builder, "PyEval_RestoreThread", ir.VoidType(), values[0])
        return context.get_dummy_value()

    return types.void(state), generate


# -- waiting --------------------------------------------------------------------------------------------------------


@intrinsic
def pause(typing_context: Any) -> Any:
    """Tell the processor that this is a waiting loop."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        if _X86:
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        elif platform.machine() in ("aarch64", "arm64"):
            _call(builder, "llvm.aarch64.hint", ir.VoidType(), INT32(1))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def give_way(typing_context: Any) -> Any:
    """Let another thread that waits for this processor have it."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        _call(builder, "sched_yield" if os.name == "posix" else "SwitchToThread", INT32)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def processor(typing_context: Any) -> Any:
    """The number of the processor that the thread runs on; -1 where nobody says."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        if not _LINUX:
            return INT64(-1)
        return builder.sext(_call(builder, "sched_getcpu", INT32), INT64)

    return types.int64(), generate


def _affinity(operation: str) -> Any:
    """A function of an address, for `PROCESSOR_WORDS` of bits, and a thread (0: this one): processors it may use."""

    def affinity(bits: Pointer, thread: Lanes) -> Lanes:
        builder = bits.builder
        if not _LINUX:
            return Lanes(builder, INT64(-1))
        address, size = builder.bitcast(bits.value, _BYTE_POINTER), INT64(8 * PROCESSOR_WORDS)
        result = _call(builder, operation, INT32, thread.convert(INT32).value, size, address)
        return Lanes(builder, result).convert(INT64)

    return emit(affinity)


#: 0 if they could do so.
get_affinity, set_affinity = _affinity("sched_getaffinity"), _affinity("sched_setaffinity")


@intrinsic
def process(typing_context: Any) -> Any:
    """The number of the process, which on Linux is that of its first thread."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return builder.sext(_call(builder, "getpid", INT32), INT64) if _LINUX else INT64(0)

    return types.int64(), generate


@intrinsic
def rounding(typing_context: Any) -> Any:
    """How this thread rounds and whether it flushes subnormal numbers: x86's MXCSR; 0 elsewhere."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        if not _X86:
            return INT64(0)
        with builder.goto_entry_block():
            state = builder.alloca(INT32)
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(state, _BYTE_POINTER))
        return builder.zext(builder.load(state, typ=INT32), INT64)

    return types.int64(), generate


@intrinsic
def set_rounding(typing_context: Any, state: Any) -> Any:
    """Round as another thread does."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        if _X86:
            with builder.goto_entry_block():
                memory = builder.alloca(INT32)
            builder.store(builder.trunc(values[0], INT32), memory)
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(memory, _BYTE_POINTER))
        return context.get_dummy_value()

    return types.void(state), generate


def _lock_of(address: Lanes) -> ir.Value:
    return address.builder.inttoptr(address.value, _BYTE_POINTER)


def _acquire_lock(address: Lanes) -> None:
    _call(address.builder, "PyThread_acquire_lock", INT32, _lock_of(address), ir.Constant(INT32, 1))


def _acquire_lock_for(address: Lanes, microseconds: Lanes) -> None:
    lock, no_signals = _lock_of(address), ir.Constant(INT32, 0)
    _call(address.builder, "PyThread_acquire_lock_timed", INT32, lock, microseconds.value, no_signals)


def _release_lock(address: Lanes) -> None:
    _call(address.builder, "PyThread_release_lock", ir.VoidType(), _lock_of(address))


#: On one of Python's own locks, given by its address: portable, and usable without the GIL.
acquire_lock, acquire_lock_for, release_lock = emit(_acquire_lock), emit(_acquire_lock_for), emit(_release_lock)


# -- sharing a kernel's call ----------------------------------------------------------------------------------------


def _call_compiled(builder: ir.IRBuilder, function: ir.Value, *arguments: ir.Value) -> ir.Value:
    """Call a function that Numba compiled, int64 to int64, by its address: result and exception come by pointer."""
    with builder.goto_entry_block():
        result, exception = builder.alloca(INT64), builder.alloca(_BYTE_POINTER)
    kind = ir.FunctionType(INT32, [result.type, exception.type, *(argument.type for argument in arguments)])
    builder.call(builder.inttoptr(function, kind.as_pointer()), [result, exception, *arguments])
    return builder.load(result, typ=INT64)


def _from_team(control: Pointer, word: int, *arguments: ir.Value) -> Lanes:
    builder = control.builder
    team = control.moved(TEAM).load_integer()
    function = _words_at(team).moved(word).load_integer().value
    return Lanes(builder, _call_compiled(builder, function, team.value, *arguments))


@register_jitable
def claim(control: Any, mode: int, previous: int, chunks: int) -> int:
    """The next chunk that a thread is to work on: ``chunks`` or more if there is none.

    Helpers claim from the end, so that in the next call on the same arrays most chunks lie in the same processors'
    caches.
    """
    if mode < SHARED:
        return previous + 1
    claimed = fetch_add(control, CLAIMED, 1 if mode == SHARED else _FROM_THE_END)
    from_start, from_end = claimed & (_FROM_THE_END - 1), claimed >> 32
    if from_start + from_end >= chunks:
        return chunks
    return from_start if mode == SHARED else chunks - 1 - from_end


@intrinsic
def open_job(typing_context: Any, control: Any) -> Any:
    """Offer the kernel's own call to the team's helpers; 1 if it could be offered.

    A helper calls this very kernel with the same arguments and the mode HELPING, through a little function made here
    that reads them from the stack.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        kernel = builder.function
        arguments = kernel.args[2:]  # the first two are where Numba puts the result and an exception
        frame_type = ir.LiteralStructType([argument.type for argument in arguments])
        with builder.goto_entry_block():
            frame = builder.alloca(frame_type)
        for index, argument in enumerate(arguments):
            builder.store(argument, builder.gep(frame, [INT32(0), INT32(index)]))
        helper = _helper_of(builder.module, kernel, frame_type)
        helper_address, frame_address = builder.ptrtoint(helper, INT64), builder.ptrtoint(frame, INT64)
        words = Pointer(builder, values[0], _WORD)
        wanted, wake = (words.moved(word).load_integer().value for word in (HELPERS, WAKE))
        return _from_team(words, OPEN, helper_address, frame_address, wanted, wake).value

    return types.int64(control), generate


def _helper_of(module: ir.Module, kernel: ir.Function, frame_type: ir.Type) -> ir.Function:
    """A C function of a frame's address that calls the kernel with what the frame holds."""
    helper = ir.Function(module, ir.FunctionType(ir.VoidType(), [_BYTE_POINTER]), f"{kernel.name}.helper")
    helper.linkage = "internal"
    builder = ir.IRBuilder(helper.append_basic_block())
    result = builder.alloca(kernel.args[0].type.pointee)
    exception = builder.alloca(kernel.args[1].type.pointee)
    frame = builder.bitcast(helper.args[0], frame_type.as_pointer())
    arguments = [
        builder.load(builder.gep(frame, [INT32(0), INT32(index)]), typ=kind)
        for index, kind in enumerate(frame_type.elements)
    ]
    builder.call(kernel, [result, exception, *arguments[:-1], INT64(HELPING)])
    builder.ret_void()
    return helper


def _close_job(control: Pointer) -> None:
    _from_team(control, CLOSE)


close_job = emit(_close_job)


@intrinsic
def call_helper(typing_context: Any, function: Any, frame: Any) -> Any:
    """Call what `open_job` offered, by its address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        kind = ir.FunctionType(ir.VoidType(), [_BYTE_POINTER])
        frame_pointer = builder.inttoptr(values[1], _BYTE_POINTER)
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), [frame_pointer])
        return context.get_dummy_value()

    return types.void(function, frame), generate
