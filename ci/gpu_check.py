#!/usr/bin/env python3
"""Everything that only a machine with a GPU and CuPy can show: `python ci/gpu_check.py [SECTION ...] [--quick]`.

Needs NumPy, Numba, CuPy and this checkout; torch, Liger and compute-sanitizer are used if they are there. Each section
runs in a process of its own, with a time limit: neither an illegal memory access nor a hang hides the other sections.
Results are written as gpu-check.json and gpu-check.md.

Exit status: 0, also where goals of speed are missed; 1 if a section failed; 2 if there is no usable GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import fastloss as fl  # noqa: E402
from fastloss.bench.data import numbers_of  # noqa: E402
from fastloss.families.loss import configurations  # noqa: E402
from fastloss.reference import evaluate  # noqa: E402

DONE, FAILED, UNUSABLE = 0, 1, 2
#: Processes that share the cases of `correctness`: most of its time goes into compiling, for the GPU and for the CPU.
PROCESSES = 8
#: Messages of one section that are shown; a fault in a formula shows in every case.
SHOWN = 20


class Effort(NamedTuple):
    """How much is tried; the tests, which run in an emulator, try less."""

    lengths: tuple[tuple[int, ...], ...] = ((1_000_003,), (101, 99))  # of elementwise operands
    rows: tuple[tuple[int, int], ...] = ((4099, 10), (1025, 100), (257, 1000), (33, 50257), (5, 128256))
    sequences: tuple[tuple[int, int, int], ...] = ((301, 20, 33), (9, 400, 64))
    every: int = 1  # take each n-th case of `correctness`
    part: tuple[int, int] = (0, 1)  # this process's share of its cases: which of how many
    runs: int = 50  # that must give the same bits
    calls: int = 5000  # that the host's time is averaged over
    rounds: int = 15  # of the benchmark
    seconds: float = 120.0  # after which it starts no more cases


FULL = Effort()
QUICK = Effort(every=4, runs=10, calls=1000, rounds=5, seconds=45.0)


class Report:
    """What a section finds."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self.checks = 0
        self.data: dict[str, Any] = {}

    def note(self, text: str) -> None:
        print(f"  {text}", flush=True)
        self.notes.append(text)

    def fail(self, text: str) -> None:
        text = " ".join(text.split())[:600]
        if len(self.failures) < SHOWN:
            print(f"  FAILED: {text}", flush=True)
        self.failures.append(text)

    def check(self, right: Any, text: str) -> None:
        self.checks += 1
        if not right:
            self.fail(text)

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Whatever goes wrong inside is a failure, and what follows is tried."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self.fail(f"{what}: {type(error).__name__}: {error}")

    def raises(self, kind: type[Exception], words: tuple[str, ...], call: Callable[[], Any], what: str) -> None:
        """The call must raise an error of this type that has these words."""
        try:
            call()
        except kind as error:
            missing = [word for word in words if word not in str(error)]
            self.check(not missing, f"{what}: the message lacks {missing}: {error}")
        except Exception as error:  # noqa: BLE001
            self.check(False, f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}")
        else:
            self.check(False, f"{what}: no {kind.__name__}")


class NotAGpuError(RuntimeError):
    """A figure was asked for that an emulator cannot give."""

    def __init__(self) -> None:
        super().__init__("not a GPU: the module cupy is a stand-in")


def the_cupy() -> Any:
    return import_module("cupy")


def require_gpu() -> Any:
    """CuPy itself: figures of a stand-in, whose kernels run on the CPU, would look like a GPU's."""
    cupy = the_cupy()
    if type(cupy) is not types.ModuleType:
        raise NotAGpuError
    return cupy


# --------------------------------------------------------------------------------------- what is computed


class Manner(NamedTuple):
    """How a call is made."""

    call: str = "value_and_grad"
    reduction: str = "mean"
    weight: str = ""  # "", "leading" or "full"
    mask: bool = False
    layout: str = "plain"  # of y_true and y_pred: see `laid_out`
    out: str = "new"  # "new", "given" or "in place"
    narrow: bool = False  # targets of few bytes
    normalizer: str = ""  # "", "number" or "array"

    def __str__(self) -> str:
        changed = [f"{k}={v}" for k, v in self._asdict().items() if v != self._field_defaults[k] and k != "call"]
        return f"{self.call}({', '.join(changed)})"


MANNERS = (
    Manner(),
    Manner("value_grad_and_hess", reduction="weighted_mean", weight="leading", mask=True),
    Manner(reduction="sum", out="in place", narrow=True),
    Manner("__call__", reduction="none", weight="full"),
    Manner("grad_and_hess", reduction="sum", layout="strided", out="given"),
    Manner("grad", mask=True, layout="shifted", out="given"),
    Manner(reduction="none", weight="leading", layout="transposed", normalizer="number"),
    Manner(reduction="sum", weight="full", out="in place", normalizer="array"),
    Manner("__call__", reduction="weighted_mean", mask=True, narrow=True),
)
RESULTS = {"__call__": (0,), "value_and_grad": (0, 1), "grad": (1,), "grad_and_hess": (1, 2)}
RESULTS["value_grad_and_hess"] = (0, 1, 2)
NAMES = ("value", "gradient", "Hessian")


class Case(NamedTuple):
    """One call, with one set of operands."""

    loss: Any  # but for its class weights, which depend on the shape
    dtype: str
    shape: tuple[int, ...]
    manner: Manner

    def __str__(self) -> str:
        fields = [f for f in dataclasses.fields(self.loss) if getattr(self.loss, f.name) != f.default]
        changed = ", ".join(f"{f.name}={str(getattr(self.loss, f.name))[:12]}" for f in fields)
        return f"{self.loss.name}({changed}) {self.dtype} {self.shape} {self.manner}"


class Operands(NamedTuple):
    """On the host, in one piece of memory."""

    y: np.ndarray
    p: np.ndarray
    options: dict[str, Any]


def no_bfloat16() -> str:
    """Why there is no bfloat16 here; empty if there is."""
    if not find_spec("ml_dtypes"):
        return "ml_dtypes is not installed"
    number = the_cupy().__version__
    return f"CuPy {number} has none, 14 has" if int(number.partition(".")[0]) < 14 else ""


def storage_types() -> dict[str, np.dtype]:
    """NumPy's types by name."""
    known = {name: np.dtype(name) for name in ("float32", "float64", "float16")}
    return known if no_bfloat16() else {**known, "bfloat16": np.dtype(import_module("ml_dtypes").bfloat16)}


def settings(loss: type) -> list[Any]:
    """Every configuration, plain and with all that its parameters offer."""
    names = {field.name for field in dataclasses.fields(loss)}
    offered = {"delta": 0.5, "label_smoothing": 0.1, "pos_weight": 2.5, "ignore_class": 1, "class_weight": (1.0,)}
    changes = {name: value for name, value in offered.items() if name in names}
    plain = [configured for _, configured in configurations(loss)]
    if getattr(plain[0], "axis", -1) is None:  # by default one loss of everything: here one a row
        plain = [dataclasses.replace(configured, axis=-1) for configured in plain]
    return plain + [dataclasses.replace(configured, **changes) for configured in plain if changes]


def cases(dtypes: Any, effort: Effort) -> list[Case]:
    """Every loss x setting x type x shape; manners take turns, so that each setting meets each of them."""
    found = []
    for loss in fl.losses.registry().values():
        # All-pairs losses are the rowwise kernels and CuPy's products.
        if not loss.__module__.startswith("fastloss.") or loss.family not in ("elementwise", "rowwise"):
            continue
        shapes = {"elementwise": effort.lengths, "rowwise": effort.rows, "sequence": effort.sequences}.get(
            loss.family, ()
        )
        for number, setting in enumerate(settings(loss)):
            turns = itertools.islice(itertools.cycle(MANNERS), number, None)
            for shape, dtype in itertools.product(shapes, dtypes):
                times = 1 if dtype != "float32" else 2 if loss.family == "rowwise" else 4
                found += [Case(setting, dtype, shape, next(turns)) for _ in range(times)]
    return found


