"""Other people's losses: the oracles that would notice a formula which is wrong everywhere at once.

SciPy's special functions and scikit-learn are always asked; torch, Keras (on torch, in float64) and optax only in the
run that CI makes: ``python ci/dev.py test --peers``. They are asked by the expressions in each loss's ``peers``, so a
new loss gets its comparison by naming its peer.
"""

import dataclasses
import os
import warnings

import numpy as np
import pytest
from sampling import (
    LOSSES,
    configurations,
    differentiates_targets,
    extreme,
    is_indexed,
    is_rowwise,
    label_of,
    plain,
    takes_probabilities,
    with_reduction,
)
from scipy import special
from scipy.spatial import distance, minkowski_distance_p
from sklearn import metrics

from fastloss.bench.sklearn_peers import WITH_CONSTANTS, kernel_of
from fastloss.bench.torch_peers import names_of

ALL = [loss for cls in LOSSES.values() for loss in configurations(cls)]
every_loss = pytest.mark.parametrize("loss", ALL, ids=label_of)
#: Whether torch, Keras and optax are to be compared with.
PEERS = os.environ.get("FASTLOSS_PEERS") == "1"
with_peers = pytest.mark.skipif(not PEERS, reason="torch, Keras and optax are compared by `ci/dev.py test --peers`")


def operands(loss):
    """Random and extreme operands in float64; the latter only where everybody's formula is right."""
    rng = np.random.default_rng(21)
    yield plain(loss, (60, 5) if is_rowwise(loss) else (300,), rng)
    if loss.name != "cosine_similarity":  # whose extremes are lengths that square to 0 and infinity
        y, p = extreme(loss, np.float64)
        ordinary = abs(p).max(axis=-1) < 1e100 if is_rowwise(loss) else ...  # torch loses a margin beside more
        p = np.where(abs(p) < 1e-20, 0.0, p) if loss.name == "multi_margin" else p  # met but for less than a rounding
        yield y[ordinary], p[ordinary]


#: How far slopes may be apart; where a peer computes in float32, some more, and it does not see which side of a kink
#: a neighbour of that lies on.
SLOPES = 1e-9
#: Keras' mean over the last axis, which its elementwise losses end with, computes in float32 even for float64.
KERAS_MEAN = 2e-7
#: So do its maximum and power, and its log 2 is a float32: these losses are compared as float32, in value and gradient.
KERAS_FLOAT32 = (
    "binary_focal_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "hinge",
    "log_cosh",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "squared_hinge",
)


def close(ours, theirs, what, absolute=1e-12, relative=1e-9):
    """Some roundings apart; where their own tails are lost (torch gives 0 for 1e-13), as near as that."""
    theirs = np.asarray(theirs, np.float64)
    scale = np.abs(theirs).max(initial=1.0, where=np.isfinite(theirs) & (abs(theirs) < 1e6))
    np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute * scale, err_msg=what)


def counted(loss, y):
    """Rows that are not ignored."""
    ignored = getattr(loss, "ignore_class", None)
    return np.ones(y.shape[:1], bool) if ignored is None else y != ignored


# -- SciPy ---------------------------------------------------------------------------------------------------


def scipy_huber(loss, y, p):
    return special.huber(loss.delta, p - y), np.clip(p - y, -loss.delta, loss.delta)


def scipy_mean_squared_error(loss, y, p):
    scale = 0.5 if loss.half else 1.0
    return scale * minkowski_distance_p(p[..., None], y[..., None], 2), scale * 2 * (p - y)


def scipy_mean_absolute_error(loss, y, p):
    return minkowski_distance_p(p[..., None], y[..., None], 1), np.sign(p - y)


def scipy_binary_crossentropy(loss, y, p):
    smoothed = y * (1 - loss.label_smoothing) + loss.label_smoothing / 2
    positive, negative = loss.pos_weight * smoothed, 1 - smoothed
    if loss.from_logits:
        value = -(positive * special.log_expit(p) + negative * special.log_expit(-p))
        return value, negative * special.expit(p) - positive * special.expit(-p)
    q = np.clip(p, loss.epsilon, 1 - loss.epsilon)
    value = -(special.xlogy(positive, q) + special.xlog1py(negative, -q))
    return value, np.where(q == p, negative / (1 - q) - positive / q, 0.0)


