"""Bad input: always one clear line, nothing corrupted, inputs untouched; and the input that only looks bad."""

import array
import functools
import re
import sys
import types
import warnings
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
from catalogue import (
    CALLS,
    DENSE,
    INDEXED,
    LOSSES,
    ROWWISE,
    THOROUGH,
    THOROUGH_INDEXED,
    THOROUGH_ROWWISE,
    calls_taking,
    case_id,
    loss_shape,
    operands,
    parameter_fields,
    variant_cases,
)
from sampling import label_of, plain, variants, with_reduction

import fastloss as fl
from fastloss.reference import evaluate

SHAPE = (6, 5)
NAN, INF = float("nan"), float("inf")


def short(value):
    """A test id that fits a line."""
    return repr(value).replace("\n", "")[:24] if not isinstance(value, str) else value


# Losses do not check their input themselves: some stand for all.
every_loss = pytest.mark.parametrize("name", THOROUGH)
every_rowwise_loss = pytest.mark.parametrize("name", THOROUGH_ROWWISE)
every_indexed_loss = pytest.mark.parametrize("name", THOROUGH_INDEXED)


def bytes_of(value):
    """What must not change about an argument."""
    return np.array(value, copy=True, subok=False).tobytes() if isinstance(value, np.ndarray) else repr(value)


@functools.cache
def called_before(name, dtype):
    """A loss that has seen good operands, and so may have a shorter way for the next ones."""
    loss, (y, p) = LOSSES[name](), operands(name, SHAPE, dtype)
    for _ in range(2):
        loss.value_and_grad(y, p, out=np.empty_like(p))
    return loss


def refused(name, error, argument, y, p, *, loss=None, calls=CALLS, **options):
    """Every call refuses its operands in one line of the library's form, and changes none of them."""
    dtype = "float32" if getattr(p, "dtype", None) == np.float32 else "float64"
    losses = [loss] if loss is not None else [LOSSES[name](), called_before(name, dtype)]
    lines = set()
    for call in (getattr(loss, call) for loss in losses for call in calls):
        watched = (y, p, *options.values())
        before = [bytes_of(value) for value in watched]
        with pytest.raises(error) as caught:
            call(y, p, **options)
        assert caught.type is error
        assert re.fullmatch(rf"{name}: {re.escape(argument)} must .+; got .+", str(caught.value)), str(caught.value)
        assert [bytes_of(value) for value in watched] == before
        lines.add(str(caught.value))
    assert len(lines) == 1  # every call says the same
    return lines.pop()


# -- labels ----------------------------------------------------------------------------------------

FAR_OUT = {
    "int8": (-1, -128),
    "uint8": (255,),
    "int16": (-1, -(2**15), 2**15 - 1),
    "uint16": (2**16 - 1,),
    "int32": (-1, -(2**31), 2**31 - 1),
    "uint32": (2**31, 2**32 - 1),
    "int64": (-1, 2**31, 2**32, 2**32 + 1, -(2**32), 2**63 - 1, -(2**63)),
    "uint64": (2**31, 2**32, 2**63, 2**64 - 1),
}


def bad_label(name, loss, y, p, call="value_grad_and_hess", **options):
    """The (label, position) that the error for a bad label names."""
    before = bytes_of(y), bytes_of(p)
    with pytest.raises(ValueError, match=r"label|y_true") as caught:
        getattr(loss, call)(y, p, **options)
    line = str(caught.value)
    found = re.fullmatch(rf"{name}: y_true must .+; got (-?\d+) at position \[([\d, ]*)\].*", line)
    assert found, line
    assert (bytes_of(y), bytes_of(p)) == before
    return int(found[1]), tuple(int(i) for i in re.findall(r"\d+", found[2]))


@pytest.mark.parametrize("classes", [5, 70])
@pytest.mark.parametrize(("name", "parameters"), variant_cases(THOROUGH_INDEXED), ids=case_id)
def test_a_bad_label_is_named_with_its_position(name, parameters, classes):
    loss = LOSSES[name](**parameters)
    y, p = operands(name, (6, classes), "float32")
    right = loss.value_grad_and_hess(y, p)
    for label in (classes, *FAR_OUT["int64"]):
        wrong = y.copy()
        wrong[3:] = label
        wrong[4] = -7
        assert bad_label(name, loss, wrong, p) == (label, (3,))
    for result, again in zip(right, loss.value_grad_and_hess(y, p), strict=True):
        np.testing.assert_array_equal(result, again)


@pytest.mark.parametrize("dtype", FAR_OUT)
@pytest.mark.parametrize("classes", [5, 70])
@every_indexed_loss
def test_a_bad_label_of_any_integer_type(name, classes, dtype):
    y, p = operands(name, (6, classes), "float32")
    y = y.astype(dtype)
    for label in (classes, *FAR_OUT[dtype]):
        y[2] = label
        assert bad_label(name, LOSSES[name](), y, p) == (label, (2,))