def completed(case: Case) -> Any:
    """The loss with the case's reduction, and class weights for its classes."""
    changes = {"reduction": case.manner.reduction}
    if getattr(case.loss, "class_weight", None) is not None:
        changes["class_weight"] = tuple(np.resize([0.5, 2.0, 0.0, 1.0, 3.25], case.shape[-1]).tolist())
    return dataclasses.replace(case.loss, **changes)


def operands(case: Case, dtype: np.dtype, seed: int) -> Operands:
    """Random operands of ordinary size, which suit the loss."""
    rng = np.random.default_rng(seed)
    y, p = {"rowwise": random_rows, "sequence": random_sequences}.get(case.loss.family, random_elements)(case, rng)
    shape = case.shape[: {"rowwise": -1, "sequence": -2}.get(case.loss.family)]
    options: dict[str, Any] = {}
    if case.manner.weight:
        options["sample_weight"] = rng.uniform(0.0, 3.0, shape[:1] if case.manner.weight == "leading" else shape)
    if case.manner.mask:
        options["mask"] = rng.random(shape) < 0.7
    if case.manner.normalizer:
        options["normalizer"] = 12.5
    kept = y.dtype if y.dtype.kind in "iu" else dtype
    return Operands(y.astype(kept, copy=False), p.astype(dtype), options)


