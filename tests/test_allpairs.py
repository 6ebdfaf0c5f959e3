"""Losses of a batch of embeddings, each compared with all others: circle and ntxent."""

import math
import os

import numpy as np
import pytest

import fastloss as fl

LOSSES = {
    "circle": [fl.Circle(), fl.Circle(gamma=5.0, margin=0.25), fl.Circle(gamma=2.0, remove_diagonal=False)],
    "ntxent": [fl.Ntxent(), fl.Ntxent(temperature=0.5)],
}
ALL = [pytest.param(loss, id=repr(loss)) for group in LOSSES.values() for loss in group]
every_loss = pytest.mark.parametrize("loss", ALL)
STEP = 1e-6


# -- the same, pair by pair ------------------------------------------------------------------------------------


def by_pairs(loss, labels, embeddings, other_labels=None, references=None):
    """One loss a row, from the definition, one pair at a time."""
    itself = references is None
    others = embeddings if itself else references
    other_labels = labels if itself else other_labels
    return np.array(
        [row_loss(loss, i, labels[i], embeddings[i], other_labels, others, itself) for i in range(len(embeddings))]
    )


def row_loss(loss, i, label, embedding, other_labels, others, itself):
    positives, negatives = [], []
    for j, (other_label, other) in enumerate(zip(other_labels, others, strict=True)):
        if label != other_label:
            negatives.append(other)
        elif i != j or not loss.leaves_out_itself():
            positives.append(other)
    if not positives or not negatives:
        return 0.0
    return (circle_of if isinstance(loss, fl.Circle) else ntxent_of)(loss, embedding, positives, negatives)


def circle_of(loss, embedding, positives, negatives):
    m, near, far = loss.margin, [], []
    for other in positives:
        d = max(1 - embedding @ other, 0)
        near.append(-loss.gamma * max(m + d, 0) * (m - d))
    for other in negatives:
        d = max(1 - embedding @ other, 0)
        far.append(loss.gamma * max(1 + m - d, 0) * (1 - m - d))
    level = log_sum_exp(near) + log_sum_exp(far)
    return max(level, 0) + math.log1p(math.exp(-abs(level)))


def ntxent_of(loss, embedding, positives, negatives):
    def similarity(other):
        lengths = np.linalg.norm(embedding) * np.linalg.norm(other)
        return (embedding @ other) / lengths / loss.temperature if lengths else 0.0

    far = log_sum_exp([similarity(other) for other in negatives])
    return np.mean([np.logaddexp(0, far - similarity(other)) for other in positives])


def log_sum_exp(numbers):
    peak = max(numbers)
    return peak + math.log(math.fsum(math.exp(number - peak) for number in numbers))


# -- operands ----------------------------------------------------------------------------------------------------


def batch(loss, rows=9, columns=4, seed=0, spread=1.0):
    """Labels and embeddings; of length 1 at most where the loss wants unit vectors, so that no pair is at a kink."""
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(rows, columns)) * spread
    if not loss.normalizes:
        embeddings *= random.uniform(0.8, 0.97, (rows, 1)) / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return random.integers(0, 3, rows), embeddings


def with_reduction(loss, reduction):
    return type(loss)(**{**loss.__getstate__(), "reduction": reduction})


def differences(function, x):
    """Central differences of a function by every element, stacked along the first axis."""
    slopes = []
    for index in np.ndindex(x.shape):
        upper, lower = x.copy(), x.copy()
        upper[index] += STEP
        lower[index] -= STEP
        slopes.append((function(upper) - function(lower)) / (2 * STEP))
    return np.array(slopes)


def close(actual, expected, relative=1e-7):
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative * (abs(np.asarray(expected)).max() + 0.1))


# -- values and derivatives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_examples(name):
    cls = type(LOSSES[name][0])
    for example in cls.examples:
        results = cls(reduction="sum", **example.parameters).value_grad_and_hess(example.y_true, example.y_pred)
        for result, right in zip(results, (example.value, example.grad, example.hess), strict=True):
            np.testing.assert_allclose(result, right, rtol=1e-14, atol=1e-15)


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_losses(loss, seed):
    labels, embeddings = batch(loss, seed=seed)
    ours = with_reduction(loss, "none")(labels, embeddings)
    np.testing.assert_allclose(ours, by_pairs(loss, labels, embeddings), rtol=1e-12, atol=1e-300)
    assert (ours > 0).any()


@every_loss
@pytest.mark.parametrize("against", ["itself", "references"])
def test_derivatives(loss, against):
    """Of weighted losses, one of them masked; against references only the batch moves."""
    labels, embeddings = batch(loss)
    weight, mask = np.random.default_rng(1).uniform(0.5, 2, 9), np.arange(9) != 4
    y, other = labels, None
    if against == "references":
        other_labels, other = batch(loss, rows=7, seed=5)
        y = (labels, other_labels)
    options = {"sample_weight": weight, "mask": mask}

    def operand(x):
        return x if other is None else (x, other)

    for reduction in ("mean", "weighted_mean", "sum"):
        check_derivatives(with_reduction(loss, reduction), y, operand, embeddings, options)