@pytest.mark.parametrize("call", CALLS)
@every_indexed_loss
def test_every_call_finds_a_bad_label(name, call):
    y, p = operands(name, SHAPE, "float32")
    y[5] = SHAPE[-1]
    assert bad_label(name, LOSSES[name](), y, p, call) == (SHAPE[-1], (5,))


@pytest.mark.parametrize("reduction", ["sum", "weighted_mean", "none"])
@every_indexed_loss
def test_every_reduction_finds_a_bad_label(name, reduction):
    y, p = operands(name, SHAPE, "float32")
    y[0] = -1
    loss = LOSSES[name](reduction=reduction, class_weight=[1.0] * SHAPE[-1], ignore_class=-2)
    assert bad_label(name, loss, y, p, sample_weight=np.arange(6.0)) == (-1, (0,))


@every_indexed_loss
def test_a_bad_label_in_more_dimensions(name):
    y, p = operands(name, (2, 3, 5), "float32")
    y[1, 2] = 5
    y[1, 1] = -3
    assert bad_label(name, LOSSES[name](), y, p) == (-3, (1, 1))
    across = np.moveaxis(p, -1, 1)
    assert bad_label(name, LOSSES[name](axis=1), y, across) == (-3, (1, 1))
    assert bad_label(name, LOSSES[name](), y[1, 2], p[1, 2]) == (5, ())