def scipy_mean_absolute_percentage_error(loss, y, p):
    scale = 100 / np.fmax(abs(y), loss.epsilon)
    return scale * minkowski_distance_p(p[..., None], y[..., None], 1), scale * np.sign(p - y)


def scipy_mean_squared_logarithmic_error(loss, y, p):
    target, pred = np.fmax(y, loss.epsilon), np.fmax(p, loss.epsilon)
    error = special.log1p(pred) - special.log1p(target)
    return error**2, np.where(p < loss.epsilon, 0.0, 2 * error / (1 + pred))


def scipy_pinball(loss, y, p):
    sides = loss.quantile * (y - p), (1 - loss.quantile) * (p - y)
    return np.fmax(*sides), np.select([p < y, p > y], [-loss.quantile, 1 - loss.quantile], 0.0)


def scipy_log_cosh(loss, y, p):
    return special.logsumexp([p - y, y - p], axis=0) - np.log(2), np.tanh(p - y)


def scipy_hinge(loss, y, p):
    sign = 2 * y - 1 if loss.labels == "binary" else y
    return np.fmax(1 - sign * p, 0), np.where(sign * p < 1, -sign, 0.0)


def scipy_squared_hinge(loss, y, p):
    missing = np.fmax(1 - (2 * y - 1 if loss.labels == "binary" else y) * p, 0)
    return missing**2, np.where(y > 0, -2, 2) * missing


def scipy_smooth_l1(loss, y, p):
    if loss.beta == 0:
        return abs(p - y), np.sign(p - y)
    return special.huber(loss.beta, p - y) / loss.beta, np.clip((p - y) / loss.beta, -1, 1)


def scipy_soft_margin(loss, y, p):
    return -special.log_expit(y * p), -y * special.expit(-y * p)


def scipy_hinge_embedding(loss, y, p):
    value = np.where(y == 1, p, np.fmax(loss.margin - p, 0))
    return value, np.where(y == 1, 1.0, np.where(p < loss.margin, -1.0, 0.0))


def scipy_exponential(loss, y, p):
    falling, rising = (np.where(part == 0, 0, part * np.exp(x)) for part, x in ((y, -p), (1 - y, p)))
    return falling + rising, rising - falling


def scipy_poisson(loss, y, p):
    rate, shift = (np.exp(p), p) if loss.log_input else (p, np.log(p + loss.epsilon))
    # At counts, log(y!) is within 1 / (12 y) of Stirling's approximation: torch and Keras are asked about the rest.
    stirling = np.where(y > 1, special.xlogy(y, y) - y + 0.5 * np.log(2 * np.pi * np.fmax(y, 1)), 0)
    value = rate - np.where(y == 0, 0, y * shift) + (stirling if loss.full else 0)
    return value, np.exp(p) - y if loss.log_input else 1 - y / (p + loss.epsilon)


def scipy_gamma(loss, y, p):
    scale = 1 if loss.half else 2
    if loss.log_input:
        return scale * (p + y * np.exp(-p)), scale * (1 - y * np.exp(-p))
    # The deviance is -2 log(z) - 2 + 2 z, z = y / p.
    return scale * (np.log(p) + y / p), scale * (p - y) / p**2


def scipy_tweedie(loss, y, p):
    scale, power, link = 1 if loss.half else 2, loss.power, p if loss.log_input else np.log(p)
    larger, smaller = np.exp((2 - power) * link), np.where(y == 0, 0, y * np.exp((1 - power) * link))
    if power == 0:
        mean = np.exp(p) if loss.log_input else p
        return scale * (mean - y) ** 2 / 2, scale * (mean - y) * (mean if loss.log_input else 1)
    value = link if power == 2 else larger / (2 - power)
    value = value - (np.where(y == 0, 0, y * link) if power == 1 else smaller / (1 - power))
    return scale * value, scale * (larger - smaller if loss.log_input else p ** (1 - power) * ((p - y) / p))


