"""All-pairs losses (see test_allpairs.py) of CuPy arrays: rowwise kernels in the emulator, the rest by NumPy."""

import numpy as np
import pytest
from fake_cupy import FakeArray, FakeCupy
from test_allpairs import LOSSES, batch, with_reduction
from through_device import placed, use

EACH = [pytest.param(group[0], id=name) for name, group in LOSSES.items()]


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy()
    use(monkeypatch, fake)
    return fake


def sent(cupy, argument):
    if isinstance(argument, tuple):
        return tuple(sent(cupy, part) for part in argument)
    return placed(cupy, np.asarray(argument))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "none"])
@pytest.mark.parametrize("loss", EACH)
def test_equals_the_host(cupy, loss, reduction, dtype):
    loss = with_reduction(loss, reduction)
    labels, embeddings = batch(loss)
    other_labels, others = batch(loss, rows=7, seed=5)
    embeddings, others = embeddings.astype(dtype), others.astype(dtype)
    weighed = {"sample_weight": np.linspace(0.0, 2.0, 9), "mask": np.arange(9) != 4}
    for y, p in ((labels, embeddings), ((labels, other_labels), (embeddings, others))):
        for options in ({}, weighed, {"normalizer": np.float64(3.0)}):
            expected = loss.value_grad_and_hess(y, p, **options)
            device = {name: sent(cupy, value) for name, value in options.items()}
            results = loss.value_grad_and_hess(sent(cupy, y), sent(cupy, p), **device)
            assert all(isinstance(result, FakeArray) for result in results)
            assert results[0].dtype == (np.float64 if reduction != "none" else dtype)
            tolerance = 1e-12 if dtype == "float64" else 2e-4  # gamma or 1 / temperature times some roundings
            for result, right in zip(results, expected, strict=True):
                scale = abs(np.asarray(right, np.float64)).max()
                np.testing.assert_allclose(result._host, right, rtol=tolerance, atol=tolerance * scale)
    assert cupy.synchronisations == 0


@pytest.mark.parametrize("loss", EACH)
def test_buffers_and_bad_weights(cupy, loss):
    labels, embeddings = batch(loss)
    out = sent(cupy, np.empty_like(embeddings))
    _, grad = loss.value_and_grad(sent(cupy, labels), sent(cupy, embeddings), out=out)
    assert grad is out
    np.testing.assert_allclose(out._host, loss.grad(labels, embeddings), rtol=1e-10, atol=1e-12)
    bad = sent(cupy, np.where(np.arange(9) == 2, -1.0, 1.0))
    assert np.isnan(loss(sent(cupy, labels), sent(cupy, embeddings), bad)._host)
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        loss(sent(cupy, labels), sent(cupy, embeddings), bad, check="raise")
    with pytest.raises(TypeError, match=f"^{loss.name}: y_true must be a CuPy array"):
        loss(labels, sent(cupy, embeddings))
