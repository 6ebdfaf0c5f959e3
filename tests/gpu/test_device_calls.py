"""What only CuPy arrays have: sweeps by size, streams, devices, no waiting, bad input that is not refused at once."""

import os
import sys
import threading

import numpy as np
import pytest
from fake_cupy import EmulatorError, FakeCupy
from fresh_process import run
from sampling import CALLS, DTYPES, SWEPT, cast, in_types, is_indexed, is_rowwise, label_of, plain
from test_calls import VALUE_TOLERANCE, compare
from through_device import placed, use

import fastloss as fl
from fastloss.gpu import launch
from fastloss.reference import evaluate

EVERY = [pytest.param(loss, id=label_of(loss)) for loss in SWEPT]
ROWS = [loss for loss in EVERY if is_rowwise(loss.values[0])]
ELEMENTS = in_types([loss for loss in SWEPT if not is_rowwise(loss)], list(DTYPES))


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    use(monkeypatch, fake)
    return fake


def host(result):
    """A result as the host sees it, without counting that as waiting."""
    return result._host.copy()


def operands(loss, shape, dtype="float32", seed=0):
    return cast(*plain(loss, shape, np.random.default_rng(seed)), DTYPES[dtype])


def with_classes(loss, classes):
    given = getattr(loss, "class_weight", None)
    weights = {} if given is None else {loss.weights_name: tuple(np.resize(given, classes))}
    return type(loss)(**{**loss.__getstate__(), "reduction": "sum", **weights})


def check(cupy, loss, y, p, **options):
    """All three results against the float64 reference; gives the name of the kernel."""
    expected = evaluate(loss, y, p, **options)
    sent = {name: placed(cupy, np.asarray(value)) for name, value in options.items()}
    results = loss.value_grad_and_hess(placed(cupy, y), placed(cupy, p), **sent)
    value, *others = map(host, results)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, expected[0], rtol=VALUE_TOLERANCE[p.dtype.name], atol=1e-30)
    for which, result in zip((1, 2), others, strict=True):
        compare(result, expected[which], p.dtype.name, f"result {which} of {loss}")
    return cupy.launches[-1].name


# -- sweeps and sizes ------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "dtype"), ELEMENTS)
def test_elements_of_any_number(cupy, loss, dtype):
    for size in (1, 3, 8, 1023, 4096, 9001):
        check(cupy, loss, *operands(loss, (size,), dtype))


@pytest.mark.parametrize("loss", ROWS)
def test_rows_of_any_length(cupy, loss):
    """The sweep changes with the number of classes; within each, rows begin anywhere or on whole packs."""
    sweeps = {
        "slab": (1, 2, 10, 31, 32),
        "warp": (33, 64, 127, 1001, 1024),
        "block": (1200, 4096, 9001),
    }
    for sweep, classes in ((sweep, classes) for sweep, sizes in sweeps.items() for classes in sizes):
        configured = with_classes(loss, classes)
        name = check(cupy, configured, *operands(configured, (3 if classes > 40 else 300, classes)))
        assert name == f"fastloss_rowwise_{sweep}"


@pytest.mark.parametrize("classes", [33_000, 70_001, 128_256])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_longer_than_registers_hold(cupy, dtype, classes):
    loss = fl.SparseCategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction="sum")
    y, p = operands(loss, (2, classes), dtype)
    value, grad = loss.value_and_grad(cupy.asarray(y), cupy.asarray(p))
    expected = evaluate(loss, y, p)
    np.testing.assert_allclose(host(value), expected[0], rtol=2e-6)
    compare(host(grad), expected[1], dtype, "gradient")
    assert (cupy.launches[-1].shared_mem > 48 << 10) == (classes * p.itemsize > 64 << 10)


