"""Connectionist temporal classification: against all alignments, 50 digits, differences, torch, Keras and optax."""

import dataclasses
import itertools
import math
import os
import pathlib
import threading
import types

import guard_pages
import ml_dtypes
import numpy as np
import pytest
from alignments import allowed, as_float, by_enumeration, exact
from test_layouts import fortran, misaligned, padded, read_only, reversed_memory, shifted, strided, transposed

import fastloss as fl
from fastloss import warmup
from fastloss.cpu import run, sequence
from fastloss.families.loss import configurations
from fastloss.formula.alignments import Targets
from fastloss.reference import evaluate

CALLS = {
    "__call__": (0,),
    "value_and_grad": (0, 1),
    "grad": (1,),
    "grad_and_hess": (1, 2),
    "value_grad_and_hess": (0, 1, 2),
}
DTYPES = {name: np.dtype(name) for name in ("float16", "float32", "float64")} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16)
}
LAYOUTS = (fortran, strided, padded, reversed_memory, transposed, shifted, misaligned, read_only)
PEERS = os.environ.get("FASTLOSS_PEERS") == "1"
with_peers = pytest.mark.skipif(not PEERS, reason="torch, Keras and optax are compared by `ci/dev.py test --peers`")
both = pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "log-probabilities"])
working = pytest.mark.parametrize("dtype", ["float32", "float64"])


def drawn(shape, longest, seed=0, from_logits=True, dtype="float64", spread=2.0):
    """Labels of all lengths, padded with the blank 0 or with -1, and predictions (sequences, frames, classes)."""
    rng = np.random.default_rng(seed)
    x = spread * rng.standard_normal(shape)
    if not from_logits:
        x -= np.logaddexp.reduce(x, axis=-1, keepdims=True)
    y = rng.integers(1, max(shape[-1], 2), (shape[0], longest))
    padding = np.where(rng.random(shape[0]) < 0.5, 0, -1)[:, None]
    lengths = rng.integers(0, longest + 1, (shape[0], 1))
    lengths[:1] = longest
    return np.where(np.arange(longest) < lengths, y, padding), x.astype(DTYPES[dtype])


def without_padding(y):
    return [row[: int((np.cumsum(row <= 0) == 0).sum())] for row in y]


def check_exactly(loss, y, x, oracle=exact):
    """Each sequence's loss, gradient and Hessian within the roundings on the way; ``y`` holds no padding."""
    results = dataclasses.replace(loss, reduction="none").value_grad_and_hess([y], x[None])
    right = oracle(x, y, loss.blank, loss.from_logits)
    bounds = allowed(right, x.dtype, loss.from_logits)
    for what, result, wanted, bound in zip(("loss", "gradient", "Hessian"), results, right, bounds, strict=False):
        wanted = as_float(wanted)
        same = wanted == result[0].astype(np.float64)  # also where both are infinite
        with np.errstate(invalid="ignore"):
            off = np.where(same, 0.0, abs(result[0].astype(np.float64) - wanted))
        wrong = np.argwhere(~(off <= bound))
        at = tuple(wrong[0]) if len(wrong) else ()
        assert not len(wrong), f"{what} at {at}: {result[0][at]!r} instead of {wanted[at]!r}, off by {off[at]:.3g}"


# -- what it is -------------------------------------------------------------------------------------------------


@working
@pytest.mark.parametrize("call", CALLS)
def test_examples(call, dtype):
    assert len(fl.CTC.examples) >= 3
    for example in fl.CTC.examples:
        x = np.array(example.y_pred, dtype)
        results = getattr(fl.CTC(reduction="sum", **example.parameters), call)(example.y_true, x)
        rights = (example.value, example.grad, example.hess)
        for which, result in zip(CALLS[call], results if len(CALLS[call]) > 1 else (results,), strict=True):
            np.testing.assert_allclose(result, rights[which], rtol=4 * np.finfo(dtype).eps)


@both
@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("frames", range(5))
def test_every_alignment_counts(frames, blank, from_logits):
    """Every label of up to three classes, repeated ones too, by enumeration of all alignments."""
    classes = [number for number in range(3) if number != blank]
    for seed, length in itertools.product(range(2), range(4)):
        for label in itertools.product(classes, repeat=length):
            _, x = drawn((1, frames, 3), 1, 10 * frames + seed, from_logits)
            loss = fl.CTC(from_logits=from_logits, blank=blank)
            check_exactly(loss, np.array(label, int), x[0], by_enumeration)


@both
def test_the_50_digits_are_those_of_all_alignments(from_logits):
    for label in ([], [1], [2, 1], [1, 1], [1, 2, 2]):
        _, x = drawn((1, 5, 3), 1, 3, from_logits)
        one, other = (oracle(x[0], label, 0, from_logits) for oracle in (by_enumeration, exact))
        for left, right in zip(one, other, strict=True):
            assert np.all(abs(np.asarray(left - right, object)) < 1e-40)


