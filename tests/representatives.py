"""Which losses stand for all others in the tests of sweeps.

Formulas and sweeps are independent: a sweep knows no loss, and a formula no type, layout, size, weight or thread. So
what a loss *is* (examples, accuracy, derivatives, kinks, extremes, peers) is tested for every one of `LOSSES`, with few
kernels; and how memory is *swept* (types, layouts, sizes, reductions, weights, masks, threads, bad input, random
calls, the kernel cache) with `REPRESENTATIVES`: one formula of each shape, a shape being all that a sweep sees of one.
"""

from __future__ import annotations

import inspect
import pathlib
import zlib

import fastloss as fl

#: Every loss of the package, by name; tests may define more, which are not meant here.
EVERY_LOSS = {name: cls for name, cls in fl.losses.registry().items() if cls.__module__.startswith("fastloss.")}
#: Those of a target and a prediction. Families whose calls take something else have modules of their own.
HERE = pathlib.Path(__file__).parent
LOSSES = {name: cls for name, cls in EVERY_LOSS.items() if not (HERE / f"test_{cls.family}.py").exists()}

#: Configurations whose formulas go through all tests of sweeps, whatever shapes there are.
THOROUGH = {
    "binary_crossentropy": [{}, {"from_logits": True}],
    "huber": [{}],
    "mean_absolute_error": [{}],
    "mean_squared_error": [{}],
    "categorical_crossentropy": [{}, {"from_logits": True}],
    "sparse_categorical_crossentropy": [
        *({}, {"from_logits": True}),
        *({"label_smoothing": 0.125}, {"from_logits": True, "label_smoothing": 0.125}),
    ],
}


def formulas_of(cls):
    """The formulas of a loss, by the labels that `variant` gives."""
    return cls.row_formulas() if hasattr(cls, "row_formulas") else cls.formulas()


def shape_of(cls, label):
    """What a sweep sees of one formula of a loss: which pieces it has, what is kept, what it is computed in."""
    formula = formulas_of(cls)[label]
    if callable(formula):
        return (cls.family, "parameters" if len(inspect.signature(formula).parameters) > 2 else "no parameters")
    pieces = {name: value if isinstance(value, str) else bool(value) for name, value in formula._asdict().items()}
    named = [f"{name}: {value}" for name, value in pieces.items() if value]
    kept = "keeps a number per element" if formula.keeps else "keeps nothing"
    return (cls.family, "labels" if cls.indexed else "dense", *named, kept, formula.computing("float32"))


def shapes_of(losses):
    """A list of (name, label, shape), one for each formula of some losses."""
    return [(name, label, shape_of(cls, label)) for name, cls in sorted(losses.items()) for label in formulas_of(cls)]


def representatives(losses):
    """The labels of the formulas that stand for their shapes, by the loss's name."""
    chosen = {
        name: {losses[name](**given).variant(): None for given in configured} for name, configured in THOROUGH.items()
    }
    seen = {shape for name, label, shape in shapes_of(losses) if label in chosen.get(name, ())}
    for name, label, shape in shapes_of(losses):
        if shape not in seen:
            chosen.setdefault(name, {})[label] = None
            seen.add(shape)
    return {name: tuple(labels) for name, labels in chosen.items()}


#: Labels of the formulas that sweeps are tested with, by the loss's name.
REPRESENTATIVES = representatives(LOSSES)


def represents(loss):
    """Whether sweeps are tested with the formula of a configured loss."""
    return loss.variant() in REPRESENTATIVES.get(loss.name, ())


def turn(text, turns):
    """One of some things for a text: the same one in every run, all about equally often."""
    return turns[zlib.crc32(text.encode()) % len(turns)]
