"""Losses of several predictions (see test_pairwise.py) of CuPy arrays, in the emulator."""

import threading

import numpy as np
import pytest
from fake_cupy import EmulatorError, FakeArray, FakeCupy
from pairs import LOSSES, ONE_OF_EACH, SWEPT, TYPES, VARIANTS, evaluate, flat, loss_shape, operands, random
from sampling import CALLS, DTYPES, label_of, with_reduction
from test_calls import compare
from test_pairwise import judge
from through_device import placed, use

import fastloss as fl
from fastloss.gpu import launch
from fastloss.gpu.pairwise import shaped
from fastloss.gpu.pairwise_source import PairRowBuild

every_sweep = pytest.mark.parametrize("loss", SWEPT, ids=label_of)


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    use(monkeypatch, fake)
    return fake


def host(result):
    """A result as the host sees it, without counting that as waiting."""
    return result._host.copy()


def shape_of(loss):
    return (7, 3, 5) if loss.unit == "row" else (7, 3, 4)


def check(cupy, loss, given, dtype, **options):
    """All results against the float64 reference."""
    expected = evaluate(loss, *given, **options)
    sent = {name: placed(cupy, np.asarray(value)) for name, value in options.items()}
    results = loss.value_grad_and_hess(*(placed(cupy, array) for array in given), **sent)
    value, *others = map(host, flat(results))
    columns = given[-1].shape[-1] if loss.unit == "row" else 1
    # A triplet's loss is the difference of lengths, in the precision of the kernel: some roundings of those.
    rounding = (1e-13 if dtype == "float64" else 1e-6) * (1.0 + columns**0.5)
    assert value.dtype == (np.float64 if loss.reduction != "none" or dtype == "float64" else np.float32)
    scale = value.size if loss.reduction != "sum" else value.size * given[-1].size
    np.testing.assert_allclose(value, expected[0], rtol=2e-6 if dtype != "float64" else 1e-13, atol=rounding * scale)
    # Slopes by one prediction are the sum of those by others: what rounding leaves is of all of them.
    count = len(expected[1])
    for results, right in ((others[:count], expected[1]), (others[count:], expected[2])):
        assert all(result.dtype == DTYPES[dtype] for result in results)
        compare(np.stack(results), np.stack(right), dtype, f"{label_of(loss)} {given[-1].shape}")


# -- sweeps and sizes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "dtype"), TYPES)
def test_calls(cupy, loss, dtype):
    """Reductions, weights, masks and types of the target."""
    given = operands(loss, shape_of(loss), dtype, margin=1e-3)
    rng = np.random.default_rng(0)
    shape = loss_shape(loss, given[-1].shape)
    options = {"sample_weight": rng.uniform(0.5, 2.0, shape[:1]), "mask": rng.random(shape) < 0.7}
    for reduction in ("mean", "weighted_mean", "sum", "none") if dtype == "float32" else ("weighted_mean",):
        check(cupy, with_reduction(loss, reduction), given, dtype, **options)
    if "y_true" in loss.operands and dtype == "float32":
        check(cupy, loss, [np.sign(given[0]).astype(np.int8), *given[1:]], dtype)
    assert cupy.synchronisations == 0


@pytest.mark.parametrize("loss", VARIANTS, ids=label_of)
def test_every_formula(cupy, loss):
    """Within as many ulp of 50 digits as on the CPU."""

    def compute(loss, *given):
        sent = (cupy.asarray(array) for array in given)
        return [host(result) for result in flat(with_reduction(loss, "none").value_grad_and_hess(*sent))]

    judge(loss, operands(loss, (9, 5), "float32", margin=1e-3), compute)


@every_sweep
def test_elements_and_rows_of_any_number(cupy, loss):
    """The kernel changes with the number of columns; within each, rows begin anywhere or on whole packs."""
    every, loss = loss in ONE_OF_EACH, with_reduction(loss, "sum")
    if loss.unit != "row":
        for size in (1, 3, 8, 1023, 4096, 9001):
            check(cupy, loss, operands(loss, (size,), "float32", margin=1e-5), "float32")
        return
    for columns in (1, 15, 16, 64, 129, 1000, 2050, 9001) if every else (15, 600):
        check(cupy, loss, operands(loss, (3 if columns > 40 else 150, columns), "float32", margin=1e-6), "float32")
    assert cupy.launches[-1].name == "fastloss_pairwise_rows"