def scipy_binary_focal_crossentropy(loss, y, p):
    t = y * (1 - loss.label_smoothing) + loss.label_smoothing / 2
    weight = t * loss.alpha + (1 - t) * (1 - loss.alpha) if loss.apply_class_balancing else 1
    q = p if loss.from_logits else np.clip(p, loss.epsilon, 1 - loss.epsilon)
    logs = (special.log_expit(q), special.log_expit(-q)) if loss.from_logits else (np.log(q), special.log1p(-q))
    positive, negative = np.exp(logs[0]), np.exp(logs[1])
    missing = t * negative + (1 - t) * positive
    entropy = -np.where(t == 0, 0, t * logs[0]) - np.where(t == 1, 0, (1 - t) * logs[1])
    value = missing**loss.gamma * entropy
    by_logit = positive * negative if loss.from_logits else 1
    rate = np.where(missing == 0, 0, (1 - 2 * t) * by_logit / missing)
    slope = (1 - t) * positive - t * negative if loss.from_logits else (1 - t) / (1 - q) - t / q
    grad = missing**loss.gamma * (loss.gamma * np.where(rate == 0, 0, rate * entropy) + slope)
    inside = loss.from_logits | ((p > loss.epsilon) & (p < 1 - loss.epsilon))
    return weight * value, weight * np.where(inside, grad, 0)


def scipy_categorical_crossentropy(loss, y, p):
    weight = np.ones(p.shape[-1]) if loss.class_weight is None else np.array(loss.class_weight)
    goal = weight * (y * (1 - loss.label_smoothing) + loss.label_smoothing / p.shape[-1])
    if loss.from_logits:
        capped = p if loss.softcap is None else loss.softcap * np.tanh(p / loss.softcap)
        slope = (1.0 if loss.softcap is None else 1 / np.cosh(p / loss.softcap) ** 2) / loss.temperature
        x = capped / loss.temperature
        value = -np.where(goal == 0, 0, goal * special.log_softmax(x, axis=-1)).sum(axis=-1)
        log_sum = special.logsumexp(x, axis=-1)
        mass = goal.sum(axis=-1, keepdims=True) + 2 * loss.z_loss * log_sum[:, None]
        return value + loss.z_loss * log_sum**2, (special.softmax(x, axis=-1) * mass - goal) * slope
    total = p.sum(axis=-1, keepdims=True)
    share = p / total
    q = np.clip(share, loss.epsilon, 1 - loss.epsilon)
    active = np.where(q == share, goal, 0.0)
    value = -special.xlogy(goal, q).sum(axis=-1)
    return value, active.sum(axis=-1, keepdims=True) / total - np.divide(
        active, p, out=np.zeros_like(p), where=active != 0
    )


def scipy_sparse_categorical_crossentropy(loss, y, p):
    value, grad = scipy_categorical_crossentropy(loss, np.asarray(np.arange(p.shape[-1]) == y[:, None], float), p)
    keep = counted(loss, y)
    return np.where(keep, value, 0.0), np.where(keep[:, None], grad, 0.0)


def scipy_nll(loss, y, p):
    weight = np.ones(p.shape[-1]) if loss.class_weight is None else np.array(loss.class_weight)
    one_hot = np.asarray(np.arange(p.shape[-1]) == y[:, None], float)
    goal = weight * one_hot * counted(loss, y)[:, None]
    return -np.where(goal == 0, 0.0, goal * p).sum(axis=-1), -goal


