"""Which losses stand for all others in the tests of sweeps.

Formulas and sweeps are independent: a sweep knows no loss, and a formula no type, layout, size, weight or thread. So
what a loss *is* (examples, accuracy, derivatives, kinks, extremes, peers) is tested for every one of `LOSSES`, with few
kernels; and how memory is *swept* (types, layouts, sizes, reductions, weights, masks, threads, bad input, random
calls, the kernel cache) with `REPRESENTATIVES`, one formula of each shape (see `fastloss.families.representatives`).
"""

from __future__ import annotations

import pathlib
import zlib

import fastloss as fl
from fastloss.families.representatives import THOROUGH as THOROUGH
from fastloss.families.representatives import representatives

HERE = pathlib.Path(__file__).parent
#: Every loss of the package, by name; tests may define more, which are not meant here.
EVERY_LOSS = {name: cls for name, cls in fl.losses.registry().items() if cls.__module__.startswith("fastloss.")}
#: Those of a target and a prediction. Families whose calls take something else have modules of their own.
LOSSES = {name: cls for name, cls in EVERY_LOSS.items() if not (HERE / f"test_{cls.family}.py").exists()}
#: Labels of the formulas that sweeps are tested with, by the loss's name.
REPRESENTATIVES = representatives(LOSSES)


def represents(loss):
    """Whether sweeps are tested with the formula of a configured loss."""
    return loss.variant() in REPRESENTATIVES.get(loss.name, ())


def turn(text, turns):
    """One of some things for a text: the same one in every run, all about equally often."""
    return turns[zlib.crc32(text.encode()) % len(turns)]
