"""Interleaved timing: every contender in every round, in random order, medians with their spread.

Machines drift (frequency, neighbours, caches); contenders timed one after the other would be compared across
that drift. A sample during which this process's threads had to wait for a CPU says more about the neighbours
than about the contender: it is set aside where enough others are left (Linux; elsewhere nothing is known of it).
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], Any]

#: Share of a sample's time that threads may wait for a CPU, in sum, before it counts as disturbed.
WAITING = 0.02
#: Nanoseconds of waiting that every sample is forgiven: to wake a thread takes some.
FORGIVEN = 20_000
#: Medians are taken over this many samples at least: where fewer are undisturbed, the least disturbed ones.
ENOUGH = 3
#: Calls that last less (seconds) are called for `WARM_UP` seconds before each sample: after its pause a processor
#: has slowed down, and everybody's threads sleep.
LONG = 0.02
WARM_UP = 5e-3
#: Rounds that take place even when the time is up.
LEAST_ROUNDS = 3
#: Times as many pairs as are wanted are taken where processors are busy.
PATIENT = 5


@dataclass(frozen=True)
class Effort:
    """How much time a measurement may take.

    Parameters
    ----------
    rounds
        Undisturbed samples wanted of each contender.
    sample
        Seconds that one sample should last: short calls are repeated.
    budget
        Seconds after which no new round starts.
    pause
        Seconds of rest before each sample: OpenMP's threads spin for some milliseconds after a call, on a
        core that the next contender wants.
    """

    rounds: int = 21
    sample: float = 2e-3
    budget: float = 8.0
    pause: float = 8e-3


QUICK = Effort(rounds=5, sample=5e-4, budget=0.7, pause=6e-3)


@dataclass
class Samples:
    """Seconds per call of one contender, and the share of them that threads waited for a CPU, by sample."""

    calls: int
    seconds: list[float] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    @property
    def undisturbed(self) -> int:
        """Number of samples in which no thread waited for long."""
        return sum(share <= WAITING for share in self.waited)

    @property
    def doubtful(self) -> bool:
        """Whether the median rests on disturbed samples."""
        return self.undisturbed < ENOUGH

    @property
    def counted(self) -> list[float]:
        """The samples that medians are taken of."""
        by_waiting = sorted(range(len(self.seconds)), key=lambda sample: (self.waited[sample], sample))
        return [self.seconds[sample] for sample in by_waiting[: max(ENOUGH, self.undisturbed)]]

    @property
    def median(self) -> float:
        """Median seconds per call."""
        return float(np.median(self.counted))

    @property
    def range(self) -> tuple[float, float]:
        """Seconds per call that 10 % of the samples stay below, and 90 %."""
        low, high = np.percentile(self.counted, (10, 90))
        return float(low), float(high)


def interleaved(contenders: Mapping[str, Call], effort: Effort) -> dict[str, Samples]:
    """Time all contenders in shuffled rounds.

    Parameters
    ----------
    contenders
        What to call, by name.
    effort
        How long.

    Returns
    -------
    dict of Samples
        By contender.
    """
    results = {name: Samples(_calls_per_sample(call, effort.sample)) for name, call in contenders.items()}
    order = list(contenders)
    shuffle = random.Random(0).shuffle
    end = time.perf_counter() + effort.budget
    done = 0
    with _no_collection():
        while done < LEAST_ROUNDS or (time.perf_counter() < end and _wanting(results, effort.rounds)):
            shuffle(order)
            for name in order:
                if results[name].undisturbed < effort.rounds:
                    _take_sample(contenders[name], results[name], effort.pause)
            done += 1
    return results


def pairs(base: Call, head: Call, rounds: int, sample: float) -> list[tuple[float, float]]:
    """Time two calls side by side, in the order base, head, head, base, ...

    Parameters
    ----------
    base, head
        What to call.
    rounds
        How many undisturbed pairs of samples are wanted; at most `PATIENT` times as many are taken.
    sample
        Seconds that a sample should last.

    Returns
    -------
    list of (float, float)
        Seconds per call of both, by pair: those in which no thread had to wait for a CPU, if a quarter of those wanted
        was found, else all.
    """
    calls = [_calls_per_sample(call, sample) for call in (base, head)]
    found: list[tuple[float, float]] = []
    undisturbed: list[tuple[float, float]] = []
    with _no_collection():
        while len(undisturbed) < rounds and len(found) < PATIENT * rounds:
            both, waited = [0.0, 0.0], waiting_time()
            for which in (0, 1) if len(found) % 2 == 0 else (1, 0):
                both[which] = _timed((base, head)[which], calls[which])
            waited = max(0, waiting_time() - waited - FORGIVEN)
            found.append((both[0], both[1]))
            if waited <= WAITING * (both[0] * calls[0] + both[1] * calls[1]) * 1e9:
                undisturbed.append(found[-1])
    return undisturbed if 4 * len(undisturbed) >= rounds else found


def _wanting(results: Mapping[str, Samples], rounds: int) -> bool:
    return any(samples.undisturbed < rounds for samples in results.values())


def _calls_per_sample(call: Call, seconds: float) -> int:
    """How often to repeat a call so that one sample lasts as long as wanted; warms up on the way."""
    once = min(_timed(call, 1) for _ in range(3))
    if once < LONG:
        once = min(once, _timed(call, max(1, int(1e-4 / max(once, 1e-7)))))
    return max(1, int(seconds / max(once, 1e-7)))


def _timed(call: Call, calls: int) -> float:
    """Seconds per call over some calls in a row."""
    times = repeat(None, calls)
    start = time.perf_counter()
    for _ in times:
        call()
    return (time.perf_counter() - start) / calls


def _take_sample(call: Call, samples: Samples, pause: float) -> None:
    if pause:
        time.sleep(pause)
    if not samples.seconds or samples.seconds[-1] < LONG:
        end = time.perf_counter() + WARM_UP
        while time.perf_counter() < end:
            _timed(call, max(1, samples.calls // 8))
    waited = waiting_time()
    seconds = _timed(call, samples.calls)
    waited = max(0, waiting_time() - waited - FORGIVEN)
    samples.seconds.append(seconds)
    samples.waited.append(waited / (seconds * samples.calls * 1e9))


def waiting_time() -> int:
    """Nanoseconds that this process's threads have waited for a CPU; 0 where the system does not tell."""
    total = 0
    try:
        for task in os.scandir("/proc/self/task"):
            total += int(Path(task.path, "schedstat").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):  # a thread that ended meanwhile, or another system
        pass
    return total


@contextmanager
def _no_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