@pytest.mark.parametrize("shape", [(40_000, 10), (600, 1000)])
@every_indexed_loss
def test_the_first_bad_label_is_named_by_many_threads_too(name, shape):
    y, p = operands(name, shape, "float32")
    wrong = np.random.default_rng(1).choice(np.arange(shape[0] // 3, shape[0]), 50, replace=False)
    y[wrong] = 10_000 + wrong
    first = int(wrong.min())
    before = fl.get_num_threads()
    try:
        for threads in (1, 2, 5):
            fl.set_num_threads(threads)
            assert bad_label(name, LOSSES[name](), y, p) == (10_000 + first, (first,))
    finally:
        fl.set_num_threads(before)


@pytest.mark.parametrize("classes", [5, 70])
@every_indexed_loss
def test_a_bad_label_writes_nothing_outside_of_out(name, classes):
    y, p = operands(name, (33, classes), "float32")
    arenas = [np.full(p.size + 4096, 7.0, "float32") for _ in range(2)]
    out, hess_out = (arena[2048:-2048].reshape(p.shape) for arena in arenas)
    for label in (-1, -classes, classes, 2 * classes, 2**31, -(2**63)):
        y[[0, 17, 32]] = label
        bad_label(name, LOSSES[name](), y, p, out=out, hess_out=hess_out)
        assert all(np.all(arena[:2048] == 7.0) and np.all(arena[-2048:] == 7.0) for arena in arenas)


@every_indexed_loss
def test_any_integer_can_be_the_ignored_class(name):
    y, p = operands(name)
    value, grad = LOSSES[name]().value_and_grad(y, p)
    for ignored in (-(2**63), 2**63, 2**64 - 1, 10**30):
        again, same = LOSSES[name](ignore_class=ignored).value_and_grad(y, p)
        assert again == value
        np.testing.assert_array_equal(same, grad)


# -- shapes ----------------------------------------------------------------------------------------


def shape_cases():
    for name in sorted({*DENSE} & {*THOROUGH}):
        for true, pred in [
            ((6, 1), (6,)),
            ((6,), (6, 1)),
            ((6, 5), (5, 6)),
            ((6, 5), (6, 4)),
            ((7, 5), (6, 5)),
            ((5,), (6, 5)),
            ((1, 5), (6, 5)),
            ((6, 5), (5,)),
            ((), (5,)),
            ((6, 5, 1), (6, 5)),
            ((0, 5), (6, 5)),
        ]:
            yield name, true, pred
    for name in THOROUGH_INDEXED:
        for true, pred in [
            ((6, 1), (6, 5)),
            ((6, 5), (6, 5)),
            ((5,), (6, 5)),
            ((), (6, 5)),
            ((6,), (5,)),
            ((2, 3), (6, 5)),
        ]:
            yield name, true, pred
        yield name, (2, 3, 1), (2, 3, 5)


@pytest.mark.parametrize(("name", "true", "pred"), list(shape_cases()))
def test_a_wrong_shape(name, true, pred):
    y = np.zeros(true, "int64" if name in INDEXED else "float64")
    line = refused(name, ValueError, "y_true", y, np.full(pred, 0.5))
    assert str(true) in line
    if name in INDEXED and true[-1:] == (1,):
        assert ", 0]" in line  # how to drop the axis that is too many


@every_rowwise_loss
def test_a_scalar_has_no_class_axis(name):
    for call in CALLS:
        with pytest.raises(ValueError, match=rf"^{name}: (axis|y_pred) must .+; got .+"):
            getattr(LOSSES[name](), call)(np.int64(0), np.float64(0.5))


@pytest.mark.parametrize("axis", [2, -3, 10**30])
@every_rowwise_loss
def test_an_axis_out_of_range(name, axis):
    y, p = operands(name)
    assert str(axis) in refused(name, ValueError, "axis", y, p, loss=LOSSES[name](axis=axis))


@pytest.mark.parametrize("count", [1, 4, 6])
@every_rowwise_loss
def test_class_weights_of_the_wrong_number(name, count):
    y, p = operands(name)
    refused(name, ValueError, "class_weight", y, p, loss=LOSSES[name](class_weight=[1.0] * count))


RAGGED = [[0.0, 1.0], [0.0]]


@every_loss
def test_lists_of_unequal_length(name):
    y, p = operands(name, (2, 2))
    refused(name, ValueError, "y_pred", y, RAGGED)
    refused(name, ValueError, "y_true", RAGGED, p)
    refused(name, ValueError, "sample_weight", y, p, sample_weight=RAGGED)
    refused(name, ValueError, "mask", y, p, mask=[[True, False], [True]])


# -- dtypes ----------------------------------------------------------------------------------------

WRONG_DTYPES = {
    "object": np.dtype(object),
    "complex": np.dtype("complex64"),
    "structured": np.dtype([("a", "f4"), ("b", "f4")]),
    "string": np.dtype("U3"),
    "bytes": np.dtype("S3"),
    "datetime": np.dtype("M8[s]"),
    "timedelta": np.dtype("m8[s]"),
}
if np.dtype("longdouble") != np.dtype("float64"):
    WRONG_DTYPES["longdouble"] = np.dtype("longdouble")
SWAPPED = {f"swapped {t}": np.dtype(t).newbyteorder() for t in ("float16", "float32", "float64", "int16", "int64")}


@pytest.mark.parametrize("dtype", [*WRONG_DTYPES, *SWAPPED, "int64", "bool"])
@every_loss
def test_y_pred_of_a_wrong_dtype(name, dtype):
    y, _ = operands(name)
    wrong = np.zeros(SHAPE, WRONG_DTYPES.get(dtype) or SWAPPED.get(dtype) or dtype)
    refused(name, TypeError, "y_pred", y, wrong)


@pytest.mark.parametrize("dtype", [*WRONG_DTYPES, *SWAPPED, "float64", "float32", "bool"])
@every_loss
def test_y_true_of_a_wrong_dtype(name, dtype):
    if dtype in ("float64", "float32", "bool") and name in DENSE:
        pytest.skip("a good dtype for this loss")
    y, p = operands(name)
    refused(name, TypeError, "y_true", np.zeros(y.shape, WRONG_DTYPES.get(dtype) or SWAPPED.get(dtype) or dtype), p)


@pytest.mark.parametrize("dtype", [kind for kind in WRONG_DTYPES if kind != "longdouble"])
@every_loss
def test_weights_of_a_wrong_dtype(name, dtype):
    y, p = operands(name)
    refused(name, TypeError, "sample_weight", y, p, sample_weight=np.ones(6, "i1").astype(WRONG_DTYPES[dtype]))


@pytest.mark.parametrize("dtype", [*WRONG_DTYPES, "int64", "float64", "uint8"])
@every_loss
def test_a_mask_of_a_wrong_dtype(name, dtype):
    y, p = operands(name)
    refused(name, TypeError, "mask", y, p, mask=np.zeros(6, WRONG_DTYPES.get(dtype, dtype)))


@pytest.mark.parametrize("value", [None, "text", {"a": 1}, object()], ids=["None", "str", "dict", "object"])
@every_loss
def test_operands_that_are_no_arrays(name, value):
    y, p = operands(name)
    refused(name, TypeError, "y_pred", y, value)
    refused(name, TypeError, "y_true", value, p)


# -- arrays of other libraries ---------------------------------------------------------------------


ARGUMENTS = ("y_true", "y_pred", "sample_weight", "mask", "out", "hess_out")
every_argument = pytest.mark.parametrize("argument", ARGUMENTS)


def refused_as(name, error, argument, convert, *, blamed=None):
    """`refused` for one argument that is an array of another kind, while the others are good.

    The error names it, or what is ``blamed`` for it.
    """
    y, p = operands(name)
    good = {"y_true": y, "y_pred": p}
    optional = {
        "sample_weight": np.ones(6),
        "mask": np.ones(6, bool),
        "out": np.zeros(SHAPE),
        "hess_out": np.zeros(SHAPE),
    }
    given = {**good, argument: convert({**good, **optional}[argument])}
    calls = calls_taking(argument) if argument in ("out", "hess_out") else CALLS
    y, p = given.pop("y_true"), given.pop("y_pred")
    return refused(name, error, blamed or argument, y, p, calls=calls, **given)


def masked(values):
    return np.ma.masked_array(values, np.zeros(np.shape(values), bool))


@every_argument
@every_loss
def test_a_masked_array(name, argument):
    line = refused_as(name, TypeError, argument, masked)
    assert "mask=" in line or argument not in ("y_true", "y_pred", "sample_weight")


class Foreign:
    """An array of another library, as far as fastloss looks at it."""

    def __init__(self, values, **attributes):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, values.ndim
        self.__dict__.update(attributes)

    def __array__(self, dtype=None, copy=None):
        message = "this array does not convert itself"
        raise TypeError(message)


def foreign(monkeypatch, module, kind, values, **attributes):
    """An instance of class ``kind`` of a module that need not be installed."""
    made = type(kind, (Foreign,), {"__module__": module})
    name = ""
    for part in module.split("."):
        parent, name = sys.modules.get(name), f"{name}.{part}".lstrip(".")
        stand_in = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, stand_in)
        if parent is not None:
            setattr(parent, part, stand_in)
    setattr(sys.modules[module], kind, made)
    return made(values, **attributes)


CPU, GPU = types.SimpleNamespace(type="cpu"), types.SimpleNamespace(type="cuda")
FOREIGN = {
    "torch requiring grad": ("torch", "Tensor", {"requires_grad": True, "device": CPU}, "detach()"),
    "torch on a GPU": ("torch", "Tensor", {"requires_grad": False, "device": GPU}, "cpu()"),
    "dask": ("dask.array", "Array", {}, "compute()"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@every_argument
@every_loss
def test_arrays_of_other_libraries(monkeypatch, name, argument, kind):
    module, class_name, attributes, conversion = FOREIGN[kind]
    line = refused_as(name, TypeError, argument, lambda a: foreign(monkeypatch, module, class_name, a, **attributes))
    assert conversion in line or argument in ("out", "hess_out")


@every_argument
@every_loss
def test_numpy_and_cupy_mixed_names_both(monkeypatch, name, argument):
    """y_pred says where the others must be."""
    blamed, conversion = (argument, "cupy.asnumpy") if argument != "y_pred" else ("y_true", "cupy.asarray")
    line = refused_as(name, TypeError, argument, lambda a: foreign(monkeypatch, "cupy", "ndarray", a), blamed=blamed)
    assert "NumPy" in line
    if argument not in ("out", "hess_out"):
        assert "CuPy" in line
        assert conversion in line


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "coo_array"])
@every_argument
@every_loss
def test_sparse_arrays(name, argument, kind):
    made = getattr(scipy.sparse, kind)
    line = refused_as(name, TypeError, argument, lambda a: made(a.reshape(6, -1)))
    assert "toarray()" in line or argument in ("out", "hess_out")


@pytest.mark.peers
@every_loss
def test_tensors_of_torch(name):
    torch = pytest.importorskip("torch")
    y, p = operands(name)
    tensors = torch.from_numpy(y), torch.from_numpy(p)
    assert LOSSES[name]()(*tensors) == LOSSES[name]()(y, p)
    assert "detach()" in refused(name, TypeError, "y_pred", y, tensors[1].clone().requires_grad_())
    refused(name, TypeError, "out", y, p, out=tensors[1].clone(), calls=calls_taking("out"))


class Holder:
    """Converts itself to an array that shares its memory, as a pandas Series does."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return self.values


class Subclass(np.ndarray):
    """An array with habits of its own."""

    def ravel(self, order="C"):
        message = "a kernel must see a plain array"
        raise AssertionError(message)


def read_only(values):
    values = np.array(values)
    values.flags.writeable = False
    return values


def matrix(values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # discouraged, but still around
        return np.asmatrix(values)


def on_disk(values, path):
    stored = np.memmap(path, values.dtype, "w+", shape=values.shape)
    stored[...] = values
    stored.flush()
    return np.memmap(path, values.dtype, "r", shape=values.shape)


@pytest.mark.parametrize("kind", ["list", "tuple", "read-only", "memmap", "subclass", "holder", "matrix", "pandas"])
@every_loss
def test_what_converts_to_an_array_is_accepted(name, kind, tmp_path):
    if kind == "pandas":
        pandas = pytest.importorskip("pandas")
    y, p = operands(name)
    mask, weight = np.arange(6) != 2, np.arange(6.0)
    convert = {
        "list": np.ndarray.tolist,
        "tuple": lambda a: tuple(a.tolist()),
        "read-only": read_only,
        "memmap": lambda a: on_disk(a, tmp_path / str(len(list(tmp_path.iterdir())))),
        "subclass": lambda a: a.view(Subclass),
        "holder": Holder,
        "matrix": lambda a: matrix(a) if a.ndim == 2 else a,
        "pandas": lambda a: pandas.DataFrame(a) if a.ndim == 2 else pandas.Series(a),
    }[kind]
    given = [convert(a) for a in (y, p, weight, mask)]
    value, grad = LOSSES[name]().value_and_grad(y, p, weight, mask=mask)
    again, same = LOSSES[name]().value_and_grad(given[0], given[1], given[2], mask=given[3])
    assert type(again) is float
    assert type(same) is np.ndarray
    assert again == value
    np.testing.assert_array_equal(same, grad)


def test_buffers_of_the_standard_library_are_accepted():
    y, p = array.array("f", [0.0, 1.0]), array.array("f", [0.5, 3.0])
    assert fl.mean_squared_error(y, memoryview(p)) == 2.125


# -- NaN -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), variant_cases(THOROUGH), ids=case_id)
def test_nan_reaches_the_value_and_its_own_gradient_only(name, parameters):
    loss = LOSSES[name](**parameters)
    for shape in [(3, 37)] if name not in ROWWISE else [(35, 5), (3, 70)]:
        for position in [(0, 0), (1, 3), (shape[0] - 1, shape[1] - 1)]:
            for operand in ("y_pred", "y_true") if name in DENSE else ("y_pred",):
                y, p = operands(name, shape, "float32")
                (p if operand == "y_pred" else y)[position] = np.nan
                value, grad, _ = loss.value_grad_and_hess(y, p)
                assert np.isnan(value)
                hidden = np.isnan(grad)
                assert hidden[position]
                hidden[position[0] if name in ROWWISE else position] = False
                assert not hidden.any()


@pytest.mark.parametrize("loss", [one for name in ROWWISE for one in variants(LOSSES[name])], ids=label_of)
def test_nan_reaches_its_whole_row(loss):
    """By the formula itself: that kernels compute what it says is the business of test_exact.py."""
    y, p = plain(loss, (3, 5), np.random.default_rng(0))
    for operand in ("y_pred", "y_true") if y.shape == p.shape else ("y_pred",):
        spoiled = {"y_true": y.astype(float) if y.shape == p.shape else y.copy(), "y_pred": p.copy()}
        spoiled[operand][1, 2] = np.nan
        if getattr(loss, "ignore_class", None) is not None:
            spoiled["y_true"][:] = 3
        with np.errstate(invalid="ignore"):
            value, grad, _ = evaluate(with_reduction(loss, "none"), **spoiled)
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])
        np.testing.assert_array_equal(np.isnan(grad).all(axis=1), [False, True, False])
        np.testing.assert_array_equal(np.isnan(grad).any(axis=1), [False, True, False])


@every_loss
def test_nan_in_place_is_the_same_as_out_of_place(name):
    y, p = operands(name)
    for _ in range(3):  # later calls may take a shorter way
        pred = p.copy()
        pred[2, 1] = np.nan
        grad = LOSSES[name]().grad(y, pred)
        loss = called_before(name, "float64")
        _, in_place = loss.value_and_grad(y, pred, out=pred)
        np.testing.assert_array_equal(in_place, grad)


# -- layouts ---------------------------------------------------------------------------------------


def unaligned(values):
    raw = np.zeros(values.nbytes + 1, np.uint8)
    view = raw[1:].view(values.dtype).reshape(values.shape)
    view[...] = values
    return view


def strided(values):
    wide = np.zeros((*values.shape, 3), values.dtype)
    wide[..., 1] = values
    return wide[..., 1]


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "reversed rows": lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_loss
def test_any_layout_gives_the_same_numbers(name, layout):
    change = LAYOUTS[layout]
    y, p = operands(name, (37, 5))
    loss = LOSSES[name](reduction="sum")
    value, grad = loss.value_and_grad(y, p)
    again, same = loss.value_and_grad(change(y), change(p))
    assert again == pytest.approx(value, rel=1e-14)
    np.testing.assert_array_equal(same, grad)
    out = change(np.full_like(p, 9.0))
    again, same = loss.value_and_grad(y, p, out=out)
    assert same is out
    np.testing.assert_array_equal(out, grad)
    pred = change(p)
    loss.grad(y, pred, out=pred)
    np.testing.assert_array_equal(pred, grad)


@every_loss
def test_repeated_inputs_by_zero_strides(name):
    y, p = operands(name, (1, 5))
    wide_y, wide_p = (np.broadcast_to(a, (9, *a.shape[1:])) for a in (y, p))
    value, grad = LOSSES[name]().value_and_grad(wide_y, wide_p)
    assert value == pytest.approx(LOSSES[name]()(y, p), rel=1e-14)
    np.testing.assert_allclose(grad * 9, np.broadcast_to(LOSSES[name]().grad(y, p), (9, 5)), rtol=1e-14)


def test_more_than_two_to_the_31_elements():
    # Pages that are only read need no memory: all of them are the one page of zeros.
    size = 2**31 + 77
    p, y = np.zeros(size, "float16"), np.zeros(size, "bool")
    p[-1], y[0] = 3.0, True
    assert fl.mean_squared_error(y, p, reduction="sum") == 10.0


@pytest.mark.soak
@every_loss
def test_gradients_of_more_than_two_to_the_31_elements(name):
    shape = (2**16 + 1, 2**15)
    y, p = operands(name, (1, shape[-1]), "float16")
    row = LOSSES[name](reduction="sum").grad(y, p)
    wide_y = np.zeros((*shape[:-1], *y.shape[1:]), y.dtype)
    wide_p = np.zeros(shape, "float16")
    wide_y[:], wide_p[:] = y, p
    LOSSES[name](reduction="sum").grad(wide_y, wide_p, out=wide_p)
    for line in (0, 2**15, 2**16):
        np.testing.assert_array_equal(wide_p[line], row[0])


# -- weights, mask, normalizer ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1.0, -1e-300])
@every_loss
def test_a_wrong_weight_is_named_with_its_position(name, value):
    y, p = operands(name)
    for shape in {(6,), loss_shape(name, SHAPE)}:
        weight = np.ones(shape)
        weight.reshape(-1)[4:] = value
        assert "position 4" in refused(name, ValueError, "sample_weight", y, p, sample_weight=weight)
    refused(name, ValueError, "sample_weight", y, p, sample_weight=value)


def wrong_leading_shapes(name):
    shapes = [(5,), (7,), (1,) * 5 + (2,), (2, 3), (6, 5, 2), (0,), (1, 6), (6, 4)]
    return shapes if name not in ROWWISE else [*shapes, (6, 5)]


@every_loss
def test_weights_and_masks_of_a_wrong_shape(name):
    y, p = operands(name)
    for shape in wrong_leading_shapes(name):
        line = refused(name, ValueError, "sample_weight", y, p, sample_weight=np.ones(shape))
        assert str(shape) in line
        refused(name, ValueError, "mask", y, p, mask=np.ones(shape, bool))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -1,
        -0.0,
        0.0,
        NAN,
        INF,
        -INF,
        True,
        np.True_,
        "2",
        b"2",
        1j,
        [2.0],
        np.ones(1),
        np.ones((2, 2)),
        10**400,
        Decimal(2),
    ],
    ids=short,
)
@every_loss
def test_a_wrong_normalizer(name, value):
    y, p = operands(name)
    refused(name, ValueError, "normalizer", y, p, normalizer=value)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), Fraction(4, 2)], ids=repr)
def test_a_normalizer_is_any_real_number(value):
    assert fl.mean_squared_error([0.0], [1.0], normalizer=value) == 0.5


# -- out and hess_out ------------------------------------------------------------------------------

RESULTS = ("out", "hess_out")
every_result = pytest.mark.parametrize("argument", RESULTS)


def refused_result(name, error, argument, y, p, result, **options):
    """`refused` for ``out`` or ``hess_out``, which must stay as they were too."""
    return refused(name, error, argument, y, p, calls=calls_taking(argument), **{argument: result}, **options)


@every_result
@every_loss
def test_a_result_buffer_that_is_no_array(name, argument):
    y, p = operands(name)
    for wrong in (p.tolist(), "out", 1.0, bytearray(p.nbytes), memoryview(p.copy()), Holder(p.copy()), np.float64(1)):
        refused_result(name, TypeError, argument, y, p, wrong)


@every_result
@every_loss
def test_a_result_buffer_of_a_wrong_shape_or_dtype(name, argument):
    y, p = operands(name)
    for shape in [(7, 5), (6, 4), (5, 6), (30,), (6, 5, 1), (1, 6, 5), (0, 5), ()]:
        assert str(shape) in refused_result(name, ValueError, argument, y, p, np.full(shape, 9.0))
    swapped = np.dtype("float64").newbyteorder()
    for dtype in ("float32", "float16", "int64", "complex128", "longdouble", object, swapped):
        refused_result(name, ValueError, argument, y, p, np.zeros(SHAPE, dtype))


@every_result
@every_loss
def test_a_result_buffer_that_cannot_be_written(name, argument):
    y, p = operands(name)
    refused_result(name, ValueError, argument, y, p, read_only(p))
    view = np.full(SHAPE, 9.0)[:]
    view.flags.writeable = False
    refused_result(name, ValueError, argument, y, p, view)
    refused_result(name, ValueError, argument, y, p, np.broadcast_to(np.full(5, 9.0), SHAPE))


@pytest.mark.parametrize("strides", [(0, 8), (8, 0), (0, 0), (8, 8), (16, 8), (-8, 8), (8, 32)])
@every_result
@every_loss
def test_a_result_buffer_whose_elements_share_memory(name, argument, strides):
    y, p = operands(name)
    view = np.lib.stride_tricks.as_strided(np.full(80, 9.0)[10:], SHAPE, strides)
    refused_result(name, ValueError, argument, y, p, view)


@every_result
@every_loss
def test_a_result_buffer_that_overlaps_y_pred_in_part(name, argument):
    y, p = operands(name)
    memory = np.zeros(80)
    memory[10:40] = p.reshape(-1)
    pred = memory[10:40].reshape(SHAPE)
    for start in (1, 9, 11, 15, 39):
        refused_result(name, ValueError, argument, y, pred, memory[start : start + 30].reshape(SHAPE))
    refused_result(name, ValueError, argument, y, pred, pred[::-1])
    refused_result(name, ValueError, argument, y, pred, pred[:, ::-1])
    square = np.ascontiguousarray(operands(name, (6, 6))[1])
    labels = operands(name, (6, 6))[0]
    refused_result(name, ValueError, argument, labels, square, square.T)


@every_result
@every_loss
def test_a_result_buffer_that_overlaps_another_argument(name, argument):
    y, p = operands(name)
    result = np.zeros(SHAPE)
    flat = result.reshape(-1)
    shared_y = flat.view("int64")[3:9] if name in INDEXED else result
    refused_result(name, ValueError, argument, shared_y, p, result)
    if name in DENSE:
        refused_result(name, ValueError, argument, result[::-1], p, result)
    refused_result(name, ValueError, argument, y, p, result, sample_weight=flat[4:10])
    refused_result(name, ValueError, argument, y, p, result, mask=flat.view("bool")[:6])


@every_result
@every_loss
def test_a_result_buffer_that_overlaps_what_converts_to_an_array(name, argument):
    y, p = operands(name)
    result = np.zeros(SHAPE)
    refused_result(name, ValueError, argument, y, p, result, sample_weight=Holder(result.reshape(-1)[4:10]))
    refused_result(name, ValueError, argument, y, p, result, mask=Holder(result.reshape(-1).view("bool")[:6]))


@every_loss
def test_the_two_result_buffers_must_not_overlap(name):
    y, p = operands(name)
    memory = np.full(60, 9.0)
    out = memory[:30].reshape(SHAPE)
    for hess_out in (out, out[::-1], memory[29:59].reshape(SHAPE)):
        refused_result(name, ValueError, "hess_out", y, p, hess_out, out=out)
    in_place = p.copy()
    refused_result(name, ValueError, "hess_out", y, in_place, in_place, out=in_place)
    refused_result(name, ValueError, "hess_out", y, in_place, in_place)


@every_loss
def test_out_may_be_y_pred_or_a_view_of_exactly_it(name):
    y, p = operands(name)
    loss = LOSSES[name]()
    value, grad, hess = loss.value_grad_and_hess(y, p)
    for pick in (
        lambda a: a,
        lambda a: a[:],
        lambda a: a.reshape(-1).reshape(SHAPE),
        lambda a: a.view("int64").view("float64"),
    ):
        pred = p.copy()
        out = pick(pred)
        again, same, curve = loss.value_grad_and_hess(y, pred, out=out)
        assert same is out
        assert again == value
        np.testing.assert_array_equal(pred, grad)
        np.testing.assert_array_equal(curve, hess)


@every_loss
def test_out_may_be_the_memory_behind_y_pred(name):
    y, p = operands(name)
    pred = p.copy()
    LOSSES[name]().grad(y, Holder(pred), out=pred)
    np.testing.assert_array_equal(pred, LOSSES[name]().grad(y, p))


@every_loss
def test_out_may_lie_between_the_elements_of_y_pred(name):
    y, p = operands(name)
    memory = np.full((6, 5, 2), 9.0)
    memory[..., 0] = p
    LOSSES[name]().grad(y, memory[..., 0], out=memory[..., 1])
    np.testing.assert_array_equal(memory[..., 0], p)
    np.testing.assert_array_equal(memory[..., 1], LOSSES[name]().grad(y, p))


@pytest.mark.parametrize("kind", ["memmap", "subclass", "matrix"])
@every_loss
def test_out_may_be_an_array_of_a_derived_class(name, kind, tmp_path):
    y, p = operands(name)
    out = {
        "memmap": lambda: np.memmap(tmp_path / "out", "float64", "w+", shape=SHAPE),
        "subclass": lambda: np.zeros(SHAPE).view(Subclass),
        "matrix": lambda: matrix(np.zeros(SHAPE)),
    }[kind]()
    assert LOSSES[name]().grad(y, p, out=out) is out
    np.testing.assert_array_equal(np.asarray(out), LOSSES[name]().grad(y, p))


# -- parameters ------------------------------------------------------------------------------------

NO_NUMBERS = (True, "1", b"1", None, 1j, [1.0], np.ones((2, 2)), 10**400, -(10**400), NAN, object)
WRONG_VALUES = {
    "> 0": (0.0, -0.0, -1.0, INF, *NO_NUMBERS),
    ">= 0": (-1.0, -1e-300, INF, *NO_NUMBERS),
    "in [0, 1]": (-1e-9, 1.1, INF, *NO_NUMBERS),
    "in (0, 0.5)": (0.0, 0.5, -1e-9, INF, *NO_NUMBERS),
    "in (0, 1)": (0.0, 1.0, -1e-9, INF, *NO_NUMBERS),
    "in (0, 1), or a sequence of such numbers": (0.0, 1.0, -1e-9, INF, (), (0.5, 1.0), [0.5, "0.5"], [[0.5]], True),
    "a finite number": (INF, -INF, *NO_NUMBERS),
    "> 0 or None": (0.0, -1.0, INF, *(value for value in NO_NUMBERS if value is not None)),
    "True or False": (0, 1, 0.0, None, "True", [True], np.ones((2, 2), bool)),
    "None, an integer or integers": (1.0, True, "1", "12", (), [], [1.0], [None], {1}, NAN, np.ones((2, 2), int)),
    "an integer": (1.0, True, "1", None, NAN, 1j, np.ones((2, 2), int)),
    "an integer or None": (1.0, True, "1", NAN, 1j, np.ones((2, 2), int)),
    "None or a sequence of finite numbers >= 0": (
        *(1.0, "12", [], [-1.0, 1.0], [NAN, 1.0], [INF], ["1", "2"], ["a"], [1j], [None], {1.0}, object),
        *(np.ones((3, 2)), [[1.0], [1.0, 2.0]], masked([1.0, 2.0]), 10**400, [10**400]),
    ),
    ">= 0 or a sequence of finite numbers >= 0": (
        *(-1.0, INF, NAN, True, "12", None, [], [-1.0, 1.0], [NAN, 1.0], [INF], ["1", "2"], [1j], [None], object),
        *(np.ones((3, 2)), [[1.0], [1.0, 2.0]], masked([1.0, 2.0]), 10**400, [10**400]),
    ),
    "one of": ("", "Mean", "average", None, 0, b"mean", ["mean"], NAN, np.array([["mean"], ["sum"]])),
}


def wrong_values(field):
    words = field.metadata["rule"].words
    return WRONG_VALUES["one of" if words.startswith("one of") else words]


PARAMETERS = [(name, parameter) for name, loss in LOSSES.items() for parameter in parameter_fields(loss)]
THOROUGH_PARAMETERS = [(name, parameter) for name, parameter in PARAMETERS if name in THOROUGH]
WRONG_PARAMETERS = [
    (name, parameter, value)
    for name, parameter in THOROUGH_PARAMETERS
    for value in wrong_values(parameter_fields(LOSSES[name])[parameter])
]


@pytest.mark.parametrize(("name", "parameter", "value"), WRONG_PARAMETERS, ids=short)
def test_a_wrong_parameter(name, parameter, value):
    function, (y, p) = getattr(fl, name), operands(name)
    ways = [LOSSES[name], *(functools.partial(getattr(function, call), y, p) for call in CALLS)]
    lines = set()
    for way in ways:
        with pytest.raises(ValueError, match=rf"^{name}: {parameter} must .+; got .+") as caught:
            way(**{parameter: value})
        lines.add(str(caught.value))
    assert len(lines) == 1
    assert "\n" not in lines.pop()


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_a_wrong_parameter_of_any_loss(name, parameter):
    for value in wrong_values(parameter_fields(LOSSES[name])[parameter]):
        with pytest.raises(ValueError, match=rf"^{name}: {parameter} must .+; got .+") as caught:
            LOSSES[name](**{parameter: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "parameter"), THOROUGH_PARAMETERS)
def test_a_wrong_parameter_is_refused_also_after_an_equal_good_one(name, parameter):
    """1 == 1.0 == True, so a cache of configurations must not take one for the other."""
    field = parameter_fields(LOSSES[name])[parameter]
    convert = field.metadata["rule"].convert
    good = {"True or False": True, "an integer": 1, "an integer or None": 1}.get(field.metadata["rule"].words, 1.0)
    try:
        convert(good)
    except ValueError:
        pytest.skip("1 is no value of this parameter")
    function, (y, p) = getattr(fl, name), operands(name)
    needed = {flag: True} if (flag := field.metadata.get("needs")) else {}
    function(y, p, **{parameter: good}, **needed)
    for value in (1, 1.0, True):
        try:
            convert(value)
        except ValueError:
            with pytest.raises(ValueError, match=f"{name}: {parameter} must"):
                function(y, p, **{parameter: value}, **needed)


@pytest.mark.parametrize("name", ["categorical_crossentropy", "sparse_categorical_crossentropy"])
@pytest.mark.parametrize(("parameter", "value", "default"), [("softcap", 30.0, "None"), ("z_loss", 1e-4, "0.0")])
def test_a_parameter_of_logits_without_logits(name, parameter, value, default):
    """It would do nothing: who forgets from_logits is told."""
    expected = rf"^{name}: {parameter} must be {default} without from_logits=True; got {value}$"
    with pytest.raises(ValueError, match=expected):
        LOSSES[name](**{parameter: value})
    assert getattr(LOSSES[name](from_logits=True, **{parameter: value}), parameter) == value


@every_loss
def test_an_unknown_keyword(name):
    function, (y, p) = getattr(fl, name), operands(name)
    for call in CALLS:
        with pytest.raises(TypeError, match=rf"^{name}: .*detla") as caught:
            getattr(function, call)(y, p, detla=1.0)
        assert "\n" not in str(caught.value)
        with pytest.raises(TypeError, match="'detla'"):
            getattr(LOSSES[name](), call)(y, p, detla=1.0)
    with pytest.raises(TypeError, match="'detla'"):
        LOSSES[name](detla=1.0)


@every_loss
def test_a_result_that_the_call_does_not_have_is_an_unknown_keyword(name):
    function, (y, p) = getattr(fl, name), operands(name)
    for option in RESULTS:
        for call in set(CALLS) - set(calls_taking(option)):
            with pytest.raises(TypeError, match=option):
                getattr(function, call)(y, p, **{option: p.copy()})
