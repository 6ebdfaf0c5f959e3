"""Helper threads: that they take part, sleep, wake, end, and leave nothing behind."""

import os
import platform
import threading
import time

import numpy as np
import pytest
from fresh_process import program, run

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


def await_sleep(words):
    """Wait until every helper sleeps."""
    end = time.perf_counter() + 20
    while words[teams.SLEEPERS] != words[teams.MEMBERS]:
        assert time.perf_counter() < end
        time.sleep(0.001)


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
    """And for any shared call soon after another."""
    set_threads(2)
    y, p = arrays[0][:100_000], arrays[1][:100_000]
    out = np.empty_like(p)
    LOSS.value_and_grad(*arrays)
    words = pool._team._words

    def woken(call, recent):
        monkeypatch.setattr(running, "RECENT", recent)
        await_sleep(words)
        before = int(words[teams.FRAME])
        words[teams.FRAME] = 0
        call()
        opened = words[teams.FRAME] != 0
        words[teams.FRAME] = before
        return bool(opened)

    assert not woken(lambda: LOSS.value_and_grad(y, p, out=out), 0)
    assert woken(lambda: LOSS.value_and_grad(*arrays), 0)
    assert woken(lambda: LOSS.value_and_grad(y, p, out=out), 10**12)


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
    await_sleep(words)
    assert words[teams.SLEEPERS] == words[teams.MEMBERS] == len(helpers())


needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="needs affinity, two processors"
)


@needs_affinity
def test_a_helper_that_sleeps_stays_off_its_callers_processor(arrays, set_threads):
    """And on every other; awake it may use all of them."""
    set_threads(2)
    everywhere = os.sched_getaffinity(0)
    asleep, awake = set(), set()
    for _ in range(20):
        LOSS.value_and_grad(*arrays)
        helper = helpers()[0].native_id
        awake.add(frozenset(os.sched_getaffinity(helper)))
        await_sleep(pool._team._words)
        asleep.add(frozenset(os.sched_getaffinity(helper)))
    assert all(len(everywhere - mask) == 1 for mask in asleep)
    assert frozenset(everywhere) in awake


@needs_affinity
def test_processors_that_are_taken_away_stay_so():
    """As by taskset: every thread of the process is put onto one processor while the helper sleeps."""
    for processor in sorted(os.sched_getaffinity(0))[:2]:
        printed = run(
            program(
                """
                import os, sys, threading, time
                import numpy as np
                import fastloss as fl
                fl.set_num_threads(2)
                x = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
                loss = fl.BinaryCrossentropy(from_logits=True)
                loss.value_and_grad(x, x)
                time.sleep(0.01)
                only = {int(sys.argv[1])}
                for task in os.listdir("/proc/self/task"):
                    os.sched_setaffinity(int(task), only)
                for _ in range(20):
                    loss.value_and_grad(x, x)
                    time.sleep(0.001)
                print(all(os.sched_getaffinity(int(task)) == only for task in os.listdir("/proc/self/task")))
                """
            ),
            processor,
        )
        assert printed == "True\n"


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86's MXCSR")
def test_helpers_round_as_their_caller_does(set_threads, monkeypatch):
    """A library built with -ffast-math makes one thread flush subnormal numbers to zero."""
    from fastloss.cpu.cache import compiled
    from fastloss.cpu.native import rounding, set_rounding

    def get():
        return rounding()

    def put(state):
        set_rounding(state)
        return 0

    monkeypatch.setattr(running, "WAKE_FROM", 0)
    own_rounding, set_own_rounding = compiled(get, (), "test_team"), compiled(put, ("int",), "test_team")
    y, p = np.zeros(2_000_000, np.float32), np.full(2_000_000, 1e-39, np.float32)
    loss, zeros = fl.MeanSquaredError(reduction="sum"), []
    loss.value_and_grad(y, p)
    own = own_rounding()
    for state in (own | 0x8040, own):  # flush to zero, denormals are zero
        set_own_rounding(state)
        try:
            for threads in (1, 2):
                set_threads(threads)
                gradients = [loss.value_and_grad(y, p)[1] for _ in range(5)]
                zeros.append(sorted({int((gradient == 0).sum()) for gradient in gradients}))
        finally:
            set_own_rounding(own)
    assert zeros == [[2_000_000], [2_000_000], [0], [0]]


def test_threads_with_small_stacks():
    """musl's have 128 KB; helpers inherit it."""
    printed = run(
        program(
            """
            import threading
            import numpy as np
            import fastloss as fl
            rng = np.random.default_rng(0)
            def work():
                for dtype, classes in ((np.float32, 96), (np.float64, 64), (np.float32, 5000)):
                    for loss in (fl.CategoricalCrossentropy(from_logits=True), fl.CategoricalCrossentropy()):
                        for rows in (33, 4000):
                            p = rng.random((rows, classes)).astype(dtype)
                            loss.value_grad_and_hess(p, p)
                print("done")
            fl.CategoricalCrossentropy(from_logits=True).value_grad_and_hess(np.eye(3), np.eye(3))
            threading.stack_size(128 * 1024)
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            """
        )
    )
    assert printed == "done\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_interrupt_around_a_fork_stops_nothing():
    """Python reports what a fork hook raises and goes on; later calls and the exit must not wait for ever."""
    run(
        program(
            """
            import contextlib, os, signal, sys, threading, time
            import numpy as np
            import fastloss as fl
            fl.set_num_threads(2)
            sys.unraisablehook = lambda unraisable: None
            x = np.random.default_rng(0).normal(size=2_000_000).astype(np.float32)
            loss = fl.BinaryCrossentropy(from_logits=True)
            right = loss.value_and_grad(x, x)[0]
            main = threading.get_ident()
            for delay in np.linspace(0, 0.004, 60):
                timer = threading.Timer(delay, signal.pthread_kill, (main, signal.SIGINT))
                child = 0
                with contextlib.suppress(KeyboardInterrupt):
                    timer.start()
                    child = os.fork()
                    if not child:
                        os._exit(0)
                    timer.join()
                with contextlib.suppress(KeyboardInterrupt):
                    timer.join()
                    time.sleep(0.001)
                assert loss.value_and_grad(x, x)[0] == right
            """
        ),
        timeout=60,
    )


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