def test_what_shared_memory_does_not_hold_is_read_again(cupy, monkeypatch):
    monkeypatch.setattr("fastloss.gpu.rowwise.SHARED_RESERVED", (227 << 10) // 2 - 512)  # 512 bytes are left
    loss = fl.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    for dtype in ("float32", "float16"):
        y, p = operands(loss, (3, 40_001), dtype)
        out = cupy.asarray(p)
        value, grad = loss.value_and_grad(cupy.asarray(y), out, out=out)
        assert grad is out
        np.testing.assert_allclose(host(value), evaluate(loss, y, p)[0], rtol=2e-6)
        compare(host(grad), evaluate(loss, y, p)[1], dtype, "gradient")
    assert 0 < cupy.launches[-1].shared_mem <= 1024


@pytest.mark.parametrize("loss", EVERY)
def test_arrays_that_begin_anywhere(cupy, loss):
    """Views that skip some elements: all by the same number, or each by its own."""
    shape = (40, 5) if is_rowwise(loss) else (2000,)
    y, p = operands(loss, shape)
    expected = evaluate(loss, y, p)
    for behind_p, behind_y, behind_out in ((1, 1, 1), (3, 3, 3), (1, 2, 0), (0, 3, 1)):
        views = []
        for array, behind in ((y, behind_y), (p, behind_p), (np.zeros_like(p), behind_out)):
            longer = np.concatenate([np.zeros(behind, array.dtype), array.ravel()])
            views.append(cupy.asarray(longer)[behind:].reshape(array.shape))
        value, grad = loss.value_and_grad(*views[:2], out=views[2])
        np.testing.assert_allclose(host(value), expected[0], rtol=4e-6)
        compare(host(grad), expected[1], "float32", f"gradient, {behind_p} {behind_y} {behind_out}")


@pytest.mark.parametrize("classes", [10, 100, 1500])
@pytest.mark.parametrize("loss", EVERY)
def test_the_same_bits_in_any_order(cupy, loss, classes):
    """Whichever block comes last, and however the threads of a block take turns."""
    if not is_rowwise(loss) and classes != 10:
        pytest.skip("elementwise: one size is enough")
    loss = with_classes(loss, classes) if is_rowwise(loss) else loss
    y, p = (cupy.asarray(a) for a in operands(loss, (700 if classes < 1000 else 9, classes)))
    found = set()
    for schedule, seed in (("forward", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2)):
        cupy.schedule, cupy.seed = schedule, seed
        results = loss.value_grad_and_hess(y, p)
        found.add(b"".join(host(result).tobytes() for result in results))
    assert len(found) == 1
    assert cupy.launches[-1].grid[0] > 1


def of_one_block(monkeypatch, cupy, family, blocks):
    """Have a launch take so many blocks, and run the last alone."""
    monkeypatch.setattr(f"fastloss.gpu.{family}.MOST_BLOCKS", 1 << 30)
    cupy.multiprocessors, cupy.only_block = blocks, blocks - 1
    launch.device_of.cache_clear()


def test_more_than_2_to_the_31_elements(cupy, monkeypatch):
    """The last block of a launch over 8 GB, most of which is never touched."""
    tile = 256 * 4 * 8
    size = (1 << 31) + 2 * tile
    of_one_block(monkeypatch, cupy, "elementwise", size // tile)
    y, p, grad = (cupy.empty((size,), dtype) for dtype in (np.uint8, np.float16, np.float16))
    y[-5:], p[-5:], p[: 2 * tile] = 1, 3, 3
    fl.MeanSquaredError(reduction="sum").grad(y, p, out=grad)
    assert cupy.launches[-1].grid[0] == size // tile
    np.testing.assert_array_equal(host(grad[-5:]), [4] * 5)
    np.testing.assert_array_equal(host(grad[:8]), 0)  # another block's, where an offset of 32 bits would lead


def test_rows_of_more_than_2_to_the_31_elements(cupy, monkeypatch):
    rows, classes = 50_000, 50_257
    of_one_block(monkeypatch, cupy, "rowwise", rows)
    labels, p = cupy.full((rows,), 7, np.int64), cupy.empty((rows, classes), np.float16)
    last = np.random.default_rng(0).normal(size=(1, classes)).astype(np.float16)
    p[-1:] = placed(cupy, last)
    grad = fl.SparseCategoricalCrossentropy(from_logits=True, reduction="sum").grad(labels, p)
    expected = evaluate(fl.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"), np.array([7]), last)
    compare(host(grad[-1:]), expected[1], "float16", "last row")


# -- launches, streams, devices, waiting -------------------------------------------------------------


def some(cupy, loss, rows=50, **options):
    return [cupy.asarray(a) for a in operands(loss, (rows, 5) if is_rowwise(loss) else (rows,), **options)]


@pytest.mark.parametrize("loss", EVERY)
def test_one_launch_and_no_waiting(cupy, loss):
    y, p = some(cupy, loss)
    loss.value_and_grad(y, p)  # the first call sends class weights
    cupy.launches.clear()
    for call in CALLS:
        getattr(loss, call)(y, p)
    ignores = getattr(loss, "ignore_class", None) is not None
    assert len(cupy.launches) == len(CALLS) * (1 + ignores)  # the mean counts the rows first
    cupy.launches.clear()
    weights, mask = cupy.asarray(np.ones(50)), cupy.asarray(np.ones(50, bool))
    loss.value_and_grad(y, p, weights, mask=mask)
    assert len(cupy.launches) == 2
    assert cupy.launches[0].name == "fastloss_weighing"
    assert cupy.synchronisations == 0


def test_a_launch_needs_no_new_text(cupy):
    """Kernels are kept, by what they are specialised on."""
    loss = fl.Huber()
    y, p = some(cupy, loss)
    for delta in (0.5, 1.5):
        fl.Huber(delta=delta).value_and_grad(y, p)
    assert len(launch._functions) == 1


def test_every_stream_has_scratch_of_its_own(cupy):
    loss = fl.MeanSquaredError()
    y, p = some(cupy, loss)
    streams = [cupy.cuda.Stream(), cupy.cuda.Stream()]
    for stream in (*streams, *streams):
        with stream:
            loss(y, p)
    scratch = [launch._workspaces[0, stream.ptr, threading.get_ident()] for stream in streams]
    assert len(launch._workspaces) == 2
    assert scratch[0].partials.data.ptr != scratch[1].partials.data.ptr
    assert scratch[0].ticket.data.ptr != scratch[1].ticket.data.ptr
    for one in scratch:
        np.testing.assert_array_equal(host(one.ticket), [0])


@pytest.mark.parametrize("loss", EVERY)
def test_arrays_of_another_device_than_the_current(cupy, loss):
    y, p = operands(loss, (6, 5) if is_rowwise(loss) else (6,))
    with cupy.cuda.Device(1):
        there = [cupy.asarray(a) for a in (y, p, np.ones(6))]
    value, grad = loss.value_and_grad(*there)
    assert value.device.id == grad.device.id == 1
    assert cupy.cuda.runtime.getDevice() == 0
    np.testing.assert_allclose(host(value), evaluate(loss, y, p, np.ones(6))[0], rtol=4e-6)


@pytest.mark.parametrize("argument", ["y_true", "sample_weight", "mask", "out", "hess_out", "normalizer"])
def test_arrays_of_two_devices_or_of_none(cupy, argument):
    arrays = {"y_true": np.ones(6, "f4"), "y_pred": np.zeros(6, "f4"), "sample_weight": np.ones(6)}
    arrays |= {"mask": np.ones(6, bool), "out": np.zeros(6, "f4"), "hess_out": np.zeros(6, "f4")}
    arrays |= {"normalizer": np.ones(1)}
    sent = {name: cupy.asarray(array) for name, array in arrays.items()}
    with cupy.cuda.Device(1):
        elsewhere = cupy.asarray(arrays[argument])
    with pytest.raises(ValueError, match=rf"huber: {argument} must be on y_pred's device, 0; got an array on device 1"):
        fl.Huber().value_grad_and_hess(**{**sent, argument: elsewhere})
    if argument != "normalizer":
        with pytest.raises(TypeError, match=rf"huber: {argument} must be a CuPy array.*cupy.asarray"):
            fl.Huber().value_grad_and_hess(**{**sent, argument: arrays[argument]})


@pytest.mark.parametrize("loss", EVERY)
def test_nothing_at_all(cupy, loss):
    y, p = (cupy.asarray(a) for a in operands(loss, (0, 5) if is_rowwise(loss) else (0,)))
    value, grad, hess = loss.value_grad_and_hess(y, p)
    assert host(value) == 0.0
    assert grad.shape == hess.shape == p.shape
    assert not cupy.launches


def test_a_normalizer_on_the_device(cupy):
    y, p = operands(fl.Huber(), (50,))
    z = np.array(12.5)
    value, grad = fl.Huber(reduction="sum").value_and_grad(cupy.asarray(y), cupy.asarray(p), normalizer=cupy.asarray(z))
    expected = evaluate(fl.Huber(reduction="sum"), y, p, normalizer=12.5)
    np.testing.assert_allclose(host(value), expected[0], rtol=2e-6)
    compare(host(grad), expected[1], "float32", "gradient")
    with pytest.raises(ValueError, match="normalizer must be one number"):
        fl.Huber()(cupy.asarray(y), cupy.asarray(p), normalizer=cupy.asarray(y))


@pytest.mark.parametrize("bad", [np.nan, -3.0])
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_bad_normalizer_on_the_device_shows(cupy, bad, reduction):
    loss = fl.Huber(reduction=reduction)
    y, p = some(cupy, loss)
    value, grad = loss.value_and_grad(y, p, normalizer=cupy.asarray(np.array(bad)))
    assert np.isnan(host(value)).all()
    assert np.isnan(host(grad)).all()


def test_a_bad_normalizer_of_nothing_is_refused(cupy):
    empty = cupy.empty((0,), np.float32)
    with pytest.raises(ValueError, match="huber: normalizer must be a finite number > 0"):
        fl.huber(empty, empty, normalizer=-1.0)


def test_one_weight_for_all(cupy):
    y, p = some(cupy, fl.Huber(), dtype="float64")
    np.testing.assert_allclose(host(fl.huber(y, p, 2.5)), 2.5 * host(fl.huber(y, p)), rtol=1e-15)
    with pytest.raises(ValueError, match="huber: sample_weight must be finite"):
        fl.huber(y, p, -1.0)


def test_what_a_captured_call_uses_is_its_own_and_kept(cupy):
    loss = fl.SparseCategoricalCrossentropy(class_weight=[1, 2, 3, 4, 5], from_logits=True)
    y, p = some(cupy, loss)
    before = loss.value_and_grad(y, p)
    cupy.capturing = True
    weights = cupy.asarray(np.ones(50, "f4"))
    value, _ = loss.value_and_grad(y, p[::-1][::-1], weights.astype(np.float64), out=cupy.empty((50, 5), "f4"))
    np.testing.assert_array_equal(host(value), host(before[0]))
    kept = {array.data.ptr for array in launch._captured}
    (scratch,) = launch._workspaces.values()
    assert len(kept) >= 4  # the value, partial sums, ticket, weights in float32
    assert value.data.ptr in kept
    assert not kept & {array.data.ptr for array in scratch}
    with pytest.raises(RuntimeError, match="fastloss: call once, with class_weight, on the stream before it is capt"):
        fl.SparseCategoricalCrossentropy(class_weight=[1, 2, 3, 4, 5])(y, p)


def test_threads_have_scratch_of_their_own(cupy):
    """Two on one stream may each launch what finds the normaliser before either launches what reads it."""
    y, p = some(cupy, fl.Huber())
    thread = threading.Thread(target=fl.huber, args=(y, p))
    thread.start()
    thread.join()
    fl.huber(y, p)
    assert len(launch._workspaces) == 2


def test_class_weights_are_rounded_to_the_type_of_each_call(cupy):
    loss = fl.SparseCategoricalCrossentropy(class_weight=[0.1, 0.2, 0.3, 0.7, 0.9], reduction="sum")
    for dtype in ("float32", "float64", "float32"):
        y, p = operands(loss, (50, 5), dtype)
        value = host(loss(cupy.asarray(y), cupy.asarray(p)))
        np.testing.assert_allclose(value, loss(y, p), rtol=1e-14)


def test_numbers_at_odd_addresses_are_refused(cupy):
    y = cupy.asarray(np.ones(10, "f4"))
    odd = cupy.asarray(np.zeros(41, np.uint8))[1:].view(np.float32)
    for name, operand in (("y_pred", (y, odd)), ("y_true", (odd, y)), ("sample_weight", (y, y, odd))):
        with pytest.raises(ValueError, match=f"huber: {name} must have its elements at multiples of 4 bytes"):
            fl.huber(*operand)


def test_results_may_lie_between_predictions(cupy):
    """They share no element."""
    y, both = cupy.asarray(np.ones((6, 4), "f4")), cupy.asarray(np.zeros((6, 8), "f4"))
    out = both[:, 1::2]
    assert fl.huber.value_and_grad(y, both[:, ::2], out=out)[1] is out
    np.testing.assert_allclose(host(both), np.tile([0, -1 / 24], (6, 4)), rtol=1e-6)


def test_a_forked_process_is_told_so(cupy, monkeypatch):
    y, p = some(cupy, fl.Huber())
    fl.huber(y, p)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(RuntimeError, match="a forked process cannot use the GPU"):
        fl.huber(y, p)


def test_importing_fastloss_and_calling_it_imports_no_cupy():
    run("import sys, fastloss as fl; fl.huber([0.0], [1.0]); assert 'cupy' not in sys.modules")


# -- bad input ---------------------------------------------------------------------------------------

INDEXED = [loss for loss in ROWS if is_indexed(loss.values[0])]


@pytest.mark.parametrize("classes", [5, 70, 1500])
@pytest.mark.parametrize("loss", INDEXED)
def test_a_bad_label_makes_its_row_nan_and_touches_nothing_else(cupy, loss, classes):
    loss = with_classes(loss, classes)
    y, p = operands(loss, (7, classes))
    right = [host(r) for r in loss.value_grad_and_hess(cupy.asarray(y), cupy.asarray(p))]
    losses = type(loss)(**{**loss.__getstate__(), "reduction": "none"})
    for label in (classes, -1, 2**31, 2**62, -(2**63)):
        wrong = y.copy()
        wrong[3] = label
        value, *others = (host(r) for r in loss.value_grad_and_hess(cupy.asarray(wrong), cupy.asarray(p)))
        assert np.isnan(value)
        for result, before in zip(others, right[1:], strict=True):
            np.testing.assert_array_equal(result[3], 0.0)
            np.testing.assert_array_equal(np.delete(result, 3, 0), np.delete(before, 3, 0))
        each = host(losses(cupy.asarray(wrong), cupy.asarray(p)))
        np.testing.assert_array_equal(np.isnan(each), np.arange(7) == 3)
        with pytest.raises(ValueError, match=rf"y_true must be in \[0, {classes}\); got {label} at position \[3\]"):
            loss(cupy.asarray(wrong), cupy.asarray(p), check="raise")


def test_by_products_stay_on_the_device(cupy):
    """Nothing waits for them; a row whose label is bad counts, and is not correct."""
    loss = fl.SparseCategoricalCrossentropy(from_logits=True, stats=True)
    _, p = operands(loss, (7, 5))
    bad = np.arange(7) == 3
    y = np.where(bad, 5, p.argmax(axis=1))
    value, stats = loss(cupy.asarray(y), cupy.asarray(p))
    assert (len(cupy.launches), cupy.synchronisations) == (1, 0)
    log_sum_exp, argmax, correct, valid = map(host, stats)
    assert np.isnan(host(value))
    np.testing.assert_array_equal(np.isnan(log_sum_exp), bad)
    np.testing.assert_array_equal(argmax, np.where(bad, -1, y))
    assert (correct, valid) == (6, 7)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@pytest.mark.parametrize("loss", EVERY)
def test_a_bad_weight_shows(cupy, loss, reduction, bad):
    loss = type(loss)(**{**loss.__getstate__(), "reduction": reduction})
    y, p = some(cupy, loss, rows=6)
    weights = np.ones(6)
    weights[2] = bad
    value, grad = loss.value_and_grad(y, p, cupy.asarray(weights))
    counted = getattr(loss, "ignore_class", None) is None or host(y)[2] != loss.ignore_class
    assert np.isnan(host(value)) == counted
    assert np.isnan(host(grad)[2]).all() == counted
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        loss(y, p, cupy.asarray(weights), check="raise")


def test_check_is_one_of_two(cupy):
    y, p = some(cupy, fl.Huber())
    for operand in ((y, p), (np.ones(3), np.ones(3))):
        with pytest.raises(ValueError, match="huber: check must be 'nan' or 'raise'; got 'maybe'"):
            fl.huber(*operand, check="maybe")
    assert fl.huber([0.0], [1.0], check="raise") == 0.5


@pytest.mark.parametrize("kind", ["shape", "dtype", "apart", "overlap"])
def test_results_must_fit(cupy, kind):
    y, p = (cupy.asarray(np.ones((6, 4), "f4")) for _ in range(2))
    out = {
        "shape": cupy.empty((6, 5), "f4"),
        "dtype": cupy.empty((6, 4), "f8"),
        "apart": placed(cupy, np.lib.stride_tricks.as_strided(np.ones(8, "f4"), (6, 4), (4, 4))),
        "overlap": y,
    }[kind]
    rule = {"apart": "have its own memory", "overlap": "not overlap"}.get(kind, "have y_pred's shape")
    with pytest.raises(ValueError, match=f"huber: out must {rule}"):
        fl.huber.value_and_grad(y, p, out=out)


def test_the_emulator_refuses_what_a_gpu_would_not_see(cupy):
    """So that the other tests' arrays are on the device that kernels run on."""
    function = cupy.RawModule(code='extern "C" __global__ void f(float* x) {}').get_function("f")
    with cupy.cuda.Device(1):
        there = cupy.empty((3,), np.float32)
    with pytest.raises(EmulatorError, match="device"):
        function((1,), (1,), (there,))
    assert sys.modules["cupy"] is cupy
