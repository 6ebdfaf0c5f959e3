"""Hand-computed numbers: each loss's own examples by every way to call it, and the values pinned by peers.

These numbers come from no code of this project, so they catch a formula that is wrong everywhere at once.
"""

import math
import pickle

import numpy as np
import pytest
from representatives import REPRESENTATIVES, THOROUGH
from sampling import CALLS, DTYPES, LOSSES, is_indexed, some_types_for

import fastloss as fl

#: Every example is tried in both precisions; some, the first of a formula, by every call and type.
FIRST = {
    (name, cls(**example.parameters).variant()): pytest.param(cls, example, id=f"{name}-{number}")
    for name, cls in LOSSES.items()
    for number, example in reversed(list(enumerate(cls.examples)))
    if name in THOROUGH and cls(**example.parameters).variant() in REPRESENTATIVES[name]
}
EXAMPLES = [
    pytest.param(cls, example, id=f"{name}-{number}")
    for name, cls in LOSSES.items()
    for number, example in enumerate(cls.examples)
]
#: A few roundings in the type that results are stored in.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 5e-7, "float64": 1e-15}


def operands(cls, example, dtype):
    p = np.asarray(example.y_pred, np.float64).astype(dtype)
    y = np.asarray(example.y_true)
    return (y if is_indexed(cls) else y.astype(dtype)), p


def close(actual, expected, tolerance):
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=tolerance, atol=0)