def random_elements(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    true, pred = case.loss.domain()
    hard = rng.integers(0, 2, case.shape).astype(np.uint8)
    if case.manner.narrow and true != "sign":
        y = hard
    elif true == "unit":
        y = np.where(rng.random(case.shape) < 0.5, rng.uniform(0.0, 1.0, case.shape), hard)
    else:
        y = numbers_of(true, case.shape, rng)
    return y, (3.0 if pred == "logit" else 1.0) * numbers_of(pred, case.shape, rng)


def random_rows(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = case.shape
    # Rows of probabilities are divided by their sums anyway; none is clipped: kernels that add in another order than
    # the reference may clip another element.
    logits = getattr(case.loss, "from_logits", True)
    p = rng.normal(0.0, 2.0, case.shape) if logits else rng.gamma(2.0, 1.0, case.shape) + 0.05
    labels = rng.integers(0, classes, rows)
    if case.loss.indexed:
        return labels.astype(np.uint8 if classes <= 256 else np.int32) if case.manner.narrow else labels, p
    one_hot = np.arange(classes) == labels[:, None]
    if case.manner.narrow:
        return one_hot.astype(np.uint8), p
    soft = rng.gamma(1.0, 1.0, case.shape)
    soft /= soft.sum(axis=-1, keepdims=True)
    return np.where(rng.random((rows, 1)) < 0.5, soft, one_hot), p


def random_sequences(case: Case, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    sequences, frames, classes = case.shape
    p = rng.normal(0.0, 2.0, case.shape)
    if not case.loss.from_logits:
        p -= np.logaddexp.reduce(p, axis=-1, keepdims=True)
    labels = rng.integers(1, classes, (sequences, frames // 4))
    labels[np.arange(frames // 4) >= rng.integers(0, frames // 4 + 1, (sequences, 1))] = case.loss.blank
    return labels.astype(np.uint8 if case.manner.narrow else np.int64), p


def laid_out(cupy: Any, array: np.ndarray, layout: str) -> Any:
    """The array on the device: every second element of one, one that begins between packs, or a transposed one."""
    if layout == "plain":
        return cupy.asarray(array)
    if layout == "strided":
        place = cupy.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    elif layout == "shifted":
        place = cupy.empty((array.size + 1,), array.dtype)[1:].reshape(array.shape)
    else:
        place = cupy.empty(array.shape[::-1], array.dtype).transpose()
    place[...] = cupy.asarray(array)
    return place


def on_host(result: Any) -> np.ndarray:
    return np.asarray(result.get() if hasattr(result, "get") else result)


def call_on_device(case: Case, loss: Any, given: Operands) -> list[np.ndarray]:
    """The call's results, on the host."""
    cupy, manner = the_cupy(), case.manner
    y, p = (laid_out(cupy, array, manner.layout) for array in (given.y, given.p))
    options = {k: cupy.asarray(v) if k != "normalizer" else v for k, v in given.options.items()}
    if manner.normalizer == "array":
        options["normalizer"] = cupy.asarray(np.asarray(options["normalizer"], np.float32))
    if manner.out != "new":
        options["out"] = p if manner.out == "in place" else laid_out(cupy, np.zeros_like(given.p), manner.layout)
    if manner.out == "given" and "hess" in manner.call:
        options["hess_out"] = cupy.empty(given.p.shape, given.p.dtype)
    results = getattr(loss, manner.call)(y, p, **options)
    results = results if isinstance(results, tuple) else (results,)
    if "out" in options and results[RESULTS[manner.call].index(1)] is not options["out"]:
        message = "the gradient is not the array given as out"
        raise AssertionError(message)
    return [on_host(result) for result in results]


def call_on_host(case: Case, loss: Any, given: Operands) -> list[np.ndarray]:
    """What the NumPy backend gives."""
    results = getattr(loss, case.manner.call)(given.y, given.p, **given.options)
    return [np.asarray(result) for result in (results if isinstance(results, tuple) else (results,))]


# ---------------------------------------------------------------------------------------------- tolerances


#: Roundings of one result, in ulp of the type computed in: two functions of up to 2 ulp on either side, weight, scale
#: and their products.
ROUNDINGS = 8
#: Sums of n terms err like a random walk of n steps of half an ulp. The backends split a row among 16 or more lanes.
LANES = 16
#: Where terms of either sign cancel, the error is relative to those terms. They are at most about this many times the
#: row's usual result: at the true class alone, one of them may be as large as the row's largest.
CANCELLING = 64


#: Roundings of a likelihood at each frame, from either end. Where y_pred is not float64 they do not show.
AT_A_FRAME = 2 * 5


def ulps(case: Case) -> float:
    if case.loss.family == "sequence" and case.dtype == "float64":
        return ROUNDINGS + AT_A_FRAME * case.shape[-2]
    return ROUNDINGS + ((case.shape[-1] / LANES) ** 0.5 if case.loss.family == "rowwise" else 0.0)


def computed_in(dtype: str) -> np.dtype:
    return np.dtype(np.float64 if dtype == "float64" else np.float32)


def spacing(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """One ulp of the stored type at each number, subnormal ones included."""
    digits, smallest = {"float16": (10, -24), "bfloat16": (7, -133)}[dtype]
    _, exponents = np.frexp(numbers)
    exponents = np.where(numbers == 0.0, smallest, exponents - 1 - digits)
    return np.exp2(np.maximum(exponents, smallest).astype(np.float64))


def targeted(case: Case, given: Operands) -> np.ndarray | bool:
    """Where a row's true class is: among soft targets, those with more than a tenth."""
    if case.loss.family != "rowwise":
        return False
    if case.loss.indexed:
        return np.arange(case.shape[-1]) == given.y[:, None].astype(np.int64)
    return given.y.astype(np.float64) > 0.1


def allowance(case: Case, expected: np.ndarray, targets: np.ndarray | bool, stored: bool) -> np.ndarray:
    """How far each result may be off: some ulp of the type computed in; and one of a stored half type."""
    size = np.abs(expected)
    if expected.ndim == 0:
        cancelled: Any = 0.0
    elif expected.shape != case.shape or case.loss.family != "rowwise":
        cancelled = np.median(size)
    else:
        largest, usual = size.max(axis=-1, keepdims=True), np.median(size, axis=-1, keepdims=True)
        cancelled = np.where(targets, largest, np.minimum(largest, CANCELLING * usual))
    allowed = ulps(case) * np.finfo(computed_in(case.dtype)).eps * (size + cancelled)
    if stored and case.dtype in ("float16", "bfloat16"):
        allowed = allowed + spacing(expected, case.dtype)
    return allowed


def compare(report: Report, case: Case, results: list, expected: list, targets: Any, against: str) -> None:
    """Every result against another's."""
    for which, got, wanted in zip(RESULTS[case.manner.call], results, expected, strict=True):
        what = f"{NAMES[which]} of {case} against {against}"
        if got.shape != wanted.shape:
            report.check(False, f"{what}: shape {got.shape} instead of {wanted.shape}")
            continue
        if which and got.dtype != wanted.dtype and against != "the reference":
            report.check(False, f"{what}: dtype {got.dtype} instead of {wanted.dtype}")
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        off, allowed = np.abs(got - wanted), allowance(case, wanted, targets, which > 0)
        wrong = ~(off <= allowed)
        report.check(not wrong.any(), f"{what}: {worst(got, wanted, off, allowed, wrong)}" if wrong.any() else "")


def worst(got: np.ndarray, wanted: np.ndarray, off: np.ndarray, allowed: np.ndarray, wrong: np.ndarray) -> str:
    """A sentence about the result that is furthest off."""
    with np.errstate(all="ignore"):
        share = np.where(wrong, np.nan_to_num(off / allowed, nan=np.inf), 0.0)
    at = np.unravel_index(int(np.argmax(share)), got.shape)
    position = [int(i) for i in at]
    return (
        f"{wrong.sum()} of {got.size} are off; at {position} {got[at]!r} instead of {wanted[at]!r} +- {allowed[at]:.2g}"
    )


# --------------------------------------------------------------------------------------------- correctness

#: Elements up to which results are compared with the reference in float64, which takes a second a million.
REFERENCE_UP_TO = 300_000


def correctness(report: Report, effort: Effort) -> None:
    """Every loss, type, sweep and option against the NumPy backend and the float64 reference."""
    dtypes = storage_types()
    everything = cases(dtypes, effort)
    part, parts = effort.part
    if part == 0 and no_bfloat16():
        report.note(f"left out: bfloat16 ({no_bfloat16()})")
    chosen = list(enumerate(everything))[:: effort.every][part::parts]
    for number, case in chosen:
        with report.trying(str(case)):
            check_case(report, case, dtypes[case.dtype], number)
    if part == 0:
        check_edges(report)
    report.data = {"cases": len(chosen), "of": len(everything)}


def check_case(report: Report, case: Case, dtype: np.dtype, seed: int) -> None:
    loss, given = completed(case), operands(case, dtype, seed)
    results, targets = call_on_device(case, loss, given), targeted(case, given)
    compare(report, case, results, call_on_host(case, loss, given), targets, "the NumPy backend")
    if given.p.size <= REFERENCE_UP_TO:
        expected = evaluate(loss, given.y, given.p, **given.options)
        wanted = [np.asarray(expected[which]) for which in RESULTS[case.manner.call]]
        compare(report, case, results, wanted, targets, "the reference")


def check_edges(report: Report) -> None:
    """No elements, no rows, one element, one class."""
    elements, rows = fl.MeanSquaredError(), fl.SparseCategoricalCrossentropy(from_logits=True)
    for loss, shape in (
        (elements, (0,)),
        (elements, (1,)),
        (elements, ()),
        (rows, (0, 10)),
        (rows, (1, 10)),
        (rows, (3, 1)),
    ):
        case = Case(loss, "float32", shape, Manner())
        with report.trying(str(case)):
            y = np.zeros(shape[:-1], np.int64) if loss is rows else np.ones(shape, np.float32)
            given = Operands(y, np.full(shape, 0.5, np.float32), {})
            compare_edge(report, case, call_on_device(case, loss, given), call_on_host(case, loss, given))


def compare_edge(report: Report, case: Case, results: list, expected: list) -> None:
    for got, wanted in zip(results, expected, strict=True):
        report.check(np.allclose(got, wanted, rtol=1e-6, equal_nan=True), f"{case}: {got} instead of {wanted}")


# --------------------------------------------------------------------------- the same bits, streams, graphs


def usual(effort: Effort) -> list[tuple[Any, Any, Any]]:
    """Float32 operands on the device for every sweep: (loss, y_true, y_pred)."""
    cupy, rng = the_cupy(), np.random.default_rng(1)
    found = []
    for shape in effort.lengths[:1]:
        hard, logits = rng.integers(0, 2, shape).astype(np.uint8), rng.normal(0.0, 2.0, shape).astype(np.float32)
        loss = fl.BinaryCrossentropy(from_logits=True)
        found.append((loss, cupy.asarray(hard), cupy.asarray(logits)))
    for shape in effort.rows:
        labels, logits = rng.integers(0, shape[1], shape[0]), rng.normal(0.0, 2.0, shape).astype(np.float32)
        labels[::5] = 1
        loss = fl.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1)
        found.append((loss, cupy.asarray(labels), cupy.asarray(logits)))
    return found


def bits(results: tuple[Any, ...]) -> tuple[bytes, ...]:
    return tuple(on_host(result).tobytes() for result in results)


def determinism(report: Report, effort: Effort) -> None:
    """The same bits: again and again, on 4 streams at once, and on 2 that take turns with different shapes."""
    given = usual(effort)
    wanted = [bits(loss.value_and_grad(y, p)) for loss, y, p in given]
    for (loss, y, p), right in zip(given, wanted, strict=True):
        other = sum(bits(loss.value_and_grad(y, p)) != right for _ in range(effort.runs))
        report.check(not other, f"{loss.name} {p.shape}: other bits in {other} of {effort.runs} runs")
    for (loss, y, p), right in zip(given, wanted, strict=True):
        check_streams(report, 4, [(loss, y, p)] * 4, [right] * 4, effort.runs)
    check_streams(report, 2, given + given[::-1], wanted + wanted[::-1], max(1, effort.runs // 10))
    report.data = {"runs": effort.runs}


def check_streams(report: Report, count: int, calls: list, wanted: list, times: int) -> None:
    """Calls that go to streams in turn must give the bits that they give alone."""
    cupy = the_cupy()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(count)]
    cupy.cuda.Device().synchronize()  # the operands are ready
    for _ in range(times):
        results = []
        for number, (loss, y, p) in enumerate(calls):
            with streams[number % count]:
                results.append(loss.value_and_grad(y, p))
        for stream in streams:
            stream.synchronize()
        cupy.cuda.Device().synchronize()
        other = [i for i, right in enumerate(wanted) if bits(results[i]) != right]
        report.check(not other, f"{count} streams: other bits in calls {other} of {[c[2].shape for c in calls]}")
        if other:
            return


def graph(report: Report, effort: Effort) -> None:
    """A captured call, replayed with other contents, gives what a call gives."""
    cupy = require_gpu()
    rng = np.random.default_rng(2)
    stream = cupy.cuda.Stream(non_blocking=True)
    given = usual(effort)
    cupy.cuda.Device().synchronize()  # the operands are ready
    for loss, y, p in given:
        with report.trying(f"{loss.name} {p.shape}"), stream:
            out = cupy.empty_like(p)
            loss.value_and_grad(y, p, out=out)  # compiles, and allocates this stream's scratch
            stream.synchronize()
            stream.begin_capture()
            value, _ = loss.value_and_grad(y, p, out=out)
            captured = stream.end_capture()
            for _ in range(10):
                p[...] = cupy.asarray(rng.normal(0.0, 2.0, p.shape).astype(np.float32))
                captured.launch(stream)
                stream.synchronize()
                same = bits((value, out)) == bits(loss.value_and_grad(y, p))
                report.check(same, f"{loss.name} {p.shape}: a replay has other bits than a call")


# ------------------------------------------------------------------------------------------------- devices


def devices(report: Report, effort: Effort) -> None:
    """Calls go to the device of their arrays; arrays of two places are refused."""
    cupy = the_cupy()
    loss, y, p = usual(effort)[1]
    for options, argument in (({}, "y_true"), ({"sample_weight": np.ones(p.shape[0])}, "sample_weight")):
        targets = on_host(y) if not options else y
        call = lambda targets=targets, options=options: loss.value_and_grad(targets, p, **options)  # noqa: E731
        report.raises(TypeError, (argument, "CuPy"), call, f"a NumPy {argument} with a CuPy y_pred")
    report.raises(TypeError, ("y_true", "CuPy"), lambda: loss(y, on_host(p)), "a CuPy y_true with a NumPy y_pred")
    if type(cupy) is types.ModuleType and cupy.cuda.runtime.getDeviceCount() < 2:
        report.note("left out: calls on another device than the current one (this machine has one GPU)")
        return
    right = bits(loss.value_and_grad(y, p))
    with cupy.cuda.Device(1):
        there = cupy.asarray(on_host(y)), cupy.asarray(on_host(p))
    results = loss.value_and_grad(*there)
    report.check(cupy.cuda.Device().id == 0, "the current device is another one after the call")
    report.check(all(result.device.id == 1 for result in results), "results are not on the device of y_pred")
    with cupy.cuda.Device(1):
        # Another card may have another number of multiprocessors, hence other sums.
        values = [float(on_host(results[0])), float(np.frombuffer(right[0], np.float64)[0])]
        close = np.allclose(on_host(results[1]), np.frombuffer(right[1], np.float32).reshape(p.shape), rtol=1e-5)
        report.check(close and abs(values[0] - values[1]) < 1e-6 * abs(values[1]), "device 1 computes something else")
    report.raises(ValueError, ("y_true", "device"), lambda: loss(y, there[1]), "arrays of two devices")


# ----------------------------------------------------------------------------------------------- bad input


def bad_input(report: Report, effort: Effort) -> None:
    """Wrong labels and weights show as NaN, harm nothing else, and raise where that is asked for."""
    for shape in effort.rows:
        for dtype, labels in ((np.int64, (-1, shape[1], 2**40, -(2**63))), (np.int32, (-5, 2**31 - 1))):
            with report.trying(f"labels {labels} in {shape}"):
                check_labels(report, shape, dtype, labels)
    for wrong in (np.nan, -1.0, np.inf):
        with report.trying(f"a weight of {wrong}"):
            check_weight(report, effort, wrong)


def check_labels(report: Report, shape: tuple[int, int], dtype: type, wrong: tuple[int, ...]) -> None:
    """Bad rows: NaN and a gradient of 0; good ones as if there were no others."""
    cupy, rng = the_cupy(), np.random.default_rng(3)
    good, logits = rng.integers(0, shape[1], shape[0]).astype(dtype), rng.normal(0.0, 2.0, shape).astype(np.float32)
    wrong = wrong[: shape[0]]
    rows = np.arange(len(wrong)) * (shape[0] - 1) // max(1, len(wrong) - 1)
    bad = good.copy()
    bad[rows] = wrong
    is_bad = np.isin(np.arange(shape[0]), rows)
    p = cupy.asarray(logits)
    for reduction in ("none", "sum"):
        loss = fl.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        before = [on_host(result) for result in loss.value_and_grad(cupy.asarray(good), p)]
        value, gradient = (on_host(result) for result in loss.value_and_grad(cupy.asarray(bad), p))
        what = f"{reduction}, {np.dtype(dtype).name} labels {wrong} in {shape}"
        if reduction == "none":
            report.check(np.array_equal(np.isnan(value), is_bad), f"{what}: losses of other rows than these are NaN")
            report.check(np.array_equal(value[~is_bad], before[0][~is_bad]), f"{what}: other losses have changed")
        else:
            report.check(np.isnan(value), f"{what}: the value is {value}, not NaN")
        report.check(not gradient[is_bad].any(), f"{what}: the gradient of a bad row is not 0")
        report.check(np.array_equal(gradient[~is_bad], before[1][~is_bad]), f"{what}: other gradients have changed")
        again = [on_host(result) for result in loss.value_and_grad(cupy.asarray(good), p)]
        report.check(bits(tuple(before)) == bits(tuple(again)), f"{what}: a good call after it gives something else")
    words = (str(wrong[0]), f"[{rows[0]}]")
    report.raises(ValueError, words, lambda: loss(cupy.asarray(bad), p, check="raise"), f"check='raise', {what}")
    kept = cupy.asarray(~is_bad)
    for check in ("nan", "raise"):
        value = float(on_host(loss(cupy.asarray(bad), p, mask=kept, check=check)))
        report.check(np.isfinite(value), f"check={check!r}, {what}: {value} where a mask leaves the bad rows out")


def check_weight(report: Report, effort: Effort, wrong: float) -> None:
    """A bad weight spoils its own losses; in a weighted mean, everything."""
    cupy, rng = the_cupy(), np.random.default_rng(4)
    for (loss, y, p), reduction in itertools.product(usual(effort)[:3], ("sum", "weighted_mean")):
        loss = dataclasses.replace(loss, reduction=reduction)
        weights = rng.uniform(0.5, 1.5, p.shape[:1]).astype(np.float32)
        weights[2] = wrong
        value, gradient = (on_host(r) for r in loss.value_and_grad(y, p, cupy.asarray(weights)))
        what = f"{loss.name} {p.shape} {reduction}, a weight of {wrong}"
        report.check(np.isnan(value), f"{what}: the value is {value}, not NaN")
        report.check(np.isnan(gradient[2]).all(), f"{what}: its gradient is {gradient[2]}, not NaN")
        if reduction == "sum":
            report.check(np.isfinite(np.delete(gradient, 2, 0)).all(), f"{what}: other gradients are not finite")
        else:
            counted = gradient[on_host(y) != loss.ignore_class] if hasattr(loss, "ignore_class") else gradient
            others = counted[~np.isnan(counted)]
            report.check(not others.size, f"{what}: gradients of other losses are like {others[:2]}, not NaN")
        message = ("sample_weight", "position 2")
        call = lambda loss=loss, y=y, p=p, w=weights: loss(y, p, cupy.asarray(w), check="raise")  # noqa: E731
        report.raises(ValueError, message, call, f"check='raise', {what}")


# --------------------------------------------------------------------------------------- what the host waits for

SPIN = """
extern "C" __global__ void spin(unsigned long long nanoseconds) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start));
    do asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)); while (now - start < nanoseconds);
}
"""


def spinner(cupy: Any) -> Callable[[float], None]:
    """What keeps the current stream busy for some seconds."""
    kernel = cupy.RawModule(code=SPIN).get_function("spin")
    return lambda seconds: kernel((1,), (1,), (np.uint64(seconds * 1e9),))


def synchronisation(report: Report, effort: Effort) -> None:
    """No call waits for the device: it returns while the device still works on what came before."""
    cupy = require_gpu()
    spin = spinner(cupy)
    for loss, y, p in usual(effort):
        weights, mask = cupy.ones(p.shape[:1], cupy.float32), cupy.ones(p.shape[:1], bool)
        for what, options in (("", {}), ("weights and mask", {"sample_weight": weights, "mask": mask})):
            averaged = dataclasses.replace(loss, reduction="weighted_mean")
            out = cupy.empty_like(p)
            averaged.value_and_grad(y, p, out=out, **options)  # compiles
            cupy.cuda.Device().synchronize()
            check_no_wait(report, spin, lambda: averaged.value_and_grad(y, p, out=out, **options), f"{p.shape} {what}")  # noqa: B023
    with report.trying("class weights on two streams"):
        check_class_weights(report, cupy, spin)


def check_no_wait(report: Report, spin: Callable, call: Callable, what: str) -> None:
    cupy = the_cupy()
    before = cupy.cuda.Event(disable_timing=True)
    spin(0.2)
    before.record()
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    busy = not before.done
    cupy.cuda.Device().synchronize()
    report.check(busy, f"{what}: the device was done when the call returned, after {seconds * 1e3:.1f} ms")
    report.check(seconds < 0.02, f"{what}: the call took {seconds * 1e3:.1f} ms while the device was busy")


def check_class_weights(report: Report, cupy: Any, spin: Callable) -> None:
    """What a loss sends to the device once, behind the work of one stream, must be there for another's calls."""
    y, p = cupy.zeros(64, cupy.int64), cupy.zeros((64, 100), cupy.float32)
    weights = tuple(2.0 for _ in range(100))
    other, loss = (fl.SparseCategoricalCrossentropy(from_logits=True, class_weight=weights) for _ in range(2))
    first, second = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
    cupy.cuda.Device().synchronize()
    for stream in (first, second):
        with stream:
            other(y, p)  # compiles, and allocates this stream's scratch
    cupy.cuda.Device().synchronize()
    with first:
        # Memory that the pool gives again has another content than the weights.
        noise = [cupy.full(100, 1e6, cupy.float32) for _ in range(8)]
        del noise
        spin(0.2)
        loss(y, p)
    with second:
        value = float(loss(y, p).get())
    first.synchronize()
    right = 2.0 * np.log(100.0)
    report.check(abs(value - right) < 1e-4, f"class weights first used on another stream: {value} instead of {right}")


def host_time(report: Report, effort: Effort) -> None:
    """Microseconds that the host spends on a call with small arrays."""
    cupy = require_gpu()
    rng = np.random.default_rng(5)
    values = [cupy.asarray(rng.normal(0.0, 1.0, 64).astype(np.float32)) for _ in range(2)]
    labels = cupy.asarray(rng.integers(0, 10, 32))
    logits = cupy.asarray(rng.normal(0.0, 1.0, (32, 10)).astype(np.float32))
    crossentropy = fl.SparseCategoricalCrossentropy(from_logits=True)
    for name, loss, y, p in (("mse", fl.MeanSquaredError(), *values), ("sparse CE", crossentropy, labels, logits)):
        out = cupy.empty_like(p)
        microseconds = host_microseconds(cupy, lambda: loss.value_and_grad(y, p, out=out), effort.calls)  # noqa: B023
        report.data[name] = round(microseconds, 2)
        reached = "reached" if microseconds <= HOST_GOAL else "MISSED"
        report.note(f"{name}: {microseconds:.1f} us a call; goal <= {HOST_GOAL} us: {reached}")


def host_microseconds(cupy: Any, call: Callable, calls: int) -> float:
    """The mean; the device catches up now and then, as a full queue makes the host wait."""
    batch, seconds = 200, 0.0
    for _ in range(batch):
        call()
    for _ in range(calls // batch):
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(batch):
            call()
        seconds += time.perf_counter() - start
    cupy.cuda.Device().synchronize()
    return seconds / (calls // batch * batch) * 1e6


# ---------------------------------------------------------------------------------------------- large arrays


def large(report: Report, effort: Effort) -> None:
    """More elements than 32-bit numbers count."""
    cupy = require_gpu()
    for check, needed in ((large_elements, 11 << 30), (large_rows, 6 << 30)):
        free = free_bytes(cupy)
        if free < 1.1 * needed:
            report.note(f"left out: {check.__name__} (needs {needed >> 30} GiB, {free >> 30} GiB are free)")
            continue
        with report.trying(check.__name__):
            check(report, cupy)


def free_bytes(cupy: Any) -> int:
    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.runtime.memGetInfo()[0])


def large_elements(report: Report, cupy: Any, size: int = 2**31 + 7) -> None:
    """So many logits: all 0 but the first and the last."""
    p, y = cupy.zeros(size, cupy.float16), cupy.zeros(size, cupy.uint8)
    p[0], p[-1], y[-1] = 1.0, 2.0, 1
    value, gradient = fl.BinaryCrossentropy(from_logits=True, reduction="sum").value_and_grad(y, p)
    ends = np.log1p(np.exp([1.0, -2.0]))
    right, got = float((size - 2) * np.log(2.0) + ends.sum()), float(value.get())
    report.check(abs(got - right) < 1e-6 * right, f"{size} elements: {got} instead of {right}")
    wanted = np.array([1.0 / (1.0 + np.exp(-1.0)), 0.5, 0.5, 1.0 / (1.0 + np.exp(-2.0)) - 1.0])
    places = np.array([float(gradient[i]) for i in (0, 1, size - 2, size - 1)])
    report.check(np.allclose(places, wanted, rtol=1e-3), f"{size} elements: gradients {places} instead of {wanted}")
    written = int(cupy.count_nonzero(gradient))
    report.check(written == size, f"{size} elements: {size - written} gradients are 0")


def large_rows(report: Report, cupy: Any, rows: int = 50_000, classes: int = 50_257) -> None:
    """So many rows of logits, in place: all 0 but the last row."""
    p, y = cupy.zeros((rows, classes), cupy.float16), cupy.full(rows, 7, cupy.int64)
    p[-1] = (cupy.arange(classes) % 11).astype(cupy.float16)
    last = p[-1:].get().astype(np.float32)
    loss = fl.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    losses, gradient = (r.astype(np.float64) for r in loss.value_and_grad(np.array([7]), last))
    values, in_place = loss.value_and_grad(y, p, out=p)
    values = values.get().astype(np.float64)
    report.check(np.allclose(values[:-1], np.log(classes), rtol=1e-5), f"losses {values[:3]}, not {np.log(classes)}")
    report.check(np.allclose(values[-1], losses, rtol=1e-5), f"the last row: {values[-1]} instead of {losses}")
    got = in_place[-1].get().astype(np.float64)
    report.check(np.allclose(got, gradient[0], rtol=2e-3, atol=1e-7), "the last row has another gradient")
    first = in_place[0].get().astype(np.float64)
    report.check(abs(first[7] + 1.0) < 1e-3 and abs(first[-1] - 1.0 / classes) < 1e-7, f"the first row: {first[:9]}")


# ----------------------------------------------------------------------------------------------- sanitizer

TOOLS = {
    "memcheck": ("--padding", "64"),
    "racecheck": (),
    "synccheck": (),
    "initcheck": (),
}
SANITIZER_SECONDS = 100


def sanitizer(report: Report, effort: Effort) -> None:
    """NVIDIA's checks of memory, races, barriers and initialisation, on a few calls; the four at the same time."""
    require_gpu()
    folders = [Path(os.environ.get("CUDA_PATH", "/usr/local/cuda"), "bin"), Path("/usr/local/cuda/bin")]
    found = shutil.which("compute-sanitizer") or next(
        (str(f / "compute-sanitizer") for f in folders if (f / "compute-sanitizer").exists()), None
    )
    if not found:
        report.note("left out: compute-sanitizer is not installed")
        return
    running = {}
    for tool, options in TOOLS.items():
        command = [found, "--tool", tool, *options, "--error-exitcode", "9", sys.executable, __file__, "--short-list"]
        running[tool] = start(command)
    deadline = time.monotonic() + SANITIZER_SECONDS
    for tool, child in running.items():
        status, output = finish(child, deadline)
        said = " ".join(output.split())
        if "SUMMARY" in said:
            report.data[tool] = status
            report.check(status == DONE, f"{tool}: {status}: {said}")
        else:
            report.note(f"{tool} did not run to its end ({status}): {said[-200:]}")


def short_list() -> int:
    """A few small calls of every sweep, for the sanitizer."""
    cupy = require_gpu()
    cupy.cuda.set_allocator(None)  # an array's end is the end of its memory; CuPy's pool would hide an overrun
    rng = np.random.default_rng(6)
    for shape in ((1003,), (131, 10), (9, 33), (5, 1001), (3, 50257)):
        for dtype in (cupy.float32, cupy.float16):
            p = cupy.asarray(rng.normal(0.0, 2.0, shape)).astype(dtype)
            if len(shape) == 1:
                fl.MeanSquaredError().value_and_grad(cupy.zeros(shape, dtype), p)
            else:
                y = cupy.asarray(rng.integers(0, shape[1], shape[0]))
                weights, mask = cupy.ones(shape[0], cupy.float32), cupy.ones(shape[0], bool)
                loss = fl.SparseCategoricalCrossentropy(
                    from_logits=True, label_smoothing=0.1, reduction="weighted_mean"
                )
                loss.value_grad_and_hess(y, p, weights, mask=mask)
    cupy.cuda.Device().synchronize()
    return DONE


# --------------------------------------------------------------------------------------------------- bench

HOST_GOAL = 20.0  # microseconds
COMPILE_GOAL = 2.0  # times faster than torch.compile
ELEMENTS = 10**8
ROWS = ((32768, 1000), (8192, 32000), (8192, 50257), (8192, 128256), (4096, 256000))
PEERS = ("torch eager", "torch.compile", "Liger", "CuPy expression")


class BenchCase(NamedTuple):
    """What is timed."""

    name: str
    kind: str  # "mse", "bce" or "ce"
    call: str
    dtype: str
    shape: tuple[int, ...]
    bytes_each: int  # read and written per element, at least
    goal: float | None  # share of the speed of a copy

    @property
    def least_bytes(self) -> int:
        labels = 8 * self.shape[0] if self.kind == "ce" else 0
        return int(np.prod(self.shape, dtype=np.int64)) * self.bytes_each + labels


def bench_cases() -> list[BenchCase]:
    both = "value_and_grad"
    found = [
        BenchCase("MSE", "mse", both, "float32", (ELEMENTS,), 12, 0.92),
        BenchCase("MSE, value only", "mse", "__call__", "float32", (ELEMENTS,), 8, 0.92),
        BenchCase("MSE", "mse", both, "bfloat16", (ELEMENTS,), 6, 0.92),
        BenchCase("BCE from logits, uint8 labels", "bce", both, "float32", (ELEMENTS,), 9, 0.92),
        BenchCase("BCE from logits, gradient and Hessian", "bce4", "grad_and_hess", "float32", (ELEMENTS,), 16, 0.92),
    ]
    for shape, dtype in itertools.product(ROWS, ("float32", "bfloat16")):
        goal = 0.9 if shape[1] >= 4096 else 0.75
        found.append(BenchCase("sparse CE", "ce", both, dtype, shape, 8 if dtype == "float32" else 4, goal))
    return found


def shrunk(case: BenchCase, free: int) -> BenchCase:
    """The case with as many rows as fit, with all that the peers need: about 14 arrays of the input's size."""
    itemsize = 4 if case.dtype == "float32" else 2
    needed = 14 * itemsize * int(np.prod(case.shape, dtype=np.int64))
    if needed <= free:
        return case
    rows = max(1, int(case.shape[0] * free / needed))
    return case._replace(shape=(rows, *case.shape[1:]), goal=None)


class Inputs(NamedTuple):
    """One of several sets, which calls take in turn."""

    y: Any
    p: Any
    out: Any
    hess: Any


def bench(report: Report, effort: Effort) -> None:
    """Times on the device, beside torch, Liger, plain CuPy and a copy."""
    cupy = require_gpu()
    torch = import_module("torch") if find_spec("torch") else None
    for name in ("torch", "liger_kernel"):
        if not find_spec(name):
            report.note(f"left out: {name} (not installed)")
    if no_bfloat16():
        report.note(f"left out: bfloat16 ({no_bfloat16()})")
    report.data["copy_gb_per_second"] = copied = copy_speed(cupy, effort)
    report.note(f"device copy: {copied:.0f} GB/s read and written")
    report.data["rows"] = rows = []
    end = time.monotonic() + effort.seconds
    dtypes = storage_types()
    for wanted in bench_cases():
        if wanted.dtype not in dtypes:
            continue
        if time.monotonic() > end:
            report.note(f"left out: {wanted.name} {wanted.dtype} {wanted.shape} (the time is up)")
            continue
        case = shrunk(wanted, free_bytes(cupy))
        if case != wanted:
            report.note(f"{case.name} {case.dtype}: {case.shape} instead of {wanted.shape}, for lack of memory")
        with report.trying(f"{case.name} {case.dtype} {case.shape}"):
            rows.append(measure(report, cupy, torch, case, dtypes[case.dtype], copied, effort))
        if torch:
            torch.cuda.empty_cache()


def copy_speed(cupy: Any, effort: Effort) -> float:
    """GB/s, read and written, of the best of some copies of 1 GiB."""
    source, target = (cupy.zeros(1 << 30, cupy.uint8) for _ in range(2))
    times = [timed(cupy, spinner(cupy), lambda: cupy.copyto(target, source), 4) for _ in range(effort.rounds)]
    return 2 * source.nbytes / min(times) / 1e3


def timed(cupy: Any, spin: Callable, call: Callable, times: int) -> float:
    """Microseconds per call on the device; all calls are queued behind a pause, so the host's time does not show."""
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    spin(1e-3 + 4e-4 * times)
    first.record()
    for _ in range(times):
        call()
    last.record()
    last.synchronize()
    return float(cupy.cuda.get_elapsed_time(first, last)) * 1e3 / times


def measure(
    report: Report, cupy: Any, torch: Any, case: BenchCase, dtype: np.dtype, copied: float, effort: Effort
) -> dict[str, Any]:
    """Medians of rounds in which every contender has its turn, in random order."""
    second_level = cupy.cuda.Device().attributes["L2CacheSize"]
    sets = make_inputs(cupy, case, dtype, 1 + 4 * second_level // case.least_bytes)
    contenders, refused = verified(report, contenders_of(cupy, torch, case), sets, case)
    spin, order, samples = spinner(cupy), random.Random(0), {name: [] for name in contenders}
    for _ in range(effort.rounds):
        for name in order.sample(sorted(contenders), len(contenders)):
            turns = itertools.cycle(sets)
            samples[name].append(timed(cupy, spin, lambda: contenders[name](next(turns)), max(2, len(sets))))  # noqa: B023
    medians = {name: statistics.median(found) for name, found in samples.items()}
    row = bench_row(case, medians, refused, copied)
    print("  " + " | ".join(cells_of(row)), flush=True)
    return row


def make_inputs(cupy: Any, case: BenchCase, dtype: np.dtype, count: int) -> list[Inputs]:
    """Sets that are together larger than 4 second-level caches: nothing is warm."""
    return [inputs_of(cupy, case, dtype, cupy.random.default_rng(seed)) for seed in range(count)]


def inputs_of(cupy: Any, case: BenchCase, dtype: np.dtype, rng: Any) -> Inputs:
    """One set; in pieces, as random numbers come in float32."""
    p = cupy.empty(case.shape, dtype)
    classes = case.kind == "ce"
    y = (
        rng.integers(0, case.shape[1], case.shape[0])
        if classes
        else cupy.empty(case.shape, np.uint8 if case.kind == "bce" else dtype)
    )
    for at in range(0, p.size, 1 << 26):
        piece = slice(at, min(p.size, at + (1 << 26)))
        noise = 2.0 * rng.standard_normal(piece.stop - at, dtype=cupy.float32)
        p.reshape(-1)[piece] = noise.astype(dtype)
        if not classes:
            y[piece] = (noise > 0.5).astype(y.dtype)
    out = cupy.empty_like(p) if case.call != "__call__" else None
    return Inputs(y, p, out, cupy.empty_like(p) if case.call == "grad_and_hess" else None)


def bench_row(case: BenchCase, medians: dict[str, float], refused: dict[str, str], copied: float) -> dict[str, Any]:
    """One line of the table, in plain types."""
    microseconds = medians["fastloss"]
    speed = case.least_bytes / microseconds / 1e3
    return {
        "case": f"{case.name} {'x'.join(map(str, case.shape))}",
        "dtype": case.dtype,
        "microseconds": microseconds,
        "gb_per_second": speed,
        "share_of_copy": speed / copied,
        "goal": case.goal,
        "peers": {name: medians.get(name) for name in PEERS},
        "refused": refused,
    }


# ------------------------------------------------------------------------------------- contenders of the benchmark


def ours(case: BenchCase) -> Callable[[Inputs], Any]:
    loss = {"mse": fl.MeanSquaredError, "bce": fl.BinaryCrossentropy, "bce4": fl.BinaryCrossentropy}.get(
        case.kind, fl.SparseCategoricalCrossentropy
    )
    configured = loss() if case.kind == "mse" else loss(from_logits=True)
    if case.call == "__call__":
        return lambda given: (configured(given.y, given.p),)
    if case.call == "grad_and_hess":
        return lambda given: configured.grad_and_hess(given.y, given.p, out=given.out, hess_out=given.hess)
    return lambda given: configured.value_and_grad(given.y, given.p, out=given.out)


def contenders_of(cupy: Any, torch: Any, case: BenchCase) -> dict[str, Callable[[Inputs], Any]]:
    """Fastloss and those of the peers that are here and have the loss; each gives its value first."""
    found = {"fastloss": ours(case)}
    if case.call == "grad_and_hess":
        return found  # none of them has it
    if torch is not None:
        eager = torch_loss(torch, case)
        torch.compiler.reset()  # after 8 shapes of one function it would quietly no longer compile
        found["torch eager"] = torch_contender(torch, eager, case)
        found["torch.compile"] = torch_contender(torch, torch.compile(eager, dynamic=False, fullgraph=True), case)
    if torch is not None and case.kind == "ce" and find_spec("liger_kernel"):
        found["Liger"] = liger_contender(torch)
    found["CuPy expression"] = lambda given: cupy_expression(cupy, case, given)
    return found


def as_tensor(torch: Any, array: Any) -> Any:
    """The same memory; DLPack and the CUDA array interface know no bfloat16 of CuPy's."""
    if array.dtype.name == "bfloat16":
        return torch.as_tensor(array.view(np.int16), device="cuda").view(torch.bfloat16)
    return torch.as_tensor(array, device="cuda")


def torch_loss(torch: Any, case: BenchCase) -> Callable:
    functional = torch.nn.functional
    if case.kind == "mse":
        return lambda p, y: functional.mse_loss(p, y)
    if case.kind == "bce":
        return lambda p, y: functional.binary_cross_entropy_with_logits(p, y.to(p.dtype))
    return lambda p, y: functional.cross_entropy(p, y)


def torch_contender(torch: Any, loss: Callable, case: BenchCase) -> Callable[[Inputs], Any]:
    tensors: dict[int, tuple[Any, Any]] = {}

    def call(given: Inputs) -> Any:
        key = given.p.data.ptr
        if key not in tensors:
            tensors[key] = as_tensor(torch, given.p), as_tensor(torch, given.y)
        p, y = tensors[key]
        if case.call == "__call__":
            with torch.no_grad():
                return (loss(p, y),)
        p = p.detach().requires_grad_()
        value = loss(p, y)
        return value, *torch.autograd.grad(value, p)

    return call


def liger_contender(torch: Any) -> Callable[[Inputs], Any]:
    """It writes the gradient over its input: it has a copy of its own."""
    loss = import_module("liger_kernel.transformers.functional").liger_cross_entropy
    own: dict[int, tuple[Any, Any]] = {}

    def call(given: Inputs) -> Any:
        key = given.p.data.ptr
        if key not in own:
            own[key] = as_tensor(torch, given.p).clone(), as_tensor(torch, given.y)
        p, y = own[key]
        p = p.detach().requires_grad_()
        value = loss(p, y)
        return value, *torch.autograd.grad(value, p)

    return call


def cupy_expression(cupy: Any, case: BenchCase, given: Inputs) -> Any:
    """What a careful user of CuPy writes."""
    y, p = given.y, given.p
    if case.kind == "mse":
        difference = p - y
        value = cupy.mean(difference * difference, dtype=cupy.float32)
        return (value,) if case.call == "__call__" else (value, difference * (2.0 / p.size))
    if case.kind == "bce":
        value = cupy.mean(cupy.maximum(p, 0) - p * y + cupy.log1p(cupy.exp(-cupy.abs(p))))
        return value, (1.0 / (1.0 + cupy.exp(-p)) - y) * (1.0 / p.size)
    rows = cupy.arange(p.shape[0])
    peak = p.max(axis=1, keepdims=True)
    exponentials = cupy.exp(p - peak)
    total = exponentials.sum(axis=1, keepdims=True)
    value = cupy.mean(cupy.log(total[:, 0]) + peak[:, 0] - p[rows, y])
    exponentials /= total
    exponentials[rows, y] -= 1
    exponentials *= 1.0 / p.shape[0]
    return value, exponentials


def verified(
    report: Report, contenders: dict[str, Callable], sets: list[Inputs], case: BenchCase
) -> tuple[dict[str, Callable], dict[str, str]]:
    """Those that compute what fastloss does, called once with every set; and why the others are not timed."""
    good, refused = {}, {}
    tolerance = 1e-4 if case.dtype == "float32" else 2e-2
    expected = None
    for name, call in contenders.items():
        try:
            results = [call(given) for given in sets]
            value = float(results[0][0]) if case.call != "grad_and_hess" else 0.0
            expected = value if expected is None else expected
            if not abs(value - expected) <= tolerance * abs(expected):
                refused[name] = f"computes {value}, fastloss {expected}"
                continue
            good[name] = call
        except Exception as error:
            if name == "fastloss":
                raise
            refused[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        finally:
            results = None
    for name, reason in refused.items():
        report.note(f"not timed: {name} in {case.name} {case.dtype} {case.shape}: {reason}")
    return good, refused


# ---------------------------------------------------------------------------------------------------- tables

COLUMNS = ("case", "type", "us", "GB/s", "% of copy", "goal %", *(f"x {name}" for name in PEERS))
EXPLANATION = """\
us: median time on the device; the host's is not in it. GB/s: bytes that must be read and written at least, by time.
% of copy: of the speed of a device copy, read and written. x: times faster than, value and gradient likewise.
-: not measured. Buffers take turns, more than 4 second-level caches of them."""


def cells_of(row: dict[str, Any]) -> list[str]:
    peers = [row["peers"].get(name) for name in PEERS]
    return [
        row["case"],
        row["dtype"],
        f"{row['microseconds']:.1f}",
        f"{row['gb_per_second']:.0f}",
        f"{100 * row['share_of_copy']:.1f}",
        "-" if row["goal"] is None else f"{100 * row['goal']:.0f}",
        *("-" if peer is None else f"{peer / row['microseconds']:.2f}" for peer in peers),
    ]


def missed_goals(sections: list[dict[str, Any]]) -> list[str]:
    """One line for each."""
    data = {section["name"]: section["data"] for section in sections}
    missed = []
    for row in data.get("bench", {}).get("rows", []):
        name, share, compiled = f"{row['case']} {row['dtype']}", row["share_of_copy"], row["peers"].get("torch.compile")
        if row["goal"] is not None and share < row["goal"]:
            missed.append(f"{name}: {100 * share:.1f} % of copy; goal {100 * row['goal']:.0f} %")
        if compiled is not None and compiled < COMPILE_GOAL * row["microseconds"]:
            missed.append(f"{name}: {compiled / row['microseconds']:.2f} x torch.compile; goal {COMPILE_GOAL:.0f} x")
    for name, microseconds in data.get("host_time", {}).items():
        if microseconds > HOST_GOAL:
            missed.append(f"host time of {name}: {microseconds:.1f} us; goal {HOST_GOAL:.0f} us")
    return missed


def table(header: tuple[str, ...], lines: list[list[str]]) -> list[str]:
    rule = "| --- | --- |" + " ---: |" * (len(header) - 2)
    return ["| " + " | ".join(header) + " |", rule, *("| " + " | ".join(line) + " |" for line in lines)]


def markdown(result: dict[str, Any]) -> str:
    """The report for people."""
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items() if name != "date")
    lines = ["# GPU check", "", f"{result['environment'].get('date', '')}: {about}", ""]
    summary = [
        [s["name"], "ok" if s["ok"] else "FAILED", str(s["checks"]), f"{s['seconds']:.0f}"] for s in result["sections"]
    ]
    lines += table(("section", "outcome", "checks", "seconds"), summary)
    for section in result["sections"]:
        rows = section["data"].get("rows") if section["name"] == "bench" else None
        if rows:
            copied = section["data"]["copy_gb_per_second"]
            lines += ["", "## Speed", "", *table(COLUMNS, [cells_of(row) for row in rows])]
            lines += ["", EXPLANATION, "", f"Device copy: {copied:.0f} GB/s."]
        if section["name"] == "host_time":
            lines += ["", "## Time of the host", ""]
            lines += [f"- {name}: {microseconds:.1f} us a call" for name, microseconds in section["data"].items()]
    missed = missed_goals(result["sections"])
    lines += ["", "## Goals missed", "", *(f"- {line}" for line in missed)] if missed else []
    for title, key in (("Failures", "failures"), ("Notes", "notes")):
        found = [f"- {s['name']}: {line}" for s in result["sections"] for line in s[key][:SHOWN]]
        lines += ["", f"## {title}", "", *found] if found else []
    return "\n".join(lines) + "\n"


def write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu-check.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu-check.md").write_text(markdown(result), encoding="utf-8")


# -------------------------------------------------------------------------------------------------- processes


class Section(NamedTuple):
    run: Callable[[Report, Effort], None]
    seconds: float  # after which its process is ended


SECTIONS = {
    "correctness": Section(correctness, 200),
    "determinism": Section(determinism, 60),
    "graph": Section(graph, 60),
    "devices": Section(devices, 60),
    "bad_input": Section(bad_input, 60),
    "synchronisation": Section(synchronisation, 60),
    "large": Section(large, 60),
    "sanitizer": Section(sanitizer, SANITIZER_SECONDS + 20),
    "host_time": Section(host_time, 60),
    "bench": Section(bench, 240),
}


def run_section(name: str, effort: Effort) -> dict[str, Any]:
    """Run a section in this process; the result in plain types."""
    report, begun = Report(), time.monotonic()
    with report.trying(name):
        SECTIONS[name].run(report, effort)
    return {
        "name": name,
        "ok": not report.failures,
        "seconds": time.monotonic() - begun,
        "checks": report.checks,
        "notes": report.notes,
        "failures": report.failures,
        "data": report.data,
    }


class Child(NamedTuple):
    """A process, and the file that takes what it prints, if that is not to be shown."""

    process: subprocess.Popen
    output: Any


def start(command: list[str], *, shown: bool = False) -> Child:
    """Start it in a process group of its own, so that it can be ended with all that it has started."""
    output = None if shown else tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by `finish`)
    errors = None if shown else subprocess.STDOUT
    # Processes that run side by side need no threads besides.
    environment = {"FASTLOSS_NUM_THREADS": "2", **os.environ}
    return Child(
        subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True, env=environment), output
    )


def finish(child: Child, deadline: float) -> tuple[int | str, str]:
    """Its exit status, or what has become of it; and what it has printed."""
    try:
        status: int | str = child.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        status = "took too long and was ended"
    finally:
        end(child)
    if not child.output:
        return status, ""
    with child.output as output:
        output.seek(0)
        return status, output.read()


def end(child: Child) -> None:
    """End it, but do not wait long: a process that hangs in the driver may not even be killed."""
    if child.process.poll() is None:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait(5)


def run_apart(name: str, quick: bool, folder: Path) -> dict[str, Any]:
    """Run a section in processes of its own; what they found, together."""
    parts = min(PROCESSES, max(1, (os.cpu_count() or 2) // 2)) if name == "correctness" else 1
    begun = time.monotonic()
    running = []
    for part in range(parts):
        file = folder / f"{name}-{part}.json"
        command = [sys.executable, __file__, name, "--child", str(file), "--part", f"{part}/{parts}"]
        running.append((file, start(command + (["--quick"] if quick else []), shown=True)))
    found = []
    try:
        for file, child in running:
            status, _ = finish(child, begun + SECTIONS[name].seconds)
            found.append(read_child(name, file, status))
    finally:
        for _, child in running:
            end(child)
    return merged(name, found, time.monotonic() - begun)


def read_child(name: str, file: Path, status: int | str) -> dict[str, Any]:
    if status in (DONE, FAILED) and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    reason = status if isinstance(status, str) else f"its process ended with status {status}"
    print(f"  FAILED: {name}: {reason}", flush=True)
    return {"ok": False, "checks": 0, "notes": [], "failures": [reason], "data": {}}


def merged(name: str, found: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """One result of several; counts are added."""
    data = found[0]["data"]
    if len(found) > 1 and data:
        data = {**data, "cases": sum(part["data"].get("cases", 0) for part in found)}
    return {
        "name": name,
        "ok": all(part["ok"] for part in found),
        "seconds": seconds,
        "checks": sum(part["checks"] for part in found),
        "notes": list(dict.fromkeys(note for part in found for note in part["notes"])),
        "failures": [failure for part in found for failure in part["failures"]],
        "data": data,
    }


# ------------------------------------------------------------------------------------------------ environment

PROBE_SECONDS = 90


def probe() -> dict[str, Any]:
    """What this runs on; raises if there is no usable GPU."""
    cupy = require_gpu()
    if not cupy.cuda.runtime.getDeviceCount():
        message = "CuPy finds no GPU"
        raise RuntimeError(message)
    card = cupy.cuda.runtime.getDeviceProperties(0)
    assert int(cupy.arange(4).sum()) == 6  # the driver runs what CuPy compiles
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "card": card["name"].decode(),
        "driver": driver_version() or cuda_version(cupy.cuda.runtime.driverGetVersion()),
        "CUDA": cuda_version(cupy.cuda.runtime.runtimeGetVersion()),
        "CuPy": cupy.__version__,
        "torch": installed("torch"),
        "Liger": installed("liger-kernel"),
        "fastloss": fl.__version__,
        "commit": first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
    }


def cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"


def driver_version() -> str:
    return first_line(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])


def first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("\n")[0].strip()


def environment(folder: Path) -> dict[str, Any] | str:
    """What `probe` finds in a process of its own, which may hang or crash; or why there is nothing to run on."""
    loaded = sys.modules.get("cupy")
    if loaded is not None and type(loaded) is not types.ModuleType:
        return "the module cupy is a stand-in, not a GPU"
    if not find_spec("cupy"):
        return "CuPy is not installed"
    file = folder / "probe.json"
    status, output = finish(start([sys.executable, __file__, "--probe", str(file)]), time.monotonic() + PROBE_SECONDS)
    if status == DONE:
        return json.loads(file.read_text(encoding="utf-8"))
    return (output.strip().splitlines() or [str(status)])[-1]


# ------------------------------------------------------------------------------------------------------- main


def main(arguments: list[str]) -> int:
    chosen = read_arguments(arguments)
    effort = QUICK if chosen.quick else FULL
    if chosen.short_list:
        return short_list()
    if chosen.probe:
        chosen.probe.write_text(json.dumps(probe()), encoding="utf-8")
        return DONE
    if chosen.child:
        part, parts = map(int, chosen.part.split("/"))
        result = run_section(chosen.sections[0], effort._replace(part=(part, parts)))
        chosen.child.write_text(json.dumps(result), encoding="utf-8")
        return DONE if result["ok"] else FAILED
    return run_all(chosen.sections or list(SECTIONS), chosen.quick, chosen.output)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (all)")
    parser.add_argument("--quick", action="store_true", help="a part of the cases, fewer rounds")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), metavar="DIR", help="folder (%(default)s)")
    for option in ("--child", "--probe"):
        parser.add_argument(option, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", default="0/1", help=argparse.SUPPRESS)
    parser.add_argument("--short-list", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.sections if name not in SECTIONS]:
        parser.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return chosen


def run_all(names: list[str], quick: bool, output: Path) -> int:
    """Every section, one after the other; the report is written after each, in case that is the last."""
    with tempfile.TemporaryDirectory() as folder:
        found = environment(Path(folder))
        if isinstance(found, str):
            print(f"gpu_check: no usable GPU: {found}", file=sys.stderr)
            return UNUSABLE
        print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
        result: dict[str, Any] = {"environment": found, "quick": quick, "sections": []}
        for name in names:
            print(f"== {name}", flush=True)
            result["sections"].append(run_apart(name, quick, Path(folder)))
            print(outcome(result["sections"][-1]), flush=True)
            write(output, result)
    for line in missed_goals(result["sections"]):
        print(f"goal missed: {line}")
    print(f"report: {output / 'gpu-check.md'}")
    return DONE if all(section["ok"] for section in result["sections"]) else FAILED


def outcome(section: dict[str, Any]) -> str:
    failed = len(section["failures"])
    verdict = "ok" if section["ok"] else f"FAILED: {failed} {'failure' if failed == 1 else 'failures'}"
    return f"-- {section['name']}: {verdict}, {section['checks']} checks, {section['seconds']:.0f} s"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
