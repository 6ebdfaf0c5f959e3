"""Sizes around every border between two ways through a kernel, thread counts, and the short way in.

Vectors hold 64 float32 or 32 float64, chunks 8192 elements (32,768 from 2^20 on); rows of up to 96 classes (float64:
64) are transposed; arrays of 16 MB and more are written around the caches, and their rows of 16 KB and more read
ahead; awake threads share from some 100,000 elements on.
"""

import numpy as np
import pytest
from fresh_process import program, run
from representatives import THOROUGH
from sampling import DTYPES, LOSSES, ONE_EACH, SWEPT, cast, is_indexed, is_rowwise, label_of, plain, with_reduction

from fastloss.reference import evaluate

PLAIN = [loss for loss in SWEPT if not getattr(loss, "class_weight", None)]
ELEMENTWISE = [loss for loss in PLAIN if not is_rowwise(loss)]
ROWWISE = [loss for loss in PLAIN if is_rowwise(loss)]
#: The one whose rows are read ahead in all ways.
LONG = [loss for loss in ROWWISE if loss.name in THOROUGH][-1]
#: One of each first pass: none, a row's peak, its total.
READ_AHEAD = list({(loss.formula().first, loss.indexed): loss for loss in ROWWISE}.values())
#: Bytes of an array that is written around the caches.
LARGE = 1 << 24
#: Classes in rows of 16 KB and more: several rows a chunk, or one; whole vectors and cache lines, or not.
LONG_ROWS = [
    *((4099, "float32"), (49_984, "float32")),
    *((8193, "bfloat16"), (16_384, "bfloat16"), (8192, "float16"), (2080, "float64")),
]


def operands(loss, shape, dtype, seed=0):
    return cast(*plain(loss, shape, np.random.default_rng(seed)), DTYPES[dtype])


def agree(results, expected, dtype):
    tolerance = {"float32": 3e-6, "float64": 1e-12}[dtype]
    for result, right in zip(results, expected, strict=True):
        largest = np.abs(right).max(initial=0.0)
        np.testing.assert_allclose(result, right, rtol=tolerance, atol=tolerance * largest)


# -- borders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ELEMENTWISE[:2], ids=label_of)
def test_every_small_number_of_elements(loss, dtype):
    y, p = operands(loss, (8193,), dtype)
    weight = np.random.default_rng(1).random(8193)
    each, grads, hesses = evaluate(with_reduction(loss, "none"), y, p)
    loss = with_reduction(loss, "sum")
    for size in (*range(1, 131), 4095, 4096, 4097, 8191, 8192, 8193):
        part = slice(0, size)
        expected = each[part].sum(), grads[part], hesses[part]
        agree(loss.value_grad_and_hess(y[part], p[part]), expected, dtype)
        weighed = tuple(x[part] * weight[part] for x in (each, grads, hesses))
        results = loss.value_grad_and_hess(y[part], p[part], weight[part])
        agree(results, (weighed[0].sum(), *weighed[1:]), dtype)


