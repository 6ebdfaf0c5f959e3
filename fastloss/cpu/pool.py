"""Threads for large inputs: how many there may be, and the life of the helpers of `fastloss.cpu.team`.

No Numba threading layer is used: none from PyPI is both thread-safe and fork-safe.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

import numpy as np
from llvmlite.binding.ffi import lib as llvm
from numba.core.compiler_lock import global_compiler_lock

from ..messages import rejected
from .team import MOST_MEMBERS, Team, compile_team

#: Seconds until threads are asked for again after none could be had.
RETRY_AFTER = 1.0


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
        self._closing = False
        self._reset()

    def _reset(self) -> None:
        """Forget all threads: in a forked child none of them exists."""
        self._helpers: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._team: Any = None
        self._none_before = 0.0

    def ready(self, helpers: int) -> tuple[Any, int]:
        """Start threads up to ``helpers``; give the team, to be kept while its address is in use, and its size.

        A size of 0: nobody can help.
        """
        helpers = min(helpers, MOST_MEMBERS)
        # Not by is_alive(): an interrupt in it marks a living thread as stopped (CPython 3.11).
        if len(self._helpers) < helpers and not self._closing and time.monotonic() >= self._none_before:
            self._start(helpers)
        team = self._team
        return (None, 0) if team is None else (team, min(helpers, len(self._helpers)))

    def _start(self, helpers: int) -> None:
        compile_team()  # not under the lock, for which a fork waits
        if not self._starting.acquire(blocking=False):
            return  # another thread is at it
        try:
            if self._team is None:
                self._team = Team()
            while len(self._helpers) < helpers:
                # All is noted before the start: an interrupt within it may leave a running thread.
                member = len(self._helpers)
                helper = threading.Thread(target=self._team.helping(member), name="fastloss", daemon=True)
                self._team.count(member + 1)
                self._helpers.append(helper)
                try:
                    helper.start()
                except RuntimeError:  # no thread to be had: the caller works with those there are
                    self._helpers.pop()
                    self._team.count(member)
                    self._none_before = time.monotonic() + RETRY_AFTER
                    break
        finally:
            self._starting.release()

    def stop(self) -> None:
        """End all helpers (before a fork and at exit); the next large call starts new ones.

        Waits a second for those that are in another thread's call, which end when that does.
        """
        held = self._starting.acquire(timeout=1.0)
        try:
            try:
                if self._team is not None:
                    self._team.dismiss()
            finally:
                self._team = None
                helpers, self._helpers = self._helpers, []
            end = time.monotonic() + 1.0
            for helper in helpers:  # daemons: one that an interrupt lost track of must not hang the exit
                with contextlib.suppress(RuntimeError):  # never started
                    helper.join(timeout=max(0.0, end - time.monotonic()))
        finally:
            if held:
                self._starting.release()

    def close(self) -> None:
        """End all helpers for good; later calls run in the caller's thread alone."""
        self._closing = True
        self.stop()


pool = Pool()

if hasattr(os, "register_at_fork"):
    # With helpers alive a fork warns on Python >= 3.12.
    os.register_at_fork(before=pool.stop, after_in_child=pool._reset)
    # A fork during a compile would leave Numba's lock taken in the child for ever, and so would LLVM's, which is also
    # taken where no compile is: when a module is freed. Numba's is taken first, as in a compile: hooks run in reverse.
    # The locks' own methods, in C: an interrupt cannot come between their lines.
    for _lock in (llvm._lock._lock, global_compiler_lock._lock):
        os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
try:
    threading._register_atexit(pool.close)  # type: ignore[attr-defined]
except RuntimeError:  # the interpreter is ending: no helpers any more
    pool.close()


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included. Results are the same bits for any count."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(rejected("set_num_threads", "count", "be an integer >= 1", repr(count)))
    pool.threads = int(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included."""
    return pool.threads