@both
@working
@pytest.mark.parametrize(
    ("frames", "classes", "length"), [(1, 1, 0), (30, 5, 7), (40, 70, 8), (33, 300, 16), (130, 9, 31), (2000, 6, 9)]
)
def test_accuracy(frames, classes, length, dtype, from_logits):
    """Labels longer than a vector, more classes than a vector, and 2000 frames."""
    rng = np.random.default_rng(frames)
    label = rng.integers(1, max(classes, 2), length)
    label[1:2] = label[:1]
    _, x = drawn((1, frames, classes), 1, frames, from_logits, dtype)
    check_exactly(fl.CTC(from_logits=from_logits), label, x[0])


@working
def test_gradients_of_nearly_certain_predictions_keep_their_accuracy(dtype):
    """Where probability and occupancy are both nearly 1, their difference is that of their distances from 1."""
    for margin, frames in itertools.product((5.0, 12.0, 16.0, 25.0), (1, 6)):
        best = np.array([0, 1, 1, 0, 2, 0])[:frames]
        x = np.zeros((frames, 4), dtype)
        x[np.arange(frames), best] = margin
        x += np.linspace(0.0, 0.5, 4, dtype=dtype)
        label = np.array([1, 2] if frames > 1 else [1])
        if frames > 1:
            check_exactly(fl.CTC(), label, x)
        else:
            check_exactly(fl.CTC(), label, np.roll(x, 1, axis=1))


@both
def test_finite_differences(from_logits):
    y, x = drawn((3, 6, 4), 3, 5, from_logits)
    step = 1e-5
    for blank in (0, 3):
        labels = np.where(y == 3, 1, y) if blank == 3 else y
        loss = fl.CTC(from_logits=from_logits, blank=blank, reduction="sum")
        _, grad, hess = loss.value_grad_and_hess(labels, x)
        for at in np.ndindex(x.shape):
            moved = [x.copy(), x.copy()]
            moved[0][at] += step
            moved[1][at] -= step
            (up, up_grad), (down, down_grad) = (loss.value_and_grad(labels, one) for one in moved)
            assert grad[at] == pytest.approx((up - down) / (2 * step), abs=1e-8)
            assert hess[at] == pytest.approx((up_grad[at] - down_grad[at]) / (2 * step), abs=1e-8)


@both
@pytest.mark.parametrize("shape", [(4, 7, 5), (2, 40, 90), (3, 1, 3), (2, 0, 3)])
def test_reference(shape, from_logits):
    """The reference that other tests compare with, against this module's own."""
    loss = fl.CTC(from_logits=from_logits, reduction="none")
    y, x = drawn(shape, min(3, max(shape[1], 1)), 8, from_logits)
    results = evaluate(loss, y, x)
    for number, label in enumerate(without_padding(y)):
        right = exact(x[number], label, 0, from_logits)
        for result, wanted in zip(results, right, strict=False):
            np.testing.assert_allclose(result[number], as_float(wanted), rtol=1e-11, atol=1e-12)


# -- extremes -----------------------------------------------------------------------------------------------------


@working
def test_extreme_logits(dtype):
    """No clipping: losses far beyond the exponents that float64 has."""
    for number in (80.0, 1e4, 1e10):
        for best in ([3, 3, 3, 3, 3, 3], [0, 0, 0, 0, 0, 0], [2, 1, 2, 1, 2, 1]):
            for sign in (1, -1):
                x = np.zeros((6, 4), dtype)
                x[np.arange(6), best] = sign * number
                check_exactly(fl.CTC(), np.array([1, 2]), x)


@working
def test_logits_whose_sums_are_rounded(dtype):
    """Where adding two logits loses the others' differences: still the loss, and a gradient that sums to 0."""
    for number in (1e30, {"float32": 4e37, "float64": 1e290}[dtype]):
        x = np.random.default_rng(0).choice(np.array([0, number, -number, 0.5 * number], dtype), (40, 6, 4))
        y = np.tile([1, 2], (40, 1))
        losses, grad, hess = fl.ctc.value_grad_and_hess(y, x, reduction="none")
        for label, one, loss in zip(y, x, losses, strict=True):
            assert loss == pytest.approx(float(exact(one, label).loss), rel=4 * float(np.finfo(dtype).eps), abs=1e-3)
        assert (abs(grad) <= 1.0).all()
        assert (abs(hess) <= 0.25).all()
        np.testing.assert_allclose(grad.sum(axis=-1), 0.0, atol=1e-6)


def test_log_probabilities_need_not_sum_to_1():
    x = np.array([[[5.0, -1000.0], [-400.0, 800.0], [2.0, -1000.0]]])
    loss, grad = fl.ctc.value_and_grad([[1]], x, from_logits=False)
    assert loss == pytest.approx(-(5.0 + 800.0 + 2.0), rel=1e-15)  # 0, 1, 0: the others are e^1000 times less likely
    np.testing.assert_array_equal(grad, [[[-1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]]])


