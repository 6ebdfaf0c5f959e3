"""Where numbers lie in memory, and as which type, changes no result.

Every layout is compared with the same numbers in one C-contiguous piece: gradients to the bit, values (whose sum may
run in another order) to a few roundings of float64.
"""

import dataclasses
import functools
import math

import numpy as np
import pytest
from sampling import (
    DTYPES,
    LOSSES,
    ONE_EACH,
    SWEPT,
    cast,
    is_indexed,
    is_rowwise,
    label_of,
    loss_shape,
    plain,
    takes_unit_targets,
    with_reduction,
)

one_each = pytest.mark.parametrize("loss", [with_reduction(loss, "sum") for loss in ONE_EACH], ids=label_of)


def weighs(loss):
    """Whether it has class weights, which go with the class whatever the axis."""
    return getattr(loss, "class_weight", None) is not None


every_variant = pytest.mark.parametrize("loss", SWEPT, ids=label_of)


# -- layouts of an array -------------------------------------------------------------------------------------


def fortran(array, folder):
    return np.asfortranarray(array)


def strided(array, folder):
    """Every second element of a larger array, along every axis."""
    larger = np.zeros([2 * n for n in array.shape], array.dtype)
    view = larger[tuple(slice(None, None, 2) for _ in array.shape)]
    view[...] = array
    return view


def padded(array, folder):
    """The first columns of wider rows."""
    larger = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    view = larger[..., : array.shape[-1]]
    view[...] = array
    return view


def reversed_memory(array, folder):
    backwards = tuple(slice(None, None, -1) for _ in array.shape)
    return np.ascontiguousarray(array[backwards])[backwards]


def transposed(array, folder):
    """Axes in another order in memory."""
    order = np.roll(np.arange(array.ndim), 1)
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


def shifted(array, folder):
    """Contiguous, but at an address that no vector is aligned to."""
    memory = np.zeros(array.size + 1, array.dtype)
    memory[1:] = array.ravel()
    return memory[1:].reshape(array.shape)


def misaligned(array, folder):
    """At an address that is no multiple of the element's size, as a field of packed records is."""
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def mapped(array, folder):
    path = folder / f"{len(list(folder.iterdir()))}.raw"
    path.write_bytes(array.tobytes())
    return np.memmap(path, array.dtype, "r", shape=array.shape)


def read_only(array, folder):
    array = array.copy()
    array.flags.writeable = False
    return array


def repeated(array, folder):
    """A stride of 0: one row seen many times."""
    return np.broadcast_to(array[:1].copy(), array.shape)


LAYOUTS = [fortran, strided, padded, reversed_memory, transposed, shifted, misaligned, mapped, read_only]
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)


def same(results, expected):
    """Gradients to the bit; values, whose order of summation may differ, to some roundings.

    Those are of float64, but for two of float32 in either value of 2-byte predictions.
    """
    tolerance = 1e-13 if expected[1].itemsize > 2 else 2.0**-22
    np.testing.assert_allclose(results[0], expected[0], rtol=tolerance)
    for result, right in zip(results[1:], expected[1:], strict=True):
        assert result.dtype == right.dtype
        np.testing.assert_array_equal(result, right)


def operands(loss, shape, dtype=np.float32, seed=0):
    return cast(*plain(loss, shape, np.random.default_rng(seed)), np.dtype(dtype))


@layouts
@one_each
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_layout(loss, layout, dtype, tmp_path):
    y, p = operands(loss, (6, 3, 5), DTYPES[dtype])
    expected = loss.value_grad_and_hess(y, p)
    laid_y, laid_p = layout(y, tmp_path), layout(p, tmp_path)
    assert laid_p.dtype == p.dtype
    for one, other in ((laid_y, laid_p), (y, laid_p), (laid_y, p)):
        same(loss.value_grad_and_hess(one, other), expected)


@layouts
@one_each
def test_layout_of_weights_mask_and_losses(loss, layout, tmp_path):
    y, p = operands(loss, (6, 3, 5))
    loss = with_reduction(loss, "none")
    rng = np.random.default_rng(0)
    shape = loss_shape(loss, p.shape)
    weight, mask = rng.random(shape), rng.random(shape) < 0.7
    expected = loss.value_grad_and_hess(y, p, weight, mask=mask)
    arrays = [layout(a, tmp_path) for a in (y, p, weight, mask)]
    same(loss.value_grad_and_hess(*arrays[:3], mask=arrays[3]), expected)


