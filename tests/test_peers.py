"""The peers themselves: SciPy and scikit-learn always, torch and Keras (marker ``peers``) where they are installed.

Each loss names its peers' expressions (`fastloss.families.loss.Peers`). All comparisons are in float64. A peer's own
rounding at the scale of its intermediate results is `NOISE`: 2^12 ulp, since torch and Keras subtract numbers of that
scale (sigmoid(x) - y, log of a clipped probability) and sum rows in another order.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import numpy as np
import pytest
from sampling import LOSSES, configurations, is_indexed, is_rowwise, label_of, plain, with_reduction
from scipy import special

import fastloss as fl
from fastloss.bench import sklearn_peers

NOISE = 2.0**12 * np.finfo(np.float64).eps
#: Keras takes its means over the last axis (here one element) in float32, whatever the inputs.
KERAS_NOISE = 2.0**3 * np.finfo(np.float32).eps

wanted = os.environ.get("FASTLOSS_PEERS") == "1"
with_torch = pytest.mark.skipif(
    not (wanted and importlib.util.find_spec("torch")),
    reason="torch: run with --peers to compare (ci/dev.py test --peers)",
)
with_keras = pytest.mark.skipif(
    not (wanted and importlib.util.find_spec("keras") and importlib.util.find_spec("torch")),
    reason="Keras with the torch backend: run with --peers to compare (ci/dev.py test --peers)",
)

ALL = [pytest.param(loss, id=label_of(loss)) for cls in LOSSES.values() for loss in configurations(cls)]


def operands(loss, spread):
    """Random targets and predictions; logits and differences are spread out by a factor."""
    y, p = plain(loss, (60, 5) if is_rowwise(loss) else (300,), np.random.default_rng(11))
    unbounded = getattr(loss, "from_logits", True)
    return np.asarray(y), np.ascontiguousarray(p, np.float64) * (spread if unbounded else 1.0)


def close(actual, expected, scale, noise=NOISE):
    """Equal but for the peer's noise at a scale."""
    expected = np.asarray(expected, np.float64)
    np.testing.assert_array_less(abs(np.asarray(actual) - expected), noise * (abs(expected) + scale) + 1e-300)


def compare(loss, y, p, losses, gradient, noise=NOISE):
    """Compare each loss, and the gradient of their sum, with a peer's."""
    own, own_gradient = with_reduction(loss, "none").value_and_grad(y, p)
    close(own, np.asarray(losses).reshape(own.shape), 1.0, noise)
    largest = abs(own_gradient).max(axis=-1, keepdims=True) if is_rowwise(loss) else 1.0
    close(own_gradient, gradient, np.maximum(largest, 1.0), noise)


def evaluated(expression, loss, y, p, modules):
    """The peer's losses and gradient, or None where it has no such configuration."""
    import torch

    parameters = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    target = torch.tensor(y if is_indexed(loss) else y.astype(np.float64))
    target = target.long() if is_indexed(loss) else target
    prediction = torch.tensor(p, requires_grad=True)
    names = {**parameters, **modules, "torch": torch, "reduction": "none", "y": target, "p": prediction}
    losses = eval(expression, names) if expression else None
    if losses is None:
        return None
    losses.sum().backward()
    return losses.detach().numpy(), prediction.grad.numpy()


@pytest.mark.peers
@with_torch
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("loss", ALL)
def test_torch(loss, spread):
    import torch.nn.functional as F

    y, p = operands(loss, spread)
    found = evaluated(loss.peers.torch, loss, y, p, {"F": F})
    if found is None:
        pytest.skip("torch has no such configuration")
    compare(loss, y, p, *found)


def keras_results(keras, loss, y, p):
    """Keras' losses and gradient, with the loss's own epsilon."""
    before = keras.config.epsilon()
    keras.config.set_epsilon(getattr(loss, "epsilon", before))
    try:
        return evaluated(loss.peers.keras, loss, y, p, {"keras": keras})
    finally:
        keras.config.set_epsilon(before)


@pytest.mark.peers
@with_keras
@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("loss", ALL)
def test_keras(loss, spread):
    import keras

    assert keras.backend.backend() == "torch"
    y, p = operands(loss, spread)
    found = keras_results(keras, loss, y, p)
    if found is None:
        pytest.skip("Keras has no such configuration")
    compare(loss, y, p, *found, noise=KERAS_NOISE)


@pytest.mark.peers
@with_torch
@with_keras
def test_every_loss_has_peers_that_were_compared():
    import keras
    import torch.nn.functional as F

    for name, cls in LOSSES.items():
        loss = next(iter(configurations(cls)))
        y, p = operands(loss, 1.0)
        assert keras_results(keras, loss, y, p) is not None, name
        logits = dataclasses.replace(loss, from_logits=True) if hasattr(loss, "from_logits") else loss
        assert evaluated(logits.peers.torch, logits, y, p, {"F": F}) is not None, name


@pytest.mark.parametrize("spread", [1.0, 30.0])
@pytest.mark.parametrize("name", [name for name, cls in LOSSES.items() if cls.peers.scikit_learn])
def test_scikit_learn(name, spread):
    cls = LOSSES[name]
    loss = cls(from_logits=True) if hasattr(cls, "from_logits") else cls()
    y, p = operands(loss, spread)
    if name == "binary_crossentropy":
        y = (y > 0.5).astype(np.float64)
    call, factor = sklearn_peers.call(loss, y, p, 1)
    losses, gradient = call()
    compare(loss, y, p, factor * losses, factor * gradient)


def test_scipy_huber():
    y, p = operands(fl.Huber(), 3.0)
    for delta in (0.25, 1.0, 4.0):
        own, gradient = fl.huber.value_and_grad(y, p, delta=delta, reduction="none")
        np.testing.assert_allclose(own, special.huber(delta, p - y), rtol=4 * np.finfo(float).eps)
        np.testing.assert_array_equal(gradient, np.clip(p - y, -delta, delta))


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_scipy_log_expit(spread):
    y, p = operands(fl.BinaryCrossentropy(from_logits=True), spread)
    own, gradient = fl.bce.value_and_grad(y, p, from_logits=True, reduction="none")
    np.testing.assert_allclose(
        own, special.xlogy(y, 1) - y * special.log_expit(p) - (1 - y) * special.log_expit(-p), 1e-14
    )
    np.testing.assert_allclose(gradient, (1 - y) * special.expit(p) - y * special.expit(-p), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_scipy_log_softmax(spread):
    y, p = operands(fl.SparseCategoricalCrossentropy(from_logits=True), spread)
    own, gradient = fl.sparse_categorical_crossentropy.value_and_grad(y, p, from_logits=True, reduction="none")
    rows = np.arange(len(y))
    close(own, -special.log_softmax(p, axis=-1)[rows, y], 1.0)
    expected = special.softmax(p, axis=-1)
    expected[rows, y] -= 1
    close(gradient, expected, 1.0)