def test_every_loss_has_two_examples_and_every_formula_one():
    for name, cls in LOSSES.items():
        assert len(cls.examples) >= 2, name
        used = {cls(**example.parameters).variant() for example in cls.examples}
        labels = set(cls.row_formulas() if cls.family == "rowwise" else cls.formulas())
        assert used == labels, f"{name}: no example of {sorted(labels - used)}"


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("cls", "example"), FIRST.values())
def test_call_and_type(cls, example, call):
    for dtype in some_types_for(cls(**example.parameters), list(DTYPES)):
        check(cls, example, call, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cls", "example"), EXAMPLES)
def test_example(cls, example, dtype):
    check(cls, example, "value_grad_and_hess", dtype)


def check(cls, example, call, dtype):
    y, p = operands(cls, example, DTYPES[dtype])
    summed = cls.name in THOROUGH  # else losses are added here: kernels that give each are those of test_exact.py
    loss = cls(reduction="sum" if summed else "none", **example.parameters)
    results = getattr(loss, call)(y, p)
    results = results if isinstance(results, tuple) else (results,)
    if not summed:
        results = (math.fsum(np.ravel(results[0])), *results[1:])
    for result, which in zip(results, CALLS[call], strict=True):
        if which == 0:
            assert type(result) is float
            close(result, example.value, 5e-7 if dtype != "float64" else 1e-15)
        else:
            assert result.dtype == DTYPES[dtype]
            assert result.shape == p.shape
            close(result, (example.value, example.grad, example.hess)[which], TOLERANCE[dtype])


@pytest.mark.parametrize(("cls", "example"), FIRST.values())
def test_function_and_aliases_equal_the_class(cls, example):
    y, p = operands(cls, example, np.float64)
    expected = cls(reduction="sum", **example.parameters).value_grad_and_hess(y, p)
    for name in (cls.name, *cls.aliases):
        function = getattr(fl, name)
        parameters = {"reduction": "sum", **example.parameters}
        assert function(y, p, **parameters) == expected[0]
        for call, which in CALLS.items():
            if call != "__call__":
                results = getattr(function, call)(y, p, **parameters)
                results = results if isinstance(results, tuple) else (results,)
                for result, number in zip(results, which, strict=True):
                    np.testing.assert_array_equal(result, expected[number])
        restored = pickle.loads(pickle.dumps(function))
        assert restored(y, p, **parameters) == expected[0]


@pytest.mark.parametrize(("cls", "example"), FIRST.values())
def test_lists_are_taken(cls, example):
    loss = cls(reduction="sum", **example.parameters)
    value, grad = loss.value_and_grad(example.y_true, example.y_pred)
    close(value, example.value, 1e-15)
    close(grad, example.grad, 1e-15)
    assert grad.dtype == np.float64


def test_aliases_are_the_function():
    assert fl.mse is fl.mean_squared_error
    assert fl.mae is fl.mean_absolute_error
    assert fl.bce is fl.binary_crossentropy


# -- values pinned against peers ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bce_of_probability_0_and_1(dtype):
    """Keras: 16.118 / 15.942 in float32 (1 - 1e-7 is not a float32), 16.118 twice in float64; gradient 0."""
    loss = fl.BinaryCrossentropy(reduction="none")
    value, grad = loss.value_and_grad(np.array([1.0, 0.0]), np.array([0.0, 1.0], dtype))
    expected = [16.118095650958319, 15.942385152878742 if dtype is np.float32 else -math.log1p(-(1 - 1e-7))]
    np.testing.assert_allclose(value, expected, rtol=1e-6 if dtype is np.float32 else 1e-14)
    assert grad.tolist() == [0.0, 0.0]


def test_huber():
    assert fl.huber([0.0], [2.0], delta=0.5) == 0.875
    assert fl.huber([0.0], [-2.0], delta=0.5) == 0.875


@pytest.mark.parametrize("loss", [fl.categorical_crossentropy, fl.sparse_categorical_crossentropy])
def test_unnormalised_probabilities(loss):
    y = [1] if loss is fl.sparse_categorical_crossentropy else [[0.0, 1.0, 0.0]]
    assert loss(y, [[0.2, 0.2, 0.2]]) == pytest.approx(math.log(3), rel=1e-15)
    assert loss(y, [[0.2, 0.2, 0.2]]) == pytest.approx(1.0986123, rel=1e-7)


def test_sample_weight_of_mean_is_not_divided_out():
    """Keras' and torch's mean divides by the number of losses, scikit-learn's by the sum of weights."""
    y, p, w = [0.0, 0.0], [1.0, 3.0], [1.0, 3.0]
    assert fl.mse(y, p, w) == (1 + 27) / 2
    assert fl.mse(y, p, w, reduction="weighted_mean") == (1 + 27) / 4
    assert fl.mse(y, p, w, reduction="sum") == 28
    assert fl.mse(y, p, w, reduction="none").tolist() == [1.0, 27.0]
    assert fl.mse(y, p, w, normalizer=7) == 4


def test_reduction_aliases():
    y, p, w = [0.0, 0.0], [1.0, 3.0], [1.0, 3.0]
    assert fl.mse(y, p, w, reduction="sum_over_batch_size") == 14
    assert fl.mse(y, p, w, reduction="mean_with_sample_weight") == 7
    assert fl.MeanSquaredError(reduction="sum_over_batch_size") == fl.MeanSquaredError(reduction="mean")


def test_scalar_weight_1_of_a_weighted_mean():
    """Keras divides by the weight sum before broadcasting, and so returns the sum."""
    assert fl.mse([0.0, 0.0], [1.0, 3.0], 1.0, reduction="weighted_mean") == 5.0


def test_weights_align_from_the_leading_axis():
    """Keras weighs time silently where batch and time are equal."""
    y, p = np.zeros((2, 2)), np.array([[1.0, 1.0], [10.0, 10.0]])
    assert fl.mse(y, p, [1.0, 0.0], reduction="sum") == 2.0
    assert fl.mse(y, p, np.array([1.0, 0.0])[:, None], reduction="sum") == 2.0


def test_none_on_elements_keeps_the_last_axis():
    """Keras averages it: its value is ours ``.mean(axis=-1)``."""
    assert fl.mse([[0.0, 0.0]], [[1.0, 3.0]], reduction="none").tolist() == [[1.0, 9.0]]


# -- exact from logits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_bce_at_infinite_logits(dtype):
    inf = np.inf
    loss = fl.BinaryCrossentropy(from_logits=True, reduction="none")
    y, x = np.array([0.0, 1.0, 0.0, 1.0, 0.5]), np.array([inf, inf, -inf, -inf, inf]).astype(DTYPES[dtype])
    value, grad, _ = loss.value_grad_and_hess(y, x)
    assert value.tolist() == [inf, 0.0, 0.0, inf, inf]
    assert grad.astype(float).tolist() == [1.0, 0.0, 0.0, -1.0, 0.5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bce_tails(dtype):
    """torch gives 0 here."""
    truth = 9.3576229688397e-14
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    value, grad = fl.binary_crossentropy.value_and_grad([0.0], np.array([-30.0], dtype), from_logits=True)
    assert value == pytest.approx(truth, rel=tolerance)
    assert float(grad[0]) == pytest.approx(9.357622968839299e-14, rel=tolerance)
    value, grad = fl.binary_crossentropy.value_and_grad([1.0], np.array([30.0], dtype), from_logits=True)
    assert value == pytest.approx(truth, rel=tolerance)
    assert float(grad[0]) == pytest.approx(-9.357622968839299e-14, rel=tolerance)


def both_from_logits(x, label, dtype, **parameters):
    """Value and gradient of one row by the sparse and by the dense loss; few classes and many."""
    x = np.asarray(x, dtype)
    for repeat in (1, 40):
        padded = np.concatenate([x, np.full((repeat - 1) * x.size, -np.inf, dtype)])[None, :]
        one_hot = (np.arange(padded.size) == label).astype(dtype)[None, :]
        sparse = fl.SparseCategoricalCrossentropy(from_logits=True, **parameters)
        dense = fl.CategoricalCrossentropy(from_logits=True, **parameters)
        for value, grad in (
            sparse.value_and_grad(np.array([label]), padded),
            dense.value_and_grad(one_hot, padded),
        ):
            assert not grad[0, x.size :].any()
            yield value, grad[0, : x.size].astype(np.float64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_minus_infinity_at_other_classes(dtype):
    """0 * -inf is 0; torch and Keras give NaN with one-hot targets."""
    for value, grad in both_from_logits([-np.inf, 0.0, 0.0, -np.inf], 1, DTYPES[dtype]):
        assert value == pytest.approx(math.log(2), rel=1e-6)
        assert grad.tolist() == [0.0, -0.5, 0.5, 0.0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_minus_infinity_at_the_true_class(dtype):
    for value, grad in both_from_logits([-np.inf, 0.0, 0.0], 0, DTYPES[dtype]):
        assert value == np.inf
        assert grad.tolist() == [-1.0, 0.5, 0.5]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_minus_infinity_over_a_temperature(dtype):
    """It stays what it is, also with a penalty: p = (0, 1/2, 1/2), and the log-sum-exp is 2 + log 2."""
    options = {"temperature": 0.5, "z_loss": 0.25}
    pull = 2 * 0.25 * (2 + math.log(2))
    for value, grad in both_from_logits([-np.inf, 1.0, 1.0], 1, DTYPES[dtype], **options):
        assert value == pytest.approx(math.log(2) + 0.25 * (2 + math.log(2)) ** 2, rel=1e-6)
        tolerance = 2**-8 if dtype == "bfloat16" else 1e-6
        expected = [0.0, 2 * (pull - 1) / 2, 2 * (pull + 1) / 2]
        np.testing.assert_allclose(grad, expected, rtol=tolerance)


@pytest.mark.parametrize("infinity", [-np.inf, -1e9])
def test_minus_infinity_that_is_capped(infinity):
    """It is -softcap, like every other logit far below: log(1 + exp(-4)), and no gradient."""
    x, options = [[infinity, np.inf]], {"from_logits": True, "softcap": 2.0}
    for value, grad, hess in (
        fl.sparse_categorical_crossentropy.value_grad_and_hess([1], x, **options),
        fl.categorical_crossentropy.value_grad_and_hess([[0.0, 1.0]], x, **options),
    ):
        assert value == pytest.approx(math.log1p(math.exp(-4.0)), rel=1e-15)
        assert grad.tolist() == [[0.0, 0.0]]
        assert not hess.any()


def test_logits_are_capped_before_they_are_heated():
    x = np.array([[3.0, -1.0, 0.5]])
    expected = fl.sparse_categorical_crossentropy([2], 2.0 * np.tanh(x / 2.0) / 0.5, from_logits=True)
    value = fl.sparse_categorical_crossentropy([2], x, from_logits=True, softcap=2.0, temperature=0.5)
    assert value == pytest.approx(expected, rel=1e-14)


def test_weights_weigh_z_loss_but_class_weights_do_not():
    x, options = np.zeros((2, 2)), {"from_logits": True, "z_loss": 1.0, "reduction": "none"}
    squared = math.log(2) ** 2
    weighed = fl.sparse_categorical_crossentropy([0, 1], x, [3.0, 0.5], **options)
    np.testing.assert_allclose(weighed, [3 * (math.log(2) + squared), 0.5 * (math.log(2) + squared)], rtol=1e-15)
    weighed = fl.sparse_categorical_crossentropy([0, 1], x, class_weight=(3.0, 0.0), **options)
    np.testing.assert_allclose(weighed, [3 * math.log(2) + squared, squared], rtol=1e-15)
    ignored = fl.sparse_categorical_crossentropy([0, 7], x, ignore_class=7, **options)
    np.testing.assert_allclose(ignored, [math.log(2) + squared, 0.0], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 3, 100])
def test_a_row_of_minus_infinity_is_nan(dtype, classes):
    x = np.zeros((3, classes), DTYPES[dtype])
    x[1] = -np.inf
    sparse = fl.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    dense = fl.CategoricalCrossentropy(from_logits=True, reduction="none")
    one_hot = np.zeros((3, classes))
    one_hot[:, 0] = 1
    for value, grad in (sparse.value_and_grad(np.zeros(3, int), x), dense.value_and_grad(one_hot, x)):
        assert np.isnan(value).tolist() == [False, True, False]
        assert np.isnan(grad.astype(float)).all(axis=1).tolist() == [False, True, False]
        assert not np.isnan(grad[::2].astype(float)).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("x", [[20.0, 0.0], [30.0, -3.0, 1.0], [0.0, 80.0, 0.0], [4.0, 0.0, -1.0, -2.0]])
def test_true_class_gradient_does_not_cancel(x, dtype):
    """A row's gradient sums to 0, to the accuracy of its small numbers (torch: [0, 2e-9] at [20, 0])."""
    label = int(np.argmax(x))
    others = math.fsum(math.exp(v - max(x)) for i, v in enumerate(x) if i != label)
    tolerance = {"bfloat16": 2**-8, "float32": 1e-6, "float64": 1e-15}[dtype]
    for value, grad in both_from_logits(x, label, DTYPES[dtype]):
        assert value == pytest.approx(math.log1p(others), rel=1e-6 if dtype != "float64" else 1e-15)
        assert grad[label] == pytest.approx(-others / (1 + others), rel=tolerance)
        assert grad[label] == pytest.approx(-(grad.sum() - grad[label]), rel=2 * tolerance)


def test_true_class_gradient_in_bfloat16_at_99_percent():
    """Liger-Kernel issue 1329: 20 % off at p = 0.99."""
    x = np.array([4.59375, 0.0]).astype(DTYPES["bfloat16"])
    truth = -1 / (1 + math.exp(4.59375))
    for _, grad in both_from_logits(x, 0, DTYPES["bfloat16"]):
        assert grad[0] == pytest.approx(truth, rel=2**-8)


def test_labels_are_never_floats():
    """Keras with dtype="float16" turns label 2049 into 2048."""
    x = np.zeros((1, 2050), np.float16)
    grad = fl.sparse_categorical_crossentropy.grad(np.array([2049]), x, from_logits=True)
    assert np.flatnonzero(grad < 0).tolist() == [2049]


def test_smoothing():
    """BCE: y (1 - s) + s / 2; categorical and sparse: y (1 - s) + s / classes."""
    s = 0.25
    assert fl.bce([1.0], [0.0], from_logits=True, label_smoothing=s) == pytest.approx(math.log(2), rel=1e-15)
    grad = fl.bce.grad([1.0], [0.0], from_logits=True, label_smoothing=s)
    assert grad.tolist() == [0.5 - (0.75 + 0.125)]
    x, expected = np.zeros((1, 4)), [[0.25 - 0.0625, 0.25 - 0.0625, 0.25 - 0.8125, 0.25 - 0.0625]]
    grad = fl.sparse_categorical_crossentropy.grad([2], x, from_logits=True, label_smoothing=s)
    assert grad.tolist() == expected
    one_hot = [[0.0, 0.0, 1.0, 0.0]]
    grad = fl.categorical_crossentropy.grad(one_hot, x, from_logits=True, label_smoothing=s)
    assert grad.tolist() == expected


def test_class_weights_weigh_smoothed_classes_too():
    """As torch: sum_c w[c] q[c] (-log p[c]), q the smoothed target."""
    w, s, x = np.array([1.0, 2.0, 4.0]), 0.3, np.array([0.5, -1.0, 2.0])
    log_p = x - math.log(np.exp(x).sum())
    q = np.array([0.0, 1.0, 0.0]) * (1 - s) + s / 3
    truth = -(w * q * log_p).sum()
    sparse = fl.sparse_categorical_crossentropy([1], [x], from_logits=True, label_smoothing=s, class_weight=w)
    dense = fl.categorical_crossentropy([[0.0, 1.0, 0.0]], [x], from_logits=True, label_smoothing=s, class_weight=w)
    assert sparse == pytest.approx(truth, rel=1e-14)
    assert dense == pytest.approx(truth, rel=1e-14)


def test_weighted_mean_with_class_weights_is_torch_mean():
    x, y, w = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1]), [1.0, 3.0]
    each = [math.log1p(math.e), math.log1p(math.exp(2.0)), math.log(2)]
    value = fl.sparse_categorical_crossentropy(y, x, from_logits=True, class_weight=w, reduction="weighted_mean")
    assert value == pytest.approx((each[0] + 3 * each[1] + 3 * each[2]) / 7, rel=1e-15)


@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 255])
def test_ignored_rows_count_for_nothing(ignored):
    x = np.array([[0.0, 1.0, 5.0], [np.nan, np.inf, 0.0], [2.0, 0.0, 1.0]])
    y = np.array([1, ignored, 1])
    options = {"from_logits": True, "ignore_class": ignored}
    value, grad = fl.sparse_categorical_crossentropy.value_and_grad(y, x, **options)
    alone, alone_grad = fl.sparse_categorical_crossentropy.value_and_grad(y[::2], x[::2], from_logits=True)
    assert value == alone
    np.testing.assert_array_equal(grad[::2], alone_grad)
    assert grad[1].tolist() == [0.0, 0.0, 0.0]
    if ignored == 255:
        as_bytes = fl.sparse_categorical_crossentropy(y.astype(np.uint8), x, **options)
        assert as_bytes == alone


