"""The three losses of the demo in plain NumPy: the code that fastloss is measured against.

This is what a careful user writes: stable for every finite input, each exponential taken once, temporaries
reused where that stays readable. Every function returns the mean loss and its gradient in the predictions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def softmax_crossentropy(labels: Labels, logits: Floats) -> tuple[float, Floats]:
    """Sparse softmax cross-entropy from logits.

    Parameters
    ----------
    labels : ndarray of int64, shape (rows,)
        The true class of each row.
    logits : ndarray of float64, shape (rows, classes)
        Unnormalised log-probabilities.

    Returns
    -------
    value : float
        Mean loss.
    gradient : ndarray, shape (rows, classes)
        Gradient of the mean loss.
    """
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    true_logits = shifted[rows, labels]
    gradient = np.exp(shifted, out=shifted)
    sums = gradient.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - true_logits)
    gradient /= sums
    gradient[rows, labels] -= 1.0
    gradient /= len(labels)
    return float(value), gradient


def binary_crossentropy(targets: Floats, logits: Floats) -> tuple[float, Floats]:
    """Binary cross-entropy from logits.

    Parameters
    ----------
    targets, logits : ndarray of float64, equal shapes
        Targets in {0, 1} and log-odds.

    Returns
    -------
    value : float
        Mean loss.
    gradient : ndarray
        Gradient of the mean loss, shaped as `logits`.
    """
    decay = np.exp(-np.abs(logits))  # in (0, 1]: cannot overflow
    value = np.mean(np.maximum(logits, 0.0) - logits * targets + np.log1p(decay))
    gradient = np.where(logits >= 0.0, 1.0, decay) / (1.0 + decay)
    gradient -= targets
    gradient /= logits.size
    return float(value), gradient


def huber(targets: Floats, predictions: Floats, delta: float = 1.0) -> tuple[float, Floats]:
    """Huber loss.

    Parameters
    ----------
    targets, predictions : ndarray of float64, equal shapes
        What should and what did come out.
    delta : float
        Where the loss turns from quadratic to linear.

    Returns
    -------
    value : float
        Mean loss.
    gradient : ndarray
        Gradient of the mean loss, shaped as `predictions`.
    """
    residuals = predictions - targets
    gradient = np.clip(residuals, -delta, delta)
    value = np.mean(gradient * (residuals - 0.5 * gradient))  # both branches of the definition in one
    gradient /= residuals.size
    return float(value), gradient