def test_every_shape_of_the_row_kernel_is_reached():
    """Parts of a warp, blocks, and rows that registers do not hold."""
    build = PairRowBuild(LOSSES["triplet_margin"]().formula(), ("a", "b", "c"), False, *["float32"] * 2, *[True] * 6)
    build = build._replace(vector=4)
    found = {shaped(build, columns)[-4:] for columns in (1, 30, 60, 100, 200, 500, 600, 2000, 4000, 8000, 9001)}
    assert {lanes for _, lanes, _, _ in found} == {4, 8, 16, 32, 128, 256, 512}
    assert {more for _, _, _, more in found} == {False, True}


@every_sweep
def test_arrays_that_begin_anywhere(cupy, loss):
    """Views that skip some elements: all by the same number, or each by its own; results where predictions are."""
    loss = with_reduction(loss, "sum")
    given = operands(loss, (40, 5) if loss.unit == "row" else (2000,), "float32", margin=1e-5)
    expected = evaluate(loss, *given)
    for behind in ((1, 1, 1), (3, 2, 0)):
        views = []
        for array, skipped in zip(given, behind, strict=True):
            longer = np.concatenate([np.zeros(skipped, array.dtype), array.ravel()])
            views.append(cupy.asarray(longer)[skipped:].reshape(array.shape))
        out = tuple(views[-len(loss.predictions()) :])
        value, gradients = loss.value_and_grad(*views, out=out)
        assert all(a is b for a, b in zip(gradients, out, strict=True))
        np.testing.assert_allclose(host(value), expected[0], rtol=4e-6)
        for gradient, right in zip(gradients, expected[1], strict=True):
            compare(host(gradient), right, "float32", f"{label_of(loss)} {behind}")


@every_sweep
def test_strides_and_orders(cupy, loss):
    given = operands(loss, shape_of(loss), "float32", margin=1e-3)
    _, gradients, _ = evaluate(loss, *given)
    laid = [placed(cupy, np.asfortranarray(array)[..., ::-1][..., ::-1]) for array in given]
    out = tuple(placed(cupy, np.zeros(given[-1].shape, "f4").T.copy().T) for _ in gradients)
    results = loss.grad(*laid, out=out)
    for result, buffer, right in zip(results, out, gradients, strict=True):
        assert result is buffer
        compare(host(result), right, "float32", label_of(loss))


@every_sweep
def test_the_same_bits_in_any_order(cupy, loss):
    shape = (700, 10) if loss.unit == "row" else (7000,)
    given = [cupy.asarray(array.astype("f4")) for array in random(loss, shape, np.random.default_rng(0))]
    found = set()
    for schedule, seed in (("forward", 0), ("reverse", 0), ("shuffled", 1), ("shuffled", 2)):
        cupy.schedule, cupy.seed = schedule, seed
        found.add(b"".join(host(result).tobytes() for result in flat(loss.value_grad_and_hess(*given))))
    assert len(found) == 1
    assert cupy.launches[-1].grid[0] > 1


def last_block_alone(monkeypatch, cupy, blocks):
    monkeypatch.setattr("fastloss.gpu.pairwise.MOST_BLOCKS", 1 << 30)
    cupy.multiprocessors, cupy.only_block = blocks, blocks - 1
    launch.device_of.cache_clear()


