"""Training by mini-batch gradient descent, with a clock around the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import Data
from .losses_numpy import Floats
from .network import Network

LossAndGradient = Callable[[NDArray[Any], Floats], tuple[float, Floats]]
MOMENTUM = 0.9


@dataclass
class Training:
    """One training run, and what it measured.

    Two trainings with the same sizes and seed start from the same weights and see the same batches, so that
    they can differ by their loss only.

    Attributes
    ----------
    data : Data
        What to learn.
    value_and_grad : callable
        (targets, predictions) -> (mean loss, gradient in the predictions).
    sizes : sequence of int
        Widths of the network's layers.
    batch : int
        Rows of a batch; an incomplete last batch is left out.
    rate : float
        Step length.
    seed : int
        Seed of the first weights and of the order of the rows.
    losses : list of float
        Training loss of every step.
    loss_seconds : list of float
        Time of every call of the loss.
    seconds : float
        Time of all training, loss included.
    """

    data: Data
    value_and_grad: LossAndGradient
    sizes: Sequence[int]
    batch: int
    rate: float
    seed: int
    losses: list[float] = field(default_factory=list)
    loss_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Draw the first weights."""
        self.generator = np.random.default_rng(self.seed)
        self.network = Network(self.sizes, self.generator)

    @property
    def steps_per_epoch(self) -> int:
        """Number of complete batches."""
        return len(self.data.train_inputs) // self.batch

    @property
    def microseconds_per_call(self) -> float:
        """Median time of one call of the loss."""
        return 1e6 * median(self.loss_seconds)

    @property
    def loss_share(self) -> float:
        """Part of the training time that was spent in the loss."""
        return sum(self.loss_seconds) / self.seconds

    def run_epoch(self) -> None:
        """Go once through the training rows, in a fresh order."""
        start = perf_counter()
        order = self.generator.permutation(len(self.data.train_inputs))
        for step in range(self.steps_per_epoch):
            self._run_step(order[step * self.batch : (step + 1) * self.batch])
        self.seconds += perf_counter() - start

    def _run_step(self, rows: NDArray[np.int64]) -> None:
        targets = self.data.train_targets[rows]
        signals = self.network.forward(self.data.train_inputs[rows])
        start = perf_counter()
        value, gradient = self.value_and_grad(targets, signals[-1])
        self.loss_seconds.append(perf_counter() - start)
        self.losses.append(value)
        self.network.descend(signals, gradient, self.rate, MOMENTUM)

    def epoch_losses(self) -> Floats:
        """Compute the mean training loss of each epoch."""
        means: Floats = np.reshape(self.losses, (-1, self.steps_per_epoch)).mean(axis=1)
        return means

    def test_predictions(self) -> Floats:
        """Compute the network's output for the test rows."""
        return self.network.forward(self.data.test_inputs)[-1]


def largest_difference(first: Training, second: Training) -> float:
    """Compare the curves of two trainings, step by step."""
    return float(np.max(np.abs(np.subtract(first.losses, second.losses))))
