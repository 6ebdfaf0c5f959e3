"""By-products of a row: what a pass over it finds besides its loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Stats(NamedTuple):
    """What calls with ``stats=True`` return last: NumPy arrays and integers, or CuPy arrays.

    A row counts unless a mask or ``ignore_class`` leaves it out, whatever its weight. Where nothing is left to average
    and the value is 0, none does.

    Attributes
    ----------
    log_sum_exp
        Of each row's logits, after softcap and temperature; of probabilities the logarithm of their sum, which is that
        of their logarithms. float32 (float64 for float64 predictions); 0 where the row does not count.
    argmax
        The class of each row's largest prediction, the first of several; -1 where the row does not count, its
        log_sum_exp is NaN, or all of it is -inf.
    correct
        How many rows have their argmax at the true class; with dense targets, at the first of the largest.
    valid
        How many rows count.

    Examples
    --------
    >>> import fastloss as fl
    >>> loss = fl.SparseCategoricalCrossentropy(from_logits=True, stats=True, ignore_class=-1)
    >>> value, gradient, stats = loss.value_and_grad([0, 1, -1], [[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> stats.argmax.tolist(), stats.correct, stats.valid, stats.accuracy
    ([0, 0, -1], 1, 2, 0.5)
    >>> stats.log_sum_exp.round(3).tolist()
    [2.127, 1.313, 0.0]
    """

    log_sum_exp: Any
    argmax: Any
    correct: Any
    valid: Any

    @property
    def accuracy(self) -> Any:
        """The part of the rows that count which is correct; 0 if none counts."""
        return self.correct / (self.valid + (self.valid == 0))


class RowResults(NamedTuple):
    """What kernels write per row where there are by-products: one array, and its parts."""

    memory: Any
    losses: Any
    stats: Stats

    @classmethod
    def zeros(cls, zeros: Callable[..., Any], shape: tuple[int, ...], computing: str) -> RowResults:
        """Those of no row yet; ``zeros`` makes an array. Losses, log_sum_exp; int64: argmax, correct, valid."""
        rows = math.prod(shape)
        words = np.dtype(np.int64).itemsize // np.dtype(computing).itemsize
        memory = zeros((2 * rows + words * (rows + 2),), computing)
        losses, reports, counts = memory[:rows], memory[rows : 2 * rows], memory[2 * rows :].view(np.int64)
        correct, valid = (counts[at : at + 1].reshape(()) for at in (rows, rows + 1))
        stats = Stats(reports.reshape(shape), counts[:rows].reshape(shape), correct, valid)
        return cls(memory, losses.reshape(shape), stats)

    def on_host(self, precision: str) -> Stats:
        """What a call returns for NumPy arrays."""
        stats, correct, valid = self.stats, int(self.stats.correct), int(self.stats.valid)
        return Stats(stats.log_sum_exp.astype(precision, copy=False), stats.argmax, correct, valid)


def nothing_known(shape: tuple[int, ...], precision: str) -> Stats:
    """By-products where no row counts."""
    return Stats(np.zeros(shape, precision), np.full(shape, -1, np.int64), 0, 0)
