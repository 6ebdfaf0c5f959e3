"""The seam to CuPy: nothing else in the backend names it. Arrays, streams, devices, and the launch of a kernel."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Hashable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..messages import captured, forked
from .source import Kernel

#: For an array that a kernel does not use. CuPy hands a NumPy scalar over as it is; it checks no types.
NULL = np.uint64(0)
#: As CuPy's own kernels are compiled. Contraction (fused multiply-add) is the compiler's default.
OPTIONS = ("--std=c++17",)
#: Shared memory that a launch may ask for without saying so before, in bytes.
PLAIN_SHARED = 48 << 10
#: The address of every thread's own default stream (``cudaStreamPerThread``).
_PER_THREAD = 2
#: Blocks that a grid has at most.
MOST_BLOCKS = 4096

_functions: dict[Any, Any] = {}
_workspaces: dict[Hashable, Workspace] = {}
_lock = threading.Lock()
_process = 0


class Device(NamedTuple):
    """What the choice of a grid needs to know."""

    multiprocessors: int
    shared_limit: int  # bytes of shared memory that a block may have
    second_level: int  # bytes of the second-level cache


class Workspace(NamedTuple):
    """Scratch of one stream of one device: two streams may run kernels at the same time."""

    partials: Any  # float64, one per block
    ticket: Any  # uint32, 0 between launches
    inverse: Any  # float64: 1 / Z


def cupy() -> Any:
    """CuPy, which the caller's arrays come from."""
    return sys.modules["cupy"]


def current(array: Any) -> AbstractContextManager[Any]:
    """Make an array's device the current one, since kernels and allocations go to that."""
    return array.device  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def device_of(number: int) -> Device:
    """Properties of a device, by its number."""
    found = cupy().cuda.Device(number).attributes
    return Device(found["MultiProcessorCount"], found["MaxSharedMemoryPerBlockOptin"], found["L2CacheSize"])


def empty(shape: tuple[int, ...], dtype: Any, order: str = "C") -> Any:
    """A new array on the current device."""
    return cupy().empty(shape, dtype) if order == "C" else cupy().empty(shape[::-1], dtype).transpose()


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """A new array of zeros on the current device."""
    return cupy().zeros(shape, dtype)


def copied(array: Any, order: str) -> Any:
    """A copy in one piece of memory, on the array's device."""
    return cupy().array(array, order=order, copy=True)


def filled(number: float, dtype: Any) -> Any:
    """An array of one number on the current device."""
    return cupy().full((1,), number, dtype)


def uploaded(numbers: Any, dtype: Any) -> Any:
    """Numbers of the host as an array on the current device."""
    return cupy().asarray(np.asarray(numbers, dtype))


def stream() -> tuple[int, int]:
    """What tells the current stream from others: CuPy's per-thread default streams have one address for all."""
    address = cupy().cuda.get_current_stream().ptr
    return address, threading.get_ident() if address == _PER_THREAD else 0


def workspace(number: int) -> Workspace:
    """The scratch of the current stream of device ``number``, which must be the current one.

    It is kept for good: a captured graph that uses it may be replayed at any time.

    Raises
    ------
    RuntimeError
        If it would have to be made while the stream is being captured.
    """
    key = (number, *stream())
    found = _workspaces.get(key)
    if found is None:
        if cupy().cuda.get_current_stream().is_capturing():
            raise RuntimeError(captured())
        made = Workspace(empty((MOST_BLOCKS,), np.float64), zeros((1,), np.uint32), empty((1,), np.float64))
        with _lock:
            found = _workspaces.setdefault(key, made)
    return found


def divisor(by: int) -> tuple[Any, Any, Any]:
    """A number to divide by, as kernels take it: see ``Divisor`` in ``prelude.cuh``."""
    bits = (by - 1).bit_length()
    magic = -(-(1 << (63 + bits)) // by) if by > 1 else 0
    return np.int64(by), np.uint64(magic), np.int32(max(bits - 1, 0))


def launch(kernel: Kernel, blocks: int, arguments: tuple[Any, ...], shared_bytes: int = 0) -> None:
    """Put a kernel on the current stream of the current device.

    Parameters
    ----------
    kernel
        Compiled the first time (0.4 s; CuPy keeps it on disk).
    blocks
        Of the grid, 1 or more.
    arguments
        CuPy arrays, `NULL`, and NumPy scalars of exactly the types that the kernel declares.
    shared_bytes
        Of dynamic shared memory per block.
    """
    _require_own_process()
    function = _functions.get(kernel.build)
    if function is None:
        module = cupy().RawModule(code=kernel.text, options=OPTIONS)
        with _lock:
            function = _functions.setdefault(kernel.build, module.get_function(kernel.name))
    if shared_bytes > PLAIN_SHARED:
        function.max_dynamic_shared_size_bytes = shared_bytes
    function((blocks,), (kernel.block,), arguments, shared_mem=shared_bytes)


def _require_own_process() -> None:
    """Refuse to go on in a forked child: CUDA cannot be initialised a second time."""
    global _process
    if _process != os.getpid():
        if _process:
            raise RuntimeError(forked())
        _process = os.getpid()
