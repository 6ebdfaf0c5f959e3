"""Connectionist temporal classification in slow, obvious float64 NumPy: the reference of its kernels.

A label of L classes has 2 L + 1 states: a blank before, between and after its classes. An alignment visits them in
order, one a frame: it starts in one of the first two, ends in one of the last two, and from frame to frame it stays,
goes one state on, or leaves out a blank between two different classes (Graves et al. 2006,
doi:10.1145/1143844.1143891).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


class Targets(NamedTuple):
    """What a sequence loss is asked for: labels, shape (..., L), and how much of labels and predictions counts.

    Lengths have the shape (...). None: labels count up to the first that is the blank or negative, frames all.
    """

    labels: Any
    label_length: Any = None
    logit_length: Any = None


def is_padding(labels: Array, blank: int) -> Array:
    """Where labels are none: the blank, or a negative number."""
    padding: Array = (labels < 0) | (labels == blank)
    return padding


def lengths_of(labels: Array, blank: int) -> Array:
    """How many labels stand before the first padding; shape (...)."""
    before = np.logical_and.accumulate(~is_padding(labels, blank), axis=-1)
    lengths: Array = before.sum(axis=-1, dtype=np.int64)
    return lengths


def states_of(label: Any, blank: int) -> Array:
    """The class of every state."""
    states = np.full(2 * len(label) + 1, blank)
    states[1::2] = label
    return states


def arriving(likelihoods: Array, states: Array, blank: int) -> Array:
    """Add up, for each state, those of the states that an alignment may come from; all are logarithms."""
    padded, before = np.concatenate([[-np.inf, -np.inf], likelihoods]), np.concatenate([[blank, blank], states])
    may_skip = (states != blank) & (states != before[:-2])
    skipping = np.where(may_skip, padded[:-2], -np.inf)
    together: Array = np.logaddexp(np.logaddexp(likelihoods, padded[1:-1]), skipping)
    return together


def likelihood(log_probabilities: Array, label: Any, blank: int) -> tuple[float, Array]:
    """Log-likelihood of a label, and how likely each class is at each frame given the label.

    Parameters
    ----------
    log_probabilities
        Shape (T, C).
    label
        Its class numbers, without padding.
    blank
        The number of the class that stands for none.

    Returns
    -------
    tuple
        The logarithm, -inf if no alignment is possible; and the occupancies, shape (T, C), then 0.
    """
    frames, classes = log_probabilities.shape
    states = states_of(label, blank)
    emitted = log_probabilities[:, states]
    before = np.full((frames + 1, len(states)), -np.inf)  # of all beginnings that end in a state, t frames long
    before[0, 0] = 0.0
    for t in range(frames):
        before[t + 1] = arriving(before[t], states, blank) + emitted[t]
    after = np.full((frames + 1, len(states)), -np.inf)  # of all endings that go on from a state after t frames
    after[frames, -2:] = 0.0
    for t in range(frames, 0, -1):  # the same backwards: an ending is a beginning of the label read from its end
        after[t - 1] = arriving((after[t] + emitted[t - 1])[::-1], states[::-1], blank)[::-1]
    total = float(np.logaddexp.reduce(before[frames, -2:]))
    occupancy = np.zeros((frames, classes))
    if total > -np.inf:
        for state, number in enumerate(states):
            occupancy[:, number] += np.exp(before[1:, state] + after[1:, state] - total)
    return total, occupancy
