"""Compiles the emulator and the kernels with g++, once: libraries are kept by a hash of all that goes into them.

They are in ``$FASTLOSS_EMULATOR_CACHE``, or in a directory of the user's own under the one for temporary files.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import stat
import subprocess
import tempfile

MODES = ("fast", "asan", "tsan")

_HERE = pathlib.Path(__file__).parent
_INCLUDE = _HERE / "include"
_COMPILER = "g++"

# Kernels see no header but the emulator's and, like NVRTC's, never a fused multiply-add that was not asked for.
# -O0 compiles in a third less time than -O1, and tests take 30 % less in all; -g1 is enough for source lines.
_KERNEL_FLAGS = (
    *(
        "-std=c++17",
        "-Werror=return-type",
        "-pipe",
        "-g1",
        "-O0",
        "-fPIC",
        "-shared",
        "-nostdlib",
        "-nostdinc",
        "-fvisibility=hidden",
    ),
    *("-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing", "-fno-math-errno", "-ffp-contract=off"),
)
_RUNTIME_FLAGS = (
    *("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pipe", "-g1", "-O2", "-fPIC", "-fvisibility=hidden"),
    "-U_FORTIFY_SOURCE",
)

_UNDEFINED = "-fsanitize=signed-integer-overflow,alignment,bounds,shift,integer-divide-by-zero"
_SANITIZERS = {
    "fast": (_UNDEFINED, "-fno-sanitize-recover=all"),  # runtime.cpp has the handlers
    "asan": ("-fsanitize=address", _UNDEFINED, "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"),
    "tsan": ("-fsanitize=thread", "-fno-omit-frame-pointer"),
}


class EmulatorError(RuntimeError):
    """What a GPU would report as an error, or, worse, would not report at all."""


def kernel_library(source, kernels, options, mode):
    """The path of a shared library with the named kernels of a source."""
    exports = "".join(f"\nFL_EMULATOR_EXPORT({kernel})" for kernel in kernels)
    header = _INCLUDE / "cuda_emulator.h"
    flags = [*_KERNEL_FLAGS, *_SANITIZERS[mode], *options, f"-I{_INCLUDE}", "-include", str(header)]

    def compile_to(path):
        _run([_COMPILER, *flags, "-x", "c++", "-", "-o", path], source + exports + "\n")

    return _kept("kernel", (source, exports, *flags), ".so", compile_to)


def runtime():
    """The path of the library that runs kernels inside this process."""
    command = [_COMPILER, *_RUNTIME_FLAGS, "-shared", str(_HERE / "runtime.cpp"), "-ldl", "-lm"]
    return _kept("runtime", command, ".so", lambda path: _run([*command, "-o", path]))


def runner(mode):
    """The path of the program that runs one launch under a sanitizer."""
    sources = [str(_HERE / "runtime.cpp"), str(_HERE / "runner.cpp")]
    flags = [*_RUNTIME_FLAGS, f"-DEMULATOR_{mode.upper()}"]
    libraries = [*_SANITIZERS[mode], "-rdynamic", "-Wl,--no-as-needed", "-ldl", "-lm"]

    def compile_to(path):
        with tempfile.TemporaryDirectory(dir=cache_directory()) as directory:
            objects = [os.path.join(directory, f"{i}.o") for i in range(len(sources))]
            for text, compiled in zip(sources, objects, strict=True):
                _run([_COMPILER, *flags, "-c", text, "-o", compiled])  # not instrumented
            _run([_COMPILER, *objects, *libraries, "-o", path])

    return _kept("runner", (*sources, *flags, *libraries), "", compile_to)


@functools.cache
def cache_directory():
    """Where compiled files are; nobody else may write there, as they are run."""
    chosen = os.environ.get("FASTLOSS_EMULATOR_CACHE")
    if chosen:
        directory = pathlib.Path(chosen)
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    directory = pathlib.Path(tempfile.gettempdir(), f"fastloss-emulator-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise EmulatorError(f"{directory} is not a private directory; set FASTLOSS_EMULATOR_CACHE")
    return directory


def _kept(kind, key, suffix, compile_to):
    """The file for a key, which is compiled first if need be, by one process while the others wait."""
    digest = hashlib.sha256("\0".join((_toolchain(), kind, *key)).encode()).hexdigest()[:24]
    path = cache_directory() / f"{kind}-{digest}{suffix}"
    if not path.exists():
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                unfinished = path.with_suffix(f".{os.getpid()}.tmp")
                compile_to(str(unfinished))
                os.replace(unfinished, path)
    return path


@functools.cache
def _toolchain():
    """The compiler's version and the emulator's own sources."""
    texts = [path.read_text() for path in sorted((*_HERE.glob("*.cpp"), *_INCLUDE.iterdir()))]
    return "\0".join([_run([_COMPILER, "--version"]), *texts])


def _run(command, text=None):
    try:
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EmulatorError(f"the CUDA emulator needs {_COMPILER}, which is not installed") from None
    if result.returncode:
        raise EmulatorError(f"does not compile:\n{result.stderr[:6000]}")
    return result.stdout


def source_lines(library, offset):
    """Where an instruction of a library comes from, as ``"file.cu:7"``, innermost inlined function first."""
    command = ["addr2line", "-i", "-e", str(library), hex(offset)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ["an unknown line (addr2line is not installed)"]
    places = [line.split(" ")[0].rpartition("/")[2] for line in result.stdout.splitlines() if "?" not in line]
    return [place for place in places if not place.startswith(("cuda_emulator.h", "cuda_fp16.h", "cuda_bf16.h"))]
