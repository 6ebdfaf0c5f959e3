"""Threads for large inputs: how many there may be, and the life of the helpers of `fastloss.cpu.team`.

No Numba threading layer is used: none from PyPI is both thread-safe and fork-safe.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numba.core.compiler_lock import global_compiler_lock

from ..messages import rejected
from .team import MOST_MEMBERS, Team


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
        self._helpers: list[threading.Thread] = []
        self._starting = threading.Lock()
        self._team: Any = None
        self._closing = False

    def ready(self, helpers: int) -> tuple[Any, int]:
        """Start threads up to ``helpers``; give the team, to be kept while its address is in use, and its size.

        A size of 0: nobody can help.
        """
        # Not by is_alive(): an interrupt in it marks a living thread as stopped (CPython 3.11).
        if len(self._helpers) < helpers and not self._closing:
            self._start(helpers)
        team = self._team
        return (None, 0) if team is None else (team, min(helpers, len(self._helpers)))

    def _start(self, helpers: int) -> None:
        with self._starting:
            if self._team is None:
                self._team = Team()
            while len(self._helpers) < min(helpers, MOST_MEMBERS):
                member = len(self._helpers)
                helper = threading.Thread(target=self._team.helping(member), name="fastloss", daemon=True)
                try:
                    helper.start()
                except RuntimeError:  # no thread to be had: the caller works alone
                    break
                self._helpers.append(helper)
                self._team.count(member + 1)

    def stop(self) -> None:
        """End all helpers (before a fork and at exit); the next large call starts new ones."""
        with self._starting:
            self._stop()

    def _stop(self) -> None:
        team, self._team = self._team, None
        helpers, self._helpers = self._helpers, []
        if team is not None:
            team.dismiss()
        for helper in helpers:
            helper.join(timeout=1.0)  # they are daemons: one that an interrupt lost track of must not hang the exit

    def before_fork(self) -> None:
        """End all helpers: with threads alive, a fork warns on Python >= 3.12. None can start until `after_fork`."""
        self._starting.acquire()
        self._stop()

    def after_fork(self) -> None:
        """Let helpers start again, in the parent."""
        self._starting.release()

    def close(self) -> None:
        """End all helpers for good; later calls run in the caller's thread alone."""
        self._closing = True
        self.stop()


pool = Pool()


def _before_fork() -> None:
    # A fork during a compile would leave Numba's lock taken in the child for ever. The pool's lock comes first, as
    # where helpers are started, which compiles what they run.
    pool.before_fork()
    global_compiler_lock.acquire()


def _after_fork_in_parent() -> None:
    global_compiler_lock.release()
    pool.after_fork()


def _after_fork_in_child() -> None:
    pool._reset()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
threading._register_atexit(pool.close)  # type: ignore[attr-defined]


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included. Results are the same bits for any count."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(rejected("set_num_threads", "count", "be an integer >= 1", repr(count)))
    pool.threads = int(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included."""
    return pool.threads
