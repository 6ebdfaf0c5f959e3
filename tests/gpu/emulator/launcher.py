"""Runs kernels of the CUDA emulator: in this process, or, under a sanitizer, in one of their own."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import struct
import subprocess
import tempfile
import threading

import numpy as np
from emulator import build
from emulator.build import EmulatorError

SCHEDULES = ("forward", "reverse", "shuffled")
SHARED_LIMIT = 48 << 10
SHARED_LIMIT_AFTER_OPT_IN = 227 << 10

_BOUNDS = r"(?:__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)\s*)?"
_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')

# The runtime and the handlers of signals are one per process.
_one_launch = threading.Lock()


class _Launch(ctypes.Structure):
    """As in runtime.cpp."""

    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("dynamic_shared", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("only_block", ctypes.c_int64),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("schedule", ctypes.c_int),
        ("flush_subnormals", ctypes.c_int),
    )


class Kernel:
    """One kernel of a source, built for one mode."""

    def __init__(self, source, name, options, mode):
        names = tuple(dict.fromkeys(_KERNEL.findall(source)))
        if name not in names:
            raise EmulatorError(f"the source has no kernel {name}, only {', '.join(names)}")
        self.name, self.mode, self.code = name, mode, source
        self._library = build.kernel_library(source, names, options, mode)
        if mode == "fast":
            self._loaded = _load(self._library)
            text = ctypes.create_string_buffer(4096)
            getattr(self._loaded, f"emulator_signature_{name}")(text)
            self.signature = text.value.decode().split()
        else:
            self.signature = self._run_process("signature").split()

    def run(self, grid, block, arguments, shared_mem, *, schedule, seed, only_block):
        """Launch; arguments are arrays of fake_cupy or NumPy scalars, which `check_arguments` has passed."""
        request = _Launch(
            dynamic_shared=shared_mem,
            seed=seed,
            only_block=-1 if only_block is None else only_block,
            grid=(ctypes.c_uint * 3)(*grid),
            block=(ctypes.c_uint * 3)(*block),
            schedule=SCHEDULES.index(schedule),
            # The processor flushes float64 with float32, which no GPU does: not where a kernel has float64 arrays,
            # unless these only take the sums of what is computed in float32.
            flush_subnormals="pf8" not in self.signature or "typedef float T;" in self.code,
        )
        if self.mode == "fast":
            self._run_here(request, arguments)
        else:
            self._run_there(request, arguments)

    def check_arguments(self, arguments):
        """As CuPy does not: a wrong type makes the kernel read other bytes than were meant."""
        if len(arguments) != len(self.signature):
            raise EmulatorError(f"{self.name} takes {len(self.signature)} arguments, got {len(arguments)}")
        for number, (code, argument) in enumerate(zip(self.signature, arguments, strict=True)):
            if not _fits(code, argument):
                given = _code(argument) or f"a {type(argument).__name__}"
                raise EmulatorError(f"{self.name}: argument {number} is {code} in C++, but {given} was passed")

    def _run_here(self, request, arguments):
        values = [ctypes.create_string_buffer(_value(argument), 8) for argument in arguments]
        pointers = (ctypes.c_void_p * max(1, len(values)))(*map(ctypes.addressof, values))
        entry = getattr(self._loaded, f"emulator_entry_{self.name}")
        request.entry = ctypes.cast(entry, ctypes.c_void_p)
        request.arguments = ctypes.addressof(pointers)
        runtime = _runtime()
        with _one_launch:
            if not runtime.emulator_launch(ctypes.byref(request)):
                return
            message = runtime.emulator_error().decode()
            offset = runtime.emulator_fault_offset()
        if offset:
            message += " at " + ", inlined at ".join(build.source_lines(self._library, offset))
        raise EmulatorError(f"{self.name}: {message}")

    def _run_there(self, request, arguments):
        memories = _memories(arguments)
        numbers = {id(memory): number for number, memory in enumerate(memories, 1)}
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "launch")
            with open(path, "wb") as file:
                file.write(bytes(request))
                file.write(struct.pack("<Q", len(memories)))
                for memory in memories:
                    file.write(struct.pack("<Q", memory.nbytes))
                    file.write(memory.bytes())
                file.write(struct.pack("<Q", len(arguments)))
                for argument in arguments:
                    memory = getattr(argument, "memory", None)
                    if memory is None or not argument.size:
                        file.write(struct.pack("<Q8s", 0, _value(argument)))
                    else:
                        offset = argument.data.ptr - memory.address
                        file.write(struct.pack("<QQ", numbers[id(memory)], offset))
            self._run_process("launch", path)
            with open(path, "rb") as file:
                for memory in memories:
                    file.readinto(memory.bytes())

    def _run_process(self, task, *words):
        command = [*_without_random_addresses(self.mode), build.runner(self.mode), task, self._library, self.name]
        environment = os.environ | {
            "ASAN_OPTIONS": "detect_leaks=0",
            "TSAN_OPTIONS": "exitcode=66:report_thread_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        result = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise EmulatorError(f"{self.name} ({self.mode}): {result.stderr[:6000]}")
        return result.stdout


def _code(argument):
    """The type of an argument, as cuda_emulator.h writes it."""
    if not isinstance(argument, np.generic) and not hasattr(argument, "memory"):
        return None
    dtype = argument.dtype
    kind = "B" if dtype.name == "bfloat16" else dtype.kind
    pointer = "" if isinstance(argument, np.generic) else "p"
    return f"{pointer}{kind}{dtype.itemsize}"


def _fits(code, argument):
    if code.startswith("p") and isinstance(argument, np.uint64):
        return argument == 0  # a null pointer
    given = _code(argument)
    either = ("pb1", "pu1")
    return given == code or (given in either and code in either)


def _value(argument):
    """The eight bytes that a launch passes."""
    if isinstance(argument, np.generic):
        return argument.tobytes().ljust(8, b"\0")
    return struct.pack("<Q", argument.data.ptr)


def _memories(arguments):
    memories = {id(a.memory): a.memory for a in arguments if hasattr(a, "memory") and a.size}
    large = [memory.nbytes for memory in memories.values() if memory.nbytes > 1 << 30]
    if large:
        raise EmulatorError(f"an array of {large[0]} bytes is too large for a sanitizer")
    return list(memories.values())


@functools.cache
def _load(library):
    _runtime()
    return ctypes.CDLL(str(library))


@functools.cache
def _runtime():
    """The runtime, in the global scope, where the kernels' libraries find it."""
    library = ctypes.CDLL(str(build.runtime()), mode=ctypes.RTLD_GLOBAL)
    library.emulator_launch.argtypes = [ctypes.c_void_p]
    library.emulator_error.restype = ctypes.c_char_p
    library.emulator_fault_offset.restype = ctypes.c_uint64
    return library


@functools.cache
def _without_random_addresses(mode):
    """TSan wants its own layout of addresses, which recent kernels' random ones break."""
    command = ("setarch", os.uname().machine, "-R")
    if mode != "tsan":
        return ()
    try:
        works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        works = False
    return command if works else ()
