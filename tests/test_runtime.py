"""What a process may do to the library, and the library to a process: threads, forks, interrupts, memory, kernel cache.

Programs run in processes of their own, with warnings as errors; a hang is a failure by its time limit.
"""

import copy
import dataclasses
import importlib.util
import itertools
import os
import pickle
import platform
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import guard_pages
import numpy as np
import pytest
from catalogue import CALLS, LOSSES, REPRESENTATIVES, THOROUGH, case_id, operands, variant_cases
from fresh_process import program, run

import fastloss as fl

every_loss = pytest.mark.parametrize("name", LOSSES)
thorough = pytest.mark.parametrize("name", THOROUGH)
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def in_long(*values):
    """Parameters of a test's long form."""
    return pytest.param(*values, marks=pytest.mark.soak)


#: Work for several threads in every family.
LARGE = (60_000, 10)


# -- importing -------------------------------------------------------------------------------------


def test_importing_loads_no_compiler():
    loaded = run(
        program(
            """
            import pickle, sys
            import fastloss as fl
            for name, loss in fl.losses.registry().items():
                assert pickle.loads(pickle.dumps(loss())) == loss()
                repr(loss()), hash(loss()), getattr(fl, name).__doc__
            print(sorted({m.split(".")[0] for m in sys.modules} & {"numba", "llvmlite", "cupy", "scipy", "torch"}))
            """
        )
    )
    assert loaded == "[]\n"


# -- the number of threads -------------------------------------------------------------------------


def test_set_num_threads(set_threads):
    for count in (1, 3, np.int64(2)):
        set_threads(count)
        assert fl.get_num_threads() == count
        assert type(fl.get_num_threads()) is int


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "2", None, float("nan"), np.ones((2, 2))], ids=repr)
def test_set_num_threads_refuses(count):
    before = fl.get_num_threads()
    with pytest.raises(ValueError, match=r"^set_num_threads: count must be .*; got .*") as caught:
        fl.set_num_threads(count)
    assert "\n" not in str(caught.value)
    assert fl.get_num_threads() == before


NO_LIMITS = {"FASTLOSS_NUM_THREADS": None, "OMP_NUM_THREADS": None, "NUMBA_NUM_THREADS": None}


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"FASTLOSS_NUM_THREADS": 3}, 3),
        ({"FASTLOSS_NUM_THREADS": 3, "OMP_NUM_THREADS": 1, "NUMBA_NUM_THREADS": 1}, 3),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"NUMBA_NUM_THREADS": 1}, 1),
    ],
    ids=str,
)
def test_the_environment_limits_threads(variables, threads):
    assert run("import fastloss as fl; print(fl.get_num_threads())", **{**NO_LIMITS, **variables}) == f"{threads}\n"


