"""CUDA text to machine code with NVIDIA's wheels from PyPI (ci/gpu.txt), without a GPU and without a driver.

`Nvrtc.compile` gives the machine code and the log, `disassemble` the code as text; `read_log` and `read_code` take from
these two what the gate looks at. The readers need no wheel.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


def cupy_options(architecture: int, include: Path) -> list[str]:
    """The options CuPy adds to every RawModule, so that the code is the user's; and a log with the resources."""
    return [
        "--std=c++17",
        f"-I{include}",
        "-ftz=true",
        f"-arch=sm_{architecture}",
        "--device-as-default-execution-space",
        "--ptxas-options=-v",
    ]


def wheel_folder() -> Path:
    """Where the wheels of CUDA 13 put lib, bin and include."""
    package = importlib.util.find_spec("nvidia")
    # a namespace package: it may lie in several folders
    folders = [Path(folder, "cu13") for folder in (package and package.submodule_search_locations) or ()]
    for folder in folders:
        if any(folder.glob("lib/libnvrtc.so.*")):
            return folder
    message = "NVIDIA's compiler is not installed here; `python3 ci/dev.py gpu-gate` installs it (ci/gpu.txt)"
    raise FileNotFoundError(message)


class Nvrtc:
    """The run-time compiler's C interface, as far as it is needed."""

    def __init__(self) -> None:
        self.folder = wheel_folder()
        library = self.folder / "lib"
        # NVRTC opens its builtins by their bare name, and the wheel's folder is on no search path: load them first.
        self._builtins = [ctypes.CDLL(str(file)) for file in library.glob("libnvrtc-builtins.so.*")]
        self._library = ctypes.CDLL(str(next(library.glob("libnvrtc.so.*"))))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def version(self) -> str:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def architectures(self) -> list[int]:
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        return list(numbers)

    def compile(self, text: str, architecture: int, options: tuple[str, ...] = ()) -> tuple[bytes | None, str]:
        """The machine code (none after an error) and the log; `options` are those the library gives to CuPy."""
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
        try:
            words = [word.encode() for word in (*options, *cupy_options(architecture, self.folder / "include"))]
            status = self._library.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
            # The front end's log ends with a zero byte, and the assembler's errors may follow behind it.
            log = self._buffer("nvrtcGetProgramLog", program).replace(b"\0", b"\n").decode(errors="replace")
            if status:
                return None, log if "error" in log else f"error: {self._error(status)}\n{log}"
            return self._buffer("nvrtcGetCUBIN", program), log
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _buffer(self, getter: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"{getter}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(getter, program, buffer)
        return buffer.raw

    def _call(self, function: str, *arguments: object) -> None:
        if status := getattr(self._library, function)(*arguments):
            message = f"{function}: {self._error(status)}"
            raise RuntimeError(message)

    def _error(self, status: int) -> str:
        return self._library.nvrtcGetErrorString(status).decode()


def disassemble(code: bytes, folder: Path) -> str:
    """The machine code as text, by the `nvdisasm` among the wheels."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:  # it reads files only
        file.write(code)
        file.flush()
        command = [str(folder / "bin" / "nvdisasm"), file.name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        message = f"nvdisasm failed with exit status {done.returncode}: {done.stderr.strip()}"
        raise RuntimeError(message)
    return done.stdout


# --------------------------------------------------------------------------- what the log and the code say


@dataclass(frozen=True)
class Log:
    """What the compiler said: the entry points, what they use, and its complaints."""

    entries: tuple[str, ...] = ()
    registers: int = 0  # per thread
    stack: int = 0  # bytes per thread
    spill: int = 0  # bytes stored and loaded per thread
    shared: int = 0  # static bytes per block
    complaints: tuple[str, ...] = ()  # warnings and errors, the first line of each


COMPLAINT = re.compile(r"\b(warning|error|fatal|advisory)\b|\(C\d{4}\)", re.IGNORECASE)  # (C7510): lost performance
SUMMARY = re.compile(r"^\d+ (?:catastrophic )?errors? detected|^Remark: The warnings can be suppressed")


def read_log(text: str) -> Log:
    """Read a log made with `--ptxas-options=-v`; spills of functions that were not inlined count too."""

    def numbers(pattern: str) -> list[int]:
        return [int(number) for number in re.findall(pattern, text)]

    lines = [line.strip() for line in text.splitlines()]
    return Log(
        entries=tuple(re.findall(r"Compiling entry function '([^']+)'", text)),
        registers=max(numbers(r"Used (\d+) registers"), default=0),
        stack=max(numbers(r"(\d+) bytes (?:stack frame|cumulative stack size)"), default=0),
        spill=sum(numbers(r"(\d+) bytes spill (?:stores|loads)")),
        shared=max(numbers(r"(\d+) bytes smem"), default=0),
        complaints=tuple(line for line in lines if COMPLAINT.search(line) and not SUMMARY.match(line)),
    )


@dataclass(frozen=True)
class Code:
    """What stands in the machine code, subroutines and all."""

    opcodes: Counter[str]  # how often each, with its modifiers
    launch_bound: int | None = None  # threads of the largest block that may be launched, where the text says so


INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)
LAUNCH_BOUND = re.compile(r"EIATTR_MAX_THREADS\b.*?\.word\s+0x([0-9a-f]+)", re.DOTALL)


def read_code(disassembly: str) -> Code:
    bound = LAUNCH_BOUND.search(disassembly)
    return Code(Counter(INSTRUCTION.findall(disassembly)), int(bound[1], 16) if bound else None)
