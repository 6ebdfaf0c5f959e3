"""Compiled kernels: compiled once per process, kept on disk between processes.

One content-addressed file per kernel. The key hashes all of fastloss's sources, the formula's own source, Numba,
llvmlite, Python, the CPU and the compile options, so an edited helper can never serve stale code. A file is believed
only if it belongs to this user, nobody else may write it, and its SHA-256 holds; any doubt is a miss. Files are
written under a temporary name and renamed, so that a killed process leaves no half file. Where the directory cannot
be written, kernels are compiled and not kept.

The directory: ``FASTLOSS_CACHE_DIR``, else ``$XDG_CACHE_HOME/fastloss``, else ``~/.cache/fastloss``;
``FASTLOSS_DISABLE_CACHE=1`` turns it off.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import pickle
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
from numba.core import types
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from ..formula.subset import FormulaSource, check
from .emit import array_type

MAGIC = b"FLC2"
#: Bytes before the payload: `MAGIC` and a SHA-256.
_HEADER = len(MAGIC) + 32
#: The one place for compile options. NumPy's error model: a division by zero is inf or NaN, not an exception.
JIT_OPTIONS: dict[str, Any] = {"error_model": "numpy"}
_NEEDS_JIT = "fastloss: NUMBA_DISABLE_JIT must be unset; kernels on SIMD vectors cannot run uncompiled"
#: How kernels' names end, and the whole of one.
_KERNEL = ".kernel"
_KERNEL_NAME = re.compile(rf"[0-9a-f]{{64}}{re.escape(_KERNEL)}")
#: How temporary files' names begin, and the seconds after which one is nobody's.
_TEMPORARY, _ABANDONED_AFTER = ".tmp-", 3600.0
#: A user hears about compilation only when it takes longer than this (seconds).
PATIENCE = 1.0


def directory() -> Path:
    """Where compiled kernels are kept."""
    chosen = os.environ.get("FASTLOSS_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastloss"


def _package_digest() -> str:
    """SHA-256 over every source file of the package."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


#: Taken when this module is imported: sources edited later are not what is running.
_SOURCES = _package_digest()


class _Implementation(CompileResultCacheImpl):
    """Numba's (de)serialisation of a compile result, without its own index and locators."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._lineno = function.__code__.co_firstlineno
        self._py_file = function.__code__.co_filename
        self._locator = self


class KernelCache(FunctionCache):
    """Numba's cache protocol over our own files. ``key`` says what the kernel was specialised on."""

    #: Kernels that this process has kept, and could not keep.
    written = not_written = 0

    def __init__(self, function: Callable[..., Any], key: str) -> None:
        self._name, self._key = function.__name__, key
        self._impl = _Implementation(function)
        self._enabled = _turned_on()

    @property
    def cache_path(self) -> str:
        """Directory of the cache, as Numba asks for it."""
        return str(directory())

    def flush(self) -> None:
        """Nothing is held back in memory."""

    def _file_name(self, signature: Any, codegen: Any) -> str:
        options = sorted(JIT_OPTIONS.items())
        parts = (
            MAGIC, numba.__version__, llvmlite.__version__, sys.version, _SOURCES, codegen.magic_tuple(),
            self._name, self._key, str(signature), options, repr(numba.config.OPT),
        )  # fmt: skip
        return hashlib.sha256(repr(parts).encode()).hexdigest() + _KERNEL

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Give the compiled kernel, or None on any doubt."""
        target_context.refresh()
        if not self._enabled:
            return None
        try:
            name = self._file_name(signature, target_context.codegen())
            content = _read_private(name)
            header, payload = content[:_HEADER], content[_HEADER:]
            if header != _header(name, payload):
                return None
            return self._impl.rebuild(target_context, pickle.loads(payload))
        except Exception:  # noqa: BLE001  a cache that cannot be read is a miss, whatever the reason
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep a compiled kernel; a directory that cannot be written is no error."""
        if not self._enabled or not self._impl.check_cachable(data):
            return
        try:
            payload = dumps(self._impl.reduce(data))
            name = self._file_name(signature, data.codegen)
            _write_private(name, _header(name, payload) + payload)
            KernelCache.written += 1
        except Exception:  # noqa: BLE001  what cannot be kept is compiled again, whatever the reason
            self._enabled = False
            KernelCache.not_written += 1


def _header(name: str, payload: bytes) -> bytes:
    """What a file begins with: that it is ours, and that it is this kernel and whole."""
    return MAGIC + hashlib.sha256(name.encode() + payload).digest()


def _turned_on() -> bool:
    return os.environ.get("FASTLOSS_DISABLE_CACHE", "") in ("", "0")


def obstacle(*, to_write: bool = False) -> str:
    """Why kernels that are kept are not read, or cannot be written; nothing if they are.

    Parameters
    ----------
    to_write
        Make the directory if there is none, and see whether it can be written.
    """
    if not _turned_on():
        return "FASTLOSS_DISABLE_CACHE is set"
    try:
        folder = _open_directory(create=to_write)
    except FileNotFoundError:
        return f"{directory()} cannot be made" if to_write else ""
    except PermissionError as error:
        if error.errno is None:
            return f"{directory()} belongs to another user, or others may write it"
        return f"{directory()} cannot be opened"
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        return f"there is no directory to keep them in ({error})"
    try:
        can_write = not to_write or os.access(".", os.W_OK, dir_fd=folder)
        return "" if can_write else f"{directory()} cannot be written"
    finally:
        os.close(folder)


