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
#: Bytes of shared memory that kernels use besides what a launch asks for, at most.
SHARED_RESERVED = 4 << 10
#: Blocks that a grid has at most.
MOST_BLOCKS = 4096

_functions: dict[Any, Any] = {}
#: Kernels, by what they are specialised on, and devices on which they may have all the shared memory.
_allowed: set[Any] = set()
#: What captured graphs use.
_captured: list[Any] = []
_workspaces: dict[Hashable, Workspace] = {}
_lock = threading.Lock()
_process = 0


class Device(NamedTuple):
    """What the choice of a grid needs to know."""

    multiprocessors: int
    shared_limit: int  # bytes of shared memory that a block may have
    second_level: int  # bytes of the second-level cache


class Workspace(NamedTuple):
    """Scratch of one thread on one stream of one device: two streams may run kernels at the same time."""

    partials: Any  # float64, one per block
    ticket: Any  # uint32, 0 between launches
    inverse: Any  # float64: 1 / Z


def cupy() -> Any:
    """CuPy, which the caller's arrays come from."""
    return sys.modules["cupy"]


def current(array: Any) -> AbstractContextManager[Any]:
    """Make an array's device the current one, since kernels and allocations go to that.

    Raises
    ------
    RuntimeError
        In a forked child of a process that has used a device: CUDA cannot be initialised a second time.
    """
    global _process
    if _process != os.getpid():
        if _process:
            raise RuntimeError(forked())
        _process = os.getpid()
    return array.device  # type: ignore[no-any-return]


def is_capturing() -> bool:
    """Whether what is put on the current stream becomes a graph."""
    return bool(cupy().cuda.get_current_stream().is_capturing())


def _kept(array: Any) -> Any:
    """An array that a graph will use again whenever it is replayed must never be freed; others may."""
    if is_capturing():
        _captured.append(array)
    return array


@lru_cache(maxsize=64)
def device_of(number: int) -> Device:
    """Properties of a device, by its number."""
    found = cupy().cuda.Device(number).attributes
    return Device(found["MultiProcessorCount"], found["MaxSharedMemoryPerBlockOptin"], found["L2CacheSize"])


def empty(shape: tuple[int, ...], dtype: Any, order: str = "C") -> Any:
    """A new array on the current device."""
    return _kept(cupy().empty(shape, dtype) if order == "C" else cupy().empty(shape[::-1], dtype).transpose())


def zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    """A new array of zeros on the current device."""
    return _kept(cupy().zeros(shape, dtype))


def copied(array: Any, order: str) -> Any:
    """A copy in one piece of memory, on the array's device."""
    return _kept(cupy().array(array, order=order, copy=True))


def converted(array: Any, dtype: Any) -> Any:
    """The array in another type: itself where it has that."""
    return array if array.dtype == dtype else _kept(array.astype(dtype))


def filled(number: float, dtype: Any) -> Any:
    """An array of one number on the current device."""
    return _kept(cupy().full((1,), number, dtype))


def uploaded(numbers: Any, dtype: Any) -> Any:
    """Numbers of the host as an array on the current device.

    Raises
    ------
    RuntimeError
        While the stream is being captured: a graph would copy them at each replay, from memory that is gone.
    """
    if is_capturing():
        raise RuntimeError(captured())
    return cupy().asarray(np.asarray(numbers, dtype))


def stream() -> tuple[int, int]:
    """The current stream, and the thread: two threads' calls on one stream may take turns between their launches."""
    return cupy().cuda.get_current_stream().ptr, threading.get_ident()


def workspace(number: int) -> Workspace:
    """The scratch of this thread on the current stream of device ``number``, which must be the current one.

    A call that is captured gets scratch of its own, so that the graph may be replayed beside other calls.
    """
    if is_capturing():
        return _new_workspace()
    key = (number, *stream())
    found = _workspaces.get(key)
    if found is None:
        with _lock:
            found = _workspaces.setdefault(key, _new_workspace())
    return found


def _new_workspace() -> Workspace:
    return Workspace(empty((MOST_BLOCKS,), np.float64), zeros((1,), np.uint32), empty((1,), np.float64))


def divisor(by: int) -> tuple[Any, Any, Any]:
    """A number to divide by, as kernels take it: see ``Divisor`` in ``prelude.cuh``."""
    bits = (by - 1).bit_length()
    magic = -(-(1 << (63 + bits)) // by) if by > 1 else 0
    return np.int64(by), np.uint64(magic), np.int32(max(bits - 1, 0))


def launch(kernel: Kernel, blocks: int, arguments: tuple[Any, ...], device: int, shared_bytes: int = 0) -> None:
    """Put a kernel on the current stream of the current device.

    Parameters
    ----------
    kernel
        Compiled the first time (0.3 s and more; CuPy keeps it on disk).
    blocks
        Of the grid, 1 or more.
    arguments
        CuPy arrays, `NULL`, and NumPy scalars of exactly the types that the kernel declares.
    device
        The current device's number.
    shared_bytes
        Of dynamic shared memory per block.
    """
    function = _functions.get(kernel.build)
    if function is None:
        module = cupy().RawModule(code=kernel.text, options=OPTIONS)
        with _lock:
            function = _functions.setdefault(kernel.build, module.get_function(kernel.name))
    if shared_bytes and (kernel.build, device) not in _allowed:
        # Once, and all that there is: another thread may launch the same kernel with more.
        function.max_dynamic_shared_size_bytes = device_of(device).shared_limit - SHARED_RESERVED
        _allowed.add((kernel.build, device))
    function((blocks,), (kernel.block,), arguments, shared_mem=shared_bytes)
