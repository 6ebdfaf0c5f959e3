"""The real data of the demo: three sets that scikit-learn carries, split and scaled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

from .losses_numpy import Floats

SPLIT_SEED = 0
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Data:
    """One data set, ready to train on.

    Attributes
    ----------
    train_inputs, test_inputs : ndarray of float64, shape (rows, features)
        Inputs, scaled with the training rows' statistics.
    train_targets, test_targets : ndarray
        Labels of shape (rows,) or numbers of shape (rows, 1).
    target_scale : float
        What one unit of the targets is in the data set's own unit.
    """

    train_inputs: Floats
    test_inputs: Floats
    train_targets: NDArray[Any]
    test_targets: NDArray[Any]
    target_scale: float = 1.0


def _split(load: Callable[..., Any], *, stratified: bool) -> tuple[NDArray[Any], ...]:
    inputs, targets = load(return_X_y=True)
    parts = train_test_split(
        inputs.astype(np.float64),
        targets,
        test_size=TEST_SHARE,
        random_state=SPLIT_SEED,
        stratify=targets if stratified else None,
    )
    return tuple(np.ascontiguousarray(part) for part in parts)


def _standardised(train: Floats, test: Floats) -> tuple[Floats, Floats]:
    center, scale = train.mean(axis=0), train.std(axis=0)
    return (train - center) / scale, (test - center) / scale


def digits() -> Data:
    """Load 1797 handwritten digits of 8 x 8 pixels, 10 classes."""
    train, test, train_labels, test_labels = _split(load_digits, stratified=True)
    return Data(train / 16.0, test / 16.0, train_labels.astype(np.int64), test_labels.astype(np.int64))


def breast_cancer() -> Data:
    """Load 569 tumours with 30 measured features, benign (1) or malignant (0)."""
    train, test, train_labels, test_labels = _split(load_breast_cancer, stratified=True)
    targets = [labels.astype(np.float64)[:, None] for labels in (train_labels, test_labels)]
    return Data(*_standardised(train, test), targets[0], targets[1])


def diabetes() -> Data:
    """Load 442 patients with 10 features and the progression of their disease after a year."""
    train, test, train_numbers, test_numbers = _split(load_diabetes, stratified=False)
    targets = _standardised(train_numbers[:, None], test_numbers[:, None])
    return Data(*_standardised(train, test), *targets, target_scale=float(train_numbers.std()))
