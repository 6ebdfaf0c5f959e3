"""By-products of cross-entropies (``stats=True``) against plain NumPy; value and derivatives keep their bits."""

import numpy as np
import pytest
from sampling import DTYPES

import fastloss as fl

DENSE, LABELS = fl.CategoricalCrossentropy, fl.SparseCategoricalCrossentropy
LOGITS = {"from_logits": True}
LINKED = LOGITS | {"softcap": 2.0, "temperature": 0.5, "z_loss": 0.1, "label_smoothing": 0.125}
#: Loss, parameters, type, numbers of classes. Few are transposed (on a GPU in shared memory), more lie in a row (in a
#: warp's registers, in a block's).
CASES = {
    "labels, linked": (LABELS, LINKED | {"ignore_class": 0}, "float32", (5, 1, 70)),
    "labels": (LABELS, LOGITS, "float64", (161, 1501)),
    "labels of probabilities": (LABELS, {"ignore_class": -1}, "bfloat16", (5,)),
    "dense, linked": (DENSE, LINKED | {"reduction": "none"}, "float32", (1501, 161)),
    "dense": (DENSE, LOGITS, "bfloat16", (70, 5)),
    "dense, of probabilities, by the target": (DENSE, {"wrt": "y_true"}, "float32", (161,)),
}
#: Those whose other results are compared with the same loss's without by-products.
COMPARED = ("labels, linked", "dense, linked")
#: Additions behind one another in a row's sum, at most: on a GPU 6 packs of 8 in a lane, then 5 between lanes.
ADDITIONS = 53


def operands(loss, classes, dtype, rows=(3, 14)):
    rng = np.random.default_rng(classes)
    x = 3 * rng.normal(size=(*rows, classes)) if loss.from_logits else rng.gamma(1.0, size=(*rows, classes))
    y = rng.integers(0, classes, rows) if loss.indexed else rng.dirichlet(np.ones(classes), rows).astype(dtype)
    x[0, 1] = x[0, 1].max()  # the first of the largest
    return y, x.astype(dtype)


def log_sum_exp(loss, x):
    """What it is, and by how much it may be off."""
    eps = np.finfo("float64" if x.dtype == np.float64 else "float32").eps
    x = x.astype(np.float64)
    if not loss.from_logits:  # in float64, then rounded
        expected = np.log(x.sum(axis=-1))
        return expected, eps / 2 * abs(expected) + x.shape[-1] * np.finfo("float64").eps
    z = (x if loss.softcap is None else loss.softcap * np.tanh(x / loss.softcap)) / loss.temperature
    peak = z.max(axis=-1)
    expected = peak + np.log(np.exp(z - peak[..., None]).sum(axis=-1))
    # A link rounds 5 times; an exponent errs by half an ulp of its distance, log(classes) on average; the sum by half
    # an ulp an addition; exp, log1p and the last addition by 2 ulp each.
    linked = 5.0 * abs(z).max(axis=-1) if loss.softcap else 0.0
    return expected, eps * (linked + np.log(x.shape[-1]) + ADDITIONS / 2 + 4.0 + abs(expected))


def check(loss, y, x, stats, counts):
    """Compare with NumPy; classes lie last, and some rows count."""
    expected, bound = log_sum_exp(loss, x)
    assert stats.log_sum_exp.dtype == ("float64" if x.dtype == np.float64 else "float32")
    assert (abs(stats.log_sum_exp - expected)[counts] <= bound[counts]).all()
    assert (stats.log_sum_exp[~counts] == 0).all()
    largest, true = x.argmax(axis=-1), y if loss.indexed else y.argmax(axis=-1)
    np.testing.assert_array_equal(stats.argmax, np.where(counts, largest, -1))
    assert stats.argmax.dtype == np.int64
    assert (stats.correct, stats.valid) == ((largest == true)[counts].sum(), counts.sum())
    assert stats.accuracy == (stats.correct / stats.valid if stats.valid else 0.0)


@pytest.mark.parametrize("case", CASES)
def test_by_products(case):
    """Of all kinds of rows, some of which do not count; what else is returned has the same bits as without."""
    cls, parameters, dtype, several = CASES[case]
    loss = cls(**parameters, stats=True)
    for classes in several:
        y, x = operands(loss, classes, DTYPES[dtype])
        mask = np.random.default_rng(0).random(x.shape[:-1]) < 0.7
        options = {"sample_weight": np.array([0.0, 1.0, 2.0]), "mask": mask}
        *results, stats = loss.value_grad_and_hess(y, x, **options)
        counts = mask & (y != loss.ignore_class) if loss.indexed else mask
        check(loss, y, x, stats, counts)
        if case in COMPARED:
            expected = cls(**parameters).value_grad_and_hess(y, x, **options)
            for result, without in zip(results, expected, strict=True):
                np.testing.assert_array_equal(result, without)


