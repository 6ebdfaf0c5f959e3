"""What happens to fastloss, torch, scikit-learn's private kernels and plain Numba under the same hard treatment.

Run with the test environment's Python (`.venv/bin/python ci/survival.py`). Every cell of the table is a process of its
own: `ok`, `wrong` (it went on with wrong numbers), `refused` (an exception that names the fault), `hung` (after 60 s),
or the signal that ended it. `-` where a subject has no such thing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from textwrap import dedent

SECONDS = 60

#: Each subject: package, environment, and code that defines `call(labels, logits, threads=2)` -> (value, gradient).
SUBJECTS = {
    "fastloss": (
        "fastloss",
        {},
        """
        import fastloss as fl
        loss = fl.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
        def call(labels, logits, threads=2, out=None):
            fl.set_num_threads(threads)
            return loss.value_and_grad(labels, logits, out=out)
        """,
    ),
    "torch": (
        "torch",
        {},
        """
        import torch
        from torch.nn import functional as F
        def call(labels, logits, threads=2):
            if torch.get_num_threads() != threads: torch.set_num_threads(threads)
            x = torch.from_numpy(logits).requires_grad_()
            value = F.cross_entropy(x, torch.from_numpy(labels), reduction="sum")
            value.backward()
            return value.item(), x.grad.numpy()
        """,
    ),
    "scikit-learn": (
        "scikit-learn",
        {},
        """
        from sklearn._loss.loss import HalfMultinomialLoss
        def call(labels, logits, threads=2, out=None):
            loss = HalfMultinomialLoss(n_classes=logits.shape[1])
            value, grad = loss.loss_gradient(labels.astype(logits.dtype), logits, gradient_out=out, n_threads=threads)
            return value.sum(), grad
        """,
    ),
    **{
        f"numba {layer}": (
            "numba",
            {"NUMBA_THREADING_LAYER": layer},
            """
        import numba
        @numba.njit(parallel=True, cache=True)
        def kernel(labels, logits, out):
            total = 0.0
            for row in numba.prange(logits.shape[0]):
                peak = logits[row].max()
                norm = 0.0
                for j in range(logits.shape[1]):
                    out[row, j] = np.exp(logits[row, j] - peak)
                    norm += out[row, j]
                total += np.log(norm) + peak - logits[row, labels[row]]
                for j in range(logits.shape[1]):
                    out[row, j] /= norm
                out[row, labels[row]] -= 1
            return total
        def call(labels, logits, threads=2, out=None):
            numba.set_num_threads(threads)
            out = np.empty_like(logits) if out is None else out
            return kernel(labels, logits, out), out
        """,
        )
        for layer in ("omp", "workqueue")
    },
}

COMMON = """
    import os, signal, sys, threading, time, warnings
    warnings.simplefilter("ignore")
    import numpy as np
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((20_000, 10)), rng.integers(0, 10, 20_000)
    def done(outcome): print("outcome:", outcome, flush=True); os._exit(0)
    def right():
        value, grad = call(labels, logits)
        return abs(value - expected[0]) < 1e-6 * expected[0] and np.allclose(grad, expected[1], atol=1e-9)
    def in_child(check):
        child = os.fork()
        if child == 0: os._exit(0 if check() else 1)
        end = time.time() + 10
        while time.time() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid and os.WIFSIGNALED(status): return f"child: {signal.Signals(os.WTERMSIG(status)).name}"
            if pid: return "ok" if status == 0 else "wrong"
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL); os.waitpid(child, 0)
        return "child hung"
"""
FIRST = """
        expected = [np.copy(part) for part in call(labels, logits)]