def check_derivatives(loss, y, operand, embeddings, options):
    value, grad, hess = loss.value_grad_and_hess(y, operand(embeddings), **options)
    assert value == pytest.approx(loss(y, operand(embeddings), **options), rel=1e-14)
    expected = differences(lambda x: loss(y, operand(x), **options), embeddings).reshape(embeddings.shape)
    close(grad, expected)
    slopes = differences(lambda x: loss.grad(y, operand(x), **options).ravel(), embeddings)
    close(hess, np.diagonal(slopes).reshape(embeddings.shape), 1e-6)
    assert not grad[4].any()
    assert not hess[4].any()


@every_loss
def test_a_wrong_derivative_would_be_found(loss):
    labels, embeddings = batch(loss)
    expected = differences(lambda x: loss(labels, x), embeddings).reshape(embeddings.shape)
    for wrong in (-1.0, 1.0001, 0.5):  # another sign, another scale, one side of the pairs only
        with pytest.raises(AssertionError):
            close(wrong * loss.grad(labels, embeddings), expected)


@every_loss
def test_the_calls_agree(loss):
    labels, embeddings = batch(loss)
    value, grad, hess = loss.value_grad_and_hess(labels, embeddings)
    out = np.empty_like(embeddings)
    assert loss.value_and_grad(labels, embeddings, out=out)[1] is out
    np.testing.assert_allclose(out, grad, rtol=1e-14)
    np.testing.assert_allclose(loss.grad(labels, embeddings), grad, rtol=1e-14)
    np.testing.assert_allclose(loss.grad_and_hess(labels, embeddings)[1], hess, rtol=1e-14)
    function = getattr(fl, loss.name)
    assert function(labels, embeddings, **loss.__getstate__()) == pytest.approx(value, rel=1e-14)


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_precisions(loss, dtype):
    """A similarity is a sum of 4 products rounded to float32; gamma or 1 / temperature multiply its error."""
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    labels, embeddings = batch(loss)
    embeddings = embeddings.astype(kind)
    value, grad, hess = loss.value_grad_and_hess(labels, embeddings)
    exact = loss.value_grad_and_hess(labels, embeddings.astype(np.float64))
    factor = 4 * loss.gamma if isinstance(loss, fl.Circle) else 1 / loss.temperature
    assert value == pytest.approx(exact[0], rel=8 * 2**-24 * factor)
    assert grad.dtype == hess.dtype == kind
    step = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 0.0}[dtype]
    for result, right in zip((grad, hess), exact[1:], strict=True):
        scale = abs(right).max()
        error = abs(result.astype(np.float64) - right)
        subnormal = 2.0**-24 if dtype == "float16" else 0.0
        assert (error <= step * abs(right) + 32 * 2**-24 * factor * scale + subnormal).all()


# -- weights, masks, what is left out -----------------------------------------------------------------


@every_loss
def test_masked_rows_count_for_nothing(loss):
    """Neither as a row nor as something to compare with, whatever they hold."""
    labels, embeddings = batch(loss)
    mask = np.arange(9) % 4 != 1
    spoiled = np.where(mask[:, None], embeddings, np.nan)
    value, grad, hess = loss.value_grad_and_hess(labels, spoiled, mask=mask)
    alone = loss.value_grad_and_hess(labels[mask], embeddings[mask])
    assert value == pytest.approx(alone[0], rel=1e-13)
    for result, right in zip((grad, hess), alone[1:], strict=True):
        np.testing.assert_allclose(result[mask], right, rtol=1e-10, atol=1e-13)
        assert not result[~mask].any()


@every_loss
def test_reductions(loss):
    labels, embeddings = batch(loss)
    weight = np.random.default_rng(2).uniform(0, 2, 9)
    losses = with_reduction(loss, "none")(labels, embeddings)
    for reduction, options, expected in (
        ("mean", {}, losses.mean()),
        ("sum", {}, losses.sum()),
        ("weighted_mean", {"sample_weight": weight}, (weight * losses).sum() / weight.sum()),
        ("mean", {"sample_weight": weight}, (weight * losses).mean()),
        ("sum", {"normalizer": 4.0}, losses.sum() / 4),
    ):
        value = with_reduction(loss, reduction)(labels, embeddings, **options)
        assert type(value) is float
        assert value == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(with_reduction(loss, "none")(labels, embeddings, weight), weight * losses, rtol=1e-14)


@every_loss
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [7]], ids=["one label", "each its own", "one row"])
def test_nothing_to_compare_with(loss, labels):
    """Without a positive or without a negative a row's loss is 0."""
    if not loss.leaves_out_itself() and labels == [0, 1, 2]:
        pytest.skip("every row is its own positive")
    _, embeddings = batch(loss, rows=len(labels))
    value, grad, hess = loss.value_grad_and_hess(np.array(labels), embeddings)
    assert value == 0.0
    assert not grad.any()
    assert not hess.any()


@every_loss
def test_nothing_left(loss):
    labels, embeddings = batch(loss)
    for arguments, options in (
        ((labels[:0], embeddings[:0]), {}),
        ((labels, np.full_like(embeddings, np.nan)), {"mask": np.zeros(9, bool)}),
    ):
        for reduction in ("mean", "sum", "weighted_mean"):
            value, grad, _ = with_reduction(loss, reduction).value_grad_and_hess(*arguments, **options)
            assert value == 0.0
            assert not grad.any()