def scipy_categorical_generalized_cross_entropy(loss, y, p):
    """The Box-Cox transformation of the true class's probability."""
    one_hot = np.asarray(np.arange(p.shape[-1]) == y[:, None], float)
    q = special.softmax(p, axis=-1) if loss.from_logits else p
    own = (one_hot * q).sum(axis=-1, keepdims=True)
    keep = counted(loss, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        outer = np.where(one_hot == 1, -(own ** (loss.q - 1)), 0.0)
    grad = own**loss.q * (q - one_hot) if loss.from_logits else outer
    return np.where(keep, -special.boxcox(own, loss.q)[:, 0], 0.0), np.where(keep[:, None], grad, 0.0)


def scipy_multilabel_soft_margin(loss, y, p):
    weight = np.ones(p.shape[-1]) if loss.class_weight is None else np.array(loss.class_weight)
    value = -(y * special.log_expit(p) + (1 - y) * special.log_expit(-p))
    slope = (1 - y) * special.expit(p) - y * special.expit(-p)
    return np.mean(weight * value, axis=-1), weight * slope / p.shape[-1]


def scipy_total_variation(loss, y, p):
    value = np.array([distance.cityblock(*pair) / 2 for pair in zip(y, p, strict=True)])
    return value, np.sign(p - y) / 2


def scipy_poly1_crossentropy(loss, y, p):
    q, mass = special.softmax(p, axis=-1), y.sum(axis=-1, keepdims=True)
    entropy = -np.where(y == 0, 0.0, y * special.log_softmax(p, axis=-1)).sum(axis=-1)
    value = entropy + loss.epsilon * (y * (1 - q)).sum(axis=-1)
    return value, q * mass - y - loss.epsilon * q * (y - (y * q).sum(axis=-1, keepdims=True))


def scipy_kl_divergence(loss, y, p):
    t = np.exp(y) if loss.log_target else y
    if loss.from_logits or loss.log_input:
        logs = special.log_softmax(p, axis=-1) if loss.from_logits else p
        value = (-special.entr(t) - np.where(t == 0, 0.0, t * logs)).sum(axis=-1)
        return value, special.softmax(p, axis=-1) * t.sum(axis=-1, keepdims=True) - t if loss.from_logits else -t
    q, t = np.clip(p, loss.epsilon, 1), t if loss.log_target else np.clip(t, loss.epsilon, 1)
    return special.rel_entr(t, q).sum(axis=-1), np.where(q == p, -t / q, 0.0)


def scipy_cosine_similarity(loss, y, p):
    cosine = np.array([[1 - distance.cosine(*pair)] for pair in zip(y, p, strict=True)])
    length, target_length = (np.linalg.norm(a, axis=-1, keepdims=True) for a in (p, y))
    return -cosine[:, 0], (cosine * p / length - y / target_length) / length


def _as_sets(loss, p):
    """Shares in a set, and their derivative by the predictions."""
    if not loss.from_logits:
        return p, np.ones_like(p)
    return special.expit(p), special.expit(p) * special.expit(-p)


def scipy_dice(loss, y, p):
    q, slope = _as_sets(loss, p)
    both, whole = ((terms).sum(axis=-1, keepdims=True) + loss.smooth for terms in (2 * y * q, y + q))
    return (1 - both / whole)[..., 0], (both / whole - 2 * y) / whole * slope


def scipy_tversky(loss, y, p):
    q, slope = _as_sets(loss, p)
    both = (y * q).sum(axis=-1, keepdims=True) + loss.smooth
    added = loss.alpha * y * (1 - q) + loss.beta * q * (1 - y)
    whole = both + added.sum(axis=-1, keepdims=True)
    changed = y + loss.beta * (1 - y) - loss.alpha * y
    return (1 - both / whole)[..., 0], (both / whole * changed - y) / whole * slope


def scipy_categorical_hinge(loss, y, p):
    rivals = (1 - y) * p
    missing = rivals.max(axis=-1) - np.einsum("nc,nc->n", y, p) + 1
    shared = rivals == rivals.max(axis=-1, keepdims=True)
    grad = shared * (1 - y) / shared.sum(axis=-1, keepdims=True) - y
    return np.maximum(missing, 0), np.where(missing[:, None] > 0, grad, 0.0)


def scipy_multi_margin(loss, y, p):
    true = np.asarray(np.arange(p.shape[-1]) == y[:, None])
    weight = np.ones(p.shape[-1]) if loss.class_weight is None else np.array(loss.class_weight)
    missing = np.where(true, 0.0, np.maximum(loss.margin + p - p[true][:, None], 0.0))
    scale = weight[y][:, None] / p.shape[-1]
    others = scale * loss.p * np.where(missing > 0, missing ** (loss.p - 1), 0.0)
    return (scale * missing**loss.p).sum(axis=-1), others - true * others.sum(axis=-1, keepdims=True)


def scipy_categorical_focal_crossentropy(loss, y, p):
    goal = np.array(loss.alpha) * (y * (1 - loss.label_smoothing) + loss.label_smoothing / p.shape[-1])
    total = p.sum(axis=-1, keepdims=True)
    share = special.softmax(p, axis=-1) if loss.from_logits else p / total
    q = share if loss.from_logits else np.clip(share, loss.epsilon, 1 - loss.epsilon)
    log_q = special.log_softmax(p, axis=-1) if loss.from_logits else np.log(q)
    missing = np.where(q < 1, 1 - q, np.finfo(float).tiny)
    value = -np.where(goal == 0, 0, goal * missing**loss.gamma * log_q).sum(axis=-1)
    slope = goal * (loss.gamma * missing ** (loss.gamma - 1) * special.xlogy(q, q) - missing**loss.gamma)
    slope = np.where(q == share, slope, 0.0)
    outer = slope.sum(axis=-1, keepdims=True)
    if loss.from_logits:
        return value, slope - q * outer
    return value, np.divide(slope, p, out=np.zeros_like(p), where=slope != 0) - outer / total


def scipy_jensen_shannon(loss, y, p):
    q = special.softmax(p, axis=-1) if loss.from_logits else p
    mixed = loss.beta * y + (1 - loss.beta) * q
    if loss.beta == 0:
        log_q = special.log_softmax(p, axis=-1) if loss.from_logits else np.log(q)
        value, slope = special.xlogy(y, y) - np.where(y == 0, 0, y * log_q), -y
    elif loss.beta == 1:
        value, slope = special.rel_entr(q, y), special.rel_entr(q, y) + q
    else:
        slope = (1 - loss.beta) * special.rel_entr(q, mixed)
        value = loss.beta * special.rel_entr(y, mixed) + slope
    if loss.from_logits:
        return value.sum(axis=-1), slope - q * slope.sum(axis=-1, keepdims=True)
    slope = np.where(y == q, slope, slope / q)
    return value.sum(axis=-1), np.where((q == 0) & (y > 0), -np.inf, slope)


SCIPY = {name.removeprefix("scipy_"): function for name, function in globals().items() if name.startswith("scipy_")}


@every_loss
def test_scipy(loss):
    oracle = SCIPY.get(loss.name)
    if oracle is None:
        pytest.skip("SciPy has no such function")
    for y, p in operands(loss):
        with np.errstate(all="ignore"):
            value, grad = oracle(loss, y, p)
        ours = with_reduction(loss, "none").value_grad_and_hess(y, p)
        # Infinity less infinity is no number, where a plain formula meets them.
        for result, right, what in zip(
            ours[: 1 if differentiates_targets(loss) else 2], (value, grad), ("value", "gradient"), strict=False
        ):
            known = ~np.isnan(right)
            assert known.mean() > 0.8
            close(result[known], right[known], what)


def test_overlap_of_sets():
    """SciPy's dissimilarity of two sets, which has nothing to smooth."""
    sets = np.random.default_rng(27).random((2, 30, 12)) < 0.5
    theirs = [distance.dice(*pair) for pair in zip(*sets, strict=True)]
    y, p = sets[0], sets[1].astype(float)
    close(LOSSES["dice"](axis=-1, reduction="none", smooth=1e-12)(y, p), theirs, "Dice", relative=1e-11)
    close(LOSSES["tversky"](axis=-1, reduction="none", smooth=1e-12)(y, p), theirs, "Tversky", relative=1e-11)
    theirs = [distance.jaccard(*pair) for pair in zip(*sets, strict=True)]
    jaccard = LOSSES["tversky"](axis=-1, reduction="none", smooth=1e-12, alpha=1, beta=1)
    close(jaccard(y, p), theirs, "Jaccard", relative=1e-11)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_logsumexp(classes):
    """-log p[y] = logsumexp(x) - x[y], for any class and any shift."""
    x = np.random.default_rng(0).normal(0, 3, (50, classes)) + np.linspace(-500, 500, 50)[:, None]
    y = np.arange(50) % classes
    losses = LOSSES["sparse_categorical_crossentropy"](from_logits=True, reduction="none")(y, x)
    close(losses, special.logsumexp(x, axis=1) - x[np.arange(50), y], "value")


# -- scikit-learn --------------------------------------------------------------------------------------------


@every_loss
def test_scikit_learn_kernels(loss):
    """`sklearn._loss`, named by ``peers.scikit_learn``: value, gradient and, where it is exact there, Hessian."""
    y, p = plain(loss, (60, 5) if is_rowwise(loss) else (300,), np.random.default_rng(22))
    found = kernel_of(loss, p.shape[-1])
    if found is None:
        pytest.skip("scikit-learn has no such loss, or not with these parameters")
    kernel, factor = found
    target = y.astype(np.float64)
    calls = with_reduction(loss, "none")
    ours, theirs = calls.value_grad_and_hess(y, p), kernel.loss(y_true=target, raw_prediction=p)
    if type(kernel).__name__ in WITH_CONSTANTS:  # differences of two values are without
        other = np.full_like(p, 0.75)
        close(ours[0] - calls(y, other), factor * (theirs - kernel.loss(y_true=target, raw_prediction=other)), "value")
    else:
        close(ours[0], factor * theirs, "value")
    gradient, hessian = kernel.gradient_hessian(y_true=target, raw_prediction=p)
    close(ours[1], factor * gradient, "gradient")
    if not kernel.approx_hessian:
        close(ours[2], factor * hessian, "Hessian")


@pytest.mark.parametrize(
    ("name", "metric"),
    [("mean_squared_error", metrics.mean_squared_error), ("mean_absolute_error", metrics.mean_absolute_error)],
)
def test_scikit_learn_metrics(name, metric):
    """Its weighted average is reduction="weighted_mean"."""
    rng = np.random.default_rng(23)
    y, p, weight = rng.normal(size=100), rng.normal(size=100), rng.uniform(0, 2, 100)
    assert LOSSES[name]()(y, p) == pytest.approx(metric(y, p), rel=1e-13)
    assert LOSSES[name](reduction="weighted_mean")(y, p, weight) == pytest.approx(
        metric(y, p, sample_weight=weight), rel=1e-13
    )


def test_scikit_learn_log_loss():
    rng = np.random.default_rng(24)
    p = rng.dirichlet(np.ones(4), 100)
    y, weight = rng.integers(0, 4, 100), rng.uniform(0, 2, 100)
    truth = metrics.log_loss(y, p, sample_weight=weight, labels=range(4))
    options = {"reduction": "weighted_mean"}
    one_hot = np.asarray(np.arange(4) == y[:, None], float)
    assert LOSSES["sparse_categorical_crossentropy"](**options)(y, p, weight) == pytest.approx(truth, rel=1e-12)
    assert LOSSES["categorical_crossentropy"](**options)(one_hot, p, weight) == pytest.approx(truth, rel=1e-12)
    x = special.logit(rng.uniform(0.01, 0.99, 100))
    truth = metrics.log_loss(y > 1, special.expit(x), sample_weight=weight)
    binary = LOSSES["binary_crossentropy"]
    assert binary(**options, from_logits=True)(y > 1, x, weight) == pytest.approx(truth, rel=1e-12)
    assert binary(**options)(y > 1, special.expit(x), weight) == pytest.approx(truth, rel=1e-12)


# -- torch, Keras and optax ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
    return torch


@pytest.fixture(scope="module")
def keras(torch):
    os.environ["KERAS_BACKEND"] = "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras
    assert keras.backend.backend() == "torch", "Keras was imported with another backend"
    before = keras.config.floatx(), keras.config.epsilon()
    keras.config.set_floatx("float64")
    yield keras
    keras.config.set_floatx(before[0])
    keras.config.set_epsilon(before[1])


def ask(expression, loss, y, p, torch, **names):
    """Value per element or row and the gradient of their sum, or None where the peer has no such loss."""
    target, prediction = torch.from_numpy(np.array(y)), torch.from_numpy(np.array(p))
    variable = (target if differentiates_targets(loss) else prediction).requires_grad_()
    names = {**names_of(loss, prediction, "none"), **names}
    result = eval(expression, {**names, "y": target, "p": prediction})
    if result is None:
        return None
    result.sum().backward()
    return result.detach().numpy(), variable.grad.numpy()


def between_slopes(loss, gradient, y, p):
    """Where predictions lie on a kink: whether a gradient is between those on either side, as any slope is as good."""
    step = np.spacing(np.maximum(abs(y), abs(p)))
    sides = [with_reduction(loss, "none").grad(y, p + way * step) for way in (1, -1)]
    margin = 10 * SLOPES * np.maximum(abs(sides[0]), abs(sides[1]))  # of the step itself, too: 2e-9 of p at 1e-7
    return (gradient >= np.minimum(*sides) - margin) & (gradient <= np.maximum(*sides) + margin)


def compare_with(loss, theirs, ours, y, p, what, relative=1e-9, absolute=1e-12, of_slopes=SLOPES):
    """Compare where the peer's result is a number: 0 * inf is NaN to torch and Keras, and 0 to us."""
    keep = np.isfinite(theirs[0]) & counted(loss, y)
    assert (keep | (np.isinf(theirs[0]) & (theirs[0] == ours[0]))).mean() > 0.5
    close(ours[0][keep], theirs[0][keep], f"{what}: value", absolute, relative)
    smooth = keep[:, None] & np.isfinite(theirs[1]) if is_rowwise(loss) else keep & np.isfinite(theirs[1])
    kinks = [] if is_rowwise(loss) or differentiates_targets(loss) else loss.kinks(y)
    near = 0.0 if of_slopes == SLOPES else of_slopes * np.maximum(np.maximum(abs(y), abs(p)), 1e-30)
    on_kink = sum((abs(p - kink) <= near for kink in kinks), np.zeros(p.shape, bool)) > 0
    seen = smooth & on_kink
    if of_slopes == SLOPES and seen.any():
        for gradient in (ours[1], theirs[1]):
            assert between_slopes(loss, gradient[seen], y[seen], p[seen]).all(), f"{what}: gradient on a kink"
    smooth = smooth & ~on_kink
    close(ours[1][smooth], theirs[1][smooth], f"{what}: gradient", absolute, of_slopes)


@pytest.mark.peers
@with_peers
@every_loss
def test_torch(loss, torch):
    if not loss.peers.torch:
        pytest.skip("torch has no such loss")
    for y, p in operands(loss):
        theirs = ask(loss.peers.torch, loss, y, p, torch)
        if theirs is None:
            pytest.skip("torch has no such loss with these parameters")
        compare_with(loss, theirs, with_reduction(loss, "none").value_grad_and_hess(y, p), y, p, "torch")


@pytest.mark.peers
@with_peers
@every_loss
def test_keras(loss, torch, keras):
    if not loss.peers.keras:
        pytest.skip("Keras has no such loss")
    keras.config.set_epsilon(getattr(loss, "epsilon", 1e-7))
    for y, p in operands(loss):
        theirs = ask(loss.peers.keras, loss, y, p, torch, keras=keras)
        if theirs is None:
            pytest.skip("Keras has no such loss with these parameters")
        relative = 1e-9 if is_rowwise(loss) else KERAS_MEAN
        ours = with_reduction(loss, "none").value_grad_and_hess(y, p)
        if loss.name in KERAS_FLOAT32:
            compare_with(loss, theirs, ours, y, p, "Keras", 2e-6, 1e-6, 2e-6)
        else:
            compare_with(loss, theirs, ours, y, p, "Keras", relative)


@pytest.fixture(scope="module")
def optax():
    jax = pytest.importorskip("jax", reason="optax needs jax")
    optax = pytest.importorskip("optax", reason="optax is compared where it is installed")
    with jax.enable_x64(True):
        yield optax


@pytest.mark.peers
@with_peers
@every_loss
def test_optax(loss, optax):
    if not loss.peers.optax:
        pytest.skip("optax has no such loss")
    import jax

    parameters = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}

    def values(y, p):
        return eval(loss.peers.optax, {**parameters, "y": y, "p": p, "jax": jax, "optax": optax})

    def summed(y, p):
        theirs = values(y, p)
        return theirs.sum(), theirs

    if values(*next(operands(loss))) is None:
        pytest.skip("optax has no such loss with these parameters")
    slopes = jax.jit(jax.grad(summed, argnums=0 if differentiates_targets(loss) else 1, has_aux=True))
    for y, p in operands(loss):
        gradient, theirs = (np.asarray(result) for result in slopes(y, p))
        ours = with_reduction(loss, "none").value_grad_and_hess(y, p)
        compare_with(loss, (theirs, gradient), ours, y, p, "optax")


