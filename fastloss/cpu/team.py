"""A team of helper threads that wait in native code for kernel calls to share.

The hand-off is a word in memory: a helper that has just worked looks at it for `SPIN` microseconds more (0.2 us to
join in), then sleeps on a lock, from which it takes longer to come (see `fastloss.cpu.run.WAKE_FROM`). Everything here
runs without the GIL, the open job's caller included, so that neither an interrupt nor a busy Python thread can come
between.

A job is offered by putting the number of helpers wanted into the team's gate. A helper takes a ticket out of it and
enters in one atomic step; closing takes all tickets back and waits until those who entered have left. So a caller
never waits for a helper that has not started, and nobody touches a call's arrays after its end. One job is open at a
time: a second caller meanwhile works alone.
"""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

from .cache import compiled, native_address
from .emit import array_pointer, stack_buffer
from .native import (
    CLOSE,
    OPEN,
    PROCESSOR_WORDS,
    acquire_lock,
    acquire_lock_for,
    call_helper,
    compare_exchange,
    exchange,
    fetch_add,
    fetch_and,
    get_affinity,
    give_way,
    pause,
    process,
    processor,
    read,
    release_gil,
    release_lock,
    rounding,
    set_affinity,
    set_rounding,
    take_gil,
    words_at,
    write,
)
from .storage import STORAGES

#: Microseconds that an idle helper looks for the next job before it sleeps.
SPIN = 50
#: Looks between two offers to leave the processor to whoever waits for it: a woken helper may find itself on its
#: caller's, and would keep it for all of `SPIN`.
PATIENCE = 64
#: Microseconds of sleep between two looks of a caller whose helper was taken off its processor.
NAP = 50

#: Words of a team, those that different threads write on cache lines of their own. After OPEN and CLOSE: pauses that
#: make `SPIN`, a lock that is never free (to nap on), number of helpers; whether a job is open, its function and frame,
#: its caller's processor and its way of
#: rounding; the gate (tickets in the low half, helpers inside in the high half); sleeping helpers; the
#: generation, whose change sends all helpers home; then for each helper whether it sleeps and the lock it sleeps on.
PAUSES, NAP_LOCK, MEMBERS = 2, 3, 4
TAKEN, FUNCTION, FRAME, CALLER_PROCESSOR, ROUNDING = 16, 17, 18, 19, 20
GATE, SLEEPERS, GENERATION = 32, 48, 64
FIRST_MEMBER, MEMBER_WORDS = 80, 16
SLEEPING, LOCK = 0, 1

#: More helpers than memory can serve.
MOST_MEMBERS = 127

_TICKETS = (1 << 32) - 1
_INSIDE = 1 << 32


def compile_team() -> None:
    """Compile, or load, what a team runs, if that has not been done yet."""
    _functions()


class _Functions(NamedTuple):
    """The team's machine code."""

    help: Callable[..., int]  # team, member, generation
    dismiss: Callable[..., int]  # team
    spin: Callable[..., int]  # pauses
    open: int  # addresses, for kernels (see `fastloss.cpu.native`)
    close: int


