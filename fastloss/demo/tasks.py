"""What the demo trains: data, model, loss and goal of each of its three tasks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import BinaryCrossentropy, Huber, SparseCategoricalCrossentropy
from . import losses_numpy
from .data import Data, breast_cancer, diabetes, digits
from .losses_numpy import Floats
from .train import LossAndGradient, Training

SEED = 0


@dataclass(frozen=True)
class Task:
    """One thing to learn, the same way with two implementations of its loss.

    Attributes
    ----------
    name, model, loss_name : str
        The data set, what is trained on it and with which loss, in words.
    unit : str
        What the score is; an accuracy is better when higher, an error when lower.
    data : Data
        The data set.
    fast, plain : callable
        The loss by fastloss and by plain NumPy.
    score : callable
        (data, predictions for the test rows) -> score.
    goal : float
        The score to reach.
    hidden : tuple of int
        Widths of the hidden layers.
    batch, epochs : int
        Rows of a batch, and how often to go through the data.
    rate : float
        Step length.
    """

    name: str
    model: str
    loss_name: str
    unit: str
    data: Data
    fast: LossAndGradient
    plain: LossAndGradient
    score: Callable[[Data, Floats], float]
    goal: float
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    rate: float

    @property
    def is_accuracy(self) -> bool:
        """Whether a higher score is better."""
        return self.unit == "accuracy"

    def reached(self, score: float) -> bool:
        """Tell whether the score is as good as the goal."""
        return score >= self.goal if self.is_accuracy else score <= self.goal

    def in_words(self, score: float) -> str:
        """Write a score."""
        return f"{100 * score:.1f} %" if self.is_accuracy else f"{score:.1f}"

    def goal_in_words(self) -> str:
        """Write the goal."""
        return f">= {100 * self.goal:.0f} %" if self.is_accuracy else f"beat the mean: {self.goal:.1f}"

    def training(self, loss: LossAndGradient) -> Training:
        """Prepare a training with this loss."""
        data = self.data
        outputs = int(data.train_targets.max()) + 1 if data.train_targets.ndim == 1 else 1
        sizes = (data.train_inputs.shape[1], *self.hidden, outputs)
        return Training(data, loss, sizes, self.batch, self.rate, SEED)


def in_place(loss: Any) -> LossAndGradient:
    """Let a fastloss loss write the gradient over the predictions, which the training needs no longer."""

    def value_and_grad(targets: Any, predictions: Floats) -> tuple[float, Floats]:
        value, gradient = loss.value_and_grad(targets, predictions, out=predictions)
        return value, gradient

    return value_and_grad


def label_accuracy(data: Data, logits: Floats) -> float:
    """Compute the share of rows whose largest logit is that of their label."""
    return float(np.mean(logits.argmax(axis=1) == data.test_targets))


def sign_accuracy(data: Data, logits: Floats) -> float:
    """Compute the share of rows whose log-odds have the right sign."""
    return float(np.mean((logits > 0.0) == (data.test_targets > 0.5)))


def median_error(data: Data, predictions: Floats) -> float:
    """Compute the median absolute error, in the data set's own unit."""
    return float(np.median(np.abs(predictions - data.test_targets))) * data.target_scale


def digits_task(*, quick: bool) -> Task:
    """Prepare a network with one hidden layer for the handwritten digits."""
    return Task(
        name="digits",
        model="MLP 64-128-10",
        loss_name="sparse softmax cross-entropy",
        unit="accuracy",
        data=digits(),
        fast=in_place(SparseCategoricalCrossentropy(from_logits=True)),
        plain=losses_numpy.softmax_crossentropy,
        score=label_accuracy,
        goal=0.96,
        hidden=(128,),
        batch=32,
        epochs=20 if quick else 60,
        rate=0.1,
    )


def breast_cancer_task(*, quick: bool) -> Task:
    """Prepare logistic regression for the tumours."""
    data = breast_cancer()
    return Task(
        name="breast_cancer",
        model="logistic regression",
        loss_name="binary cross-entropy",
        unit="accuracy",
        data=data,
        fast=in_place(BinaryCrossentropy(from_logits=True)),
        plain=losses_numpy.binary_crossentropy,
        score=sign_accuracy,
        goal=0.95,
        hidden=(),
        batch=len(data.train_inputs),
        epochs=100 if quick else 400,
        rate=0.05,
    )


def diabetes_task(*, quick: bool) -> Task:
    """Prepare robust linear regression for the diabetes patients; the goal is to beat predicting the mean."""
    data = diabetes()
    predicting_the_mean = median_error(data, np.zeros_like(data.test_targets))
    return Task(
        name="diabetes",
        model="linear regression",
        loss_name="Huber",
        unit="median abs. error",
        data=data,
        fast=in_place(Huber(delta=1.0)),
        plain=losses_numpy.huber,
        score=median_error,
        goal=predicting_the_mean,
        hidden=(),
        batch=len(data.train_inputs),
        epochs=100 if quick else 400,
        rate=0.01,
    )


def all_tasks(*, quick: bool) -> list[Task]:
    """Prepare the demo's tasks; the quick ones reach the same goals with fewer epochs."""
    return [prepare(quick=quick) for prepare in (digits_task, breast_cancer_task, diabetes_task)]