def test_nothing_left():
    """All masked, all ignored, an empty batch, no weight: 0.0, and gradients of exact zeros."""
    x = np.array([[np.nan, 1.0], [np.inf, 2.0]])
    for reduction in ("mean", "sum", "weighted_mean"):
        sparse = fl.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction=reduction)
        for value, grad in (
            sparse.value_and_grad([-1, -1], x),
            sparse.value_and_grad([0, 1], x, mask=[False, False]),
            sparse.value_and_grad(np.zeros(0, int), np.zeros((0, 3))),
            fl.MeanSquaredError(reduction=reduction).value_and_grad(x, x, mask=np.zeros((2, 2), bool)),
            fl.MeanSquaredError(reduction=reduction).value_and_grad(np.zeros(0), np.zeros(0)),
        ):
            assert type(value) is float
            assert value == 0.0
            assert not grad.any()
    value, grad = fl.MeanSquaredError(reduction="weighted_mean").value_and_grad([1.0], [2.0], [0.0])
    assert value == 0.0
    assert grad.tolist() == [0.0]


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_nan_shows_in_the_value_also_where_the_true_class_weighs_nothing(from_logits):
    loss = LOSSES["sparse_categorical_crossentropy"](class_weight=(1, 0, 1), reduction="sum", from_logits=from_logits)
    value, grad = loss.value_and_grad([1], [[np.nan, 0.5, 0.5]])
    assert np.isnan(value)
    assert np.isnan(grad).all()