@both
@working
def test_classes_that_are_impossible(dtype, from_logits):
    """-inf where no alignment goes changes nothing; where all have to, the loss is infinite and the gradient 0."""
    loss = fl.CTC(from_logits=from_logits)
    _, x = drawn((1, 5, 5), 1, 2, from_logits, dtype)
    x[:, :, 4] = x[:, 0, 0] = x[:, 2, 3] = -np.inf
    check_exactly(loss, np.array([1, 3]), x[0])
    x[:, 0, 1] = -np.inf
    value, grad, hess = loss.value_grad_and_hess([[1, 3]], x)
    assert value == math.inf
    assert not grad.any()
    assert not hess.any()
    if not from_logits:
        x[:, 1] = -np.inf
        assert loss([[1, 3]], x) == math.inf


@both
@pytest.mark.parametrize(
    ("label", "frames"), [([1], 0), ([1, 2], 1), ([1, 1], 2), ([1, 1, 1], 4), ([1, 2, 2, 1], 4), ([2] * 20, 38)]
)
def test_labels_that_do_not_fit(label, frames, from_logits):
    """Fewer frames than classes, and blanks between equal ones."""
    _, x = drawn((1, frames + 1, 4), 1, 1, from_logits)
    infinite, finite = (fl.CTC(from_logits=from_logits, zero_infinity=zero) for zero in (False, True))
    count = np.array([frames])
    for loss, expected in ((infinite, math.inf), (finite, 0.0)):
        value, grad, hess = loss.value_grad_and_hess([label], x, logit_length=count)
        assert value == expected
        assert not grad.any()
        assert not hess.any()
    assert 0.0 < infinite([label], x, logit_length=count + 1) < math.inf
    # Beside others:
    labels = np.array([label, [1] + [0] * (len(label) - 1)])
    two, counts = np.repeat(x, 2, axis=0), np.array([frames, frames + 1])
    value, grad = finite.value_and_grad(labels, two, logit_length=counts)
    alone, own = finite.value_and_grad(labels[1:], two[1:])
    assert value == alone / 2
    np.testing.assert_array_equal(grad[1], own[0] / 2)


def test_nothing_to_align():
    """An empty label is all blanks; without frames it is certain."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    blanks = x[:, :, 0] - np.logaddexp.reduce(x, axis=-1)
    for y in (np.empty((2, 0), int), np.zeros((2, 3), int), np.full((2, 1), -1)):
        np.testing.assert_allclose(fl.ctc(y, x, reduction="none"), -blanks.sum(axis=1), rtol=1e-14)
    value, grad = fl.ctc.value_and_grad(np.empty((2, 0), int), x[:, :0])
    assert value == 0.0
    assert grad.shape == (2, 0, 4)
    value, grad = fl.ctc.value_and_grad(np.empty((0, 5), int), x[:0])
    assert value == 0.0
    assert grad.shape == (0, 3, 4)


@both
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_no_number_shows(number, from_logits):
    """In its sequence's loss and frames, also at classes that no alignment goes to; in no other sequence."""
    y, x = drawn((3, 5, 70), 2, 4, from_logits)
    loss = fl.CTC(from_logits=from_logits, reduction="none")
    good = loss.value_grad_and_hess(y, x, logit_length=[5, 4, 5])
    for frame, column in ((0, 0), (2, 69), (3, int(y[1, 0])), (1, 17)):
        spoiled = x.copy()
        spoiled[1, frame, column] = number
        value, *others = loss.value_grad_and_hess(y, spoiled, logit_length=[5, 4, 5])
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])
        for result, right in zip(others, good[1:], strict=True):
            assert np.isnan(result[1, :4]).all()
            assert not result[1, 4].any()
            np.testing.assert_array_equal(result[[0, 2]], right[[0, 2]])
    if from_logits:
        spoiled = x.copy()
        spoiled[1, 2] = -np.inf
        assert np.isnan(loss(y, spoiled)[1])


# -- lengths, blanks, weights, masks -----------------------------------------------------------------------------


@both
def test_lengths(from_logits):
    """Only so much of labels and frames counts, whatever lies beyond."""
    loss = fl.CTC(from_logits=from_logits, reduction="none")
    rng = np.random.default_rng(3)
    _, x = drawn((5, 9, 6), 1, 3, from_logits)
    y = rng.integers(1, 6, (5, 4))
    labels, frames = np.array([4, 0, 1, 3, 2]), np.array([9, 4, 0, 8, 5])
    beyond = np.arange(4) >= labels[:, None]
    wild, spoiled = np.where(beyond, 10**6, y), x.copy()
    for number, count in enumerate(frames):
        spoiled[number, count:] = np.nan
    for kind in (np.int64, np.int32, np.uint8, list):
        lengths = [array.tolist() if kind is list else array.astype(kind) for array in (labels, frames)]
        value, grad, hess = loss.value_grad_and_hess(wild, spoiled, label_length=lengths[0], logit_length=lengths[1])
        for number, (label, count) in enumerate(zip(labels, frames, strict=True)):
            alone = loss.value_grad_and_hess(y[number : number + 1, :label], x[number : number + 1, :count])
            assert value[number] == alone[0][0]
            for result, right in zip((grad, hess), alone[1:], strict=True):
                np.testing.assert_array_equal(result[number, :count], right[0])
                assert not result[number, count:].any()
    padded_labels = np.where(beyond, -7, y)
    by_padding = loss.value_grad_and_hess(padded_labels, spoiled, logit_length=frames)
    np.testing.assert_array_equal(by_padding[1], grad)