@one_each
def test_a_stride_of_zero_is_read(loss):
    y, p = operands(loss, (6, 3, 5))
    y, p = repeated(y, None), repeated(p, None)
    same(loss.value_grad_and_hess(y, p), loss.value_grad_and_hess(y.copy(), p.copy()))


@layouts
@one_each
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_results_into_a_layout(loss, layout, dtype, tmp_path):
    """``out`` and ``hess_out`` of any layout are filled and returned; what lies between their elements is not."""
    if layout in (mapped, read_only):
        pytest.skip("not writable")
    y, p = operands(loss, (6, 3, 5), DTYPES[dtype])
    value, grad, hess = loss.value_grad_and_hess(y, p)
    out, hess_out = (layout(np.full(p.shape, 7, p.dtype), tmp_path) for _ in range(2))
    around = out.base if isinstance(out.base, np.ndarray) else out
    untouched = around.copy()
    results = loss.value_grad_and_hess(y, p, out=out, hess_out=hess_out)
    assert results[1] is out
    assert results[2] is hess_out
    same((results[0], out, hess_out), (value, grad, hess))
    out[...] = 7
    np.testing.assert_array_equal(around, untouched)
    assert loss.grad(y, p, out=out) is out
    np.testing.assert_array_equal(out, grad)


@layouts
@one_each
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_in_place(loss, layout, dtype, tmp_path):
    """``out`` may be y_pred itself."""
    if layout in (mapped, read_only):
        pytest.skip("not writable")
    y, p = operands(loss, (6, 3, 5), DTYPES[dtype])
    expected = loss.value_grad_and_hess(y, p)
    x = layout(p, tmp_path)
    value, grad = loss.value_and_grad(y, x, out=x)
    assert grad is x
    same((value, x), expected[:2])
    x[...] = p
    value, grad, hess = loss.value_grad_and_hess(y, x, out=x)
    same((value, x, hess), expected)
    x[...] = p
    again = x[...]  # another array object on the same memory
    loss.grad_and_hess(y, x, out=again)
    np.testing.assert_array_equal(x, expected[1])


@one_each
@pytest.mark.parametrize("shape", [(5,), (1,), (4, 5), (2, 3, 5), (2, 3, 2, 5), (1, 1, 1, 1), (3, 1, 5)])
def test_number_of_axes(loss, shape):
    """The same numbers under other shapes."""
    y, p = operands(loss, shape)
    columns = (-1, shape[-1]) if is_rowwise(loss) else (-1,)
    flat_y = y.reshape(-1) if is_indexed(loss) else y.reshape(columns)
    value, grad, hess = loss.value_grad_and_hess(y, p)
    assert grad.shape == hess.shape == shape
    same((value, grad.reshape(columns), hess.reshape(columns)), loss.value_grad_and_hess(flat_y, p.reshape(columns)))
    losses = with_reduction(loss, "none")(y, p)
    assert np.shape(losses) == loss_shape(loss, shape)
    np.testing.assert_allclose(losses.sum(dtype=np.float64), value, rtol=1e-6)


@one_each
def test_no_axes(loss):
    """Scalars: one element; a rowwise loss of one row has labels without axes."""
    y, p = operands(loss, (5,))
    if not is_rowwise(loss):
        value, grad, hess = loss.value_grad_and_hess(y[0], p[0])
        expected = loss.value_grad_and_hess(y[:1], p[:1])
        assert grad.shape == hess.shape == ()
        same((value, grad[None], hess[None]), expected)
        buffer = np.empty((), p.dtype)
        assert loss.grad(y[0], p[0], out=buffer) is buffer
        assert buffer == grad
        assert with_reduction(loss, "none")(y[0], p[0]).shape == ()
        assert loss(y[0], p[0], 2.0) == 2 * value
        assert loss(y[0], p[0], mask=False) == 0.0
    else:
        losses = with_reduction(loss, "none")(y, p)
        assert losses.shape == ()
        assert losses == pytest.approx(loss(y, p), rel=1e-6)
        assert loss(y, p, 2.0) == pytest.approx(2 * loss(y, p), rel=1e-6)
        assert loss(y, p, mask=False) == 0.0


