"""Losses of several predictions under test, and operands for them."""

from __future__ import annotations

import numpy as np
import pytest
from representatives import EVERY_LOSS
from sampling import DTYPES, configurations, drawn, label_of, variants, watch

from fastloss import reference
from fastloss.families.representatives import representatives

#: Every loss of the family by name, and one configuration for each formula.
LOSSES = {name: cls for name, cls in EVERY_LOSS.items() if cls.family == "pairwise"}
CONFIGURATIONS = [loss for cls in LOSSES.values() for loss in configurations(cls)]
VARIANTS = [loss for cls in LOSSES.values() for loss in variants(cls)]
#: One for each shape that a formula can have: the sweeps see no more of it.
SWEPT = [loss for loss in VARIANTS if loss.variant() in representatives(LOSSES).get(loss.name, ())]
#: One by elements and one by rows, for what is not a formula's business at all.
ONE_OF_EACH = list({loss.unit: loss for loss in SWEPT}.values())
#: What types are tried with: float32 and by elements all; the others with one or the other formula by rows.
TYPES = [
    pytest.param(loss, dtype, id=f"{label_of(loss)}-{dtype}")
    for number, loss in enumerate(SWEPT)
    for turn, dtype in enumerate(DTYPES)
    if dtype == "float32" or loss.unit == "element" or (turn + number // 2) % 2
]


def loss_shape(loss, shape):
    """Shape of the losses for predictions of a shape."""
    return shape[:-1] if loss.unit == "row" else shape


def evaluate(loss, *given, **options):
    """The reference's results for the operands of a call."""
    return reference.evaluate(loss, *loss.parted(given), **options)


def random(loss, shape, rng):
    """Random well-conditioned operands in float64, in the order of a call."""
    shapes = {"y_true": loss_shape(loss, shape)}
    kinds = zip(loss.operands, loss.domain(), strict=True)
    return [drawn(numbers, shapes.get(name, shape), rng) for name, numbers in kinds]


def operands(loss, shape, dtype="float64", seed=0, margin=1e-4):
    """Such operands in a dtype, none of them so near a kink that float32 and float64 could differ about it."""
    rng = np.random.default_rng(seed)
    given = [array.astype(DTYPES[dtype]) for array in random(loss, shape, rng)]
    for _ in range(1000):
        near = near_kink(loss, [array.astype(np.float64) for array in given], margin)
        if not near.any():
            return given
        other = [array.astype(DTYPES[dtype]) for array in random(loss, shape, rng)]
        for array, new in zip(given, other, strict=True):
            array[near] = new[near]
    raise AssertionError(loss)


def near_kink(loss, given, margin):
    """Losses at which a comparison would come out otherwise within a margin; numbers that are equal do not count."""
    near = np.zeros(given[-1].shape, bool)
    for difference in watch(loss, *loss.parted(given)).values():
        near |= (difference != 0.0) & (abs(difference) < margin)
    return near.any(axis=-1) if loss.unit == "row" else near


def flat(results):
    """Value, gradients and Hessians as one list; of a call, those that it gives."""
    results = results if isinstance(results, tuple | list) else (results,)
    return [array for part in results for array in (part if isinstance(part, tuple | list) else (part,))]


def same(results, expected):
    """To the bit."""
    for result, right in zip(flat(results), flat(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(result, np.float64), np.asarray(right, np.float64))
