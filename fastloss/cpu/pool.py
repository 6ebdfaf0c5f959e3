"""Threads for large inputs: a few helpers that share one kernel call with the caller.

Chunks are claimed and counted **inside** the kernel, by atomics on ``control``, so that no Python-side bookkeeping can
be torn by an interrupt. The caller takes part and never waits for a helper that has not started. No Numba threading
layer is used: none from PyPI is both thread-safe and fork-safe.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from ..messages import rejected

Kernel = Callable[..., float]


def _limit(name: str) -> int | None:
    text = os.environ.get(name, "").split(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None


def _cgroup_limit() -> int | None:
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def default_threads() -> int:
    """Threads to use unless told otherwise: the CPUs this process may use, less where the environment says so."""
    chosen = _limit("FASTLOSS_NUM_THREADS")
    if chosen:
        return chosen
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = (_limit("OMP_NUM_THREADS"), _limit("NUMBA_NUM_THREADS"), _cgroup_limit())
    return min([available, *(limit for limit in limits if limit)])


class Pool:
    """Helper threads, started when first needed."""

    def __init__(self) -> None:
        self.threads = default_threads()
        self._reset()

    def _reset(self) -> None:
        """Forget all threads: in a forked child none of them exists."""
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._helpers: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._closing = False

    def _help(self, jobs: queue.SimpleQueue[Any]) -> None:
        while (job := jobs.get()) is not None:
            kernel, arguments, finished = job
            with contextlib.suppress(Exception):  # a helper that died would never be replaced
                if kernel(*arguments):
                    finished.release()
            del job, kernel, arguments, finished

    def _ensure(self, helpers: int) -> int:
        """Start threads up to ``helpers``; give how many there are."""
        if self._closing:
            return 0
        # Not by is_alive(): an interrupt in it marks a living thread as stopped (CPython 3.11).
        if len(self._helpers) < helpers:
            with self._starting:
                while len(self._helpers) < helpers:
                    helper = threading.Thread(target=self._help, args=(self._jobs,), name="fastloss", daemon=True)
                    try:
                        helper.start()
                    except RuntimeError:  # no thread to be had: the caller works alone
                        break
                    self._helpers.append(helper)
        return min(helpers, len(self._helpers))

    def stop(self) -> None:
        """End all helpers (before a fork and at exit); the next large call starts new ones."""
        with self._starting:
            helpers, self._helpers = self._helpers, []
            for _ in helpers:
                self._jobs.put(None)
            for helper in helpers:
                helper.join(timeout=1.0)  # they are daemons: one that an interrupt lost track of must not hang the exit

    def close(self) -> None:
        """End all helpers for good; later calls run in the caller's thread alone."""
        self._closing = True
        self.stop()

    def run(self, kernel: Kernel, arguments: tuple[Any, ...], control: Any, chunks: int, threads: int) -> None:
        """Run one kernel call on several threads; return when every chunk is done.

        Parameters
        ----------
        kernel
            Claims chunks from ``control[0]``, counts finished ones in ``control[1]`` and returns true if it finished
            the last one.
        arguments
            Its arguments, ``control`` among them.
        control
            Int64 zeros.
        chunks
            Number of chunks.
        threads
            The most that may take part, the caller included.
        """
        finished = threading.Lock()
        finished.acquire()
        interrupt: BaseException | None = None
        asked = worked = False
        # Helpers may be writing into the caller's arrays: whatever interrupts, first finish, then raise.
        while True:
            try:
                if not asked:
                    asked = True
                    for _ in range(self._ensure(min(threads, chunks) - 1)):
                        self._jobs.put((kernel, arguments, finished))
                if not worked:
                    kernel(*arguments)  # called again after an interrupt, it finds nothing left to claim
                    worked = True
                while control[1] < chunks:
                    finished.acquire(timeout=0.05)
                break
            except BaseException as error:  # noqa: BLE001
                interrupt = error
        if interrupt is not None:
            raise interrupt


pool = Pool()


def _before_fork() -> None:
    # A fork during a compile would leave Numba's lock taken in the child for ever; one with helpers alive warns on
    # Python >= 3.12.
    global_compiler_lock.acquire()
    pool.stop()


def _after_fork_in_child() -> None:
    pool._reset()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=global_compiler_lock.release, after_in_child=_after_fork_in_child
    )
threading._register_atexit(pool.close)  # type: ignore[attr-defined]


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included. Results are the same bits for any count."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(rejected("set_num_threads", "count", "be an integer >= 1", repr(count)))
    pool.threads = int(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included."""
    return pool.threads
