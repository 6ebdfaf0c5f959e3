"""Helper threads: that they take part, sleep, wake, end, and leave nothing behind."""

import os
import threading
import time

import numpy as np
import pytest

import fastloss as fl
from fastloss.cpu import run as running
from fastloss.cpu import team as teams
from fastloss.cpu.pool import Pool, pool

needs_clocks = pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs CPU clocks of threads")
needs_processors = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")

LOSS = fl.BinaryCrossentropy(from_logits=True, reduction="sum")
SIZE = 2_000_000


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, SIZE).astype(np.float32), rng.normal(0, 2, SIZE).astype(np.float32)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "fastloss"]


def seconds_of(thread):
    """Processor time that a thread has used."""
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


@needs_clocks
@needs_processors
def test_a_helper_takes_its_share(arrays, set_threads):
    """On an idle machine half of the time; beside other work at least something, soon."""
    set_threads(2)
    LOSS.value_and_grad(*arrays)
    helper = helpers()[0]
    before, end = seconds_of(helper), time.perf_counter() + 30
    while seconds_of(helper) - before < 0.01:
        LOSS.value_and_grad(*arrays)
        assert time.perf_counter() < end


@needs_clocks
def test_an_idle_helper_sleeps(arrays, set_threads):
    set_threads(2)
    LOSS.value_and_grad(*arrays)
    time.sleep(0.05)
    before = [seconds_of(helper) for helper in helpers()]
    time.sleep(0.2)
    after = [seconds_of(helper) for helper in helpers()]
    assert max(np.subtract(after, before)) < 0.002


def test_small_calls_start_no_thread(set_threads):
    pool.stop()
    set_threads(8)
    LOSS.value_and_grad(np.ones(10_000, np.float32), np.ones(10_000, np.float32))
    assert helpers() == []


def test_as_many_helpers_as_threads(arrays, set_threads):
    pool.stop()
    for threads in (2, 4, 3):
        set_threads(threads)
        LOSS.value_and_grad(*arrays)
    assert len(helpers()) == 3


def test_stopped_helpers_end_and_new_ones_start(arrays, set_threads):
    set_threads(3)
    expected = LOSS.value_and_grad(*arrays)[0]
    for pause in (0.0, 0.01):  # awake, asleep
        before = helpers()
        assert len(before) >= 2
        time.sleep(pause)
        pool.stop()
        assert not any(helper.is_alive() for helper in before)
        assert LOSS.value_and_grad(*arrays)[0] == expected


def test_sleeping_helpers_are_woken_for_large_calls_only(arrays, set_threads, monkeypatch):
    """And for any shared call right after another."""
    set_threads(2)
    asked = []
    monkeypatch.setattr(running, "_last_end", 0)
    real = np.array

    def spy(numbers, *rest):
        if isinstance(numbers, tuple) and len(numbers) == 5:
            asked.append(bool(numbers[4]))
        return real(numbers, *rest)

    y, p = arrays[0][:100_000], arrays[1][:100_000]
    out = np.empty_like(p)
    LOSS.value_and_grad(y, p, out=out)
    LOSS.value_and_grad(*arrays)
    monkeypatch.setattr(running.np, "array", spy)
    time.sleep(0.01)
    LOSS.value_and_grad(y, p, out=out)
    LOSS.value_and_grad(y, p, out=out)
    time.sleep(0.01)
    LOSS.value_and_grad(*arrays)
    assert asked == [False, True, True]


def test_callers_side_by_side(arrays, set_threads):
    """One of them has the helpers, the others work alone; all get the same bits."""
    set_threads(2)
    value, grad = LOSS.value_and_grad(*arrays)
    wrong = []

    def caller():
        for _ in range(10):
            own, gradient = LOSS.value_and_grad(*arrays)
            if own != value or not np.array_equal(gradient, grad):
                wrong.append(own)

    threads = [threading.Thread(target=caller) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_no_job_stays_open(arrays, set_threads):
    """Else every later call would work alone."""
    set_threads(3)
    for _ in range(20):
        LOSS.value_and_grad(*arrays)
    words = pool._team._words
    assert words[teams.TAKEN] == 0
    assert words[teams.GATE] == 0
    time.sleep(0.05)
    assert words[teams.SLEEPERS] == words[teams.MEMBERS] == len(helpers())


def test_helpers_are_off_no_processor_for_long(arrays, set_threads):
    """While they work they may use every processor that the process may."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("needs CPU affinity")
    set_threads(2)
    end = time.perf_counter() + 2
    seen = set()
    caller = threading.Thread(target=lambda: [LOSS.value_and_grad(*arrays) for _ in range(100)])
    caller.start()
    while caller.is_alive() and time.perf_counter() < end:
        for helper in helpers():
            seen.add(frozenset(os.sched_getaffinity(helper.native_id)))
        time.sleep(0.001)
    caller.join()
    assert frozenset(os.sched_getaffinity(0)) in seen


def test_a_team_frees_its_locks(monkeypatch):
    freed = []
    monkeypatch.setattr(teams, "_free", freed.extend)
    team = teams.Team()
    team.helping(0)
    locks = list(team._locks)
    del team
    assert sorted(freed) == sorted(locks)
    assert len(locks) == 2
    for lock in locks:
        teams._PYTHON.PyThread_free_lock(lock)


def test_nothing_is_started_after_close():
    closed = Pool()
    closed.close()
    assert closed.ready(3) == (None, 0)
    assert closed._helpers == []