def test_blank_and_padding():
    """Any class may be the blank: as if classes were renumbered."""
    y, x = drawn((4, 8, 5), 3, 6)
    expected = fl.ctc.value_and_grad(y, x)
    for blank in range(5):
        order = [*range(1, blank + 1), 0, *range(blank + 1, 5)]  # order[c]: what class c is now
        new_of = np.empty(5, int)
        new_of[order] = range(5)
        labels = np.where(y > 0, new_of[y], -3)
        value, grad = fl.ctc.value_and_grad(labels, x[..., order], blank=blank)
        assert value == pytest.approx(expected[0], rel=1e-14)
        np.testing.assert_allclose(grad, expected[1][..., order], rtol=1e-12, atol=1e-15)


REDUCTIONS = [("mean", None), ("sum", None), ("weighted_mean", None), ("none", None), ("sum", 12.5), ("none", 12.5)]


@both
@pytest.mark.parametrize(
    ("call", "dtype"), [*((call, "float32") for call in CALLS), *(("value_grad_and_hess", dtype) for dtype in DTYPES)]
)
def test_reductions_weights_and_masks(call, dtype, from_logits):
    y, x = drawn((6, 7, 5), 3, 11, from_logits, dtype)
    rng = np.random.default_rng(0)
    weights, mask = rng.uniform(0.5, 2.0, 6), np.array([True, False, True, True, False, True])
    relative = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 3e-6, "float64": 1e-12}[dtype]
    for reduction, normalizer in REDUCTIONS:
        loss = fl.CTC(from_logits=from_logits, reduction=reduction)
        for options in ({}, {"sample_weight": weights}, {"mask": mask}, {"sample_weight": weights, "mask": mask}):
            expected = evaluate(loss, y, x, **options, normalizer=normalizer)
            results = getattr(loss, call)(y, x, **options, normalizer=normalizer)
            for which, result in zip(CALLS[call], results if len(CALLS[call]) > 1 else (results,), strict=True):
                atol = relative * np.abs(expected[which]).max() if which else 0.0
                rtol = relative if which else min(relative, 3e-6)
                np.testing.assert_allclose(np.asarray(result, np.float64), expected[which], rtol=rtol, atol=atol)


def test_masked_sequences_may_hold_anything():
    y, x = drawn((4, 6, 5), 3, 9)
    mask, weights = np.array([True, False, True, False]), np.array([1.0, 2.0, 3.0, 4.0])
    for reduction in ("mean", "sum", "weighted_mean"):
        loss = fl.CTC(reduction=reduction)
        expected = loss.value_grad_and_hess(y, x, weights, mask=mask)
        for number in (np.nan, np.inf):
            spoiled = np.where(mask[:, None, None], x, number)
            wild = np.where(mask[:, None], y, 10**6)
            for result, right in zip(
                loss.value_grad_and_hess(wild, spoiled, weights, mask=mask), expected, strict=True
            ):
                np.testing.assert_array_equal(result, right)
        assert not expected[1][~mask].any()
        value, grad, hess = loss.value_grad_and_hess(y, x, mask=np.zeros(4, bool))
        assert value == 0.0
        assert not grad.any()
        assert not hess.any()


def test_torch_s_mean_is_a_weighted_one():
    """As the documentation has it: each loss divided by its label's length."""
    y, x = drawn((4, 9, 5), 3, 10)
    lengths = np.array([len(label) for label in without_padding(y)])
    value = fl.ctc(y, x, 1 / np.maximum(lengths, 1))
    assert value == pytest.approx(np.mean(fl.ctc(y, x, reduction="none") / np.maximum(lengths, 1)), rel=1e-14)


def test_any_number_of_leading_axes():
    y, x = drawn((6, 5, 4), 2, 12)
    for leading in ((6,), (2, 3), (1, 3, 2, 1)):
        labels, predictions = y.reshape(*leading, 2), x.reshape(*leading, 5, 4)
        losses, grad = fl.ctc.value_and_grad(labels, predictions, reduction="none")
        right = fl.ctc.value_and_grad(y, x, reduction="none")
        assert losses.shape == leading
        np.testing.assert_array_equal(losses.ravel(), right[0])
        np.testing.assert_array_equal(grad.reshape(x.shape), right[1])
    losses, grad = fl.ctc.value_and_grad(y[0], x[0], reduction="none", label_length=2, logit_length=5)
    assert losses.shape == ()
    assert grad.shape == (5, 4)
    weights = np.array([1.0, 0.5])
    by_first = fl.ctc(y.reshape(2, 3, 2), x.reshape(2, 3, 5, 4), weights, reduction="sum")
    assert by_first == pytest.approx(fl.ctc(y, x, np.repeat(weights, 3), reduction="sum"), rel=1e-14)


# -- types, layouts, buffers, threads -----------------------------------------------------------------------------