@pytest.mark.peers
@with_peers
def test_reductions_of_torch(torch):
    """torch's mean: ours, and with class weights our weighted mean; ignored rows count for neither."""
    rng = np.random.default_rng(25)
    x, y, weight = rng.normal(size=(50, 4)), rng.integers(0, 4, 50), (0.5, 2.0, 0.0, 3.0)
    y[::5] = -100
    cross_entropy = torch.nn.functional.cross_entropy
    for reduction, options in (("mean", {}), ("sum", {}), ("mean", {"weight": weight})):
        prediction = torch.from_numpy(x.copy()).requires_grad_()
        given = {"weight": torch.tensor(weight, dtype=torch.float64)} if options else {}
        theirs = cross_entropy(prediction, torch.from_numpy(y), reduction=reduction, **given)
        theirs.backward()
        loss = LOSSES["sparse_categorical_crossentropy"](
            from_logits=True,
            ignore_class=-100,
            class_weight=options.get("weight"),
            reduction="weighted_mean" if options else reduction,
        )
        value, grad = loss.value_and_grad(y, x)
        assert value == pytest.approx(theirs.item(), rel=1e-13)
        close(grad, prediction.grad.numpy(), "gradient")


@pytest.mark.peers
@with_peers
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum", "mean_with_sample_weight", "none"])
def test_reductions_of_keras(reduction, keras):
    """Weights of the losses' full shape: there Keras divides by the right sum. Its losses average the last axis."""
    rng = np.random.default_rng(26)
    y, p, weight = rng.normal(size=(6, 3, 1)), rng.normal(size=(6, 3, 1)), rng.uniform(0, 2, (6, 3))
    for name, peer in (("MeanSquaredError", keras.losses.MeanSquaredError), ("Huber", keras.losses.Huber)):
        theirs = peer(reduction=reduction)(y, p, sample_weight=weight).numpy()
        loss = next(cls for cls in LOSSES.values() if cls.__name__ == name)(reduction=reduction)
        ours = loss(y[..., 0], p[..., 0], weight)
        close(np.asarray(ours), theirs, f"{name}, {reduction}", relative=KERAS_MEAN)


# -- coverage ------------------------------------------------------------------------------------------------


def test_every_loss_has_an_oracle_of_its_own():
    """One that is always asked, and one more in the run with peers."""
    for name, cls in LOSSES.items():
        assert name in SCIPY or cls.peers.scikit_learn, name
        assert cls.peers.torch or cls.peers.keras or cls.peers.optax, name


def test_operands_reach_what_peers_get_wrong():
    """Logits at which torch's and Keras' tails are lost are among those compared (to absolute accuracy there)."""
    loss = LOSSES["binary_crossentropy"](from_logits=True)
    assert any((abs(p) >= 30).any() for _, p in operands(loss))
    assert not takes_probabilities(loss)
    assert is_indexed(LOSSES["sparse_categorical_crossentropy"])