def kept(*, remove: bool = False) -> tuple[int, int]:
    """How many kernels are kept, and their bytes.

    Parameters
    ----------
    remove
        Remove them, and what writers that were killed more than an hour ago have left. A process that has loaded a
        kernel keeps it.
    """
    number = size = 0
    try:
        folder = _open_directory(create=False)
    except (OSError, RuntimeError):
        return 0, 0
    try:
        for name in os.listdir(folder):
            if _KERNEL_NAME.fullmatch(name):
                with contextlib.suppress(OSError):  # another process has removed it, or it is a folder
                    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if remove:
                        os.unlink(name, dir_fd=folder)
                    size += status.st_size
                    number += 1
        if remove:
            _sweep(folder)
    finally:
        os.close(folder)
    return number, size


def _open_directory(*, create: bool) -> int:
    path = directory()
    if create:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_private(os.fstat(descriptor))
    except PermissionError:
        os.close(descriptor)
        raise
    return descriptor


def _require_private(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(status.st_uid)


def _read_private(name: str) -> bytes:
    folder = _open_directory(create=False)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
            status = os.fstat(file.fileno())
            _require_private(status)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise PermissionError(name)
            return file.read()
    finally:
        os.close(folder)


def _sweep(folder: int) -> None:
    """Remove what writers that were killed have left, once it is old."""
    for name in os.listdir(folder):
        if name.startswith(_TEMPORARY):
            with contextlib.suppress(OSError):
                if time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime > _ABANDONED_AFTER:
                    os.unlink(name, dir_fd=folder)


def _write_private(name: str, content: bytes) -> None:
    folder = _open_directory(create=True)
    temporary = f"{_TEMPORARY}{secrets.token_hex(8)}"
    try:
        _sweep(folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=folder), "wb") as file:
            file.write(content)
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    finally:
        os.close(folder)


_ARGUMENTS = {"array": array_type, "int": types.int64, "float": types.float64}


def compiled(function: Callable[..., Any], arguments: Sequence[str], key: str) -> Callable[..., Any]:
    """Compile ``function``, or load it, and give its C-level entry point.

    Parameters
    ----------
    function
        Kernel source.
    arguments
        Kind of each argument: ``"array"``, ``"int"`` or ``"float"``. **Arrays are not checked any more**: their type,
        layout and size must be what the kernel was built for.
    key
        What the kernel closes over, as text: the part of its identity that its source does not show.
    """
    # Through the dispatcher a call costs 0.4 us more.
    return _compile_result(function, arguments, key).entry_point


def native_address(function: Callable[..., Any], arguments: Sequence[str], key: str) -> int:
    """Compile ``function``, or load it, for native callers: its address, by Numba's calling convention.

    Parameters
    ----------
    function, arguments, key
        As for `compiled`.
    """
    result = _compile_result(function, arguments, key)
    _KEPT.append(result)
    address: int = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
    return address


#: What owns the machine code that addresses were given of.
_KEPT: list[Any] = []


def prepare() -> None:
    """Have Numba register all that it compiles with: an interrupt in the middle would leave it half registered."""
    with global_compiler_lock:
        cpu_target.target_context.refresh()


def _compile_result(function: Callable[..., Any], arguments: Sequence[str], key: str) -> Any:
    signature = tuple(_ARGUMENTS[kind] for kind in arguments)
    if numba.config.DISABLE_JIT:
        raise RuntimeError(_NEEDS_JIT)
    _name_apart(function, hashlib.sha256(key.encode()).hexdigest()[:16])
    dispatcher = numba.njit(**JIT_OPTIONS)(function)
    dispatcher._cache = KernelCache(function, key)
    with global_compiler_lock, Notice():
        dispatcher.compile(signature)
    return dispatcher.overloads[signature]


def _name_apart(function: Any, own: str) -> None:
    """Give a kernel, and the functions made for it alone, names that no other kernel's have.

    Numba tells functions of one name apart by a number that it counts in each process. So a kernel that another process
    had compiled could have the names of one that was compiled here, and it then called that one's functions.
    """
    function.__qualname__ = f"{function.__name__}_{own}"
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # empty: not made for this kernel
            inner = cell.cell_contents
            if isinstance(inner, FunctionType) and inner.__qualname__ != inner.__name__:
                _name_apart(inner, own)


@cache
def fingerprint(function: Callable[..., Any]) -> str:
    """A text that changes whenever a formula, or a formula it calls, does.

    Raises
    ------
    NotInSubset
        If the function is no formula: with its file and line, before anything is compiled.
    """
    return _source_text(check(function))


def _source_text(source: FormulaSource) -> str:
    statements = [ast.dump(statement) for statement in source.statements]
    calls = [(name, _source_text(called)) for name, called in sorted(source.calls.items())]
    return repr((source.name, source.arguments, statements, calls, sorted(source.primitives.items())))


class Notice:
    """One line to the user when compiling takes more than `PATIENCE` seconds, once per process."""

    _shown = False

    def __init__(self) -> None:
        self._timer = threading.Timer(PATIENCE, self._show)
        self._timer.daemon = True

    def _show(self) -> None:
        if not Notice._shown:
            Notice._shown = True
            print("fastloss: compiling kernels for this machine, once", file=sys.stderr)  # noqa: T201

    @classmethod
    def withhold(cls) -> None:
        """Say nothing in this process, since its user knows."""
        cls._shown = True

    def __enter__(self) -> None:
        try:
            self._timer.start()
        except RuntimeError:  # no thread to be had: compile in silence
            pass
        except BaseException:  # an interrupt, after which the thread may run
            self._timer.cancel()
            raise

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()
