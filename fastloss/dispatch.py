"""What a call may ask for, which backend answers, and the NumPy backend's settings."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from importlib import import_module
from typing import Any

#: What a call may ask for, combined by ``|``.
VALUE, GRAD, HESS = 1, 2, 4

_ready: set[str] = set()


def on_device(array: Any) -> bool:
    """Whether an array is CuPy's, without importing CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, getattr(cupy, "ndarray", ()))


#: Held while the backend is imported. A fork waits for it: a child born in the middle of an import by another thread
#: would wait for that thread's module lock for ever.
_IMPORTING = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_IMPORTING.acquire, after_in_parent=_IMPORTING.release, after_in_child=_IMPORTING.release
    )


def backend(module: str) -> Any:
    """A module of the NumPy backend, imported when first needed: importing fastloss must not load Numba."""
    name = f"{__package__}.cpu.{module}"
    loaded = sys.modules.get(name)
    if loaded is not None and module in _ready:
        return loaded
    if threading.current_thread() is threading.main_thread():
        _import_apart(name)
    with _IMPORTING:
        loaded = import_module(name)
        _ready.add(module)
        return loaded


def _import_apart(name: str) -> None:
    """Import in a thread of its own: an interrupt, which the main thread gets, would leave half of Numba behind."""

    def work() -> None:
        with suppress(Exception):  # the caller's own import raises it again
            with _IMPORTING:
                import_module(name)
                cache = import_module(f"{__package__}.cpu.cache")
            cache.prepare()  # takes the compile lock, which a fork takes before this module's

    thread = threading.Thread(target=work, name="fastloss-import")
    try:
        thread.start()
    except RuntimeError:  # no thread to be had, or the interpreter is ending
        return
    thread.join()


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included; results are the same bits for any count.

    Raises
    ------
    ValueError
        If ``count`` is not an integer of 1 or more.

    Examples
    --------
    >>> import fastloss as fl
    >>> before = fl.get_num_threads()
    >>> fl.set_num_threads(1)
    >>> fl.get_num_threads()
    1
    >>> fl.set_num_threads(before)
    """
    backend("pool").set_num_threads(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.get_num_threads() >= 1
    True
    """
    threads: int = backend("pool").get_num_threads()
    return threads