@both
@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_narrow_results_are_wide_results_rounded_once(narrow, from_logits):
    loss = fl.CTC(from_logits=from_logits)
    for shape in ((3, 6, 5), (2, 9, 70)):
        y, x = drawn(shape, 3, 13, from_logits, narrow)
        value, *results = loss.value_grad_and_hess(y, x)
        expected, *rights = loss.value_grad_and_hess(y, x.astype(np.float32))
        assert value == expected
        for result, right in zip(results, rights, strict=True):
            assert result.dtype == DTYPES[narrow]
            np.testing.assert_array_equal(result.astype(np.float32), right.astype(DTYPES[narrow]).astype(np.float32))


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "list"])
def test_types_of_labels(kind):
    y, x = drawn((4, 8, 5), 3, 14)
    y = y.clip(0)
    given = y.tolist() if kind == "list" else y.astype(kind)
    for result, right in zip(fl.ctc.value_and_grad(given, x), fl.ctc.value_and_grad(y, x), strict=True):
        np.testing.assert_array_equal(result, right)
    if kind.startswith("int"):
        again = np.where(y > 0, y, -1).astype(kind)
        assert fl.ctc(again, x) == fl.ctc(y, x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, dtype, tmp_path):
    y, x = drawn((4, 6, 5), 3, 15, dtype=dtype)
    expected = fl.ctc.value_grad_and_hess(y, x)
    for labels, predictions in (
        (layout(y, tmp_path), x),
        (y, layout(x, tmp_path)),
        (layout(y, tmp_path),) * 0 or (y, x),
    ):
        before = predictions.copy()
        for result, right in zip(fl.ctc.value_grad_and_hess(labels, predictions), expected, strict=True):
            np.testing.assert_array_equal(result, right)
        np.testing.assert_array_equal(predictions, before)
    if layout is not read_only:
        out, hess_out = (layout(np.full_like(x, 7), tmp_path) for _ in range(2))
        _, grad, hess = fl.ctc.value_grad_and_hess(y, x, out=out, hess_out=hess_out)
        assert grad is out
        assert hess is hess_out
        np.testing.assert_array_equal(out, expected[1])
        np.testing.assert_array_equal(hess_out, expected[2])
        place = layout(x, tmp_path)
        fl.ctc.value_and_grad(y, place, out=place)
        np.testing.assert_array_equal(place, expected[1])


def test_torch_s_order_of_axes_is_a_view():
    y, x = drawn((4, 6, 5), 3, 16)
    frames_first = np.ascontiguousarray(x.transpose(1, 0, 2))
    assert fl.ctc(y, frames_first.transpose(1, 0, 2)) == fl.ctc(y, x)


@pytest.fixture
def shared(monkeypatch):
    """Every call is shared among threads."""
    for name in ("RELEASE_FROM", "WAKE_FROM"):
        monkeypatch.setattr(run, name, 0)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_number_of_threads_gives_the_same_bits(set_threads, monkeypatch, reduction):
    y, x = drawn((37, 12, 9), 4, 17, dtype="float32")
    loss, found = fl.CTC(reduction=reduction), set()
    counts = np.random.default_rng(0).integers(6, 13, 37)
    for threads in (1, 2, 3, 8, 64):
        set_threads(threads)
        for release in (0, 1 << 62):
            monkeypatch.setattr(run, "RELEASE_FROM", release)
            monkeypatch.setattr(run, "WAKE_FROM", 0)
            results = loss.value_grad_and_hess(y, x, logit_length=counts)
            found.add(b"".join(np.asarray(result).tobytes() for result in results))
    assert len(found) == 1


def test_many_python_threads_at_once(set_threads, shared):
    set_threads(3)
    cases = [drawn(shape, 3, seed) for seed, shape in enumerate([(9, 20, 7), (1, 5, 70), (30, 4, 4), (2, 50, 12)])]
    rights = [fl.ctc.value_grad_and_hess(*case) for case in cases]
    wrong = []

    def work(number):
        for turn in range(60):
            at = (number + turn) % len(cases)
            results = fl.ctc.value_grad_and_hess(*cases[at])
            if any(not np.array_equal(a, b) for a, b in zip(results, rights[at], strict=True)):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(guard_pages._libc is None or not hasattr(guard_pages._libc, "mprotect"), reason="needs mprotect")
@pytest.mark.parametrize("at_end", [True, False])
def test_kernels_stay_within_their_arrays(monkeypatch, set_threads, shared, at_end):
    """The caller's arrays and the kernel's own lie beside pages that may not be touched."""
    set_threads(2)
    fenced_numpy = guard_pages.FencedNumPy(at_end)
    monkeypatch.setattr(sequence, "np", fenced_numpy)
    for dtype, from_logits in (("float32", True), ("float16", True), ("float64", False)):
        for shape, longest in (((2, 3, 3), 1), ((3, 20, 70), 9), ((2, 9, 64), 7), ((1, 18, 65), 8), ((2, 1, 2), 0)):
            y, x = drawn(shape, longest, 1, from_logits, dtype)
            loss = fl.CTC(from_logits=from_logits)
            weights, counts = np.ones(len(y)), np.full(len(y), shape[1])
            expected = loss.value_grad_and_hess(y, x, weights, logit_length=counts)
            given = [guard_pages.fenced(array, at_end) for array in (y, x, weights, counts)]
            outs = [guard_pages.fenced(np.full_like(x, 3), at_end) for _ in range(2)]
            results = loss.value_grad_and_hess(*given[:3], logit_length=given[3], out=outs[0], hess_out=outs[1])
            loss(*given[:3])
            for result, right in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, right)
            assert all(guard_pages.intact(array) for array in (*given, *outs))
    assert all(guard_pages.intact(array) for array in fenced_numpy.made)
    assert len(fenced_numpy.made) > 30