def test_every_call_returns_them_last():
    """Of an empty batch, whose results can be told apart by where they lie."""
    loss, y, x = LABELS(stats=True), np.zeros(0, int), np.zeros((0, 4))
    gradient, hessian = np.empty_like(x), np.empty_like(x)
    for results, expected in (
        (loss(y, x), (0.0,)),
        (loss.value_and_grad(y, x, out=gradient), (0.0, gradient)),
        (loss.grad(y, x, out=gradient), (gradient,)),
        (loss.grad_and_hess(y, x, out=gradient, hess_out=hessian), (gradient, hessian)),
        (loss.value_grad_and_hess(y, x, out=gradient, hess_out=hessian), (0.0, gradient, hessian)),
    ):
        *others, stats = results
        assert all(result is wanted or result == wanted == 0.0 for result, wanted in zip(others, expected, strict=True))
        assert (type(stats), stats.correct, stats.valid, stats.accuracy) == (fl.Stats, 0, 0, 0.0)
        assert stats.argmax.shape == stats.log_sum_exp.shape == (0,)


def test_the_short_way_in_is_not_taken():
    loss, (y, x) = LABELS(stats=True), operands(LABELS(), 5, np.float32)
    for _ in range(2):
        _, _, stats = loss.value_and_grad(y, x)
        check(loss, y, x, stats, np.ones(y.shape, bool))


def test_nothing_is_left_to_average():
    cls, parameters, dtype, _ = CASES["labels of probabilities"]
    y, x = operands(cls(), 5, DTYPES[dtype])
    loss = cls(**parameters, stats=True, reduction="weighted_mean")
    *results, stats = loss.value_grad_and_hess(y, x, sample_weight=np.zeros(3), mask=np.ones(y.shape, bool))
    assert not any(np.any(result) for result in results)
    check(loss, y, x, stats, np.zeros(y.shape, bool))


def test_along_another_axis_and_in_place():
    cls, parameters, dtype, _ = CASES["labels, linked"]
    loss = cls(**parameters, stats=True, axis=1)
    y, before = operands(loss, 5, DTYPES[dtype])
    x = np.ascontiguousarray(np.moveaxis(before, -1, 1))
    everywhere = {"sample_weight": np.ones(3), "mask": np.ones(y.shape, bool)}
    *_, gradient, _, stats = loss.value_grad_and_hess(y, x, out=x, **everywhere)
    assert gradient is x
    check(loss, y, before, stats, y != loss.ignore_class)


@pytest.mark.parametrize(("case", "classes"), [("labels", 161), ("dense", 70)])
def test_what_has_no_largest_and_what_has_several(case, classes):
    """NaN and nothing but -inf: no argmax, and not correct; of equal ones the first."""
    cls, parameters, dtype, _ = CASES[case]
    x, y = np.zeros((4, classes), DTYPES[dtype]), np.array([0, 0, 1, 1])
    x[0, 2], x[1], x[2, 1], x[3, 1:3] = np.nan, -np.inf, np.inf, 7.0
    y = y if cls is LABELS else np.eye(classes, dtype=DTYPES[dtype])[y]
    weights = {"sample_weight": np.ones(4), "mask": np.ones(4, bool)}
    *_, stats = cls(**parameters, stats=True).value_grad_and_hess(y, x, **weights)
    assert stats.argmax.tolist() == [-1, -1, 1, 1]
    np.testing.assert_array_equal(stats.log_sum_exp[:3], [np.nan, -np.inf, np.inf])
    assert (stats.correct, stats.valid) == (2, 4)


@pytest.mark.parametrize(("case", "classes"), [("labels, linked", 5), ("labels", 161)])
def test_rows_shared_among_threads(case, classes, set_threads):
    """They are counted by every thread that takes some."""
    cls, parameters, dtype, _ = CASES[case]
    loss = cls(**parameters, stats=True)
    y, x = operands(loss, classes, DTYPES[dtype], (400_000 // classes,))
    for number in (1, 3):
        set_threads(number)
        *_, stats = loss.value_grad_and_hess(y, x)
        check(loss, y, x, stats, np.ones(y.shape, bool) if loss.ignore_class is None else y != loss.ignore_class)
