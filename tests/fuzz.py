"""Random calls, good and bad: nothing crashes, nothing else is written, and good calls are right.

A case is one set of operands: loss, parameters, types, shape, layouts, weights, mask, labels, special numbers; in some
something is wrong. All five calls are made with it, into fresh and given arrays. Run as a program with a seed
and a number of calls, it prints how many of each kind there were.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter

import guard_pages
import numpy as np
import pytest
from representatives import THOROUGH
from sampling import (
    CALLS,
    DTYPES,
    LOSSES,
    REDUCTIONS,
    REPRESENTATIVES,
    cast,
    configurations,
    is_indexed,
    is_rowwise,
    loss_shape,
    near_kink,
    plain,
    represents,
)
from test_calls import compare
from test_layouts import fortran, misaligned, padded, read_only, reversed_memory, shifted, strided, transposed

import fastloss as fl
from fastloss.cpu import run
from fastloss.cpu.pool import Pool
from fastloss.families import elementwise, rowwise
from fastloss.reference import evaluate

#: How often numbers like these stand among the operands, how often something is wrong with them, how often arrays lie
#: beside pages without access, how often results are compared with the reference, and how often arrays are large enough
#: for several threads, and are treated as if they were larger than the caches.
SPECIAL, WRONG, FENCED, COMPARED, LARGE = 0.15, 0.2, 0.1, 0.1, 0.05
SPECIALS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1e-45, 1e30, -1e30)
#: Calls that repeat a good case's and must give the same bits.
REPEATS = 40
CLASSES = (1, 2, 3, 5, 7, 8, 16, 17, 31, 32, 33, 64, 65, 96, 97, 130)
SIZES = (0, 1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 200, 1000)
LARGE_SIZES = (8193, 16_384, 20_001, 40_000)
LARGE_CLASSES = (5, 64, 97, 130, 1000, 1024, 8193)
LAYOUTS = (fortran, strided, padded, reversed_memory, transposed, shifted, misaligned, read_only)
CONFIGURED = {name: [loss for loss in configurations(LOSSES[name]) if represents(loss)] for name in REPRESENTATIVES}


def usual(loss):
    """What needs few kernels: no class weights, and nothing around the formula."""
    return getattr(loss, "class_weight", None) is None and not (is_rowwise(loss) and loss.around())


#: All parameters of formulas; results are one number, targets of y_pred's type, labels int64.
USUAL = {name: [loss for loss in CONFIGURED[name] if usual(loss)] for name in THOROUGH}


@dataclasses.dataclass
class Case:
    """Operands for calls of one loss."""

    loss: fl.losses.Loss
    y: np.ndarray
    p: np.ndarray
    options: dict
    wrong: str = ""
    special: bool = False
    fenced: bool = False


@contextlib.contextmanager
def as_if_large(counts):
    """Share every call among threads, and treat its arrays as if they were larger than the caches."""
    ready = Pool.ready

    def counted(self, helpers):
        counts["shared"] += 1
        return ready(self, helpers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "ready", counted)
        for name in ("RELEASE_FROM", "WAKE_FROM"):
            patch.setattr(run, name, 0)
        for family in (elementwise, rowwise):
            patch.setattr(family, "BYPASS_CACHE_FROM", 0)
        patch.setattr(rowwise, "LONG_ROWS_FROM", 256)
        yield


def draw(rng, dtypes=(), *, large=False):
    """A case, good or bad: in float32 and usual in what kernels depend on, or in some dtypes and anything."""
    configured, reductions = (CONFIGURED, REDUCTIONS) if dtypes else (USUAL, REDUCTIONS[:3])
    loss, shape = _loss_and_shape(rng, configured, reductions, large)
    dtype = rng.choice(dtypes or ["float32"])
    y, p = cast(*plain(loss, shape, rng), DTYPES[dtype])
    if dtypes and not is_indexed(loss) and dtype == "float32" and rng.random() < 0.2:
        y = np.round(y).clip(0, 200).astype(np.uint8)
    elif dtypes and is_indexed(loss) and rng.random() < 0.3:
        y = y.astype(rng.choice(["int8", "int16", "int32"][classes_of(loss, p) > 128 :]))
    case = Case(loss, y, p, _options(rng, loss, loss_shape(loss, p.shape)))
    if p.size and rng.random() < SPECIAL:
        _make_special(rng, case)
    if rng.random() < WRONG:
        _make_wrong(rng, case)
    case.fenced = rng.random() < FENCED and case.p.dtype != object
    lay = _fence if case.fenced else _lay_out
    case.y, case.p = lay(rng, case.y), lay(rng, case.p)
    for name in ("sample_weight", "mask"):
        if case.options.get(name) is not None:
            case.options[name] = lay(rng, case.options[name])
    return case


def _loss_and_shape(rng, configured, reductions, large):
    loss = rng.choice(configured[rng.choice(list(configured))])
    loss = dataclasses.replace(loss, reduction=rng.choice(reductions))
    if large and is_rowwise(loss):
        classes = int(rng.choice(LARGE_CLASSES))
        return dataclasses.replace(loss, axis=-1), (int(rng.choice(LARGE_SIZES)) // classes + 2, classes)
    if not is_rowwise(loss):
        size = int(rng.choice(LARGE_SIZES if large else SIZES))
        return loss, (size,) if rng.random() < 0.6 else (size // 3 + 1, 3)
    classes = 5 if getattr(loss, "class_weight", None) is not None else int(rng.choice(CLASSES))
    rows = int(rng.choice(SIZES[:-2]))
    shape = [rows, classes] if rng.random() < 0.6 else [rows // 4 + 1, 4, classes]
    axis = int(rng.integers(len(shape)))
    shape.insert(axis, shape.pop())
    return dataclasses.replace(loss, axis=rng.choice([axis, axis - len(shape)])), tuple(shape)


def classes_of(loss, p):
    return p.shape[loss.axis]


def _options(rng, loss, shape):
    options = {}
    if rng.random() < 0.4:
        weighed = shape if rng.random() < 0.5 else shape[:1]
        options["sample_weight"] = rng.random(weighed).astype(rng.choice(["float32", "float64"]))
    if rng.random() < 0.3:
        options["mask"] = rng.random(shape) < 0.7
    if rng.random() < 0.1 and loss.reduction in ("sum", "none"):
        options["normalizer"] = float(rng.uniform(0.5, 9.0))
    return options


def _make_special(rng, case):
    case.special = True
    for array in (case.y, case.p):
        if array.dtype.kind in "fV":
            places = rng.integers(array.size, size=3)
            with np.errstate(over="ignore"):
                array.flat[places] = rng.choice(SPECIALS, 3).astype(array.dtype)


def _make_wrong(rng, case):
    """Spoil one thing; nothing, if it cannot be done to this case."""
    kinds = ["shape of y_true", "dtype of y_pred", "weight", "shape of weight", "shape of mask", "out"]
    kinds += ["label"] * 6 if is_indexed(case.loss) else []
    kind = kinds[rng.integers(len(kinds))]
    sizes = loss_shape(case.loss, case.p.shape)
    if kind == "shape of y_true":
        case.y = np.concatenate([case.y, case.y, case.y[:1]]) if case.y.ndim else case.y[None]
        kind = kind if case.y.shape[0] > 0 else ""
    elif kind == "dtype of y_pred":
        with np.errstate(invalid="ignore"):
            case.p = case.p.astype(rng.choice(["complex64", "int32", "object"]))
    elif kind == "weight" and np.prod(sizes):
        weights = np.ones(sizes)
        weights.flat[rng.integers(weights.size)] = rng.choice([-1.0, np.nan, np.inf])
        case.options["sample_weight"] = weights
    elif kind in ("shape of weight", "shape of mask"):
        name, value = ("sample_weight", 1.0) if kind == "shape of weight" else ("mask", True)
        case.options[name] = np.full((sizes[0] + 2,) if sizes else (2, 2), value)
    elif kind == "label" and is_indexed(case.loss) and case.y.size:
        case.y = case.y.astype(np.int64)
        bad = [classes_of(case.loss, case.p), -1, 2**40, -(2**40)]
        bad = [label for label in bad if label != case.loss.ignore_class]
        place = rng.integers(case.y.size)
        case.y.flat[place] = rng.choice(bad)
        for name in ("sample_weight", "mask"):  # or it may not count
            case.options.pop(name, None)
    elif kind != "out":
        kind = ""
    case.wrong = kind


def _lay_out(rng, array):
    if array.dtype == object or rng.random() < 0.6:
        return array
    return LAYOUTS[rng.integers(len(LAYOUTS))](array, None)


def _fence(rng, array):
    return guard_pages.fenced(array, bool(rng.integers(2)))


def try_case(rng, case, counts):
    """Make every call with a case; raise if anything is not as it should be."""
    before = _bytes(case)
    compared = not (case.wrong or case.special) and rng.random() < COMPARED and _smooth(case)
    expected = evaluate(case.loss, case.y, case.p, **case.options) if compared else None
    known = {}
    for call, gives in CALLS.items():
        for given in (False, True) if 1 in gives else (False, False):
            counts["calls"] += 1
            buffer = _buffer(rng, case) if given or (case.wrong == "out" and 1 in gives) else None
            options = case.options if buffer is None else {**case.options, "out": buffer}
            untouched = None if buffer is None else np.array(buffer)
            try:
                results = getattr(case.loss, call)(case.y, case.p, **options)
            except (ValueError, TypeError) as error:
                _require_one_line(case, error)
                counts[f"refused: {case.wrong}"] += 1
                if buffer is not None and case.wrong != "label":
                    np.testing.assert_array_equal(_plain(buffer), _plain(untouched))
                continue
            assert not (case.wrong and (case.wrong != "out" or 1 in gives)), f"not refused: {case.wrong}"
            results = results if len(gives) > 1 else (results,)
            _check(case, gives, results, expected, known)
            if buffer is not None:
                assert results[gives.index(1)] is buffer
                assert not case.fenced or guard_pages.intact(buffer)
    if not case.wrong:
        _repeat(rng, case, counts, known)
    assert _bytes(case) == before, "an input was changed"
    if case.fenced:
        assert all(guard_pages.intact(a) for a in (case.y, case.p))


def _repeat(rng, case, counts, known):
    out = _buffer(rng, case)
    for call in rng.choice(list(CALLS), REPEATS):
        counts["calls"] += 1
        gives = CALLS[call]
        into = {"out": out} if 1 in gives and counts["calls"] % 2 else {}
        results = getattr(case.loss, call)(case.y, case.p, **case.options, **into)
        _check(case, gives, results if len(gives) > 1 else (results,), None, known)
    assert not case.fenced or guard_pages.intact(out)


def _check(case, gives, results, expected, known):
    for which, result in zip(gives, results, strict=True):
        if which:
            assert (result.shape, result.dtype) == (case.p.shape, case.p.dtype)
        elif case.loss.reduction == "none":
            assert result.shape == loss_shape(case.loss, case.p.shape)
        else:
            assert type(result) is float
        before = known.setdefault(which, np.array(result))
        if before.tobytes() != np.asarray(result).tobytes():
            # A NaN may come in other bits; a value's order of summation depends on the layout of ``out`` too.
            tolerance = 0.0 if which else 2.0**-22 if case.p.dtype.itemsize == 2 else 1e-13
            np.testing.assert_allclose(_plain(result), _plain(before), rtol=tolerance, atol=0.0)
        if expected is not None and which:
            compare(result, expected[which], case.p.dtype.name, f"result {which} of {case}")
        elif expected is not None:
            np.testing.assert_allclose(result, expected[0], rtol=4e-6, atol=1e-30, err_msg=f"value of {case}")


def _plain(array):
    array = np.asarray(array)
    return array if array.dtype.kind in "fc" else array.astype(np.float64)


def _smooth(case):
    """Whether float32 and float64 cannot differ about a kink."""
    return not near_kink(case.loss, case.y, case.p.astype(np.float64), 1e-5).any()


def _buffer(rng, case):
    if case.wrong == "out":
        return np.zeros((*case.p.shape, 2), case.p.dtype)
    if case.p.dtype == object:
        return None
    empty = np.full(case.p.shape, 7, case.p.dtype)
    if case.fenced:
        return guard_pages.fenced(empty, bool(rng.integers(2)))
    return empty if rng.random() < 0.7 else strided(empty, None)


def _require_one_line(case, error):
    text = str(error)
    assert case.wrong, f"a good call was refused: {text}"
    assert text.startswith(f"{case.loss.name}: "), text
    assert "\n" not in text, text


def _bytes(case):
    arrays = (case.y, case.p, case.options.get("sample_weight"), case.options.get("mask"))
    return [None if a is None or a.dtype == object else a.tobytes() for a in arrays]


def fuzz(seed, calls, dtypes=()):
    """Make so many calls with random operands, and count what happened."""
    rng = np.random.default_rng(seed)
    counts = Counter()
    while counts["calls"] < calls:
        state, large = rng.bit_generator.state, rng.random() < LARGE
        case = draw(rng, () if large else dtypes, large=large)
        counts["cases"] += 1
        counts["large"] += large
        counts["special"] += case.special
        counts["fenced"] += case.fenced
        counts[case.loss.name] += 1
        try:
            with as_if_large(counts) if large else contextlib.nullcontext():
                try_case(rng, case, counts)
        except Exception:
            print(f"state of the generator: {state}\n{case}", file=sys.stderr, flush=True)
            raise
    return counts


if __name__ == "__main__":
    fl.set_num_threads(2)
    for what, number in sorted(fuzz(int(sys.argv[1]), int(float(sys.argv[2])), list(DTYPES)).items()):
        print(f"{number:>12,} {what}")