def test_random_calls():
    """Shapes, lengths, weights, masks, types and blanks at random, against the reference."""
    rng = np.random.default_rng(21)
    for seed in range(120):
        from_logits, blank = bool(rng.integers(2)), 0
        shape = (int(rng.integers(0, 5)), int(rng.integers(0, 14)), int(rng.integers(1, 6)))
        longest = int(rng.integers(0, 6)) if shape[2] > 1 else 0
        y, x = (
            drawn(shape, longest, seed, from_logits)
            if shape[2] > 1
            else (np.zeros((shape[0], 0), int), np.zeros(shape))
        )
        options = {}
        if rng.random() < 0.4:
            options["sample_weight"] = rng.random(shape[0])
        if rng.random() < 0.3:
            options["mask"] = rng.random(shape[0]) < 0.7
        counts = rng.integers(0, shape[1] + 1, shape[0]) if rng.random() < 0.5 else None
        reduction = str(rng.choice(["mean", "sum", "weighted_mean", "none"]))
        loss = fl.CTC(from_logits=from_logits, blank=blank, zero_infinity=True, reduction=reduction)
        expected = evaluate(loss, Targets(y, None, counts), x, **options)
        results = loss.value_grad_and_hess(y, x, **options, logit_length=counts)
        for result, right in zip(results, expected, strict=True):
            np.testing.assert_allclose(result, right, rtol=1e-11, atol=1e-12, err_msg=f"{seed}: {loss} {shape}")


# -- bad input -------------------------------------------------------------------------------------------------------