def test_more_than_2_to_the_31_elements(cupy, monkeypatch):
    """The last block of a launch over 4 GB arrays, most of which is never touched."""
    tile = 256 * 2 * 8
    size = (1 << 31) + 2 * tile
    last_block_alone(monkeypatch, cupy, size // tile)
    y, *arrays = (cupy.empty((size,), dtype) for dtype in (np.int8, *[np.float16] * 4))
    y[-5:], arrays[0][-5:], arrays[1][-5:], arrays[2][: 2 * tile] = 1, 1, 3, 3
    fl.MarginRanking(reduction="sum").grad(y, *arrays[:2], out=tuple(arrays[2:]))
    assert cupy.launches[-1].grid[0] == size // tile
    np.testing.assert_array_equal(host(arrays[2][-5:]), [-1] * 5)
    np.testing.assert_array_equal(host(arrays[3][-5:]), [1] * 5)
    np.testing.assert_array_equal(host(arrays[2][:8]), 3)  # another block's, where an offset of 32 bits would lead


def test_rows_of_more_than_2_to_the_31_elements(cupy, monkeypatch):
    rows, columns = 130_000, 20_001
    last_block_alone(monkeypatch, cupy, rows)
    arrays = [cupy.empty((rows, columns), np.float16) for _ in range(3)]
    last = [array.astype(np.float16) for array in np.random.default_rng(0).normal(size=(3, 1, columns))]
    for array, row in zip(arrays, last, strict=True):
        array[-1:] = placed(cupy, row)
    loss = fl.TripletMargin(reduction="sum", margin=100.0)
    gradients = loss.grad(*arrays)
    for gradient, right in zip(gradients, evaluate(loss, *last)[1], strict=True):
        compare(host(gradient[-1:]), right, "float16", "last row")


# -- launches, devices, bad input ---------------------------------------------------------------------


@pytest.mark.parametrize("loss", ONE_OF_EACH, ids=label_of)
def test_one_launch_and_no_waiting(cupy, loss):
    given = [cupy.asarray(array) for array in operands(loss, shape_of(loss), "float32")]
    for call in CALLS:
        getattr(loss, call)(*given)
    assert len(cupy.launches) == len(CALLS)
    cupy.launches.clear()
    weight, mask = cupy.asarray(np.ones(7)), cupy.asarray(np.ones(7, bool))
    value, gradients = loss.value_and_grad(*given, weight, mask=mask)
    assert [one.name.startswith("fastloss_weighing") for one in cupy.launches] == [True, False]
    assert all(isinstance(result, FakeArray) for result in (value, *gradients))
    assert value.shape == ()
    assert cupy.synchronisations == 0


@every_sweep
def test_nothing_at_all(cupy, loss):
    given = [cupy.asarray(array[:0]) for array in operands(loss, shape_of(loss), "float32")]
    value, gradients, hessians = loss.value_grad_and_hess(*given)
    assert host(value) == 0.0
    assert all(result.shape == given[-1].shape for result in (*gradients, *hessians))
    assert not cupy.launches


@every_sweep
def test_arrays_of_another_device_or_of_none(cupy, loss):
    given = operands(loss, shape_of(loss), "float32")
    sent = [cupy.asarray(array) for array in given]
    like = loss.predictions()[0]
    with cupy.cuda.Device(1):
        there = [cupy.asarray(array) for array in given]
    value, gradients = loss.value_and_grad(*there)
    assert {result.device.id for result in (value, *gradients)} == {1}
    for number, name in enumerate(loss.operands):
        if name != like:
            mixed = [*sent[:number], there[number], *sent[number + 1 :]]
            with pytest.raises(
                ValueError, match=rf"{loss.name}: {name} must be on {like}'s device, 0; got an array on"
            ):
                loss(*mixed)
            mixed[number] = given[number]
            with pytest.raises(TypeError, match=rf"{loss.name}: {name} must be a CuPy array, as {like} is"):
                loss(*mixed)
    with pytest.raises(TypeError, match=rf"{loss.name}: .* must be a NumPy array; got a CuPy array"):
        loss(*(given[i] if name == like else sent[i] for i, name in enumerate(loss.operands)))


@every_sweep
def test_result_buffers(cupy, loss):
    given = [cupy.asarray(array) for array in operands(loss, shape_of(loss), "float32")]
    count, name = len(loss.predictions()), loss.predictions()[-1]
    good = [cupy.empty(given[-1].shape, "f4") for _ in range(count)]
    for wrong, rule in (
        (cupy.empty((7, 3, 9), "f4"), f"have {name}'s shape"),
        (cupy.empty(given[-1].shape, "f8"), f"have {name}'s shape"),
        (given[0] if given[0].shape == given[-1].shape else given[1], "not overlap"),
        (good[0], "not overlap"),
    ):
        with pytest.raises(ValueError, match=rf"{loss.name}: out\[{count - 1}\] must {rule}"):
            loss.grad(*given, out=(*good[:-1], wrong))
    with pytest.raises(TypeError, match=f"{loss.name}: out must be a tuple of {count} arrays"):
        loss.grad(*given, out=good[0])


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@every_sweep
def test_a_bad_weight_shows(cupy, loss, bad):
    given = [cupy.asarray(array) for array in operands(loss, shape_of(loss), "float32")]
    weight = np.ones(7)
    weight[2] = bad
    value, gradients = loss.value_and_grad(*given, cupy.asarray(weight))
    assert np.isnan(host(value))
    assert all(np.isnan(host(gradient)[2]).all() for gradient in gradients)
    assert not any(np.isnan(host(gradient)[3]).any() for gradient in gradients)
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        loss(*given, cupy.asarray(weight), check="raise")


def test_threads_have_scratch_of_their_own(cupy):
    given = [cupy.asarray(array) for array in operands(LOSSES["margin_ranking"](), (50,), "float32")]
    thread = threading.Thread(target=fl.margin_ranking, args=given)
    thread.start()
    thread.join()
    fl.margin_ranking(*given)
    assert len(launch._workspaces) == 2


# -- tests of the tests: planted bugs -------------------------------------------------------------------


def elements(cupy):
    planted(cupy, fl.GaussianNLL(reduction="weighted_mean"), (12_345,))


def rows(cupy, columns=(7, 101, 600), count=9):
    for number in columns:
        planted(cupy, fl.CosineEmbedding(reduction="weighted_mean", margin=-0.5), (count, number))
        planted(cupy, fl.TripletMargin(eps=0.5), (count, number))  # places beyond a row, which are 0, count then


def long_rows(cupy):
    rows(cupy, (8300,), 2)


def short_rows(cupy):
    rows(cupy, (7,), 597)


def races(cupy):
    cupy.mode, cupy.multiprocessors = "tsan", 1
    planted(cupy, fl.CosineEmbedding(reduction="weighted_mean", margin=-0.5), (5, 600))


def large(cupy):
    with pytest.MonkeyPatch.context() as patch:
        test_rows_of_more_than_2_to_the_31_elements(cupy, patch)


def planted(cupy, loss, shape):
    """A call in several orders, compared with the reference; rows begin anywhere."""
    given = operands(loss, shape, "float32", margin=1e-6)
    losses = loss_shape(loss, shape)
    rng = np.random.default_rng(0)
    options = {"sample_weight": rng.uniform(0.5, 2.0, losses[:1]), "mask": np.arange(losses[0]) % 4 != 1}
    for schedule in ("reverse", "shuffled") if cupy.mode == "fast" else ("forward",):
        cupy.schedule = schedule
        check(cupy, loss, given, "float32", **options)


BUGS = {
    "a tail that is one short": ("i < head + size - tail;", "i < head + size - tail - 1;", elements),
    "a pack too many": ("if (first + i * BLOCK < packs) held", "if (first + i * BLOCK <= packs + 300) held", elements),
    "the same prediction twice": (
        "load_once<PRED, COUNT>(arrays.predictions[k] + at)",
        "load_once<PRED, COUNT>(arrays.predictions[0] + at)",
        elements,
    ),
    "the Hessian of another prediction": ("results[1 + PREDICTIONS + k]", "results[1 + PREDICTIONS]", elements),
    "a weight that is left out of the gradient": (
        "factor = weights[i].factor * normalizer.scale;",
        "factor = normalizer.scale;",
        elements,
    ),
    "a row's target that is another's": ("loaded<T>(arrays.y_true[row])", "loaded<T>(arrays.y_true[0])", rows),
    "a row's weight that is left out": ("weight[0].factor * normalizer.scale", "normalizer.scale", rows),
    "places beyond the row in the statistics": (
        "if (!inside(column + i, columns)) continue;\n                    T terms[SUMS]",
        "T terms[SUMS]",
        rows,
    ),
    "sums that are not reduced": ("reduce<false, SUMS>(sums);", "", rows),
    "peaks that are not reduced": ("reduce<PEAKS, FIRSTS>(firsts);", "", rows),
    "no barrier before parts are read": (
        "parts[i * WARP + warp] = numbers[i];\n        __syncthreads();",
        "parts[i * WARP + warp] = numbers[i];",
        rows,
    ),
    "no barrier before parts are written again": (
        "        __syncthreads();  // the last ones",
        "        // the last ones",
        races,
    ),
    "one warp's part alone": ("lane < BLOCK / WARP ? parts", "lane < 1 ? parts", rows),
    "what registers do not hold is left out": (
        "k = PACKS * LANES + lane; k < layout.packs",
        "k = PACKS * LANES + lane; k < 0",
        long_rows,
    ),
    "lanes that leave before their warp": ("for (; leader < rows;", "for (; row < rows;", short_rows),
    "gradients in another's place": (
        "store_pack(arrays.gradients[k] + first",
        "store_pack(arrays.gradients[0] + first",
        rows,
    ),
    "rows counted in 32 bits": (
        "arrays.predictions[k] + row * sizes.classes",
        "arrays.predictions[k] + int(row) * sizes.classes",
        large,
    ),
}  # fmt: skip


@pytest.mark.parametrize("noticing", [elements, rows, long_rows, short_rows, races])
def test_without_a_bug_nothing_is_noticed(cupy, noticing):
    noticing(cupy)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_noticed(cupy, bug):
    there, instead, noticing = BUGS[bug]
    found = []

    def patch(text):
        found.append(there in text)
        return text.replace(there, instead)

    cupy.patch = patch
    with pytest.raises((AssertionError, EmulatorError)):
        noticing(cupy)
    assert any(found), "the kernels have changed: the bug was not planted"