@pytest.mark.parametrize("loss", [loss for loss in SWEPT if is_rowwise(loss) and not weighs(loss)], ids=label_of)
@pytest.mark.parametrize("order", ["C", "F"])
def test_class_axis(loss, order):
    """Any axis may hold the classes (torch's images have axis 1)."""
    y, p = operands(loss, (6, 3, 2, 5))
    weight = np.random.default_rng(0).random((6, 3))
    expected = loss.value_grad_and_hess(y, p, weight)
    for axis in (0, 1, 2, -2, -4):
        moved_y = y if is_indexed(loss) else np.array(np.moveaxis(y, -1, axis), order=order)
        moved_p = np.array(np.moveaxis(p, -1, axis), order=order)
        value, *results = with_reduction(loss, "mean", axis=axis).value_grad_and_hess(moved_y, moved_p, weight)
        same((value, *(np.moveaxis(result, axis, -1) for result in results)), expected)
        out = np.empty_like(moved_p)
        with_reduction(loss, "mean", axis=axis).grad(moved_y, moved_p, weight, out=out)
        np.testing.assert_array_equal(np.moveaxis(out, axis, -1), expected[1])
        assert with_reduction(loss, "none", axis=axis)(moved_y, moved_p).shape == (6, 3, 2)


def takes_several_axes(loss):
    rules = {field.name: field.metadata["rule"].words for field in dataclasses.fields(loss)}
    return rules.get("axis") == "None, an integer or integers"


SEVERAL = [loss for loss in SWEPT if takes_several_axes(type(loss))]


@pytest.mark.parametrize("loss", SEVERAL, ids=label_of)
@pytest.mark.parametrize(
    "axis", [None, (0, 1, 2, 3), (3,), (2, 3), (0, 1), (1, 3), (3, 1), (-3, -1), (0, 3, 1)], ids=str
)
def test_several_class_axes(loss, axis):
    """The same bits as along one axis of arrays in which they are one."""
    shape = (6, 3, 2, 5)
    axes = range(4) if axis is None else sorted(number % 4 for number in axis)
    others = [number for number in range(4) if number not in axes]
    order, losses = (*others, *axes), tuple(shape[number] for number in others)
    flat = (*losses, math.prod(shape[number] for number in axes))
    y, p = operands(loss, flat)
    rng = np.random.default_rng(0)
    weight, mask = rng.random(losses[:1] if losses else ()), rng.random(losses) < 0.7
    for reduction in ("mean", "none"):
        expected = with_reduction(loss, reduction).value_grad_and_hess(y, p, weight, mask=mask)
        several = with_reduction(loss, reduction, axis=axis)
        laid_y, laid_p = (_parted(array, shape, order) for array in (y, p))
        for order_in_memory in "CF":
            laid_p = np.array(laid_p, order=order_in_memory)
            value, grad, hess = several.value_grad_and_hess(laid_y, laid_p, weight, mask=mask)
            assert np.shape(value) == np.shape(expected[0])
            np.testing.assert_array_equal(value, expected[0])
            for result, right in ((grad, expected[1]), (hess, expected[2])):
                np.testing.assert_array_equal(result, _parted(right, shape, order))
            out = laid_p.copy(order="K")
            assert several.value_and_grad(laid_y, out, weight, mask=mask, out=out)[1] is out
            np.testing.assert_array_equal(out, grad)
    value, grad = dataclasses.replace(loss, axis=axis, reduction="none").value_and_grad(laid_y, laid_p)
    assert np.shape(value) == losses
    assert np.any(grad)


def _parted(array, shape, order):
    """An array whose last axis is several of ``order``'s last ones, as one of that shape."""
    return array.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