Y, X = np.array([[1, 2, 0], [3, 0, 0]]), np.zeros((2, 6, 4))
BAD = {
    "too large": (
        ValueError,
        r"y_true must be in \[0, 4\) and not the blank, 0; got 4 at position \[1, 1\]$",
        [[1, 2, 0], [3, 4, 0]], {},
    ),
    "after padding": (
        ValueError,
        r"got 1 at position \[0, 2\]\. Nothing may follow a blank or a negative",
        [[1, 0, 1], [3, 1, 1]], {},
    ),
    "after -1": (ValueError, r"got 3 at position \[1, 2\]\. Nothing may follow", [[1, 1, 1], [2, -1, 3]], {}),
    "blank within": (ValueError, r"got 0 at position \[1, 1\]$", Y, {"label_length": [2, 2]}),
    "negative within": (ValueError, r"got -1 at position \[0, 0\]$", [[-1, 2, 0], [3, 0, 0]], {"label_length": [2, 1]}),
    "2**40": (ValueError, r"got 1099511627776 at position \[0, 0\]", [[2**40, 2, 0], [3, 0, 0]], {}),
    "float labels": (TypeError, r"y_true must hold integer class numbers; got float64", Y * 1.0, {}),
    "flat labels": (ValueError, r"y_true must have y_pred's leading shape \(2,\) and an axis of labels", [1, 2], {}),
    "other batch": (
        ValueError,
        r"y_true must have y_pred's leading shape \(2,\) .*; got shape \(3, 3\)",
        [[1, 1, 1]] * 3, {},
    ),
    "long label": (
        ValueError,
        r"label_length must be in \[0, 3\]; got 4 at position \[1\]",
        Y, {"label_length": [2, 4]},
    ),
    "negative length": (
        ValueError,
        r"logit_length must be in \[0, 6\]; got -1 at position \[0\]",
        Y, {"logit_length": [-1, 4]},
    ),
    "many frames": (ValueError, r"logit_length must be in \[0, 6\]; got 7 at", Y, {"logit_length": [6, 7]}),
    "float lengths": (TypeError, r"logit_length must hold integers; got float64", Y, {"logit_length": [6.0, 3.0]}),
    "bool lengths": (TypeError, r"label_length must hold integers; got bool", Y, {"label_length": [True, False]}),
    "lengths' shape": (
        ValueError,
        r"label_length must have the losses' shape \(2,\); got \(1,\)",
        Y, {"label_length": [1]},
    ),
    "weights": (ValueError, r"sample_weight must be finite", Y, {"sample_weight": [1.0, -1.0]}),
    "weights a frame": (
        ValueError,
        r"sample_weight must have a leading part of",
        Y, {"sample_weight": np.ones((2, 6))},
    ),
    "mask": (TypeError, r"mask must be boolean", Y, {"mask": [1, 0]}),
    "normalizer": (ValueError, r"normalizer must be a finite number > 0", Y, {"normalizer": 0.0}),
    "check": (ValueError, r"check must be 'nan' or 'raise'", Y, {"check": "never"}),
    "out": (ValueError, r"out must have y_pred's shape", Y, {"out": np.zeros((2, 6, 3))}),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line(what):
    error, words, y, options = BAD[what]
    x = X.copy()
    with pytest.raises(error, match=words) as caught:
        fl.ctc.value_and_grad(y, x, **options)
    assert str(caught.value).startswith("ctc: ")
    assert "\n" not in str(caught.value)
    assert not x.any()


def test_bad_predictions_and_parameters():
    for x, words in ((np.zeros(4), "y_pred must have axes of frames and classes"), (X.astype(int), "y_pred must be")):
        with pytest.raises((TypeError, ValueError), match=f"^ctc: {words}"):
            fl.ctc(Y, x)
    for blank in (4, -1):
        with pytest.raises(ValueError, match=rf"^ctc: blank must be a class of y_pred, which has 4; got {blank}$"):
            fl.ctc(Y, X, blank=blank)
    for name, value in (("blank", 0.5), ("zero_infinity", 1), ("from_logits", None), ("reduction", "max")):
        with pytest.raises(ValueError, match=f"^ctc: {name} must be"):
            fl.CTC(**{name: value})
    with pytest.raises(TypeError, match=r"^ctc: keywords must be among blank, from_logits, reduction, zero_infinity"):
        fl.ctc(Y, X, label_lengths=[1, 1])
    with pytest.raises(TypeError, match="label_lengths"):
        fl.CTC()(Y, X, label_lengths=[1, 1])


def test_a_bad_label_writes_nothing():
    out = np.full_like(X, 7)
    with pytest.raises(ValueError, match="y_true"):
        fl.ctc.value_and_grad([[9, 0, 0], [1, 0, 0]], X, out=out)
    assert (out == 7).all()


# -- other people's ----------------------------------------------------------------------------------------------


@with_peers
@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_torch(blank, zero_infinity):
    import torch
    import torch.nn.functional as F

    for seed, shape in enumerate(((7, 12, 5), (3, 40, 9), (4, 3, 6))):
        y, x = drawn(shape, 4, seed)
        y = np.where(y == blank, blank + 1 if blank == 0 else 1, y) if blank else y
        y = np.where(np.cumsum(y <= 0, axis=1) > 0, -1, y)
        lengths = (y >= 0).sum(axis=1)
        counts = np.random.default_rng(seed).integers(1, shape[1] + 1, shape[0])
        tensor = torch.tensor(x, requires_grad=True)
        losses = F.ctc_loss(
            F.log_softmax(tensor, -1).transpose(0, 1), torch.tensor(np.maximum(y, 0)), torch.tensor(counts),
            torch.tensor(lengths), blank, "none", zero_infinity,
        )  # fmt: skip
        loss = fl.CTC(blank=blank, zero_infinity=zero_infinity, reduction="none")
        value, grad = loss.value_and_grad(y, x, logit_length=counts)
        np.testing.assert_allclose(value, losses.detach().numpy(), rtol=1e-12)
        finite = np.isfinite(value)
        torch.where(torch.isfinite(losses), losses, 0.0).sum().backward()
        fits = finite & ~((value == 0.0) & zero_infinity)  # torch's gradient of what does not fit may be NaN
        np.testing.assert_allclose(grad[fits], tensor.grad.numpy()[fits], rtol=1e-9, atol=1e-12)
        logs = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
        other = dataclasses.replace(loss, from_logits=False)
        np.testing.assert_allclose(other(y, logs, logit_length=counts), value, rtol=1e-12)


@with_peers
def test_the_peers_that_the_loss_names():
    import keras
    import torch
    import torch.nn.functional as F

    y, x = drawn((6, 12, 5), 4, 31)
    y = y.clip(0)
    names = {"torch": torch, "F": F, "keras": keras, "from_logits": True, "blank": 0, "zero_infinity": False}
    tensor = torch.tensor(x, requires_grad=True)
    value, grad = fl.ctc.value_and_grad(y, x)
    theirs = eval(fl.CTC.peers.torch, {**names, "y": torch.tensor(y), "p": tensor})
    theirs.backward()
    assert value == pytest.approx(float(theirs.detach()), rel=1e-12)
    np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-9, atol=1e-13)
    by_keras = eval(fl.CTC.peers.keras, {**names, "y": torch.tensor(y), "p": torch.tensor(x)})
    # Keras computes float64 in float32: half an ulp of a number of up to 64 at each of the 12 frames.
    np.testing.assert_allclose(fl.ctc(y, x, reduction="none"), by_keras.numpy(), rtol=0, atol=12 * 2.0**-19)
    jax = pytest.importorskip("jax", reason="optax needs jax")
    names["optax"] = pytest.importorskip("optax", reason="optax is compared where it is installed")
    with jax.enable_x64(True):
        by_optax = eval(fl.CTC.peers.optax, {**names, "jax": jax, "y": y, "p": jax.numpy.asarray(x)})
    # To optax, paths that cannot be have probability exp(-1e5), which changes no digit.
    np.testing.assert_allclose(fl.ctc(y, x, reduction="none"), by_optax, rtol=1e-12)


