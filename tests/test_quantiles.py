"""Several quantiles in one call: what a call for each gives, put side by side and averaged as one."""

import re

import numpy as np
import pytest
from sampling import DTYPES, REDUCTIONS

import fastloss as fl
from fastloss import show
from fastloss.reference import evaluate

QUANTILES = (0.125, 0.5, 0.75, 0.9)
CASES = ["plain", "leading weights", "leading mask", "full weights and mask", "normalizer"]
TOLERANCE = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 2e-6, "float64": 1e-14}


def operands(dtype, shape=(7, 3)):
    rng = np.random.default_rng(40)
    y = rng.normal(size=shape)
    p = y[..., None] + rng.normal(size=(*shape, len(QUANTILES)))
    p[0, 0, 0] = y[0, 0]
    return y.astype(DTYPES[dtype]), p.astype(DTYPES[dtype])


def options_of(case, shape):
    rng = np.random.default_rng(41)
    match case:
        case "leading weights":
            return {"sample_weight": rng.integers(0, 3, shape[:1])}
        case "leading mask":
            return {"mask": rng.random(shape[:-1]) < 0.7}
        case "full weights and mask":
            return {"sample_weight": rng.uniform(0, 2, shape), "mask": rng.random(shape) < 0.7}
        case "normalizer":
            return {"normalizer": 12.5, "sample_weight": 0.5}
    return {}


def by_columns(reduction, y, p, sample_weight=1.0, mask=True, normalizer=None):
    """Value, gradient and Hessian by the reference, column by column, and one normaliser."""
    aligned = [np.asarray(a).reshape(np.shape(a) + (1,) * (p.ndim - np.ndim(a))) for a in (sample_weight, mask)]
    weight, kept = (np.broadcast_to(a, p.shape) for a in aligned)
    total = {"mean": kept.sum(), "weighted_mean": (weight * kept).sum()}.get(reduction, 1.0)
    total = total if normalizer is None else normalizer
    parts = [
        evaluate(fl.Pinball(quantile=quantile, reduction="none"), y, p[..., i], weight[..., i], kept[..., i])
        for i, quantile in enumerate(QUANTILES)
    ]
    losses, grad, hess = (np.stack(part, axis=-1) / total for part in zip(*parts, strict=True))
    return (losses if reduction == "none" else losses.sum()), grad, hess


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_columns(dtype, reduction, case):
    y, p = operands(dtype)
    options = options_of(case, p.shape)
    loss = fl.Pinball(quantile=QUANTILES, reduction=reduction)
    for result, right in zip(
        loss.value_grad_and_hess(y, p, **options), by_columns(reduction, y, p, **options), strict=True
    ):
        np.testing.assert_allclose(np.asarray(result, float), right, rtol=TOLERANCE[dtype], atol=1e-30)
    value, grad = loss.value_and_grad(y, p, **options)
    if dtype == "float64":
        np.testing.assert_array_equal(loss(y, p, **options), value)
        np.testing.assert_array_equal(loss.grad(y, p, **options), grad)
        np.testing.assert_array_equal(loss.grad_and_hess(y, p, **options)[0], grad)
    assert grad.shape == p.shape
    assert grad.dtype == p.dtype


def test_a_quantile_near_1_keeps_its_digits():
    """1 - quantile is not taken in float32, where 1 - 0.999 has an error of 1e-5."""
    y, p = np.zeros(2, np.float32), np.array([2.0, -1.0], np.float32)
    value, grad = fl.pinball.value_and_grad(y, p, quantile=0.999, reduction="sum")
    assert value == pytest.approx(2 * 0.001 + 0.999, rel=2e-7)
    np.testing.assert_allclose(grad, [0.001, -0.999], rtol=1e-7)


def test_curves_of_several_quantiles(capsys):
    assert show.main(["pinball", "quantile=0.1,0.9"]) == 0
    assert re.findall(r"quantile = (\S+?),", capsys.readouterr().out) == ["0.1", "0.9"]


@pytest.mark.parametrize("layout", ["in place", "buffer", "Fortran", "strided"])
def test_results_where_they_are_wanted(layout):
    y, p = operands("float64")
    loss = fl.Pinball(quantile=list(QUANTILES))
    expected = loss.value_grad_and_hess(y, p)
    wide = np.full((7, 3, 2 * len(QUANTILES)), 7.0)
    given = np.asfortranarray(p) if layout == "Fortran" else p.copy()
    out = {"in place": given, "strided": wide[..., ::2]}.get(layout, np.empty_like(given))
    hess = np.empty_like(p)
    value, grad, curvature = loss.value_grad_and_hess(y, given, out=out, hess_out=hess)
    assert grad is out
    assert curvature is hess
    for result, right in zip((value, grad, curvature), expected, strict=True):
        np.testing.assert_array_equal(result, right)
    assert (wide[..., 1::2] == 7).all()


def test_one_row_and_no_row():
    loss = fl.Pinball(quantile=QUANTILES, reduction="sum")
    value, grad = loss.value_and_grad(1.0, [0.0, 0.0, 2.0, 1.0])
    assert value == 0.125 + 0.5 + 0.25
    assert grad.tolist() == [-0.125, -0.5, 0.25, 0.0]
    for weight in (None, np.ones(3)):
        value, grad = fl.Pinball(quantile=QUANTILES).value_and_grad(np.zeros((3, 0)), np.zeros((3, 0, 4)), weight)
        assert value == 0.0
        assert grad.shape == (3, 0, 4)
    nothing = loss.value_and_grad(np.zeros(3), np.full((3, 4), np.nan), mask=np.zeros((3, 4), bool))
    assert nothing[0] == 0.0
    assert not nothing[1].any()


def test_a_nan_stays_in_its_column():
    y, p = operands("float32")
    p[2, 1, 3] = np.nan
    losses, grad = fl.Pinball(quantile=QUANTILES, reduction="none").value_and_grad(y, p)
    assert np.flatnonzero(np.isnan(losses)).tolist() == np.flatnonzero(np.isnan(grad)).tolist() == [31]


@pytest.mark.parametrize(
    ("y_shape", "p_shape", "message"),
    [
        ((5,), (5, 3), r"pinball: y_pred must have 4 columns, its last axis; got shape \(5, 3\)"),
        ((5, 4), (5, 4), r"pinball: y_true must have y_pred's shape without its last axis, \(5,\); got \(5, 4\)"),
        ((), (), r"pinball: y_pred must have 4 columns"),
    ],
)
def test_shapes_that_do_not_fit(y_shape, p_shape, message):
    with pytest.raises(ValueError, match=message):
        fl.pinball(np.zeros(y_shape), np.zeros(p_shape), quantile=QUANTILES)
