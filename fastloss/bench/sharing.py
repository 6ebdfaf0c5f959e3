"""How threads of one call get on: on idle cores, on one core, beside a busy process, and for a tiny call.

Run it with ``python -m fastloss bench --sharing``. Every situation has a process of its own, in which calls with one
and with two threads alternate.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ..dispatch import set_num_threads
from ..families.loss import registry
from .timing import Effort, interleaved

EXPLANATION = """\
Value and gradient of binary cross-entropy from float32 logits, medians of shuffled rounds. ratio: the time of two
threads as a share of one thread's. One core: the process may use no other. A busy process: a loop that never rests.
"""
#: Elements of float32 logits that one thread takes 10 ms, 50 us and 1 us for.
LONG, SHORT, TINY = 20_000_000, 100_000, 8
TINY_CALLS = 1000


class Situation(NamedTuple):
    """Where calls are made, how large, and the goal: the most (or, for a speed-up, least) of two threads' time."""

    name: str
    elements: int
    most: float
    pinned: bool = False
    busy: bool = False


SITUATIONS = (
    Situation("idle cores, 10 ms", LONG, 1 / 1.7),
    Situation("one core, 10 ms", LONG, 1.3, pinned=True),
    Situation("one core, 50 us", SHORT, 1.3, pinned=True),
    Situation("beside a busy process, 10 ms", LONG, 1.3, busy=True),
    Situation("beside a busy process, 50 us", SHORT, 1.3, busy=True),
    Situation("8 elements", TINY, 1.05),
)


def run(effort: Effort) -> list[dict[str, Any]]:
    """Measure every situation, print it, and give what was measured."""
    context = multiprocessing.get_context("spawn")
    results = []
    print(f"{'':30} {'1 thread':>10} {'2 threads':>10} {'ratio':>6} {'goal':>7}")
    for situation in SITUATIONS:
        if situation.pinned and not hasattr(os, "sched_setaffinity"):
            print(f"{situation.name:30} left out: this system cannot pin a process")
            continue
        with context.Pool(1) as pool:
            alone, shared = pool.apply(_measure, (situation, effort))
        ratio = shared / alone
        results.append({**situation._asdict(), "seconds": [alone, shared], "reached": ratio <= situation.most})
        missed = "" if ratio <= situation.most else "  missed"
        times = f"{_duration(alone):>10} {_duration(shared):>10}"
        print(f"{situation.name:30} {times} {ratio:6.2f} {f'<= {situation.most:.2f}':>7}{missed}", flush=True)
    return results


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.2f} us"


def _measure(situation: Situation, effort: Effort) -> tuple[float, float]:
    """Seconds per call with one thread and with two."""
    if situation.pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with _busy_process() if situation.busy else _nobody():
        contenders = {str(threads): _call(situation.elements, threads) for threads in (1, 2)}
        # A busy neighbour makes everybody wait: then no sample is less disturbed than the others.
        samples = interleaved(contenders, effort)
    calls = TINY_CALLS if situation.elements == TINY else 1
    return samples["1"].median / calls, samples["2"].median / calls


def _call(elements: int, threads: int) -> Callable[[], None]:
    rng = np.random.default_rng(0)
    p = rng.standard_normal(elements, np.float32)
    y = (p > 0).astype(np.float32)
    out = np.empty_like(p)
    loss = registry()["binary_crossentropy"](from_logits=True)  # type: ignore[call-arg]
    calls = range(TINY_CALLS if elements == TINY else 1)

    def call() -> None:
        set_num_threads(threads)
        for _ in calls:
            loss.value_and_grad(y, p, out=out)

    return call


@contextmanager
def _busy_process() -> Iterator[None]:
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()


@contextmanager
def _nobody() -> Iterator[None]:
    yield