# -- around it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", warmup.DTYPES)
def test_it_takes_what_it_is_warmed_up_with(dtype):
    kinds = dict(configurations(fl.CTC))
    assert list(kinds) == ["logits", "log-probabilities"]
    for loss in kinds.values():
        requests = list(warmup.requests(loss, dtype))
        assert {request.call for request in requests} == set(CALLS)
        for request in requests:
            assert np.isfinite(loss(*warmup.operands(loss, request.shape, dtype)))


def test_the_function_and_the_class_are_one():
    y, x = drawn((3, 6, 5), 3, 18)
    options = {"label_length": [2, 0, 0], "logit_length": [6, 5, 4]}
    y = np.abs(y).clip(1)
    for call in CALLS:
        ours = getattr(fl.CTC(blank=0, zero_infinity=True), call)(y, x, **options)
        other = getattr(fl.ctc, call)(y, x, zero_infinity=True, **options)
        for left, right in zip(
            np.atleast_1d(ours) if call == "__call__" else ours,
            np.atleast_1d(other) if call == "__call__" else other,
            strict=True,
        ):
            np.testing.assert_array_equal(left, right)
    parameters = fl.ctc.__signature__.parameters
    assert {"label_length", "logit_length", "blank", "zero_infinity", "from_logits", "check"} <= set(parameters)


# -- the comparisons find what is wrong ------------------------------------------------------------------------------


def weighted_case():
    y = np.array([[1, 1, 2], [2, 1, 0], [1, 2, 1]])
    _, x = drawn((3, 9, 4), 1, 19)
    weights, counts, lengths = np.array([0.5, 2.0, 1.0]), np.array([9, 7, 6]), np.array([3, 2, 2])
    return y, x, {"sample_weight": weights}, {"logit_length": counts, "label_length": lengths}


def comparison():
    """Repeated classes, weights, lengths and another blank at once; and predictions that are nearly certain."""
    y, x, weights, lengths = weighted_case()
    for blank in (0, 3):
        loss = fl.CTC(blank=blank)
        expected = evaluate(loss, Targets(y, *(lengths[name] for name in Targets._fields[1:])), x, **weights)
        for result, right in zip(loss.value_grad_and_hess(y, x, **weights, **lengths), expected, strict=True):
            np.testing.assert_allclose(result, right, rtol=1e-11, atol=1e-13)
    test_gradients_of_nearly_certain_predictions_keep_their_accuracy("float64")


MUTANTS = {
    "a blank left out between equal classes": ("if i > 0 and label != last:", "if i > 0:"),
    "no blank left out at all": ("if i > 0 and label != last:", "if i < 0:"),
    "the class before 0 is the blank": ("blank_emission(move(x, blank), peak)", "blank_emission(x, peak)"),
    "no weight in the value": ("value *= weight", "value *= 1.0"),
    "no weight in the gradient": ("factor = scale * weight", "factor = scale"),
    "one frame too few": ("for t in range(here_frames):", "for t in range(here_frames - 1):"),
    "all frames": ("integer(move(frames_of, chunk))", "frames"),
    "one label too few": ("integer(move(label_counts, chunk)),", "max(integer(move(label_counts, chunk)) - 1, 0),"),
    "all labels": ("integer(move(label_counts, chunk)),", "longest,"),
    "no ending at the last class": ("start_at(after, width, labels, labels - 1)", "start_at(after, width, labels, -1)"),
    "another sequence's gradient": ("g_row, h_row = move(x_all", "h_row, g_row = move(x_all"),
    "the blank's own occupancy left out of the others": ("if blank_share <= 0.5:", "if blank_share < 0.0:"),
    "the skip of the pair before": ("skips.moved(1).load", "skips.moved(0).load"),
    "occupancies kept from frame to frame": ("wide.scatter(occupied, places, own.constant(0.0))", "pass"),
}


@pytest.fixture
def mutated(monkeypatch):
    """Have calls use the sweep with some of its text replaced."""

    def use(old, new):
        text = pathlib.Path(sequence.__file__).read_text(encoding="utf-8")
        assert text.count(old) >= 1
        module = types.ModuleType("fastloss.cpu.mutant")
        module.__file__, module.__package__ = sequence.__file__, "fastloss.cpu"
        exec(compile(text.replace(old, new), sequence.__file__, "exec"), vars(module))
        monkeypatch.setattr("fastloss.families.sequence.backend", lambda name: module)

    monkeypatch.setenv("FASTLOSS_DISABLE_CACHE", "1")
    return use


def test_the_sweep_as_it_is_passes(mutated):
    mutated("value *= weight", "value *= weight")
    comparison()


@pytest.mark.parametrize("what", MUTANTS)
def test_mutants_are_found(what, mutated):
    mutated(*MUTANTS[what])
    with pytest.raises(AssertionError):
        comparison()