@every_loss
def test_a_nan_is_not_hidden(loss):
    labels, embeddings = batch(loss)
    embeddings[2, 1] = np.nan
    value, grad = loss.value_and_grad(labels, embeddings)
    assert np.isnan(value)
    assert np.isnan(grad[2]).all()


def test_lengths_do_not_matter_to_ntxent():
    labels, embeddings = batch(fl.Ntxent())
    value = fl.ntxent(labels, embeddings)
    for factor in (1e-150, 1e150):
        scaled, grad = fl.ntxent.value_and_grad(labels, embeddings * factor)
        assert scaled == pytest.approx(value, rel=1e-13)
        np.testing.assert_allclose(grad * factor, fl.ntxent.grad(labels, embeddings), rtol=1e-10, atol=1e-12)
    embeddings[3] = 0.0
    value, grad, hess = fl.ntxent.value_grad_and_hess(labels, embeddings)
    assert value == pytest.approx(by_pairs(fl.Ntxent(), labels, embeddings).mean(), rel=1e-12)
    assert not grad[3].any()
    assert not hess[3].any()


@pytest.mark.parametrize("gamma", [80.0, 700.0])
def test_circle_of_distant_pairs_does_not_overflow(gamma):
    loss = fl.Circle(gamma=gamma, reduction="none")
    embeddings = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    value, grad = loss.value_and_grad(labels, embeddings)
    np.testing.assert_allclose(value, by_pairs(loss, labels, embeddings), rtol=1e-13)
    assert np.isfinite(grad).all()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_bad_input(name):
    function, labels, embeddings = getattr(fl, name), np.array([0, 1, 0]), np.ones((3, 2))
    for error, message, y, p in (
        (ValueError, "y_true must have shape", labels[:2], embeddings),
        (ValueError, "y_pred must have shape", labels, embeddings[0]),
        (TypeError, "y_true must hold integer", labels.astype(float), embeddings),
        (TypeError, "y_pred must be float16", labels, embeddings.astype(complex)),
        (ValueError, "references must have shape", (labels, labels), (embeddings, np.ones((3, 5)))),
        (ValueError, "reference labels must have shape", (labels, labels[:1]), (embeddings, embeddings)),
        (ValueError, "references must come with their labels", labels, (embeddings, embeddings)),
    ):
        with pytest.raises(error, match=f"^{name}: {message}"):
            function.value_and_grad(y, p)
    with pytest.raises(ValueError, match="overlap"):
        function.value_and_grad(labels, embeddings, out=embeddings[::-1])


# -- peers -----------------------------------------------------------------------------------------------------

with_peers = pytest.mark.skipif(
    os.environ.get("FASTLOSS_PEERS") != "1", reason="Keras and optax are compared by `ci/dev.py test --peers`"
)


@pytest.mark.peers
@with_peers
@pytest.mark.parametrize("loss", LOSSES["circle"], ids=repr)
@pytest.mark.parametrize("against", ["itself", "references"])
def test_keras(loss, against):
    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import torch

    labels, embeddings = batch(loss, rows=12)
    p = torch.from_numpy(embeddings.copy()).requires_grad_()
    options = {"gamma": loss.gamma, "margin": loss.margin, "remove_diagonal": loss.remove_diagonal}
    y, ours = labels, embeddings
    if against == "references":
        other_labels, others = batch(loss, rows=8, seed=3)
        options |= {"ref_labels": torch.from_numpy(other_labels), "ref_embeddings": torch.from_numpy(others)}
        y, ours = (labels, other_labels), (embeddings, others)
    theirs = keras.losses.circle(torch.from_numpy(labels), p, **options)
    theirs.sum().backward()
    value, grad = with_reduction(loss, "none").value_and_grad(y, ours)
    # Its exponents, of up to 4 gamma, become float32 whatever it is given.
    tolerance = 4 * loss.gamma * 2.0**-24
    np.testing.assert_allclose(value, theirs.detach().numpy(), rtol=tolerance)
    close(grad, p.grad.numpy(), tolerance)


@pytest.mark.peers
@with_peers
@pytest.mark.parametrize("loss", LOSSES["ntxent"], ids=repr)
def test_optax(loss):
    """Its mean is over pairs: rows count by their number of positives."""
    jax = pytest.importorskip("jax", reason="optax' ntxent needs jax")
    optax = pytest.importorskip("optax")
    labels, embeddings = batch(loss, rows=12)
    positives = (labels[:, None] == labels[None, :]).sum(axis=1) - 1
    with jax.enable_x64(True):
        theirs, slope = jax.value_and_grad(optax.losses.ntxent)(
            jax.numpy.asarray(embeddings), jax.numpy.asarray(labels), loss.temperature
        )
    value, grad = with_reduction(loss, "weighted_mean").value_and_grad(labels, embeddings, positives)
    assert value == pytest.approx(float(theirs), rel=1e-9)
    close(grad, np.asarray(slope), 1e-9)