@pytest.mark.parametrize("loss", SEVERAL, ids=label_of)
def test_what_axes_there_are(loss):
    y, p = operands(loss, (4, 5))
    for axis in ((0, 0), (0, -2), (0, 2), (-3, 1)):
        with pytest.raises(ValueError, match=rf"^{loss.name}: axis must be axes of y_pred, each once.*; got "):
            dataclasses.replace(loss, axis=axis)(y, p)
    every = dataclasses.replace(loss, axis=None)
    for reduction in ("mean", "none"):
        value, grad = with_reduction(every, reduction).value_and_grad(y[:0], p[:0])
        assert value == 0.0
        assert grad.shape == (0, 5)
    assert dataclasses.replace(loss, axis=[0, 1]) == dataclasses.replace(loss, axis=(np.int64(0), 1))
    with pytest.raises(ValueError, match="must have at least one class"):
        dataclasses.replace(loss, axis=1)(y[:, :0], p[:, :0])


# -- types of the target -------------------------------------------------------------------------------------


INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@one_each
@pytest.mark.parametrize("kind", ["bool", *INTEGERS, *DTYPES])
def test_type_of_the_target(loss, kind):
    """0 and 1, small whole numbers or labels are the same numbers in every type."""
    dtype = DTYPES.get(kind, np.dtype(kind))
    labels = is_indexed(loss)
    if labels and dtype.kind not in "iu":
        with pytest.raises(TypeError, match="y_true must"):
            loss(np.zeros(3, dtype), np.zeros((3, 4), np.float32))
        return
    numbers = {"b": 2}.get(dtype.kind, 5)
    if takes_unit_targets(loss) and not labels:
        numbers = 2
    rng = np.random.default_rng(0)
    p = operands(loss, (40, 5))[1]
    y = rng.integers(0, numbers, loss_shape(loss, p.shape) if labels else p.shape)
    expected = loss.value_grad_and_hess(y if labels else y.astype(np.float32), p)
    same(loss.value_grad_and_hess(y.astype(dtype), p), expected)


@pytest.mark.parametrize("kind", INTEGERS)
def test_largest_labels_of_a_type(kind):
    """A label at the end of its type's range is a bad one, an ignored one or a good one, but never another."""
    loss = LOSSES["sparse_categorical_crossentropy"]
    limits = np.iinfo(kind)
    x = np.zeros((2, 300), np.float32)
    for label in {limits.max, limits.min} - {0}:
        y = np.array([1, label], kind)
        if 0 <= label < 300:
            assert np.flatnonzero(loss(from_logits=True).grad(y, x)[1] < 0).tolist() == [label]
            continue
        with pytest.raises(ValueError, match=r"y_true must be in \[0, 300\)") as error:
            loss(from_logits=True)(y, x)
        assert f"{label} " in str(error.value)
        value, grad = loss(from_logits=True, ignore_class=int(label)).value_and_grad(y, x)
        assert value == pytest.approx(np.log(300), rel=1e-6)
        assert not grad[1].any()


@pytest.mark.parametrize("ignored", [-1, -100, 255, 2**31, 2**40, -(2**63), 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "uint64"])
def test_ignored_class_of_any_size(ignored, kind):
    """An ignored class that the labels' type cannot hold ignores nothing."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    y = np.array([0, 1, 2, 1], kind)
    plain_loss = LOSSES["sparse_categorical_crossentropy"](from_logits=True)
    loss = LOSSES["sparse_categorical_crossentropy"](from_logits=True, ignore_class=ignored)
    limits = np.iinfo(kind)
    if limits.min <= ignored <= limits.max:
        y[1] = ignored
        keep = np.array([0, 2, 3])
    else:
        keep = np.arange(4)
    value, grad = loss.value_and_grad(y, x)
    expected = plain_loss.value_and_grad(y[keep], x[keep])
    assert value == pytest.approx(expected[0], rel=1e-15)
    np.testing.assert_array_equal(grad[keep], expected[1])


@one_each
def test_other_arrays_are_converted(loss):
    """Lists, and whatever gives an array."""
    y, p = operands(loss, (4, 5), np.float64)
    expected = loss.value_grad_and_hess(y, p)

    class Wrapped:
        def __init__(self, array):
            self.array = array

        def __array__(self, dtype=None, copy=None):
            return self.array

    for convert in (lambda a: a.tolist(), Wrapped, functools.partial(np.array, subok=False), np.ndarray.view):
        same(loss.value_grad_and_hess(convert(y), convert(p)), expected)