@pytest.mark.parametrize("inner", [1, 2, 3, 16, 31, 32, 33, 64, 4095, 4096, 5000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_cover_several_elements(dtype, inner):
    """A weight's run of elements may start and end anywhere within vectors and chunks."""
    loss = LOSSES["huber"](reduction="none")
    groups = max(2, 9000 // inner)
    y, p = operands(loss, (groups, inner), dtype)
    weight = np.random.default_rng(1).random(groups)
    mask = np.random.default_rng(2).random(groups) < 0.5
    agree(loss.value_grad_and_hess(y, p, weight), evaluate(loss, y, p, weight), dtype)
    agree(loss.value_grad_and_hess(y, p, weight, mask=mask), evaluate(loss, y, p, weight, mask), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", [loss for loss in ONE_EACH if is_rowwise(loss)], ids=label_of)
def test_every_number_of_classes(loss, dtype):
    """Around tiles, vectors, groups and the border between the two sweeps; some rows of each."""
    for classes in (
        *range(1, 71),
        95,
        96,
        97,
        127,
        128,
        129,
        159,
        160,
        161,
        191,
        192,
        193,
        255,
        256,
        257,
        511,
        513,
        1000,
        4097,
    ):
        for rows in (1, 3, 33):
            y, p = operands(loss, (rows, classes), dtype, seed=classes)
            agree(loss.value_grad_and_hess(y, p), evaluate(loss, y, p), dtype)


@pytest.mark.parametrize("loss", ROWWISE, ids=label_of)
@pytest.mark.parametrize("classes", [3, 10, 70, 170])
def test_every_small_number_of_rows(loss, classes):
    """Blocks of 32 rows, chunks of about 4096 or 16384 elements."""
    y, p = operands(loss, (1400, classes), "float32")
    each, grads, hesses = evaluate(with_reduction(loss, "none"), y, p)
    loss = with_reduction(loss, "sum")
    for rows in (*range(1, 70), 234, 235, 408, 409, 416, 417, 1365, 1366, 1376, 1377, 1400):
        part = slice(0, rows)
        expected = each[part].sum(), grads[part], hesses[part]
        agree(loss.value_grad_and_hess(y[part], p[part]), expected, "float32")


def test_results_do_not_depend_on_the_rest_of_the_array():
    """An element's gradient has the same bits wherever it stands."""
    for loss in ONE_EACH:
        loss = with_reduction(loss, "sum")
        shape = (300, 10) if is_rowwise(loss) else (3000,)
        y, p = operands(loss, shape, "float32")
        whole = loss.grad(y, p)
        for start in (0, 1, 7, 33, 250):
            part = loss.grad(y[start:].copy(), p[start:].copy())
            np.testing.assert_array_equal(part, whole[start:])


# -- threads -------------------------------------------------------------------------------------------------


@pytest.fixture
def shared_calls(monkeypatch):
    """How many threads each shared kernel call may have had; helpers are woken for every one."""
    from fastloss.cpu import run
    from fastloss.cpu.pool import Pool

    calls = []
    ready = Pool.ready
    monkeypatch.setattr(Pool, "ready", lambda self, helpers: (calls.append(helpers + 1), ready(self, helpers))[1])
    monkeypatch.setattr(run, "WAKE_FROM", 0)
    return calls


def large_shapes(loss, dtype):
    elements = 420_000 if dtype != "float64" else 240_000
    if not is_rowwise(loss):
        return [(elements + 13,), (2**20 + 32_768 + 13,)]
    return [(elements // classes + 3, classes) for classes in (10, 1000)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("loss", ONE_EACH, ids=label_of)
def test_the_same_bits_for_any_number_of_threads(loss, dtype, set_threads, shared_calls):
    for shape in large_shapes(loss, dtype):
        y, p = operands(loss, shape, dtype)
        weight = np.random.default_rng(1).random(shape[:1])
        results = {}
        for threads in (1, 2, 3, 4, 5):
            set_threads(threads)
            del shared_calls[:]
            results[threads] = [*loss.value_and_grad(y, p), *loss.value_and_grad(y, p, weight)]
            assert shared_calls == ([threads] * 2 if threads > 1 else []), "not large enough to be shared"
        for threads in (2, 3, 4, 5):
            for result, alone in zip(results[threads], results[1], strict=True):
                np.testing.assert_array_equal(np.asarray(result, np.float64), np.asarray(alone, np.float64))


@pytest.mark.parametrize("loss", ONE_EACH, ids=label_of)
def test_large_results_are_right(loss, set_threads):
    """Shared among threads, against the reference; also one loss per element or row."""
    set_threads(2)
    for shape in large_shapes(loss, "float32"):
        y, p = operands(loss, shape, "float32")
        agree(loss.value_and_grad(y, p), evaluate(loss, y, p)[:2], "float32")
        each = with_reduction(loss, "none")
        np.testing.assert_allclose(each(y, p), evaluate(each, y, p)[0], rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_results_written_around_the_caches(dtype):
    """16 MB and more: the same bits as in parts that are written through them; also to an odd address."""
    loss = with_reduction(ONE_EACH[1], "sum")
    y, p = (np.tile(a, 16) for a in operands(loss, (LARGE // DTYPES[dtype].itemsize // 16,), dtype))
    part = slice(0, len(p) // 16)
    expected = np.tile(loss.grad(y[part].copy(), p[part].copy()), 16)
    np.testing.assert_array_equal(loss.grad(y, p), expected)
    np.testing.assert_array_equal(to_an_odd_address(loss, y, p), expected)


def row_by_row(loss, y, p, **weighing):
    """Losses and gradients from calls with one row each."""
    results = []
    for row in range(len(p)):
        part = slice(row, row + 1)
        results.append(loss.value_and_grad(y[part], p[part], **{name: a[part] for name, a in weighing.items()}))
    return (np.concatenate(column) for column in zip(*results, strict=True))


def to_an_odd_address(loss, y, p):
    memory = np.zeros(p.size + 1, p.dtype)
    out = memory[1:].reshape(p.shape)
    loss.value_and_grad(y, p, out=out)
    assert memory[0] == 0
    return out


@pytest.mark.parametrize(
    ("loss", "classes", "dtype"),
    [*((loss, *LONG_ROWS[0]) for loss in READ_AHEAD), *((LONG, *long) for long in LONG_ROWS[1:])],
    ids=lambda x: label_of(x) if x in ROWWISE else None,
)
def test_long_rows(loss, classes, dtype, set_threads, shared_calls):
    """In an array of 16 MB and more, rows are read before it is their turn: the same bits as row by row."""
    shape = (LARGE // DTYPES[dtype].itemsize // classes + 1, classes)
    y, p = operands(loss, (7, classes), dtype)
    weight = np.random.default_rng(1).random(7).astype("float32")
    each = with_reduction(loss, "none")
    losses, grads = row_by_row(each, y, p, sample_weight=weight)
    rows = np.random.default_rng(2).integers(0, 7, shape[0])
    mask = np.random.default_rng(3).random(shape[0]) < 0.6
    y, p, weight, losses, grads = (a[rows] for a in (y, p, weight, losses, grads))
    losses[~mask], grads[~mask] = 0.0, 0.0
    for threads in (1, 2, 5):
        set_threads(threads)
        del shared_calls[:]
        value, grad = each.value_and_grad(y, p, sample_weight=weight, mask=mask)
        assert shared_calls == ([threads] if threads > 1 else [])
        np.testing.assert_array_equal(value, losses)
        np.testing.assert_array_equal(grad, grads)
    total = with_reduction(loss, "sum")
    value, grad = total.value_and_grad(y, p)
    np.testing.assert_array_equal(to_an_odd_address(total, y, p), grad)
    set_threads(1)
    assert total.value_and_grad(y, p)[0] == value
    assert value == pytest.approx(each(y, p).sum(dtype="float64"), rel=1e-6)


AFTER_A_LARGE_CALL = """
    import numpy as np, fastloss as fl
    loss = fl.MeanSquaredError() if sys.argv[1] == "elementwise" else fl.CategoricalCrossentropy(from_logits=True)
    large = np.zeros((1025, 4096), np.float32)
    loss.value_and_grad(large, large)
    for rows in (1, 200):
        y = np.ones((rows, 4096), np.float32)
        out = np.empty(y.size + 1, np.float32)[1:].reshape(y.shape)
        for _ in range(3):
            value, grad = loss.value_and_grad(y, y, out=out)
            assert grad is out and not np.isnan(out).any()
"""


@pytest.mark.parametrize("family", ["elementwise", "rowwise"])
def test_a_small_call_after_a_large_one(family):
    """Its results may lie anywhere; stores around the caches, to no multiple of 16 bytes, would end the process."""
    run(program("import sys", AFTER_A_LARGE_CALL), family)


@pytest.mark.parametrize("classes", [4099, 50_000])
def test_long_rows_that_do_not_count(classes, set_threads):
    """Ignored and wrong labels in any order; a wrong one raises, and no other row is touched by it."""
    set_threads(2)
    loss = LOSSES["sparse_categorical_crossentropy"](from_logits=True, ignore_class=-100, reduction="sum")
    rows = LARGE // 4 // classes + 1
    generator = np.random.default_rng(0)
    p = generator.standard_normal((rows, classes), np.float32)
    y = np.where(generator.random(rows) < 0.5, -100, generator.integers(0, classes, rows))
    y[-3:] = -100
    grad = loss.grad(y, p)
    assert not grad[y == -100].any()
    _, grads = row_by_row(with_reduction(loss, "none"), y, p)
    np.testing.assert_array_equal(grad, grads)
    y[1::3] = classes
    out = np.full_like(p, 7)
    with pytest.raises(ValueError, match=f"{classes} at"):
        loss.grad(y, p, out=out)
    grad[1::3] = 0
    np.testing.assert_array_equal(out, grad)


@pytest.mark.soak
@pytest.mark.parametrize("family", ["elementwise", "rowwise"])
def test_more_than_2_to_the_31_elements(family):
    """Positions do not fit 32 bits. Needs 10 GB of memory."""
    classes = 1024
    rows = 2**31 // classes + 5
    p = np.zeros((rows, classes), np.float16)
    p[-1, -1] = 2.0
    if family == "elementwise":
        y = np.zeros((rows, classes), np.uint8)
        value, grad = LOSSES["mean_squared_error"](reduction="sum").value_and_grad(y, p, out=p)
        assert value == 4.0
        assert grad[-1, -1] == 4.0
        assert np.count_nonzero(grad[-3:]) == 1
    else:
        y = np.full(rows, classes - 1)
        loss = LOSSES["sparse_categorical_crossentropy"](from_logits=True, reduction="sum")
        value, grad = loss.value_and_grad(y, p, out=p)
        last = np.log(classes - 1 + np.exp(2.0)) - 2.0
        assert value == pytest.approx((rows - 1) * np.log(classes) + last, rel=1e-7)
        assert grad[-1, -1] == pytest.approx(np.exp(-last) - 1, rel=1e-3)
        assert grad[-2, -1] == pytest.approx(1 / classes - 1, rel=1e-3)


# -- the short way in ----------------------------------------------------------------------------------------
# Repeated small calls of value_and_grad skip the checks that the first one passed; everything must stay as it is.


def fresh(loss):
    return with_reduction(loss, loss.reduction)


def same_bits(results, expected):
    assert results[0] == expected[0]
    assert results[1].dtype == expected[1].dtype
    assert results[1].shape == expected[1].shape
    np.testing.assert_array_equal(results[1], expected[1])


def successions(loss):
    """Operands that follow each other on one loss."""
    for shape in ((4, 5), (4, 5), (9, 5), (1, 5), (4, 7), (2, 3, 5), (64, 80), (5,), (0, 5), (4, 5)):
        yield operands(loss, shape, "float32", seed=len(shape))
    for dtype in ("float64", "bfloat16", "float32"):
        yield operands(loss, (4, 5), dtype)
    y, p = operands(loss, (4, 5), "float32")
    yield y.astype(np.int16 if is_indexed(loss) else np.float64), p
    yield y, p
    yield y, np.asfortranarray(p)
    yield y, p[:, ::-1]
    yield y[::2], p[::2]
    yield y.tolist(), p
    yield y, p
    yield y, p.astype(np.float64).tolist()
    yield y, p
    yield y.astype(np.int32 if is_indexed(loss) else np.float16), p
    misaligned = np.zeros(p.nbytes + 1, np.uint8)[1:].view(p.dtype).reshape(p.shape)
    misaligned[...] = p
    yield y, misaligned


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ONE_EACH, ids=label_of)
def test_repeated_calls(loss, reduction):
    loss = with_reduction(loss, reduction)
    rng = np.random.default_rng(0)
    for y, p in successions(loss):
        expected = fresh(loss).value_and_grad(y, p)
        for _ in range(3):
            same_bits(loss.value_and_grad(y, p), expected)
        for _ in range(2):
            out = np.empty_like(expected[1])
            assert loss.value_and_grad(y, p, out=out)[1] is out
            np.testing.assert_array_equal(out, expected[1])
        weight = rng.random(np.shape(p)[:1]) if np.ndim(p) > is_rowwise(loss) else 0.5
        options = {"sample_weight": weight, "mask": np.asarray(weight) > 0.4, "normalizer": 3.0}
        same_bits(loss.value_and_grad(y, p, **options), fresh(loss).value_and_grad(y, p, **options))


@pytest.mark.parametrize("loss", PLAIN, ids=label_of)
def test_repeated_calls_of_every_formula(loss):
    for reduction in ("mean", "weighted_mean", "none"):
        each = with_reduction(loss, reduction)
        for seed in range(3):
            y, p = operands(loss, (4, 5), "float32", seed)
            right = fresh(each).value_and_grad(y, p)
            results = each.value_and_grad(y, p)
            np.testing.assert_array_equal(results[0], right[0])
            np.testing.assert_array_equal(results[1], right[1])


@pytest.mark.parametrize("loss", PLAIN, ids=label_of)
def test_repeated_calls_in_place(loss):
    y, p = operands(loss, (4, 5), "float32")
    value, grad = fresh(loss).value_and_grad(y, p)
    for _ in range(3):
        x = p.copy()
        results = loss.value_and_grad(y, x, out=x)
        assert results[1] is x
        same_bits(results, (value, grad))


@pytest.mark.parametrize("loss", PLAIN, ids=label_of)
def test_repeated_calls_refuse_what_first_calls_refuse(loss):
    y, p = operands(loss, (4, 5), "float32")
    loss.value_and_grad(y, p)
    loss.value_and_grad(y, p)
    frozen = np.zeros_like(p)
    frozen.flags.writeable = False
    memory = np.zeros(60, np.float32)
    x = memory[:20].reshape(4, 5)
    bad = [
        (y, p[:3], None),
        (y[:3], p, None),
        (y, p[None], None),
        (y, p.astype(complex), None),
        (y, p.astype(np.float32).view(np.int32), None),
        (y, p.astype(p.dtype.newbyteorder()), None),
        (y, np.ma.masked_array(p), None),
        (np.ma.masked_array(y), p, None),
        (y, p, frozen),
        (y, p, np.zeros((4, 5), np.float64)),
        (y, p, np.zeros((5, 4), np.float32)),
        (y, p, np.zeros((4, 5, 1), np.float32)),
        (y, p, p.tolist()),
        (y, p, np.broadcast_to(np.float32(0), (4, 5))),
        (y, x, memory[10:30].reshape(4, 5)),
        (y, x, memory[:20].reshape(4, 5)[::-1]),
    ]
    if is_indexed(loss):
        bad += [(y * 0 + 5, p, None), (y * 0 - 1, p, None), (y.astype(float), p, None), (y[:, None], p, None)]
    else:
        bad += [(x, p, memory[:20].reshape(4, 5)), (y.T, p, None)]
    for target, prediction, out in bad:
        with pytest.raises((ValueError, TypeError), match=rf"^{loss.name}: ") as first:
            fresh(loss).value_and_grad(target, prediction, out=out)
        with pytest.raises(first.type) as again:
            loss.value_and_grad(target, prediction, out=out)
        assert str(again.value) == str(first.value)
        same_bits(loss.value_and_grad(y, p), fresh(loss).value_and_grad(y, p))


def test_repeated_calls_keep_no_array_alive():
    import weakref

    for loss in PLAIN:
        loss = fresh(loss)
        y, p = operands(loss, (4, 5), "float32")
        out = np.empty_like(p)
        watched = [weakref.ref(a) for a in (y, p, out)]
        loss.value_and_grad(y, p, out=out)
        loss.value_and_grad(y, p, out=out)
        del y, p, out
        assert [reference() for reference in watched] == [None] * 3
