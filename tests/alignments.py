"""Connectionist temporal classification, twice more: alignment by alignment, and at 50 digits however long.

The first has nothing in common with kernels and reference but the definition; the second, checked against the first,
is a sum of products of mpmath numbers, which no exponent is too small for.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import mpmath
import numpy as np
from mpmath import mp

mp.dps = 50


class Results(NamedTuple):
    """A sequence's loss, gradient and Hessian; and each class's probability and occupancy; mpmath numbers."""

    loss: object
    grad: np.ndarray
    hess: np.ndarray
    probability: np.ndarray
    occupancy: np.ndarray


def probabilities(x, from_logits):
    """Those of every frame, shape (T, C)."""
    rows = [[mpmath.exp(mpmath.mpf(float(number))) for number in row] for row in x]
    return [[p / sum(row) for p in row] for row in rows] if from_logits else rows


def collapsed(alignment, blank):
    """What an alignment stands for: repeated classes become one, blanks none."""
    return tuple(number for number, _ in itertools.groupby(alignment) if number != blank)


def by_enumeration(x, label, blank=0, from_logits=True):
    """All classes ** frames alignments, one by one."""
    p, label = probabilities(x, from_logits), tuple(int(number) for number in label)
    frames, classes = np.shape(x)
    total, occupancy = mpmath.mpf(0), [[mpmath.mpf(0)] * classes for _ in range(frames)]
    for alignment in itertools.product(range(classes), repeat=frames):
        if collapsed(alignment, blank) == label:
            product = mpmath.fprod(p[t][number] for t, number in enumerate(alignment))
            total += product
            for t, number in enumerate(alignment):
                occupancy[t][number] += product
    return _results(p, total, occupancy, classes, from_logits)


def exact(x, label, blank=0, from_logits=True):
    """By sums over beginnings and endings."""
    p = probabilities(x, from_logits)
    frames, classes = np.shape(x)
    states = [blank]
    for number in label:
        states += [int(number), blank]
    moves = [  # (from, to)
        (state - step, state)
        for state in range(len(states))
        for step in range(3)
        if step <= state and (step < 2 or (states[state] != blank and states[state] != states[state - 2]))
    ]
    before = [[mpmath.mpf(0)] * len(states) for _ in range(frames + 1)]
    after = [[mpmath.mpf(0)] * len(states) for _ in range(frames + 1)]
    before[0][0] = mpmath.mpf(1)
    for state in range(max(0, len(states) - 2), len(states)):
        after[frames][state] = mpmath.mpf(1)
    for t in range(frames):
        for source, state in moves:
            before[t + 1][state] += before[t][source] * p[t][states[state]]
    for t in range(frames, 0, -1):
        for source, state in moves:
            after[t - 1][source] += after[t][state] * p[t - 1][states[state]]
    total = sum(before[frames][-2:])
    occupancy = [[mpmath.mpf(0)] * classes for _ in range(frames)]
    for t in range(frames):
        for state, number in enumerate(states):
            occupancy[t][number] += before[t + 1][state] * after[t + 1][state]
    return _results(p, total, occupancy, classes, from_logits)


def _results(p, total, occupancy, classes, from_logits):
    p = np.array(p, object).reshape(len(p), classes)
    if not total:
        nothing = np.full(p.shape, mpmath.mpf(0), object)
        return Results(mpmath.inf, nothing, nothing, p, nothing)
    share = np.array(occupancy, object).reshape(p.shape) / total
    own = p if from_logits else 0 * p
    return Results(-mpmath.log(total), own - share, own * (1 - own) - share * (1 - share), p, share)


def as_float(numbers):
    """mpmath numbers as float64."""
    return np.array([float(number) for number in np.ravel(numbers)]).reshape(np.shape(numbers))


# -- how far a kernel may be off -----------------------------------------------------------------------------------

#: Roundings of a float64 likelihood at each frame: two sums, the product, and 1 ulp of each class's exponential; from
#: the label's beginning, from its end, and of their sum.
AT_A_FRAME = 3 * 5
#: Of a softmax's exponential (1 ulp), sum (a tree of lanes), quotient, difference, scale and the stored result.
OF_A_SOFTMAX = 8


def allowed(right, dtype, from_logits=True):
    """Bounds of the errors of loss, gradient and Hessian, by the number of roundings on the way.

    A logit's distance from the frame's largest is rounded too, and its exponential is off by as much as that is.
    """
    unit, smallest = float(np.finfo(dtype).eps) / 2, float(np.finfo(dtype).smallest_subnormal)
    classes = right.probability.shape[1]
    p, occupancy, loss = as_float(right.probability), as_float(right.occupancy), float(right.loss)
    with np.errstate(divide="ignore"):
        depth = np.where(p > 0.0, -np.log(p), 0.0) if from_logits else np.zeros(p.shape)
    certain = p.max(axis=1, initial=0.0)
    needed = occupancy > 0.0
    likelihood = 2.0**-53 * np.sum(AT_A_FRAME + 3 * np.where(needed, depth, 0.0).max(axis=1, initial=0.0))
    softmax = (OF_A_SOFTMAX + classes / 8 + np.log(classes) + depth) * unit
    below = np.sum(1.0 - certain) * (OF_A_SOFTMAX + classes / 8 + np.log(classes)) * unit if from_logits else 0.0
    of_loss = likelihood + below + 2 * unit * (abs(loss) if loss < np.inf else 0.0)
    # Where something is nearly 1, its distance from 1 is what is known as well as that.
    near, apart = (np.minimum(numbers, 1.0 - numbers) for numbers in (p, occupancy))
    of_grad = (softmax * near if from_logits else likelihood * occupancy) + likelihood * apart
    of_grad += OF_A_SOFTMAX * 2.0**-53 * occupancy + 2 * unit * abs(as_float(right.grad)) + smallest
    of_hess = 2 * of_grad + 4 * unit * abs(as_float(right.hess)) + smallest
    return of_loss, of_grad, of_hess