"""

SCENARIOS = {
    "8 Python threads x 200 calls": FIRST
    + """
        wrong = []
        def many():
            for _ in range(200):
                if not right(): wrong.append(1)
        threads = [threading.Thread(target=many) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        done("wrong" if wrong else "ok")
    """,
    "20 forks after a call": FIRST
    + """
        outcomes = {"ok"}
        for _ in range(20):
            outcomes.add(in_child(right))
            if len(outcomes) > 1: break
        done(", ".join(outcomes - {"ok"}) or ("ok" if right() else "wrong"))
    """,
    "100 forks while 3 threads call": FIRST
    + """
        stop, wrong = threading.Event(), []
        def many():
            while not stop.is_set():
                if not right(): wrong.append(1)
        threads = [threading.Thread(target=many) for _ in range(3)]
        for t in threads: t.start()
        outcomes = []
        for _ in range(100):
            outcomes.append(in_child(right))
            if len(set(outcomes) - {"ok"}) and len(outcomes) > 4: break
        stop.set()
        for t in threads: t.join()
        bad = set(outcomes) - {"ok"}
        done(", ".join(bad) or ("wrong" if wrong else "ok"))
    """,
    "multiprocessing.Pool (fork) after a call": FIRST
    + """
        import multiprocessing
        def work(number): return right()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            done("ok" if pool.map_async(work, range(8)).get(30) == [True] * 8 else "wrong")
    """,
    "300 KeyboardInterrupts": FIRST
    + """
        def interrupt(*_): raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for _ in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 3e-3))
                while True: call(labels, logits)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
        done("ok" if right() else "wrong")
    """,
    "the same bits for 1 and 2 threads": FIRST
    + """
        one, two = call(labels, logits, 1), call(labels, logits, 2)
        done("ok" if one[0] == two[0] and np.array_equal(one[1], two[1]) else "other bits")
    """,
    "a label of 10 in 10 classes": """
        labels[5] = 10
        try: value, grad = call(labels, logits)
        except Exception as error: done(f"refused ({type(error).__name__})")
        done("computed silently")
    """,
    "a label of 2**40": """
        labels[5] = 2**40
        try: value, grad = call(labels, logits)
        except Exception as error: done(f"refused ({type(error).__name__})")
        done("computed silently")
    """,
    "out= of 10 rows for 20,000": """
        try: call(labels, logits, out=np.zeros((10, 10)))
        except Exception as error:
            missing = "unexpected keyword" in str(error)
            done("-" if missing else f"refused ({type(error).__name__})")
        done("written outside of it")
    """,
    "time with 2 threads / 1, on one core": """
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        times = {1: [], 2: []}
        for _ in range(40):
            for threads in (1, 2):
                start = time.perf_counter(); call(labels, logits, threads)
                times[threads].append(time.perf_counter() - start)
        done(f"{np.median(times[2]) / np.median(times[1]):.1f}")
    """,
}


def outcome(subject: str, scenario: str) -> str:
    """Put one subject through one scenario."""
    _, variables, code = SUBJECTS[subject]
    source = "\n".join(dedent(part) for part in (COMMON, code, SCENARIOS[scenario]))
    with tempfile.TemporaryDirectory() as folder:
        script = os.path.join(folder, "script.py")  # Numba keeps no kernels of code without a file
        with open(script, "w") as file:
            file.write(source)
        process = subprocess.Popen(
            [sys.executable, script], env={**os.environ, **variables, "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            output, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "hung"
    found = [line.removeprefix("outcome: ") for line in output.splitlines() if line.startswith("outcome: ")]
    if found:
        return found[-1]
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    return "error: " + (errors.strip().splitlines() or ["?"])[-1][:80]


def main() -> int:
    """Print the table in Markdown."""
    versions = {}
    for subject, (package, _, _) in SUBJECTS.items():
        try:
            versions[subject] = version(package)
        except PackageNotFoundError:
            print(f"left out: {subject} (not installed)")
    print("| | " + " | ".join(f"{subject} {number}" for subject, number in versions.items()) + " |")
    print("| --- |" + " --- |" * len(versions))
    for scenario in SCENARIOS:
        cells = [outcome(subject, scenario) for subject in versions]
        print(f"| {scenario} | " + " | ".join(cells) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