@cache
def _functions() -> _Functions:
    """Compile, or load, what a team runs."""
    team_of = array_pointer(STORAGES["int64"])
    processors = stack_buffer(STORAGES["int64"], PROCESSOR_WORDS)

    def open_job(address, function, frame, wanted, wake):
        team = words_at(address)
        if wake == 0 and read(team, SLEEPERS) == read(team, MEMBERS):
            return 0
        if not compare_exchange(team, TAKEN, 0, 1):
            return 0
        write(team, FUNCTION, function)
        write(team, FRAME, frame)
        write(team, CALLER_PROCESSOR, processor())
        write(team, ROUNDING, rounding())
        write(team, GATE, wanted)  # from here on helpers may come
        members = read(team, MEMBERS)
        missing = wanted - (members - read(team, SLEEPERS)) if wake != 0 else 0
        member = 0
        while missing > 0 and member < members:
            at = FIRST_MEMBER + member * MEMBER_WORDS
            if read(team, at + SLEEPING) == 1 and exchange(team, at + SLEEPING, 0) == 1:
                release_lock(read(team, at + LOCK))
                missing -= 1
            member += 1
        return 1

    def close_job(address):
        team = words_at(address)
        fetch_and(team, GATE, ~_TICKETS)
        looks = 0
        while read(team, GATE) != 0:
            looks += 1
            if looks > read(team, PAUSES):
                acquire_lock_for(read(team, NAP_LOCK), NAP)
            elif looks % PATIENCE == 0:
                give_way()
            else:
                pause()
        write(team, TAKEN, 0)
        return 0

    @register_jitable
    def avoid(allowed, crowded):
        """Stay off one processor, if there are others, until `return_to` is given the same; 0 if that was possible."""
        if crowded < 0 or get_affinity(allowed, 0) != 0:
            return 1
        word, bit = crowded // 64, 1 << (crowded % 64)
        bits = read(allowed, word)
        if bits & bit == 0:
            return 1
        write(allowed, word, bits & ~bit)
        return set_affinity(allowed, 0)  # fails where it was the only one

    @register_jitable
    def return_to(allowed, crowded):
        """Use a processor again, unless the process's first thread has been kept from it meanwhile."""
        word, bit = crowded // 64, 1 << (crowded % 64)
        if get_affinity(allowed, process()) != 0 or read(allowed, word) & bit == 0:
            return
        if get_affinity(allowed, 0) == 0:
            write(allowed, word, read(allowed, word) | bit)
            set_affinity(allowed, 0)

    def help_out(array, member, generation):
        team = team_of(array)
        allowed = processors()
        at = FIRST_MEMBER + member * MEMBER_WORDS
        looks = 0
        state = release_gil()
        while read(team, GENERATION) == generation:
            gate = read(team, GATE)
            if gate & _TICKETS != 0:
                if compare_exchange(team, GATE, gate, gate - 1 + _INSIDE):
                    crowded = processor()
                    if crowded == read(team, CALLER_PROCESSOR) and avoid(allowed, crowded) == 0:
                        return_to(allowed, crowded)
                    own = rounding()
                    set_rounding(read(team, ROUNDING))
                    call_helper(read(team, FUNCTION), read(team, FRAME))
                    set_rounding(own)
                    fetch_add(team, GATE, -_INSIDE)
                    looks = 0
            elif looks < read(team, PAUSES):
                looks += 1
                if looks % PATIENCE == 0:
                    give_way()
                else:
                    pause()
            else:
                looks = 0
                # A virtual machine's Linux takes a processor that has idled for long for one that is not there, and
                # would wake this helper where its caller runs: 500,000 elements took 430 us instead of 250.
                crowded = read(team, CALLER_PROCESSOR)
                avoided = avoid(allowed, crowded)
                fetch_add(team, SLEEPERS, 1)
                exchange(team, at + SLEEPING, 1)
                # Look again: what was written before this helper was seen to sleep woke nobody.
                called = read(team, GATE) & _TICKETS != 0 or read(team, GENERATION) != generation
                if not called or exchange(team, at + SLEEPING, 0) == 0:
                    acquire_lock(read(team, at + LOCK))
                fetch_add(team, SLEEPERS, -1)
                if avoided == 0:
                    return_to(allowed, crowded)
        take_gil(state)
        return 0

    def dismiss(array):
        team = team_of(array)
        fetch_add(team, GENERATION, 1)
        for member in range(MOST_MEMBERS):
            at = FIRST_MEMBER + member * MEMBER_WORDS
            if exchange(team, at + SLEEPING, 0) == 1:
                release_lock(read(team, at + LOCK))
        return 0

    def spin(looks):
        for _ in range(looks):
            pause()
        return 0

    return _Functions(
        compiled(help_out, ("array", "int", "int"), "team"),
        compiled(dismiss, ("array",), "team"),
        compiled(spin, ("int",), "team"),
        native_address(open_job, ("int",) * 5, "team"),
        native_address(close_job, ("int",), "team"),
    )


_PYTHON = ctypes.pythonapi
_PYTHON.PyThread_allocate_lock.restype = ctypes.c_void_p
_PYTHON.PyThread_acquire_lock.argtypes = ctypes.c_void_p, ctypes.c_int
_PYTHON.PyThread_free_lock.argtypes = (ctypes.c_void_p,)


def _free(locks: list[int]) -> None:
    for lock in locks:
        _PYTHON.PyThread_free_lock(lock)


class Team:
    """The words that callers and helpers share, and the locks that helpers sleep on."""

    def __init__(self) -> None:
        self._functions = _functions()
        self._words = np.zeros(FIRST_MEMBER + MOST_MEMBERS * MEMBER_WORDS, np.int64)
        self.address = self._words.ctypes.data
        self._locks: list[int] = []
        weakref.finalize(self, _free, self._locks).atexit = False
        self._words[OPEN], self._words[CLOSE] = self._functions.open, self._functions.close
        self._words[PAUSES] = self._pauses()
        self._words[NAP_LOCK] = self._taken_lock()

    def _pauses(self) -> int:
        """How many pauses `SPIN` microseconds hold: 10 to 140 cycles each."""
        some, times = 256, []
        for _ in range(3):
            start = time.perf_counter_ns()
            self._functions.spin(some)
            times.append(time.perf_counter_ns() - start)
        return max(1, SPIN * 1000 * some // max(1, min(times)))

    def _taken_lock(self) -> int:
        lock = _PYTHON.PyThread_allocate_lock()
        if not lock:
            raise MemoryError
        _PYTHON.PyThread_acquire_lock(lock, 1)
        self._locks.append(lock)
        return int(lock)

    def helping(self, member: int) -> Callable[[], object]:
        """What the thread of one more helper has to run; it ends with `dismiss`."""
        lock = FIRST_MEMBER + member * MEMBER_WORDS + LOCK
        self._words[lock] = self._words[lock] or self._taken_lock()
        generation = int(self._words[GENERATION])
        return lambda: self._functions.help(self._words, member, generation)

    def count(self, members: int) -> None:
        """Tell callers how many helpers there are."""
        self._words[MEMBERS] = members

    @property
    def awake(self) -> bool:
        """Whether some helper can be had without waking it."""
        return bool(self._words[SLEEPERS] < self._words[MEMBERS])

    def dismiss(self) -> None:
        """Tell every helper to end."""
        self._functions.dismiss(self._words)