@pytest.mark.parametrize("text", ["", "0", "-2", "many", "1.5", " "])
def test_nonsense_in_the_environment_is_no_limit(monkeypatch, text):
    from fastloss.cpu import pool

    for name in NO_LIMITS:
        monkeypatch.delenv(name, raising=False)
    before = pool.default_threads()
    for name in NO_LIMITS:
        monkeypatch.setenv(name, text)
    assert pool.default_threads() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_limits_threads():
    pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    assert run(pinned + "import fastloss as fl; print(fl.get_num_threads())", **NO_LIMITS) == "1\n"


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 8), ("150000 100000", 2), ("1000 100000", 1), ("nonsense", 8)]
)
def test_a_cgroup_limits_threads(monkeypatch, tmp_path, quota, threads):
    from fastloss.cpu import pool

    for name in NO_LIMITS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(pool, "open", lambda path, **options: (tmp_path / "cpu.max").open(**options), raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert pool.default_threads() == threads


def test_numba_keeps_its_own_setting(set_threads):
    import numba

    before = numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS
    set_threads(7)
    fl.mean_squared_error(*operands("mean_squared_error", LARGE))
    assert (numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS) == before


# -- many threads ----------------------------------------------------------------------------------


def results_of(loss, y, p):
    """Everything that a loss gives, as bytes."""
    return [np.asarray(result).tobytes() for result in loss.value_grad_and_hess(y, p)]


@pytest.mark.parametrize(("name", "parameters"), variant_cases(REPRESENTATIVES), ids=case_id)
@pytest.mark.parametrize("counts", [(2, 3, 8, 64), in_long(range(2, 65))], ids=["some", "all"])
def test_any_number_of_threads_gives_the_same_bits(set_threads, monkeypatch, name, parameters, counts):
    monkeypatch.setattr("fastloss.cpu.run.WAKE_FROM", 0)  # else helpers sleep through the cheaper losses
    loss = LOSSES[name](**parameters)
    y, p = operands(name, LARGE, "float32")
    set_threads(1)
    right = results_of(loss, y, p)
    for threads in counts:
        set_threads(threads)
        for _ in range(3):
            assert results_of(loss, y, p) == right


SAME_BITS = """
    import hashlib
    import ml_dtypes
    import numpy as np
    import fastloss as fl
    from catalogue import LOSSES, operands
    digest = hashlib.sha256()
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        for name in ("binary_crossentropy", "sparse_categorical_crossentropy"):
            for shape in ((700, 10), (3, 1100)):
                y, p = operands(name, shape)
                y = y if y.dtype.kind == "i" else y.astype(dtype)
                for result in LOSSES[name](from_logits=True).value_grad_and_hess(y, p.astype(dtype)):
                    digest.update(np.asarray(result).tobytes())
    print(digest.hexdigest())
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs x86, of which there are many kinds")
def test_any_processor_gives_the_same_bits():
    """The oldest x86 has half the vectors' width and converts no float16; a fused multiply-add it calls from libm."""
    here = run(program(SAME_BITS))
    assert run(program(SAME_BITS), NUMBA_CPU_NAME="generic", FASTLOSS_DISABLE_CACHE=1) == here


FIRST_CALL = """
    import signal, sys, warnings
    warnings.simplefilter("ignore", ResourceWarning)  # the interpreter's own, of a source file it was about to read
    import numpy as np
    import fastloss as fl
    def interrupt(number, frame):
        raise KeyboardInterrupt
    sys.unraisablehook = lambda what: None  # an interrupt that a callback swallows
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, float(sys.argv[1]), 2.0)  # again if one is swallowed
    try:
        while True: fl.huber([0.0, 1.0], [2.0, 1.0])
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert fl.huber([0.0, 1.0], [2.0, 1.0]) == 0.75
    print("ok")
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("seconds", [0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6])
def test_an_interrupted_first_call_leaves_a_second_one_that_works(seconds):
    """It imports Numba, which then registers what it compiles with: half of that would stay in the process for good."""
    assert run(program(FIRST_CALL), seconds) == "ok\n"


def calls_at_once(threads, rounds, shapes=((2, 4), (2000, 10), LARGE)):
    """Some losses at some sizes, from many Python threads at once, against the results of one thread alone.

    ``rounds`` is how often each thread goes through the sizes of a loss.
    """
    work = [(LOSSES[name](), *operands(name, shape, "float32")) for name in THOROUGH for shape in shapes]
    right = [results_of(*case) for case in work]
    start = threading.Barrier(threads)

    def one_thread(number):
        start.wait()
        first = np.random.default_rng(number).integers(len(work))
        return sum(results_of(*work[i % len(work)]) != right[i % len(work)] for i in range(first, first + calls))

    calls = len(shapes) * rounds
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(one_thread, range(threads)))


def test_calls_from_many_threads_at_once(set_threads, monkeypatch):
    monkeypatch.setattr("fastloss.cpu.run.WAKE_FROM", 0)
    set_threads(3)
    assert calls_at_once(threads=8, rounds=18) == 0


@pytest.mark.parametrize("rounds", [20, in_long(50_000)])
@pytest.mark.parametrize("release", [False, True], ids=["holding", "releasing"])
def test_small_calls_from_64_threads_at_once(set_threads, monkeypatch, release, rounds):
    """They keep the interpreter lock; here also without it, so that kernels run side by side."""
    set_threads(3)
    if release:
        for name in ("run.RELEASE_FROM", "elementwise.QUICK_UP_TO", "row_plan.QUICK_UP_TO"):
            monkeypatch.setattr(f"fastloss.cpu.{name}", 0)
    assert calls_at_once(threads=64, rounds=rounds, shapes=[(2, 4), (3, 110)]) == 0


@pytest.mark.soak
def test_calls_of_all_sizes_from_64_threads_at_once(set_threads):
    set_threads(3)
    assert calls_at_once(threads=64, rounds=300) == 0


def test_first_calls_from_many_threads_at_once():
    run(
        program(
            """
            import threading
            import numpy as np
            import fastloss as fl

            loss, results, start = fl.Huber(), [], threading.Barrier(6)
            def call():
                start.wait()
                results.append(loss.value_and_grad([0.0, 1.0], [3.0, 1.5])[0])
            threads = [threading.Thread(target=call) for _ in range(6)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert results == [(2.5 + 0.125) / 2] * 6, results
            """
        ),
        FASTLOSS_DISABLE_CACHE=1,
    )


def test_without_a_thread_to_be_had_the_caller_works_alone():
    run(
        program(
            WORK,
            """
            def refuse(self):
                raise RuntimeError("can't start new thread")
            threading.Thread.start = refuse
            assert right()
            """,
        ),
        FASTLOSS_DISABLE_CACHE=1,
    )


#: A large call, and whether it gives the right numbers.
WORK = """
    import os, signal, sys, threading, time
    import numpy as np
    import fastloss as fl

    fl.set_num_threads(3)
    loss, y, p = fl.MeanSquaredError(reduction="sum"), np.zeros(600_000), np.ones(600_000)
    def right(out=None):
        value, grad = loss.value_and_grad(y, p, out=out)
        return value == 600_000.0 and bool(np.all(grad == 2.0))
"""
#: NumPy's own threads would make Python warn at a fork.
ALONE = {"OPENBLAS_NUM_THREADS": 1}

# -- fork ------------------------------------------------------------------------------------------

IN_CHILD = """
    def in_child(check):
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # a child that hangs dies
            os._exit(0 if check() else 1)
        return os.waitpid(child, 0)[1] == 0
"""


@posix
def test_fork_while_helpers_exist():
    run(
        program(
            WORK,
            IN_CHILD,
            """
            assert right()
            assert in_child(right)
            assert right()
            assert in_child(lambda: right() and in_child(right))
            # a kernel that the child compiles
            assert in_child(lambda: fl.mean_absolute_error(y, p) == 1.0 and right())
            assert right()
            """,
        ),
        **ALONE,
    )


FORK_WHILE_BUSY = """
    import warnings
    warnings.simplefilter("ignore")  # that there are threads is the point
    noise = np.random.default_rng(0).random(600_000)
    parts = loss.value_and_grad(noise, p)
    def same():
        value, grad = loss.value_and_grad(noise, p)
        return value == parts[0] and np.array_equal(grad, parts[1])
    wrong, done = [], threading.Event()
    def busy():
        out = np.empty(600_000)
        while not done.is_set():
            if not right(out): wrong.append(True)
    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads: thread.start()
    for _ in range(int(sys.argv[1])):
        assert in_child(same)
    assert same()
    done.set()
    for thread in threads: thread.join()
    assert not wrong
"""


@posix
def test_fork_while_other_threads_are_in_calls():
    run(program(WORK, IN_CHILD, FORK_WHILE_BUSY), 15)


@posix
@pytest.mark.soak
def test_fork_while_other_threads_are_in_calls_for_long():
    run(program(WORK, IN_CHILD, FORK_WHILE_BUSY), 10_000, timeout=3600)


FORK_WHILE_COMPILING = """
    import warnings
    warnings.simplefilter("ignore")
    def compile_some():
        for kind in (fl.Huber, fl.MeanAbsoluteError, fl.BinaryCrossentropy):
            kind().value_grad_and_hess(y, p)
    thread = threading.Thread(target=compile_some)
    thread.start()
    for pause in (float(sys.argv[1]), 0.01, 0.03, 0.1):
        time.sleep(pause)
        assert in_child(right)
    thread.join()
    assert right()
"""


@posix
@pytest.mark.parametrize("processes", [1, in_long(30)])
def test_fork_while_another_thread_compiles(processes):
    for number in range(processes):
        code = program(WORK, IN_CHILD, "assert right()", FORK_WHILE_COMPILING)
        run(code, number / processes / 10, FASTLOSS_DISABLE_CACHE=1)


@posix
def test_fork_while_another_thread_is_in_llvm():
    """Also where nothing is compiled: modules are freed there."""
    code = """
        from llvmlite.binding.ffi import lib
        assert right()
        inside = threading.Event()
        def free():
            with lib._lock:
                inside.set()
                time.sleep(0.3)
        thread = threading.Thread(target=free)
        thread.start()
        inside.wait()
        assert in_child(lambda: fl.mean_absolute_error(y, p) == 1.0)  # compiles
        thread.join()
    """
    run(program(WORK, IN_CHILD, code), FASTLOSS_DISABLE_CACHE=1)


@posix
@pytest.mark.parametrize("processes", [1, in_long(30)])
def test_fork_while_another_thread_makes_the_first_call(processes):
    """That call imports modules, and a module's lock would stay taken in the child."""
    for number in range(processes):
        run(program(WORK, IN_CHILD, FORK_WHILE_COMPILING), number / processes, FASTLOSS_DISABLE_CACHE=1)


@pytest.mark.parametrize("method", ["spawn", *(pytest.param(name, marks=posix) for name in ("fork", "forkserver"))])
@pytest.mark.parametrize("pools", [1, in_long(20)])
def test_multiprocessing(tmp_path, method, pools):
    script = tmp_path / "main.py"
    script.write_text(
        program(
            WORK,
            """
            import multiprocessing
            def work(task):
                loss, function, number = task
                return loss.value_and_grad(y, p * number)[0], function(y, p * number), loss
            if __name__ == "__main__":
                assert right()
                tasks = [(loss, fl.mean_squared_error, number) for number in range(4)]
                for _ in range(int(sys.argv[2])):
                    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                        assert pool.map(work, tasks) == [(n * n * 600_000.0, n * n, loss) for n in range(4)]
                    assert right()
            """,
        )
    )
    run(script, method, pools, timeout=600, **ALONE)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
@pytest.mark.parametrize("rounds", [3, in_long(300)])
def test_joblib(tmp_path, backend, rounds):
    script = tmp_path / "main.py"
    script.write_text(
        program(
            WORK,
            """
            import joblib
            def work(number):
                return loss.value_and_grad(y, p * number)[0]
            if __name__ == "__main__":
                assert right()
                with joblib.parallel_config(backend=sys.argv[1], n_jobs=2):
                    for _ in range(int(sys.argv[2])):
                        values = joblib.Parallel()(joblib.delayed(work)(number) for number in range(6))
                        assert values == [number * number * 600_000.0 for number in range(6)]
                        assert right()
            """,
        )
    )
    run(script, backend, rounds, timeout=600, **ALONE)


BESIDE = """
    from sklearn.ensemble import HistGradientBoostingClassifier
    def boosted():
        return HistGradientBoostingClassifier(max_iter=5).fit(features, labels).predict_proba(features)
    rng = np.random.default_rng(0)
    features, labels = rng.random((4000, 8)), rng.integers(0, 3, 4000)
    others = [boosted]
    if len(sys.argv) > 2:
        import torch
        from torch.nn import functional as F
        torch.set_num_threads(2)
        x, target = torch.from_numpy(features), torch.from_numpy(labels)
        def torched():
            weights = torch.ones((8, 3), dtype=torch.float64, requires_grad=True)
            F.cross_entropy((x @ weights).repeat(50, 1), target.repeat(50)).backward()
            return weights.grad.numpy()
        others.append(torched)
    noise = rng.random(600_000)
    before = loss.value_and_grad(noise, p)
    expected = [other() for other in others]
    for _ in range(int(sys.argv[1])):
        value, grad = loss.value_and_grad(noise, p)
        assert value == before[0] and np.array_equal(grad, before[1])
        for other, right_result in zip(others, expected):
            np.testing.assert_allclose(other(), right_result, rtol=1e-9, atol=1e-12)
    assert right()
"""


@pytest.mark.parametrize("turns", [20, in_long(1000)])
def test_beside_the_threads_of_others(turns):
    """Each uses its threads, in turns, in one process; torch where it is installed."""
    torch = ["torch"] if importlib.util.find_spec("torch") else []
    run(program(WORK, BESIDE), turns, *torch, timeout=1200)


# -- memory over many calls ------------------------------------------------------------------------

GROWTH = """
    import gc
    small_y, small_p = np.zeros(50), np.ones(50)
    rows, labels = np.zeros((6, 5)), np.arange(6) % 5
    entropy = fl.SparseCategoricalCrossentropy(from_logits=True)
    weight, mask = np.ones(50), np.ones(50, bool)
    def some():
        loss(small_y, small_p)
        loss.value_and_grad(small_y, small_p)
        loss.value_grad_and_hess(small_y, small_p, weight, mask=mask)
        entropy.value_and_grad(labels, rows)
        fl.huber(small_y, small_p, delta=2.0)
        for bad in (labels + 5, labels[:-1]):
            try: entropy.value_and_grad(bad, rows)
            except ValueError: pass
    def size():
        gc.collect()
        with open("/proc/self/statm") as file: pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    for number in range(3000):
        some()
        if number % 100 == 0: right()  # the C library learns how large its arrays are
    blocks, resident = sys.getallocatedblocks(), size()
    for number in range(int(sys.argv[1]) // 7):
        some()
        if number % 1000 == 0: right()
    print(sys.getallocatedblocks() - blocks, size() - resident)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("calls", [40_000, in_long(1_000_000)])
def test_calls_leave_no_memory_behind(calls):
    """Python's memory blocks, and bytes of the process."""
    blocks, size = map(int, run(program(WORK, GROWTH), calls, timeout=3600).split())
    print(f"{blocks} blocks, {size} bytes more after {calls:,} calls")
    assert blocks < 100
    assert size < 1 << 20


# -- the end of the interpreter ---------------------------------------------------------------------


def test_a_call_while_the_interpreter_ends():
    printed = run(
        program(
            WORK,
            """
            import atexit
            atexit.register(lambda: print("at exit", right(), fl.mean_absolute_error(y, p)))
            def late():
                threading.main_thread().join()
                print("after the main thread", right())
            threading.Thread(target=late).start()
            assert right()
            """,
        )
    )
    assert printed.splitlines() == ["after the main thread True", "at exit True 1.0"]


def test_daemon_threads_in_calls_when_the_interpreter_ends():
    run(
        program(
            WORK,
            """
            def forever():
                while True: right()
            for _ in range(3): threading.Thread(target=forever, daemon=True).start()
            time.sleep(0.1)
            """,
        )
    )


# -- interrupts ------------------------------------------------------------------------------------

INTERRUPTS = """
    rng, calls, late = np.random.default_rng(0), 0, 0
    right()
    for _ in range(int(sys.argv[1])):
        buffers = [np.zeros(600_000), np.zeros(600_000)]
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 4e-3), 5.0)  # again if one is swallowed
            while True:
                assert right(buffers[0])
                calls += 1
                buffers.reverse()
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            seen = [buffer.copy() for buffer in buffers]
            time.sleep(0.002)
            late += any(not np.array_equal(a, b) for a, b in zip(seen, buffers))
            for buffer in buffers: buffer[:] = 0
    assert late == 0 and right(), late
    print(calls)
"""
RAISE = """
    def interrupt(number, frame):
        raise KeyboardInterrupt
    signal.signal(signal.SIGALRM, interrupt)
"""
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")


@needs_timers
def test_nothing_is_written_after_an_interrupt():
    assert int(run(program(WORK, RAISE, INTERRUPTS), 400, timeout=60)) > 50


@needs_timers
@pytest.mark.soak
def test_nothing_is_written_after_many_interrupts():
    run(program(WORK, RAISE, INTERRUPTS), 100_000, timeout=3600)


# -- memory ----------------------------------------------------------------------------------------

needs_guard_pages = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
KILLED = {signal.SIGSEGV, signal.SIGBUS} if sys.platform != "win32" else set()


@needs_guard_pages
@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("access", ["array[item]", "array[item] = 1"])
def test_one_element_too_far_ends_the_process(at_end, access):
    beside = f"""
        import numpy as np
        from guard_pages import fenced
        array, step = fenced(np.zeros(5, "float32"), {at_end}), 4 if {at_end} else -4
        array = np.lib.stride_tricks.as_strided(array, (6,), (step,))
        inside, beside = range(5 if {at_end} else 1), 5 if {at_end} else 1
        for item in inside: {access}
        print("inside", flush=True)
        item = beside
        {access}
    """
    assert run(program(beside), died_of=KILLED) == "inside\n"


@needs_guard_pages
def test_a_canary_notices_a_write_within_the_page():
    array = guard_pages.fenced(np.zeros(5, "float32"))
    assert guard_pages.intact(array)
    np.lib.stride_tricks.as_strided(array, (2,), (-4,))[1] = 1
    assert not guard_pages.intact(array)


@needs_guard_pages
@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_kernels_stay_within_their_arrays(name):
    printed = run(Path(guard_pages.__file__), name, timeout=300)
    assert len(printed.splitlines()) > 50


# -- losses and functions as values ----------------------------------------------------------------


def configured(name):
    """A loss with no parameter at its default, where another value is known."""
    loss = LOSSES[name]
    values = {
        "delta": 0.5,
        "from_logits": True,
        "label_smoothing": 0.1,
        "class_weight": [1, 2, 3, 4, 5],
        "pos_weight": 2,
    }
    values |= {"reduction": "mean_with_sample_weight", "ignore_class": -1, "epsilon": 1e-3}
    return loss(**{field.name: values[field.name] for field in dataclasses.fields(loss) if field.name in values})


COPIES = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "old pickle": lambda value: pickle.loads(pickle.dumps(value, protocol=2)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "repr": lambda value: eval(repr(value), dict(vars(fl))),
    "replace": dataclasses.replace,
}


@pytest.mark.parametrize("kind", COPIES)
@thorough
def test_a_copy_of_a_loss_is_equal_and_works(name, kind):
    for loss in (LOSSES[name](), configured(name)):
        y, p = operands(name)
        value, grad = loss.value_and_grad(y, p)
        again = COPIES[kind](loss)
        assert again == loss
        assert hash(again) == hash(loss)
        assert repr(again) == repr(loss)
        assert type(again) is type(loss)
        value_again, grad_again = again.value_and_grad(y, p)
        assert value_again == value
        np.testing.assert_array_equal(grad_again, grad)


@thorough
def test_a_pickle_holds_no_kernels(name):
    loss = LOSSES[name]()
    before = pickle.dumps(loss)
    loss.value_and_grad(*operands(name))
    assert pickle.dumps(loss) == before
    assert len(before) < 1000


def test_losses_differ_by_class_and_parameters():
    losses = [loss for name in THOROUGH for loss in (LOSSES[name](), configured(name), LOSSES[name](reduction="none"))]
    losses += [cls() for name, cls in LOSSES.items() if name not in THOROUGH]
    assert len(set(losses)) == len(losses)
    assert all(left != right for left, right in itertools.combinations(losses, 2))
    assert fl.Huber(delta=1) == fl.Huber(delta=np.float32(1.0)) == fl.Huber()
    assert fl.Huber(reduction="sum_over_batch_size") == fl.Huber()
    assert fl.Huber() != "huber"


@thorough
def test_a_loss_is_frozen(name):
    loss = configured(name)
    for field in dataclasses.fields(loss):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(loss, field.name, field.default)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(loss, field.name)
    with pytest.raises((AttributeError, TypeError)):
        loss.new = 1


@pytest.mark.parametrize("kind", ["pickle", "old pickle", "copy", "deepcopy"])
@every_loss
def test_a_function_is_itself_when_copied(name, kind):
    function = getattr(fl, name)
    assert COPIES[kind](function) is function
    assert hash(function) == hash(function)
    assert function != LOSSES[name]
    assert name in repr(function)
    assert function.__name__ == name
    assert getattr(sys.modules[function.__module__], name) is function


@every_loss
def test_aliases_are_the_function_itself(name):
    for alias in LOSSES[name].aliases:
        assert getattr(fl, alias) is getattr(fl, name)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


@pytest.mark.parametrize(
    ("name", "call"), [*((name, "value_and_grad") for name in LOSSES), *(("huber", call) for call in CALLS)]
)
def test_a_function_equals_its_class(name, call):
    y, p = operands(name)
    of_function = getattr(getattr(fl, name), call)(y, p, reduction="sum")
    of_class = getattr(LOSSES[name](reduction="sum"), call)(y, p)
    assert type(of_function) is type(of_class)
    for left, right in zip(as_tuple(of_function), as_tuple(of_class), strict=True):
        np.testing.assert_array_equal(left, right)
